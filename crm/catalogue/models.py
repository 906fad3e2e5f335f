"""Subjects and lesson types of the network; rooms and holidays of a branch."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from flask_babel import lazy_gettext as _l
from sqlalchemy import Boolean, CheckConstraint, Date, ForeignKey, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from crm.access.scope import BranchScoped
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum


class LessonFormat(LabelEnum):
    """What remainders of lessons are shown by."""

    INDIVIDUAL = "individual", _l("Individual lessons")
    GROUP = "group", _l("Group lessons")
    OTHER = "other", _l("Other lessons")


class Subject(Model):
    """What is taught: «Английский», «Плавание»."""

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class LessonType(Model):
    """A kind of lesson. single_price: of a visit without a subscription; a return of a subscription counts with it."""

    __tablename__ = "lesson_type"
    __table_args__ = (
        CheckConstraint("single_price >= 0", name="single_price"),
        CheckConstraint("duration_minutes > 0", name="duration"),
    )

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    format: Mapped[LessonFormat] = mapped_column(label_enum(LessonFormat))
    single_price: Mapped[Decimal]
    duration_minutes: Mapped[int] = mapped_column(Integer, default=60)
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class Room(BranchScoped, Model):
    """Where lessons are. capacity: how many people it holds; None: not limited."""

    __table_args__ = (
        UniqueConstraint("branch_id", "name"),
        CheckConstraint("capacity IS NULL OR capacity > 0", name="capacity"),
    )

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    capacity: Mapped[int | None] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class Holiday(BranchScoped, Model):
    """A day on which a branch is closed, whatever its working hours say."""

    __table_args__ = (UniqueConstraint("branch_id", "day"),)

    id: Mapped[PrimaryKey]
    day: Mapped[date] = mapped_column(Date)
    name: Mapped[Text200] = mapped_column(default="")
    version: Mapped[int] = mapped_column(Integer)

    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the day
    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name or self.day.isoformat()
