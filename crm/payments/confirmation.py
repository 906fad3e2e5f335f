"""Paying from the payer's own account: he proves by a code sent to him that it is he who holds the link.

A code is six digits, lives ten minutes, bears five wrong tries and pays once. What was shown after a
right code (which bills, what sum) comes back signed with the form, so no cookie is needed and nothing else can be paid.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from flask import current_app
from flask_babel import gettext as _
from flask_babel import ngettext
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import Select, func, or_, select

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.bills.models import Bill, BillBundle
from crm.bills.operations import check_payable, lock_bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account, AccountKind, Unit
from crm.payments.models import Payment, PaymentCode
from crm.payments.operations import pay_bills_from_account

LIFE = timedelta(minutes=10)
# How long what a right code opened may be looked at.
DECIDING = timedelta(minutes=10)
TRIES = 5
PER_ORDER, ORDER_WINDOW = 3, timedelta(minutes=15)
PER_PAYER, PAYER_WINDOW = 10, timedelta(days=1)


class TooManyCodes(DomainError):
    """No further code for a while."""

    status = 429


@dataclass(frozen=True)
class Order:
    """What a link asks for: a bill, or those of several that can be paid now, in id order."""

    bills: tuple[Bill, ...]
    bundle: BillBundle | None = None

    @property
    def payer(self) -> Client:
        return self.bills[0].client

    @property
    def branch(self) -> Branch:
        return self.bills[0].branch

    @property
    def total(self) -> Decimal:
        return sum((bill.due for bill in self.bills), Decimal(0))


def order_of(token: str) -> Order:
    """What the link with this token asks for. Raises NotFound, and DomainError as check_payable() does when nothing of
    it can be paid.
    """
    if not token or "\x00" in token:  # PostgreSQL takes no NUL in a text
        raise _no_link()
    bill = db.session.scalar(select(Bill).where(Bill.token == token, Bill.link_revoked_at.is_(None)))
    if bill is not None:
        check_payable(bill)
        return Order((bill,))
    bundle = db.session.scalar(
        select(BillBundle).where(BillBundle.token == token, BillBundle.link_revoked_at.is_(None))
    )
    bills = bundle.shown_bills if bundle is not None else []
    if not bills:
        raise _no_link()
    refusals = {bill.id: _refusal(bill) for bill in bills}
    payable = tuple(bill for bill in bills if refusals[bill.id] is None)
    if not payable:
        raise refusals[bills[0].id] or _no_link()
    return Order(payable, bundle)


def _refusal(bill: Bill) -> DomainError | None:
    try:
        check_payable(bill)
    except DomainError as error:
        return error
    return None


def _no_link() -> NotFound:
    return NotFound("bill_not_found", _("There is no such bill. Check the link."))


def check_offered(order: Order) -> None:
    """Raise DomainError when the payer cannot pay this from an account of his: "deposits_off", "no_account". How much
    is there does not matter: who holds the link learns nothing of it.
    """
    if not order.branch.company.takes_deposits:
        raise DomainError("deposits_off", _("Bills are not paid from an account here. Please choose another way."))
    if not accounts_for(order):
        raise DomainError("no_account", _("There is no account this bill could be paid from."))


def accounts_for(order: Order) -> list[Account]:
    """The payer's accounts the bills may be paid from, whatever is on them: open, of money, within one city and company
    of the branch, none of those the bills top up.
    """
    branch = order.branch
    query = (
        select(Account)
        .join(Branch, Branch.id == Account.branch_id)
        .where(
            Account.client_id == order.payer.id,
            Account.unit == Unit.MONEY,
            Account.kind.in_([AccountKind.BASE, AccountKind.DEPOSIT]),
            Account.closed_at.is_(None),
            Account.id.not_in([bill.account_id for bill in order.bills]),
            Branch.city_id == branch.city_id,
            Branch.company_id == branch.company_id,
        )
        .order_by(Account.id)
    )
    return list(db.session.scalars(query))


# --- the code -------------------------------------------------------------------------------------------------------


def send_code(order: Order) -> tuple[PaymentCode, str]:
    """A new code for the payer, kept as a hash, and its six digits: the caller sends them in the same transaction, and
    commits. Only the newest code of an order is right.

    Raises TooManyCodes "too_many_codes", and DomainError as check_offered() does.
    """
    # Two who ask at once count one after the other.
    db.session.execute(select(Client.id).where(Client.id == order.payer.id).with_for_update(key_share=True))
    check_offered(order)
    now = clock.now()
    _check_pace(_codes_of(order), PER_ORDER, ORDER_WINDOW)
    _check_pace(_codes_of_payer(order.payer), PER_PAYER, PAYER_WINDOW)
    digits = f"{secrets.randbelow(10**6):06d}"
    salt = secrets.token_hex(8)
    code = PaymentCode(
        bill_id=None if order.bundle else order.bills[0].id,
        bundle_id=order.bundle.id if order.bundle else None,
        code_hash=f"{salt}${_digest(salt, digits)}",
        created_at=now,
        expires_at=now + LIFE,
    )
    db.session.add(code)
    db.session.flush()
    return code, digits


def _check_pace(codes: Select[PaymentCode], most: int, window: timedelta) -> None:
    """Refuse when the `most`-th newest of the codes is younger than the window."""
    now = clock.now()
    oldest = db.session.scalar(
        codes.where(PaymentCode.created_at > now - window).order_by(PaymentCode.id.desc()).offset(most - 1).limit(1)
    )
    if oldest is None:
        return
    minutes = int((oldest.created_at + window - now).total_seconds()) // 60 + 1
    text = (
        ngettext(
            "Too many codes were asked for. Try again in %(num)s minute.",
            "Too many codes were asked for. Try again in %(num)s minutes.",
            minutes,
        )
        if minutes <= 90
        else _("Too many codes were asked for. Try again tomorrow, or choose another way to pay.")
    )
    raise TooManyCodes("too_many_codes", text)


def _codes_of(order: Order) -> Select[PaymentCode]:
    if order.bundle is not None:
        return select(PaymentCode).where(PaymentCode.bundle_id == order.bundle.id)
    return select(PaymentCode).where(PaymentCode.bill_id == order.bills[0].id)


def _codes_of_payer(payer: Client) -> Select[PaymentCode]:
    return (
        select(PaymentCode)
        .outerjoin(Bill, Bill.id == PaymentCode.bill_id)
        .outerjoin(BillBundle, BillBundle.id == PaymentCode.bundle_id)
        .where(or_(Bill.client_id == payer.id, BillBundle.client_id == payer.id))
    )


def awaited_code(order: Order) -> PaymentCode | None:
    """The newest code of the order, while it can still be entered."""
    code = db.session.scalar(_codes_of(order).order_by(PaymentCode.id.desc()).limit(1))
    return code if code is not None and _objection(code) is None else None


def check_code(order: Order, typed: str) -> PaymentCode:
    """The code the payer was sent, when this is it. Commits by itself: a wrong try counts whatever happens next.

    Raises DomainError beside `code`: "code_missing", "code_used", "code_expired", "code_spent", "code_wrong".
    """
    digits = "".join(sign for sign in typed if sign.isdecimal() and sign.isascii())
    with transaction():
        code = _hold(db.session.scalar(_codes_of(order).with_only_columns(func.max(PaymentCode.id))))
        if code is None:
            refusal: DomainError | None = DomainError("code_missing", _("Ask for a code first."), "code")
        else:
            refusal = _objection(code)
            salt, _sign, digest = code.code_hash.partition("$")
            if refusal is None and not hmac.compare_digest(_digest(salt, digits), digest):
                code.attempts += 1
                refusal = _objection(code) or _wrong(TRIES - code.attempts)
    if refusal is not None:
        raise refusal
    assert code is not None
    return code


def _hold(code_id: int | None) -> PaymentCode | None:
    """The code as it is now, held until the transaction ends: of two tries at once one waits for the other."""
    return db.session.scalar(
        select(PaymentCode)
        .where(PaymentCode.id == code_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )


def _objection(code: PaymentCode) -> DomainError | None:
    if code.used_at is not None:
        return DomainError("code_used", _("This code has been used already. Ask for a new one."), "code")
    if code.attempts >= TRIES:
        return DomainError("code_spent", _("Too many wrong tries. Ask for a new code."), "code")
    if clock.now() >= code.expires_at:
        return DomainError("code_expired", _("The code has expired. Ask for a new one."), "code")
    return None


def _wrong(left: int) -> DomainError:
    text = ngettext(
        "The code is not right. %(num)s try is left.", "The code is not right. %(num)s tries are left.", left
    )
    return DomainError("code_wrong", text, "code")


def _digest(salt: str, digits: str) -> str:
    """Under SECRET_KEY: a million codes are tried in a second by who reads the table alone."""
    key: str = current_app.config["SETTINGS"].secret_key
    return hmac.new(key.encode(), f"payment code:{salt}:{digits}".encode(), hashlib.sha256).hexdigest()


# --- what a right code opens ----------------------------------------------------------------------------------------


def proof_of(order: Order, code: PaymentCode) -> str:
    """What comes back with the form of the last step: the code, the bills and the sum that were shown, signed."""
    shown: str = _signer().dumps([code.id, [bill.id for bill in order.bills], str(order.total)])
    return shown


def pay_confirmed(order: Order, proof: str, account: Account | None, *, by: Actor) -> list[Payment]:
    """Pay the bills from an account of the payer's, all or none, once for a proof. The caller commits.

    Raises DomainError "proof_wrong", "proof_expired", "code_used" (paid already by another click), "sum_changed", or as
    pay_bills_from_account() does.
    """
    code = _proved(order, proof)
    for bill in order.bills:
        lock_bill(bill)
        if bill.link_revoked_at is not None:
            raise _no_link()
        check_payable(bill)
    if _signer().loads(proof)[1:] != [[bill.id for bill in order.bills], str(order.total)]:
        raise DomainError("sum_changed", _("The sum to pay has changed meanwhile. Ask for a new code."))
    if account is None:
        raise DomainError("account_required", _("Choose the account to pay from."), "account")
    code.used_at = clock.now()
    comment = _("From the account, by the page of the bill; confirmed by a code.")
    return pay_bills_from_account(order.bills, account, bundle=order.bundle, comment=comment, by=by)


def _proved(order: Order, proof: str) -> PaymentCode:
    try:
        code_id, _bills, _total = _signer().loads(proof)
    except (BadSignature, ValueError, TypeError):
        raise DomainError("proof_wrong", _("Confirm the payment by a code first.")) from None
    code = _hold(code_id)
    own = order.bundle.id if order.bundle else order.bills[0].id
    if code is None or own != (code.bundle_id if order.bundle else code.bill_id):
        raise DomainError("proof_wrong", _("Confirm the payment by a code first."))
    if code.used_at is not None:
        raise DomainError("code_used", _("This code has been used already. Ask for a new one."))
    if clock.now() >= code.expires_at + DECIDING:
        raise DomainError("proof_expired", _("Too much time has passed. Ask for a new code."))
    return code


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SETTINGS"].secret_key, salt="paying from an account")
