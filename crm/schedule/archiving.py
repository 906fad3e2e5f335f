"""What archiving a card does to the schedule: nobody expects the person any more, anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.audit.operations import transition
from crm.catalogue.models import LessonFormat
from crm.clients.operations import AFTER_ARCHIVE
from crm.db import db
from crm.schedule.enrolment import cancel_enrolments, seats_taken
from crm.schedule.models import LESSON_MOVES, Attendance, GroupMember, Lesson, LessonStatus, Mark
from crm.schedule.waiting import leave_waiting_list
from crm.tasks.operations import cancel_calls


def expect_no_more(client_ids: Sequence[int], *, by: Actor) -> None:
    """Take archived clients off the lessons they are expected at, out of their groups and the waiting list, and call
    off the calls planned to them. What is over and not marked yet stays to be marked. The caller commits.

    An individual lesson nobody is left for is canceled: its hour, instructor and room are free again.
    """
    lessons = _take_off(client_ids)
    taken = seats_taken([lesson.id for lesson in lessons])
    for lesson in lessons:
        is_individual = lesson.group_id is None and lesson.lesson_type.format is LessonFormat.INDIVIDUAL
        if is_individual and not taken.get(lesson.id):
            transition(lesson, LESSON_MOVES, LessonStatus.CANCELED, by=by)
    _leave_groups(client_ids)
    leave_waiting_list(client_ids, by=by)
    cancel_calls(client_ids, by=by)


def _take_off(client_ids: Sequence[int]) -> list[Lesson]:
    """The lessons they were expected at, locked."""
    expected = select(Attendance.lesson_id).where(Attendance.client_id.in_(client_ids), Attendance.mark == Mark.PLANNED)
    coming = select(Lesson).where(
        Lesson.id.in_(expected), Lesson.status == LessonStatus.PLANNED, Lesson.ends_at > clock.now()
    )
    lessons = list(
        db.session.scalars(
            coming.order_by(Lesson.id)
            .with_for_update(key_share=True, of=Lesson)
            .options(selectinload(Lesson.lesson_type))
            .execution_options(populate_existing=True)
        )
    )
    cancel_enrolments(_of(client_ids, lessons))
    return lessons


def _of(client_ids: Sequence[int], lessons: Iterable[Lesson]) -> list[Attendance]:
    """As they are now that the lessons are locked."""
    query = select(Attendance).where(
        Attendance.client_id.in_(client_ids),
        Attendance.lesson_id.in_([lesson.id for lesson in lessons]),
        Attendance.mark == Mark.PLANNED,
    )
    return list(db.session.scalars(query.order_by(Attendance.id).execution_options(populate_existing=True)))


def _leave_groups(client_ids: Sequence[int]) -> None:
    """From today on; one who was to join later has never been in it."""
    members = select(GroupMember).where(GroupMember.client_id.in_(client_ids))
    locked = members.order_by(GroupMember.id).with_for_update(key_share=True, of=GroupMember)
    for member in db.session.scalars(locked).all():
        today = clock.today(db.session.get_one(Branch, member.branch_id))
        if member.left_on is None or member.left_on > today:
            member.left_on = max(today, member.joined_on)
    db.session.flush()


AFTER_ARCHIVE.append(expect_no_more)
