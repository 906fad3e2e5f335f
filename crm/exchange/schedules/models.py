"""Export schedules, what each planned moment came to, and the letters of it."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    Time,
    UniqueConstraint,
    event,
    inspect,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm import clock
from crm.access.models import Branch, User
from crm.background.models import BackgroundJob
from crm.db import LabelEnum, Model, PrimaryKey, Text40, Text200, label_enum
from crm.mailings.models import MessageStatus, Periodicity


class ExportSchedule(Model):
    """A selection of a grid that is sent regularly. It belongs to its owner, runs with his rights of the moment, in the
    branch he had chosen (branch_id, None = the network), in his language.

    entity: the view; selection: what Selection.to_params() gave; columns: their names, None = all there are.
    weekdays: 0 Monday to 6 Sunday, of a weekly one; month_day: 1 to 31, clamped to the month's last day.
    send_time: on the clock of time_zone. schedule_since: when it was made, switched on or given another time; earlier
    moments are not caught up. stop_reason: why it was switched off by itself. last_outcome: of the latest sending.
    """

    __table_args__ = (CheckConstraint("month_day BETWEEN 1 AND 31", name="month_day"),)

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    entity: Mapped[Text40]
    owner_id: Mapped[int] = mapped_column(ForeignKey("user.id"), index=True)
    branch_id: Mapped[int | None] = mapped_column(ForeignKey("branch.id"))
    locale: Mapped[str] = mapped_column(String(5), default="ru")
    selection: Mapped[list[Any]] = mapped_column(JSON)
    columns: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    periodicity: Mapped[Periodicity] = mapped_column(label_enum(Periodicity))
    weekdays: Mapped[list[Any]] = mapped_column(JSON)
    month_day: Mapped[int | None] = mapped_column(Integer)
    send_time: Mapped[time] = mapped_column(Time)
    time_zone: Mapped[str] = mapped_column(String(64))
    recipients: Mapped[list[Any]] = mapped_column(JSON)
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    stop_reason: Mapped[str] = mapped_column(String(500), default="")
    last_outcome: Mapped[str] = mapped_column(String(500), default="")
    created_at: Mapped[datetime]
    schedule_since: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    owner: Mapped[User] = relationship()
    branch: Mapped[Branch | None] = relationship()
    deliveries: Mapped[list[ExportDelivery]] = relationship(
        back_populates="schedule", passive_deletes=True, cascade="all, delete-orphan"
    )

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


def _restart_schedule(_mapper: Any, _connection: Any, schedule: ExportSchedule) -> None:
    attributes = inspect(schedule).attrs
    names = ("is_active", "periodicity", "send_time", "weekdays", "month_day", "time_zone")
    if any(attributes[name].history.has_changes() for name in names):
        schedule.schedule_since = clock.now()


event.listen(ExportSchedule, "before_insert", _restart_schedule)
event.listen(ExportSchedule, "before_update", _restart_schedule)


class DeliveryStatus(LabelEnum):
    PREPARING = "preparing", _lp("delivery", "File being prepared")
    READY = "ready", _lp("delivery", "File ready")
    FAILED = "failed", _lp("delivery", "Failed")


class ExportDelivery(Model):
    """One planned moment of a schedule: unique, so that two schedulers make one file and one set of letters.

    rows: how many the file holds. error: why there is none. job: makes the file and keeps it for the owner.
    """

    __audited__ = False
    __table_args__ = (UniqueConstraint("schedule_id", "planned_at"), Index(None, "status"))

    id: Mapped[PrimaryKey]
    schedule_id: Mapped[int] = mapped_column(ForeignKey("export_schedule.id", ondelete="CASCADE"))
    planned_at: Mapped[datetime]
    is_manual: Mapped[bool] = mapped_column(Boolean, default=False)
    status: Mapped[DeliveryStatus] = mapped_column(label_enum(DeliveryStatus), default=DeliveryStatus.PREPARING)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("background_job.id", ondelete="SET NULL"), index=True)
    rows: Mapped[int | None] = mapped_column(Integer)
    subject: Mapped[str] = mapped_column(String(300), default="")
    body: Mapped[str] = mapped_column(Text, default="")
    is_attached: Mapped[bool] = mapped_column(Boolean, default=False)
    error: Mapped[str] = mapped_column(String(500), default="")
    created_at: Mapped[datetime]

    schedule: Mapped[ExportSchedule] = relationship(back_populates="deliveries")
    job: Mapped[BackgroundJob | None] = relationship()
    letters: Mapped[list[ExportLetter]] = relationship(
        back_populates="delivery", passive_deletes=True, cascade="all, delete-orphan", order_by="ExportLetter.id"
    )

    def __str__(self) -> str:
        return f"#{self.id}"


class ExportLetter(Model):
    """The letter of a delivery to one address, sent at most once; see mailings.models.Message."""

    __audited__ = False
    __table_args__ = (UniqueConstraint("delivery_id", "recipient"), Index(None, "status", "next_try_at"))

    id: Mapped[PrimaryKey]
    delivery_id: Mapped[int] = mapped_column(ForeignKey("export_delivery.id", ondelete="CASCADE"))
    recipient: Mapped[str] = mapped_column(String(254))
    status: Mapped[MessageStatus] = mapped_column(label_enum(MessageStatus), default=MessageStatus.PENDING)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(String(500), default="")

    delivery: Mapped[ExportDelivery] = relationship(back_populates="letters")
