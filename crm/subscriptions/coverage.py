"""What a lesson of somebody is written off from, and what it costs there. For a whole group in a few statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import aliased, joinedload

from crm.db import amount as to_amount
from crm.db import db
from crm.ledger.batch import own_accounts
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind
from crm.ledger.operations import lock_accounts, subscription_account
from crm.subscriptions.models import (
    ChargeMoment,
    Plan,
    PlanAccount,
    Subscription,
    SubscriptionFreeze,
    SubscriptionStatus,
    plan_lesson_type,
    plan_subject,
)

# A frozen one is good for the days before it was frozen.
IN_USE = (SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN)


@dataclass(frozen=True)
class LessonFacts:
    """What decides whether a subscription is good for a lesson. day: in the lesson's branch."""

    lesson_type_id: int
    subject_id: int | None
    day: date


@dataclass(frozen=True)
class Coverage:
    """What a lesson is written off from: a subscription, or lessons that belong to none. account: what the lesson is
    taken from; None: the subscription has no limit.
    """

    subscription: Subscription | None
    account: Account | None

    @property
    def left(self) -> int | None:
        """Lessons there are before this one; None: without a limit."""
        return None if self.account is None else int(self.account.balance)


def find_coverage(client_ids: Collection[int], lesson: LessonFacts) -> dict[int, Coverage]:
    """What a lesson of each client is written off from, by client; those whom nothing covers are left out.

    The subscription in use on that day, good for the lesson's type and subject, with lessons left, that ends first;
    then extra lessons of the type; then those without a type.
    """
    found: dict[int, Coverage] = {}
    for subscription, account in db.session.execute(_good_subscriptions(client_ids, lesson)):
        own = None if subscription.is_unlimited else account
        found.setdefault(subscription.client_id, Coverage(subscription, own))
    for account in db.session.scalars(_extra_lessons(client_ids, lesson)):
        if account.client_id is not None:
            found.setdefault(account.client_id, Coverage(None, account))
    return found


def _good_subscriptions(client_ids: Collection[int], lesson: LessonFacts) -> Any:
    until = func.coalesce(SubscriptionFreeze.until_on, SubscriptionFreeze.planned_until)
    frozen = exists().where(
        SubscriptionFreeze.subscription_id == Subscription.id,
        SubscriptionFreeze.from_on <= lesson.day,
        or_(until.is_(None), until >= lesson.day),
    )
    lessons = and_(Account.subscription_id == Subscription.id, Account.kind == AccountKind.LESSONS)
    return (
        select(Subscription, Account)
        .join(Plan, Plan.id == Subscription.plan_id)
        .outerjoin(Account, lessons)
        .where(
            Subscription.client_id.in_(client_ids),
            Subscription.status.in_(IN_USE),
            Subscription.starts_on <= lesson.day,
            Subscription.ends_on >= lesson.day,
            or_(Subscription.lessons.is_(None), Account.balance > 0),
            _is_good_for(plan_lesson_type.c.lesson_type_id, lesson.lesson_type_id),
            _is_good_for(plan_subject.c.subject_id, lesson.subject_id),
            ~frozen,
        )
        .options(joinedload(Subscription.plan))
        .order_by(Subscription.ends_on, Subscription.id)
        .execution_options(populate_existing=True)
    )


def _is_good_for(column: Any, id: int | None) -> Any:
    """Condition on Plan: the list `column` belongs to has the id in it, or nothing at all."""
    listed = exists().where(column.table.c.plan_id == Plan.id)
    return or_(~listed, listed.where(column == id))


def _extra_lessons(client_ids: Collection[int], lesson: LessonFacts) -> Any:
    own_type = Account.lesson_type_id == lesson.lesson_type_id
    return (
        select(Account)
        .where(
            Account.client_id.in_(client_ids),
            Account.kind == AccountKind.LESSONS,
            Account.subscription_id.is_(None),
            or_(own_type, Account.lesson_type_id.is_(None)),
            Account.balance > 0,
        )
        .order_by(Account.lesson_type_id.is_(None), Account.id)
        .execution_options(populate_existing=True)
    )


def lock_coverage(
    payers: Mapping[int, int], *, subscription_ids: Collection[int] = (), accounts: Collection[Account] = ()
) -> dict[int, SubscriptionStatus]:
    """Hold all that lessons of clients could be written off from, until the transaction ends: subscriptions, then
    accounts in id order, the payers' among them. payers: {client id: payer id}. subscription_ids, accounts: held as
    well, for what is given back to them. The statuses of the subscriptions, by id.
    """
    in_use = and_(Subscription.client_id.in_(payers), Subscription.status.in_(IN_USE))
    query = select(Subscription.id, Subscription.status).where(or_(in_use, Subscription.id.in_(subscription_ids)))
    rows = db.session.execute(query.order_by(Subscription.id).with_for_update(key_share=True)).all()
    statuses = {row.id: row.status for row in rows}
    of_subscriptions = Account.subscription_id.in_(statuses)
    lessons = and_(Account.kind == AccountKind.LESSONS, Account.client_id.in_(payers))
    money = and_(
        Account.kind.in_([AccountKind.BASE, AccountKind.SUBSCRIPTION]), Account.client_id.in_(set(payers.values()))
    )
    found = select(Account).where(or_(of_subscriptions, lessons, money), Account.closed_at.is_(None))
    lock_accounts([*db.session.scalars(found), *accounts])
    return statuses


# --- subscriptions charged lesson by lesson --------------------------------------------------------------------------


@dataclass(frozen=True)
class LessonCharge:
    """What the next lesson of a subscription takes, from which account."""

    account: Account
    price: Decimal


def next_charges(subscriptions: Sequence[Subscription], payers: Mapping[int, int]) -> dict[int, LessonCharge]:
    """What the next lesson of each subscription costs, by subscription; those paid for at the sale cost nothing more.

    The parts add up to the cost to the kopeck: after lesson k of n, k/n of it have been taken. payers: {client id:
    payer id}.
    """
    charged = [one for one in subscriptions if one.charge is ChargeMoment.PER_LESSON and one.lessons]
    if not charged:
        return {}
    taken, accounts = taken_so_far([one.id for one in charged]), _accounts_of(charged, payers)
    found = {}
    for one in charged:
        used, money = taken.get(one.id, (0, Decimal(0)))
        lessons = one.lessons or 1
        price = to_amount(one.cost * min(used + 1, lessons) / lessons) - money
        if price > 0:
            found[one.id] = LessonCharge(accounts[one.id], price)
    return found


def taken_so_far(subscription_ids: Collection[int]) -> dict[int, tuple[int, Decimal]]:
    """(lessons written off, money taken for them) by subscription; what has been reversed does not count."""
    undone = aliased(Transaction)
    stands = (
        Transaction.subscription_id.in_(subscription_ids),
        Transaction.kind == TransactionKind.LESSON,
        ~select(undone.id).where(undone.reverses_id == Transaction.id).exists(),
    )
    money = (
        select(Entry.transaction_id, func.sum(Entry.amount).label("taken"))
        .join(Account, Account.id == Entry.account_id)
        .join(Transaction, Transaction.id == Entry.transaction_id)
        .where(Account.kind == AccountKind.REVENUE, *stands)
        .group_by(Entry.transaction_id)
        .subquery()
    )
    query = (
        select(
            Transaction.subscription_id,
            func.count(),
            func.coalesce(func.sum(money.c.taken), 0, type_=money.c.taken.type),
        )
        .outerjoin(money, money.c.transaction_id == Transaction.id)
        .where(*stands)
        .group_by(Transaction.subscription_id)
    )
    return {id: (used, Decimal(taken)) for id, used, taken in db.session.execute(query) if id is not None}


def _accounts_of(subscriptions: Sequence[Subscription], payers: Mapping[int, int]) -> dict[int, Account]:
    """Where each is charged: operations.account_of() of many at once."""
    on_base: dict[int, dict[int, int]] = defaultdict(dict)  # {branch id: {payer id: branch id}}
    for one in subscriptions:
        if one.account is PlanAccount.BASE:
            on_base[one.branch_id][payers[one.client_id]] = one.branch_id
    base = {branch_id: own_accounts(AccountKind.BASE, owners) for branch_id, owners in on_base.items()}
    separate = [one for one in subscriptions if one.account is PlanAccount.SEPARATE]
    known = select(Account).where(
        Account.subscription_id.in_([one.id for one in separate]), Account.kind == AccountKind.SUBSCRIPTION
    )
    found = {account.subscription_id: account for account in db.session.scalars(known)} if separate else {}
    for one in separate:
        if one.id not in found:
            payer_id = payers[one.client_id]
            found[one.id] = subscription_account(AccountKind.SUBSCRIPTION, one.id, payer_id, one.branch_id)
    return {
        one.id: base[one.branch_id][payers[one.client_id]] if one.account is PlanAccount.BASE else found[one.id]
        for one in subscriptions
    }
