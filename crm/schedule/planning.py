"""Planning lessons at once, by a rule: what would become of each, and then those that can be are written together.

A lesson for a client where a lesson of the same type stands already is no second one: he is enrolled there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.models import Branch, Employee
from crm.access.scope import current_scope
from crm.audit.bulk import Change, change_many
from crm.catalogue.models import LessonType, Room, Subject
from crm.clients.models import Client, ClientStatus
from crm.db import db, insert_rows
from crm.errors import Conflict, DomainError, NotFound
from crm.i18n import moment
from crm.schedule.enrolment import hold_cards, seats_taken
from crm.schedule.groups import enrol_members
from crm.schedule.lessons import lock_lessons
from crm.schedule.models import (
    Attendance,
    Booking,
    ClientGroup,
    GroupMember,
    Lesson,
    LessonSeries,
    LessonStatus,
    Mark,
)
from crm.schedule.occupancy import (
    Occupancy,
    Refusal,
    Slot,
    Taken,
    capacity_in,
    check_instructor,
    check_room,
    hold_places,
    occupancy_of,
    refusal_of_past,
)
from crm.schedule.recurrence import Recurrence
from crm.schedule.waiting import leave_for_lessons
from crm.subscriptions.models import Plan, Subscription, SubscriptionState, SubscriptionStatus
from crm.tasks.models import TaskKind
from crm.tasks.operations import create_task


@dataclass(frozen=True)
class Moved:
    """What somebody chose instead for one lesson of a series; None: as the rule has it. is_skipped: not at all."""

    day: date | None = None
    time: time | None = None
    room: Room | None = None
    is_skipped: bool = False


@dataclass(frozen=True)
class LessonPlan:
    """Lessons somebody wants: of a group, for a client, or for whoever enrols.

    moved: by the day the rule gives a lesson, what was chosen instead. capacity None: as many as the room holds, one of
    an individual lesson. further_rooms: booked for the same time.
    """

    branch: Branch
    rule: Recurrence
    lesson_type: LessonType
    subject: Subject | None = None
    room: Room | None = None
    further_rooms: tuple[Room, ...] = ()
    instructor: Employee | None = None
    capacity: int | None = None
    takes_nobody: bool = False
    client: Client | None = None
    group: ClientGroup | None = None
    moved: Mapping[date, Moved] = field(default_factory=dict)

    def rooms(self) -> list[Room]:
        """Every room it may need, each once."""
        chosen = [self.room, *self.further_rooms, *(one.room for one in self.moved.values())]
        return list({room.id: room for room in chosen if room is not None}.values())


@dataclass(frozen=True)
class PlannedLine:
    """What becomes of one lesson of a plan. on: the day the rule gives it.

    refusal: why it is not planned. joins: number of the lesson the client is enrolled in instead of a new one. meets:
    number of the individual lesson it falls on; 0: on one of this very plan. room: where it would be.
    """

    on: date
    slot: Slot
    room: Room | None
    refusal: Refusal | None = None
    joins: int | None = None
    meets: int | None = None

    @property
    def is_ok(self) -> bool:
        return self.refusal is None

    @property
    def token(self) -> str:
        """What somebody was shown of it."""
        return f"{self.on.isoformat()}/{self.slot.starts_at.isoformat()}/{self.slot.room_id}/{self.joins}"


@dataclass(frozen=True)
class Planned:
    """What has been planned: new lessons, in order; those a client joined; lines that were refused; tasks made."""

    lessons: Sequence[Lesson]
    joined: Sequence[int]
    refused: Sequence[PlannedLine]
    tasks: int

    @property
    def count(self) -> int:
        return len(self.lessons) + len(self.joined)


# --- looking --------------------------------------------------------------------------------------------------------


def preview_plan(plan: LessonPlan, *, by: Actor) -> list[PlannedLine]:
    """What would become of each lesson of a plan now, in the order of the rule; those to be skipped are left out.

    A fixed number of statements, however many lessons. Raises DomainError beside a field that is wrong for all.
    """
    _check(plan, by=by)
    wanted = list(_slots(plan))
    if not wanted:
        return []
    client_id = plan.client.id if plan.client is not None else None
    group_id = plan.group.id if plan.group is not None else None
    occupancy = occupancy_of(plan.branch, [slot for _on, slot, _room in wanted], client_id=client_id, group_id=group_id)
    judge = _Judge(plan, occupancy, [slot for _on, slot, _room in wanted], by=by)
    return [judge.line(on, slot, room) for on, slot, room in wanted]


def _check(plan: LessonPlan, *, by: Actor) -> None:
    require(by, "lesson.create", plan.client or plan.group)
    branch = plan.branch
    if not current_scope().covers(branch.id):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    if plan.client is not None:
        require(by, "lesson.enrol")
        if plan.client.status is not ClientStatus.ACTIVE:
            raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
    if plan.group is not None and plan.group.is_archived:
        raise DomainError("group_archived", _("The group is in the archive. Restore it first."))
    for one in (plan.client, plan.group):
        if one is not None and one.branch_id != branch.id:
            raise DomainError("client_elsewhere", _("The client belongs to another branch."))
    if plan.capacity is not None and not 0 < plan.capacity <= 10_000:
        raise DomainError("capacity_invalid", _("Enter how many people fit in, at least one."), "capacity")
    if plan.lesson_type.is_archived and plan.group is None:
        raise DomainError("lesson_type_archived", _("This lesson type is in the archive."), "lesson_type")
    for room in plan.rooms():
        check_room(room, branch)
    check_instructor(plan.instructor, branch)
    if plan.further_rooms:
        if not branch.company.has_parallel_rooms:
            raise DomainError(
                "rooms_not_parallel", _("Work in parallel rooms is switched off: ask the support."), "further_rooms"
            )
        if plan.room is None or plan.room in plan.further_rooms:
            raise DomainError("rooms_wrong", _("Choose the main room, and others as further ones."), "further_rooms")


def _slots(plan: LessonPlan) -> Iterable[tuple[date, Slot, Room | None]]:
    """(day of the rule, time and rooms, main room) of each lesson: the same hour of the branch's clock all the year."""
    length = timedelta(minutes=plan.rule.minutes)
    instructor_id = plan.instructor.id if plan.instructor is not None else None
    for on in plan.rule.days():
        moved = plan.moved.get(on, _AS_RULED)
        if moved.is_skipped:
            continue
        room = moved.room or plan.room
        starts_at = clock.at(moved.day or on, moved.time or plan.rule.time, plan.branch)
        further = tuple(other.id for other in plan.further_rooms if room is None or other.id != room.id)
        yield on, Slot(starts_at, starts_at + length, room.id if room else None, further, instructor_id), room


_AS_RULED = Moved()


class _Judge:
    """Says of one lesson after another what becomes of it; those it lets through stand in the way of the next."""

    def __init__(self, plan: LessonPlan, occupancy: Occupancy, slots: Sequence[Slot], *, by: Actor) -> None:
        self._plan, self._occupancy, self._by = plan, occupancy, by
        self._members = _memberships(plan.group) if plan.group is not None and not plan.takes_nobody else []
        standing = {one.lesson_id for slot in slots for one in _standing(occupancy, slot)}
        ids = [number for number in standing if number is not None]
        self._seats = seats_taken(ids) if plan.client is not None and ids else {}

    def line(self, on: date, slot: Slot, room: Room | None) -> PlannedLine:
        early = refusal_of_past(slot.starts_at, by=self._by) or self._occupancy.closed(slot)
        if early is not None:
            return PlannedLine(on, slot, room, early)
        if self._plan.client is not None:
            if (enrolled := self._refusal_of_client(slot)) is not None:
                return PlannedLine(on, slot, room, enrolled)
            if (standing := self._to_join(slot)) is not None:
                return self._joining(on, slot, room, standing)
        group_id = self._plan.group.id if self._plan.group is not None else None
        refusal = self._occupancy.booked(slot)
        refusal = refusal or self._occupancy.taken(slot, group_id=group_id, spares_individual=True)
        refusal = refusal or self._refusal_of_members(slot, room)
        if refusal is not None:
            return PlannedLine(on, slot, room, refusal)
        met = self._occupancy.met(slot)
        self._take(slot)
        return PlannedLine(on, slot, room, meets=None if met is None else met.lesson_id or 0)

    def _take(self, slot: Slot) -> None:
        """What is planned stands in the way of what is planned after it."""
        type_, group = self._plan.lesson_type, self._plan.group
        self._occupancy.take(
            Taken(
                *(slot.starts_at, slot.ends_at, slot.room_id, slot.instructor_id),
                lesson_type_id=type_.id,
                group_id=group.id if group is not None else None,
                format=type_.format,
            )
        )
        if self._plan.client is not None:
            self._occupancy.take_client(slot)
        for room_id in slot.further_room_ids:
            self._occupancy.take(Taken(slot.starts_at, slot.ends_at, room_id, is_booking=True))

    def _refusal_of_client(self, slot: Slot) -> Refusal | None:
        others = self._occupancy.lessons_of_client(slot)
        if any(one.lesson_id is not None and _is_there(one, slot) for one in others):
            return Refusal("enrolled_already", _("the client is already enrolled in this lesson"))
        return Refusal("client_busy", _("the client has another lesson at this time")) if others else None

    def _to_join(self, slot: Slot) -> Taken | None:
        """The lesson of the same type that begins there at the same time, whose subject and instructor suit."""
        plan = self._plan
        for one in _standing(self._occupancy, slot):
            if (
                one.lesson_id is not None
                and not one.is_individual
                and _is_there(one, slot)
                and one.lesson_type_id == plan.lesson_type.id
                and (plan.subject is None or one.subject_id in {None, plan.subject.id})
                and (slot.instructor_id is None or one.instructor_id in {None, slot.instructor_id})
            ):
                return one
        return None

    def _joining(self, on: date, slot: Slot, room: Room | None, standing: Taken) -> PlannedLine:
        assert standing.lesson_id is not None
        refusal = None
        if standing.status is not LessonStatus.PLANNED:
            refusal = Refusal("lesson_over", _("the lesson there has been held already"))
        elif standing.takes_nobody:
            refusal = Refusal("takes_nobody", _("the lesson is marked “never add anyone to the lesson”"))
        elif standing.capacity is not None and self._seats.get(standing.lesson_id, 0) >= standing.capacity:
            refusal = Refusal("lesson_full", _("the lesson has the maximum number of people"))
        if refusal is None:
            self._occupancy.take_client(slot)
        return PlannedLine(on, slot, room, refusal, joins=standing.lesson_id if refusal is None else None)

    def _refusal_of_members(self, slot: Slot, room: Room | None) -> Refusal | None:
        """A group larger than its lesson."""
        capacity = capacity_in(room, self._plan.lesson_type, self._plan.capacity)
        if capacity is None or not self._members:
            return None
        day = clock.local(slot.starts_at, self._plan.branch).date()
        present = sum(1 for joined, left in self._members if joined <= day and (left is None or day < left))
        if present <= capacity:
            return None
        return Refusal("lesson_full", _("the maximum number of people would be exceeded after planning"))


def _standing(occupancy: Occupancy, slot: Slot) -> list[Taken]:
    """Lessons where one is wanted: in the room; of the instructor, if it is to be in none."""
    return occupancy.lessons_of_instructor(slot) if slot.room_id is None else occupancy.lessons_in_rooms(slot)


def _is_there(one: Taken, slot: Slot) -> bool:
    return one.starts_at == slot.starts_at and slot.room_id in {None, one.room_id}


def _memberships(group: ClientGroup) -> list[tuple[date, date | None]]:
    query = select(GroupMember.joined_on, GroupMember.left_on).join(GroupMember.client)
    query = query.where(GroupMember.group_id == group.id, Client.status == ClientStatus.ACTIVE)
    return [(row.joined_on, row.left_on) for row in db.session.execute(query)]


def _member_ids(group: ClientGroup | None) -> Sequence[int]:
    """Whoever is in the group, or has been."""
    if group is None:
        return []
    return db.session.scalars(select(GroupMember.client_id).where(GroupMember.group_id == group.id)).all()


# --- planning -------------------------------------------------------------------------------------------------------


def plan_lessons(plan: LessonPlan, *, by: Actor, shown: Collection[str] | None = None) -> Planned:
    """Write the lessons of a plan that can be, and enrol the client or the members of the group; the others are told.
    A fixed number of statements, however many lessons, but for a task for each individual lesson they fall on. Of two
    who plan into the same room, or for the same instructor or client, the second sees what the first has planned. The
    caller commits.

    shown: tokens of the lines the person was told of as possible. Raises Conflict "plan_changed" when one of them is
    not any more, and DomainError "nothing_planned" when none can be; as preview_plan().
    """
    _check(plan, by=by)
    hold_cards([plan.client.id] if plan.client is not None else _member_ids(plan.group))
    instructor_ids = [plan.instructor.id] if plan.instructor is not None else []
    group_ids = [plan.group.id] if plan.group is not None else []
    hold_places(plan.branch, [room.id for room in plan.rooms()], instructor_ids, group_ids)
    lines = preview_plan(plan, by=by)
    if standing := [line.joins for line in lines if line.joins is not None]:
        lock_lessons(standing)  # who is enrolled there is known for good only now
        lines = preview_plan(plan, by=by)
    accepted = [line for line in lines if line.is_ok and (shown is None or line.token in shown)]
    _check_shown(plan, lines, accepted, shown)
    lessons = _write_lessons(plan, [line for line in accepted if line.joins is None], by=by)
    joined = [line.joins for line in accepted if line.joins is not None]
    if plan.client is not None:
        _enrol(plan.client, [lesson.id for lesson in lessons], joined, by=by)
        standing_there = db.session.scalars(select(Lesson).where(Lesson.id.in_(joined))) if joined else ()
        leave_for_lessons([(lesson, plan.client.id) for lesson in (*lessons, *standing_there)], by=by)
    elif plan.group is not None:
        enrol_members(lessons, by=by)
    tasks = _ask_for_corrections(plan, accepted, lessons, by=by)
    db.session.flush()
    return Planned(lessons, joined, [line for line in lines if not line.is_ok], tasks)


def _check_shown(
    plan: LessonPlan, lines: Sequence[PlannedLine], accepted: Sequence[PlannedLine], shown: Collection[str] | None
) -> None:
    if shown is not None and len(accepted) != len(set(shown)):
        known = {token.partition("/")[0] for token in shown}
        refused = next((line for line in lines if not line.is_ok and line.on.isoformat() in known), None)
        reason = ""
        if refused is not None and refused.refusal is not None:
            reason = f" {moment(refused.slot.starts_at, plan.branch.time_zone)}: {refused.refusal.text}."
        raise Conflict(
            "plan_changed",
            _("The schedule has changed meanwhile, and nothing has been planned yet. Check the lessons and plan again.")
            + reason,
        )
    if not accepted:
        raise DomainError("nothing_planned", _("None of these lessons can be planned: change the room, date or time."))


def _write_lessons(plan: LessonPlan, lines: Sequence[PlannedLine], *, by: Actor) -> list[Lesson]:
    """A series with its lessons and what is booked for them; the audit keeps one line, of the series."""
    if not lines:
        return []
    now, branch = clock.now(), plan.branch
    series = LessonSeries(branch_id=branch.id, rule=plan.rule.as_json(), author_id=by.id, created_at=now)
    db.session.add(series)
    db.session.flush()
    same = {
        "branch_id": branch.id,
        "series_id": series.id,
        "group_id": plan.group.id if plan.group is not None else None,
        "lesson_type_id": plan.lesson_type.id,
        "subject_id": plan.subject.id if plan.subject is not None else None,
        "takes_nobody": plan.takes_nobody,
        "topic": "",
        "status": LessonStatus.PLANNED,
        "author_id": by.id,
        "created_at": now,
        "version": 1,
    }
    rows = [
        {
            **same,
            "room_id": line.slot.room_id,
            "instructor_id": line.slot.instructor_id,
            "starts_at": line.slot.starts_at,
            "ends_at": line.slot.ends_at,
            "capacity": capacity_in(line.room, plan.lesson_type, plan.capacity),
        }
        for line in lines
    ]
    insert_rows(Lesson, rows)
    query = select(Lesson).where(Lesson.series_id == series.id).order_by(Lesson.starts_at, Lesson.id)
    lessons = list(db.session.scalars(query))
    further = {line.slot.starts_at: line.slot.further_room_ids for line in lines}
    bookings = [
        {
            "branch_id": branch.id,
            "room_id": room_id,
            "lesson_id": lesson.id,
            "starts_at": lesson.starts_at,
            "ends_at": lesson.ends_at,
            "comment": "",
            "author_id": by.id,
            "version": 1,
        }
        for lesson in lessons
        for room_id in further[lesson.starts_at]
    ]
    insert_rows(Booking, bookings)
    return lessons


def _enrol(client: Client, new_ids: Sequence[int], joined_ids: Sequence[int], *, by: Actor) -> None:
    """Expect him at all of them: a row each, or the canceled one he has there taken up again."""
    again = select(Attendance.lesson_id, Attendance.id).where(
        Attendance.client_id == client.id, Attendance.lesson_id.in_(joined_ids)
    )
    canceled: dict[int, int] = dict(iter(db.session.execute(again))) if joined_ids else {}
    now = clock.now()
    rows = [
        {
            "branch_id": client.branch_id,
            "lesson_id": lesson_id,
            "client_id": client.id,
            "mark": Mark.PLANNED,
            "is_trial": False,
            "by_group": False,
            "author_id": by.id,
            "created_at": now,
            "version": 1,
        }
        for lesson_id in (*new_ids, *joined_ids)
        if lesson_id not in canceled
    ]
    insert_rows(Attendance, rows)
    if canceled:
        values = {"mark": Mark.PLANNED, "by_group": False, "is_trial": False}
        change = Change(Attendance, values, [], label=((), lambda: client.shown_name), is_kept=False)
        change_many(change, sorted(canceled.values()), by=by)


def _ask_for_corrections(
    plan: LessonPlan, accepted: Sequence[PlannedLine], lessons: Sequence[Lesson], *, by: Actor
) -> int:
    """A task for the administrator of the branch for each lesson that falls on an individual one."""
    by_start = {lesson.starts_at: lesson for lesson in lessons}
    fallen = [line for line in accepted if line.meets is not None]
    for line in fallen:
        lesson = by_start[line.slot.starts_at]
        create_task(
            plan.branch,
            kind=TaskKind.CORRECTION,
            text=_(
                "%(lesson)s, %(at)s: planned onto an individual lesson. Correct one of the two.",
                lesson=str(plan.group or plan.subject or plan.lesson_type),
                at=moment(lesson.starts_at, plan.branch.time_zone),
            ),
            due_on=clock.today(plan.branch),
            lesson_id=line.meets or lesson.id,
            client=plan.client,
            by=by if by.may("task.create") else SYSTEM,
        )
    return len(fallen)


# --- what a client can come to --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LessonTypes:
    """Which types of lessons can be planned for somebody. is_asked: there is a choice to be made."""

    types: Sequence[LessonType]
    is_asked: bool


def lesson_types_for(client: Client, all_types: Sequence[LessonType]) -> LessonTypes:
    """Those of what he has bought and can still use; of what the branch sells when that is nothing. Whatever is good
    for any type leaves the choice of all.
    """
    branch = client.branch
    plans = [sold.plan for sold in _usable(client, clock.today(branch))] or _plans_in(branch)
    bound = {type_.id for plan in plans for type_ in plan.lesson_types}
    is_any = not plans or any(not plan.lesson_types for plan in plans)
    types = list(all_types) if is_any else [type_ for type_ in all_types if type_.id in bound]
    return LessonTypes(types or list(all_types), is_asked=is_any or len(types) != 1)


def _usable(client: Client, today: date) -> list[Subscription]:
    query = select(Subscription).where(
        Subscription.client_id == client.id,
        Subscription.status == SubscriptionStatus.ACTIVE,
        Subscription.ends_on >= today,
    )
    usable = {SubscriptionState.ACTIVE, SubscriptionState.NOT_BEGUN}
    return [sold for sold in db.session.scalars(query) if sold.state(today) in usable]


def _plans_in(branch: Branch) -> list[Plan]:
    query = select(Plan).where(Plan.is_archived.is_(False))
    return [plan for plan in db.session.scalars(query) if not plan.branches or branch in plan.branches]
