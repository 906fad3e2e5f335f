"""Reads of the schedule: lessons of a time as a calendar shows them, who is in groups, what is left to whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import and_, false, func, or_, select
from sqlalchemy.orm import aliased, joinedload

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch, Employee
from crm.catalogue.models import LessonType, Room, Subject
from crm.catalogue.queries import holidays_of, hours_on
from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account, Unit
from crm.schedule.groups import places_taken
from crm.schedule.models import Attendance, Booking, ClientGroup, GroupMember, Lesson, LessonStatus, Mark, Waiting
from crm.subscriptions.models import Subscription
from crm.subscriptions.queries import is_living


class LessonLine(NamedTuple):
    """A lesson as a calendar shows it. client_id: of a lesson without a group for one person, who that is."""

    id: int
    starts_at: datetime
    ends_at: datetime
    status: LessonStatus
    capacity: int | None
    takes_nobody: bool
    room_id: int | None
    instructor_id: int | None
    room: str | None
    instructor: str | None
    group: str | None
    subject: str | None
    lesson_type: str
    taken: int = 0
    client_id: int | None = None


@dataclass(frozen=True)
class Closed:
    """When a branch does not work on a day, by its wall clock: before it opens and after it closes (00:00: at the day's
    end), or, without hours, the whole day. name: of the holiday.
    """

    opens: time | None
    closes: time | None
    name: str = ""

    @property
    def is_whole(self) -> bool:
        return self.opens is None


def lessons_between(
    branch: Branch,
    first: date,
    last: date,
    *,
    rooms: Collection[int] = (),
    instructors: Collection[int] = (),
    lesson_types: Collection[int] = (),
    groups: Collection[int] = (),
    only: Sequence[Any] = (),
) -> list[LessonLine]:
    """The lessons of a branch that begin on its days from `first` to `last`, both included, in the order of time; in
    two statements, however many they are. Without ids of a kind, of all; only: further conditions on Lesson.
    """
    begin, end = _span(branch, first, last)
    conditions = [Lesson.branch_id == branch.id, Lesson.starts_at >= begin, Lesson.starts_at < end, *only]
    for column, ids in (
        (Lesson.room_id, rooms),
        (Lesson.instructor_id, instructors),
        (Lesson.lesson_type_id, lesson_types),
        (Lesson.group_id, groups),
    ):
        if ids:
            conditions.append(column.in_(ids))
    instructor = aliased(Employee)
    query = (
        select(
            *(Lesson.id, Lesson.starts_at, Lesson.ends_at, Lesson.status, Lesson.capacity, Lesson.takes_nobody),
            *(Lesson.room_id, Lesson.instructor_id),
            *(Room.name, instructor.name, ClientGroup.name, Subject.name, LessonType.name),
        )
        .join(LessonType, LessonType.id == Lesson.lesson_type_id)
        .outerjoin(Room, Room.id == Lesson.room_id)
        .outerjoin(instructor, instructor.id == Lesson.instructor_id)
        .outerjoin(ClientGroup, ClientGroup.id == Lesson.group_id)
        .outerjoin(Subject, Subject.id == Lesson.subject_id)
        .where(*conditions)
        .order_by(Lesson.starts_at, Lesson.id)
    )
    rows = db.session.execute(query).all()
    seats = (
        select(Attendance.lesson_id, func.count(), func.min(Attendance.client_id))
        .join(Lesson, Lesson.id == Attendance.lesson_id)
        .where(*conditions, Attendance.mark != Mark.CANCELED)
        .group_by(Attendance.lesson_id)
    )
    taken = {lesson_id: (count, client_id) for lesson_id, count, client_id in db.session.execute(seats)}
    lines = []
    for row in rows:
        count, client_id = taken.get(row[0], (0, None))
        lines.append(LessonLine._make((*row, count, client_id if count == 1 and row[10] is None else None)))
    return lines


def planned_between(branch: Branch, first: date, last: date, *, only: Sequence[Any] = ()) -> tuple[int, date | None]:
    """How many planned lessons begin in a branch on its days from `first` to `last`, both included, and the day of the
    first of them.
    """
    begin, end = _span(branch, first, last)
    query = select(func.count(), func.min(Lesson.starts_at)).where(
        Lesson.branch_id == branch.id,
        Lesson.status == LessonStatus.PLANNED,
        Lesson.starts_at >= begin,
        Lesson.starts_at < end,
        *only,
    )
    count, starts_at = db.session.execute(query).one()
    return count, clock.local(starts_at, branch).date() if starts_at is not None else None


def lessons_in_sight(by: Actor) -> tuple[Any, ...]:
    """Conditions on Lesson of what `by` may see of the branches in scope: without `lesson.all`, his own lessons."""
    if by.may("lesson.all"):
        return ()
    return (Lesson.instructor_id.in_(select(Employee.id).where(Employee.user_id == by.id)),)


def count_lessons_today(branches: Sequence[Branch], *, by: Actor) -> int:
    """How many lessons `by` may see that begin today, each branch having its own today; canceled ones left out."""
    spans = [(branch.id, *_span(branch, clock.today(branch), clock.today(branch))) for branch in branches]
    today = [
        and_(Lesson.branch_id == id, Lesson.starts_at >= begin, Lesson.starts_at < end) for id, begin, end in spans
    ]
    query = select(func.count()).select_from(Lesson)
    query = query.where(or_(false(), *today), Lesson.status != LessonStatus.CANCELED, *lessons_in_sight(by))
    return db.session.scalar(query) or 0


def bookings_between(branch: Branch, first: date, last: date) -> list[Booking]:
    """The bookings of a branch's rooms that begin on these days, in the order of time."""
    begin, end = _span(branch, first, last)
    query = (
        select(Booking)
        .where(Booking.branch_id == branch.id, Booking.starts_at >= begin, Booking.starts_at < end)
        .options(joinedload(Booking.room))
        .order_by(Booking.starts_at, Booking.id)
    )
    return list(db.session.scalars(query))


def closed_between(branch: Branch, first: date, last: date) -> dict[date, Closed]:
    """When the branch is closed, by day; days it works round the clock are left out."""
    holidays = holidays_of(branch, first, last)
    found: dict[date, Closed] = {}
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        hours = hours_on(branch, day)
        if day in holidays:
            found[day] = Closed(None, None, str(holidays[day].name))
        elif hours is None:
            found[day] = Closed(None, None)
        elif hours != (time(0), time(0)):
            found[day] = Closed(*hours)
    return found


def members_of(group: ClientGroup, *, day: date) -> list[GroupMember]:
    """Who is in the group on `day` or will be, by name."""
    query = (
        select(GroupMember)
        .join(GroupMember.client)
        .where(GroupMember.group_id == group.id, GroupMember.left_on.is_(None) | (GroupMember.left_on > day))
        .options(joinedload(GroupMember.client))
        .order_by(Client.name, Client.id)
    )
    return list(db.session.scalars(query))


def groups_of(client: Client, *, day: date) -> list[GroupMember]:
    """The groups a client is in on `day` or will be, by name."""
    query = (
        select(GroupMember)
        .join(GroupMember.group)
        .where(GroupMember.client_id == client.id, GroupMember.left_on.is_(None) | (GroupMember.left_on > day))
        .options(
            joinedload(GroupMember.group).options(
                joinedload(ClientGroup.lesson_type), joinedload(ClientGroup.instructor), joinedload(ClientGroup.subject)
            )
        )
        .order_by(ClientGroup.name, GroupMember.id)
    )
    return list(db.session.scalars(query))


def groups_to_join(client: Client, *, day: date) -> list[tuple[ClientGroup, int]]:
    """The groups of the client's branch in use that he is not in, by name, and how many have a place in each."""
    mine = select(GroupMember.group_id).where(
        GroupMember.client_id == client.id, GroupMember.left_on.is_(None) | (GroupMember.left_on > day)
    )
    query = (
        select(ClientGroup)
        .where(
            ClientGroup.branch_id == client.branch_id, ClientGroup.is_archived.is_(False), ClientGroup.id.not_in(mine)
        )
        .order_by(ClientGroup.name)
    )
    groups = list(db.session.scalars(query))
    taken = places_taken([group.id for group in groups], day)
    return [(group, taken.get(group.id, 0)) for group in groups]


def lessons_of_group(group: ClientGroup, *, since: datetime, only: Sequence[Any] = (), limit: int = 10) -> list[Lesson]:
    """The group's next planned lessons; only: further conditions on Lesson."""
    query = (
        select(Lesson)
        .where(Lesson.group_id == group.id, Lesson.starts_at >= since, Lesson.status == LessonStatus.PLANNED, *only)
        .options(joinedload(Lesson.room), joinedload(Lesson.instructor))
        .order_by(Lesson.starts_at, Lesson.id)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def enrolments_of(lesson: Lesson) -> list[Attendance]:
    """Who is enrolled in a lesson, by name; not those whose enrolment was canceled."""
    query = (
        select(Attendance)
        .join(Attendance.client)
        .where(Attendance.lesson_id == lesson.id, Attendance.mark != Mark.CANCELED)
        .options(joinedload(Attendance.client))
        .order_by(Client.name, Client.id)
    )
    return list(db.session.scalars(query))


def lessons_left_to(client_ids: Collection[int], *, day: date) -> dict[int, Decimal]:
    """Lessons clients have left on `day`, as their cards count them: of living subscriptions and of none. By
    client; who has none is left out.
    """
    living = select(Subscription.id).where(Subscription.client_id.in_(client_ids), is_living(day))
    query = (
        select(Account.client_id, func.sum(Account.balance, type_=Account.balance.type))
        .where(
            Account.client_id.in_(client_ids),
            Account.unit == Unit.LESSON,
            Account.subscription_id.is_(None) | Account.subscription_id.in_(living),
        )
        .group_by(Account.client_id)
    )
    return {client_id: left for client_id, left in db.session.execute(query) if client_id is not None and left}


def waiting_for(lesson: Lesson) -> list[Waiting]:
    """Who waits for the lesson's instructor, or for any, and is not enrolled in it, the longest first."""
    enrolled = select(Attendance.client_id).where(Attendance.lesson_id == lesson.id, Attendance.mark != Mark.CANCELED)
    query = (
        select(Waiting)
        .where(
            Waiting.branch_id == lesson.branch_id,
            Waiting.client_id.not_in(enrolled),
            Waiting.instructor_id.is_(None) | (Waiting.instructor_id == lesson.instructor_id),
        )
        .options(joinedload(Waiting.client))
        .order_by(Waiting.added_at, Waiting.id)
        .limit(20)
    )
    return list(db.session.scalars(query))


def has_nobody_to_come(client: Client) -> bool:
    """Whether a payer has nobody in his family and has never been at a lesson or bought any for himself: somebody who
    will attend is still to be added.
    """
    if not client.is_payer or client.family:
        return False
    attends = select(Attendance.id).where(Attendance.client_id == client.id).exists()
    has_bought = select(Subscription.id).where(Subscription.client_id == client.id).exists()
    return not db.session.scalar(select(attends | has_bought))


def _span(branch: Branch, first: date, last: date) -> tuple[datetime, datetime]:
    """From where the first day begins at the branch to where the last one ends."""
    return clock.at(first, time(0), branch), clock.at(last + timedelta(days=1), time(0), branch)


def count_unmarked(payer_id: int, *, before: datetime) -> int:
    """How many lessons before a moment nobody has marked yet, of a payer and of those he pays for."""
    query = (
        select(func.count(Lesson.id.distinct()))
        .select_from(Attendance)
        .join(Lesson, Lesson.id == Attendance.lesson_id)
        .join(Client, Client.id == Attendance.client_id)
        .where(
            or_(Client.id == payer_id, Client.payer_id == payer_id),
            Attendance.mark == Mark.PLANNED,
            Lesson.status == LessonStatus.PLANNED,
            Lesson.starts_at < before,
        )
    )
    return db.session.scalar(query) or 0
