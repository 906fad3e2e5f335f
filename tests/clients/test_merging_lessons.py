"""Two cards of one person at lessons: one place at each lesson, in each group, in the waiting list; nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Line, house_account, lessons_account, post
from crm.ledger.queries import lessons_left
from crm.schedule.enrolment import enrol
from crm.schedule.models import Attendance, GroupMember, Lesson, Mark, PreferredLesson, Trial, Waiting
from crm.schedule.trials import plan_trial
from crm.schedule.waiting import add_to_waiting_list
from crm.schedule.wishes import add_wish
from crm.subscriptions.operations import lessons_of
from crm.tasks.models import Task, TaskKind
from tests.factories import (
    make_child,
    make_client,
    make_employee,
    make_group,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_subscription,
    make_task,
)


@pytest.fixture
def two(network: Any) -> tuple[Client, Client]:
    return make_client(network.lesnoy, name="Анна Ветрова"), make_client(network.lesnoy, name="Аня Ветрова")


def merge(kept: Client, gone: Client, by: Any = SYSTEM) -> None:
    with transaction():
        merge_clients(kept, gone, by=by)
    db.session.expire_all()


def mark(client: Client, lesson: Any, to: Mark, **changes: Any) -> Attendance:
    """As if it had been marked so, without what it writes off."""
    query = select(Attendance).where(Attendance.client_id == client.id, Attendance.lesson_id == lesson.id)
    with transaction():
        attendance = db.session.scalars(query).one()
        for name, value in {"mark": to, **changes}.items():
            setattr(attendance, name, value)
    return attendance


def try_out(client: Client, lesson: Any, to: Mark = Mark.PLANNED) -> Attendance:
    """The lesson is the free one of his family."""
    attendance = mark(client, lesson, to, is_trial=True)
    with transaction():
        payer_id = client.payer_id or client.id
        db.session.add(Trial(branch_id=lesson.branch_id, payer_id=payer_id, attendance_id=attendance.id))
    return attendance


def rows(model: Any) -> list[Any]:
    return list(db.session.scalars(select(model).order_by(model.id)))


# --- lessons --------------------------------------------------------------------------------------------------------


def test_lessons_of_the_other_card_are_this_ones(network: Any, two: Any) -> None:
    kept, gone = two
    attended, coming = make_lesson(network.lesnoy, gone), make_lesson(network.lesnoy, gone)
    mark(gone, attended, Mark.PRESENT)
    merge(kept, gone, network.owner)
    assert [(row.lesson_id, row.client_id, row.mark) for row in rows(Attendance)] == [
        (attended.id, kept.id, Mark.PRESENT),
        (coming.id, kept.id, Mark.PLANNED),
    ]


@pytest.mark.parametrize(
    ("kepts", "gones", "left"),
    [
        (Mark.PLANNED, Mark.PLANNED, Mark.PLANNED),
        (Mark.CANCELED, Mark.PLANNED, Mark.PLANNED),
        (Mark.PLANNED, Mark.CANCELED, Mark.PLANNED),
        (Mark.PLANNED, Mark.EXCUSED, Mark.EXCUSED),
        (Mark.PRESENT, Mark.PLANNED, Mark.PRESENT),
        (Mark.PLANNED, Mark.PRESENT, Mark.PRESENT),
        (Mark.EXCUSED, Mark.ABSENT, Mark.ABSENT),
    ],
)
def test_of_two_places_at_a_lesson_the_one_that_says_more_is_left(
    network: Any, two: Any, kepts: Mark, gones: Mark, left: Mark
) -> None:
    kept, gone = two
    lesson = make_lesson(network.lesnoy, kept, gone)
    mark(kept, lesson, kepts)
    mark(gone, lesson, gones)
    merge(kept, gone)
    assert [(row.client_id, row.mark) for row in rows(Attendance)] == [(kept.id, left)]
    assert [row.mark for row in lesson.attendances] == [left]


@pytest.mark.parametrize("second", [Mark.PRESENT, Mark.ABSENT])
def test_two_write_offs_at_one_lesson_are_for_a_person_to_judge(network: Any, two: Any, second: Mark) -> None:
    kept, gone = two
    lesson = make_lesson(network.lesnoy, kept, gone)
    mark(kept, lesson, Mark.PRESENT)
    mark(gone, lesson, second)
    with pytest.raises(DomainError) as caught:
        merge(kept, gone)
    assert caught.value.code == "both_marked"
    assert [row.client_id for row in rows(Attendance)] == [kept.id, gone.id]
    assert gone.merged_into_id is None


# --- trial lessons --------------------------------------------------------------------------------------------------


def test_a_trial_lesson_goes_over_to_who_has_none(network: Any, two: Any) -> None:
    kept, gone = two
    planned = try_out(gone, make_lesson(network.lesnoy, gone))
    merge(kept, gone)
    assert [(trial.payer_id, trial.attendance_id) for trial in rows(Trial)] == [(kept.id, planned.id)]
    assert planned.is_trial


@pytest.mark.parametrize("is_held_by_gone", [False, True])
def test_of_two_trial_lessons_the_one_held_is_left_and_the_other_is_charged(
    network: Any, two: Any, is_held_by_gone: bool
) -> None:
    kept, gone = two
    had, to_come = (gone, kept) if is_held_by_gone else (kept, gone)
    held = try_out(had, make_lesson(network.lesnoy, had), Mark.PRESENT)
    planned = try_out(to_come, make_lesson(network.lesnoy, to_come))
    merge(kept, gone)
    assert [(trial.payer_id, trial.attendance_id) for trial in rows(Trial)] == [(kept.id, held.id)]
    assert (held.is_trial, planned.is_trial) == (True, False)


def test_two_trials_at_one_lesson_become_one(network: Any, two: Any) -> None:
    kept, gone = two
    lesson = make_lesson(network.lesnoy, kept, gone)
    try_out(kept, lesson)
    try_out(gone, lesson)
    merge(kept, gone)
    [attendance], [trial] = rows(Attendance), rows(Trial)
    assert (attendance.client_id, attendance.is_trial) == (kept.id, True)
    assert (trial.payer_id, trial.attendance_id) == (kept.id, attendance.id)


def test_a_trial_of_a_card_that_is_paid_for_from_now_on_is_its_payers(network: Any) -> None:
    payer = make_client(network.lesnoy)
    child, twin = make_child(payer), make_client(network.lesnoy, phone="", email="")
    planned = try_out(twin, make_lesson(network.lesnoy, twin))
    merge(child, twin)
    assert [(trial.payer_id, trial.attendance_id) for trial in rows(Trial)] == [(payer.id, planned.id)]


@pytest.mark.parametrize("has_kept_one", [False, True])
def test_the_trial_of_a_child_of_another_payer_is_that_of_the_family_he_comes_into(
    network: Any, has_kept_one: bool
) -> None:
    payer, other = make_client(network.lesnoy), make_client(network.lesnoy)
    child, twin = make_child(payer), make_child(other)
    if has_kept_one:
        try_out(child, make_lesson(network.lesnoy, child), Mark.PRESENT)
    held = try_out(twin, make_lesson(network.lesnoy, twin), Mark.PRESENT)
    merge(child, twin)
    [trial] = rows(Trial)
    assert trial.payer_id == payer.id
    assert (trial.attendance_id == held.id) is not has_kept_one
    with pytest.raises(DomainError) as caught:
        plan_trial(make_child(payer), make_lesson(network.lesnoy), by=SYSTEM)
    assert caught.value.code == "trial_used"


def test_a_trial_the_family_has_had_out_of_sight_counts(network: Any, two: Any) -> None:
    """Held in the branch the card was in before."""
    kept, gone = two
    there = make_lesson(network.mira)
    with transaction():
        row = Attendance(
            branch_id=there.branch_id, lesson_id=there.id, client_id=kept.id, mark=Mark.PRESENT, created_at=clock.now()
        )
        db.session.add(row)
    held = try_out(kept, there, Mark.PRESENT)
    planned = try_out(gone, make_lesson(network.lesnoy, gone))
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        merge(kept, gone)
    [trial] = rows(Trial)
    assert (trial.payer_id, trial.attendance_id) == (kept.id, held.id)
    assert not planned.is_trial


# --- groups, the waiting list, the rest -----------------------------------------------------------------------------


def test_of_two_places_in_a_group_one_is_left(network: Any) -> None:
    """At 21:30 UTC it is the next day in Samara."""
    kept, gone = make_client(network.mira), make_client(network.mira)
    both, only = make_group(network.mira), make_group(network.mira)
    with transaction():
        for group, client in ((both, kept), (both, gone), (only, gone)):
            db.session.add(
                GroupMember(
                    branch_id=network.mira.id, group_id=group.id, client_id=client.id, joined_on=date(2026, 1, 31)
                )
            )
    with clock.frozen(datetime(2026, 10, 31, 21, 30, tzinfo=UTC)):
        merge(kept, gone)
    found = [(member.group_id, member.client_id, member.left_on) for member in rows(GroupMember)]
    assert found == [
        (both.id, kept.id, None),
        (both.id, kept.id, date(2026, 11, 1)),
        (only.id, kept.id, None),
    ]


@pytest.mark.parametrize(
    ("kepts", "gones", "until"),
    [
        (date(2026, 11, 30), None, None),
        (date(2026, 11, 30), date(2026, 12, 31), date(2026, 12, 31)),
        (None, date(2026, 12, 31), None),
    ],
)
def test_a_membership_lasts_as_long_as_either(
    network: Any, two: Any, kepts: date | None, gones: date | None, until: date | None
) -> None:
    group = make_group(network.lesnoy)
    with transaction():
        for client, left_on in zip(two, (kepts, gones), strict=True):
            db.session.add(
                GroupMember(
                    branch_id=network.lesnoy.id,
                    group_id=group.id,
                    client_id=client.id,
                    joined_on=date(2026, 1, 31),
                    left_on=left_on,
                )
            )
    with clock.frozen(datetime(2026, 10, 31, 12, tzinfo=UTC)):
        merge(*two)
    assert [member.left_on for member in rows(GroupMember)] == [until, date(2026, 10, 31)]


def test_one_place_in_the_waiting_list_with_what_either_says(network: Any, two: Any) -> None:
    kept, gone = two
    instructor = make_employee(network.lesnoy)
    with transaction():
        add_to_waiting_list(kept, comment="Утром", by=SYSTEM)
        add_to_waiting_list(gone, comment="Вечером", instructor=instructor, by=SYSTEM)
    merge(kept, gone)
    [waiting] = rows(Waiting)
    assert (waiting.client_id, waiting.comment, waiting.instructor_id) == (kept.id, "Утром", instructor.id)


def test_a_place_in_the_waiting_list_comes_to_the_branch_of_the_card_that_stays(network: Any) -> None:
    kept, gone = make_client(network.lesnoy), make_client(network.rechnoy)
    with transaction():
        add_to_waiting_list(gone, by=SYSTEM)
    merge(kept, gone, network.owner)
    [waiting] = rows(Waiting)
    assert (waiting.client_id, waiting.branch_id) == (kept.id, network.lesnoy.id)


def test_calls_and_wishes_go_over(network: Any, two: Any) -> None:
    kept, gone = two
    make_task(network.lesnoy, kind=TaskKind.CALL, client=gone)
    with transaction():
        add_wish(gone, wish="По вторникам", by=SYSTEM)
    merge(kept, gone)
    assert [row.client_id for row in (*rows(Task), *rows(PreferredLesson))] == [kept.id, kept.id]


# --- what is counted ------------------------------------------------------------------------------------------------


def give(client: Client, lessons: int, lesson_type: Any) -> Account:
    """Lessons added to the client by hand."""
    with transaction():
        account = lessons_account(client.id, client.branch_id, lesson_type and lesson_type.id)
        service = house_account(AccountKind.SERVICE, client.branch_id, Unit.LESSON)
        post(
            TransactionKind.GRANT,
            [Line(account, Decimal(lessons)), Line(service, Decimal(-lessons))],
            branch_id=client.branch_id,
            by=SYSTEM,
            key=f"test:{account.id}",
        )
    return account


def test_lessons_of_one_type_come_onto_one_account(network: Any, two: Any) -> None:
    kept, gone = two
    dance, swim = make_lesson_type(), make_lesson_type()
    own, emptied, moved = give(kept, 3, dance), give(gone, 4, dance), give(gone, 2, swim)
    unknown = give(gone, 1, None)
    merge(kept, gone, network.owner)
    assert (own.balance, emptied.balance, moved.balance, unknown.balance) == (7, 0, 2, 1)
    assert emptied.is_closed
    assert {account.client_id for account in (own, emptied, moved, unknown)} == {kept.id}
    assert lessons_left(kept.id) == 10


def test_subscriptions_keep_their_lessons(network: Any, two: Any) -> None:
    kept, gone = two
    plan = make_plan(lessons=8)
    mine, theirs = make_subscription(kept, plan), make_subscription(gone, plan)
    merge(kept, gone, network.owner)
    assert [(sold.client_id, sold.lessons_left) for sold in (mine, theirs)] == [(kept.id, 8), (kept.id, 8)]
    assert lessons_of(mine).id != lessons_of(theirs).id
    assert not lessons_of(theirs).is_closed
    assert lessons_left(kept.id) == 16


def test_a_merge_beside_an_enrolment_leaves_one_place(network: Any, two: Any, in_parallel: Callable[..., Any]) -> None:
    """Whoever comes second sees what the first has done."""
    kept, gone = two
    lesson = make_lesson(network.lesnoy, kept, starts_at=clock.now() + timedelta(days=1))
    kept_id, gone_id, lesson_id = kept.id, gone.id, lesson.id

    def act(number: int) -> str:
        with transaction():
            if number:
                enrol(db.session.get_one(Lesson, lesson_id), db.session.get_one(Client, gone_id), by=SYSTEM)
            else:
                merge_clients(db.session.get_one(Client, kept_id), db.session.get_one(Client, gone_id), by=SYSTEM)
        return "done"

    answers = in_parallel(act, times=2)
    assert answers[0] == "done", answers
    assert answers[1] == "done" or isinstance(answers[1], DomainError)
    db.session.expire_all()
    assert [(row.client_id, row.mark) for row in rows(Attendance)] == [(kept_id, Mark.PLANNED)]
