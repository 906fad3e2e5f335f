"""Who comes to a lesson: enrolling and taking off, and why somebody cannot be enrolled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import Actor, require
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark, Trial
from crm.schedule.waiting import leave_for_lessons


@dataclass(frozen=True)
class EnrolmentRefused:
    """Why somebody cannot be enrolled. code: "lesson_over", "client_archived", "client_elsewhere", "takes_nobody",
    "lesson_full", "enrolled_already".
    """

    code: str
    text: str


def hold_cards(client_ids: Collection[int]) -> None:
    """Hold cards until the transaction ends, in id order, and know them as they are now: none is archived or merged
    meanwhile, and who asks what they come to waits for others. Before rooms and lessons are locked.
    """
    query = select(Client).where(Client.id.in_(client_ids)).order_by(Client.id)
    held = query.with_for_update(key_share=True, of=Client).execution_options(populate_existing=True)
    db.session.scalars(held).all()


def lock_lesson(lesson: Lesson) -> None:
    """Hold the lesson until the transaction ends, and know it as it is now: who counts its places waits for others."""
    db.session.execute(select(Lesson.id).where(Lesson.id == lesson.id).with_for_update(key_share=True))
    db.session.refresh(lesson)


def seats_taken(lesson_ids: Collection[int]) -> dict[int, int]:
    """How many are enrolled, by lesson; lessons without anybody are left out."""
    query = (
        select(Attendance.lesson_id, func.count())
        .where(Attendance.lesson_id.in_(lesson_ids), Attendance.mark != Mark.CANCELED)
        .group_by(Attendance.lesson_id)
    )
    return dict(iter(db.session.execute(query)))


def enrolment_of(lesson: Lesson, client: Client) -> Attendance | None:
    """The client's row at the lesson, a canceled one too."""
    return db.session.scalar(
        select(Attendance).where(Attendance.lesson_id == lesson.id, Attendance.client_id == client.id)
    )


def refusal_to_take_more(lesson: Lesson) -> EnrolmentRefused | None:
    """Why nobody at all can be enrolled now, or None: "lesson_over", "takes_nobody", "lesson_full"."""
    if lesson.status is not LessonStatus.PLANNED:
        return EnrolmentRefused("lesson_over", _("The lesson is held or canceled: nobody is enrolled any more."))
    if lesson.takes_nobody:
        return EnrolmentRefused("takes_nobody", _("Nobody may be added to this lesson."))
    if lesson.capacity is not None and seats_taken([lesson.id]).get(lesson.id, 0) >= lesson.capacity:
        return EnrolmentRefused(
            "lesson_full", _("The lesson is full: %(count)s people at most.", count=lesson.capacity)
        )
    return None


def refusal_to_enrol(lesson: Lesson, client: Client) -> EnrolmentRefused | None:
    """Why the client cannot be enrolled now, or None. Final only while the lesson is locked."""
    of_all = refusal_to_take_more(lesson)
    if of_all is not None and of_all.code == "lesson_over":
        return of_all
    if client.status is not ClientStatus.ACTIVE:
        return EnrolmentRefused("client_archived", _("The client's card is in the archive. Restore it first."))
    if client.branch_id != lesson.branch_id:
        return EnrolmentRefused("client_elsewhere", _("The client belongs to another branch."))
    own = enrolment_of(lesson, client)
    if own is not None and own.mark is not Mark.CANCELED:
        return EnrolmentRefused("enrolled_already", _("The client is already enrolled in this lesson."))
    return of_all


def enrol(lesson: Lesson, client: Client, *, by: Actor, by_group: bool = False, is_trial: bool = False) -> Attendance:
    """Expect the client at a planned lesson of his branch; of two who take the last place one wins. Who waited for its
    instructor, or for any, waits no longer. The caller commits.

    by_group: as a member of the lesson's group. is_trial: it will be the family's free lesson (trials.py keeps count).
    Raises DomainError with a code and text of refusal_to_enrol(); "lesson_full" and "enrolled_already" as Conflict.
    """
    require(by, "lesson.enrol", lesson)
    hold_cards([client.id])
    lock_lesson(lesson)
    if refused := refusal_to_enrol(lesson, client):
        is_race = refused.code in {"lesson_full", "enrolled_already"}
        raise (Conflict if is_race else DomainError)(refused.code, refused.text)
    attendance = enrolment_of(lesson, client)
    if attendance is None:
        attendance = Attendance(
            branch_id=lesson.branch_id,
            lesson=lesson,
            client=client,
            author_id=by.id,
            created_at=clock.now(),
        )
        db.session.add(attendance)
    attendance.mark, attendance.by_group, attendance.is_trial = Mark.PLANNED, by_group, is_trial
    leave_for_lessons([(lesson, client.id)], by=by)
    db.session.flush()
    db.session.expire(lesson, ["attendances"])
    return attendance


def take_off(attendance: Attendance, *, by: Actor) -> Attendance:
    """Expect him no longer; a trial lesson planned there is his family's to plan anew. The caller commits.

    Raises DomainError "marked_already" when he has been marked: the mark is changed first.
    """
    require(by, "lesson.enrol", attendance)
    lock_lesson(attendance.lesson)
    db.session.refresh(attendance)
    if attendance.mark is not Mark.PLANNED:
        raise DomainError("marked_already", _("The client has been marked at this lesson: change the mark first."))
    cancel_enrolments([attendance])
    return attendance


def cancel_enrolments(attendances: Sequence[Attendance]) -> None:
    """As take_off(), without asking: an effect on planned attendances whose lessons the caller has locked."""
    trials: Any = select(Trial).where(Trial.attendance_id.in_([attendance.id for attendance in attendances]))
    for trial in db.session.scalars(trials):
        db.session.delete(trial)
    for attendance in attendances:
        attendance.mark, attendance.is_trial = Mark.CANCELED, False
    db.session.flush()
    for attendance in attendances:
        db.session.expire(attendance.lesson, ["attendances"])
