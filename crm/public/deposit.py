"""/pay/<token>/deposit: paying from the payer's own account, after a code sent to his e-mail or phone.

Who holds the link learns nothing of balances or addresses before he has entered the code. What a step hands on to the
next stands signed in its form: there are no cookies.
"""

from __future__ import annotations

from typing import Any

from flask import redirect, request, url_for
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from crm.access.mailing_option import MAILINGS_OFF, mailings_off
from crm.bell import ring
from crm.contacts.models import Channel, MessageKind
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account
from crm.mailings.models import CODE_KEY, HIDDEN
from crm.mailings.operations import DELIVER, address_of, new_message
from crm.payments.confirmation import (
    LIFE,
    Order,
    accounts_for,
    awaited_code,
    check_code,
    check_offered,
    order_of,
    pay_confirmed,
    proof_of,
    send_code,
)
from crm.payments.models import PaymentCode
from crm.public.bills import show_missing
from crm.public.frame import VISITOR, public_blueprint, render

blueprint = public_blueprint("deposit", __name__)
blueprint.register_error_handler(NotFound, show_missing)


class _NotOffered(Exception):
    """The bill cannot be paid this way; the payer is told why."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error)
        self.error = error


@blueprint.errorhandler(_NotOffered)
def _show_refusal(refusal: _NotOffered) -> tuple[str, int]:
    return _refused((request.view_args or {})["token"], refusal.error)


@blueprint.get("/pay/<token>/deposit")
def start(token: str) -> str | tuple[str, int]:
    """Where the code is asked for and, once it has been sent, entered."""
    order = _reachable_order(token)
    # A code that is on its way can be entered still.
    if awaited_code(order) is None and mailings_off(order.branch):
        return _refused(token, _codes_off())
    return _page(token, order)


@blueprint.post("/pay/<token>/deposit")
def send(token: str) -> Response | tuple[str, int]:
    """Send a code and lead to where it is entered."""
    order = _reachable_order(token)
    try:
        with transaction():
            _queue_code(order)
    except DomainError as error:
        if error.code == MAILINGS_OFF:
            return _refused(token, _codes_off())
        return _page(token, order, failure=error), error.status
    return redirect(url_for("deposit.start", token=token), 303)


@blueprint.post("/pay/<token>/deposit/code")
def confirm(token: str) -> str | tuple[str, int]:
    """With the right code: the accounts that have enough, to choose from."""
    order = _reachable_order(token)
    try:
        code = check_code(order, request.form.get("code", ""))
    except DomainError as error:
        return _page(token, order, failure=error), error.status
    return _choice(token, order, proof_of(order, code))


@blueprint.get("/pay/<token>/deposit/code")
@blueprint.get("/pay/<token>/deposit/pay")
def begin_anew(token: str) -> Response:
    """An address of a step, opened again without its form: what was entered is in no address, so from the start."""
    return redirect(url_for("deposit.start", token=token), 303)


@blueprint.post("/pay/<token>/deposit/pay")
def pay(token: str) -> Response | tuple[str, int]:
    """Pay, once for a code, and lead back to the bill."""
    proof = request.form.get("proof", "")
    try:
        order = order_of(token)
    except NotFound:
        raise
    except DomainError as error:
        # The second of two clicks finds the bill paid: the bill's own page says it best.
        return redirect(_bill_page(token), 303) if error.code == "paid" else _refused(token, error)
    try:
        with transaction():
            payments = pay_confirmed(order, proof, _chosen(order), by=VISITOR)
    except NotFound:
        raise
    except DomainError as error:
        if error.code in ("code_used", "paid"):
            return redirect(_bill_page(token), 303)
        if error.field == "account":
            return _choice(token, order, proof, failure=error), error.status
        return _page(token, order, failure=error), error.status
    return redirect(_bill_page(token, payment=payments[0].id), 303)


def _chosen(order: Order) -> Account | None:
    number = request.form.get("account", "")
    return next((account for account in accounts_for(order) if str(account.id) == number), None)


def _bill_page(token: str, **query: Any) -> str:
    return url_for("public.bill_page", token=token, **query)


# --- sending --------------------------------------------------------------------------------------------------------


def _address(order: Order) -> tuple[Channel, str] | None:
    """Where a code reaches the payer: his e-mail, else his mobile phone."""
    for channel in (Channel.EMAIL, Channel.SMS):
        if address := address_of(order.payer, channel):
            return channel, address
    return None


def _reachable_order(token: str) -> Order:
    """What the link asks for, when it may be paid this way now and a code reaches the payer."""
    try:
        order = order_of(token)
        _check_reachable(order)
    except NotFound:
        raise
    except DomainError as error:
        raise _NotOffered(error) from error
    return order


def _check_reachable(order: Order) -> None:
    check_offered(order)
    if _address(order) is None:
        raise DomainError(
            "no_address",
            _("We know neither an e-mail nor a mobile phone of yours to send a code to. Please tell us one."),
        )


def _codes_off() -> DomainError:
    """What the payer is told; why, is the company's own affair."""
    return DomainError("codes_off", _("Codes cannot be sent at the moment. Please choose another way to pay."))


def _queue_code(order: Order) -> PaymentCode:
    """A code and the message that takes it to the payer: both or neither. Staff see the message without the code."""
    code, digits = send_code(order)
    found = _address(order)
    assert found is not None, "the caller has asked _check_reachable()"
    channel, address = found
    company = order.branch.company.name
    short = _("%(code)s is your code to pay for %(company)s.", code=HIDDEN, company=company)
    letter = "\n\n".join(
        [
            _("Code to confirm the payment: %(code)s", code=HIDDEN),
            _(
                "It confirms the payment from your account of the bills: %(bills)s.",
                bills=", ".join(bill.title for bill in order.bills),
            ),
            _("The code holds for %(minutes)s minutes.", minutes=int(LIFE.total_seconds() // 60)),
            _("If you have not asked for it, somebody else has your link: tell nobody the code, and write to us."),
        ]
    )
    message = new_message(
        order.payer,
        channel=channel,
        recipient=address,
        subject="" if channel is Channel.SMS else _("Code to confirm the payment"),
        body=short if channel is Channel.SMS else letter,
        dedupe_key=f"{CODE_KEY}{code.id}",
        kind=MessageKind.SERVICE,
        bill=order.bills[0],
        by=VISITOR,
    )
    message.secret = digits
    db.session.add(message)
    ring(DELIVER)
    return code


def masked(address: str) -> str:
    """Enough of an address to know one's own: `ан•••@s•••.ru`, `+7 ••• •••-••-30`."""
    name, at, host = address.partition("@")
    if not at:
        return f"{address[:2]} ••• •••-••-{address[-2:]}"
    domain, _dot, top = host.rpartition(".")
    return f"{name[: 2 if len(name) > 3 else 1]}•••@{domain[:1]}•••.{top}"


# --- pages ----------------------------------------------------------------------------------------------------------


def _page(token: str, order: Order, *, failure: DomainError | None = None) -> str:
    found = _address(order)
    return _render(
        token,
        order,
        address=masked(found[1]) if found else "",
        is_sms=found is not None and found[0] is Channel.SMS,
        is_sent=awaited_code(order) is not None,
        minutes=int(LIFE.total_seconds() // 60),
        failure=failure,
    )


def _choice(token: str, order: Order, proof: str, *, failure: DomainError | None = None) -> str:
    enough = [account for account in accounts_for(order) if account.balance >= order.total]
    return _render(token, order, step="choose", accounts=enough, proof=proof, failure=failure)


def _render(token: str, order: Order, *, step: str = "code", **values: Any) -> str:
    return render(
        "public/deposit.html",
        token=token,
        order=order,
        step=step,
        branch=order.branch,
        company=order.branch.company,
        **values,
    )


def _refused(token: str, error: DomainError) -> tuple[str, int]:
    return render("public/deposit.html", token=token, step="refused", failure=error, order=None), error.status
