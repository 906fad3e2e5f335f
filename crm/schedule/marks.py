"""Marks of lessons with what the lesson says of them, as one row to read: the grid of attendance and its files.

Mapped onto the join of attendance and lesson, as ledger/history.py does for entries: filters, sorts, totals, exports
and the row scope take it like any other model.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Mapped, column_property, foreign, relationship

from crm.access.actors import Actor
from crm.access.models import Branch, Employee, User
from crm.access.scope import BranchScoped
from crm.catalogue.models import LessonType, Room, Subject
from crm.clients.models import Client
from crm.db import Model, read_only
from crm.schedule.models import Attendance, ClientGroup, Lesson, LessonStatus, Mark
from crm.subscriptions.models import Subscription

attendances: Table = Attendance.__table__  # type: ignore[assignment]
lessons: Table = Lesson.__table__  # type: ignore[assignment]


@read_only
class LessonMark(BranchScoped, Model):
    """One person at one lesson. id is the attendance's; mark_attendance() is what writes."""

    __tablename__ = "attendance"
    __table__ = attendances.join(lessons, lessons.c.id == attendances.c.lesson_id)
    __mapper_args__ = {"primary_key": [attendances.c.id], "include_properties": []}  # the columns named here, no others
    __audited__ = False

    id: Mapped[int] = column_property(attendances.c.id)
    lesson_id: Mapped[int] = column_property(attendances.c.lesson_id)
    client_id: Mapped[int] = column_property(attendances.c.client_id)
    branch_id: Mapped[int] = column_property(attendances.c.branch_id)
    mark: Mapped[Mark] = column_property(attendances.c.mark)
    is_trial: Mapped[bool] = column_property(attendances.c.is_trial)
    by_group: Mapped[bool] = column_property(attendances.c.by_group)
    subscription_id: Mapped[int | None] = column_property(attendances.c.subscription_id)
    transaction_id: Mapped[int | None] = column_property(attendances.c.transaction_id)
    price: Mapped[Decimal | None] = column_property(attendances.c.price)
    created_at: Mapped[datetime] = column_property(attendances.c.created_at)
    marked_at: Mapped[datetime | None] = column_property(attendances.c.marked_at)
    marked_by_id: Mapped[int | None] = column_property(attendances.c.marked_by_id)

    starts_at: Mapped[datetime] = column_property(lessons.c.starts_at)
    lesson_status: Mapped[LessonStatus] = column_property(lessons.c.status)
    lesson_type_id: Mapped[int] = column_property(lessons.c.lesson_type_id)
    subject_id: Mapped[int | None] = column_property(lessons.c.subject_id)
    group_id: Mapped[int | None] = column_property(lessons.c.group_id)
    room_id: Mapped[int | None] = column_property(lessons.c.room_id)
    instructor_id: Mapped[int | None] = column_property(lessons.c.instructor_id)

    client: Mapped[Client] = relationship(foreign_keys=client_id, viewonly=True)
    branch: Mapped[Branch] = relationship(foreign_keys=branch_id, viewonly=True)
    subscription: Mapped[Subscription | None] = relationship(foreign_keys=subscription_id, viewonly=True)
    marked_by: Mapped[User | None] = relationship(foreign_keys=marked_by_id, viewonly=True)
    lesson: Mapped[Lesson] = relationship(primaryjoin=lambda: foreign(LessonMark.lesson_id) == Lesson.id, viewonly=True)
    lesson_type: Mapped[LessonType] = relationship(foreign_keys=lesson_type_id, viewonly=True)
    subject: Mapped[Subject | None] = relationship(foreign_keys=subject_id, viewonly=True)
    group: Mapped[ClientGroup | None] = relationship(foreign_keys=group_id, viewonly=True)
    room: Mapped[Room | None] = relationship(foreign_keys=room_id, viewonly=True)
    instructor: Mapped[Employee | None] = relationship(foreign_keys=instructor_id, viewonly=True)

    @property
    def takes_lesson(self) -> bool:
        """Whether a lesson was written off for it: of a subscription, or an extra one; not a visit paid by itself."""
        is_extra = self.transaction_id is not None and not self.price
        return self.mark.is_written_off and (self.subscription_id is not None or is_extra)

    @property
    def title(self) -> str:
        """What the lesson is called: the group, else the subject, else the type."""
        return str(self.group or self.subject or self.lesson_type)

    def __str__(self) -> str:
        return f"{self.title}: {self.client.shown_name}" if self.client is not None else self.title


def marks_in_sight(by: Actor) -> tuple[Any, ...]:
    """Conditions on LessonMark of what `by` may see of the branches in scope: without `lesson.all`, his own lessons."""
    if by.may("lesson.all"):
        return ()
    return (LessonMark.instructor_id.in_(select(Employee.id).where(Employee.user_id == by.id)),)
