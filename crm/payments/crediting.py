"""Money of a payment reaches its account: once, all of it, whatever has become of its bill meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import or_, select

from crm import clock
from crm.access.actors import SYSTEM, Actor
from crm.access.models import Employee
from crm.audit.operations import transition_all
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import lock_bill, lock_bills, settle_bills
from crm.db import db
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import Cause, Line, Posting, base_account, write
from crm.payments.models import (
    PAYMENT_MOVES,
    Attention,
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentStatus,
)
from crm.tills.models import Till
from crm.tills.operations import hold_first_tills, hold_till

# Who is told of the payments credited, in the transaction that credits them; domains above enter themselves.
AFTER_PAYMENT: list[Callable[[Sequence[Payment]], None]] = []

# A payment begun in time may be finished a little after the last payable day.
GRACE = timedelta(hours=24)


def credit(
    payment: Payment,
    *,
    by: Actor = SYSTEM,
    employee: Employee | None = None,
    source: Account | None = None,
    till: Till | None = None,
    subscription_id: int | None = None,
) -> None:
    """Move the payment to succeeded, credit its account, settle its bill: all in the caller's transaction, once.

    source: the client's account the money comes from; a till of the payment's method by default, the one given or the
    first.
    """
    if payment.status is PaymentStatus.SUCCEEDED:
        return
    if payment.bill is not None:
        lock_bill(payment.bill)
    if source is None:
        source = hold_till(payment.method.till_kind, payment.branch_id, till)
        hold_destinations([payment.account])
    _post([_Credit(payment, source)], by=by, employee=employee, subscription_id=subscription_id)
    _tell([payment])


def credit_order(payments: Sequence[Payment], *, paid_at: datetime, by: Actor, notice_id: int | None = None) -> None:
    """Credit what came in through a gateway for the payments of one order, in id order of their bills.

    The caller holds the rows of the payments. Money for a bill that could not be paid any more goes to the payer's base
    account, and a person is asked to look (docs/payments.md).
    """
    credit_orders([PaidOrder(payments, paid_at, notice_id)], by=by)


@dataclass(frozen=True)
class PaidOrder:
    """The payments of an order and when they were paid; notice_id: what told of it."""

    payments: Sequence[Payment]
    paid_at: datetime
    notice_id: int | None = None


def credit_orders(orders: Sequence[PaidOrder], *, by: Actor) -> None:
    """credit_order() of several, in the same number of statements as of one. No bill is paid by two of the payments:
    what becomes of the second depends on the first.
    """
    paid = sorted(
        ((payment, order) for order in orders for payment in order.payments),
        key=lambda found: (found[0].bill_id or 0, found[0].id),
    )
    payments = [payment for payment, _order in paid]
    bills = [payment.bill for payment in payments if payment.bill is not None]
    lock_bills(bills)
    leaders = {order.payments[0] for order in orders}
    sources = hold_first_tills({(leader.method.till_kind, leader.branch_id) for leader in leaders})
    hold_destinations([payment.account for payment in payments])
    credits = []
    for payment, order in paid:
        leader = order.payments[0]
        source = sources[leader.method.till_kind, leader.branch_id]
        credits.append(_Credit(payment, source, objection(payment, paid_at=order.paid_at)))
    _post(credits, by=by)
    for credited, (payment, order) in zip(credits, paid, strict=True):
        found = credited.found
        note(payment, PaymentEventKind.CREDITED, _credited_text(payment, found), notice_id=order.notice_id)
        if found is not None:
            flag(payment, found.attention, found.text, notice_id=order.notice_id)
    _tell(payments)


def credit_from(source: Account, payments: Sequence[Payment], *, by: Actor) -> None:
    """Move what the payments of one order ask for from an account of the client's, all in the caller's transaction.

    The caller holds the bills, the source and the accounts they are for.
    """
    _post([_Credit(payment, source) for payment in payments], by=by)
    _tell(payments)


def _tell(payments: Sequence[Payment]) -> None:
    """Once all of an order is credited, and what a person has to look at is flagged."""
    for tell in AFTER_PAYMENT:
        tell(payments)


@dataclass(frozen=True)
class Objection:
    """Why a person has to look at money that is credited all the same. is_dead: not for the bill, which could not be
    paid any more, but to the payer's base account.
    """

    attention: Attention
    text: str
    is_dead: bool = True


def objection(payment: Payment, *, paid_at: datetime) -> Objection | None:
    """What is wrong with crediting the payment to its bill; None when nothing is. The bill is locked."""
    bill = payment.bill
    if bill is None:
        return None
    if bill.status is BillStatus.ARCHIVED:
        return Objection(Attention.DEAD_BILL, _("The bill %(number)s is in the archive.", number=bill.title))
    if is_too_late(bill, begun_at=payment.created_at, paid_at=paid_at):
        text = _("The payment term of the bill %(number)s had expired.", number=bill.title)
        return Objection(Attention.DEAD_BILL, text)
    if bill.status is BillStatus.PAID:
        if bill.is_repeatable:
            return None
        text = _("The bill %(number)s had been paid already.", number=bill.title)
        return Objection(Attention.PAID_TWICE, text)
    if payment.amount > bill.due and not bill.branch.company.takes_overpayments and bill.paid_amount:
        text = _("More than was left to pay of the bill %(number)s by then.", number=bill.title)
        return Objection(Attention.PAID_TWICE, text, is_dead=False)
    return None


def is_too_late(bill: Bill, *, begun_at: datetime, paid_at: datetime) -> bool:
    """Whether the bill's term was over when the payment was begun, or for more than GRACE when it was paid."""
    if bill.payable_until is None:
        return False
    end = clock.at(bill.payable_until + timedelta(days=1), time(0), bill.branch)
    return begun_at >= end or paid_at > end + GRACE


def _credited_text(payment: Payment, found: Objection | None) -> str:
    if found is not None and found.is_dead:
        return _("To the base account of the payer.")
    bill = payment.bill
    if bill is not None and bill.link_revoked_at is not None:
        return _("The link of the bill had been taken back meanwhile; the payment had been begun before.")
    if bill is not None and bill.status is BillStatus.PENDING:
        return _("A part of the bill.")
    return ""


@dataclass(frozen=True)
class _Credit:
    """A payment about to be credited: from where, and what there is to be said against it."""

    payment: Payment
    source: Account
    found: Objection | None = None

    @property
    def is_dead(self) -> bool:
        return self.found is not None and self.found.is_dead


def _post(
    credits: Sequence[_Credit], *, by: Actor, employee: Employee | None = None, subscription_id: int | None = None
) -> None:
    """Bills, tills and accounts are held."""
    of_bills = [credit for credit in credits if credit.payment.bill_id is not None]  # nobody has chosen the account now
    # The list keeps them in the session: a payment that was read anew looks for its account there.
    destinations = [credit.payment.account for credit in of_bills]
    _know_closed(destinations)
    for credit in of_bills:
        _choose_account(credit)
    payments = [credit.payment for credit in credits]
    transition_all(payments, PAYMENT_MOVES, PaymentStatus.SUCCEEDED, by=by, received_at=clock.now())
    postings = [
        Posting(
            TransactionKind.TOP_UP if credit.source.kind.is_till else TransactionKind.TRANSFER,
            [Line(credit.payment.account, credit.payment.amount), Line(credit.source, -credit.payment.amount)],
            credit.payment.branch_id,
            f"payment:{credit.payment.id}",
            Cause(
                client_id=credit.payment.client_id,
                payment_id=credit.payment.id,
                bill_id=credit.payment.bill_id,
                subscription_id=subscription_id,
                employee_id=employee.id if employee else None,
            ),
            credit.payment.comment,
        )
        for credit in credits
    ]
    write(postings, by=by)
    paid = [
        (credit.payment.bill, Decimal(0) if credit.is_dead else credit.payment.amount)
        for credit in credits
        if credit.payment.bill is not None
    ]
    settle_bills(paid, by=by)


def _choose_account(credit: _Credit) -> None:
    """The bill's own account, or the base account beside it."""
    payment = credit.payment
    asked, said = payment.account, [payment.comment]
    if not credit.is_dead and not asked.is_closed:
        return
    account = base_account(payment.client_id, payment.branch_id) if credit.is_dead else account_to_credit(asked)
    if account.id == asked.id:
        return
    if credit.is_dead and credit.found is not None:
        said.append(credit.found.text)
    if asked.is_closed:
        said.append(_("The account “%(name)s” is closed; the money is on the base account.", name=asked.title))
    payment.account, payment.comment = account, " ".join(filter(None, said))
    db.session.flush()


def _know_closed(accounts: Sequence[Account]) -> None:
    """Read anew whether the accounts were closed, as account_to_credit() does of one."""
    query = select(Account).where(Account.id.in_([account.id for account in accounts]))
    db.session.scalars(query.execution_options(populate_existing=True)).all()


def hold_destinations(accounts: Sequence[Account]) -> None:
    """Lock the accounts and the base accounts beside them, in id order: none is closed before the money is there."""
    beside = [
        (Account.kind == AccountKind.BASE)
        & (Account.client_id == account.client_id)
        & (Account.branch_id == account.branch_id)
        for account in accounts
    ]
    db.session.execute(
        select(Account.id)
        .where(or_(Account.id.in_([account.id for account in accounts]), *beside))
        .order_by(Account.id)
        .with_for_update(key_share=True)
    )


def account_to_credit(account: Account) -> Account:
    """The account itself; the client's base account instead of one that was closed before its money came: nothing is
    lost.
    """
    db.session.refresh(account, ["closed_at"])
    if not account.is_closed:
        return account
    assert account.client_id is not None
    return base_account(account.client_id, account.branch_id)


# --- the history of a payment ---------------------------------------------------------------------------------------


def note(
    payment: Payment, kind: PaymentEventKind, detail: str = "", *, notice_id: int | None = None, by: Actor | None = None
) -> None:
    """Add a line to the payment's history. The caller commits."""
    db.session.add(
        PaymentEvent(
            payment_id=payment.id,
            notice_id=notice_id,
            at=clock.now(),
            kind=kind,
            detail=detail[:500],
            author_name=str(by.name)[:200] if by is not None else "",
        )
    )


def flag(payment: Payment, attention: Attention, detail: str, *, notice_id: int | None = None) -> None:
    """Ask a person to look at the payment. The caller commits."""
    payment.attention, payment.attention_closed_at = attention, None
    note(payment, PaymentEventKind.HELD, detail, notice_id=notice_id)
