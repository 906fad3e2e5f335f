"""The one free trial lesson of a payer's family."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError
from crm.ledger.models import Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.schedule.attendance import mark_attendance
from crm.schedule.enrolment import enrol, take_off
from crm.schedule.models import Attendance, GroupMember, Lesson, Mark, Trial
from crm.schedule.trials import plan_trial, trial_of
from crm.subscriptions.models import SubscriptionStatus
from tests.factories import make_child, make_client, make_group, make_lesson, make_subscription

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(DomainError) as error:
        yield
    assert error.value.code == code


def lesson_in(network: Any, **changes: Any) -> Lesson:
    return make_lesson(network.lesnoy, **{"starts_at": NOON, "group_id": make_group(network.lesnoy).id, **changes})


def planned(student: Client, lesson: Lesson, *, by: Any = SYSTEM) -> Attendance:
    with transaction():
        return plan_trial(student, lesson, by=by)


def member_at(lesson: Lesson, student: Client) -> Attendance:
    """As if he had joined the lesson's group."""
    with transaction():
        return enrol(lesson, student, by=SYSTEM, by_group=True)


def mark(*marks: tuple[Attendance, Mark]) -> None:
    lesson = db.session.get_one(Lesson, marks[0][0].lesson_id)
    with transaction():
        mark_attendance(lesson, {row.id: wanted for row, wanted in marks}, by=SYSTEM)


def owed(payer: Client) -> Any:
    account = base_account(payer.id, payer.branch_id)
    db.session.refresh(account)
    return -account.balance


def trials() -> list[tuple[int, int]]:
    return [(trial.payer_id, trial.attendance_id) for trial in db.session.scalars(select(Trial))]


# --- from the card, without a group ----------------------------------------------------------------------------------


@pytest.mark.spec("E8", "E11", "E16")
def test_planned_from_the_card_he_is_enrolled_and_in_no_group(network: Any) -> None:
    payer = make_client(network.lesnoy)
    lesson = lesson_in(network)
    attendance = planned(payer, lesson)
    assert (attendance.is_trial, attendance.by_group, attendance.mark) == (True, False, Mark.PLANNED)
    assert db.session.scalar(select(func.count()).select_from(GroupMember)) == 0
    mark((attendance, Mark.PRESENT))
    assert db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.LESSON)).all() == []
    assert owed(payer) == 0
    with refused("trial_used"):
        planned(payer, lesson_in(network))


@pytest.mark.spec("E9", "X15")
def test_one_per_payer_whichever_of_the_children_has_it(network: Any) -> None:
    payer = make_client(network.lesnoy)
    first, second = make_child(payer, name="Петя"), make_child(payer)
    planned(first, lesson_in(network))
    for other in (second, payer):
        with pytest.raises(Conflict) as error:
            planned(other, lesson_in(network))
        assert error.value.code == "trial_used"
        assert "Петя" in str(error.value)
        assert "10.03.2027" in str(error.value)
    assert trial_of(second) == trial_of(payer)
    planned(make_child(make_client(network.lesnoy)), lesson_in(network))  # another family


@pytest.mark.spec("E8", "X15")
def test_two_at_once_for_two_children_one_wins(network: Any, in_parallel: Any) -> None:
    payer = make_client(network.lesnoy)
    ids = [(make_child(payer).id, lesson_in(network).id) for _ in range(2)]

    def one(index: int) -> int:
        child_id, lesson_id = ids[index]
        with transaction():
            return plan_trial(db.session.get_one(Client, child_id), db.session.get_one(Lesson, lesson_id), by=SYSTEM).id

    results = in_parallel(one, 2)
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "int"]
    assert next(result for result in results if isinstance(result, Conflict)).code == "trial_used"
    db.session.expire_all()
    enrolled = select(func.count()).where(Attendance.mark == Mark.PLANNED)
    assert (len(trials()), db.session.scalar(enrolled)) == (1, 1)


def test_a_planned_one_is_moved_to_another_lesson(network: Any) -> None:
    student = make_client(network.lesnoy)
    before = planned(student, lesson_in(network))
    later = lesson_in(network, starts_at=NOON + timedelta(days=2))
    after = planned(student, later)
    db.session.refresh(before)
    assert (before.mark, after.mark) == (Mark.CANCELED, Mark.PLANNED)
    assert trials() == [(student.id, after.id)]


def test_taken_off_it_is_the_familys_again(network: Any) -> None:
    payer = make_client(network.lesnoy)
    attendance = planned(make_child(payer), lesson_in(network))
    with transaction():
        take_off(attendance, by=SYSTEM)
    assert trials() == []
    planned(make_child(payer), lesson_in(network))


@pytest.mark.parametrize(("missed", "is_back"), [(Mark.EXCUSED, True), (Mark.ABSENT, False)])
def test_excused_gives_it_back_absent_does_not_and_neither_costs(network: Any, missed: Mark, is_back: bool) -> None:
    payer = make_client(network.lesnoy)
    mark((planned(payer, lesson_in(network)), missed))
    assert (trials() == []) is is_back
    assert owed(payer) == 0
    if is_back:
        planned(payer, lesson_in(network))
    else:
        with refused("trial_used"):
            planned(payer, lesson_in(network))


def test_excused_by_mistake_he_has_it_again_when_he_came_after_all(network: Any) -> None:
    payer = make_client(network.lesnoy)
    attendance = planned(payer, lesson_in(network))
    for wanted in (Mark.EXCUSED, Mark.PRESENT):
        mark((attendance, wanted))
    assert (owed(payer), trials()) == (0, [(payer.id, attendance.id)])


def test_excused_and_used_by_a_brother_meanwhile_it_is_a_visit_to_pay(network: Any) -> None:
    payer = make_client(network.lesnoy)
    attendance = planned(make_child(payer), lesson_in(network))
    mark((attendance, Mark.EXCUSED))
    planned(make_child(payer), lesson_in(network))
    mark((attendance, Mark.PRESENT))
    db.session.refresh(attendance)
    assert (owed(payer), attendance.is_trial) == (700, False)


# --- by joining a group ----------------------------------------------------------------------------------------------


@pytest.mark.spec("E17", "E18")
def test_the_first_visit_of_a_new_member_is_his_trial(network: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    first, second = (member_at(lesson_in(network), child) for _ in range(2))
    mark((first, Mark.PRESENT))
    db.session.refresh(first)
    assert (first.is_trial, owed(payer), trials()) == (True, 0, [(payer.id, first.id)])
    mark((second, Mark.PRESENT))
    assert owed(payer) == 700


def test_an_absence_is_no_first_visit(network: Any) -> None:
    payer = make_client(network.lesnoy)
    first, second = (member_at(lesson_in(network), payer) for _ in range(2))
    mark((first, Mark.ABSENT))
    assert (owed(payer), trials()) == (700, [])
    mark((second, Mark.PRESENT))
    assert (owed(payer), trials()) == (700, [(payer.id, second.id)])


def test_absent_corrected_to_present_is_the_trial_and_given_back(network: Any) -> None:
    payer = make_client(network.lesnoy)
    row = member_at(lesson_in(network), payer)
    mark((row, Mark.ABSENT))
    mark((row, Mark.PRESENT))
    assert (owed(payer), trials()) == (0, [(payer.id, row.id)])
    mark((row, Mark.EXCUSED))
    db.session.refresh(row)
    assert (owed(payer), trials(), row.is_trial) == (0, [], False)


@pytest.mark.spec("X15")
def test_of_two_children_at_one_lesson_one_is_free(network: Any) -> None:
    payer = make_client(network.lesnoy)
    lesson = lesson_in(network)
    rows = [member_at(lesson, make_child(payer)) for _ in range(2)]
    mark(*((row, Mark.PRESENT) for row in rows))
    assert (owed(payer), trials()) == (700, [(payer.id, rows[0].id)])


def test_at_two_lessons_at_once_one_of_the_children_is_free(network: Any, in_parallel: Any) -> None:
    payer = make_client(network.lesnoy)
    ids = [(row.lesson_id, row.id) for row in (member_at(lesson_in(network), make_child(payer)) for _ in range(2))]

    def one(index: int) -> None:
        lesson_id, row_id = ids[index]
        with transaction():
            mark_attendance(db.session.get_one(Lesson, lesson_id), {row_id: Mark.PRESENT}, by=SYSTEM)

    assert in_parallel(one, 2) == [None, None]
    db.session.expire_all()
    assert (owed(payer), len(trials())) == (700, 1)


def test_not_for_a_family_that_has_bought_or_come_before(network: Any) -> None:
    bought, came = make_client(network.lesnoy), make_client(network.lesnoy)
    make_subscription(make_child(bought))
    mistaken = make_subscription(make_child(came))
    with transaction():
        mistaken.status = SubscriptionStatus.CANCELED  # was never theirs
    single = make_lesson(network.lesnoy, came, starts_at=NOON)
    mark((single.attendances[0], Mark.PRESENT))
    for payer in (bought, came):
        mark((member_at(lesson_in(network), make_child(payer)), Mark.PRESENT))
    assert trials() == []


def test_who_was_sold_to_by_mistake_has_his_trial(network: Any) -> None:
    payer = make_client(network.lesnoy)
    mistaken = make_subscription(payer)
    with transaction():
        mistaken.status = SubscriptionStatus.CANCELED
    row = member_at(lesson_in(network), payer)
    mark((row, Mark.PRESENT))
    assert trials() == [(payer.id, row.id)]


def test_enrolled_by_hand_he_is_no_member_and_pays(network: Any) -> None:
    payer = make_client(network.lesnoy)
    lesson = make_lesson(network.lesnoy, payer, starts_at=NOON)
    mark((lesson.attendances[0], Mark.PRESENT))
    assert (owed(payer), trials()) == (700, [])


@pytest.mark.spec("E15")
def test_the_group_of_the_trial_need_not_be_the_one_he_joins(network: Any) -> None:
    payer = make_client(network.lesnoy)
    mark((planned(payer, lesson_in(network)), Mark.PRESENT))
    row = member_at(lesson_in(network), payer)
    mark((row, Mark.PRESENT))
    db.session.refresh(row)
    assert (row.is_trial, owed(payer)) == (False, 700)
