"""Verbs on bills: issue, archive, settle."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

from flask_babel import gettext as _
from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.audit.bulk import Change, Refusal, change_many
from crm.audit.models import AuditAction
from crm.audit.operations import transition, transition_all
from crm.bills.models import BILL_MOVES, Bill, BillCounter, BillLine, BillMethod, BillStatus, bill_title
from crm.bills.queries import bills_for_nothing_but
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.fields.operations import custom_change, set_custom
from crm.i18n import day
from crm.ledger.models import Account, Unit
from crm.ledger.operations import base_account, check_amount, closed_text
from crm.protocol import ProtocolLine
from crm.subscriptions.models import Subscription

PURPOSE_LENGTH = 160  # as much as a bank takes


def issue_bill(
    client: Client,
    *,
    amount: Decimal,
    period_from: date,
    period_to: date,
    by: Actor,
    account: Account | None = None,
    method: BillMethod = BillMethod.MANUAL,
    payable_from: date | None = None,
    payable_until: date | None = None,
    is_repeatable: bool = False,
    subscriptions: Sequence[Subscription] = (),
    lines: Sequence[BillLine] = (),
    purpose: str = "",
    dedupe_key: str | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Bill:
    """Issue a bill to the client's payer for `account` (the payer's base account by default).

    The bill is of the account's branch. payable_from defaults to today there; subscriptions: those the sum is for;
    lines: how it was found, in order; purpose: what it is for, in words;
    custom: values of the company's own fields, by key. With a dedupe_key that exists already, returns that bill
    unchanged.
    Raises DomainError beside the field. The caller commits, soon: the company's numbers wait for it.
    """
    require(by, "bill.issue", client)
    payer = payer_of(client)
    if dedupe_key and (existing := db.session.scalar(select(Bill).where(Bill.dedupe_key == dedupe_key))):
        return existing
    amount = check_amount(amount)
    if period_to < period_from:
        raise DomainError("period_invalid", _("The period ends before it begins."), "period_to")
    account = account or base_account(payer.id, client.branch_id)
    if account.client_id != payer.id or account.unit is not Unit.MONEY:
        raise DomainError("account_foreign", _("This account belongs to another client."), "account")
    if account.is_closed:
        raise DomainError("account_closed", closed_text(account), "account")
    branch = db.session.get_one(Branch, account.branch_id)
    payable_from = payable_from or clock.today(branch)
    check_term(payable_from, payable_until)
    bill = Bill(
        branch_id=branch.id,
        company_id=branch.company_id,
        year=clock.today(branch).year,
        token=secrets.token_urlsafe(24),
        client_id=payer.id,
        account_id=account.id,
        method=method,
        amount=amount,
        period_from=period_from,
        period_to=period_to,
        payable_from=payable_from,
        payable_until=payable_until,
        is_repeatable=is_repeatable,
        issued_at=clock.now(),
        author_id=by.id,
        subscriptions=list(subscriptions),
        lines=list(lines),
        purpose=check_purpose(purpose),
        dedupe_key=dedupe_key,
    )
    set_custom(bill, custom or {})
    try:
        # The savepoint gives the number back when the same bill has been issued a moment ago: no hole.
        with db.session.begin_nested():
            (bill.number,) = take_numbers(branch.company_id, bill.year)
            db.session.add(bill)
            db.session.flush()
    except IntegrityError:
        if dedupe_key and (existing := db.session.scalar(select(Bill).where(Bill.dedupe_key == dedupe_key))):
            return existing
        raise
    return bill


def check_term(payable_from: date, payable_until: date | None) -> None:
    """Raise DomainError beside `payable_until` when a bill could never be paid."""
    if payable_until is not None and payable_until < payable_from:
        raise DomainError("term_invalid", _("The term ends before it begins."), "payable_until")


def check_purpose(text: str) -> str:
    """What a bill is for, in one line. Raises DomainError beside `purpose`."""
    text = " ".join(text.split())
    if len(text) > PURPOSE_LENGTH:
        raise DomainError("too_long", _("No more than %(count)s characters.", count=PURPOSE_LENGTH), "purpose")
    return text


def take_numbers(company_id: int, year: int, count: int = 1) -> range:
    """The company's next numbers of a year; the counter's row lock is held until the transaction ends."""
    step = (
        update(BillCounter)
        .where(BillCounter.company_id == company_id, BillCounter.year == year)
        .values(last=BillCounter.last + count)
        .returning(BillCounter.last)
        .execution_options(synchronize_session=False)
    )
    last = db.session.scalar(step)
    if last is None:
        try:
            with db.session.begin_nested():
                db.session.add(BillCounter(company_id=company_id, year=year, last=0))
                db.session.flush()
        except IntegrityError:
            pass  # somebody began the year a moment ago
        last = db.session.scalar(step)
    assert last is not None
    return range(last - count + 1, last + 1)


def archive_bill(bill: Bill, *, by: Actor) -> Bill:
    """Archive an unpaid bill, for good; its link stops working. The caller commits.

    Raises DomainError "already_archived" or "bill_paid" with the texts of the protocol.
    """
    require(by, "bill.archive", bill)
    try:
        return transition(bill, BILL_MOVES, BillStatus.ARCHIVED, by=by)
    except Conflict:
        if bill.status is BillStatus.ARCHIVED:
            raise DomainError("already_archived", _("Status: Already in the archive")) from None
        raise DomainError("bill_paid", _("Status: This bill is paid, it cannot be archived")) from None


def archive_bills_for(subscription: Subscription, *, by: Actor) -> list[Bill]:
    """Archive what asks for nothing but a subscription that is being given back: whoever may do that, may this. The
    subscription is locked, tills and accounts are not yet. The caller commits.
    """
    archived = []
    for bill in bills_for_nothing_but(subscription):
        lock_bill(bill)
        if bill.status is BillStatus.PENDING:  # not paid a moment ago
            archived.append(transition(bill, BILL_MOVES, BillStatus.ARCHIVED, by=by))
    return archived


def archive_bills(ids: Sequence[int], *, by: Actor) -> list[ProtocolLine]:
    """Archive the bills, for good; a refused one does not stop the rest. The caller commits.

    One line per id, in the order given; an id outside the scope says it was not found.
    """
    return change_many(archiving_bills(by=by), ids, by=by)


def archiving_bills(*, by: Actor) -> Change:
    """What archive_bills() does and whom it refuses."""
    require(by, "bill.archive")
    unpaid = [status for status, moves in BILL_MOVES.items() if BillStatus.ARCHIVED in moves]
    refusals = (
        Refusal(Bill.status == BillStatus.ARCHIVED, _("Status: Already in the archive")),
        Refusal(Bill.status.not_in(unpaid), _("Status: This bill is paid, it cannot be archived")),
    )
    values = {"status": BillStatus.ARCHIVED}
    return Change(Bill, values, refusals, _LABEL, action=AuditAction.TRANSITION, is_kept=False)


def changing_bills(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many bills' `payable_until` and `is_repeatable`, only of those that await payment; and of
    `custom.<key>`, of any.
    """
    require(by, "bill.edit")
    own, refusals = custom_change(Bill, values)
    declared = set(values) - set(own)
    if foreign := declared - {"payable_until", "is_repeatable"}:
        raise ValueError(f"bills are not changed in {', '.join(sorted(foreign))}")
    if declared:
        text = _("Only a bill that awaits payment can be changed.")
        refusals.append(Refusal(Bill.status != BillStatus.PENDING, text))
    if (until := values.get("payable_until")) is not None:
        text = _("The term ends before it begins.")
        refusals.append(Refusal(Bill.payable_from > until, text, is_of_value=True))
    return Change(Bill, {**values, **own}, refusals, _LABEL)


_LABEL = ((Bill.year, Bill.number), bill_title)


def lock_bill(bill: Bill) -> None:
    """Hold the bill until the transaction ends, and know it as it is now: of two who pay it one waits for the other.

    Before its accounts are locked (docs/architecture.md, Locks). Not a full FOR UPDATE: rows that merely point at the
    bill need not wait.
    """
    lock_bills([bill])


def lock_bills(bills: Collection[Bill]) -> None:
    """lock_bill() of several, in id order."""
    query = select(Bill).where(Bill.id.in_([bill.id for bill in bills])).order_by(Bill.id)
    query = query.with_for_update(key_share=True, of=Bill)
    db.session.scalars(query.execution_options(populate_existing=True)).all()


class Payable(Protocol):
    """A bill, as far as check_payable() looks at it."""

    @property
    def status(self) -> BillStatus: ...
    @property
    def is_repeatable(self) -> bool: ...
    @property
    def payable_from(self) -> date: ...
    @property
    def payable_until(self) -> date | None: ...
    @property
    def branch(self) -> clock.HasTimeZone: ...


def check_payable(bill: Payable) -> None:
    """Raise DomainError with the text for the client when `bill` cannot be paid now.

    Codes: "archived", "paid" (and not repeatable), "not_yet", "expired". The last payable day counts until its midnight
    in the branch's time zone.
    """
    today = clock.today(bill.branch)
    if bill.status is BillStatus.ARCHIVED:
        raise DomainError("archived", _("This bill is no longer valid. Please ask the administrator for a new one."))
    if bill.status is BillStatus.PAID and not bill.is_repeatable:
        raise DomainError("paid", _("This bill is paid. Thank you!"))
    if bill.payable_until is not None and today > bill.payable_until:
        raise DomainError("expired", _("The payment term of the bill has expired, contact the administrator"))
    if today < bill.payable_from:
        raise DomainError("not_yet", _("This bill can be paid from %(day)s.", day=day(bill.payable_from)))


def settle_bills(paid: Sequence[tuple[Bill, Decimal]], *, by: Actor) -> None:
    """Note payments of bills: what makes up the sum of one moves it to paid; an archived bill stays archived. The
    caller has locked the bills, and commits.
    """
    _count_payments(paid, 1)
    bills = dict.fromkeys(bill for bill, _amount in paid)
    settled = [bill for bill in bills if bill.status is BillStatus.PENDING and bill.paid_amount >= bill.amount]
    transition_all(settled, BILL_MOVES, BillStatus.PAID, by=by, paid_at=clock.now())


def unsettle_bill(bill: Bill, amount: Decimal, *, by: Actor) -> None:
    """Take back a payment of `bill`, which was reversed: when the rest does not make up its sum, it awaits payment
    again; an archived bill stays archived. The caller has locked the bill, and commits.
    """
    _count_payments([(bill, -amount)], -1)
    if bill.status is BillStatus.PAID and bill.paid_amount < bill.amount:
        transition(bill, BILL_MOVES, BillStatus.PENDING, by=by, paid_at=None)


def _count_payments(amounts: Sequence[tuple[Bill, Decimal]], change: int) -> None:
    if not amounts:
        return
    db.session.flush()
    changes = [{"at": bill.id, "change": change, "paid": amount} for bill, amount in amounts]
    db.session.connection().execute(_COUNT_PAYMENT, changes)
    query = select(Bill).where(Bill.id.in_([bill.id for bill, _amount in amounts]))
    db.session.scalars(query.execution_options(populate_existing=True)).all()


_BILL: Any = Bill.__table__
_COUNT_PAYMENT = (
    update(_BILL)
    .where(_BILL.c.id == bindparam("at"))
    .values(
        payments_count=_BILL.c.payments_count + bindparam("change", type_=_BILL.c.payments_count.type),
        paid_amount=_BILL.c.paid_amount + bindparam("paid", type_=_BILL.c.paid_amount.type),
    )
)
