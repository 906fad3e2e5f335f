"""Groups: who is in them, and so at their lessons. Joining and leaving change the lessons to come; the past stays.

Whoever changes who is in a group holds the card, then the group and then its lessons, in id order; so lessons planned
at the same moment have whom the group has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, TypedDict, Unpack

from flask_babel import gettext as _
from sqlalchemy import func, or_, select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Employee
from crm.audit.bulk import Change, change_many
from crm.catalogue.models import LessonType, Room, Subject
from crm.clients.models import Client, ClientStatus
from crm.db import db, insert_rows
from crm.errors import Conflict, DomainError
from crm.schedule.enrolment import hold_cards, seats_taken
from crm.schedule.models import (
    Attendance,
    ClientGroup,
    GroupMember,
    Lesson,
    LessonStatus,
    Mark,
    Trial,
)
from crm.schedule.waiting import leave_for_lessons

MAX_CAPACITY = 10_000


class GroupFacts(TypedDict, total=False):
    """What staff fill in of a group; capacity None: not limited. Facts left out stay as they are."""

    name: str
    lesson_type: LessonType
    subject: Subject | None
    instructor: Employee | None
    room: Room | None
    capacity: int | None
    comment: str
    is_archived: bool


@dataclass(frozen=True)
class LeftOut:
    """A lesson somebody of the group was not enrolled in, and why."""

    lesson: Lesson
    client_id: int
    reason: str


@dataclass(frozen=True)
class Joined:
    """A membership, and the lessons to come it enrolled in."""

    member: GroupMember
    lessons: int
    left_out: Sequence[LeftOut]


@dataclass(frozen=True)
class Left:
    """A membership that has ended, and the lessons to come it was taken off."""

    member: GroupMember
    lessons: int


# --- groups ---------------------------------------------------------------------------------------------------------


def create_group(branch: Branch, *, by: Actor, **facts: Unpack[GroupFacts]) -> ClientGroup:
    """Add a group to a branch. Raises DomainError beside the field. The caller commits."""
    require(by, "clientgroup.create")
    group = ClientGroup(branch_id=branch.id)
    given: GroupFacts = {"name": "", "comment": "", **facts}
    _set_facts(group, given)
    if group.lesson_type_id is None:
        raise DomainError("lesson_type_required", _("Choose the lesson type."), "lesson_type")
    db.session.add(group)
    db.session.flush()
    return group


def change_group(group: ClientGroup, *, by: Actor, **facts: Unpack[GroupFacts]) -> ClientGroup:
    """Change a group: lessons planned from now on take it over. Raises DomainError beside the field. The caller
    commits.
    """
    require(by, "clientgroup.edit", group)
    lock_group(group)
    _set_facts(group, facts)
    db.session.flush()
    return group


def lock_group(group: ClientGroup) -> None:
    """Hold the group until the transaction ends, and know it as it is now: who counts its places waits for others."""
    db.session.execute(select(ClientGroup.id).where(ClientGroup.id == group.id).with_for_update(key_share=True))
    db.session.refresh(group)


def places_taken(group_ids: Collection[int], day: date) -> dict[int, int]:
    """How many have a place on `day` or later, by group; groups without anybody are left out."""
    query = (
        select(GroupMember.group_id, func.count())
        .where(GroupMember.group_id.in_(group_ids), _lasts_on(day))
        .group_by(GroupMember.group_id)
    )
    return dict(iter(db.session.execute(query)))


def _lasts_on(day: date) -> Any:
    """Condition: the membership has not ended by `day`."""
    return or_(GroupMember.left_on.is_(None), GroupMember.left_on > day)


# --- joining and leaving --------------------------------------------------------------------------------------------


def join_group(group: ClientGroup, client: Client, *, on: date | None = None, by: Actor) -> Joined:
    """Put a client into a group of his branch from a day on (today), and so into its lessons planned from then on; of
    two who take the last place one wins. Full lessons, and those nobody may be added to, are left out and told.

    Raises DomainError "group_archived", "client_archived", "client_elsewhere", "day_past" (beside `on`), Conflict
    "member_already", "group_full" (beside `group`). The caller commits.
    """
    require(by, "clientgroup.enrol", group)
    day = _day_to_come(group, on)
    hold_cards([client.id])
    lock_group(group)
    _check_joins(group, client, day)
    member = GroupMember(
        branch_id=group.branch_id, group_id=group.id, client_id=client.id, joined_on=day, author_id=by.id
    )
    db.session.add(member)
    lessons = _lessons_to_come(group, day)
    free, left_out = _sort_out(lessons, client)
    _enrol_one(client, free, by=by)
    return Joined(member, len(free), left_out)


def leave_group(member: GroupMember, *, on: date | None = None, by: Actor) -> Left:
    """Take a client out of a group from a day on (today), and off its lessons planned from then on where he is expected
    as one of the group. The past stays. Raises DomainError "day_past" beside `on`, Conflict "left_already". The caller
    commits.
    """
    require(by, "clientgroup.enrol", member)
    group = member.group
    day = _day_to_come(group, on)
    lock_group(group)
    lesson_ids = [lesson.id for lesson in _lessons_to_come(group, day)]  # before the member is written, as archiving
    db.session.refresh(member)
    if member.left_on is not None and member.left_on <= day:
        raise Conflict("left_already", _("The client has left the group already."))
    member.left_on = max(day, member.joined_on)
    expected = select(Attendance.id).where(
        Attendance.lesson_id.in_(lesson_ids),
        Attendance.client_id == member.client_id,
        Attendance.mark == Mark.PLANNED,
        Attendance.by_group,
    )
    ids = list(db.session.scalars(expected.order_by(Attendance.id)))
    for trial in db.session.scalars(select(Trial).where(Trial.attendance_id.in_(ids))):
        db.session.delete(trial)
    db.session.flush()
    _set_marks(ids, f"{group.name}: {member.client.shown_name}", by=by, mark=Mark.CANCELED, is_trial=False)
    return Left(member, len(ids))


def _day_to_come(group: ClientGroup, on: date | None) -> date:
    today = clock.today(_branch_of(group))
    if on is not None and on < today:
        raise DomainError(
            "day_past", _("Joining and leaving change the future only: choose today or a later day."), "on"
        )
    return on or today


def _check_joins(group: ClientGroup, client: Client, day: date) -> None:
    if group.is_archived:
        raise DomainError("group_archived", _("The group is in the archive. Restore it first."), "group")
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
    if client.branch_id != group.branch_id:
        raise DomainError("client_elsewhere", _("The client belongs to another branch."), "group")
    own = select(GroupMember.id).where(
        GroupMember.group_id == group.id, GroupMember.client_id == client.id, _lasts_on(day)
    )
    if db.session.scalar(own.limit(1)) is not None:
        raise Conflict("member_already", _("The client is in this group already."), "group")
    if group.capacity is not None and places_taken([group.id], day).get(group.id, 0) >= group.capacity:
        raise Conflict("group_full", _("The group is full: %(count)s people at most.", count=group.capacity), "group")


def _lessons_to_come(group: ClientGroup, day: date) -> list[Lesson]:
    """The group's planned lessons that begin on `day` or later and have not begun, locked in id order."""
    since = max(clock.now(), _begins(day, _branch_of(group)))
    query = select(Lesson).where(
        Lesson.group_id == group.id, Lesson.status == LessonStatus.PLANNED, Lesson.starts_at >= since
    )
    locked = query.order_by(Lesson.id).with_for_update(key_share=True, of=Lesson)
    return list(db.session.scalars(locked.execution_options(populate_existing=True)))


def _sort_out(lessons: Sequence[Lesson], client: Client) -> tuple[list[Lesson], list[LeftOut]]:
    """The lessons that take the client as one more of the group, and those that do not; he is left where he is enrolled
    already.
    """
    ids = [lesson.id for lesson in lessons]
    taken = seats_taken(ids)
    there = select(Attendance.lesson_id).where(
        Attendance.lesson_id.in_(ids), Attendance.client_id == client.id, Attendance.mark != Mark.CANCELED
    )
    enrolled = set(db.session.scalars(there))
    free, left_out = [], []
    for lesson in lessons:
        if lesson.id in enrolled:
            continue
        if reason := _why_not(lesson, taken.get(lesson.id, 0)):
            left_out.append(LeftOut(lesson, client.id, reason))
        else:
            free.append(lesson)
    return free, left_out


def _why_not(lesson: Lesson, taken: int) -> str | None:
    if lesson.takes_nobody:
        return _("Nobody may be added to this lesson.")
    if lesson.capacity is not None and taken >= lesson.capacity:
        return _("The lesson is full: %(count)s people at most.", count=lesson.capacity)
    return None


def _enrol_one(client: Client, lessons: Sequence[Lesson], *, by: Actor) -> None:
    """Expect a client at lessons as one of their group; rows canceled before are taken up again."""
    ids = [lesson.id for lesson in lessons]
    canceled = select(Attendance.lesson_id, Attendance.id).where(
        Attendance.lesson_id.in_(ids), Attendance.client_id == client.id
    )
    again = dict(iter(db.session.execute(canceled)))
    _write([(lesson, client.id) for lesson in lessons if lesson.id not in again], by=by)
    leave_for_lessons([(lesson, client.id) for lesson in lessons], by=by)
    db.session.flush()
    _set_marks(sorted(again.values()), client.shown_name, by=by, mark=Mark.PLANNED, by_group=True, is_trial=False)
    for lesson in lessons:
        db.session.expire(lesson, ["attendances"])


def _set_marks(ids: Sequence[int], label: str, *, by: Actor, **values: Any) -> None:
    if ids:
        change_many(Change(Attendance, values, (), ((), lambda: label), is_kept=False), ids, by=by)


# --- newly planned lessons ------------------------------------------------------------------------------------------


def enrol_members(lessons: Sequence[Lesson], *, by: Actor) -> list[LeftOut]:
    """Expect at new lessons those who are in their groups on the day; who planned the lessons has asked for the right.

    The lessons are in the database and nobody else's yet. Lessons that take nobody have nobody; where a group is larger
    than its lesson, the last to join are left out and told. A fixed number of statements, however many lessons. The
    caller commits.
    """
    of_groups = [lesson for lesson in lessons if lesson.group_id is not None and not lesson.takes_nobody]
    if not of_groups:
        return []
    db.session.flush()
    members = _members_by_group({lesson.group_id for lesson in of_groups if lesson.group_id is not None})
    there = _enrolled_already(of_groups)
    left_out: list[LeftOut] = []
    pairs: list[tuple[Lesson, int]] = []
    branches: dict[int, Branch] = {}
    for lesson in of_groups:
        if lesson.branch_id not in branches:
            branches[lesson.branch_id] = db.session.get_one(Branch, lesson.branch_id)
        day = clock.local(lesson.starts_at, branches[lesson.branch_id]).date()
        present = there.get(lesson.id, set())
        taken = len(present)
        for member in members.get(lesson.group_id or 0, ()):
            if member.client_id in present or not _is_in(member, day):
                continue
            if reason := _why_not(lesson, taken):
                left_out.append(LeftOut(lesson, member.client_id, reason))
                continue
            taken += 1
            pairs.append((lesson, member.client_id))
    _write(pairs, by=by)
    leave_for_lessons(pairs, by=by)
    db.session.flush()
    return left_out


def _members_by_group(group_ids: Collection[int]) -> dict[int, list[Any]]:
    """(group_id, client_id, joined_on, left_on) of active clients in the order they joined, by group; the groups are
    held, so that who joins or leaves meanwhile finds the lessons.
    """
    held = select(ClientGroup.id).where(ClientGroup.id.in_(group_ids)).order_by(ClientGroup.id)
    db.session.execute(held.with_for_update(key_share=True))
    query = (
        select(GroupMember.group_id, GroupMember.client_id, GroupMember.joined_on, GroupMember.left_on)
        .join(GroupMember.client)
        .where(GroupMember.group_id.in_(group_ids), Client.status == ClientStatus.ACTIVE)
        .order_by(GroupMember.id)
    )
    found: dict[int, list[Any]] = {}
    for row in db.session.execute(query):
        found.setdefault(row.group_id, []).append(row)
    return found


def _is_in(member: Any, day: date) -> bool:
    return member.joined_on <= day and (member.left_on is None or day < member.left_on)


def _enrolled_already(lessons: Sequence[Lesson]) -> dict[int, set[int]]:
    """Who has a row at the lessons, by lesson: new ones stand together, so a range of ids says which."""
    ids = {lesson.id for lesson in lessons}
    query = select(Attendance.lesson_id, Attendance.client_id).where(Attendance.lesson_id.between(min(ids), max(ids)))
    found: dict[int, set[int]] = {}
    for lesson_id, client_id in db.session.execute(query):
        found.setdefault(lesson_id, set()).add(client_id)
    return found


def _write(pairs: Iterable[tuple[Lesson, int]], *, by: Actor) -> None:
    """Rows of people expected at lessons as members of the group; the audit tells of the membership."""
    same = {"mark": Mark.PLANNED, "is_trial": False, "by_group": True, "author_id": by.id, "created_at": clock.now()}
    rows = [
        {"branch_id": lesson.branch_id, "lesson_id": lesson.id, "client_id": client_id, "version": 1, **same}
        for lesson, client_id in pairs
    ]
    insert_rows(Attendance, rows)


def _branch_of(group: ClientGroup) -> Branch:
    return db.session.get_one(Branch, group.branch_id)


def _begins(day: date, branch: Branch) -> datetime:
    return clock.at(day, time(0), branch)


# --- facts ----------------------------------------------------------------------------------------------------------


def _set_facts(group: ClientGroup, facts: GroupFacts) -> None:
    with db.session.no_autoflush:
        for name, value in facts.items():
            column, read = _READ[name]
            setattr(group, column, read(value, group))


def _read_name(text: str, group: ClientGroup) -> str:
    if not (name := " ".join(text.split())):
        raise DomainError("name_empty", _("Enter the name of the group."), "name")
    same = select(ClientGroup.id).where(ClientGroup.branch_id == group.branch_id, ClientGroup.name == name)
    if db.session.scalar(same.where(ClientGroup.id != (group.id or 0))) is not None:
        raise DomainError("name_taken", _("The branch has a group of this name already."), "name")
    return name


def _read_lesson_type(lesson_type: LessonType | None, group: ClientGroup) -> int:
    if lesson_type is None:
        raise DomainError("lesson_type_required", _("Choose the lesson type."), "lesson_type")
    if lesson_type.is_archived and lesson_type.id != group.lesson_type_id:
        raise DomainError("lesson_type_archived", _("This lesson type is in the archive."), "lesson_type")
    return lesson_type.id


def _read_subject(subject: Subject | None, group: ClientGroup) -> int | None:
    if subject is None or subject.id == group.subject_id:
        return group.subject_id if subject is not None else None
    if subject.is_archived:
        raise DomainError("subject_archived", _("This subject is in the archive."), "subject")
    return subject.id


def _read_instructor(instructor: Employee | None, group: ClientGroup) -> int | None:
    """One who has left, or works elsewhere by now, stays where he was."""
    if instructor is None or instructor.id == group.instructor_id:
        return group.instructor_id if instructor is not None else None
    if instructor.branch_id != group.branch_id or not instructor.is_active or not instructor.teaches:
        raise DomainError(
            "instructor_unavailable", _("This instructor does not hold lessons in this branch."), "instructor"
        )
    return instructor.id


def _read_room(room: Room | None, group: ClientGroup) -> int | None:
    if room is None or room.id == group.room_id:
        return group.room_id if room is not None else None
    if room.branch_id != group.branch_id or room.is_archived:
        raise DomainError("room_unavailable", _("This room is not in use in this branch."), "room")
    return room.id


def _read_capacity(capacity: int | None, group: ClientGroup) -> int | None:
    """Not below those who are in the group: nobody is put out by a number."""
    if capacity is None:
        return None
    if not 0 < capacity <= MAX_CAPACITY:
        raise DomainError("capacity_invalid", _("Enter a number of people from 1 to 10 000."), "capacity")
    if group.id is not None:
        taken = places_taken([group.id], clock.today(_branch_of(group))).get(group.id, 0)
        if capacity < taken:
            raise DomainError(
                "capacity_taken", _("The group has more people already: %(count)s.", count=taken), "capacity"
            )
    return capacity


_READ: dict[str, tuple[str, Callable[[Any, ClientGroup], Any]]] = {
    "name": ("name", _read_name),
    "lesson_type": ("lesson_type_id", _read_lesson_type),
    "subject": ("subject_id", _read_subject),
    "instructor": ("instructor_id", _read_instructor),
    "room": ("room_id", _read_room),
    "capacity": ("capacity", _read_capacity),
    "comment": ("comment", lambda text, _group: text.strip()),
    "is_archived": ("is_archived", lambda value, _group: bool(value)),
}
