"""Reads about subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from sqlalchemy import ColumnElement, Date, String, and_, case, cast, func, literal, or_, select, type_coerce
from sqlalchemy.orm import aliased, selectinload

from crm import clock
from crm.access.models import Branch
from crm.clients.models import Client
from crm.db import LabelEnum, db, label_enum
from crm.debts.queries import debts_of_subscriptions, unpaid_of
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.subscriptions.models import Subscription, SubscriptionState, SubscriptionStatus


def subscriptions_paid_by(payer: Client, *, branch_id: int, period_from: date, period_to: date) -> list[Subscription]:
    """Active subscriptions in the branch, of the payer and of those he pays for, that overlap the period; oldest first.
    What is frozen, returned or sold by mistake is not asked for. A payer whose cards were merged may have some in
    several branches.
    """
    query = (
        select(Subscription)
        .join(Subscription.client)
        .where(
            or_(Client.id == payer.id, Client.payer_id == payer.id),
            Subscription.branch_id == branch_id,
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.starts_on <= period_to,
            Subscription.ends_on >= period_from,
        )
        .order_by(Subscription.starts_on, Subscription.id)
    )
    return list(db.session.scalars(query))


def without_paid(subscriptions: Sequence[Subscription]) -> list[Subscription]:
    """Those of `subscriptions` that were not paid for at the sale: neither from a deposit, which pays at once and in
    full, nor with money taken at the desk for it, nor by a recalculation.
    """
    undone = aliased(Transaction)
    is_from_deposit = (Transaction.kind == TransactionKind.SALE) & (Account.kind == AccountKind.DEPOSIT)
    query = (
        select(Transaction.subscription_id)
        .join(Entry, Entry.transaction_id == Transaction.id)
        .join(Account, Account.id == Entry.account_id)
        .outerjoin(undone, undone.reverses_id == Transaction.id)
        .where(
            Transaction.subscription_id.in_([one.id for one in subscriptions]),
            is_from_deposit | (Transaction.kind == TransactionKind.TOP_UP),
            undone.id.is_(None),
        )
    )
    paid = set(db.session.scalars(query))
    owed = debts_of_subscriptions(_recalculated(subscriptions))
    return [one for one in subscriptions if (one.id not in paid if one.replaces_id is None else one.id in owed)]


def sum_to_ask(subscriptions: Sequence[Subscription]) -> Decimal:
    """What a bill for `subscriptions` asks: their cost, whatever the balance; of one recalculated from another, which
    has paid a part of it, what is owed.
    """
    owed = debts_of_subscriptions(_recalculated(subscriptions))
    return sum(
        (one.cost if one.replaces_id is None else owed.get(one.id, Decimal(0)) for one in subscriptions), Decimal(0)
    )


def _recalculated(subscriptions: Sequence[Subscription]) -> list[int]:
    return [one.id for one in subscriptions if one.replaces_id is not None]


def subscriptions_of(client_id: int) -> list[Subscription]:
    """A client's own subscriptions, newest first."""
    query = select(Subscription).where(Subscription.client_id == client_id).order_by(Subscription.id.desc())
    return list(db.session.scalars(query))


@dataclass(frozen=True)
class Operation:
    """A transaction about a subscription: the money the payer gained (+) or paid (-) by it, and the lessons; None where
    neither was moved. is_undone: it has been reversed.
    """

    transaction: Transaction
    amount: Decimal | None
    lessons: int | None
    is_undone: bool


def operations_on(subscription: Subscription) -> list[Operation]:
    """What was posted for a subscription, the latest first."""
    query = (
        select(Transaction)
        .where(Transaction.subscription_id == subscription.id)
        .options(selectinload(Transaction.entries).joinedload(Entry.account))
        .order_by(Transaction.id.desc())
    )
    transactions = db.session.scalars(query).all()
    undone = {transaction.reverses_id for transaction in transactions}
    operations = []
    for transaction in transactions:
        sums: dict[Unit, Decimal] = {}
        for entry in transaction.entries:
            if entry.account is not None and entry.account.client_id is not None:
                unit = entry.account.unit
                sums[unit] = sums.get(unit, Decimal(0)) + entry.amount
        lessons = sums.get(Unit.LESSON)
        operations.append(
            Operation(
                transaction,
                sums.get(Unit.MONEY) or None,  # a merge of cards moves it between accounts of the payer
                None if lessons is None else int(lessons),
                transaction.id in undone,
            )
        )
    return operations


# --- what it is on a day --------------------------------------------------------------------------------------------

_STATE = label_enum(SubscriptionState)


def today_there() -> Any:
    """SQL: the day it is now in a subscription's branch."""
    zones: dict[str, list[Branch]] = {}
    for branch in db.session.scalars(select(Branch)):
        zones.setdefault(branch.time_zone, []).append(branch)
    cases = [
        (Subscription.branch_id.in_([branch.id for branch in branches]), literal(clock.today(branches[0]), Date))
        for branches in zones.values()
    ]
    return case(*cases) if cases else literal(None, Date)


def state_of(today: Any) -> ColumnElement[SubscriptionState]:
    """SQL: Subscription.state() on a day, or on the day an expression gives."""

    def is_so(state: SubscriptionState) -> Any:
        return literal(state, _STATE)

    return case(
        (Subscription.status != SubscriptionStatus.ACTIVE, type_coerce(cast(Subscription.status, String), _STATE)),
        (Subscription.ends_on < today, is_so(SubscriptionState.EXPIRED)),
        (and_(Subscription.lessons > 0, Subscription.lessons_left == 0), is_so(SubscriptionState.USED_UP)),
        (Subscription.starts_on > today, is_so(SubscriptionState.NOT_BEGUN)),
        else_=is_so(SubscriptionState.ACTIVE),
    )


def is_living(today: Any) -> ColumnElement[bool]:
    """Condition: it is still good on that day, or will be; the end of a frozen one is yet to be moved on."""
    is_good = and_(Subscription.status == SubscriptionStatus.ACTIVE, Subscription.ends_on >= today)
    return or_(Subscription.status == SubscriptionStatus.FROZEN, is_good)


def counted_lessons_left() -> Any:
    """SQL: lessons left, NULL for a subscription that counts none."""
    return case((Subscription.lessons > 0, Subscription.lessons_left))


def is_payable() -> ColumnElement[bool]:
    """Condition: as Subscription.is_payable."""
    over = [SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED]
    return and_(Subscription.price > Subscription.discount, Subscription.status.not_in(over))


def is_unpaid() -> ColumnElement[bool]:
    """Condition: something of what was charged for the subscription is owed."""
    unpaid = unpaid_of()
    charged: Any = Transaction.__table__
    owed = select(charged.c.subscription_id).join(unpaid, unpaid.c.transaction_id == charged.c.id)
    return Subscription.id.in_(owed.where(charged.c.subscription_id.is_not(None)))


def all_debts() -> dict[int, Decimal]:
    """How much of every subscription in sight is unpaid, by id; those paid for are left out."""
    unpaid = unpaid_of()
    charged: Any = Transaction.__table__
    query = (
        select(charged.c.subscription_id, func.sum(unpaid.c.unpaid))
        .join(unpaid, unpaid.c.transaction_id == charged.c.id)
        .where(charged.c.subscription_id.is_not(None))
        .group_by(charged.c.subscription_id)
    )
    return {row[0]: row[1] for row in db.session.execute(query)}


# --- the personal cabinet -------------------------------------------------------------------------------------------


class CabinetAccess(LabelEnum):
    """Whether the personal cabinet is open to a payer, and why."""

    OPEN = "open", _l("available: a subscription has been sold")
    TRIAL = "trial", _l("not available: only a trial subscription has been sold")
    NOTHING = "nothing", _l("not available: no subscription has been sold yet")


def cabinet_access(payer: Client) -> CabinetAccess:
    """A subscription that is not a trial opens it, sold to anybody of the family, in debt too, and not by mistake."""
    undone = aliased(Transaction)
    by_mistake = (
        select(Transaction.id)
        .join(undone, undone.reverses_id == Transaction.id)
        .where(Transaction.subscription_id == Subscription.id, Transaction.kind == TransactionKind.SALE)
    )
    query = (
        select(Subscription.is_trial)
        .join(Subscription.client)
        .where(
            or_(Client.id == payer.id, Client.payer_id == payer.id),
            Subscription.status != SubscriptionStatus.CANCELED,
            ~by_mistake.exists(),
        )
        .distinct()
    )
    sold = set(db.session.scalars(query))
    if False in sold:
        return CabinetAccess.OPEN
    return CabinetAccess.TRIAL if sold else CabinetAccess.NOTHING


def has_cabinet_access(payer: Client) -> bool:
    return cabinet_access(payer) is CabinetAccess.OPEN
