"""One lesson: making it, changing it or it and the following of its series, canceling."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditAction, AuditEntry
from crm.catalogue.models import LessonFormat
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.schedule.lessons import (
    cancel_following,
    cancel_lesson,
    cancel_lessons,
    change_following,
    change_lesson,
    create_lesson,
    further_rooms_of,
)
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonStatus, Mark, Trial
from crm.schedule.planning import LessonPlan, plan_lessons
from crm.schedule.recurrence import Recurrence
from tests.admin.world import errors, fields, send
from tests.factories import (
    make_booking,
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_lesson,
    make_lesson_type,
    make_room,
)

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
TEN = datetime(2026, 12, 1, 7, tzinfo=UTC)  # ten in Moscow
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def room(network: Any) -> Any:
    return make_room(network.lesnoy)


@pytest.fixture
def lesson(network: Any, room: Any) -> Lesson:
    return make_lesson(network.lesnoy, starts_at=TEN, room=room, instructor=network.employee)


@pytest.fixture
def series(network: Any, room: Any) -> list[Lesson]:
    """Four Tuesdays at ten for a client."""
    rule = Recurrence(date(2026, 12, 1), time(10), 60, count=4)
    plan = LessonPlan(network.lesnoy, rule, make_lesson_type(), room=room, client=make_client(network.lesnoy))
    with transaction():
        return list(plan_lessons(plan, by=SYSTEM).lessons)


def refused(change: Any) -> DomainError:
    with pytest.raises(DomainError) as caught, transaction():
        change()
    return caught.value


def mark(lesson: Lesson, to: Mark) -> None:
    with transaction():
        lesson.attendances[0].mark = to


# --- making ---------------------------------------------------------------------------------------------------------


def test_a_lesson_is_made_where_nothing_stands_in_its_way(network: Any, room: Any) -> None:
    lesson_type = make_lesson_type(LessonFormat.INDIVIDUAL, duration_minutes=45)
    facts: Any = {"starts_at": TEN, "room": room, "instructor": network.employee, "topic": " Времена глаголов "}
    with transaction():
        made = create_lesson(network.lesnoy, lesson_type, **facts, by=network.administrator)
    assert (made.ends_at, made.capacity, made.topic) == (TEN + timedelta(minutes=45), 1, "Времена глаголов")
    assert (made.status, made.author_id) == (LessonStatus.PLANNED, network.administrator.id)
    again = refused(lambda: create_lesson(network.lesnoy, lesson_type, **facts, by=network.administrator))
    assert (again.code, again.field) == ("room_taken", "room")
    past: Any = {"starts_at": NOW - timedelta(hours=1)}
    assert refused(lambda: create_lesson(network.lesnoy, lesson_type, **past, by=network.administrator)).code == "past"


# --- changing -------------------------------------------------------------------------------------------------------


def test_a_lesson_is_changed(network: Any, lesson: Lesson) -> None:
    other, instructor = make_room(network.lesnoy, capacity=8), make_employee(network.lesnoy)
    with transaction():
        change_lesson(
            lesson,
            starts_at=TEN + timedelta(hours=3),
            minutes=90,
            room=other,
            instructor=instructor,
            capacity=20,
            takes_nobody=True,
            topic="Повторение",
            by=network.administrator,
        )
    db.session.refresh(lesson)
    assert (lesson.starts_at, lesson.ends_at) == (TEN + timedelta(hours=3), TEN + timedelta(hours=4, minutes=30))
    assert (lesson.room, lesson.instructor, lesson.capacity) == (other, instructor, 8)
    assert (lesson.takes_nobody, lesson.topic) == (True, "Повторение")


@pytest.mark.spec("C43", "C44")
def test_a_change_meets_the_same_refusals(network: Any, room: Any, lesson: Lesson) -> None:
    by, other, busy = network.administrator, make_room(network.lesnoy), make_employee(network.lesnoy)
    make_holiday(network.lesnoy, date(2026, 12, 8))
    make_booking(other, starts_at=TEN)
    make_lesson(network.lesnoy, starts_at=TEN + 2 * WEEK, room=room)
    make_lesson(network.lesnoy, starts_at=TEN, instructor=busy)
    client = make_client(network.lesnoy, name="Анна")
    for starts_at in (TEN + 3 * WEEK, TEN + timedelta(hours=5)):
        make_lesson(network.lesnoy, client, starts_at=starts_at)
    enrolled = make_lesson(network.lesnoy, client, starts_at=TEN + timedelta(hours=8))
    for changes, code, field in (
        ({"starts_at": TEN + WEEK}, "closed", "starts_at"),
        ({"starts_at": NOW - timedelta(hours=2)}, "past", "starts_at"),
        ({"room": other}, "booked", "room"),
        ({"starts_at": TEN + 2 * WEEK + timedelta(minutes=59)}, "room_taken", "room"),
        ({"instructor": busy}, "instructor_busy", "instructor"),
        ({"room": make_room(network.mira)}, "room_unavailable", "room"),
        ({"instructor": make_employee(network.mira)}, "instructor_unavailable", "instructor"),
        ({"minutes": 0}, "minutes_invalid", "minutes"),
        ({"capacity": 0}, "capacity_invalid", "capacity"),
    ):
        error = refused(lambda changes=changes: change_lesson(lesson, **changes, by=by))
        assert (error.code, error.field) == (code, field)
    error = refused(lambda: change_lesson(enrolled, starts_at=TEN + 3 * WEEK, by=by))
    assert error.code == "client_busy"
    assert "Анна" in str(error)
    assert lesson.starts_at == TEN


def test_what_does_not_change_is_not_asked_of_again(network: Any, lesson: Lesson) -> None:
    make_holiday(network.lesnoy, date(2026, 12, 1))
    with transaction():
        network.employee.is_active = False
        change_lesson(lesson, starts_at=TEN, instructor=network.employee, topic="Урок", by=network.administrator)
        change_lesson(lesson, instructor=make_employee(network.lesnoy), by=network.administrator)
    assert lesson.topic == "Урок"


def test_there_stays_a_place_for_each(network: Any) -> None:
    people = [make_client(network.lesnoy) for _number in range(3)]
    lesson = make_lesson(network.lesnoy, *people, starts_at=TEN)
    small = make_room(network.lesnoy, capacity=2)
    for changes in ({"capacity": 2}, {"room": small}):
        error = refused(lambda changes=changes: change_lesson(lesson, **changes, by=network.administrator))
        assert (error.code, error.field) == ("capacity_small", "capacity")
    with transaction():
        change_lesson(lesson, capacity=3, by=network.administrator)


def test_of_a_held_lesson_only_the_topic_changes(network: Any, lesson: Lesson) -> None:
    with transaction():
        lesson.status = LessonStatus.HELD
    assert refused(lambda: change_lesson(lesson, capacity=3, by=network.administrator)).code == "lesson_over"
    with transaction():
        change_lesson(lesson, capacity=None, topic="Прошли", by=network.administrator)
    assert lesson.topic == "Прошли"


@pytest.mark.spec("C49")
def test_second_rooms_move_and_are_freed_with_the_lesson(network: Any, room: Any, lesson: Lesson) -> None:
    second, third = make_room(network.lesnoy), make_room(network.lesnoy)
    by = network.administrator
    assert refused(lambda: change_lesson(lesson, further_rooms=[second], by=by)).code == "rooms_not_parallel"
    with transaction():
        network.company.has_parallel_rooms = True
        change_lesson(lesson, further_rooms=[second, third], by=by)
    assert further_rooms_of(lesson) == [second, third]
    assert refused(lambda: change_lesson(lesson, further_rooms=[room], by=by)).code == "rooms_wrong"
    with transaction():
        change_lesson(lesson, starts_at=TEN + timedelta(minutes=30), further_rooms=[third], by=by)
    [booking] = db.session.scalars(select(Booking)).all()
    assert (booking.room_id, booking.starts_at, booking.ends_at) == (third.id, lesson.starts_at, lesson.ends_at)
    make_booking(third, starts_at=TEN + timedelta(hours=4))
    error = refused(lambda: change_lesson(lesson, starts_at=TEN + timedelta(hours=4), by=by))
    assert error.code == "booked"
    with transaction():
        cancel_lesson(lesson, by=by)
    assert db.session.scalars(select(Booking.lesson_id)).all() == [None]


# --- a series -------------------------------------------------------------------------------------------------------


def test_the_following_of_a_series_change_with_it(network: Any, series: list[Lesson]) -> None:
    by, other = network.administrator, make_room(network.lesnoy)
    later = timedelta(days=1, hours=1, minutes=30)  # Wednesday, half past eleven
    with transaction():
        change_lesson(series[2], room=other, by=by)
        facts: Any = {"starts_at": TEN + WEEK + later, "capacity": 5, "room": series[1].room}
        moved = change_following(series[1], **facts, by=by)
    assert [one.id for one in moved] == [one.id for one in series[1:]]
    assert [one.starts_at for one in series] == [
        TEN,
        *(TEN + number * WEEK + later for number in (1, 2, 3)),
    ]
    assert [one.capacity for one in series] == [None, 5, 5, 5]
    assert series[2].room == other  # what was chosen for one alone stays


def test_a_series_keeps_its_hour_when_the_clock_changes(network: Any, room: Any) -> None:
    with transaction():
        network.lesnoy.time_zone = "Europe/Berlin"
    rule = Recurrence(date(2027, 3, 24), time(10), 60, count=2)
    with transaction():
        lessons = plan_lessons(LessonPlan(network.lesnoy, rule, make_lesson_type(), room=room), by=SYSTEM).lessons
    with transaction():
        change_following(lessons[0], starts_at=datetime(2027, 3, 24, 11, tzinfo=UTC), by=network.administrator)
    assert [clock.local(one.starts_at, network.lesnoy).hour for one in lessons] == [12, 12]


def test_all_of_a_series_move_or_none(network: Any, room: Any, series: list[Lesson]) -> None:
    make_booking(room, starts_at=TEN + 2 * WEEK + timedelta(hours=2))
    error = refused(lambda: change_following(series[0], starts_at=TEN + timedelta(hours=2), by=network.administrator))
    assert error.code == "booked"
    assert "15.12.2026 12:00" in str(error)
    assert [one.starts_at for one in series] == [TEN + number * WEEK for number in range(4)]
    with transaction():  # onto its own next one, which moves as well
        change_following(series[0], starts_at=TEN + WEEK, by=network.administrator)
    assert series[0].starts_at == TEN + WEEK


# --- canceling ------------------------------------------------------------------------------------------------------


def test_nobody_is_expected_at_a_canceled_lesson(network: Any) -> None:
    people = [make_client(network.lesnoy) for _number in range(2)]
    lesson = make_lesson(network.lesnoy, *people, starts_at=TEN)
    with transaction():
        first, second = lesson.attendances
        first.is_trial, second.mark = True, Mark.EXCUSED
        db.session.add(Trial(branch_id=lesson.branch_id, payer_id=people[0].id, attendance_id=first.id))
    with transaction():
        cancel_lesson(lesson, by=network.administrator)
    assert lesson.status is LessonStatus.CANCELED
    assert [(one.mark, one.is_trial) for one in (first, second)] == [(Mark.CANCELED, False), (Mark.EXCUSED, False)]
    assert db.session.scalar(select(func.count()).select_from(Trial)) == 0
    told = select(AuditEntry).where(AuditEntry.entity == "lesson", AuditEntry.action == AuditAction.TRANSITION)
    assert db.session.scalars(told).one().changes == {"status": ["planned", "canceled"]}
    assert isinstance(refused(lambda: cancel_lesson(lesson, by=network.administrator)), Conflict)
    with transaction():
        (line,) = cancel_lessons([lesson.id], by=network.administrator)
    assert line.outcome.value == "skipped"


@pytest.mark.parametrize("to", [Mark.PRESENT, Mark.ABSENT])
def test_marks_are_changed_before_a_lesson_is_canceled(network: Any, series: list[Lesson], to: Mark) -> None:
    mark(series[1], to)
    assert refused(lambda: cancel_lesson(series[1], by=network.administrator)).code == "marks_first"
    with transaction():
        lines = cancel_following(series[0], by=network.administrator)
    assert [line.outcome.value for line in lines] == ["done", "failed", "done", "done"]
    assert [one.status for one in series] == [
        LessonStatus.CANCELED,
        LessonStatus.PLANNED,
        LessonStatus.CANCELED,
        LessonStatus.CANCELED,
    ]
    marks = {row.lesson_id: row.mark for row in db.session.scalars(select(Attendance))}
    assert [marks[one.id] for one in series] == [Mark.CANCELED, to, Mark.CANCELED, Mark.CANCELED]


@pytest.mark.parametrize("to", [Mark.PRESENT, Mark.ABSENT])
def test_a_marked_lesson_stays_on_its_day(network: Any, series: list[Lesson], to: Mark) -> None:
    """What covers it, and whether it may be marked at all, was decided by the day."""
    mark(series[1], to)
    for move in (
        lambda: change_lesson(series[1], starts_at=series[1].starts_at + timedelta(days=1), by=network.administrator),
        lambda: change_following(series[0], starts_at=TEN + timedelta(days=1), by=network.administrator),
    ):
        error = refused(move)
        assert (error.code, error.field) == ("marks_first", "starts_at")
    assert [one.starts_at for one in series] == [TEN + number * WEEK for number in range(4)]
    with transaction():
        change_lesson(series[1], starts_at=series[1].starts_at + timedelta(hours=1), by=network.administrator)
    mark(series[1], Mark.EXCUSED)
    with transaction():
        change_lesson(series[1], starts_at=series[1].starts_at + timedelta(days=1), by=network.administrator)
    assert series[1].starts_at == TEN + WEEK + timedelta(days=1, hours=1)


def test_the_rest_of_a_series_is_canceled_and_what_was_before_stays(network: Any, series: list[Lesson]) -> None:
    with transaction():
        cancel_following(series[2], by=network.administrator)
    assert [one.status.value for one in series] == ["planned", "planned", "canceled", "canceled"]


def test_of_two_who_cancel_and_change_one_loses(network: Any, series: list[Lesson], in_parallel: Any) -> None:
    number = series[0].id

    def one(index: int) -> str:
        with transaction():
            mine = db.session.get_one(Lesson, number)
            if index:
                cancel_lesson(mine, by=SYSTEM)
                return "canceled"
            change_lesson(mine, capacity=7, by=SYSTEM)
            return "changed"

    results = in_parallel(one, times=3)
    assert results.count("canceled") == 1
    lost = [result for result in results if not isinstance(result, str)]
    assert {error.code for error in lost} == {"lesson_over"}
    assert db.session.scalars(select(Lesson.status).where(Lesson.id == number)).one() is LessonStatus.CANCELED


def test_of_two_who_move_to_the_same_time_one_wins(network: Any, room: Any, in_parallel: Any) -> None:
    """Of two rooms: one instructor."""
    facts: Any = {"instructor": network.employee}
    first = make_lesson(network.lesnoy, starts_at=TEN, room=room, **facts)
    second = make_lesson(network.lesnoy, starts_at=TEN + timedelta(hours=4), room=make_room(network.lesnoy), **facts)
    numbers = [first.id, second.id]

    def one(index: int) -> str:
        with transaction():
            change_lesson(db.session.get_one(Lesson, numbers[index]), starts_at=TEN + timedelta(hours=8), by=SYSTEM)
        return "moved"

    results = in_parallel(one, times=2)
    assert results.count("moved") == 1
    assert {error.code for error in results if not isinstance(error, str)} == {"instructor_busy"}


@pytest.mark.parametrize("is_group", [False, True])
def test_of_two_moves_of_one_client_or_group_to_one_time_one_wins(
    network: Any, is_group: bool, in_parallel: Any
) -> None:
    """In two rooms, with two instructors."""
    client, group = make_client(network.lesnoy), make_group(network.lesnoy)
    facts: Any = {"group": group, "lesson_type": group.lesson_type} if is_group else {}
    numbers = [
        make_lesson(
            network.lesnoy,
            *([] if is_group else [client]),
            starts_at=TEN + timedelta(hours=2 * number),
            room=make_room(network.lesnoy),
            instructor=make_employee(network.lesnoy),
            **facts,
        ).id
        for number in range(3)
    ]

    def one(index: int) -> str:
        with transaction():
            change_lesson(db.session.get_one(Lesson, numbers[index]), starts_at=TEN + timedelta(hours=8), by=SYSTEM)
        return "moved"

    results = in_parallel(one, times=3)
    assert results.count("moved") == 1, results
    assert {error.code for error in results if not isinstance(error, str)} == {
        "group_busy" if is_group else "client_busy"
    }


def test_of_two_lessons_of_a_group_at_one_time_one_is_made(network: Any, in_parallel: Any) -> None:
    group_id, branch_id = make_group(network.lesnoy).id, network.lesnoy.id

    def one(_index: int) -> str:
        with transaction():
            branch, group = db.session.get_one(Branch, branch_id), db.session.get_one(ClientGroup, group_id)
            create_lesson(branch, group.lesson_type, group=group, starts_at=TEN, by=SYSTEM)
        return "made"

    results = in_parallel(one, times=3)
    assert results.count("made") == 1, results
    assert {error.code for error in results if not isinstance(error, str)} == {"group_busy"}


def test_who_may_not_and_who_works_elsewhere_is_refused(network: Any, lesson: Lesson) -> None:
    for user in (network.manager, network.instructor):
        for forbidden in (
            lambda user=user: change_lesson(lesson, topic="x", by=user),
            lambda user=user: change_following(lesson, topic="x", by=user),
            lambda user=user: cancel_lesson(lesson, by=user),
            lambda user=user: cancel_lessons([lesson.id], by=user),
            lambda user=user: create_lesson(network.lesnoy, lesson.lesson_type, starts_at=TEN, by=user),
        ):
            assert isinstance(refused(forbidden), Forbidden)
    with scoped_to(Scope(frozenset({network.mira.id}))):
        for hidden in (
            lambda: change_lesson(lesson, topic="x", by=network.administrator),
            lambda: cancel_following(lesson, by=network.administrator),
        ):
            with pytest.raises(NotFound):
                hidden()
        assert [line.reason is None for line in cancel_lessons([lesson.id], by=network.administrator)] == [False]


# --- the screens ----------------------------------------------------------------------------------------------------


def test_the_form_changes_one_or_the_following(network: Any, web: Any, series: list[Lesson]) -> None:
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/lesson/edit/?id={series[1].id}"
    asked = fields(browser.get(path).text)
    assert (asked["starts_at"], asked["minutes"], asked["scope"]) == ("2026-12-08T10:00", "60", "one")
    assert send(browser, path, topic="Урок", minutes="90").status_code == 302
    assert send(browser, path, scope="following", capacity="4").status_code == 302
    db.session.expire_all()
    assert [(one.topic, one.capacity) for one in series] == [("", None), ("Урок", 4), ("", 4), ("", 4)]
    assert [(one.ends_at - one.starts_at).seconds // 60 for one in series] == [60, 90, 60, 60]
    make_holiday(network.lesnoy, date(2026, 12, 9))
    answer = send(browser, path, starts_at="2026-12-09T10:00")
    assert answer.status_code == 422
    assert "в указанное время центр не работает" in errors(answer.text)["starts_at"]
    assert fields(answer.text)["starts_at"] == "2026-12-09T10:00"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00", "9999-12-31T23:59", "1899-12-31T23:59", "2200-01-01T00:00"])
def test_a_year_that_cannot_be_meant_is_told(network: Any, web: Any, lesson: Lesson, moment: str) -> None:
    answer = send(
        web(network.director, network.lesnoy), f"/admin/lesson/edit/?id={lesson.id}", starts_at=moment, minutes="90"
    )
    assert answer.status_code == 422
    assert "от 1900 до 2199" in errors(answer.text)["starts_at"]
    db.session.expire_all()
    assert lesson.starts_at == TEN


def test_a_lesson_is_canceled_after_a_question(network: Any, web: Any, series: list[Lesson]) -> None:
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/lesson/cancel/?id={series[1].id}"
    assert "Отменить занятие" in browser.get(path).text
    assert send(browser, path, scope="following").status_code == 302
    db.session.expire_all()
    assert [one.status.value for one in series] == ["planned", "canceled", "canceled", "canceled"]
    mark(series[0], Mark.PRESENT)
    answer = send(browser, f"/admin/lesson/cancel/?id={series[0].id}")
    assert answer.status_code == 422
    assert "сначала измените" in errors(answer.text)[""]
    assert web(network.instructor, network.lesnoy).get(path).status_code == 403
