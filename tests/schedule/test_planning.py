"""Planning lessons at once: what stands in the way, whom it enrols, what it costs, and two who plan the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, Role, User
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.catalogue.models import LessonFormat, LessonType, Room
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.schedule.enrolment import enrol, take_off
from crm.schedule.groups import join_group
from crm.schedule.lessons import cancel_lesson, create_lesson
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonSeries, LessonStatus, Mark, Waiting
from crm.schedule.planning import LessonPlan, Moved, PlannedLine, lesson_types_for, plan_lessons, preview_plan
from crm.schedule.recurrence import Recurrence, RepeatUnit
from crm.tasks.models import Task, TaskKind
from tests.factories import (
    make_booking,
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_room,
    make_subscription,
    make_user,
)

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)  # a Monday, noon in Moscow
TUESDAY = date(2026, 12, 1)
TEN = datetime(2026, 12, 1, 7, tzinfo=UTC)  # ten in Moscow


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def room(network: Any) -> Room:
    return make_room(network.lesnoy)


@pytest.fixture
def plan(network: Any, room: Room) -> LessonPlan:
    """Three Tuesdays at ten in a room, for whoever enrols."""
    return LessonPlan(network.lesnoy, weekly(), make_lesson_type(), room=room)


def weekly(**changes: Any) -> Recurrence:
    facts = {"starts_on": TUESDAY, "time": time(10), "minutes": 60, "count": 3, **changes}
    return Recurrence(**facts)


def codes(lines: list[PlannedLine]) -> list[str | None]:
    return [line.refusal.code if line.refusal else None for line in lines]


def said(line: PlannedLine) -> str:
    assert line.refusal is not None
    return line.refusal.text


def carried_out(plan: LessonPlan, **options: Any) -> Any:
    with transaction():
        return plan_lessons(plan, **{"by": SYSTEM, **options})


def attendances(client: Client) -> list[Attendance]:
    return list(db.session.scalars(select(Attendance).where(Attendance.client_id == client.id).order_by(Attendance.id)))


# --- a series -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C37")
def test_lessons_of_months_are_planned_at_once(network: Any, plan: LessonPlan) -> None:
    rule = weekly(weekdays=(1, 3), count=None, until=date(2027, 2, 28))
    done = carried_out(replace(plan, rule=rule, capacity=6, instructor=network.employee), by=network.administrator)
    lessons = db.session.scalars(select(Lesson).order_by(Lesson.starts_at)).all()
    assert len(lessons) == len(done.lessons) == 26
    first = lessons[0]
    assert (first.starts_at, first.ends_at) == (TEN, TEN + timedelta(hours=1))
    assert (first.room, first.instructor, first.capacity) == (plan.room, network.employee, 6)
    assert (first.lesson_type, first.status, first.author_id) == (
        plan.lesson_type,
        LessonStatus.PLANNED,
        network.administrator.id,
    )
    series = db.session.scalars(select(LessonSeries)).one()
    assert {lesson.series_id for lesson in lessons} == {series.id}
    assert series.rule == rule.as_json()
    told = select(func.count()).where(AuditEntry.entity.in_(["lesson", "lesson_series"]))
    assert db.session.scalar(told) == 1


def test_ten_oclock_stays_ten_oclock_when_the_clock_changes(network: Any, plan: LessonPlan) -> None:
    with transaction():
        network.lesnoy.time_zone = "Europe/Berlin"
    done = carried_out(replace(plan, rule=weekly(starts_on=date(2027, 3, 24), count=2)))
    assert [lesson.starts_at for lesson in done.lessons] == [
        datetime(2027, 3, 24, 9, tzinfo=UTC),
        datetime(2027, 3, 31, 8, tzinfo=UTC),
    ]


def test_late_lessons_are_of_the_branchs_day(network: Any, plan: LessonPlan) -> None:
    late = replace(plan, rule=weekly(time=time(23, 30), minutes=30, count=1))
    with transaction():
        network.lesnoy.working_hours = {"1": ["09:00", "00:00"]}
    assert codes(preview_plan(late, by=SYSTEM)) == [None]
    make_holiday(network.lesnoy, TUESDAY)
    assert codes(preview_plan(late, by=SYSTEM)) == ["closed"]


def test_a_fixed_number_of_statements_however_many_lessons(network: Any, plan: LessonPlan) -> None:
    group, further = make_group(network.lesnoy, lesson_type=plan.lesson_type), make_room(network.lesnoy)
    with transaction():
        network.company.has_parallel_rooms = True
        join_group(group, make_client(network.lesnoy), by=SYSTEM)
    counts = []
    for number, count in enumerate((25, 250)):
        client = make_client(network.lesnoy)
        rule = weekly(unit=RepeatUnit.DAY, count=count)
        at = replace(plan, rule=replace(rule, time=time(8 + number)), further_rooms=(further,))
        for one in (replace(at, group=group), replace(at, room=make_room(network.lesnoy), client=client)):
            if one.client is not None:
                one = replace(one, further_rooms=())
            db.session.expire_all()
            statements: list[str] = []

            def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any, into: Any = statements) -> None:
                into.append(statement)

            event.listen(db.engine, "before_cursor_execute", note)
            try:
                assert carried_out(one).count == count
            finally:
                event.remove(db.engine, "before_cursor_execute", note)
            counts.append(len(statements))
    assert counts[:2] == counts[2:]
    assert db.session.scalar(select(func.count()).select_from(Attendance)) == 2 * 275


# --- what stands in the way -----------------------------------------------------------------------------------------


@pytest.mark.spec("C43")
def test_a_closed_centre_is_told(network: Any, plan: LessonPlan) -> None:
    make_holiday(network.lesnoy, date(2026, 12, 8))
    lines = preview_plan(plan, by=network.administrator)
    assert codes(lines) == [None, "closed", None]
    assert said(lines[1]).startswith("в указанное время центр не работает")
    with transaction():
        network.lesnoy.working_hours = {"1": ["10:30", "21:00"]}
    assert codes(preview_plan(plan, by=network.administrator)) == ["closed"] * 3


@pytest.mark.spec("C44")
def test_a_booking_is_told(network: Any, plan: LessonPlan) -> None:
    assert plan.room
    make_booking(plan.room, starts_at=TEN + timedelta(minutes=30))
    make_booking(plan.room, starts_at=TEN + timedelta(days=7, hours=1))  # begins when the lesson ends
    make_booking(make_room(network.lesnoy), starts_at=TEN + timedelta(days=14))
    lines = preview_plan(plan, by=network.administrator)
    assert codes(lines) == ["booked", None, None]
    assert said(lines[0]) == "в указанное время стоит бронь"


@pytest.mark.spec("C45")
def test_a_full_lesson_is_told(network: Any, plan: LessonPlan) -> None:
    make_lesson(
        *(network.lesnoy, make_client(network.lesnoy), make_client(network.lesnoy)),
        starts_at=TEN,
        room=plan.room,
        lesson_type=plan.lesson_type,
        capacity=2,
    )
    wanted = replace(plan, client=make_client(network.lesnoy))
    lines = preview_plan(wanted, by=network.administrator)
    assert codes(lines) == ["lesson_full", None, None]
    assert said(lines[0]) == "в занятии набрано максимальное количество человек"


@pytest.mark.spec("C45")
def test_a_group_larger_than_its_lesson_is_told(network: Any, plan: LessonPlan) -> None:
    group = make_group(network.lesnoy, lesson_type=plan.lesson_type)
    with transaction():
        join_group(group, make_client(network.lesnoy), by=SYSTEM)
        join_group(group, make_client(network.lesnoy), on=date(2026, 12, 8), by=SYSTEM)
    lines = preview_plan(replace(plan, group=group, capacity=1), by=network.administrator)
    assert codes(lines) == [None, "lesson_full", "lesson_full"]
    assert said(lines[1]) == "максимальное количество человек будет превышено после планирования"


@pytest.mark.spec("C46")
def test_a_lesson_that_takes_nobody_is_told(network: Any, plan: LessonPlan) -> None:
    make_lesson(network.lesnoy, starts_at=TEN, room=plan.room, lesson_type=plan.lesson_type, takes_nobody=True)
    lines = preview_plan(replace(plan, client=make_client(network.lesnoy)), by=network.administrator)
    assert codes(lines) == ["takes_nobody", None, None]
    assert "никого не добавлять на занятие" in said(lines[0])


@pytest.mark.spec("C47")
def test_a_client_who_is_enrolled_already_is_told(network: Any, plan: LessonPlan) -> None:
    client = make_client(network.lesnoy)
    lesson = make_lesson(network.lesnoy, client, starts_at=TEN, room=plan.room, lesson_type=plan.lesson_type)
    make_lesson(network.lesnoy, client, starts_at=TEN + timedelta(days=7, minutes=59))
    lines = preview_plan(replace(plan, client=client), by=network.administrator)
    assert codes(lines) == ["enrolled_already", "client_busy", None]
    assert said(lines[0]) == "клиент уже записан на данное занятие"
    with transaction():
        take_off(lesson.attendances[0], by=SYSTEM)
    assert codes(preview_plan(replace(plan, client=client), by=network.administrator))[0] is None


def test_a_room_and_an_instructor_have_one_lesson_at_a_time(network: Any, plan: LessonPlan) -> None:
    make_lesson(network.lesnoy, starts_at=TEN - timedelta(minutes=30), room=plan.room)
    make_lesson(network.lesnoy, starts_at=TEN + timedelta(days=7), instructor=network.employee)
    canceled = make_lesson(network.lesnoy, starts_at=TEN + timedelta(days=14), room=plan.room)
    with transaction():
        cancel_lesson(canceled, by=SYSTEM)
    lines = preview_plan(replace(plan, instructor=network.employee), by=network.administrator)
    assert codes(lines) == ["room_taken", "instructor_busy", None]


def test_a_group_has_one_lesson_at_a_time(network: Any, plan: LessonPlan) -> None:
    group = make_group(network.lesnoy, lesson_type=plan.lesson_type)
    make_lesson(network.lesnoy, starts_at=TEN, group=group)
    assert codes(preview_plan(replace(plan, group=group), by=SYSTEM)) == ["group_busy", None, None]


@pytest.mark.spec("C39", "C135")
def test_a_director_plans_into_the_past_and_an_administrator_does_not(network: Any, plan: LessonPlan) -> None:
    past = replace(plan, rule=weekly(starts_on=date(2026, 11, 24), count=2))
    assert codes(preview_plan(past, by=network.administrator)) == ["past", None]
    assert codes(preview_plan(past, by=network.director)) == [None, None]
    done = carried_out(past, by=network.director)
    assert done.lessons[0].starts_at < NOW
    only = replace(past, rule=weekly(starts_on=date(2026, 11, 24), count=1, time=time(12)))
    with pytest.raises(DomainError) as caught:
        carried_out(only, by=network.administrator)
    assert caught.value.code == "nothing_planned"


@pytest.mark.spec("C38")
def test_falling_on_an_individual_lesson_leaves_a_task(network: Any, plan: LessonPlan) -> None:
    individual = make_lesson_type(LessonFormat.INDIVIDUAL)
    there = make_lesson(network.lesnoy, starts_at=TEN, room=plan.room, lesson_type=individual)
    theirs = make_lesson(
        network.lesnoy, starts_at=TEN + timedelta(days=7), instructor=network.employee, lesson_type=individual
    )
    wanted = replace(plan, instructor=network.employee)
    lines = preview_plan(wanted, by=network.administrator)
    assert [(line.is_ok, line.meets) for line in lines] == [(True, there.id), (True, theirs.id), (True, None)]
    done = carried_out(wanted, by=network.administrator)
    assert (done.count, done.tasks) == (3, 2)
    tasks = db.session.scalars(select(Task).order_by(Task.id)).all()
    assert [(task.kind, task.lesson_id, task.branch_id) for task in tasks] == [
        (TaskKind.CORRECTION, there.id, network.lesnoy.id),
        (TaskKind.CORRECTION, theirs.id, network.lesnoy.id),
    ]
    assert "01.12.2026 10:00" in tasks[0].text


@pytest.mark.spec("C48")
def test_one_lesson_goes_to_another_room_day_or_time(network: Any, plan: LessonPlan) -> None:
    other = make_room(network.lesnoy)
    make_holiday(network.lesnoy, date(2026, 12, 8))
    assert plan.room
    make_booking(plan.room, starts_at=TEN)
    make_booking(plan.room, starts_at=TEN + timedelta(days=14))
    assert codes(preview_plan(plan, by=SYSTEM)) == ["booked", "closed", "booked"]
    moved = {
        TUESDAY: Moved(room=other),
        date(2026, 12, 8): Moved(day=date(2026, 12, 9)),
        date(2026, 12, 15): Moved(time=time(12)),
    }
    lines = preview_plan(replace(plan, moved=moved), by=SYSTEM)
    assert codes(lines) == [None, None, None]
    done = carried_out(replace(plan, moved=moved))
    assert [(lesson.room, lesson.starts_at) for lesson in done.lessons] == [
        (other, TEN),
        (plan.room, TEN + timedelta(days=8)),
        (plan.room, TEN + timedelta(days=14, hours=2)),
    ]
    skipped = replace(plan, moved={**moved, TUESDAY: Moved(is_skipped=True)}, room=other)
    assert len(preview_plan(skipped, by=SYSTEM)) == 2


def test_lessons_of_one_plan_stand_in_each_others_way(network: Any, plan: LessonPlan) -> None:
    moved = {date(2026, 12, 8): Moved(day=TUESDAY)}
    assert codes(preview_plan(replace(plan, moved=moved), by=SYSTEM)) == [None, "room_taken", None]
    for_client = replace(plan, client=make_client(network.lesnoy), room=None, moved=moved)
    assert codes(preview_plan(for_client, by=SYSTEM)) == [None, "client_busy", None]


def test_those_that_can_be_are_planned_and_the_others_told(network: Any, plan: LessonPlan) -> None:
    make_holiday(network.lesnoy, date(2026, 12, 8))
    done = carried_out(plan)
    assert len(done.lessons) == 2
    assert [line.on for line in done.refused] == [date(2026, 12, 8)]


# --- whom it enrols -------------------------------------------------------------------------------------------------


@pytest.mark.spec("C19", "C33")
def test_lessons_for_a_client_enrol_him(network: Any, plan: LessonPlan) -> None:
    client = make_client(network.lesnoy)
    carried_out(replace(plan, client=client), by=network.administrator)
    rows = attendances(client)
    assert [(row.lesson.starts_at, row.mark, row.by_group) for row in rows] == [
        (TEN + timedelta(weeks=number), Mark.PLANNED, False) for number in range(3)
    ]
    assert {row.author_id for row in rows} == {network.administrator.id}


def test_a_client_joins_the_lesson_that_stands_there(network: Any, plan: LessonPlan) -> None:
    group, client = make_group(network.lesnoy, lesson_type=plan.lesson_type), make_client(network.lesnoy)
    standing = make_lesson(
        network.lesnoy, starts_at=TEN, room=plan.room, lesson_type=plan.lesson_type, group=group, capacity=2
    )
    again = make_lesson(
        network.lesnoy, client, starts_at=TEN + timedelta(days=7), room=plan.room, lesson_type=plan.lesson_type
    )
    with transaction():
        take_off(again.attendances[0], by=SYSTEM)
    done = carried_out(replace(plan, client=client), by=network.administrator)
    assert (list(done.joined), len(done.lessons)) == ([standing.id, again.id], 1)
    assert [row.mark for row in attendances(client)] == [Mark.PLANNED] * 3
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 3


def test_a_lesson_of_another_type_subject_or_instructor_is_not_joined(network: Any, plan: LessonPlan) -> None:
    other = make_employee(network.lesnoy)
    make_lesson(network.lesnoy, starts_at=TEN, room=plan.room)
    make_lesson(
        *(network.lesnoy,),
        starts_at=TEN + timedelta(days=7),
        room=plan.room,
        lesson_type=plan.lesson_type,
        instructor=other,
    )
    wanted = replace(plan, client=make_client(network.lesnoy), instructor=network.employee)
    assert codes(preview_plan(wanted, by=SYSTEM)) == ["room_taken", "room_taken", None]


def test_lessons_of_a_group_have_its_members(network: Any, plan: LessonPlan) -> None:
    group, client = make_group(network.lesnoy, lesson_type=plan.lesson_type), make_client(network.lesnoy)
    with transaction():
        join_group(group, client, on=date(2026, 12, 8), by=SYSTEM)
    done = carried_out(replace(plan, group=group), by=network.administrator)
    assert [lesson.group_id for lesson in done.lessons] == [group.id] * 3
    assert [(row.lesson_id, row.by_group) for row in attendances(client)] == [
        (lesson.id, True) for lesson in done.lessons[1:]
    ]


def test_who_waited_waits_no_longer(network: Any, plan: LessonPlan) -> None:
    client, other = make_client(network.lesnoy), make_employee(network.lesnoy)
    with transaction():
        waiting = Waiting(branch_id=network.lesnoy.id, client_id=client.id, instructor_id=other.id, added_at=NOW)
        db.session.add(waiting)
    carried_out(replace(plan, client=client, instructor=network.employee))
    assert db.session.scalar(select(func.count()).select_from(Waiting)) == 1
    carried_out(replace(plan, client=client, instructor=other, rule=weekly(time=time(12))))
    assert db.session.scalar(select(func.count()).select_from(Waiting)) == 0


def test_an_individual_lesson_takes_one_and_no_lesson_more_than_its_room(network: Any, plan: LessonPlan) -> None:
    small = make_room(network.lesnoy, capacity=4)
    [one] = carried_out(
        replace(plan, rule=weekly(count=1), lesson_type=make_lesson_type(LessonFormat.INDIVIDUAL))
    ).lessons
    [four] = carried_out(replace(plan, rule=weekly(count=1), room=small, capacity=10)).lessons
    assert (one.capacity, four.capacity) == (1, 4)


@pytest.mark.spec("C49")
def test_a_lesson_in_parallel_rooms_is_one_lesson_and_a_booking(network: Any, plan: LessonPlan) -> None:
    second = make_room(network.lesnoy)
    wanted = replace(plan, further_rooms=(second,), client=make_client(network.lesnoy))
    with pytest.raises(DomainError) as caught:
        carried_out(wanted)
    assert (caught.value.code, caught.value.field) == ("rooms_not_parallel", "further_rooms")
    with transaction():
        network.company.has_parallel_rooms = True
    done = carried_out(wanted)
    bookings = db.session.scalars(select(Booking).order_by(Booking.starts_at)).all()
    assert [(one.room_id, one.lesson_id, one.starts_at, one.ends_at) for one in bookings] == [
        (second.id, lesson.id, lesson.starts_at, lesson.ends_at) for lesson in done.lessons
    ]
    assert codes(preview_plan(replace(plan, room=second), by=SYSTEM)) == ["booked"] * 3
    make_booking(second, starts_at=TEN + timedelta(hours=2))
    later = replace(wanted, rule=weekly(time=time(12)), client=None)
    assert codes(preview_plan(later, by=SYSTEM)) == ["booked", None, None]


# --- who may, and what is wrong for all -----------------------------------------------------------------------------


def test_who_may_not_and_who_works_elsewhere_is_refused(network: Any, plan: LessonPlan) -> None:
    for user in (network.manager, network.instructor):
        with pytest.raises(Forbidden):
            plan_lessons(plan, by=user)
    with scoped_to(Scope(frozenset({network.mira.id}))), pytest.raises(NotFound):
        plan_lessons(plan, by=network.administrator)


def test_what_is_wrong_for_all_is_refused_beside_its_field(network: Any, plan: LessonPlan) -> None:
    foreign, archived = make_client(network.mira), make_client(network.lesnoy)
    with transaction():
        archive_client(archived, by=SYSTEM)
    for changes, field in (
        ({"room": make_room(network.mira)}, "room"),
        ({"room": make_room(network.lesnoy, is_archived=True)}, "room"),
        ({"moved": {TUESDAY: Moved(room=make_room(network.mira))}}, "room"),
        ({"instructor": make_employee(network.mira)}, "instructor"),
        ({"instructor": make_employee(network.lesnoy, teaches=False)}, "instructor"),
        ({"capacity": 0}, "capacity"),
        ({"lesson_type": make_lesson_type(is_archived=True)}, "lesson_type"),
        ({"client": foreign}, None),
        ({"client": archived}, None),
        ({"group": make_group(network.lesnoy, is_archived=True)}, None),
    ):
        with pytest.raises(DomainError) as caught:
            preview_plan(replace(plan, **changes), by=SYSTEM)
        assert caught.value.field == field


@pytest.mark.spec("C41")
def test_types_are_asked_for_where_something_is_good_for_any(network: Any) -> None:
    first, second, client = make_lesson_type(), make_lesson_type(), make_client(network.lesnoy)
    offered = lesson_types_for(client, [first, second])
    assert (list(offered.types), offered.is_asked) == ([first, second], True)  # the network's plan is good for any
    make_subscription(client, make_plan(lesson_types=[second]))
    offered = lesson_types_for(client, [first, second])
    assert (list(offered.types), offered.is_asked) == ([second], False)
    make_subscription(client, make_plan())
    assert lesson_types_for(client, [first, second]).is_asked


# --- at once --------------------------------------------------------------------------------------------------------


def test_of_two_who_plan_the_same_one_wins(network: Any, plan: LessonPlan, in_parallel: Any) -> None:
    branch_id, room_id, type_id = plan.branch.id, plan.room.id if plan.room else 0, plan.lesson_type.id
    user = make_user(Role.ADMINISTRATOR, branches=[network.lesnoy]).id

    def one(_index: int) -> int:
        with transaction():
            mine = replace(
                plan,
                branch=db.session.get_one(Branch, branch_id),
                room=db.session.get_one(Room, room_id),
                lesson_type=db.session.get_one(LessonType, type_id),
            )
            by = db.session.get_one(User, user)
            return plan_lessons(mine, by=by, shown=tokens).count

    tokens = [line.token for line in preview_plan(plan, by=SYSTEM)]
    results = in_parallel(one, times=4)
    assert sorted(result for result in results if isinstance(result, int)) == [3]
    lost = [result for result in results if not isinstance(result, int)]
    assert {getattr(error, "code", error) for error in lost} == {"plan_changed"}
    assert isinstance(lost[0], Conflict)
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 3


def test_of_two_who_take_the_last_place_one_wins(network: Any, plan: LessonPlan, in_parallel: Any) -> None:
    make_lesson(network.lesnoy, starts_at=TEN, room=plan.room, lesson_type=plan.lesson_type, capacity=1)
    clients = [make_client(network.lesnoy).id for _number in range(3)]
    branch_id, room_id, type_id = plan.branch.id, plan.room.id if plan.room else 0, plan.lesson_type.id

    def one(index: int) -> int:
        with transaction():
            client = db.session.get_one(Client, clients[index])
            if index == 0:  # at the lesson's own page
                lesson = db.session.scalars(select(Lesson)).one()
                enrol(lesson, client, by=SYSTEM)
                return 1
            mine = LessonPlan(
                db.session.get_one(Branch, branch_id),
                weekly(count=1),
                db.session.get_one(LessonType, type_id),
                room=db.session.get_one(Room, room_id),
                client=client,
            )
            return plan_lessons(mine, by=SYSTEM).count

    results = in_parallel(one, times=3)
    assert [result for result in results if isinstance(result, int)] == [1]
    assert db.session.scalar(select(func.count()).select_from(Attendance)) == 1


def test_a_room_taken_by_a_single_lesson_meanwhile_is_told(network: Any, plan: LessonPlan) -> None:
    tokens, lesson_type = [line.token for line in preview_plan(plan, by=SYSTEM)], make_lesson_type()
    with transaction():
        create_lesson(plan.branch, lesson_type, starts_at=TEN, room=plan.room, by=SYSTEM)
    with pytest.raises(Conflict) as caught:
        carried_out(plan, shown=tokens)
    assert "01.12.2026 10:00" in str(caught.value)
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 1


def test_a_card_archived_meanwhile_is_planned_nothing(network: Any, plan: LessonPlan) -> None:
    """Somebody archives it while the form is being read: the session still has it as it was."""
    client = make_client(network.lesnoy)
    lesson = make_lesson(network.lesnoy)
    for do in (
        lambda: plan_lessons(replace(plan, client=client), by=SYSTEM),
        lambda: enrol(lesson, client, by=SYSTEM),
        lambda: join_group(make_group(network.lesnoy), client, by=SYSTEM),
    ):
        assert client.status is ClientStatus.ACTIVE
        db.session.execute(update(Client.__table__).values(status=ClientStatus.ARCHIVED))
        with pytest.raises(DomainError) as caught:
            do()
        assert caught.value.code == "client_archived"
        db.session.rollback()
    assert attendances(client) == []


def test_lessons_of_a_group_beside_the_archiving_of_a_member(network: Any, plan: LessonPlan, in_parallel: Any) -> None:
    """Whoever comes second sees what the first has done."""
    client, group = make_client(network.lesnoy), make_group(network.lesnoy, lesson_type=plan.lesson_type)
    with transaction():
        join_group(group, client, by=SYSTEM)
    facts = (network.lesnoy.id, plan.lesson_type.id, group.id, client.id)

    def act(index: int) -> None:
        branch_id, type_id, group_id, client_id = facts
        with transaction():
            if index == 0:
                archive_client(db.session.get_one(Client, client_id), by=SYSTEM)
                return
            mine = LessonPlan(
                db.session.get_one(Branch, branch_id),
                weekly(time=time(9 + index)),
                db.session.get_one(LessonType, type_id),
                group=db.session.get_one(ClientGroup, group_id),
            )
            plan_lessons(mine, by=SYSTEM)

    assert in_parallel(act, times=4) == [None] * 4
    assert Mark.PLANNED not in {one.mark for one in attendances(client)}
