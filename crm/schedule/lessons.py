"""Verbs on lessons: make one, change it or it and the following of its series, cancel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, TypedDict, Unpack

from flask_babel import gettext as _
from sqlalchemy import exists, select
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Employee
from crm.access.scope import current_scope
from crm.audit.bulk import Change, Refusal, change_many
from crm.audit.models import AuditAction
from crm.catalogue.models import LessonType, Room, Subject
from crm.clients.models import Client
from crm.db import db
from crm.errors import Conflict, DomainError, NotFound
from crm.i18n import day, moment
from crm.protocol import ProtocolLine
from crm.schedule.enrolment import hold_cards, seats_taken
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonStatus, Mark, Trial
from crm.schedule.occupancy import (
    Occupancy,
    Slot,
    Taken,
    capacity_in,
    check_instructor,
    check_room,
    hold_places,
    occupancy_of,
    refusal_of_past,
)
from crm.schedule.occupancy import Refusal as SlotRefusal
from crm.schedule.recurrence import MAX_MINUTES

_WRITTEN_OFF = [mark for mark in Mark if mark.is_written_off]


class LessonFacts(TypedDict, total=False):
    """What staff may change of a lesson. starts_at: an instant; minutes: how long it lasts; further_rooms: booked for
    it, beside its main room; capacity None: as many as the room holds. Facts left out stay as they are.
    """

    starts_at: datetime
    minutes: int
    room: Room | None
    further_rooms: Sequence[Room]
    instructor: Employee | None
    capacity: int | None
    takes_nobody: bool
    topic: str


def create_lesson(
    branch: Branch,
    lesson_type: LessonType,
    *,
    by: Actor,
    subject: Subject | None = None,
    group: ClientGroup | None = None,
    **facts: Unpack[LessonFacts],
) -> Lesson:
    """One lesson, at a time when nothing stands in its way; nobody is enrolled yet. The caller commits.

    Raises DomainError beside the field, with a code of occupancy.Refusal when it cannot be at that time.
    """
    require(by, "lesson.create")
    if not current_scope().covers(branch.id):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    lesson = Lesson(
        branch_id=branch.id,
        lesson_type=lesson_type,
        subject=subject,
        group=group,
        status=LessonStatus.PLANNED,
        author_id=by.id,
        created_at=clock.now(),
    )
    wanted: LessonFacts = {"minutes": lesson_type.duration_minutes, "capacity": None, "room": None, **facts}
    slot = _slot_of(lesson, [], wanted)
    room, instructor = wanted.get("room"), wanted.get("instructor")
    _check_places(branch, wanted)
    hold_places(branch, slot.room_ids, _ids([instructor]), _ids([group]))
    if refused := refusal_of_past(slot.starts_at, by=by):
        raise refused.error()
    group_id = _id(group)
    occupancy = occupancy_of(branch, [slot], group_id=group_id)
    if refused := occupancy.closed(slot) or occupancy.booked(slot) or _taken(occupancy, slot, group_id):
        raise refused.error()
    lesson.starts_at, lesson.ends_at = slot.starts_at, slot.ends_at
    lesson.room, lesson.instructor = room, instructor
    lesson.capacity = capacity_in(room, lesson_type, _read_capacity(wanted["capacity"]))
    lesson.takes_nobody, lesson.topic = wanted.get("takes_nobody", False), wanted.get("topic", "").strip()
    db.session.add(lesson)
    db.session.flush()
    db.session.add_all(booked_for(lesson, room_id, by=by) for room_id in slot.further_room_ids)
    db.session.flush()
    return lesson


def booked_for(lesson: Lesson, room_id: int, *, by: Actor) -> Booking:
    """The second room of a lesson that goes on in several."""
    return Booking(
        branch_id=lesson.branch_id,
        room=db.session.get_one(Room, room_id),
        lesson_id=lesson.id,
        starts_at=lesson.starts_at,
        ends_at=lesson.ends_at,
        author_id=by.id,
    )


# --- changing -------------------------------------------------------------------------------------------------------


def change_lesson(lesson: Lesson, *, by: Actor, **facts: Unpack[LessonFacts]) -> Lesson:
    """Change a planned lesson; of one that is over only the topic. What is booked for it moves along. The caller
    commits.

    Raises DomainError beside the field, with a code of occupancy.Refusal when it cannot be at that time, "lesson_over",
    "marks_first" when it goes to another day and somebody has been written off for it, "capacity_small" when more are
    enrolled.
    """
    require(by, "lesson.edit", lesson)
    _change([lesson], {lesson.id: _differing(lesson, facts)}, by=by)
    return lesson


def change_following(lesson: Lesson, *, by: Actor, **facts: Unpack[LessonFacts]) -> list[Lesson]:
    """Change a lesson and the planned ones of its series after it, all or none: what differs from the lesson as it is.
    Another time moves each by as many days, to the same hour of the branch's clock. The caller commits.

    Raises as change_lesson() does, naming the lesson of the series that stands in the way.
    """
    require(by, "lesson.edit", lesson)
    differing = _differing(lesson, facts)
    lessons, branch = [lesson, *following(lesson)], lesson.branch
    wanted: dict[int, LessonFacts] = {one.id: {**differing} for one in lessons}
    if "starts_at" in differing:
        before, after = clock.local(lesson.starts_at, branch), clock.local(differing["starts_at"], branch)
        for one in lessons:
            day = clock.local(one.starts_at, branch).date() + (after.date() - before.date())
            wanted[one.id]["starts_at"] = clock.at(day, after.time(), branch)
    _change(lessons, wanted, by=by)
    return lessons


def _differing(lesson: Lesson, facts: LessonFacts) -> LessonFacts:
    """Those that are not so already."""
    changed: Any = {name: value for name, value in facts.items() if value != PRESENT[name](lesson)}
    return changed


def following(lesson: Lesson) -> list[Lesson]:
    """The planned lessons of its series after it."""
    if lesson.series_id is None:
        return []
    query = select(Lesson).where(
        Lesson.series_id == lesson.series_id, Lesson.status == LessonStatus.PLANNED, Lesson.id != lesson.id
    )
    return list(db.session.scalars(query.where(Lesson.starts_at >= lesson.starts_at).order_by(Lesson.starts_at)))


def further_rooms_of(lesson: Lesson) -> list[Room]:
    """The rooms booked for a lesson beside its main one."""
    query = select(Room).join(Booking, Booking.room_id == Room.id).where(Booking.lesson_id == lesson.id)
    return list(db.session.scalars(query.order_by(Room.position, Room.name)))


# What a lesson has of what can be changed of it.
PRESENT: dict[str, Callable[[Lesson], Any]] = {
    "starts_at": lambda lesson: lesson.starts_at,
    "minutes": lambda lesson: (lesson.ends_at - lesson.starts_at) // timedelta(minutes=1),
    "room": lambda lesson: lesson.room,
    "further_rooms": further_rooms_of,
    "instructor": lambda lesson: lesson.instructor,
    "capacity": lambda lesson: lesson.capacity,
    "takes_nobody": lambda lesson: lesson.takes_nobody,
    "topic": lambda lesson: lesson.topic,
}


def _change(lessons: Sequence[Lesson], wanted: Mapping[int, LessonFacts], *, by: Actor) -> None:
    """Change lessons of one branch together: they do not stand in each other's way unless they end there."""
    branch, ids = lessons[0].branch, [lesson.id for lesson in lessons]
    given = list(wanted.values())
    rooms = [room for facts in given for room in (facts.get("room"), *facts.get("further_rooms", ()))]
    if any(facts.keys() & {"starts_at", "minutes"} for facts in given):
        enrolled = select(Attendance.client_id).where(Attendance.lesson_id.in_(ids), Attendance.mark != Mark.CANCELED)
        hold_cards(db.session.scalars(enrolled).all())
    second_rooms = db.session.scalars(select(Booking.room_id).where(Booking.lesson_id.in_(ids)))
    hold_places(
        branch,
        _ids(rooms) | _ids(lesson.room for lesson in lessons) | set(second_rooms),
        _ids(facts.get("instructor") for facts in given) | _ids(lesson.instructor for lesson in lessons),
        _ids(lesson.group for lesson in lessons),
    )
    lock_lessons(ids)
    query = select(Booking).where(Booking.lesson_id.in_(ids)).order_by(Booking.id)
    bookings = list(db.session.scalars(query.with_for_update(key_share=True, of=Booking)))
    booked: dict[int, list[Booking]] = {lesson_id: [] for lesson_id in ids}
    for booking in bookings:
        assert booking.lesson_id is not None
        booked[booking.lesson_id].append(booking)
    slots: dict[int, Slot] = {}
    for lesson in lessons:
        facts = wanted[lesson.id]
        if lesson.status is not LessonStatus.PLANNED and facts.keys() - {"topic"}:
            raise DomainError("lesson_over", _("The lesson is held or canceled: only its topic can be changed."))
        _check_places(branch, facts, lesson)
        slots[lesson.id] = _slot_of(lesson, booked[lesson.id], facts)
    _check_marked_stay(lessons, slots)
    _check_times(lessons, slots, booked, by=by)
    _check_capacity(lessons, wanted)
    for lesson in lessons:
        _write(lesson, wanted[lesson.id], slots[lesson.id], booked[lesson.id], by=by)
    db.session.flush()


def lock_lessons(ids: Collection[int]) -> None:
    """Hold lessons, in id order, and know them as they are now."""
    query = select(Lesson).where(Lesson.id.in_(ids)).order_by(Lesson.id)
    db.session.scalars(query.with_for_update(key_share=True, of=Lesson).execution_options(populate_existing=True)).all()


def _slot_of(lesson: Lesson, bookings: Sequence[Booking], facts: LessonFacts) -> Slot:
    """Where and when the lesson is to be."""
    starts_at = facts.get("starts_at", lesson.starts_at)
    minutes = facts.get("minutes")
    length = lesson.ends_at - lesson.starts_at if minutes is None else _read_minutes(minutes)
    room_id = _id(facts["room"]) if "room" in facts else lesson.room_id
    further = _ids(facts["further_rooms"]) if "further_rooms" in facts else {one.room_id for one in bookings}
    if further and (room_id is None or room_id in further):
        raise DomainError("rooms_wrong", _("Choose the main room, and others as further ones."), "further_rooms")
    instructor_id = _id(facts["instructor"]) if "instructor" in facts else lesson.instructor_id
    return Slot(starts_at, starts_at + length, room_id, tuple(sorted(further)), instructor_id)


def _check_marked_stay(lessons: Sequence[Lesson], slots: Mapping[int, Slot]) -> None:
    """Raise DomainError "marks_first" when a lesson somebody has been written off for goes to another day: by the day
    it was decided what covers it, and that it may be marked.
    """

    def day_of(lesson: Lesson, at: datetime) -> date:
        return clock.local(at, lesson.branch).date()

    moved = {one.id: one for one in lessons if day_of(one, slots[one.id].starts_at) != day_of(one, one.starts_at)}
    if not moved:
        return
    marked = select(Attendance.lesson_id).where(Attendance.lesson_id.in_(moved), Attendance.mark.in_(_WRITTEN_OFF))
    if (id := db.session.scalar(marked.order_by(Attendance.lesson_id).limit(1))) is not None:
        raise DomainError(
            "marks_first",
            _(
                "Somebody has been marked at the lesson of %(day)s: it stays on its day until the marks are changed.",
                day=day(day_of(moved[id], moved[id].starts_at)),
            ),
            "starts_at",
        )


def _check_times(
    lessons: Sequence[Lesson], slots: Mapping[int, Slot], booked: Mapping[int, list[Booking]], *, by: Actor
) -> None:
    """Raise the refusal of the first lesson that cannot be where it is to go."""
    before = {lesson.id: _slot_of(lesson, booked[lesson.id], {}) for lesson in lessons}
    moved = [lesson for lesson in lessons if slots[lesson.id] != before[lesson.id]]
    if not moved:
        return
    branch, is_series = lessons[0].branch, len(lessons) > 1
    occupancy = occupancy_of(branch, [slots[lesson.id] for lesson in moved], group_id=lessons[0].group_id)
    occupancy.forget({lesson.id for lesson in lessons})
    busy = _others_of_clients([lesson.id for lesson in moved], [slots[lesson.id] for lesson in moved])
    for lesson in lessons:
        slot, old = slots[lesson.id], before[lesson.id]
        if slot != old and (refused := _refusal_to_move(lesson, old, slot, occupancy, busy, by=by)):
            raise refused.error(slot.starts_at, branch) if is_series else refused.error()
        occupancy.take(_as_taken(lesson, slot))
        for room_id in slot.further_room_ids:
            occupancy.take(Taken(slot.starts_at, slot.ends_at, room_id, lesson_id=lesson.id, is_booking=True))


def _refusal_to_move(
    lesson: Lesson,
    old: Slot,
    slot: Slot,
    occupancy: Occupancy,
    busy: Mapping[int, list[tuple[str, Taken]]],
    *,
    by: Actor,
) -> SlotRefusal | None:
    """Asked of what changes alone: a lesson that stands in a holiday already may have another instructor."""
    is_retimed = (slot.starts_at, slot.ends_at) != (old.starts_at, old.ends_at)
    if is_retimed and (refused := refusal_of_past(slot.starts_at, by=by) or occupancy.closed(slot)):
        return refused
    asked = slot
    if not is_retimed:
        new_rooms = set(slot.room_ids) - set(old.room_ids)
        asked = replace(
            slot,
            room_id=slot.room_id if slot.room_id in new_rooms else None,
            further_room_ids=tuple(room_id for room_id in slot.further_room_ids if room_id in new_rooms),
            instructor_id=slot.instructor_id if slot.instructor_id != old.instructor_id else None,
        )
    if refused := occupancy.booked(asked) or _taken(occupancy, asked, lesson.group_id if is_retimed else None):
        return refused
    if is_retimed:
        for name, taken in busy.get(lesson.id, ()):
            if slot.overlaps(taken):
                return SlotRefusal("client_busy", _("%(client)s has another lesson at this time", client=name))
    return None


def _taken(occupancy: Occupancy, slot: Slot, group_id: int | None) -> SlotRefusal | None:
    return occupancy.taken(slot, group_id=group_id, spares_individual=False)


def _others_of_clients(lesson_ids: Sequence[int], slots: Sequence[Slot]) -> dict[int, list[tuple[str, Taken]]]:
    """By lesson: (who is enrolled, another lesson of his in the time the slots lie in)."""
    other, elsewhere = aliased(Attendance), aliased(Lesson)
    first, last = min(slot.starts_at for slot in slots), max(slot.ends_at for slot in slots)
    query = (
        select(Attendance.lesson_id, Client.name, elsewhere.starts_at, elsewhere.ends_at, elsewhere.room_id)
        .join(Client, Client.id == Attendance.client_id)
        .join(other, other.client_id == Attendance.client_id)
        .join(elsewhere, elsewhere.id == other.lesson_id)
        .where(
            *(Attendance.lesson_id.in_(lesson_ids), Attendance.mark != Mark.CANCELED, other.mark != Mark.CANCELED),
            *(elsewhere.id.not_in(lesson_ids), elsewhere.status != LessonStatus.CANCELED),
            *(elsewhere.starts_at < last, elsewhere.ends_at > first),
            elsewhere.starts_at > first - timedelta(minutes=MAX_MINUTES),
        )
    )
    found: dict[int, list[tuple[str, Taken]]] = {}
    for lesson_id, name, starts_at, ends_at, room_id in db.session.execute(query):
        found.setdefault(lesson_id, []).append((name, Taken(starts_at, ends_at, room_id)))
    return found


def _as_taken(lesson: Lesson, slot: Slot) -> Taken:
    return Taken(
        *(slot.starts_at, slot.ends_at, slot.room_id, slot.instructor_id),
        lesson_id=lesson.id,
        lesson_type_id=lesson.lesson_type_id,
        group_id=lesson.group_id,
        format=lesson.lesson_type.format,
    )


def _check_places(branch: Branch, facts: LessonFacts, lesson: Lesson | None = None) -> None:
    check_room(facts.get("room"), branch, kept=lesson.room_id if lesson is not None else None)
    for room in facts.get("further_rooms", ()):
        check_room(room, branch, field="further_rooms")
    check_instructor(facts.get("instructor"), branch, kept=lesson.instructor_id if lesson is not None else None)
    if facts.get("further_rooms") and not branch.company.has_parallel_rooms:
        raise DomainError(
            "rooms_not_parallel", _("Work in parallel rooms is switched off: ask the support."), "further_rooms"
        )


def _check_capacity(lessons: Sequence[Lesson], wanted: Mapping[int, LessonFacts]) -> None:
    """Raise DomainError "capacity_small" where more are enrolled than there will be places."""
    asked = [lesson for lesson in lessons if wanted[lesson.id].keys() & {"capacity", "room"}]
    taken = seats_taken([lesson.id for lesson in asked]) if asked else {}
    for lesson in asked:
        capacity, seats = _capacity_of(lesson, wanted[lesson.id]), taken.get(lesson.id, 0)
        if capacity is not None and seats > capacity:
            raise DomainError(
                "capacity_small",
                _("%(count)s are enrolled already: there must be a place for each.", count=seats),
                "capacity",
            )


def _capacity_of(lesson: Lesson, facts: LessonFacts) -> int | None:
    capacity = _read_capacity(facts["capacity"]) if "capacity" in facts else lesson.capacity
    return capacity_in(facts.get("room", lesson.room), lesson.lesson_type, capacity)


def _write(lesson: Lesson, facts: LessonFacts, slot: Slot, bookings: Sequence[Booking], *, by: Actor) -> None:
    if facts.keys() & {"capacity", "room"}:
        lesson.capacity = _capacity_of(lesson, facts)
    lesson.starts_at, lesson.ends_at = slot.starts_at, slot.ends_at
    lesson.room_id, lesson.instructor_id = slot.room_id, slot.instructor_id
    lesson.takes_nobody = facts.get("takes_nobody", lesson.takes_nobody)
    lesson.topic = facts.get("topic", lesson.topic).strip()
    for booking in bookings:
        if booking.room_id not in slot.further_room_ids:
            db.session.delete(booking)
        else:
            booking.starts_at, booking.ends_at = slot.starts_at, slot.ends_at
    kept = {booking.room_id for booking in bookings}
    db.session.add_all(booked_for(lesson, room_id, by=by) for room_id in slot.further_room_ids if room_id not in kept)


# --- canceling ------------------------------------------------------------------------------------------------------


def cancel_lesson(lesson: Lesson, *, by: Actor) -> Lesson:
    """Nobody is expected any more; what was booked for it is free. The caller commits.

    Raises DomainError "marks_first" when somebody has been written off for it, Conflict "lesson_over" when it is held
    or canceled already.
    """
    require(by, "lesson.cancel", lesson)
    [line] = cancel_lessons([lesson.id], by=by)
    if not line.is_done:
        is_marked = lesson.status is LessonStatus.PLANNED
        raise DomainError("marks_first", line.reason) if is_marked else Conflict("lesson_over", line.reason)
    return lesson


def cancel_following(lesson: Lesson, *, by: Actor) -> list[ProtocolLine]:
    """Cancel a lesson and the planned ones of its series after it; a line for each, with why one is left. The caller
    commits.
    """
    require(by, "lesson.cancel", lesson)
    return cancel_lessons([lesson.id, *(one.id for one in following(lesson))], by=by)


def cancel_lessons(ids: Sequence[int], *, by: Actor) -> list[ProtocolLine]:
    """Cancel lessons in a few statements; a line for each, in the order given, with why one is left as it is: a lesson
    somebody has been written off for is canceled when his mark has been changed. The caller commits.
    """
    require(by, "lesson.cancel")
    lock_lessons(ids)  # first: what is decided by the marks is decided by those of now
    marked = exists().where(Attendance.lesson_id == Lesson.id, Attendance.mark.in_(_WRITTEN_OFF))
    zone = select(Branch.time_zone).where(Branch.id == Lesson.branch_id).scalar_subquery()
    change = Change(
        Lesson,
        {"status": LessonStatus.CANCELED},
        [
            Refusal(
                Lesson.status.not_in([LessonStatus.PLANNED, LessonStatus.CANCELED]),
                _("The lesson is held already."),
            ),
            Refusal(marked, _("Somebody has been marked at the lesson: change the marks first.")),
        ],
        label=((Lesson.starts_at, zone), moment),
        action=AuditAction.TRANSITION,
        is_kept=False,
        so_already=_("The lesson is canceled already."),
    )
    lines = change_many(change, ids, by=by)
    _expect_nobody([line.id for line in lines if line.is_done], by=by)
    return lines


def _expect_nobody(lesson_ids: Collection[int], *, by: Actor) -> None:
    """Planned attendance is canceled, a trial lesson is the family's to plan anew, rooms are free."""
    expected = select(Attendance.id).where(Attendance.lesson_id.in_(lesson_ids), Attendance.mark == Mark.PLANNED)
    ids = list(db.session.scalars(expected.order_by(Attendance.id)))
    for trial in db.session.scalars(select(Trial).where(Trial.attendance_id.in_(ids))):
        db.session.delete(trial)
    for booking in db.session.scalars(select(Booking).where(Booking.lesson_id.in_(lesson_ids))):
        db.session.delete(booking)
    db.session.flush()
    name = select(Client.name).where(Client.id == Attendance.client_id).scalar_subquery()
    change = Change(
        Attendance,
        {"mark": Mark.CANCELED, "is_trial": False},
        [],
        label=((name,), lambda name: name or ""),
        is_kept=False,
    )
    change_many(change, ids, by=by)


# --- reading --------------------------------------------------------------------------------------------------------


def _read_minutes(minutes: int) -> timedelta:
    if not 0 < minutes <= MAX_MINUTES:
        raise DomainError("minutes_invalid", _("A lesson lasts from 1 minute to 24 hours."), "minutes")
    return timedelta(minutes=minutes)


def _read_capacity(capacity: int | None) -> int | None:
    if capacity is not None and not 0 < capacity <= 10_000:
        raise DomainError("capacity_invalid", _("Enter how many people fit in, at least one."), "capacity")
    return capacity


def _id(row: Any) -> int | None:
    return None if row is None else row.id


def _ids(rows: Any) -> set[int]:
    return {row.id for row in rows if row is not None}
