"""Tasks of a branch."""

from __future__ import annotations

from datetime import date, datetime

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import Date, ForeignKey, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import User
from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.clock import today
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum


class TaskKind(LabelEnum):
    CALL = "call", _l("Call")
    CORRECTION = "correction", _l("Correct the schedule")
    OTHER = "other", _lp("task", "Other")


class TaskStatus(LabelEnum):
    OPEN = "open", _lp("task", "To do")
    DONE = "done", _lp("task", "Done")
    CANCELED = "canceled", _lp("task", "Canceled")


TASK_MOVES = {
    TaskStatus.OPEN: {TaskStatus.DONE, TaskStatus.CANCELED},
    TaskStatus.DONE: {TaskStatus.OPEN},
    TaskStatus.CANCELED: {TaskStatus.OPEN},
}


class Task(BranchScoped, Model):
    """Something to be done by a day of the branch. assignee_id None: whoever of the branch comes to it first.

    result: what came of it, of a call for one. lesson_id: the lesson to be put right.
    """

    __table_args__ = tuple(
        Index(None, *columns) for columns in (("branch_id", "status", "due_on"), ("client_id", "id"), ("assignee_id",))
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the status
    kind: Mapped[TaskKind] = mapped_column(label_enum(TaskKind))
    status: Mapped[TaskStatus] = mapped_column(label_enum(TaskStatus), default=TaskStatus.OPEN)
    client_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"))
    lesson_id: Mapped[int | None] = mapped_column(ForeignKey("lesson.id"), index=True)
    text: Mapped[str] = mapped_column(Text, default="")
    due_on: Mapped[date] = mapped_column(Date)
    assignee_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[Text200]
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]
    done_by_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    result: Mapped[str] = mapped_column(Text, default="")
    version: Mapped[int] = mapped_column(Integer)

    client: Mapped[Client | None] = relationship()
    assignee: Mapped[User | None] = relationship(foreign_keys=assignee_id)
    done_by: Mapped[User | None] = relationship(foreign_keys=done_by_id)

    __mapper_args__ = {"version_id_col": version}

    @property
    def is_overdue(self) -> bool:
        """Open, and its day has passed in its branch."""
        return self.status is TaskStatus.OPEN and self.due_on < today(self.branch)

    def __str__(self) -> str:
        return self.text.splitlines()[0] if self.text else str(self.kind.label)
