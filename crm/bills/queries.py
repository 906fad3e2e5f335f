"""Reads about bills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from flask_babel import gettext as _
from sqlalchemy import ColumnElement, and_, false, func, not_, or_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.bills.models import Bill, BillMethod, BillStatus, bill_subscription, bill_title
from crm.db import db
from crm.errors import NotFound
from crm.ledger.models import Account, AccountKind, Entry, Transaction
from crm.subscriptions.models import Subscription, SubscriptionStatus


def bill_by_token(token: str) -> Bill:
    """The bill behind a public link; a revoked one leads nowhere. Raises NotFound."""
    # PostgreSQL takes no NUL in a text.
    bill = db.session.scalar(select(Bill).where(Bill.token == token)) if token and "\x00" not in token else None
    if bill is None or bill.link_revoked_at is not None:
        raise NotFound("bill_not_found", _("There is no such bill. Check the link."))
    return bill


def bills_of(client_id: int) -> list[Bill]:
    """A payer's bills, newest first."""
    return list(db.session.scalars(select(Bill).where(Bill.client_id == client_id).order_by(Bill.id.desc())))


def numbered(text: str) -> ColumnElement[bool] | None:
    """Condition: bills of this number, as printed (`2026-000123`) or its digits, of any year; None where `text` is
    neither.
    """
    year, dash, number = text.rpartition("-")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        return None
    # Numbers begin anew each year: with the years named, an index knows them.
    years = range(2000, clock.now().year + 2)
    if dash:
        if not (year.isascii() and year.isdigit() and len(year) == 4):
            return None
        years = range(int(year), int(year) + 1)
    return and_(Bill.year.in_(years), Bill.number == int(number))


def is_overdue(branches: Iterable[Branch]) -> ColumnElement[bool]:
    """Condition: Bill.is_overdue, of the bills of these branches."""
    ids: dict[date, list[int]] = {}
    for branch in branches:
        ids.setdefault(clock.today(branch), []).append(branch.id)
    # Never NULL: "not overdue" is the rest.
    expired = [and_(Bill.payable_until < today, Bill.branch_id.in_(here)) for today, here in ids.items()]
    return and_(Bill.status == BillStatus.PENDING, Bill.payable_until.is_not(None), or_(false(), *expired))


def _is_awaited(today: date) -> ColumnElement[bool]:
    """Condition: the bill waits for payment and has not expired by `today` of its branch."""
    return and_(Bill.status == BillStatus.PENDING, or_(Bill.payable_until.is_(None), Bill.payable_until >= today))


def _stands(today: date) -> ColumnElement[bool]:
    """Condition: the bill is paid or can still be. A part paid of one that was archived or has expired lies on the
    account: what is left may be asked for anew. One whose whole sum came when it was dead already stands.
    """
    came = (
        select(-func.sum(Entry.amount, type_=Entry.amount.type))
        .join(Transaction, Transaction.id == Entry.transaction_id)
        .join(Account, Account.id == Entry.account_id)
        .where(Transaction.bill_id == Bill.id, Account.client_id.is_(None))  # out of tills, what went back deducted
        .correlate(Bill)
        .scalar_subquery()
    )
    is_paid = or_(Bill.status == BillStatus.PAID, Bill.paid_amount >= Bill.amount)
    return or_(is_paid, _is_awaited(today), and_(Bill.payments_count > 0, came >= Bill.amount))


def payable_bill_of(client_id: int, branch: Branch, account: Account) -> Bill | None:
    """The oldest bill of a client in the branch that waits for payment and has not expired by today. Bills for the
    account of a subscription and others do not stand in each other's way.
    """
    own = select(Bill).where(Bill.client_id == client_id, Bill.branch_id == branch.id)
    if account.kind is AccountKind.SUBSCRIPTION:
        own = own.where(Bill.account_id == account.id)
    else:
        own = own.join(Bill.account).where(Account.kind != AccountKind.SUBSCRIPTION)
    return db.session.scalar(own.where(_is_awaited(clock.today(branch))).order_by(Bill.id).limit(1))


def bills_for_nothing_but(subscription: Subscription) -> list[Bill]:
    """Bills that wait for payment and ask for this subscription, and for no other that has not been returned too."""
    sold = Subscription.__table__
    asked = bill_subscription.c
    others = (
        select(asked.bill_id)
        .join(sold, sold.c.id == asked.subscription_id)
        .where(
            asked.bill_id == Bill.id,
            sold.c.id != subscription.id,
            sold.c.status.not_in([SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED]),
        )
    )
    query = select(Bill).where(
        Bill.status == BillStatus.PENDING,
        Bill.id.in_(select(asked.bill_id).where(asked.subscription_id == subscription.id)),
        ~others.correlate(Bill).exists(),
    )
    return list(db.session.scalars(query.order_by(Bill.id)))


def without_billed(
    subscriptions: Sequence[Subscription], *, today: date, is_reissued: bool = False
) -> list[Subscription]:
    """Those of `subscriptions` no bill asks for: none was issued for them, or it is archived or expired, and unpaid;
    is_reissued: or it waits for payment.
    """
    query = (
        select(bill_subscription.c.subscription_id)
        .join(Bill, Bill.id == bill_subscription.c.bill_id)
        .where(bill_subscription.c.subscription_id.in_([one.id for one in subscriptions]), _stands(today))
    )
    if is_reissued:
        query = query.where(not_(_is_awaited(today)))
    billed = set(db.session.scalars(query))
    return [one for one in subscriptions if one.id not in billed]


def unpaid_bills_of(accounts: Iterable[Account]) -> dict[int, list[Bill]]:
    """Bills for these accounts that wait for payment and have not expired by today of their branches, oldest first, by
    account; only of accounts that have any.
    """
    known = [one for one in accounts if one.id is not None]
    today = {branch.id: clock.today(branch) for branch in db.session.scalars(select(Branch))} if known else {}
    by_day: dict[date, list[int]] = {}
    for account in known:
        by_day.setdefault(today[account.branch_id], []).append(account.id)
    of_accounts = [and_(Bill.account_id.in_(ids), _is_awaited(day)) for day, ids in by_day.items()]
    found: dict[int, list[Bill]] = {}
    for bill in db.session.scalars(select(Bill).where(or_(false(), *of_accounts)).order_by(Bill.id)):
        found.setdefault(bill.account_id, []).append(bill)
    return found


def issued_since(
    since: datetime, accounts: Iterable[Account], *, by: Actor, method: BillMethod, period_to: date, purpose: str
) -> dict[int, str]:
    """Bills a person has issued after a moment by this method, until this day and for this purpose, by account: their
    numbers.
    """
    query = select(Bill.account_id, Bill.year, Bill.number).where(
        Bill.account_id.in_([one.id for one in accounts if one.id is not None]),
        Bill.issued_at > since,
        Bill.author_id == by.id,
        Bill.method == method,
        Bill.period_to == period_to,
        Bill.purpose == purpose,
    )
    rows = db.session.execute(query.order_by(Bill.id.desc()))
    return {account_id: bill_title(year, number) for account_id, year, number in rows}


@dataclass(frozen=True)
class Generations:
    """Bills issued under one dedupe key. standing: the one that is paid or can still be; next_key: for another."""

    standing: Bill | None
    next_key: str


def generations_of(client_id: int, key: str, *, today: date) -> Generations:
    """The bills issued to a client under `key`, then `key:2`, `key:3`… The caller has locked the client's card."""
    under_key = or_(Bill.dedupe_key == key, Bill.dedupe_key.startswith(f"{key}:", autoescape=True))
    issued = select(Bill).where(Bill.client_id == client_id, under_key)
    count = db.session.scalar(select(func.count()).select_from(issued.subquery())) or 0
    standing = db.session.scalar(issued.where(_stands(today)).order_by(Bill.id).limit(1))
    return Generations(standing, f"{key}:{count + 1}" if count else key)


def generations_under(client_ids: Iterable[int], prefix: str, *, today: date) -> dict[str, Generations]:
    """generations_of() of all the keys of these clients that begin with `prefix` and have no number after their last
    colon but a generation's; a key without bills is left out. The caller has locked the cards.
    """
    query = (
        select(Bill, _stands(today).label("stands"))
        .where(Bill.client_id.in_(list(client_ids)), Bill.dedupe_key.startswith(prefix, autoescape=True))
        .order_by(Bill.id)
    )
    issued: dict[str, list[tuple[Bill, bool]]] = {}
    for bill, stands in db.session.execute(query):
        whole = bill.dedupe_key or ""
        key, _colon, last = whole.rpartition(":")
        issued.setdefault(key if last.isdigit() else whole, []).append((bill, bool(stands)))
    return {
        key: Generations(next((bill for bill, stands in own if stands), None), f"{key}:{len(own) + 1}")
        for key, own in issued.items()
    }


def awaited_bills_of(client_ids: Iterable[int], branch: Branch) -> list[Bill]:
    """Bills of these payers in the branch that wait for payment and have not expired by today, oldest first, with
    their accounts.
    """
    query = (
        select(Bill)
        .where(Bill.client_id.in_(list(client_ids)), Bill.branch_id == branch.id, _is_awaited(clock.today(branch)))
        .options(joinedload(Bill.account))
        .order_by(Bill.id)
    )
    return list(db.session.scalars(query))
