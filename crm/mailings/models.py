"""Templates, rules, runs, messages."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import (
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
    false,
    inspect,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm import clock
from crm.access.scope import BranchScoped
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.secret import Secret


class Channel(LabelEnum):
    EMAIL = "email", _l("Email")
    SMS = "sms", _l("SMS")


class MailingKind(LabelEnum):
    """«Тип рассылки»."""

    BILLS = "bills", _l("Bills to clients")


class BillingMethod(LabelEnum):
    """How a rule finds the sum («Метод расчёта»)."""

    SUBSCRIPTION = "subscription", _lp("method", "By subscription")


class BilledAccounts(LabelEnum):
    """Which client account a rule bills («Тип расчетов»)."""

    BASE = "base", _l("On the base account")


class Periodicity(LabelEnum):
    DAILY = "daily", _l("Daily")
    WEEKLY = "weekly", _l("Weekly")
    MONTHLY = "monthly", _l("Monthly")


class Template(Model):
    """Text of a message with {tags}; see mailings/tags.py for those there are. subject: of letters alone. is_thanks:
    sent by itself when a payment has come; one of a channel at most.
    """

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    channel: Mapped[Channel] = mapped_column(label_enum(Channel), default=Channel.EMAIL)
    subject: Mapped[Text200]
    body: Mapped[str] = mapped_column(Text)
    is_thanks: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class MailingRule(BranchScoped, Model):
    """What is mailed, when and how, for the clients of one branch; times are the branch's.

    weekday: 0 Monday to 6 Sunday; month_day: 1 to 31, clamped to the month's last day.
    term_days: days a bill may be paid counting the day of issue, None = without limit.
    schedule_since: when the rule was made, switched on or given another schedule; earlier moments are not caught up.
    """

    __table_args__ = (
        CheckConstraint("weekday BETWEEN 0 AND 6", name="weekday"),
        CheckConstraint("month_day BETWEEN 1 AND 31", name="month_day"),
        CheckConstraint("term_days IS NULL OR term_days > 0", name="term"),
    )

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    kind: Mapped[MailingKind] = mapped_column(label_enum(MailingKind), default=MailingKind.BILLS)
    method: Mapped[BillingMethod] = mapped_column(label_enum(BillingMethod), default=BillingMethod.SUBSCRIPTION)
    accounts: Mapped[BilledAccounts] = mapped_column(label_enum(BilledAccounts), default=BilledAccounts.BASE)
    term_days: Mapped[int | None] = mapped_column(Integer)
    is_repeatable: Mapped[bool] = mapped_column(Boolean, default=False)
    periodicity: Mapped[Periodicity] = mapped_column(label_enum(Periodicity), default=Periodicity.DAILY)
    send_time: Mapped[time] = mapped_column(Time)
    weekday: Mapped[int | None] = mapped_column(Integer)
    month_day: Mapped[int | None] = mapped_column(Integer)
    channel: Mapped[Channel] = mapped_column(label_enum(Channel), default=Channel.EMAIL)
    template_id: Mapped[int] = mapped_column(ForeignKey("template.id"))
    created_at: Mapped[datetime]
    schedule_since: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer)

    template: Mapped[Template] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


def _restart_schedule(_mapper: Any, _connection: Any, rule: MailingRule) -> None:
    attributes = inspect(rule).attrs
    names = ("is_active", "periodicity", "send_time", "weekday", "month_day")
    if any(attributes[name].history.has_changes() for name in names):
        rule.schedule_since = clock.now()


event.listen(MailingRule, "before_insert", _restart_schedule)
event.listen(MailingRule, "before_update", _restart_schedule)


class RunStatus(LabelEnum):
    PLANNED = "planned", _lp("run", "Planned")
    RUNNING = "running", _lp("run", "Running")
    DONE = "done", _lp("run", "Done")


RUN_MOVES = {
    RunStatus.PLANNED: {RunStatus.RUNNING},
    # A run whose worker died is claimed again once its lease is over: every step of it is idempotent.
    RunStatus.RUNNING: {RunStatus.RUNNING, RunStatus.DONE},
}


class MailingRun(BranchScoped, Model):
    """One execution of a rule; unique per rule and planned time, so that two schedulers make one run.

    lease_until: while running, the instant after which another worker may take it over. note: why it ended early.
    """

    __table_args__ = (UniqueConstraint("rule_id", "planned_at"), Index(None, "status", "lease_until"))

    id: Mapped[PrimaryKey]
    rule_id: Mapped[int] = mapped_column(ForeignKey("mailing_rule.id"))
    planned_at: Mapped[datetime] = mapped_column(index=True)
    is_manual: Mapped[bool] = mapped_column(Boolean, default=False)
    status: Mapped[RunStatus] = mapped_column(label_enum(RunStatus), default=RunStatus.PLANNED)
    lease_until: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    total: Mapped[int] = mapped_column(Integer, default=0)
    note: Mapped[str] = mapped_column(String(200), default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))

    rule: Mapped[MailingRule] = relationship()
    lines: Mapped[list[MailingRunLine]] = relationship(back_populates="run", order_by="MailingRunLine.id")

    def __str__(self) -> str:
        return f"#{self.id}"


class RunResult(LabelEnum):
    ISSUED = "issued", _lp("run", "Bill issued, letter queued")
    SKIPPED = "skipped", _lp("run", "Skipped")
    FAILED = "failed", _lp("run", "Failed")


class MailingRunLine(Model):
    """What a run did for one payer. bill: the first of those issued; reason: why nothing was sent, or what besides."""

    __audited__ = False
    __table_args__ = (UniqueConstraint("run_id", "client_id"),)

    id: Mapped[PrimaryKey]
    run_id: Mapped[int] = mapped_column(ForeignKey("mailing_run.id"))
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    bill_id: Mapped[int | None] = mapped_column(ForeignKey("bill.id"))
    result: Mapped[RunResult] = mapped_column(label_enum(RunResult))
    reason: Mapped[str] = mapped_column(String(500), default="")

    run: Mapped[MailingRun] = relationship(back_populates="lines")
    client: Mapped[Client] = relationship()
    bill: Mapped[Bill | None] = relationship()


class MessageStatus(LabelEnum):
    PENDING = "pending", _lp("message", "Queued")
    SENDING = "sending", _lp("message", "Being sent")
    SENT = "sent", _lp("message", "Sent")
    FAILED = "failed", _lp("message", "Not sent")
    UNKNOWN = "unknown", _lp("message", "Unknown: may have been sent")
    SKIPPED = "skipped", _lp("message", "Not needed any more")


MESSAGE_MOVES: dict[Any, Any] = {
    MessageStatus.PENDING: {MessageStatus.SENDING, MessageStatus.FAILED},
    MessageStatus.SENDING: {
        MessageStatus.SENT,
        MessageStatus.PENDING,
        MessageStatus.FAILED,
        MessageStatus.UNKNOWN,
        MessageStatus.SKIPPED,
    },
    # Only a person may decide that these go out again.
    MessageStatus.FAILED: {MessageStatus.PENDING},
    MessageStatus.UNKNOWN: {MessageStatus.PENDING},
}


HIDDEN = "••••••"
CODE_KEY = "payment-code:"  # begins the dedupe_key of messages that bring a code


class Message(BranchScoped, Model):
    """A letter or an SMS to one recipient: an outbox row, written in the transaction of its cause.

    recipient: an e-mail address or a phone (E.164). subject: empty in an SMS. external_id: the provider's number of it,
    where he gives one. error: why it was not sent, or is not needed any more.
    secret: what staff do not read, a code say; it stands where the body has HIDDEN, and is forgotten once the message
    is sent, has failed or may have been sent.
    dedupe_key: unique, so that a cause repeated makes no second letter. lease_until: while being sent, when the claim
    ends; a row still "sending" after it is moved to unknown and never sent again by itself.
    """

    __audited__ = False
    __secret__ = frozenset({"secret"})
    __table_args__ = (
        Index(None, "status", "next_try_at"),
        *(
            Index(None, name, "id")
            for name in ("client_id", "branch_id", "status", "recipient", "created_at", "sent_at", "author_name")
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    channel: Mapped[Channel] = mapped_column(label_enum(Channel), default=Channel.EMAIL)
    status: Mapped[MessageStatus] = mapped_column(label_enum(MessageStatus), default=MessageStatus.PENDING)
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    bill_id: Mapped[int | None] = mapped_column(ForeignKey("bill.id"), index=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("mailing_run.id"), index=True)
    recipient: Mapped[str] = mapped_column(String(254))
    subject: Mapped[str] = mapped_column(String(500))
    body: Mapped[str] = mapped_column(Text)
    secret: Mapped[str | None] = mapped_column(Secret)
    dedupe_key: Mapped[str] = mapped_column(String(120), unique=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(String(500), default="")
    external_id: Mapped[str] = mapped_column(String(100), default="", server_default=text("''"))
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[Text200]

    client: Mapped[Client] = relationship()
    bill: Mapped[Bill | None] = relationship()

    def __str__(self) -> str:
        return f"#{self.id}"
