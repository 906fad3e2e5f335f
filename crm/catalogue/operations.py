"""Verbs on the dictionaries: made and changed. What is archived stays where it is used and is offered no more."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.catalogue.models import Holiday, LessonFormat, LessonType, Room, Subject
from crm.db import MAX_AMOUNT, db
from crm.errors import DomainError, Forbidden

Row = TypeVar("Row", Subject, LessonType, Room)

MAX_MINUTES = 24 * 60
MAX_HOLIDAYS = 60  # days closed at one go


# --- subjects -------------------------------------------------------------------------------------------------------


def create_subject(*, name: str, by: Actor, position: int | None = None, is_archived: bool = False) -> Subject:
    """Add what is taught to the network. Raises DomainError beside `name`. The caller commits."""
    require(by, "subject.create")
    return _fill(Subject(), name, position, is_archived)


def change_subject(
    subject: Subject, *, name: str, by: Actor, position: int | None = None, is_archived: bool = False
) -> Subject:
    """Errors as of create_subject(). The caller commits."""
    require(by, "subject.edit")
    return _fill(subject, name, position, is_archived)


# --- lesson types ---------------------------------------------------------------------------------------------------


def create_lesson_type(
    *,
    name: str,
    format: LessonFormat,
    single_price: Decimal,
    by: Actor,
    duration_minutes: int = 60,
    position: int | None = None,
    is_archived: bool = False,
) -> LessonType:
    """Add a kind of lesson to the network. single_price: of one visit without a subscription.

    Raises DomainError beside `name`, `single_price` or `duration_minutes`. The caller commits.
    """
    require(by, "lessontype.create")
    return _fill_lesson_type(LessonType(), name, format, single_price, duration_minutes, position, is_archived)


def change_lesson_type(
    lesson_type: LessonType,
    *,
    name: str,
    format: LessonFormat,
    single_price: Decimal,
    by: Actor,
    duration_minutes: int = 60,
    position: int | None = None,
    is_archived: bool = False,
) -> LessonType:
    """Errors as of create_lesson_type(). Lessons planned keep their times; a new price holds from now on."""
    require(by, "lessontype.edit")
    return _fill_lesson_type(lesson_type, name, format, single_price, duration_minutes, position, is_archived)


def _fill_lesson_type(
    lesson_type: LessonType,
    name: str,
    format: LessonFormat,
    single_price: Decimal,
    duration_minutes: int,
    position: int | None,
    is_archived: bool,
) -> LessonType:
    if not 0 <= single_price <= MAX_AMOUNT:
        raise DomainError("price_invalid", _("Enter a price from zero to 100 000 000."), "single_price")
    if not 0 < duration_minutes <= MAX_MINUTES:
        raise DomainError("duration_invalid", _("A lesson lasts from one minute to a day."), "duration_minutes")
    lesson_type.format, lesson_type.single_price = format, single_price
    lesson_type.duration_minutes = duration_minutes
    return _fill(lesson_type, name, position, is_archived)


# --- rooms ----------------------------------------------------------------------------------------------------------


def create_room(
    *,
    branch: Branch,
    name: str,
    by: Actor,
    capacity: int | None = None,
    position: int | None = None,
    is_archived: bool = False,
) -> Room:
    """Add a room to a branch. capacity: how many people it holds, None: not limited.

    Raises DomainError beside `branch`, `name` or `capacity`. The caller commits.
    """
    require(by, "room.create")
    _check_covered(branch)
    return _fill_room(Room(branch_id=branch.id), name, capacity, position, is_archived)


def change_room(
    room: Room,
    *,
    name: str,
    by: Actor,
    capacity: int | None = None,
    position: int | None = None,
    is_archived: bool = False,
) -> Room:
    """A room stays in its branch. Errors as of create_room(). The caller commits."""
    require(by, "room.edit", room)
    return _fill_room(room, name, capacity, position, is_archived)


def _fill_room(room: Room, name: str, capacity: int | None, position: int | None, is_archived: bool) -> Room:
    if capacity is not None and capacity < 1:
        raise DomainError("capacity_invalid", _("A room holds one person at least."), "capacity")
    room.capacity = capacity
    return _fill(room, name, position, is_archived, Room.branch_id == room.branch_id)


# --- holidays -------------------------------------------------------------------------------------------------------


def create_holiday(*, branch: Branch, day: date, by: Actor, until: date | None = None, name: str = "") -> Holiday:
    """Close a branch for a day, or for all days up to `until`, it included; those closed already stay as they are.

    Returns the first of them. Raises DomainError beside `branch`, `day` or `until`. The caller commits.
    """
    require(by, "holiday.create")
    _check_covered(branch)
    last = until or day
    if last < day:
        raise DomainError("until_before", _("The last day is not before the first."), "until")
    if (last - day).days >= MAX_HOLIDAYS:
        raise DomainError("too_many_days", _("No more than %(count)s days at once.", count=MAX_HOLIDAYS), "until")
    closed = select(Holiday.day).where(Holiday.branch_id == branch.id, Holiday.day.between(day, last))
    known = set(db.session.scalars(closed))
    days = [day + timedelta(number) for number in range((last - day).days + 1)]
    new = [Holiday(branch_id=branch.id, day=one, name=_words(name)) for one in days if one not in known]
    if not new:
        raise DomainError("day_closed", _("The branch is closed on this day already."), "day")
    db.session.add_all(new)
    db.session.flush()
    return new[0]


def change_holiday(holiday: Holiday, *, day: date, by: Actor, name: str = "") -> Holiday:
    """Move it to another day, call it otherwise. Raises DomainError beside `day`. The caller commits."""
    require(by, "holiday.edit", holiday)
    with db.session.no_autoflush:
        taken = select(Holiday.id).where(
            Holiday.branch_id == holiday.branch_id, Holiday.day == day, Holiday.id != holiday.id
        )
        if db.session.scalar(taken):
            raise DomainError("day_closed", _("The branch is closed on this day already."), "day")
    holiday.day, holiday.name = day, _words(name)
    db.session.flush()
    return holiday


def delete_holiday(holiday: Holiday, *, by: Actor) -> None:
    """The branch works that day as on any other. The caller commits."""
    require(by, "holiday.delete", holiday)
    db.session.delete(holiday)
    db.session.flush()


# --- what they share ------------------------------------------------------------------------------------------------


def _fill(row: Row, name: str, position: int | None, is_archived: bool, *among: Any) -> Row:
    """Name and order of a row; the name is its alone `among` the others."""
    name, model = _words(name), type(row)
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    with db.session.no_autoflush:
        taken = db.session.scalar(select(model.id).where(model.name == name, model.id != (row.id or 0), *among))
    if taken:
        raise DomainError("name_taken", _("There is one with this name already."), "name")
    row.name, row.position, row.is_archived = name, position or 0, is_archived
    db.session.add(row)
    db.session.flush()
    return row


def _words(text: str) -> str:
    return " ".join(text.split())


def _check_covered(branch: Branch) -> None:
    if not current_scope().covers(branch.id):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
