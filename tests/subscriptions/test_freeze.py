"""Freezing: the subscription rests, its end moves on by the days it rested, and what was planned happens by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.audit.models import AuditAction, AuditEntry
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NothingToDo
from crm.jobs.tasks import perform
from crm.protocol import Outcome
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Mark
from crm.subscriptions.freezing import freeze_subscription, freeze_subscriptions, resume_subscription
from crm.subscriptions.models import Subscription, SubscriptionFreeze, SubscriptionState, SubscriptionStatus
from tests.factories import Network, make_client, make_lesson, make_plan, make_subscription

NOON = datetime(2027, 1, 20, 9, tzinfo=UTC)  # of 20 January in Moscow, an hour later in Samara


def sold(branch: Branch, **changes: Any) -> Subscription:
    """Good from 2 to 31 January 2027."""
    return make_subscription(make_client(branch), make_plan(), **{"starts_on": date(2027, 1, 2), **changes})


def freeze(subscription: Subscription, **facts: Any) -> SubscriptionFreeze:
    with transaction():
        return freeze_subscription(subscription, **{"by": SYSTEM, "from_on": date(2027, 1, 20), **facts})


def resume(subscription: Subscription, on: date, **facts: Any) -> None:
    with transaction():
        resume_subscription(subscription, on=on, **{"by": SYSTEM, **facts})


def let_the_scheduler_run() -> None:
    db.session.commit()
    perform("subscriptions.freezes")
    db.session.expire_all()


def test_a_freeze_moves_the_end_on_by_its_days(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, by=network.administrator, comment=" Болеет ")
    assert (subscription.status, subscription.frozen_on) == (SubscriptionStatus.FROZEN, date(2027, 1, 20))
    assert subscription.ends_on == date(2027, 1, 31)
    assert subscription.state(date(2027, 2, 5)) is SubscriptionState.FROZEN  # not expired while it rests
    with clock.frozen(datetime(2027, 2, 5, 9, tzinfo=UTC)):
        resume(subscription, date(2027, 2, 3), by=network.administrator)
    assert (subscription.status, subscription.frozen_on) == (SubscriptionStatus.ACTIVE, None)
    assert subscription.ends_on == date(2027, 2, 14)  # twelve days were left, and are
    [kept] = subscription.freezes
    assert (kept.from_on, kept.until_on, kept.days, kept.comment) == (
        date(2027, 1, 20),
        date(2027, 2, 2),
        14,
        "Болеет",
    )
    assert (kept.author_id, kept.author_name) == (network.administrator.id, network.administrator.name)


def test_both_moves_are_in_the_audit(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, from_on=date(2027, 1, 15), by=network.administrator)
        resume(subscription, date(2027, 1, 18), by=network.administrator)
    audited = select(AuditEntry).where(AuditEntry.entity == "subscription", AuditEntry.action == AuditAction.TRANSITION)
    frozen, resumed = db.session.scalars(audited.order_by(AuditEntry.id))
    assert frozen.changes == {"status": ["active", "frozen"], "frozen_on": [None, "2027-01-15"]}
    assert resumed.changes == {
        "status": ["frozen", "active"],
        "frozen_on": ["2027-01-15", None],
        "ends_on": ["2027-01-31", "2027-02-03"],
    }


def test_the_last_day_of_january_can_still_be_frozen(network: Network) -> None:
    with clock.frozen(datetime(2027, 1, 31, 9, tzinfo=UTC)):
        subscription = sold(network.lesnoy)
        freeze(subscription, from_on=date(2027, 1, 31))
    with clock.frozen(datetime(2027, 3, 1, 9, tzinfo=UTC)):
        resume(subscription, date(2027, 3, 1))
    assert subscription.ends_on == date(2027, 3, 1)  # 29 days: the one that was left is today


@pytest.mark.parametrize("from_on", [date(2027, 1, 1), date(2027, 2, 1)])
def test_only_a_time_in_which_it_is_good_is_frozen(network: Network, from_on: date) -> None:
    with clock.frozen(NOON), pytest.raises(DomainError) as refused:
        freeze(sold(network.lesnoy), from_on=from_on)
    assert (refused.value.code, refused.value.field) == ("freeze_outside", "from_on")


def test_a_freeze_does_not_end_before_it_begins(network: Network) -> None:
    with clock.frozen(NOON), pytest.raises(DomainError) as refused:
        freeze(sold(network.lesnoy), until_on=date(2027, 1, 19))
    assert (refused.value.code, refused.value.field) == ("freeze_backwards", "until_on")


def test_freezes_do_not_overlap(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, from_on=date(2027, 1, 5), until_on=date(2027, 1, 10))
        for from_on, until_on in ((date(2027, 1, 10), date(2027, 1, 12)), (date(2027, 1, 3), date(2027, 1, 5))):
            with pytest.raises(DomainError) as refused:
                freeze(subscription, from_on=from_on, until_on=until_on)
            assert (refused.value.code, refused.value.field) == ("freeze_overlaps", "from_on")
            db.session.rollback()
        freeze(subscription, from_on=date(2027, 1, 11), until_on=date(2027, 1, 12))
    assert subscription.ends_on == date(2027, 2, 8)


def test_days_a_lesson_of_was_written_off_are_not_frozen(network: Network) -> None:
    """It began on the 19th in Moscow, though still on the 18th in UTC."""
    starts_at = datetime(2027, 1, 18, 21, 30, tzinfo=UTC)
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        lesson = make_lesson(network.lesnoy, subscription.client, starts_at=starts_at)
        (attendance,) = lesson.attendances
        with transaction():
            mark_attendance(lesson, {attendance.id: Mark.ABSENT}, by=SYSTEM)
        for from_on, until_on in ((date(2027, 1, 19), None), (date(2027, 1, 15), date(2027, 1, 19))):
            with pytest.raises(DomainError) as refused:
                freeze(subscription, from_on=from_on, until_on=until_on, by=network.administrator)
            assert (refused.value.code, refused.value.field) == ("freeze_attended", "from_on")
            assert "19.01.2027" in str(refused.value)
            db.session.rollback()
        freeze(subscription, from_on=date(2027, 1, 15), until_on=date(2027, 1, 18))
        freeze(subscription, from_on=date(2027, 1, 20))
    assert subscription.status is SubscriptionStatus.FROZEN


def test_a_lesson_given_back_is_no_reason_not_to_freeze_its_day(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        lesson = make_lesson(network.lesnoy, subscription.client, starts_at=NOON)
        (attendance,) = lesson.attendances
        for mark in (Mark.PRESENT, Mark.EXCUSED):
            with transaction():
                mark_attendance(lesson, {attendance.id: mark}, by=SYSTEM)
        freeze(subscription)
    assert subscription.status is SubscriptionStatus.FROZEN


def test_what_is_frozen_is_not_frozen_again(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription)
        with pytest.raises(DomainError) as refused:
            freeze(subscription, from_on=date(2027, 1, 19), until_on=date(2027, 1, 25))
    assert refused.value.code == "not_active"
    assert not isinstance(refused.value, NothingToDo), "the 19th would not be a day of rest"


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ((20, None), (20, None)),
        ((20, None), (21, 25)),
        ((20, 25), (20, 25)),
        ((20, 25), (22, 24)),
        ((22, 25), (22, 25)),  # planned ahead
        ((10, 15), (11, 15)),  # over
    ],
)
def test_what_rests_on_all_of_these_days_has_nothing_to_freeze(network: Network, kept: Any, asked: Any) -> None:
    def days(pair: tuple[int, int | None]) -> Any:
        from_on, until_on = (None if number is None else date(2027, 1, number) for number in pair)
        return {"from_on": from_on, "until_on": until_on}

    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, **days(kept))
        before = (subscription.status, subscription.ends_on, len(subscription.freezes))
        with transaction():
            (line,) = freeze_subscriptions([subscription.id], **days(asked), by=network.director)
    assert line.outcome is Outcome.SKIPPED
    assert f"{kept[0]}.01.2027" in str(line.reason)
    assert (subscription.status, subscription.ends_on, len(subscription.freezes)) == before


def test_a_freeze_that_is_over_only_moves_the_end(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        kept = freeze(subscription, from_on=date(2027, 1, 10), until_on=date(2027, 1, 19))
    assert (subscription.status, subscription.ends_on) == (SubscriptionStatus.ACTIVE, date(2027, 2, 10))
    assert (kept.until_on, kept.days) == (date(2027, 1, 19), 10)


def test_a_planned_freeze_begins_and_ends_by_itself_however_late(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, from_on=date(2027, 1, 25), until_on=date(2027, 1, 29))
    assert subscription.status is SubscriptionStatus.ACTIVE
    for at, status in (
        (datetime(2027, 1, 24, 20, 59, tzinfo=UTC), SubscriptionStatus.ACTIVE),
        (datetime(2027, 1, 24, 21, tzinfo=UTC), SubscriptionStatus.FROZEN),  # midnight in Moscow
        (datetime(2027, 1, 29, 20, 59, tzinfo=UTC), SubscriptionStatus.FROZEN),
        (datetime(2027, 2, 2, 9, tzinfo=UTC), SubscriptionStatus.ACTIVE),  # nothing ran for three days
    ):
        with clock.frozen(at):
            let_the_scheduler_run()
        assert subscription.status is status
    assert subscription.ends_on == date(2027, 2, 5)
    let_the_scheduler_run()
    assert (subscription.ends_on, subscription.freezes[0].days) == (date(2027, 2, 5), 5)


def test_each_branch_has_a_midnight_of_its_own(network: Network) -> None:
    with clock.frozen(NOON):
        moscow, samara = sold(network.lesnoy), sold(network.mira)
        for subscription in (moscow, samara):
            freeze(subscription, until_on=date(2027, 1, 22))
    with clock.frozen(datetime(2027, 1, 22, 20, 30, tzinfo=UTC)):  # 23:30 in Moscow, 00:30 in Samara
        let_the_scheduler_run()
    assert (moscow.status, samara.status) == (SubscriptionStatus.FROZEN, SubscriptionStatus.ACTIVE)


def test_a_freeze_without_an_end_never_ends_by_itself(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription)
    with clock.frozen(datetime(2028, 1, 1, tzinfo=UTC)):
        let_the_scheduler_run()
    assert subscription.status is SubscriptionStatus.FROZEN


def test_a_day_to_come_becomes_the_planned_end(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        kept = freeze(subscription)
        resume(subscription, date(2027, 1, 23))
    assert (subscription.status, kept.planned_until) == (SubscriptionStatus.FROZEN, date(2027, 1, 22))


def test_a_freeze_of_no_day_is_taken_back(network: Network) -> None:
    with clock.frozen(NOON):
        frozen, planned = sold(network.lesnoy), sold(network.lesnoy)
        freeze(frozen)
        resume(frozen, date(2027, 1, 20))
        freeze(planned, from_on=date(2027, 1, 25))
        resume(planned, date(2027, 1, 20))
    for subscription in (frozen, planned):
        assert (subscription.status, subscription.freezes) == (SubscriptionStatus.ACTIVE, [])
        assert subscription.ends_on == date(2027, 1, 31)


def test_it_is_not_resumed_before_it_was_frozen(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        with pytest.raises(DomainError) as refused:
            resume(subscription, date(2027, 1, 20))
        assert refused.value.code == "not_frozen"
        freeze(subscription)
        with pytest.raises(DomainError) as refused:
            resume(subscription, date(2027, 1, 19))
    assert (refused.value.code, refused.value.field) == ("resume_before_freeze", "on")


def test_of_two_resumptions_at_once_one_moves_the_end(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        freeze(subscription, from_on=date(2027, 1, 11))
        number = subscription.id

        def one(_index: int) -> str:
            resume(db.session.get_one(Subscription, number), date(2027, 1, 20))
            return "resumed"

        results = in_parallel(one, 3)
    db.session.expire_all()
    assert sorted(r.code if isinstance(r, DomainError) else r for r in results) == ["not_frozen"] * 2 + ["resumed"]
    assert subscription.ends_on == date(2027, 2, 9)


def test_who_may_not_or_does_not_see_it_freezes_nothing(network: Network) -> None:
    with clock.frozen(NOON):
        subscription = sold(network.lesnoy)
        with pytest.raises(Forbidden):
            freeze(subscription, by=network.instructor)


def test_many_are_frozen_each_with_its_line(network: Network) -> None:
    with clock.frozen(NOON):
        one, other = sold(network.lesnoy), sold(network.lesnoy, starts_on=date(2027, 1, 21))
        with transaction():
            lines = freeze_subscriptions([other.id, one.id, 10**6], from_on=date(2027, 1, 20), by=network.director)
    assert [line.id for line in lines] == [other.id, one.id, 10**6]
    assert [line.outcome for line in lines] == [Outcome.FAILED, Outcome.DONE, Outcome.FAILED]
    assert "21.01.2027" in str(lines[0].reason)
    assert (one.status, other.status) == (SubscriptionStatus.FROZEN, SubscriptionStatus.ACTIVE)
