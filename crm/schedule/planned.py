"""Lessons somebody's family is expected at, and taking it off many of them at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload

from crm.access.actors import Actor, require
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.schedule.enrolment import cancel_enrolments, seats_taken
from crm.schedule.lessons import cancel_lessons, lock_lessons
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.schedule.queries import lessons_in_sight


def planned_of(client: Client, ids: Collection[int] | None = None, *, by: Actor) -> list[Attendance]:
    """Lessons not held yet, of those `by` may see, at which a client is expected, the next first; of his family too
    when he pays for it. ids: of these attendances only.
    """
    query = (
        select(Attendance)
        .join(Attendance.lesson)
        .join(Attendance.client)
        .where(
            or_(Client.id == client.id, Client.payer_id == client.id),
            Attendance.mark == Mark.PLANNED,
            Lesson.status == LessonStatus.PLANNED,
            *lessons_in_sight(by),
        )
        .options(joinedload(Attendance.client), joinedload(Attendance.lesson).options(*_of_lesson()))
        .order_by(Lesson.starts_at, Attendance.id)
    )
    return list(db.session.scalars(query if ids is None else query.where(Attendance.id.in_(ids))))


def _of_lesson() -> list[Any]:
    names = (Lesson.lesson_type, Lesson.subject, Lesson.group, Lesson.room, Lesson.instructor, Lesson.branch)
    return [joinedload(name) for name in names]


def cancel_planned(attendances: Sequence[Attendance], *, by: Actor) -> int:
    """«Отменить занятия»: expect them no longer; how many. A lesson that was for nobody else, and of no group, is
    canceled itself by who may, so that its room and time are free. The caller commits. Raises as take_off() does: all
    or none.
    """
    for one in attendances:
        require(by, "lesson.enrol", one)
    lessons = {one.lesson_id: one.lesson for one in attendances}
    lock_lessons(lessons)
    as_now = select(Attendance).where(Attendance.id.in_([one.id for one in attendances]))
    found = db.session.scalars(as_now.execution_options(populate_existing=True)).all()
    if any(one.mark is not Mark.PLANNED for one in found):
        raise DomainError("marked_already", _("The client has been marked at this lesson: change the mark first."))
    cancel_enrolments(found)
    if by.may("lesson.cancel"):
        taken = seats_taken(lessons)
        empty = [id for id, lesson in sorted(lessons.items()) if id not in taken and lesson.group_id is None]
        if empty:
            cancel_lessons(empty, by=by)
    return len(found)
