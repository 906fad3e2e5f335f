"""What lessons come to: who attended, by group, instructor and day; how much of their open hours rooms are in use.

Every report is a fixed number of statements whatever the period. Days are those of each branch's own time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from crm import clock
from crm.access.models import Branch, Employee
from crm.catalogue.models import Holiday, Room
from crm.catalogue.queries import hours_on
from crm.db import day_of, db
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonStatus, Mark

MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True)
class Attended:
    """Held lessons, and how many places at them were taken by whom. absent: written off; excused: not."""

    lessons: int = 0
    came: int = 0
    absent: int = 0
    excused: int = 0

    @property
    def marked(self) -> int:
        return self.came + self.absent + self.excused

    @property
    def share(self) -> float | None:
        """Of those expected, who came: 0 to 1; None where nobody was expected."""
        return self.came / self.marked if self.marked else None

    def __add__(self, other: Attended) -> Attended:
        return Attended(
            self.lessons + other.lessons,
            self.came + other.came,
            self.absent + other.absent,
            self.excused + other.excused,
        )


@dataclass(frozen=True)
class AttendanceLine:
    """Attendance in a branch of a group or an instructor; id None: of lessons without any."""

    branch_id: int
    id: int | None
    name: str
    attended: Attended


def attendance_by_group(first: date, last: date, branches: Sequence[Branch]) -> list[AttendanceLine]:
    """Of held lessons from `first` to `last`, both included; groups by name, lessons without one last."""
    return _lines(Lesson.group_id, ClientGroup, first, last, branches)


def attendance_by_instructor(first: date, last: date, branches: Sequence[Branch]) -> list[AttendanceLine]:
    """As attendance_by_group(), by who held them."""
    return _lines(Lesson.instructor_id, Employee, first, last, branches)


def attendance_by_day(first: date, last: date, branches: Sequence[Branch]) -> dict[date, Attended]:
    """Of held lessons; days without any are left out."""
    day = _day(Lesson, first, last, branches).label("day")
    query = _attended(day, first, last, branches).group_by(day)
    return {on: Attended(*counts) for on, *counts in db.session.execute(query)}


def _lines(
    key: Any, model: type[ClientGroup] | type[Employee], first: date, last: date, branches: Sequence[Branch]
) -> list[AttendanceLine]:
    query = _attended(Lesson.branch_id, first, last, branches, key, model.name)
    query = query.outerjoin(model, model.id == key).group_by(Lesson.branch_id, key, model.name)
    found = [
        AttendanceLine(branch_id, id, name or "", Attended(*counts))
        for branch_id, id, name, *counts in db.session.execute(query)
    ]
    order = {branch.id: number for number, branch in enumerate(branches)}
    return sorted(found, key=lambda line: (line.id is None, line.name.lower(), order[line.branch_id]))


def _attended(begins: Any, first: date, last: date, branches: Sequence[Branch], *columns: Any) -> sa.Select[Any]:
    """SELECT of some columns and the counts of Attended, over held lessons of these days."""
    # The table, not the model: its lesson is within the scope, and a condition on its own branch would lead SQLite to
    # that index, through everybody who ever came there.
    attendance = sa.inspect(Attendance).local_table.alias()

    def count(mark: Mark) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.case((attendance.c.mark == mark, 1), else_=0)), 0)

    return (
        sa.select(
            begins,
            *columns,
            sa.func.count(sa.distinct(Lesson.id)),
            *(count(mark) for mark in (Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED)),
        )
        .select_from(Lesson)
        .outerjoin(attendance, attendance.c.lesson_id == Lesson.id)
        .where(Lesson.status == LessonStatus.HELD, _within(Lesson, first, last, branches))
    )


# --- rooms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """Minutes a room is taken, of those its branch is open."""

    taken: int = 0
    open: int = 0

    @property
    def share(self) -> float | None:
        """0 to 1, and above where lessons go on out of hours; None while the branch is closed."""
        return self.taken / self.open if self.open else None

    def __add__(self, other: Load) -> Load:
        return Load(self.taken + other.taken, self.open + other.open)


@dataclass(frozen=True)
class RoomLoad:
    """days: every day of the period."""

    room: Room
    days: dict[date, Load]

    @property
    def total(self) -> Load:
        return sum(self.days.values(), Load())


def room_loads(first: date, last: date, branches: Sequence[Branch]) -> list[RoomLoad]:
    """Rooms in use of the branches, and archived ones that were taken in the period; by branch and order.

    What is taken: lessons that are not canceled, and bookings but those of a canceled lesson; a lesson over midnight
    counts for the day it begins. A branch without working hours is open round the clock.
    """
    ids = [branch.id for branch in branches]
    taken = _minutes_taken(first, last, branches)
    closed: set[tuple[int, date]] = {
        (branch_id, day)
        for branch_id, day in db.session.execute(
            sa.select(Holiday.branch_id, Holiday.day).where(
                Holiday.branch_id.in_(ids), Holiday.day >= first, Holiday.day <= last
            )
        )
    }
    used = {room_id for room_id, _day in taken}
    rooms = db.session.scalars(
        sa.select(Room)
        .where(Room.branch_id.in_(ids), sa.or_(~Room.is_archived, Room.id.in_(used)))
        .order_by(Room.position, Room.name)
    ).all()
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    loads: list[RoomLoad] = []
    for branch in branches:
        hours = {day: 0 if (branch.id, day) in closed else open_minutes(branch, day) for day in days}
        loads.extend(
            RoomLoad(room, {day: Load(taken.get((room.id, day), 0), hours[day]) for day in days})
            for room in rooms
            if room.branch_id == branch.id
        )
    return loads


def open_minutes(branch: Branch, day: date) -> int:
    """How long the branch is open on such a day of the week, holidays aside."""
    hours = hours_on(branch, day)
    if hours is None:
        return 0
    opens, closes = (moment.hour * 60 + moment.minute for moment in hours)
    return (closes or MINUTES_A_DAY) - opens


def _minutes_taken(first: date, last: date, branches: Sequence[Branch]) -> dict[tuple[int, date], int]:
    """Minutes by room and day."""
    canceled = Booking.lesson.has(Lesson.status == LessonStatus.CANCELED)
    taken: dict[tuple[int, date], int] = {}
    for model, condition in (
        (Lesson, sa.and_(Lesson.room_id.is_not(None), Lesson.status != LessonStatus.CANCELED)),
        (Booking, ~canceled),
    ):
        day = _day(model, first, last, branches).label("day")
        query = (
            sa.select(model.room_id, day, sa.func.sum(_minutes(model)))
            .where(condition, _within(model, first, last, branches))
            .group_by(model.room_id, day)
        )
        for room_id, on, minutes in db.session.execute(query):
            taken[room_id, on] = taken.get((room_id, on), 0) + round(minutes)
    return taken


# --- days of branches -------------------------------------------------------------------------------------------------


def _zones(branches: Iterable[Branch]) -> dict[str, list[int]]:
    zones: dict[str, list[int]] = {}
    for branch in branches:
        zones.setdefault(branch.time_zone, []).append(branch.id)
    return zones


def _span(first: date, last: date, zone: str) -> tuple[datetime, datetime]:
    """From the beginning of the first day to that of the day after the last one."""
    place = _Zone(zone)
    return clock.at(first, time(0), place), clock.at(last + timedelta(days=1), time(0), place)


@dataclass(frozen=True)
class _Zone:
    time_zone: str


def _within(model: type[Lesson] | type[Booking], first: date, last: date, branches: Sequence[Branch]) -> Any:
    """Condition: it begins on one of these days at its branch, one of these."""
    conditions = []
    for zone, ids in _zones(branches).items():
        begin, end = _span(first, last, zone)
        conditions.append(sa.and_(model.branch_id.in_(ids), model.starts_at >= begin, model.starts_at < end))
    return sa.or_(*conditions) if conditions else sa.false()


def _day(model: type[Lesson] | type[Booking], first: date, last: date, branches: Sequence[Branch]) -> Any:
    """SQL of the day it begins on at its branch."""
    zones = _zones(branches)
    if not zones:
        return sa.literal(None, sa.Date)
    days = {zone: day_of(model.starts_at, *_span(first, last, zone), ZoneInfo(zone)) for zone in zones}
    *others, final = zones
    cases = [(model.branch_id.in_(zones[zone]), days[zone]) for zone in others]
    return sa.case(*cases, else_=days[final]) if cases else days[final]


def _minutes(model: type[Lesson] | type[Booking]) -> Any:
    """SQL of how long it goes on."""
    if db.engine.dialect.name == "sqlite":
        ends, starts = (sa.func.strftime("%s", sa.func.substr(at, 1, 19)) for at in (model.ends_at, model.starts_at))
        return (sa.cast(ends, sa.Integer) - sa.cast(starts, sa.Integer)) / 60.0
    return sa.extract("epoch", model.ends_at - model.starts_at) / 60
