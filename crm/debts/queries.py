"""What a debt is made of, how old it is, and to which city it is owed.

A debt is an account below zero. Payments cover the oldest charges first, so what is unpaid are the newest ones: walked
back from the newest until their sum reaches the debt. An operation that was reversed and its reversal are left out
both, on every account they touched: their sum is zero there, so the charges that remain always reach the debt. A
discount and a return make their subscription's charge smaller and pay for nothing else. What a merge of cards carried
over is a charge where it came to (debts/merging.py), of the same subscription and day as the one it is of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa

from crm import clock
from crm.access.actors import Actor
from crm.access.fields import field_rules
from crm.access.models import Branch, City
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import db
from crm.ledger.models import Account, Entry, Transaction, TransactionKind, Unit

# Last day, counted back from the branch's today, of each age a debt is told in; what is older is one more.
AGES = (30, 60, 90)

# What covers a charge without money.
FORGIVING = frozenset({TransactionKind.BAD_DEBT, TransactionKind.DEBT_WRITE_OFF})
# With a subscription and without a lesson they are one charge, of the subscription's sale: of transfers only those of
# merged cards name one, and of reversals only those count whose original stands on an account emptied by a merge.
_OF_A_SALE = (
    *(TransactionKind.SALE, TransactionKind.DISCOUNT, TransactionKind.RETURN),
    *(TransactionKind.TRANSFER, TransactionKind.REVERSAL),
)

_ENTRY: Any = Entry.__table__
_DONE: Any = Transaction.__table__


@dataclass(frozen=True)
class UnpaidCharge:
    """What is unpaid of one charge. amount: of the whole charge, discount deducted; 0 < unpaid <= amount."""

    account_id: int
    transaction_id: int
    kind: TransactionKind
    happened_at: datetime
    amount: Decimal
    unpaid: Decimal
    subscription_id: int | None
    bill_id: int | None
    visit_id: int | None
    comment: str


@dataclass(frozen=True)
class Forgiveness:
    """What one writing-off of a debt (`by`, `by_kind`) has covered of one charge. transaction_id, kind: of the charge,
    as in UnpaidCharge; subscription_id: of the charge of a sale; amount: above zero; beyond: how much of the
    charge it left unpaid.
    """

    by: int
    by_kind: TransactionKind
    transaction_id: int
    kind: TransactionKind
    subscription_id: int | None
    amount: Decimal
    beyond: Decimal


class _Place(NamedTuple):
    """Where the charge `of` is: posted there, or carried there by a merge of cards. amount: what came of it, where it
    came in one sum with others, beyond: what came with it and is newer; None: it came alone.
    """

    of: int
    account_id: int
    transaction_id: int
    amount: Decimal | None = None
    beyond: Decimal = Decimal(0)

    def share_of(self, one: Forgiveness) -> Decimal:
        """How much of what was forgiven there is of the charge."""
        if self.amount is None:
            return one.amount
        end = min(self.beyond + self.amount, one.beyond + one.amount)
        return max(Decimal(0), end - max(self.beyond, one.beyond))


@dataclass(frozen=True)
class Ageing:
    """A debt by the age of its unpaid charges: days back from the branch's today, both ends counted."""

    days_30: Decimal = Decimal(0)  # 0-30
    days_60: Decimal = Decimal(0)  # 31-60
    days_90: Decimal = Decimal(0)  # 61-90
    older: Decimal = Decimal(0)
    oldest_at: datetime | None = None

    @property
    def total(self) -> Decimal:
        return self.days_30 + self.days_60 + self.days_90 + self.older


@dataclass(frozen=True)
class CityBalance:
    """What a client owes to, and has paid ahead in, the branches of a city."""

    city: str
    debt: Decimal
    prepaid: Decimal


def in_debt() -> sa.ColumnElement[bool]:
    """Condition: the account is a client's and below zero."""
    return sa.and_(Account.client_id.is_not(None), Account.unit == Unit.MONEY, Account.balance < 0)


def _undone() -> sa.Subquery:
    """SQL: the ids of what was reversed, as reverses_id.

    Left-joined by it and asked to be without it, which is how databases know rows that have no other: asked for the
    absence of another column they expect next to none to be left, and go through millions one by one.
    """
    return sa.select(_DONE.c.reverses_id).where(_DONE.c.reverses_id.is_not(None)).subquery("undone")


def unpaid_of(accounts: Any = None) -> sa.Subquery:
    """SQL: the unpaid charges of many accounts at once, one row each.

    accounts: account ids or a SELECT of them, all by default; those not in debt give no rows, nor those out of scope.
    Columns: account_id, branch_id, transaction_id, happened_at, amount, unpaid. An account's `unpaid` sum to its debt.
    """
    owing = sa.select(Account.id, Account.branch_id, (-Account.balance).label("debt")).where(in_debt())
    if accounts is not None:
        owing = owing.where(Account.id.in_(accounts))
    owing_rows = owing.subquery("owing")
    # Tables, not mapped classes: an operation between two branches belongs to one of them, its entries to both.
    done, undone = _DONE.alias("done"), _undone()
    lessens = done.c.kind.in_([TransactionKind.DISCOUNT, TransactionKind.RETURN])
    is_sale = sa.and_(done.c.kind.in_(_OF_A_SALE), done.c.subscription_id.is_not(None), done.c.lesson_id.is_(None))
    charge = sa.case((is_sale, -done.c.subscription_id), else_=done.c.id)
    total = sa.func.sum(_ENTRY.c.amount)
    charges = (
        sa.select(
            owing_rows.c.id.label("account_id"),
            owing_rows.c.branch_id,
            owing_rows.c.debt,
            sa.func.max(sa.case((sa.not_(lessens), done.c.id))).label("transaction_id"),
            sa.func.max(sa.case((sa.not_(lessens), done.c.happened_at))).label("happened_at"),
            (-total).label("amount"),
        )
        .join(_ENTRY, _ENTRY.c.account_id == owing_rows.c.id)
        .join(done, done.c.id == _ENTRY.c.transaction_id)
        .outerjoin(undone, undone.c.reverses_id == done.c.id)
        .where(done.c.reverses_id.is_(None), undone.c.reverses_id.is_(None))
        .group_by(owing_rows.c.id, owing_rows.c.branch_id, owing_rows.c.debt, charge)
        .having(total < 0)
        .subquery("charges")
    )
    newest_first = [charges.c.happened_at.desc(), charges.c.transaction_id.desc()]
    up_to_it = sa.func.sum(charges.c.amount).over(
        partition_by=charges.c.account_id, order_by=newest_first, rows=(None, 0)
    )
    walked = sa.select(charges, (up_to_it - charges.c.amount).label("newer")).subquery("walked")
    left = walked.c.debt - walked.c.newer
    return (
        sa.select(
            walked.c.account_id,
            walked.c.branch_id,
            walked.c.transaction_id,
            walked.c.happened_at,
            walked.c.amount,
            sa.case((walked.c.amount < left, walked.c.amount), else_=left).label("unpaid"),
        )
        .where(left > 0)
        .subquery("unpaid")
    )


def unpaid_charges(account_ids: Collection[int]) -> dict[int, list[UnpaidCharge]]:
    """What the debts of these accounts are made of, by account, oldest first. Accounts without debt are left out."""
    unpaid = unpaid_of(list(account_ids))
    query = (
        sa.select(
            *(unpaid.c.account_id, unpaid.c.transaction_id, _DONE.c.kind, _DONE.c.happened_at),
            *(unpaid.c.amount, unpaid.c.unpaid),
            *(_DONE.c.subscription_id, _DONE.c.bill_id, _DONE.c.visit_id, _DONE.c.comment),
        )
        .join(_DONE, _DONE.c.id == unpaid.c.transaction_id)
        .order_by(unpaid.c.account_id, _DONE.c.happened_at, unpaid.c.transaction_id)
    )
    found = (UnpaidCharge(**row._mapping) for row in db.session.execute(query))
    return {account_id: list(charges) for account_id, charges in groupby(found, key=lambda charge: charge.account_id)}


def debts_of_subscriptions(subscription_ids: Collection[int]) -> dict[int, Decimal]:
    """How much of the subscriptions is unpaid, by id; those paid for are left out."""
    charged = (
        sa.select(_ENTRY.c.account_id)
        .join(_DONE, _DONE.c.id == _ENTRY.c.transaction_id)
        .where(_DONE.c.subscription_id.in_(subscription_ids))
    )
    unpaid = unpaid_of(charged)
    query = (
        sa.select(_DONE.c.subscription_id, sa.func.sum(unpaid.c.unpaid))
        .join(_DONE, _DONE.c.id == unpaid.c.transaction_id)
        .where(_DONE.c.subscription_id.in_(subscription_ids))
        .group_by(_DONE.c.subscription_id)
    )
    return {row[0]: row[1] for row in db.session.execute(query)}


# --- what was forgiven ----------------------------------------------------------------------------------------------


def forgiven_of(transaction_ids: Collection[int]) -> dict[int, dict[TransactionKind, Decimal]]:
    """How much of what these operations charged has been covered by writing a debt off instead of money, by id and the
    kind of the writing-off, wherever a merge of cards has carried the charge since; those of which nothing was are left
    out. Of a sale: of its subscription's charge, discounts and returns deducted.

    For good only while the accounts are locked.
    """
    places = _places_of(transaction_ids)
    covered: dict[tuple[int, int], list[Forgiveness]] = defaultdict(list)
    for account_id, ones in _forgiven_on({place.account_id for place in places}).items():
        for one in ones:
            covered[account_id, one.transaction_id].append(one)
    forgiven: dict[int, dict[TransactionKind, Decimal]] = {}
    for place in places:
        for one in covered[place.account_id, place.transaction_id]:
            if share := place.share_of(one):
                kinds = forgiven.setdefault(place.of, {})
                kinds[one.by_kind] = kinds.get(one.by_kind, Decimal(0)) + share
    return forgiven


def forgiven_of_subscription(subscription_id: int) -> Decimal:
    """How much of what was charged for a subscription at its sale has been covered by writing a debt off, and is no
    debt again since.
    """
    undone = _undone()
    sale = (
        _DONE.c.subscription_id == subscription_id,
        _DONE.c.kind.in_([TransactionKind.SALE, TransactionKind.DISCOUNT]),
        undone.c.reverses_id.is_(None),
    )
    sales = sa.select(_DONE.c.id).outerjoin(undone, undone.c.reverses_id == _DONE.c.id).where(*sale)
    found = forgiven_of(list(db.session.scalars(sales.order_by(_DONE.c.id))))
    if not found:
        return Decimal(0)
    cost = (
        sa.select(-sa.func.sum(_ENTRY.c.amount))
        .join(Account, Account.id == _ENTRY.c.account_id)
        .where(_ENTRY.c.transaction_id.in_(sales), Account.client_id.is_not(None), Account.unit == Unit.MONEY)
    )
    owed = debts_of_subscriptions([subscription_id]).get(subscription_id, Decimal(0))
    forgiven = sum((amount for kinds in found.values() for amount in kinds.values()), Decimal(0))
    return min(forgiven, db.session.scalars(cost).one() - owed)


def forgiven_by(transaction: Transaction) -> list[Forgiveness]:
    """What one writing-off of a debt has covered, the oldest charge first."""
    found = _forgiven_on([entry.account_id for entry in transaction.entries if entry.amount > 0])
    return [one for ones in found.values() for one in ones if one.by == transaction.id]


def key_of_carried(account_id: int, transaction_id: int) -> str:
    """The idempotency key under which a merge carries what is unpaid of a charge over from the account it empties."""
    return f"merge:{account_id}:charge:{transaction_id}"


def _carried_by(key: str) -> int | None:
    """The charge that a transaction of such a key carried over."""
    begin, _account, what, *of = key.split(":") if key.count(":") == 3 else ("", "", "")
    return int(of[0]) if (begin, what) == ("merge", "charge") else None


def _places_of(transaction_ids: Collection[int]) -> list[_Place]:
    """Where charges were posted, and where merges of cards have carried them."""
    query = (
        sa.select(_ENTRY.c.transaction_id, Account.id, Account.closed_at)
        .join(Account, Account.id == _ENTRY.c.account_id)
        .where(Account.client_id.is_not(None), Account.unit == Unit.MONEY, _ENTRY.c.amount < 0)
        .order_by(_ENTRY.c.id)
    )
    places = list[_Place]()
    here = {id: [_Place(id, 0, id)] for id in transaction_ids}  # {where they are: which}; on which account comes next
    while here:
        there, closed = defaultdict[int, list[_Place]](list), dict[str, _Place]()
        for charged, account_id, closed_at in db.session.execute(query.where(_ENTRY.c.transaction_id.in_(here))).all():
            found = [one._replace(account_id=account_id) for one in here[charged]]
            places += found
            if closed_at is not None:
                closed[key_of_carried(account_id, charged)] = found[0]
        known = sa.select(_DONE.c.id, _DONE.c.idempotency_key).where(_DONE.c.idempotency_key.in_(closed))
        for id, key in db.session.execute(known) if closed else ():
            there[id] += [one._replace(transaction_id=id) for one in here[closed.pop(key).transaction_id]]
        for emptied in closed.values():
            if (carried := _carried_in_one(emptied.account_id, emptied.transaction_id)) is not None:
                there[carried[0]] += [_within(one, *carried) for one in here[emptied.transaction_id]]
        here = there
    return places


def _within(place: _Place, id: int, amount: Decimal, beyond: Decimal) -> _Place:
    """Where a charge comes to when the one it is in goes over in one sum with others: what is unpaid is the newest."""
    if place.amount is not None:
        amount = max(Decimal(0), min(place.amount, amount - place.beyond))
    return place._replace(transaction_id=id, amount=amount, beyond=beyond + place.beyond)


def _carried_in_one(account_id: int, charged: int) -> tuple[int, Decimal, Decimal] | None:
    """(transfer, what it carried of the charge, what of newer ones) of an account that a merge emptied in one sum, as
    they did before debts were carried charge by charge; None: it did not, or nothing of this charge.
    """
    rows = _operations_on([account_id]).get(account_id, [])
    for place, row in enumerate(rows):
        is_merge = row.idempotency_key.startswith(f"merge:{account_id}:") and _carried_by(row.idempotency_key) is None
        if is_merge and row.amount > 0:
            newer = Decimal(0)
            for charge in reversed(_charges_in(rows[:place])[1]):
                unpaid = min(charge.amount, row.amount - newer)
                if unpaid > 0 and charge.transaction_id == charged:
                    return row.id, unpaid, newer
                newer += unpaid
    return None


def _forgiven_on(account_ids: Collection[int]) -> dict[int, list[Forgiveness]]:
    """What each writing-off that stands has covered, by account: the oldest of what was unpaid at the time, as in
    unpaid_of(). It keeps to that: money that covers another charge instead when its own is taken back forgives nothing.
    """
    undone = _undone()
    forgiving = (
        sa.select(_ENTRY.c.account_id, _DONE.c.id)
        .join(_DONE, _DONE.c.id == _ENTRY.c.transaction_id)
        .outerjoin(undone, undone.c.reverses_id == _DONE.c.id)
        .where(
            # By way of the mapped class: that is what the row scope knows.
            _ENTRY.c.account_id.in_(
                sa.select(Account.id).where(Account.id.in_(account_ids), Account.client_id.is_not(None))
            ),
            _ENTRY.c.amount > 0,
            _DONE.c.kind.in_(FORGIVING),
            undone.c.reverses_id.is_(None),
        )
    )
    stands = {(row.account_id, row.id) for row in db.session.execute(forgiving)}
    if not stands:
        return {}
    return {
        account_id: [
            one
            for place, row in enumerate(rows)
            if (account_id, row.id) in stands
            for one in _covered_by(row, rows[:place])
        ]
        for account_id, rows in _operations_on({account_id for account_id, _id in stands}).items()
    }


def _operations_on(account_ids: Collection[int]) -> dict[int, list[Any]]:
    """What was posted to accounts, by account, in that order."""
    columns = (
        *(_DONE.c.id, _DONE.c.kind, _DONE.c.happened_at, _DONE.c.subscription_id, _DONE.c.lesson_id),
        *(_DONE.c.reverses_id, _DONE.c.idempotency_key, _ENTRY.c.account_id, _ENTRY.c.amount),
    )
    query = (
        sa.select(*columns)
        .join(_DONE, _DONE.c.id == _ENTRY.c.transaction_id)
        .where(_ENTRY.c.account_id.in_(account_ids))
        .order_by(_ENTRY.c.account_id, _DONE.c.id)
    )
    rows = db.session.execute(query)
    return {account_id: list(on_it) for account_id, on_it in groupby(rows, key=lambda row: row.account_id)}


def _covered_by(by: Any, before: Sequence[Any]) -> Iterator[Forgiveness]:
    """What one writing-off has covered, by the operations on the account before it."""
    begin, charges = _charges_in(before)
    after = Decimal(0)
    for one in charges:
        after, since = after + one.amount, after
        end = min(begin + by.amount, after)
        if (part := end - max(begin, since)) > 0:
            yield Forgiveness(by.id, by.kind, one.transaction_id, one.kind, one.subscription_id, part, after - end)


class _Charge(NamedTuple):
    happened_at: datetime
    transaction_id: int
    kind: TransactionKind
    subscription_id: int | None
    amount: Decimal


def _charges_in(rows: Sequence[Any]) -> tuple[Decimal, list[_Charge]]:
    """What the first operations on an account brought, and what they charged, the oldest first."""
    here, undone = {row.id for row in rows}, {row.reverses_id for row in rows}
    carried = {of: row.id for row in rows if (of := _carried_by(row.idempotency_key)) is not None and row.amount < 0}
    groups: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        if row.id not in undone and row.reverses_id not in here:
            is_sale = row.kind in _OF_A_SALE and row.subscription_id is not None and row.lesson_id is None
            groups[-row.subscription_id if is_sale else carried.get(row.reverses_id, row.id)].append(row)
    sums = {key: sum((row.amount for row in group), Decimal(0)) for key, group in groups.items()}
    charges = []
    for key, total in sums.items():
        if total < 0:
            last = max((row for row in groups[key] if row.amount < 0), key=lambda row: (row.happened_at, row.id))
            charges.append(_Charge(last.happened_at, last.id, last.kind, -key if key < 0 else None, -total))
    return sum((total for total in sums.values() if total > 0), Decimal(0)), sorted(charges)


# --- ages -----------------------------------------------------------------------------------------------------------


def age_of(unpaid: Any, branches: Iterable[Branch]) -> Any:
    """SQL: the age of an unpaid charge as the number of its place in Ageing, by the today of its branch.

    branches: of the accounts; a charge of another branch is older than all.
    """
    zones: dict[str, list[Branch]] = {}
    for branch in branches:
        zones.setdefault(branch.time_zone, []).append(branch)
    begins = [
        (clock.at(clock.today(here[0]) - timedelta(days=days), time(), here[0]), [branch.id for branch in here], place)
        for here in zones.values()
        for place, days in enumerate(AGES)
    ]
    cases = [
        (sa.and_(unpaid.c.branch_id.in_(ids), unpaid.c.happened_at >= begin), place) for begin, ids, place in begins
    ]
    return sa.case(*cases, else_=len(AGES)) if cases else sa.literal(len(AGES))


def _aged(accounts: Any) -> tuple[Any, list[Any]]:
    """The unpaid charges of these accounts, and the sum of each age."""
    unpaid = unpaid_of(accounts)
    age = age_of(unpaid, db.session.scalars(sa.select(Branch)))
    sums = [sa.func.sum(sa.case((age == place, unpaid.c.unpaid), else_=0)) for place in range(len(AGES) + 1)]
    return unpaid, [sa.type_coerce(total, Account.balance.type) for total in sums]


def ageing_of(account_ids: Sequence[int]) -> dict[int, Ageing]:
    """The debts of these accounts by age; accounts without debt are left out."""
    unpaid, sums = _aged(account_ids)
    query = sa.select(unpaid.c.account_id, *sums, sa.func.min(unpaid.c.happened_at)).group_by(unpaid.c.account_id)
    return {account_id: Ageing(*facts) for account_id, *facts in db.session.execute(query)}


def total_ageing(accounts: Any) -> Ageing:
    """The debts of all these accounts (ids, or a SELECT of them) by age, added up by the database."""
    unpaid, sums = _aged(accounts)
    found: Any = db.session.execute(sa.select(*sums, sa.func.min(unpaid.c.happened_at))).one()
    return Ageing(*found) if found[-1] is not None else Ageing()


def last_payments(account_ids: Sequence[int]) -> dict[int, datetime]:
    """When money last came to these accounts, paid in or from another account; what was reversed did not."""
    undone = _undone()
    query = (
        sa.select(_ENTRY.c.account_id, sa.func.max(_DONE.c.happened_at))
        .join(_DONE, _DONE.c.id == _ENTRY.c.transaction_id)
        .outerjoin(undone, undone.c.reverses_id == _DONE.c.id)
        .where(
            # By way of the mapped class: that is what the row scope knows.
            _ENTRY.c.account_id.in_(sa.select(Account.id).where(Account.id.in_(account_ids))),
            _ENTRY.c.amount > 0,
            _DONE.c.kind.in_([TransactionKind.TOP_UP, TransactionKind.TRANSFER]),
            undone.c.reverses_id.is_(None),
        )
        .group_by(_ENTRY.c.account_id)
    )
    return {row[0]: row[1] for row in db.session.execute(query)}


def balances_by_city(client_id: int, *, by: Actor) -> list[CityBalance]:
    """What a client owes, and has paid ahead, in each city, by the city's name.

    Beyond the row scope, on purpose and no further than this: cards of one person that were merged leave accounts in
    other branches, and whoever has the card open is to know that the person owes there. Names of cities and sums are
    all that is told. The caller has found the card within the scope. Nothing when balances are hidden from `by`.
    """
    if not by.may("account.view") or {"balance", "credited", "debited"} & field_rules(by, "account").hidden:
        return []
    zero = sa.literal(Decimal(0), Account.balance.type)
    query = (
        sa.select(
            City.name,
            sa.func.sum(sa.case((Account.balance < 0, -Account.balance), else_=zero)),
            sa.func.sum(sa.case((Account.balance > 0, Account.balance), else_=zero)),
        )
        .select_from(Account)
        .join(Branch, Branch.id == Account.branch_id)
        .join(City, City.id == Branch.city_id)
        .where(Account.client_id == client_id, Account.unit == Unit.MONEY, Account.balance != 0)
        .group_by(City.id, City.name)
        .order_by(City.name)
    )
    with scoped_to(EVERYWHERE):
        return [CityBalance(*row) for row in db.session.execute(query)]
