"""What a calendar reads: lessons of a branch's days, places taken, bookings, hours; and at what cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.db import db, insert_rows, transaction
from crm.schedule.enrolment import take_off
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.schedule.queries import closed_between, lessons_between, lessons_in_sight
from tests.factories import (
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_lesson,
    make_lesson_type,
    make_room,
    make_subject,
)

DAY = date(2026, 12, 7)  # a Monday


def at(branch: Any, day: date = DAY, hour: int = 10, minute: int = 0) -> datetime:
    return clock.at(day, time(hour, minute), branch)


def statements(function: Any) -> int:
    count = 0

    def note(*_args: Any) -> None:
        nonlocal count
        count += 1

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        function()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    return count


def test_a_lesson_with_what_a_calendar_shows(network: Any) -> None:
    group, room, subject = make_group(network.lesnoy, name="Старшие"), make_room(network.lesnoy), make_subject()
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    lesson = make_lesson(
        network.lesnoy,
        client,
        other,
        starts_at=at(network.lesnoy),
        group=group,
        room=room,
        subject=subject,
        instructor=network.employee,
        capacity=8,
    )
    with transaction():
        take_off(lesson.attendances[1], by=SYSTEM)
    [line] = lessons_between(network.lesnoy, DAY, DAY)
    assert (line.id, line.starts_at, line.taken, line.capacity) == (lesson.id, lesson.starts_at, 1, 8)
    assert (line.group, line.room, line.subject, line.instructor) == ("Старшие", room.name, subject.name, "Вера Тренер")
    assert line.client_id is None  # of a group: nobody's own
    with transaction():
        lesson.group = None
    assert lessons_between(network.lesnoy, DAY, DAY)[0].client_id == client.id


def test_days_are_those_of_the_branch(network: Any) -> None:
    """Samara is an hour ahead: its Monday begins at eight in the evening of Sunday, UTC."""
    inside = [
        make_lesson(network.mira, starts_at=moment).id
        for moment in (datetime(2026, 12, 6, 20, 0, tzinfo=UTC), datetime(2026, 12, 7, 19, 30, tzinfo=UTC))
    ]
    for moment in (datetime(2026, 12, 6, 19, 30, tzinfo=UTC), datetime(2026, 12, 7, 20, 0, tzinfo=UTC)):
        make_lesson(network.mira, starts_at=moment)
    assert [line.id for line in lessons_between(network.mira, DAY, DAY)] == inside
    assert lessons_between(network.lesnoy, DAY, DAY) == []


def test_only_of_what_is_asked_for(network: Any) -> None:
    room, group, kind = make_room(network.lesnoy), make_group(network.lesnoy), make_lesson_type()
    wanted = make_lesson(
        network.lesnoy,
        starts_at=at(network.lesnoy),
        room=room,
        group=group,
        lesson_type=kind,
        instructor=network.employee,
    )
    make_lesson(network.lesnoy, starts_at=at(network.lesnoy))
    for asked in (
        {"rooms": [room.id]},
        {"groups": [group.id]},
        {"lesson_types": [kind.id]},
        {"instructors": [network.employee.id]},
    ):
        assert [line.id for line in lessons_between(network.lesnoy, DAY, DAY, **asked)] == [wanted.id]


def test_who_sees_his_own_lessons_only(network: Any) -> None:
    own = make_employee(network.lesnoy, user_id=network.instructor.id)
    mine = make_lesson(network.lesnoy, starts_at=at(network.lesnoy), instructor=own)
    make_lesson(network.lesnoy, starts_at=at(network.lesnoy), instructor=network.employee)
    make_lesson(network.lesnoy, starts_at=at(network.lesnoy))
    found = lessons_between(network.lesnoy, DAY, DAY, only=lessons_in_sight(network.instructor))
    assert [line.id for line in found] == [mine.id]
    assert len(lessons_between(network.lesnoy, DAY, DAY, only=lessons_in_sight(network.manager))) == 3


def test_a_foreign_branch_has_no_lessons(network: Any) -> None:
    make_lesson(network.mira, make_client(network.mira), starts_at=at(network.mira))
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert lessons_between(network.mira, DAY, DAY) == []


def test_hours_and_holidays(network: Any) -> None:
    assert closed_between(network.lesnoy, DAY, DAY + timedelta(6)) == {}  # never closed
    network.lesnoy.working_hours = {"0": ["09:00", "21:00"], "1": ["00:00", "00:00"], "3": ["10:00", "00:00"]}
    make_holiday(network.lesnoy, DAY + timedelta(3), name="Ремонт")
    make_holiday(network.mira, DAY)
    closed = closed_between(network.lesnoy, DAY, DAY + timedelta(3))
    assert (closed[DAY].opens, closed[DAY].closes, closed[DAY].is_whole) == (time(9), time(21), False)
    assert DAY + timedelta(1) not in closed  # round the clock
    assert closed[DAY + timedelta(2)].is_whole
    assert (closed[DAY + timedelta(3)].is_whole, closed[DAY + timedelta(3)].name) == (True, "Ремонт")


def many_lessons(network: Any, count: int, *, rooms: int = 20) -> None:
    """Lessons of a week, two people at each."""
    branch = network.lesnoy
    places = [make_room(branch, position=number) for number in range(rooms)]
    teachers = [make_employee(branch) for _ in range(rooms)]
    groups = [make_group(branch) for _ in range(5)]
    people = [make_client(branch) for _ in range(2)]
    start = at(branch, hour=8)
    rows = []
    for number in range(count):
        day, slot, place = number % 7, (number // 7) // rooms % 15, (number // 7) % rooms
        begins = start + timedelta(days=day, hours=slot)
        rows.append(
            {
                "branch_id": branch.id,
                "lesson_type_id": groups[0].lesson_type_id,
                "group_id": groups[number % 5].id if number % 3 else None,
                "room_id": places[place].id,
                "instructor_id": teachers[place].id,
                "starts_at": begins,
                "ends_at": begins + timedelta(minutes=55),
                "capacity": 8,
                "takes_nobody": False,
                "topic": "",
                "status": LessonStatus.PLANNED,
                "created_at": clock.now(),
                "version": 1,
            }
        )
    with transaction():
        insert_rows(Lesson, rows)
        ids = list(db.session.scalars(db.select(Lesson.id)))
        same = {"branch_id": branch.id, "mark": Mark.PLANNED, "is_trial": False, "by_group": True, "version": 1}
        same["created_at"] = clock.now()
        insert_rows(Attendance, [{"lesson_id": id, "client_id": person.id, **same} for id in ids for person in people])


def test_two_statements_however_many_lessons(network: Any) -> None:
    make_lesson(network.lesnoy, starts_at=at(network.lesnoy))
    db.session.refresh(network.lesnoy)
    one = statements(lambda: lessons_between(network.lesnoy, DAY, DAY + timedelta(6)))
    many_lessons(network, 200, rooms=5)
    db.session.refresh(network.lesnoy)
    assert statements(lambda: lessons_between(network.lesnoy, DAY, DAY + timedelta(6))) == one == 2


@pytest.mark.parametrize("asked", ["span=week&by=room", "span=week&by=instructor", "span=day", "span=month"])
def test_a_full_week_costs_no_more_queries_than_an_empty_one(network: Any, web: Any, asked: str) -> None:
    """The page of a branch with 2 000 lessons a week; how long it takes is told by `make bench`."""
    browser = web(network.administrator, network.lesnoy)
    make_room(network.lesnoy), make_employee(network.lesnoy)
    make_lesson(network.lesnoy, make_client(network.lesnoy), starts_at=at(network.lesnoy))
    url = f"/admin/lesson/calendar/?{asked}&day={DAY}"
    browser.get(url)
    few = statements(lambda: browser.get(url))
    many_lessons(network, 2000)
    browser.get(url)
    many = statements(lambda: browser.get(url))
    assert many <= few < 20
