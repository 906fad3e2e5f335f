"""The pages behind a link to pay: a bill, several at once; the button that leads to the bank, PDF and QR, the offer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, cast

from babel.numbers import format_decimal
from flask import Response, redirect, request, url_for
from flask_babel import gettext as _
from markupsafe import Markup
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from crm import clock
from crm.access.models import Company
from crm.bills.document import bill_pdf, purpose_of
from crm.bills.links import pay_url
from crm.bills.models import Bill, BillBundle, BillStatus
from crm.bills.queries import bill_by_token
from crm.bills.requisites_qr import missing_requisites, qr_svg
from crm.clients.names import discreet_name
from crm.db import LabelEnum, db
from crm.errors import DomainError, NotFound
from crm.i18n import day, money, person_locale, read_money
from crm.ledger.models import AccountKind
from crm.payments.gateways.base import GatewayError, GatewayRefused, KeysRefused
from crm.payments.models import Payment, PaymentStatus
from crm.payments.operations import accept_notice, start_payment
from crm.payments.shops import gateway_of, shop_for
from crm.phones import format_phone
from crm.public.frame import page_in, public_blueprint, render
from crm.public.guessing import note_miss
from crm.public.reading import (
    Payee,
    SeenBill,
    SeenPayment,
    account_title,
    see_bill,
    see_bundle,
    see_lines,
    see_order,
    see_refund_moment,
)

# How often a page that waits for the bank looks again: often at first, then seldom, then not at all.
_EAGER, _PATIENT = (timedelta(minutes=2), 4), (timedelta(hours=1), 30)

LINES_SHOWN = 60  # of how a sum was found; the rest is in the PDF

# Why a bill cannot be paid at all, as check_payable() says it; any other reason is one of this attempt.
_REFUSALS = frozenset({"archived", "paid", "expired", "not_yet", "no_gateway"})

_log = logging.getLogger(__name__)
blueprint = public_blueprint("public", __name__)


@dataclass(frozen=True)
class _Attempt:
    """What became of pressing the button. failure: why it did not work; typed, ticked: what the form had; None: it was
    not sent.
    """

    failure: DomainError
    typed: str | None = None
    ticked: frozenset[int] | None = None


@blueprint.get("/pay/<token>")
def bill_page(token: str) -> str:
    """The bill as its payer sees it, or the bills of a link to several; with ?payment=<id> (back from the bank) also
    what became of that payment.
    """
    bills = _see(token)
    payment_id = request.args.get("payment", type=int)
    order = see_order(bills, payment_id) if payment_id is not None else []
    if any(payment.status is PaymentStatus.PENDING and not payment.is_held for payment in order):
        _ask_bank(order[0])
        bills, order = _see(token), see_order(bills, order[0].id)
    return _page(token, bills, order)


@blueprint.post("/pay/<token>")
def pay(token: str) -> BaseResponse | tuple[str, int]:
    """Start the payment and lead to the bank's form; what cannot be paid says why instead."""
    bundle = db.session.scalar(_standing_bundle(token)) if "\x00" not in token else None
    typed, ticked = None, None
    try:
        if bundle is None:
            bill = bill_by_token(token)
            typed = request.form.get("amount")
            bills, amount = [bill], _read_sum(typed)
        else:
            sent = set(request.form.getlist("bill"))  # texts, of any length
            bills, amount = [bill for bill in bundle.shown_bills if str(bill.id) in sent], None
            ticked = frozenset(bill.id for bill in bills)
            if not bills:
                raise DomainError("nothing_chosen", _("Tick at least one bill."), "bill")
        payment = _start(bills, amount, token, bundle)
    except NotFound:
        raise
    except DomainError as error:
        return _page(token, _see(token), [], _Attempt(error, typed, ticked)), error.status
    except GatewayError as error:
        _log.warning("the payment of /pay/… was not begun: %s", error)
        silent = (
            DomainError("bank_refused", _("The bank did not accept the payment. Please tell the administrator."))
            if isinstance(error, GatewayRefused | KeysRefused)
            else DomainError("bank_silent", _("The bank does not answer. Please try again in a few minutes."))
        )
        return _page(token, _see(token), [], _Attempt(silent, typed, ticked)), 502
    assert payment.confirmation_url is not None
    return redirect(payment.confirmation_url)


@blueprint.get("/pay/<token>/bill.pdf")
def document(token: str) -> Response:
    """The bill to print or to send on."""
    bill = bill_by_token(token)
    headers = {"Content-Disposition": f'inline; filename="{bill.title}.pdf"'}
    return Response(bill_pdf(bill), content_type="application/pdf", headers=headers)


@blueprint.get("/pay/<token>/qr")
def qr_page(token: str) -> str | BaseResponse:
    """The payment QR on a page of its own: drawing it takes longer than the bill's page, and few look at it."""
    bill = bill_by_token(token)
    drawn = qr_svg(bill)
    if drawn is None:
        return redirect(url_for("public.bill_page", token=token), 303)  # which says why there is nothing to pay
    return render("public/qr.html", bill=bill, company=bill.branch.company, drawn=Markup(drawn))  # noqa: S704 - ours


@blueprint.get("/pay/<token>/qr.svg")
def qr(token: str) -> Response | tuple[str, int]:
    """The payment QR as a file."""
    bill = bill_by_token(token)
    drawn = qr_svg(bill)
    if drawn is None:
        return "", 404
    if "xmlns=" not in drawn:
        drawn = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    headers = {"Content-Disposition": f'attachment; filename="{bill.title}-qr.svg"'}
    return Response(drawn, content_type="image/svg+xml", headers=headers)


@blueprint.get("/offer")
def offer() -> str:
    """The offer that stands until a company gives the address of its own."""
    return render("public/offer.html")


@blueprint.get("/robots.txt")
def robots() -> Response:
    """There is nothing here for search engines."""
    return Response("User-agent: *\nDisallow: /\n", content_type="text/plain; charset=utf-8")


@blueprint.errorhandler(NotFound)
def show_missing(_error: NotFound) -> tuple[str, int] | tuple[str, int, dict[str, str]]:
    """The same page for a link that never was, one cut short and one taken back."""
    if (seconds := note_miss(request.remote_addr or "")) is not None:
        text = _("Too many links that lead nowhere were opened from your network. Wait a few minutes and try again.")
        return render("public/missing.html", message=text), 429, {"Retry-After": str(seconds)}
    return render("public/missing.html", message=_("There is no such bill. Check the link.")), 404


# --- reading --------------------------------------------------------------------------------------------------------


def _see(token: str) -> list[SeenBill]:
    """What the link leads to: one bill, or the bills of a bundle. Raises NotFound."""
    bill = see_bill(token)
    if bills := [bill] if bill is not None else see_bundle(token):
        return bills
    raise NotFound("bill_not_found", "")


def _standing_bundle(token: str) -> Any:
    return select(BillBundle).where(BillBundle.token == token, BillBundle.link_revoked_at.is_(None))


def _read_sum(text: str | None) -> Decimal | None:
    """The sum typed; None where the page has no field for it. Raises DomainError beside `amount`."""
    if text is None:
        return None
    try:
        value = read_money(text)
    except ValueError as error:
        raise DomainError("amount_invalid", str(error), "amount") from None
    if value <= 0:
        raise DomainError("amount_invalid", _("Enter a sum above zero."), "amount")
    return value


# --- paying ---------------------------------------------------------------------------------------------------------


def _start(bills: Sequence[Bill], amount: Decimal | None, token: str, bundle: BillBundle | None) -> Payment:
    open_shop = shop_for(bills[0].branch)
    if open_shop is None:
        raise _no_gateway()
    return start_payment(
        bills,
        gateway=open_shop.gateway,
        shop=open_shop.shop,
        return_url=pay_url(token),
        amount=amount,
        bundle=bundle,
    )


def _ask_bank(seen: SeenPayment) -> None:
    """Its notice may be late or lost; the client is here now. Whatever goes wrong leaves the payment as it is."""
    payment = db.session.get(Payment, seen.id)
    if payment is None or payment.gateway is None or payment.external_id is None:
        return
    try:
        accept_notice(gateway_of(payment), payment.external_id)
    except (LookupError, GatewayError, DomainError) as error:
        _log.warning("payment %s: the bank's word could not be taken: %r", seen.id, error)


def _no_gateway() -> DomainError:
    return DomainError("no_gateway", _("Online payment is not connected yet. Please pay at the administrator's desk."))


# --- showing --------------------------------------------------------------------------------------------------------


def _page(token: str, bills: Sequence[SeenBill], order: Sequence[SeenPayment], attempt: _Attempt | None = None) -> str:
    """order: the payments the client has come back from."""
    payee, locale = bills[0].payee, person_locale()
    language = locale.language
    failure = attempt.failure if attempt else None
    shared: dict[str, Any] = {
        "token": token,
        "payee": payee,
        "payer": discreet_name(bills[0].payer),
        **_about(payee, language),
        "offer_url": payee.offer_url or f"{request.script_root}/offer",
        "order": order,
        "paid": sum((payment.amount for payment in order), Decimal(0)),
        "fate": _fate(order),
        "refresh_seconds": _refresh_seconds(order),
        "failure": failure,
    }
    if bills[0].token != token:
        return _bundle_page(bills, attempt, shared)
    bill = bills[0]
    reason = bill.refusal  # asked once: its text is translated each time
    refusal = reason or (None if payee.takes_online else _no_gateway())
    if failure is not None and failure.code in _REFUSALS:
        refusal, shared["failure"] = failure, None
    lines = see_lines(bill)
    if bill.refunded:
        shared["refunded_at"] = see_refund_moment(bill)
    is_free = payee.takes_part_payments or payee.takes_overpayments
    return render(
        "public/bill.html",
        language,
        **shared,
        bill=bill,
        refusal=refusal,
        due=money(bill.due, payee.currency, locale),
        purpose=_purpose(
            *(language, bill.purpose, bill.account_kind, bill.account_type, bill.subscription_id, bill.plan)
        ),
        status=_label(bill.status, language),
        is_payable=refusal is None,
        period=f"{day(bill.period_from, locale)} – {day(bill.period_to, locale)}",
        term=[day(bill.payable_from, locale), day(bill.payable_until, locale)] if bill.payable_until else None,
        is_overdue=refusal is not None and refusal.code == "expired" and bill.status is BillStatus.PENDING,
        lines=lines[:LINES_SHOWN],
        hidden_lines=lines[LINES_SHOWN:],
        has_deposit=bill.has_account and reason is None,
        has_qr=reason is None and _has_qr(payee),
        takes_other_sums=is_free,
        typed=attempt.typed if attempt and attempt.typed is not None else _typed(bill.due) if is_free else "",
    )


def _bundle_page(bills: Sequence[SeenBill], attempt: _Attempt | None, shared: dict[str, Any]) -> str:
    payable = [bill for bill in bills if bill.refusal is None] if shared["payee"].takes_online else []
    standing = {bill.id for bill in bills if bill.refusal is None}
    ticked = attempt.ticked if attempt and attempt.ticked is not None else {bill.id for bill in payable}
    return render(
        "public/bundle.html",
        **shared,
        bills=bills,
        payable={bill.id for bill in payable},
        ticked=ticked,
        is_whole=not payable or ticked >= standing,
        due=sum((bill.due for bill in bills if bill.id in (standing & ticked if payable else standing)), Decimal(0)),
        is_payable=bool(payable),
        refusal=None if shared["payee"].takes_online else _no_gateway(),
    )


def _fate(order: Sequence[SeenPayment]) -> str:
    """What became of an order, in one word for the page: received, refunded, held, waiting, declined; nothing where
    none is asked for.
    """
    statuses = {payment.status for payment in order}
    if order and all(payment.is_refunded for payment in order):
        return "refunded"
    if statuses & {PaymentStatus.SUCCEEDED, PaymentStatus.REVERSED}:
        return "received"
    if PaymentStatus.PENDING in statuses:
        return "held" if any(payment.is_held for payment in order) else "waiting"
    return "declined" if order else ""


def _refresh_seconds(order: Sequence[SeenPayment]) -> int | None:
    """Seconds after which a waiting page loads itself again; None when there is nothing to wait for."""
    if _fate(order) != "waiting":
        return None
    age = clock.now() - order[0].created_at
    return next((seconds for limit, seconds in (_EAGER, _PATIENT) if age < limit), None)


@cache
def _label(value: LabelEnum, language: str) -> str:
    return str(value.label)


@lru_cache(500)
def _purpose(_language: str, purpose: str, kind: AccountKind, *account: Any) -> str:
    """As SeenBill.purpose_shown, translated once."""
    return purpose_of(purpose, kind, lambda: account_title(kind, *account))


def _typed(amount: Decimal) -> str:
    return str(format_decimal(amount, "0.00", locale=person_locale()))


@lru_cache(500)
def _about(payee: Payee, language: str) -> dict[str, Markup]:
    """What the pages of all bills of a payee say alike, in a language."""
    phone = format_phone(payee.phone) if payee.phone else ""
    parts = page_in(language).get_template("public/payee.html").make_module({"payee": payee, "phone": phone})
    return {name: getattr(parts, name)() for name in ("top", "requisites", "contacts")}


@lru_cache(500)
def _has_qr(payee: Payee) -> bool:
    return not missing_requisites(cast(Company, payee))
