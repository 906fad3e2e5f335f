"""Freezes: a time in which a subscription rests, and which moves its end on. One planned ahead begins by itself, one
with a planned end ends by itself, each at midnight of its branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.models import Branch
from crm.audit.operations import transition
from crm.db import db
from crm.errors import DomainError, NothingToDo
from crm.i18n import day
from crm.protocol import ProtocolLine
from crm.subscriptions.models import (
    SUBSCRIPTION_MOVES,
    Subscription,
    SubscriptionFreeze,
    SubscriptionStatus,
)
from crm.subscriptions.operations import LONGEST_DAYS, each_of, lock_subscription

ONE_DAY = timedelta(days=1)
# Checks of domains above, which enter themselves: fn(subscription, from_on, until_on or None) raises DomainError when
# the subscription was used in that time.
BEFORE_FREEZE: list[Callable[[Subscription, date, date | None], None]] = []


def freeze_subscription(
    subscription: Subscription, *, from_on: date, until_on: date | None = None, comment: str = "", by: Actor
) -> SubscriptionFreeze:
    """Let a subscription rest from one day until another, both included; without the other until it is resumed. Its end
    moves on by the days it rested, once they are known to be over. The caller commits.

    From a day to come on it begins by itself; one that is over already only moves the end. Raises DomainError beside
    `from_on` or `until_on`: "freeze_outside", "freeze_backwards", "freeze_too_long", "freeze_overlaps",
    "freeze_attended"; "not_active" when it is frozen already, or no longer good; NothingToDo "frozen_already" when it
    rests on all of these days anyway.
    """
    require(by, "subscription.freeze", subscription)
    lock_subscription(subscription)
    _check_not_resting(subscription, from_on, until_on)
    if subscription.status is not SubscriptionStatus.ACTIVE:
        raise DomainError(
            "not_active", _("The subscription is “%(status)s”: it is not frozen.", status=subscription.status.label)
        )
    _check_days(subscription, from_on, until_on)
    for check in BEFORE_FREEZE:
        check(subscription, from_on, until_on)
    freeze = SubscriptionFreeze(
        subscription_id=subscription.id,
        from_on=from_on,
        planned_until=until_on,
        comment=comment.strip(),
        author_id=by.id,
        author_name=str(by.name),
        created_at=clock.now(),
    )
    db.session.add(freeze)
    db.session.flush()
    _keep_up(freeze, subscription, clock.today(subscription.branch), by=by)
    db.session.expire(subscription, ["freezes"])
    return freeze


def resume_subscription(subscription: Subscription, *, on: date, by: Actor) -> Subscription:
    """Let a frozen subscription go on: `on` is the first day it is good again, and its end moves on by the days it has
    rested. A day to come is noted as the freeze's planned end. A freeze that is to rest no day, one planned ahead too,
    is taken back whole. The caller commits.

    Raises DomainError "not_frozen", or beside `on` "resume_before_freeze" and "freeze_too_long".
    """
    require(by, "subscription.freeze", subscription)
    return lift_freeze(subscription, on=on, by=by)


def lift_freeze(subscription: Subscription, *, on: date, by: Actor) -> Subscription:
    """resume_subscription() as a part of a verb with a permission of its own."""
    lock_subscription(subscription)
    freeze = open_freeze_of(subscription)
    if freeze is None or subscription.status not in {SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN}:
        raise DomainError("not_frozen", _("The subscription is not frozen."))
    is_begun = subscription.status is SubscriptionStatus.FROZEN
    if is_begun and on < freeze.from_on:
        raise DomainError(
            "resume_before_freeze",
            _("It has been frozen since %(day)s: enter no earlier day.", day=day(freeze.from_on)),
            "on",
        )
    if (on - freeze.from_on).days > LONGEST_DAYS:
        raise DomainError("freeze_too_long", _("Enter %(most)s days at most.", most=LONGEST_DAYS), "on")
    if on <= freeze.from_on:
        _take_back(freeze, subscription, by=by)
    elif is_begun and on <= clock.today(subscription.branch):
        _end(freeze, subscription, on - ONE_DAY, by=by)
    else:
        freeze.planned_until = on - ONE_DAY
        db.session.flush()
    db.session.expire(subscription, ["freezes"])
    return subscription


def open_freeze_of(subscription: Subscription) -> SubscriptionFreeze | None:
    """The freeze that lasts, or is planned ahead; None when there is neither."""
    query = select(SubscriptionFreeze).where(
        SubscriptionFreeze.subscription_id == subscription.id, SubscriptionFreeze.until_on.is_(None)
    )
    return db.session.scalar(query)


def freeze_subscriptions(
    ids: Sequence[int], *, from_on: date, until_on: date | None = None, comment: str = "", by: Actor
) -> list[ProtocolLine]:
    """freeze_subscription() for many; one line per id, in the order given. The caller commits."""
    require(by, "subscription.freeze")
    return each_of(
        ids,
        lambda subscription: freeze_subscription(
            subscription, from_on=from_on, until_on=until_on, comment=comment, by=by
        ),
    )


def due_freezes(today: date | None = None) -> list[int]:
    """Ids of the subscriptions a freeze of which is to begin or to end by now, in the order of their locks, for
    keep_freeze(). However late that is, a freeze is as long as it was planned. today: each branch's own by default.
    """
    due: list[int] = []
    for branch in db.session.scalars(select(Branch)):
        here = today or clock.today(branch)
        begins = (Subscription.status == SubscriptionStatus.ACTIVE) & (SubscriptionFreeze.from_on <= here)
        ends = (Subscription.status == SubscriptionStatus.FROZEN) & (SubscriptionFreeze.planned_until < here)
        query = (
            select(Subscription.id)
            .join(SubscriptionFreeze, SubscriptionFreeze.subscription_id == Subscription.id)
            .where(Subscription.branch_id == branch.id, SubscriptionFreeze.until_on.is_(None), begins | ends)
        )
        due += db.session.scalars(query)
    return sorted(due)


def keep_freeze(subscription_id: int, today: date | None = None, *, by: Actor = SYSTEM) -> None:
    """Begin or end the freeze of one of due_freezes(), if it is still due. The caller commits."""
    subscription = db.session.get_one(Subscription, subscription_id, options=[joinedload(Subscription.branch)])
    lock_subscription(subscription)
    freeze = open_freeze_of(subscription)
    if freeze is not None:
        _keep_up(freeze, subscription, today or clock.today(subscription.branch), by=by)
        db.session.expire(subscription, ["freezes"])


def _check_not_resting(subscription: Subscription, from_on: date, until_on: date | None) -> None:
    is_good = subscription.status in {SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN}
    if not is_good or (until_on is not None and until_on < from_on):
        return
    query = select(SubscriptionFreeze).where(
        SubscriptionFreeze.subscription_id == subscription.id, SubscriptionFreeze.from_on <= from_on
    )
    for freeze in db.session.scalars(query.order_by(SubscriptionFreeze.from_on)):
        last = freeze.until_on or freeze.planned_until
        if last is None or (until_on is not None and until_on <= last):
            raise NothingToDo("frozen_already", _frozen_then(freeze), "from_on")


def _frozen_then(freeze: SubscriptionFreeze) -> str:
    days = f"{day(freeze.from_on)} – {day(freeze.until_on or freeze.planned_until)}"
    return _("It is frozen at that time already: %(days)s.", days=days)


def _check_days(subscription: Subscription, from_on: date, until_on: date | None) -> None:
    if not subscription.starts_on <= from_on <= subscription.ends_on:
        raise DomainError(
            "freeze_outside",
            _(
                "A freeze begins while the subscription is good: from %(start)s to %(end)s.",
                start=day(subscription.starts_on),
                end=day(subscription.ends_on),
            ),
            "from_on",
        )
    if until_on is not None:
        if until_on < from_on:
            raise DomainError("freeze_backwards", _("The end of the freeze is before its beginning."), "until_on")
        if (until_on - from_on).days >= LONGEST_DAYS:
            raise DomainError("freeze_too_long", _("Enter %(most)s days at most.", most=LONGEST_DAYS), "until_on")
    query = select(SubscriptionFreeze).where(SubscriptionFreeze.subscription_id == subscription.id)
    for other in db.session.scalars(query.order_by(SubscriptionFreeze.from_on)):
        last = other.until_on or other.planned_until
        if (last is None or last >= from_on) and (until_on is None or other.from_on <= until_on):
            raise DomainError("freeze_overlaps", _frozen_then(other), "from_on")
        if other.until_on is None:
            raise DomainError(
                "freeze_planned",
                _("A freeze from %(start)s is planned already: resume that one first.", start=day(other.from_on)),
                "from_on",
            )


def _keep_up(freeze: SubscriptionFreeze, subscription: Subscription, today: date, *, by: Actor) -> None:
    """Bring the subscription to where its freeze has it on a day: frozen, or moved on and good again."""
    if freeze.from_on > today:
        return
    if subscription.status is SubscriptionStatus.ACTIVE:
        transition(subscription, SUBSCRIPTION_MOVES, SubscriptionStatus.FROZEN, by=by, frozen_on=freeze.from_on)
    if subscription.status is SubscriptionStatus.FROZEN and freeze.planned_until and freeze.planned_until < today:
        _end(freeze, subscription, freeze.planned_until, by=by)


def _end(freeze: SubscriptionFreeze, subscription: Subscription, until_on: date, *, by: Actor) -> None:
    freeze.until_on, freeze.days = until_on, (until_on - freeze.from_on).days + 1
    most = (date.max - subscription.ends_on).days
    ends_on = subscription.ends_on + timedelta(days=min(freeze.days, most))
    transition(subscription, SUBSCRIPTION_MOVES, SubscriptionStatus.ACTIVE, by=by, frozen_on=None, ends_on=ends_on)


def _take_back(freeze: SubscriptionFreeze, subscription: Subscription, *, by: Actor) -> None:
    db.session.delete(freeze)
    if subscription.status is SubscriptionStatus.FROZEN:
        transition(subscription, SUBSCRIPTION_MOVES, SubscriptionStatus.ACTIVE, by=by, frozen_on=None)
    else:
        db.session.flush()
