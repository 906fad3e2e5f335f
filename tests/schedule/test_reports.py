"""Reports on lessons: attendance, load of rooms; days of branches, branches in sight, files, pictures."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from sqlalchemy import event, select

from crm import clock
from crm.access.models import Branch
from crm.audit.models import AuditAction, AuditEntry
from crm.catalogue.models import Room
from crm.db import db, transaction
from crm.schedule.models import Attendance, Booking, Lesson, LessonStatus, Mark
from crm.schedule.reports import (
    Attended,
    Load,
    attendance_by_day,
    attendance_by_group,
    attendance_by_instructor,
    room_loads,
)
from tests.factories import (
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_lesson,
    make_room,
)

FIRST, LAST = date(2026, 3, 2), date(2026, 3, 8)  # Monday to Sunday
NOON = datetime(2026, 3, 4, 9, tzinfo=UTC)  # of Moscow
MARKS = (Mark.PRESENT, Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED, Mark.CANCELED)


def taught(branch: Branch, *, at: datetime = NOON, minutes: int = 60, **facts: Any) -> Lesson:
    return make_lesson(branch, starts_at=at, ends_at=at + timedelta(minutes=minutes), **facts)


def held(branch: Branch, *marks: Mark, **facts: Any) -> Lesson:
    """A held lesson at which people were marked so."""
    lesson = taught(branch, **{"status": LessonStatus.HELD, **facts})
    with transaction():
        for mark in marks:
            who = {"branch_id": branch.id, "lesson_id": lesson.id, "client_id": make_client(branch).id}
            db.session.add(Attendance(**who, mark=mark, created_at=clock.now()))
    return lesson


def book(room: Room, at: datetime, minutes: int = 60, **facts: Any) -> None:
    where = {"branch_id": room.branch_id, "room": room, "starts_at": at}
    with transaction():
        db.session.add(Booking(**where, ends_at=at + timedelta(minutes=minutes), **facts))


def test_who_came_by_group_and_by_instructor(network: Any) -> None:
    group, other = make_group(network.lesnoy, name="Дельфины"), make_group(network.mira, name="Акулы")
    instructor = make_employee(network.lesnoy)
    held(network.lesnoy, *MARKS, group=group, instructor_id=instructor.id)
    held(network.lesnoy, Mark.PRESENT, group=group)
    held(network.mira, Mark.ABSENT, group=other)
    held(network.lesnoy, Mark.PRESENT)
    held(network.lesnoy)  # nobody was expected
    held(network.lesnoy, Mark.PLANNED, group=group, status=LessonStatus.PLANNED)
    held(network.lesnoy, Mark.PRESENT, group=group, status=LessonStatus.CANCELED)
    held(network.lesnoy, Mark.PRESENT, group=group, at=NOON + timedelta(days=7))
    branches = [network.lesnoy, network.rechnoy, network.mira]
    lines = attendance_by_group(FIRST, LAST, branches)
    assert [(line.branch_id, line.name, line.attended) for line in lines] == [
        (network.mira.id, "Акулы", Attended(1, 0, 1, 0)),
        (network.lesnoy.id, "Дельфины", Attended(2, 3, 1, 1)),
        (network.lesnoy.id, "", Attended(2, 1, 0, 0)),
    ]
    assert [line.attended.share for line in lines] == [0, 0.6, 1]
    by_instructor = attendance_by_instructor(FIRST, LAST, [network.lesnoy])
    assert [(line.id, line.attended) for line in by_instructor] == [
        (instructor.id, Attended(1, 2, 1, 1)),
        (None, Attended(3, 2, 0, 0)),
    ]
    assert attendance_by_day(FIRST, LAST, branches) == {date(2026, 3, 4): Attended(5, 4, 2, 1)}
    assert attendance_by_group(FIRST, LAST, []) == []
    assert Attended().share is None


def test_a_day_is_that_of_the_branch(network: Any) -> None:
    """At 20:30 UTC of Sunday it is 23:30 in Moscow and 00:30 of Monday in Samara."""
    at = datetime(2026, 3, 8, 20, 30, tzinfo=UTC)
    for branch in (network.lesnoy, network.mira):
        held(branch, Mark.PRESENT, at=at)
    branches = [network.lesnoy, network.mira]
    assert attendance_by_day(FIRST, LAST, branches) == {LAST: Attended(1, 1)}
    assert attendance_by_day(FIRST, LAST + timedelta(days=1), branches) == {
        LAST: Attended(1, 1),
        LAST + timedelta(days=1): Attended(1, 1),
    }
    assert [line.branch_id for line in attendance_by_group(FIRST, LAST, branches)] == [network.lesnoy.id]


def test_hours_taken_of_the_hours_open(network: Any) -> None:
    branch = network.lesnoy
    branch.working_hours = {str(day): ["09:00", "19:30"] for day in range(6)} | {"5": ["10:00", "00:00"]}
    hall, spare, gone = make_room(branch), make_room(branch, position=1), make_room(branch, position=2)
    lesson = taught(branch, at=NOON, minutes=90, room_id=hall.id)
    taught(branch, at=NOON + timedelta(hours=3), minutes=45, room_id=hall.id, status=LessonStatus.HELD)
    canceled = taught(branch, at=NOON, room_id=hall.id, status=LessonStatus.CANCELED)
    book(spare, NOON, 90, lesson_id=lesson.id)
    book(spare, NOON, 30, lesson_id=canceled.id)
    book(hall, NOON + timedelta(days=1), minutes=20)
    taught(branch, at=NOON)  # in no room
    make_holiday(branch, date(2026, 3, 6))
    gone.is_archived = True
    first, second = room_loads(FIRST, LAST, [branch])
    assert (first.room, second.room) == (hall, spare)
    assert first.days[date(2026, 3, 4)] == Load(135, 630)
    assert first.days[date(2026, 3, 5)] == Load(20, 630)
    assert first.days[date(2026, 3, 6)] == Load(0, 0)
    assert first.days[date(2026, 3, 7)] == Load(0, 14 * 60)
    assert first.days[date(2026, 3, 8)] == Load(0, 0)
    assert first.days[date(2026, 3, 8)].share is None
    assert second.days[date(2026, 3, 4)] == Load(90, 630)
    assert first.total == Load(155, 4 * 630 + 14 * 60)


def test_an_archived_room_is_reported_for_the_days_it_was_taken(network: Any) -> None:
    room = make_room(network.mira, is_archived=True)
    book(room, NOON)
    (load,) = room_loads(FIRST, LAST, [network.mira])
    assert load.total == Load(60, 7 * 24 * 60)  # without working hours: open round the clock
    assert room_loads(FIRST - timedelta(days=7), LAST - timedelta(days=7), [network.mira]) == []


def test_the_day_the_clock_is_changed(network: Any) -> None:
    """A lesson late on the Sunday of the change counts for it, and not for Monday."""
    network.lesnoy.time_zone = "Europe/Berlin"
    room = make_room(network.lesnoy)
    sunday = date(2026, 3, 29)
    late = datetime(2026, 3, 29, 21, 30, tzinfo=UTC)  # 23:30 in summer time, 22:30 in winter time
    held(network.lesnoy, Mark.PRESENT, at=late, room_id=room.id, minutes=20)
    held(network.lesnoy, Mark.PRESENT, at=late + timedelta(hours=1), room_id=room.id, minutes=30)
    monday = sunday + timedelta(days=1)
    assert attendance_by_day(sunday, monday, [network.lesnoy]) == {sunday: Attended(1, 1), monday: Attended(1, 1)}
    (load,) = room_loads(sunday, monday, [network.lesnoy])
    assert {day: part.taken for day, part in load.days.items()} == {sunday: 20, monday: 30}


@pytest.mark.parametrize("report", [attendance_by_group, attendance_by_instructor, attendance_by_day, room_loads])
def test_as_many_statements_whatever_there_is(network: Any, report: Any) -> None:
    counts = []
    branches = [network.lesnoy, network.mira]
    for _times in range(2):
        for branch in branches:
            group, room = make_group(branch), make_room(branch)
            held(branch, *MARKS, group=group, room_id=room.id, instructor_id=make_employee(branch).id)
            book(room, NOON + timedelta(hours=3))
        db.session.commit()
        names = [(branch.id, branch.time_zone, branch.working_hours) for branch in branches]
        assert len(names) == 2  # read again before anything is counted
        statements: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_rest: Any, seen: list[str] = statements) -> None:
            seen.append(statement)

        event.listen(db.engine, "before_cursor_execute", note)
        report(FIRST, LAST, branches)
        event.remove(db.engine, "before_cursor_execute", note)
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 4


# --- in the panel -----------------------------------------------------------------------------------------------------

ATTENDANCE, ROOMS = "/admin/attendancereport/", "/admin/roomload/"
PERIOD = "?from=2026-03-02&to=2026-03-08"


def test_the_report_shows_tables_and_a_picture(network: Any, web: Any) -> None:
    group = make_group(network.lesnoy, name="Дельфины")
    held(network.lesnoy, *MARKS, group=group)
    held(network.mira, Mark.PRESENT, group=make_group(network.mira, name="Акулы"))
    page = web(network.owner).get(ATTENDANCE + PERIOD).text
    row = re.search(r'<th scope="row"><a href="([^"]*)">Дельфины</a></th>(.*?)</tr>', page, re.DOTALL)
    assert row
    assert re.findall(r">([^<>]+)</td>", row[2]) == ["Лесной", "1", "2", "1", "1", "50%"]
    assert "Акулы" in page
    assert "04.03.2026: пришли 3 из 5" in page  # a column of the picture says what it stands for
    assert 'style="' not in page.partition("<main")[2]
    marks = web(network.owner).get(html.unescape(row[1])).text  # what the line adds up, each with its card
    assert len(set(re.findall(r"/admin/client/card/(\d+)/", marks))) == 4
    of_branch = web(network.owner, network.mira).get(ATTENDANCE + PERIOD).text
    assert "Акулы" in of_branch
    assert "Дельфины" not in of_branch
    narrowed = web(network.owner).get(f"{ATTENDANCE}{PERIOD}&branch={network.mira.id}").text
    assert "Дельфины" not in narrowed


def test_a_long_period_is_drawn_by_weeks(network: Any, web: Any) -> None:
    held(network.lesnoy, Mark.PRESENT)
    page = web(network.owner).get(f"{ATTENDANCE}?from=2026-01-01&to=2026-03-31").text
    assert "02.03.2026 – 08.03.2026: пришли 1 из 1" in page
    assert "01.01.2026 – 04.01.2026" in page


def test_a_foreign_branch_is_in_no_report(network: Any, web: Any) -> None:
    room = make_room(network.mira, name="Чужой зал")
    held(network.mira, Mark.PRESENT, group=make_group(network.mira, name="Чужая группа"), room_id=room.id)
    client = web(network.director)
    for branch in ("", f"&branch={network.mira.id}"):
        assert "Чуж" not in client.get(ATTENDANCE + PERIOD + branch).text
        assert "Чуж" not in client.get(ROOMS + PERIOD + branch).text


def test_reports_are_for_who_may_export_what_they_add_up(network: Any, web: Any) -> None:
    for user in network.users:
        for address in (ATTENDANCE, ROOMS, f"{ATTENDANCE}export/xlsx/", f"{ROOMS}export/xlsx/"):
            allowed = user not in {network.instructor, network.support}
            assert web(user).get(address + PERIOD).status_code == (200 if allowed else 403), (user.role, address)


def test_rooms_are_drawn_by_how_full_they_are(network: Any, web: Any) -> None:
    network.lesnoy.working_hours = {str(day): ["09:00", "19:00"] for day in range(7)}
    room = make_room(network.lesnoy, name="Большой зал")
    taught(network.lesnoy, at=NOON, minutes=300, room_id=room.id)
    page = web(network.owner, network.lesnoy).get(ROOMS + PERIOD).text
    assert "Большой зал, 04.03.2026: 5:00 из 10:00 ч" in page
    assert re.search(r'<th scope="row">Большой зал</th>.*?>5:00</td>.*?>70:00</td>.*?>7%</td>', page, re.DOTALL)
    assert 'style="' not in page.partition("<main")[2]


def test_tables_go_to_excel(network: Any, web: Any) -> None:
    network.lesnoy.working_hours = {"2": ["09:00", "19:00"]}
    room = make_room(network.lesnoy, name="Большой зал")
    held(network.lesnoy, *MARKS, group=make_group(network.lesnoy, name="Дельфины"), minutes=90, room_id=room.id)
    client = web(network.director)

    def sheet(address: str) -> list[tuple[Any, ...]]:
        answer = client.get(address)
        assert answer.status_code == 200
        return list(openpyxl.load_workbook(BytesIO(answer.data)).active.iter_rows(values_only=True))

    by_group = sheet(f"{ATTENDANCE}export/xlsx/{PERIOD}&by=group")
    assert by_group[1:] == [("Дельфины", "Лесной", 1, 2, 1, 1, 50), ("Итого", None, 1, 2, 1, 1, 50)]
    assert sheet(f"{ATTENDANCE}export/xlsx/{PERIOD}&by=instructor")[1][0] == "Без инструктора"
    rooms = sheet(f"{ROOMS}export/xlsx/{PERIOD}")
    assert len(rooms) == 1 + 7 + 1
    assert rooms[3] == (datetime(2026, 3, 4), "Большой зал", "Лесной", 1.5, 10, 15)
    assert rooms[1][3:] == (0, 0, None)
    exports = db.session.scalars(select(AuditEntry).where(AuditEntry.action == AuditAction.EXPORT)).all()
    assert len(exports) == 3


def test_an_empty_report_says_so(network: Any, web: Any) -> None:
    with clock.frozen(NOON):
        assert "занятий не было" in web(network.owner).get(ATTENDANCE).text
    assert "Помещений здесь пока нет" in web(network.owner).get(ROOMS).text


@pytest.mark.parametrize(
    ("address", "title"),
    [("endingsoon", "Заканчиваются скоро"), ("usedup", "Израсходованные"), ("notpaid", "Не оплаченные")],
)
def test_subscriptions_that_want_attention_are_a_click_away(network: Any, web: Any, address: str, title: str) -> None:
    client = web(network.administrator, network.lesnoy)
    assert title in client.get("/admin/").text
    answer = client.get(f"/admin/{address}/")
    assert answer.location.startswith("/admin/subscription/?")
    page = client.get(answer.location).text
    assert re.search(rf'aria-current="true"[^>]*>[^<]*{title}', page), page
