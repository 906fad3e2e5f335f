"""What stands in the way of a lesson at a time: hours of the branch, bookings, other lessons in the room, of the
instructor, of the client, of the group. Known for a whole period in a few statements, however many times are asked of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from flask_babel import gettext as _
from sqlalchemy import ColumnElement, Select, or_, select

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch, Employee
from crm.catalogue.models import LessonFormat, LessonType, Room
from crm.catalogue.queries import holidays_of, reason_closed
from crm.db import db
from crm.errors import DomainError
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonStatus, Mark
from crm.schedule.recurrence import MAX_MINUTES


@dataclass(frozen=True)
class Slot:
    """A time somebody wants, and the rooms for it: the main one and those the lesson goes on in as well."""

    starts_at: datetime
    ends_at: datetime
    room_id: int | None = None
    further_room_ids: tuple[int, ...] = ()
    instructor_id: int | None = None

    @property
    def room_ids(self) -> tuple[int, ...]:
        return (*(() if self.room_id is None else (self.room_id,)), *self.further_room_ids)

    def overlaps(self, other: Taken) -> bool:
        return self.starts_at < other.ends_at and other.starts_at < self.ends_at


@dataclass(frozen=True)
class Taken:
    """A time that is taken: by a lesson that is not canceled, or by a booking. lesson_id None: by one just planned, or
    by a booking of its own. is_booking: the room is booked, maybe for a lesson in another.
    """

    starts_at: datetime
    ends_at: datetime
    room_id: int | None
    instructor_id: int | None = None
    lesson_id: int | None = None
    lesson_type_id: int | None = None
    subject_id: int | None = None
    group_id: int | None = None
    format: LessonFormat | None = None
    status: LessonStatus | None = None
    capacity: int | None = None
    takes_nobody: bool = False
    is_booking: bool = False

    @property
    def is_individual(self) -> bool:
        return self.format is LessonFormat.INDIVIDUAL


@dataclass(frozen=True)
class Refusal:
    """Why nothing can be planned at a time. code: "closed", "past", "booked", "room_taken", "instructor_busy",
    "client_busy", "group_busy", "enrolled_already", "takes_nobody", "lesson_full", "lesson_over"; text without a
    capital letter and a full stop.
    """

    code: str
    text: str

    def error(self, starts_at: datetime | None = None, branch: Branch | None = None) -> DomainError:
        """The same as an error, of a lesson of a series with its time."""
        said = _("It cannot be done: %(reason)s.", reason=self.text)
        if starts_at is not None and branch is not None:
            said = f"{clock.local(starts_at, branch):%d.%m.%Y %H:%M}. {said}"
        return DomainError(self.code, said, _FIELDS.get(self.code, "starts_at"))


_FIELDS = {"booked": "room", "room_taken": "room", "instructor_busy": "instructor"}


class Occupancy:
    """What is taken in a branch over a period. take() adds to it what is being planned."""

    def __init__(
        self, branch: Branch, holidays: Collection[date], taken: Iterable[Taken], of_client: Collection[int]
    ) -> None:
        self._branch, self._holidays, self._of_client = branch, holidays, frozenset(of_client)
        self._by_day: dict[tuple[str, int | None, int], list[Taken]] = defaultdict(list)
        for one in taken:
            self.take(one)

    def take(self, one: Taken) -> None:
        keys = [("room", one.room_id), ("instructor", one.instructor_id), ("group", one.group_id)]
        if one.lesson_id in self._of_client and not one.is_booking:
            keys.append(("client", None))
        for kind, number in keys:
            if number is not None or kind == "client":
                for day in _days_of(one.starts_at, one.ends_at):
                    self._by_day[kind, number, day].append(one)

    def take_client(self, slot: Slot) -> None:
        """The client has something to do at this time."""
        one = Taken(slot.starts_at, slot.ends_at, slot.room_id)
        for day in _days_of(slot.starts_at, slot.ends_at):
            self._by_day["client", None, day].append(one)

    def forget(self, lesson_ids: Collection[int]) -> None:
        """These lessons, and what is booked for them, stand in nobody's way: they are about to move."""
        for found in self._by_day.values():
            found[:] = [one for one in found if one.lesson_id not in lesson_ids]

    def _meeting(self, slot: Slot, kind: str, number: int | None) -> list[Taken]:
        found = {
            one: None
            for day in _days_of(slot.starts_at, slot.ends_at)
            for one in self._by_day.get((kind, number, day), ())
            if slot.overlaps(one)
        }
        return list(found)

    def closed(self, slot: Slot) -> Refusal | None:
        why = reason_closed(self._branch, slot.starts_at, slot.ends_at, holidays=self._holidays)
        if why is None:
            return None
        return Refusal("closed", _("the centre is not open at this time") + f" ({why.rstrip('.')})")

    def booked(self, slot: Slot) -> Refusal | None:
        if any(one.is_booking for room_id in slot.room_ids for one in self._meeting(slot, "room", room_id)):
            return Refusal("booked", _("there is a booking at this time"))
        return None

    def lessons_in_rooms(self, slot: Slot) -> list[Taken]:
        return [one for room_id in slot.room_ids for one in self._meeting(slot, "room", room_id) if not one.is_booking]

    def lessons_of_instructor(self, slot: Slot) -> list[Taken]:
        return [] if slot.instructor_id is None else self._meeting(slot, "instructor", slot.instructor_id)

    def lessons_of_client(self, slot: Slot) -> list[Taken]:
        return self._meeting(slot, "client", None)

    def lessons_of_group(self, slot: Slot, group_id: int | None) -> list[Taken]:
        return [] if group_id is None else self._meeting(slot, "group", group_id)

    def taken(self, slot: Slot, *, group_id: int | None, spares_individual: bool) -> Refusal | None:
        """What lessons stand in the way. spares_individual: not one that is individual, which is put right by hand
        (see met()).
        """
        if any(not (spares_individual and one.is_individual) for one in self.lessons_in_rooms(slot)):
            return Refusal("room_taken", _("there is another lesson in the room at this time"))
        if any(not (spares_individual and one.is_individual) for one in self.lessons_of_instructor(slot)):
            return Refusal("instructor_busy", _("the instructor has another lesson at this time"))
        if self.lessons_of_group(slot, group_id):
            return Refusal("group_busy", _("the group has another lesson at this time"))
        return None

    def met(self, slot: Slot) -> Taken | None:
        """The individual lesson that is in the room, or of the instructor, at the same time already."""
        return next(iter([*self.lessons_in_rooms(slot), *self.lessons_of_instructor(slot)]), None)


def refusal_of_past(starts_at: datetime, *, by: Actor) -> Refusal | None:
    """Only who may plan into the past may plan into the past."""
    if starts_at >= clock.now() or by.may("lesson.past"):
        return None
    return Refusal("past", _("only a director plans lessons for a time that has passed"))


def occupancy_of(
    branch: Branch,
    slots: Sequence[Slot],
    *,
    client_id: int | None = None,
    group_id: int | None = None,
) -> Occupancy:
    """What could stand in the way of any of the slots: four statements."""
    first = min(slot.starts_at for slot in slots)
    last = max(slot.ends_at for slot in slots)
    rooms = sorted({room_id for slot in slots for room_id in slot.room_ids})
    instructors = sorted({slot.instructor_id for slot in slots} - {None})  # type: ignore[type-var]
    own: set[int] = set()
    if client_id is not None:
        enrolled = select(Attendance.lesson_id).join(Attendance.lesson)
        enrolled = enrolled.where(Attendance.client_id == client_id, Attendance.mark != Mark.CANCELED)
        own = set(db.session.scalars(_within(enrolled, Lesson, first, last)))
    wanted: list[ColumnElement[bool]] = [Lesson.room_id.in_(rooms), Lesson.instructor_id.in_(instructors)]
    if group_id is not None:
        wanted.append(Lesson.group_id == group_id)
    if client_id is not None:
        wanted.append(Lesson.id.in_(own))
    holidays = holidays_of(branch, clock.local(first, branch).date(), clock.local(last, branch).date())
    taken = [*_lessons(branch, or_(*wanted), first, last), *_bookings(rooms, first, last)]
    return Occupancy(branch, holidays, taken, own)


def _within(query: Select, table: type[Lesson] | type[Booking], first: datetime, last: datetime) -> Select:
    """What overlaps a period; nothing is longer than a day, and so the index on the beginning finds it."""
    reach = timedelta(minutes=MAX_MINUTES)
    return query.where(table.starts_at < last, table.starts_at > first - reach, table.ends_at > first)


def _lessons(branch: Branch, wanted: ColumnElement[bool], first: datetime, last: datetime) -> list[Taken]:
    query = (
        select(
            *(Lesson.starts_at, Lesson.ends_at, Lesson.room_id, Lesson.instructor_id, Lesson.id, Lesson.lesson_type_id),
            *(Lesson.subject_id, Lesson.group_id, LessonType.format, Lesson.status, Lesson.capacity),
            Lesson.takes_nobody,
        )
        .join(Lesson.lesson_type)
        .where(Lesson.branch_id == branch.id, Lesson.status != LessonStatus.CANCELED, wanted)
        .order_by(Lesson.starts_at, Lesson.id)
    )
    return [Taken(*row) for row in db.session.execute(_within(query, Lesson, first, last))]


def _bookings(room_ids: Sequence[int], first: datetime, last: datetime) -> list[Taken]:
    query = select(Booking.starts_at, Booking.ends_at, Booking.room_id, Booking.lesson_id)
    query = _within(query.where(Booking.room_id.in_(room_ids)), Booking, first, last)
    found = db.session.execute(query)
    return [Taken(row.starts_at, row.ends_at, row.room_id, lesson_id=row.lesson_id, is_booking=True) for row in found]


def _days_of(starts_at: datetime, ends_at: datetime) -> range:
    """Days (of UTC) that a time touches, as numbers."""
    return range(starts_at.toordinal(), ends_at.toordinal() + 1)


# --- who may use a room, who may teach ------------------------------------------------------------------------------


def hold_places(
    branch: Branch, room_ids: Collection[int], instructor_ids: Collection[int], group_ids: Collection[int] = ()
) -> None:
    """Until the transaction ends nobody else plans anything into these rooms or for these instructors and groups; the
    others wait. Before lessons are locked.
    """
    for model, ids in ((Room, room_ids), (Employee, instructor_ids), (ClientGroup, group_ids)):
        if ids:
            query = select(model.id).where(model.id.in_(ids), model.branch_id == branch.id).order_by(model.id)
            db.session.execute(query.with_for_update(key_share=True)).all()


def check_room(room: Room | None, branch: Branch, *, kept: int | None = None, field: str = "room") -> None:
    """Raise DomainError "room_unavailable" unless lessons of the branch may be in it; kept: where it is already."""
    if room is not None and room.id != kept and (room.branch_id != branch.id or room.is_archived):
        raise DomainError("room_unavailable", _("Choose a room of this branch that is in use."), field)


def check_instructor(instructor: Employee | None, branch: Branch, *, kept: int | None = None) -> None:
    """Raise DomainError "instructor_unavailable" unless he teaches in the branch; kept: who has it already."""
    if instructor is None or instructor.id == kept:
        return
    if instructor.branch_id != branch.id or not (instructor.is_active and instructor.teaches):
        raise DomainError("instructor_unavailable", _("This instructor does not teach in this branch."), "instructor")


def capacity_in(room: Room | None, lesson_type: LessonType, capacity: int | None) -> int | None:
    """How many a lesson takes: what is asked for, one where it is individual, never more than the room holds."""
    wanted = 1 if capacity is None and lesson_type.format is LessonFormat.INDIVIDUAL else capacity
    holds = room.capacity if room is not None else None
    return min((number for number in (wanted, holds) if number is not None), default=None)
