"""What is on offer, and when a branch is open."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, time, timedelta

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.models import Branch, Employee
from crm.catalogue.models import Holiday, LessonType, Room, Subject
from crm.db import db
from crm.i18n import day as spell


def subjects_on_offer() -> list[Subject]:
    """In their order, without archived ones."""
    query = select(Subject).where(Subject.is_archived.is_(False))
    return list(db.session.scalars(query.order_by(Subject.position, Subject.name)))


def lesson_types_on_offer() -> list[LessonType]:
    """In their order, without archived ones."""
    query = select(LessonType).where(LessonType.is_archived.is_(False))
    return list(db.session.scalars(query.order_by(LessonType.position, LessonType.name)))


def rooms_of(branch: Branch) -> list[Room]:
    """Rooms of a branch in their order, without archived ones."""
    query = select(Room).where(Room.branch_id == branch.id, Room.is_archived.is_(False))
    return list(db.session.scalars(query.order_by(Room.position, Room.name)))


def instructors_of(branch: Branch) -> list[Employee]:
    """Who may hold lessons in a branch, by name."""
    query = select(Employee).where(Employee.branch_id == branch.id, Employee.is_active, Employee.teaches)
    return list(db.session.scalars(query.order_by(Employee.name, Employee.id)))


# --- hours ----------------------------------------------------------------------------------------------------------


def holidays_of(branch: Branch, first: date, last: date) -> dict[date, Holiday]:
    """Days from `first` to `last`, both included, on which a branch is closed."""
    query = select(Holiday).where(Holiday.branch_id == branch.id, Holiday.day.between(first, last))
    return {holiday.day: holiday for holiday in db.session.scalars(query)}


def hours_on(branch: Branch, day: date) -> tuple[time, time] | None:
    """When a branch opens and closes on a day by its working hours; None: closed. Closing at 00:00 is at its end."""
    if not branch.working_hours:
        return time(0), time(0)
    hours = branch.working_hours.get(str(day.weekday()))
    return None if hours is None else (time.fromisoformat(hours[0]), time.fromisoformat(hours[1]))


def reason_closed(
    branch: Branch, start: datetime, end: datetime, *, holidays: Collection[date] | None = None
) -> str | None:
    """Why a branch is not open all the time between two instants, in words for a person; None: it is.

    holidays: of the branch, known beforehand by who asks of many times.
    """
    begins, ends = clock.local(start, branch), clock.local(end, branch)
    days = [begins.date() + timedelta(number) for number in range((ends.date() - begins.date()).days + 1)]
    if len(days) > 1 and ends.time() == time(0):
        del days[-1]  # what ends at midnight does not reach into the next day
    closed = holidays_of(branch, days[0], days[-1]) if holidays is None else holidays
    for day in days:
        hours = hours_on(branch, day)
        if day in closed:
            return _("The branch is closed on %(day)s: it is a holiday.", day=spell(day))
        if hours is None:
            return _("The branch is closed on %(day)s.", day=spell(day))
        opens, closes = hours
        from_ = begins.time() if day == begins.date() else time(0)
        is_late = closes != time(0) and (ends.date() != day or ends.time() > closes)
        if from_ < opens or is_late:
            return _(
                "On %(day)s the branch is open from %(opens)s to %(closes)s.",
                day=spell(day),
                opens=f"{opens:%H:%M}",
                closes=f"{closes:%H:%M}",
            )
    return None
