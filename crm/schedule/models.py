"""Groups, lessons, attendance; bookings of rooms; trial lessons, the waiting list, wishes."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import Boolean, CheckConstraint, Date, ForeignKey, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import Employee
from crm.access.scope import BranchScoped
from crm.catalogue.models import LessonType, Room, Subject
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.ledger.models import Transaction
from crm.subscriptions.models import Subscription


class ClientGroup(BranchScoped, Model):
    """People who have lessons together. capacity None: not limited.

    Lessons of the group take over its type, subject, room, instructor and capacity when they are planned.
    """

    __tablename__ = "client_group"
    __table_args__ = (
        UniqueConstraint("branch_id", "name"),
        CheckConstraint("capacity IS NULL OR capacity > 0", name="capacity"),
    )

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    lesson_type_id: Mapped[int] = mapped_column(ForeignKey("lesson_type.id"))
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))
    instructor_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    room_id: Mapped[int | None] = mapped_column(ForeignKey("room.id"))
    capacity: Mapped[int | None] = mapped_column(Integer)
    comment: Mapped[str] = mapped_column(Text, default="")
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    lesson_type: Mapped[LessonType] = relationship()
    subject: Mapped[Subject | None] = relationship()
    instructor: Mapped[Employee | None] = relationship()
    room: Mapped[Room | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


_STILL_MEMBER = text("left_on IS NULL")


class GroupMember(BranchScoped, Model):
    """A time in a group: from joined_on up to the day before left_on; None: still in it."""

    __tablename__ = "group_member"
    __table_args__ = (
        Index(
            "uq_group_member_group_id_client_id",
            "group_id",
            "client_id",
            unique=True,
            sqlite_where=_STILL_MEMBER,
            postgresql_where=_STILL_MEMBER,
        ),
        Index(None, "client_id", "id"),
    )

    id: Mapped[PrimaryKey]
    group_id: Mapped[int] = mapped_column(ForeignKey("client_group.id"), index=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    joined_on: Mapped[date] = mapped_column(Date)
    left_on: Mapped[date | None] = mapped_column(Date)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))

    group: Mapped[ClientGroup] = relationship()
    client: Mapped[Client] = relationship()

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.group, self.client and self.client.shown_name) if part)


class LessonSeries(BranchScoped, Model):
    """Lessons planned at once, by a rule. rule: as planning.Recurrence.as_json() has it."""

    __tablename__ = "lesson_series"

    id: Mapped[PrimaryKey]
    rule: Mapped[dict[str, Any]]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    created_at: Mapped[datetime]


class LessonStatus(LabelEnum):
    PLANNED = "planned", _lp("lesson", "Planned")
    HELD = "held", _lp("lesson", "Held")
    CANCELED = "canceled", _lp("lesson", "Canceled")


LESSON_MOVES = {
    LessonStatus.PLANNED: {LessonStatus.HELD, LessonStatus.CANCELED},
    LessonStatus.HELD: {LessonStatus.PLANNED},
    LessonStatus.CANCELED: {LessonStatus.PLANNED},
}


class Lesson(BranchScoped, Model):
    """A lesson at a time: of a group, or of whoever is enrolled. Held: closed by who has marked everybody.

    capacity None: not limited. takes_nobody: «никого не добавлять на занятие».
    """

    __table_args__ = (
        CheckConstraint("ends_at > starts_at", name="period"),
        CheckConstraint("capacity IS NULL OR capacity > 0", name="capacity"),
        *(
            Index(None, *columns)
            for columns in (
                *(("branch_id", "starts_at"), ("room_id", "starts_at"), ("instructor_id", "starts_at")),
                *(("group_id", "starts_at"), ("status", "id"), ("starts_at", "id"), ("series_id",)),
            )
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the time
    series_id: Mapped[int | None] = mapped_column(ForeignKey("lesson_series.id"))
    group_id: Mapped[int | None] = mapped_column(ForeignKey("client_group.id"))
    lesson_type_id: Mapped[int] = mapped_column(ForeignKey("lesson_type.id"))
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))
    room_id: Mapped[int | None] = mapped_column(ForeignKey("room.id"))
    instructor_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    capacity: Mapped[int | None] = mapped_column(Integer)
    takes_nobody: Mapped[bool] = mapped_column(Boolean, default=False)
    topic: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[LessonStatus] = mapped_column(label_enum(LessonStatus), default=LessonStatus.PLANNED)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    group: Mapped[ClientGroup | None] = relationship()
    lesson_type: Mapped[LessonType] = relationship()
    subject: Mapped[Subject | None] = relationship()
    room: Mapped[Room | None] = relationship()
    instructor: Mapped[Employee | None] = relationship()
    attendances: Mapped[list[Attendance]] = relationship(back_populates="lesson", order_by="Attendance.id")

    __mapper_args__ = {"version_id_col": version}

    @property
    def title(self) -> str:
        """What a calendar calls it: the group, else the subject, else the type."""
        return str(self.group or self.subject or self.lesson_type)

    def __str__(self) -> str:
        return self.title


class Booking(BranchScoped, Model):
    """A room taken for a time. lesson_id: for a lesson that goes on in several rooms at once."""

    __table_args__ = (
        CheckConstraint("ends_at > starts_at", name="period"),
        Index(None, "room_id", "starts_at"),
        Index(None, "branch_id", "starts_at"),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the time
    room_id: Mapped[int] = mapped_column(ForeignKey("room.id"))
    lesson_id: Mapped[int | None] = mapped_column(ForeignKey("lesson.id"), index=True)
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    comment: Mapped[str] = mapped_column(Text, default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer)

    room: Mapped[Room] = relationship()
    lesson: Mapped[Lesson | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.comment or self.room.name


class Mark(LabelEnum):
    """Whether somebody came. What is written off depends on it alone: PRESENT and ABSENT are, the others are not."""

    PLANNED = "planned", _lp("mark", "Expected")
    PRESENT = "present", _lp("mark", "Came")
    ABSENT = "absent", _lp("mark", "Absent, written off")
    EXCUSED = "excused", _lp("mark", "Absent, not written off")
    CANCELED = "canceled", _lp("mark", "Enrolment canceled")

    @property
    def is_written_off(self) -> bool:
        return self in (Mark.PRESENT, Mark.ABSENT)


class Attendance(BranchScoped, Model):
    """One person at one lesson, from the enrolment on.

    subscription_id: what a marked lesson was written off from; None where a single visit was charged or nothing was.
    transaction_id: the write-off that stands. price: the money it took from an account, if any. is_trial: free of
    charge, the family's one trial lesson. by_group: enrolled as a member of the lesson's group.
    """

    __table_args__ = (
        UniqueConstraint("lesson_id", "client_id"),
        *(Index(None, name, "id") for name in ("client_id", "branch_id", "subscription_id", "mark")),
        Index(None, "transaction_id"),
        {"sqlite_autoincrement": True},  # keys of the ledger tell its ids, of rows a merge has deleted too
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    lesson_id: Mapped[int] = mapped_column(ForeignKey("lesson.id"))
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    mark: Mapped[Mark] = mapped_column(label_enum(Mark), default=Mark.PLANNED)
    is_trial: Mapped[bool] = mapped_column(Boolean, default=False)
    by_group: Mapped[bool] = mapped_column(Boolean, default=False)
    subscription_id: Mapped[int | None] = mapped_column(ForeignKey("subscription.id"))
    transaction_id: Mapped[int | None] = mapped_column(ForeignKey("ledger_transaction.id"))
    price: Mapped[Decimal | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    created_at: Mapped[datetime]
    marked_at: Mapped[datetime | None]
    marked_by_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer)

    lesson: Mapped[Lesson] = relationship(back_populates="attendances")
    client: Mapped[Client] = relationship()
    subscription: Mapped[Subscription | None] = relationship()
    transaction: Mapped[Transaction | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.lesson, self.client and self.client.shown_name) if part)


class Trial(BranchScoped, Model):
    """The one free lesson of a payer's family: his row is there as long as it is planned or has been held."""

    id: Mapped[PrimaryKey]
    payer_id: Mapped[int] = mapped_column(ForeignKey("client.id"), unique=True)
    attendance_id: Mapped[int] = mapped_column(ForeignKey("attendance.id"), unique=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))

    payer: Mapped[Client] = relationship()
    attendance: Mapped[Attendance] = relationship()


class Waiting(BranchScoped, Model):
    """Somebody in the waiting list. The comment is seen there and in his card, nowhere else, and goes with the row.

    instructor_id: whom he would like; information only.
    """

    __audited__ = False  # waiting.py tells of it in the history of the card, without the comment

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"), unique=True)
    instructor_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    comment: Mapped[str] = mapped_column(Text, default="")
    added_at: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer)

    client: Mapped[Client] = relationship()
    instructor: Mapped[Employee | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return str(_l("Waiting list"))


class PreferredLesson(BranchScoped, Model):
    """A lesson somebody would like and cannot have now. wish: day and time in words."""

    __tablename__ = "preferred_lesson"
    __table_args__ = (Index(None, "client_id", "id"),)

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    lesson_type_id: Mapped[int | None] = mapped_column(ForeignKey("lesson_type.id"))
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))
    wish: Mapped[str] = mapped_column(Text, default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    created_at: Mapped[datetime]

    client: Mapped[Client] = relationship()
    lesson_type: Mapped[LessonType | None] = relationship()
    subject: Mapped[Subject | None] = relationship()

    def __str__(self) -> str:
        return " · ".join(str(part) for part in (self.subject, self.lesson_type, self.wish) if part)
