"""Which subscription a lesson is written off from."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.catalogue.models import LessonType, Subject
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Line, house_account, lessons_account, post
from crm.subscriptions.coverage import Coverage, LessonFacts, find_coverage
from crm.subscriptions.freezing import freeze_subscription, resume_subscription
from crm.subscriptions.models import SubscriptionStatus
from crm.subscriptions.operations import lessons_of
from tests.factories import make_client, make_lesson_type, make_plan, make_subject, make_subscription

DAY = date(2027, 3, 10)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Any:
    with clock.frozen(datetime(2027, 3, 10, 12, tzinfo=UTC)):
        yield


@pytest.fixture
def lesson(network: Any) -> LessonFacts:
    return LessonFacts(make_lesson_type().id, make_subject().id, DAY)


def covering(client: Any, lesson: LessonFacts) -> Coverage | None:
    db.session.expire_all()
    return find_coverage([client.id], lesson).get(client.id)


def chosen(client: Any, lesson: LessonFacts) -> Any:
    found = covering(client, lesson)
    return found.subscription if found else None


def use_up(subscription: Any) -> None:
    count = Decimal(subscription.lessons)
    give(lessons_of(subscription), -count)


def give(account: Account, count: Decimal | int) -> None:
    granted = house_account(AccountKind.SERVICE, account.branch_id, Unit.LESSON)
    with transaction():
        lines = [Line(account, Decimal(count)), Line(granted, -Decimal(count))]
        post(TransactionKind.GRANT, lines, branch_id=account.branch_id, by=SYSTEM)


def test_nothing_covers_who_has_bought_nothing(network: Any, lesson: LessonFacts) -> None:
    assert find_coverage([make_client(network.lesnoy).id], lesson) == {}


def test_the_one_that_ends_first_then_the_older(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    later = make_subscription(client, make_plan(duration_days=60))
    sooner, same = (make_subscription(client, make_plan(duration_days=30)) for _ in range(2))
    assert chosen(client, lesson) == sooner
    use_up(sooner)
    assert chosen(client, lesson) == same
    use_up(same)
    assert chosen(client, lesson) == later
    found = covering(client, lesson)
    assert found is not None
    assert found.left == 8


def test_its_days_count_both_included(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(duration_days=10)
    make_subscription(client, plan, starts_on=DAY - timedelta(days=10))  # over yesterday
    make_subscription(client, plan, starts_on=DAY + timedelta(days=1))
    assert chosen(client, lesson) is None
    last_day = make_subscription(client, plan, starts_on=DAY - timedelta(days=9))
    assert chosen(client, lesson) == last_day


def test_a_plan_for_other_types_or_subjects_is_passed_over(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(lesson_types=[make_lesson_type()]))
    make_subscription(client, make_plan(subjects=[make_subject()]))
    assert chosen(client, lesson) is None
    own_type = make_plan(duration_days=20)
    with transaction():
        own_type.lesson_types = [db.session.get_one(LessonType, lesson.lesson_type_id)]
        own_type.subjects = [make_subject(), db.session.get_one(Subject, lesson.subject_id)]
    good = make_subscription(client, own_type)
    assert chosen(client, lesson) == good
    assert chosen(client, LessonFacts(lesson.lesson_type_id, None, DAY)) is None


def test_an_unlimited_one_takes_no_lessons(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    unlimited = make_subscription(client, make_plan(lessons=None))
    assert covering(client, lesson) == Coverage(unlimited, None)


@pytest.mark.parametrize(
    ("status", "is_good"),
    [
        (SubscriptionStatus.RETURNED, False),
        (SubscriptionStatus.CANCELED, False),
        (SubscriptionStatus.ARCHIVED, False),
        (SubscriptionStatus.ACTIVE, True),
    ],
)
def test_only_those_in_use(network: Any, lesson: LessonFacts, status: SubscriptionStatus, is_good: bool) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    with transaction():
        subscription.status = status
    assert (chosen(client, lesson) is not None) is is_good


def test_a_freeze_covers_its_days_and_no_others(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client, starts_on=DAY - timedelta(days=5))
    with transaction():
        freeze_subscription(subscription, from_on=DAY - timedelta(days=2), by=SYSTEM)
    assert chosen(client, lesson) is None
    # What was held before it is written off as if nothing had happened.
    assert chosen(client, LessonFacts(lesson.lesson_type_id, lesson.subject_id, DAY - timedelta(days=3)))
    with transaction():
        resume_subscription(subscription, on=DAY, by=SYSTEM)
    assert chosen(client, lesson) == subscription
    assert chosen(client, LessonFacts(lesson.lesson_type_id, lesson.subject_id, DAY - timedelta(days=1))) is None


def test_extra_lessons_of_the_type_then_those_of_none(network: Any, lesson: LessonFacts) -> None:
    client = make_client(network.lesnoy)
    imported = lessons_account(client.id, client.branch_id)
    of_type = lessons_account(client.id, client.branch_id, lesson.lesson_type_id)
    of_another = lessons_account(client.id, client.branch_id, make_lesson_type().id)
    for account in (imported, of_type, of_another):
        give(account, 1)
    assert covering(client, lesson) == Coverage(None, of_type)
    subscription = make_subscription(client)
    assert chosen(client, lesson) == subscription
    use_up(subscription)
    give(of_type, -1)
    assert covering(client, lesson) == Coverage(None, imported)
    give(imported, -1)
    assert covering(client, lesson) is None


def test_a_group_of_any_size_in_the_same_statements(network: Any, lesson: LessonFacts, statements: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(6)]
    for client in clients:
        make_subscription(client)
    few, many = [client.id for client in clients[:2]], [client.id for client in clients]
    with statements() as for_few:
        find_coverage(few, lesson)
    db.session.expire_all()
    with statements() as for_many:
        assert len(find_coverage(many, lesson)) == 6
    assert len(for_many) == len(for_few)
