"""Lessons given beyond a sale: added by hand, transferred from one client to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import and_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.catalogue.models import LessonType
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, house_account, lessons_account, lock_accounts, post
from crm.sales.worth import LIVING, check_living
from crm.subscriptions.models import ChargeMoment, Plan, Subscription
from crm.subscriptions.operations import lessons_of, lock_subscription
from crm.subscriptions.queries import is_living

MOST_AT_ONCE = 1000


def add_lessons(
    client: Client,
    *,
    count: int | None,
    by: Actor,
    lesson_type: LessonType | None = None,
    subscription: Subscription | None = None,
    comment: str = "",
) -> Transaction:
    """«Добавить занятие»: give a client lessons for nothing, to a subscription of his, or as lessons of a type that
    belong to none. The caller commits.

    Raises DomainError beside `count`, `lesson_type` or `subscription`; "client_archived".
    """
    require(by, "subscription.add_lessons", client)
    count = _checked_count(count)
    _check_in_use(client)
    if subscription is not None:
        account = _account_to_add_to(subscription, client, by=by)
    elif lesson_type is None:
        raise DomainError("lesson_type_required", _("Choose the subscription or the type of lessons."), "lesson_type")
    else:
        account = lessons_account(client.id, client.branch_id, lesson_type.id)
    granted = house_account(AccountKind.SERVICE, account.branch_id, Unit.LESSON)
    done = post(
        TransactionKind.GRANT,
        [Line(account, Decimal(count)), Line(granted, Decimal(-count))],
        branch_id=account.branch_id,
        by=by,
        cause=Cause(client_id=client.id, subscription_id=subscription.id if subscription is not None else None),
        comment=comment.strip(),
    )
    if subscription is not None:
        db.session.refresh(subscription)
    return done


def transfer_lessons(
    source: Client,
    target: Client | None,
    *,
    lesson_type: LessonType,
    count: int | None,
    by: Actor,
    comment: str = "",
) -> Transaction:
    """«Перенос занятия»: take lessons of a type from one client and give them to another, as lessons of that type that
    belong to no subscription. They are taken from subscriptions good for the type, the one that ends first before the
    others, then from extra lessons. The caller commits.

    Subscriptions paid lesson by lesson, unlimited and expired ones give none: nothing there is his to give away. Raises
    DomainError beside `count` or `target`: "not_enough", "client_same", "client_archived".
    """
    for client in (source, target):
        require(by, "subscription.transfer_lessons", client)
    if target is None:
        raise DomainError("target_required", _("Choose who gets the lessons."), "target")
    count = _checked_count(count)
    if source.id == target.id:
        raise DomainError("client_same", _("Choose another client: the lessons are this one's already."), "target")
    _check_in_use(target)
    _lock_subscriptions(source)
    accounts = transferable(source, lesson_type)
    receiving = lessons_account(target.id, target.branch_id, lesson_type.id)
    balances = lock_accounts([*accounts, receiving])
    lines, wanted = list[Line](), Decimal(count)
    for account in accounts:
        if taken := min(wanted, balances[account.id]):
            lines.append(Line(account, -taken))
            wanted -= taken
    if wanted:
        raise DomainError(
            "not_enough", _("There are %(left)s lessons of this type left.", left=int(count - wanted)), "count"
        )
    return post(
        TransactionKind.LESSONS_TRANSFER,
        [*lines, Line(receiving, Decimal(count))],
        branch_id=source.branch_id,
        by=by,
        cause=Cause(client_id=source.id),
        comment=comment.strip(),
    )


def transferable(client: Client, lesson_type: LessonType) -> list[Account]:
    """The accounts a client's lessons of a type are taken from, in that order; those that are empty are left out."""
    return [source.account for source in _sources(client) if source.is_good_for(lesson_type)]


def types_to_transfer(client: Client) -> dict[LessonType, int]:
    """The lesson types a client has lessons of to give away, and how many."""
    sources, found = _sources(client), {}
    for lesson_type in db.session.scalars(select(LessonType).order_by(LessonType.position, LessonType.name)):
        left = sum(source.account.balance for source in sources if source.is_good_for(lesson_type))
        if left:
            found[lesson_type] = int(left)
    return found


@dataclass(frozen=True)
class _Source:
    """Lessons on an account, and the types they are good for; None: for any."""

    account: Account
    type_ids: frozenset[int] | None

    def is_good_for(self, lesson_type: LessonType) -> bool:
        return self.type_ids is None or lesson_type.id in self.type_ids


def _sources(client: Client) -> list[_Source]:
    """What lessons can be taken from: subscriptions, the one that ends first before the others; then extra lessons."""
    of_subscriptions = (
        select(Account, Subscription)
        .join(Subscription, Subscription.id == Account.subscription_id)
        .where(
            Subscription.client_id == client.id,
            Subscription.charge == ChargeMoment.AT_SALE,
            is_living(clock.today(client.branch)),
            Account.kind == AccountKind.LESSONS,
            Account.balance > 0,
        )
        .options(joinedload(Subscription.plan).selectinload(Plan.lesson_types))
        .order_by(Subscription.ends_on, Subscription.id)
    )
    extra = (
        select(Account)
        .where(
            Account.client_id == client.id,
            Account.kind == AccountKind.LESSONS,
            Account.subscription_id.is_(None),
            Account.closed_at.is_(None),
            Account.balance > 0,
        )
        .order_by(Account.lesson_type_id.is_(None), Account.id)
    )
    sources = [
        _Source(account, frozenset(one.id for one in subscription.plan.lesson_types) or None)
        for account, subscription in db.session.execute(of_subscriptions)
    ]
    sources += [
        _Source(account, frozenset([account.lesson_type_id]) if account.lesson_type_id is not None else None)
        for account in db.session.scalars(extra)
    ]
    return sources


def subscriptions_to_add_to(client: Client) -> Sequence[Subscription]:
    """Those of the client's subscriptions lessons can be added to, the one that ends last first."""
    query = (
        select(Subscription)
        .where(
            Subscription.client_id == client.id,
            Subscription.status.in_(LIVING),
            Subscription.lessons.is_not(None),
            Subscription.charge == ChargeMoment.AT_SALE,
        )
        .order_by(Subscription.ends_on.desc(), Subscription.id.desc())
    )
    return db.session.scalars(query).all()


def _account_to_add_to(subscription: Subscription, client: Client, *, by: Actor) -> Account:
    require(by, "subscription.add_lessons", subscription)
    if subscription.client_id != client.id:
        raise DomainError("subscription_foreign", _("This subscription belongs to another client."), "subscription")
    lock_subscription(subscription)
    check_living(subscription)
    if subscription.lessons is None or subscription.charge is ChargeMoment.PER_LESSON:
        raise DomainError(
            "not_counted",
            _("Lessons are added to subscriptions with a limit of lessons that are paid at the sale."),
            "subscription",
        )
    return lessons_of(subscription)


def _lock_subscriptions(client: Client) -> None:
    living = and_(Subscription.client_id == client.id, Subscription.status.in_(LIVING))
    db.session.execute(
        select(Subscription.id).where(living).order_by(Subscription.id).with_for_update(key_share=True)
    ).all()


def _checked_count(count: int | None) -> int:
    if count is None or not 0 < count <= MOST_AT_ONCE:
        raise DomainError(
            "count_invalid", _("Enter a number of lessons from 1 to %(most)s.", most=MOST_AT_ONCE), "count"
        )
    return count


def _check_in_use(client: Client) -> None:
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
