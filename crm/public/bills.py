"""The page of a bill, the button that leads to the bank, and the offer."""

from __future__ import annotations

import logging
from datetime import timedelta

from flask import redirect, render_template, request
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from crm import clock
from crm.bills.links import bill_url
from crm.bills.models import Bill
from crm.bills.operations import check_payable
from crm.bills.queries import bill_by_token
from crm.clients.names import discreet_name
from crm.errors import DomainError, NotFound
from crm.payments.gateways.base import GatewayError
from crm.payments.models import Payment, PaymentStatus
from crm.payments.operations import accept_notice, start_payment
from crm.payments.queries import payment_of_bill
from crm.payments.shops import gateway_of, shop_for
from crm.phones import format_phone
from crm.public.frame import public_blueprint

# How often a page that waits for the bank looks again: often at first, then seldom, then not at all.
_EAGER, _PATIENT = (timedelta(minutes=2), 4), (timedelta(hours=1), 30)

_log = logging.getLogger(__name__)
blueprint = public_blueprint("public", __name__)


@blueprint.get("/pay/<token>")
def bill_page(token: str) -> str:
    """The bill as its payer sees it; with ?payment=<id> (back from the bank) also what became of that payment."""
    bill = bill_by_token(token)
    payment = payment_of_bill(bill, request.args.get("payment", type=int))
    if payment is not None and payment.status is PaymentStatus.PENDING:
        _ask_bank(payment)
    return _render(bill, payment=payment)


@blueprint.post("/pay/<token>")
def pay(token: str) -> Response | tuple[str, int]:
    """Start the payment and lead to the bank's form; a bill that cannot be paid says why instead."""
    bill = bill_by_token(token)
    open_shop = shop_for(bill.branch)
    if open_shop is None:
        refusal = _no_gateway()
        return _render(bill, refusal=refusal), refusal.status
    gateway = open_shop.gateway
    try:
        payment = start_payment(bill, gateway=gateway, return_url=bill_url(bill))
        assert payment.confirmation_url is not None
        return redirect(payment.confirmation_url)
    except DomainError as error:
        return _render(bill, refusal=error), error.status
    except GatewayError as error:
        _log.warning("gateway %s: payment of bill %s not started: %s", gateway.name, bill.id, error)
        silent = DomainError("bank_silent", _("The bank does not answer. Please try again in a few minutes."))
        return _render(bill, failure=silent), 502


@blueprint.get("/offer")
def offer() -> str:
    """The offer that stands until a company gives the address of its own."""
    return render_template("public/offer.html")


@blueprint.errorhandler(NotFound)
def _show_missing(error: NotFound) -> tuple[str, int]:
    return render_template("public/missing.html", message=error.message), 404


def _ask_bank(payment: Payment) -> None:
    """Its notice may be late or lost; the client is here now. Whatever goes wrong leaves the payment as it is."""
    if payment.gateway is None or payment.external_id is None:
        return
    try:
        accept_notice(gateway_of(payment), payment.external_id)
    except (LookupError, GatewayError, DomainError) as error:
        _log.warning("payment %s: the bank's word could not be taken: %r", payment.id, error)


def _render(
    bill: Bill,
    *,
    payment: Payment | None = None,
    refusal: DomainError | None = None,
    failure: DomainError | None = None,
) -> str:
    """refusal: why the bill cannot be paid at all; failure: why this attempt did not work."""
    refusal = refusal or _refusal(bill)
    company = bill.branch.company
    return render_template(
        "public/bill.html",
        bill=bill,
        company=company,
        branch=bill.branch,
        payment=payment,
        refusal=refusal,
        failure=failure,
        is_overdue=bill.is_overdue or (refusal is not None and refusal.code == "expired"),
        refresh_seconds=_refresh_seconds(payment),
        payer=discreet_name(bill.client.name),
        phone=bill.branch.phone or company.phone,
        format_phone=format_phone,
    )


def _refusal(bill: Bill) -> DomainError | None:
    try:
        check_payable(bill)
    except DomainError as error:
        return error
    return _no_gateway() if shop_for(bill.branch) is None else None


def _no_gateway() -> DomainError:
    return DomainError("no_gateway", _("Online payment is not connected yet. Please pay at the administrator's desk."))


def _refresh_seconds(payment: Payment | None) -> int | None:
    """Seconds after which a waiting page loads itself again; None when there is nothing to wait for."""
    if payment is None or payment.status is not PaymentStatus.PENDING:
        return None
    age = clock.now() - payment.created_at
    return next((seconds for limit, seconds in (_EAGER, _PATIENT) if age < limit), None)
