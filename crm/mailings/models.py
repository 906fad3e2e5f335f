"""Templates, rules, runs, messages."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    Time,
    UniqueConstraint,
    event,
    false,
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm import clock
from crm.access.models import Company
from crm.access.scope import BranchScoped
from crm.bills.models import Bill
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import Client
from crm.contacts.models import Channel, MessageKind
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.secret import Secret

_JSON = JSON().with_variant(JSONB(), "postgresql")


class ProviderKind(LabelEnum):
    """Services messages go through."""

    HTTP = "http", _lp("provider", "Any SMS gateway (HTTP)")
    SMSRU = "smsru", _lp("provider", "SMS.RU")
    TELEGRAM = "telegram", _lp("provider", "Telegram bot")
    VIBER = "viber", _lp("provider", "Viber bot")
    WHATSAPP = "whatsapp", _lp("provider", "WhatsApp (Wazzup)")


class Provider(Model):
    """What the messages of one channel go through for one company. Without one e-mail and SMS go by the settings of the
    installation, and the other channels are not there.

    url: of the service's API, empty: its own. secret: the key it gave; options: what else it wants, by name. token:
    part of the address its callbacks come to. per_minute: no more are sent, None: without a limit. price: of a message
    or of a part of an SMS, where the service does not tell the cost itself. counted: messages handed over in the minute
    counted_minute.
    """

    __secret__ = frozenset({"secret", "token"})
    __table_args__ = (UniqueConstraint("company_id", "channel"),)

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    channel: Mapped[Channel] = mapped_column(label_enum(Channel))
    kind: Mapped[ProviderKind] = mapped_column(label_enum(ProviderKind))
    url: Mapped[str] = mapped_column(String(500), default="", server_default=text("''"))
    secret: Mapped[str] = mapped_column(Secret)
    sender: Mapped[str] = mapped_column(String(100), default="", server_default=text("''"))
    options: Mapped[dict[str, Any]] = mapped_column(_JSON, default=dict, server_default=text("'{}'"))
    token: Mapped[str] = mapped_column(String(64), unique=True)
    per_minute: Mapped[int | None] = mapped_column(Integer)
    counted_minute: Mapped[datetime | None]
    counted: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    price: Mapped[Decimal | None]
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    company: Mapped[Company] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return str(self.channel.label)


class MessageCharge(Model):
    """What a sent message costs its company («расходы на сообщения»): a row a message, none for those that are free."""

    __audited__ = False
    __table_args__ = (Index(None, "company_id", "at"),)

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id"), unique=True)
    amount: Mapped[Decimal]
    at: Mapped[datetime]

    company: Mapped[Company] = relationship()
    message: Mapped[Message] = relationship()


class MailingKind(LabelEnum):
    """«Тип рассылки». Each has a MessageKind of its own."""

    BILLS = "bills", _l("Bills to clients")
    DEBT = "debt", _l("Reminder of a debt")
    SUBSCRIPTION = "subscription", _l("A subscription ends soon or is used up")
    LESSON = "lesson", _l("Reminder of a lesson")
    BIRTHDAY = "birthday", _l("Birthday greetings")
    TEXT = "text", _l("Any message")

    @property
    def message_kind(self) -> MessageKind:
        return MessageKind.NEWS if self is MailingKind.TEXT else MessageKind[self.name]


class BillingMethod(LabelEnum):
    """How a rule finds the sum («Метод расчёта»)."""

    FORECAST = "forecast", _lp("method", "By the payment forecast")
    SUBSCRIPTION = "subscription", _lp("method", "By the cost of subscriptions")


class BilledAccounts(LabelEnum):
    """Which client accounts a rule bills («Тип расчётов»)."""

    BASE = "base", _lp("billed", "Base account")
    SUBSCRIPTION = "subscription", _lp("billed", "By subscription")
    ALL = "all", _lp("billed", "All accounts")


class PeriodType(LabelEnum):
    """«Тип периода». NEXT: the current one and the one after it, in one bill."""

    CURRENT = "current", _lp("period", "Current")
    NEXT = "next", _lp("period", "Next")


class PeriodUnit(LabelEnum):
    """«Период»."""

    DAY = "day", _lp("period", "Day")
    WEEK = "week", _lp("period", "Week")
    MONTH = "month", _lp("period", "Month")


class Term(LabelEnum):
    """«Срок оплаты», from the day of issue on; one of days ends so many days after it."""

    UNLIMITED = "unlimited", _l("Without a limit")
    DAYS_3 = "days_3", _l("3 days")
    DAYS_5 = "days_5", _l("5 days")
    DAYS_6 = "days_6", _l("6 days")
    WEEK_1 = "week_1", _l("1 week")
    WEEKS_2 = "weeks_2", _l("2 weeks")
    MONTH_END = "month_end", _l("Last day of the current month")
    NEXT_MONTH_END = "next_month_end", _l("Last day of the next month")
    DAYS = "days", _l("Another number of days")


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

    method to money_to: of bills alone. method, accounts, period_type, period: «Метод расчёта», «Тип расчётов», «Тип
    периода», «Период». term_days: with Term.DAYS. issues_again: also where an earlier bill is unpaid.
    subject, lesson_type: only subscriptions of these, None: of any. lessons_*, money_*: what is left on the account
    billed, both ends within the range, None: open.
    days: how many days ahead of its moment a reminder is sent (of a subscription's end, a lesson, a birthday).
    statuses, client_kinds: values of ClientStatus and ClientKind, whose cards it is for; none: all of them.
    attended_only: whoever attended a lesson in the 30 days before. lesson_only: whoever has a lesson on the day.
    weekday: 0 Monday to 6 Sunday; month_day: 1 to 31, clamped to the month's last day; once_on: on this day
    alone, whatever the periodicity.
    ways: what it is sent over, in the order they are tried. A rule made of a selection (is_selected) is for those its
    run was made with, whoever they are by then.
    schedule_since: when the rule was made, switched on, moved to another branch or given another schedule; earlier
    moments are not caught up.
    """

    __table_args__ = (
        CheckConstraint("weekday BETWEEN 0 AND 6", name="weekday"),
        CheckConstraint("month_day BETWEEN 1 AND 31", name="month_day"),
        CheckConstraint("term_days IS NULL OR term_days > 0", name="term"),
        CheckConstraint("days BETWEEN 0 AND 366", name="days"),
    )

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    is_selected: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    kind: Mapped[MailingKind] = mapped_column(label_enum(MailingKind), default=MailingKind.BILLS)
    method: Mapped[BillingMethod] = mapped_column(label_enum(BillingMethod), default=BillingMethod.SUBSCRIPTION)
    accounts: Mapped[BilledAccounts] = mapped_column(label_enum(BilledAccounts), default=BilledAccounts.ALL)
    period_type: Mapped[PeriodType] = mapped_column(
        label_enum(PeriodType), default=PeriodType.CURRENT, server_default="current"
    )
    period: Mapped[PeriodUnit] = mapped_column(label_enum(PeriodUnit), default=PeriodUnit.MONTH, server_default="month")
    term: Mapped[Term] = mapped_column(
        label_enum(Term, name="payment_term"), default=Term.UNLIMITED, server_default="unlimited"
    )
    term_days: Mapped[int | None] = mapped_column(Integer)
    is_repeatable: Mapped[bool] = mapped_column(Boolean, default=False)
    issues_again: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))
    lesson_type_id: Mapped[int | None] = mapped_column(ForeignKey("lesson_type.id"))
    lessons_from: Mapped[int | None] = mapped_column(Integer)
    lessons_to: Mapped[int | None] = mapped_column(Integer)
    money_from: Mapped[Decimal | None]
    money_to: Mapped[Decimal | None]
    days: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    statuses: Mapped[list[str]] = mapped_column(_JSON, default=list, server_default=text("'[]'"))
    client_kinds: Mapped[list[str]] = mapped_column(_JSON, default=list, server_default=text("'[]'"))
    attended_only: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    lesson_only: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    periodicity: Mapped[Periodicity] = mapped_column(label_enum(Periodicity), default=Periodicity.DAILY)
    send_time: Mapped[time] = mapped_column(Time)
    weekday: Mapped[int | None] = mapped_column(Integer)
    month_day: Mapped[int | None] = mapped_column(Integer)
    once_on: Mapped[date | None] = mapped_column(Date)
    created_at: Mapped[datetime]
    schedule_since: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer)

    subject: Mapped[Subject | None] = relationship()
    lesson_type: Mapped[LessonType | None] = relationship()
    ways: Mapped[list[MailingWay]] = relationship(
        back_populates="rule", order_by="MailingWay.position", cascade="all, delete-orphan"
    )

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name

    @property
    def audited_parts(self) -> dict[str, Any]:
        """What the audit tells of a new rule besides its columns."""
        return {"ways": [way.told for way in self.ways]}


class MailingWay(Model):
    """A channel a rule sends over, and the text. template: None with a text of its own (subject, body), as a message
    to a selection has. The audit tells of all the ways of a rule at once, in its history: those it is made with
    (audited_parts), and those that replace them (rules.replace_ways()).
    """

    __audited__ = False
    __table_args__ = (UniqueConstraint("rule_id", "position"), UniqueConstraint("rule_id", "channel"))

    id: Mapped[PrimaryKey]
    rule_id: Mapped[int] = mapped_column(ForeignKey("mailing_rule.id"))
    position: Mapped[int] = mapped_column(Integer)
    channel: Mapped[Channel] = mapped_column(label_enum(Channel))
    template_id: Mapped[int | None] = mapped_column(ForeignKey("template.id"), index=True)
    subject: Mapped[Text200] = mapped_column(default="", server_default=text("''"))
    body: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))

    rule: Mapped[MailingRule] = relationship(back_populates="ways")
    template: Mapped[Template | None] = relationship()

    @property
    def text(self) -> tuple[str, str]:
        """Subject and body, tags and all."""
        return (self.template.subject, self.template.body) if self.template else (self.subject, self.body)

    @property
    def told(self) -> list[str]:
        """As the history keeps it: the value of its channel, the template's name or the text itself."""
        return [self.channel.value, self.template.name if self.template else ": ".join(filter(None, self.text))]


def _restart_schedule(_mapper: Any, _connection: Any, rule: MailingRule) -> None:
    attributes = inspect(rule).attrs
    names = ("branch_id", "is_active", "periodicity", "send_time", "weekday", "month_day", "once_on")
    if any(attributes[name].history.has_changes() for name in names):
        rule.schedule_since = clock.now()


event.listen(MailingRule, "before_insert", _restart_schedule)
event.listen(MailingRule, "before_update", _restart_schedule)


class RunStatus(LabelEnum):
    PLANNED = "planned", _lp("run", "Planned")
    RUNNING = "running", _lp("run", "Running")
    PAUSED = "paused", _lp("run", "Paused")
    DONE = "done", _lp("run", "Done")
    CANCELLED = "cancelled", _lp("run", "Cancelled")


RUN_MOVES = {
    RunStatus.PLANNED: {RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.CANCELLED},
    RunStatus.RUNNING: {RunStatus.PAUSED, RunStatus.DONE, RunStatus.CANCELLED},
    RunStatus.PAUSED: {RunStatus.RUNNING, RunStatus.CANCELLED},
}


class MailingRun(BranchScoped, Model):
    """One execution of a rule; unique per rule and planned time, so that two schedulers make one run.

    Its lines are written at once when it begins (status RUNNING); workers take them in batches, each in a transaction
    of its own, as many workers as there are. total: of its lines. note: why it ended early.
    """

    __table_args__ = (UniqueConstraint("rule_id", "planned_at"), Index(None, "status"))

    id: Mapped[PrimaryKey]
    rule_id: Mapped[int] = mapped_column(ForeignKey("mailing_rule.id"))
    planned_at: Mapped[datetime] = mapped_column(index=True)
    is_manual: Mapped[bool] = mapped_column(Boolean, default=False)
    status: Mapped[RunStatus] = mapped_column(label_enum(RunStatus), default=RunStatus.PLANNED)
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
    """What a run has done for a client; what became of the message since, its own status tells."""

    WAITING = "waiting", _lp("run", "Waiting")
    ISSUED = "issued", _lp("run", "Message queued")
    SKIPPED = "skipped", _lp("run", "Skipped")
    FAILED = "failed", _lp("run", "Failed")


class MailingRunLine(Model):
    """What a run did for one client: a payer, with bills and debts; whoever the message is for, with the others.

    Its messages point at it: one, or one for each bill issued where the text tells of a bill, and more for each way
    that was tried. reason: why nothing was sent, or what besides. done_at: when it stopped waiting.
    """

    __audited__ = False
    __table_args__ = (UniqueConstraint("run_id", "client_id"), Index(None, "run_id", "result", "id"))

    id: Mapped[PrimaryKey]
    run_id: Mapped[int] = mapped_column(ForeignKey("mailing_run.id"))
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"), index=True)
    result: Mapped[RunResult] = mapped_column(label_enum(RunResult), default=RunResult.WAITING)
    reason: Mapped[str] = mapped_column(String(500), default="")
    done_at: Mapped[datetime | None]

    run: Mapped[MailingRun] = relationship(back_populates="lines")
    client: Mapped[Client] = relationship()


class MessageStatus(LabelEnum):
    PENDING = "pending", _lp("message", "Queued")
    TAKEN = "taken", _lp("message", "In a worker's hands")
    SENDING = "sending", _lp("message", "Being sent")
    SENT = "sent", _lp("message", "Sent")
    DELIVERED = "delivered", _lp("message", "Delivered")
    READ = "read", _lp("message", "Read")
    FAILED = "failed", _lp("message", "Not sent")
    UNKNOWN = "unknown", _lp("message", "Unknown: may have been sent")
    SKIPPED = "skipped", _lp("message", "Not needed any more")


MESSAGE_MOVES: dict[Any, Any] = {
    MessageStatus.PENDING: {MessageStatus.TAKEN, MessageStatus.SENDING, MessageStatus.FAILED, MessageStatus.SKIPPED},
    # Claimed with others, not handed over yet: a worker that dies leaves it to be sent by another.
    MessageStatus.TAKEN: {MessageStatus.PENDING, MessageStatus.SENDING, MessageStatus.SKIPPED},
    MessageStatus.SENDING: {
        MessageStatus.SENT,
        MessageStatus.PENDING,
        MessageStatus.FAILED,
        MessageStatus.UNKNOWN,
        MessageStatus.SKIPPED,
    },
    # What the provider tells later; FAILED: it bounced. What has come has come: it goes no other way besides.
    MessageStatus.SENT: {MessageStatus.DELIVERED, MessageStatus.READ, MessageStatus.FAILED},
    MessageStatus.DELIVERED: {MessageStatus.READ},
    # A person may decide that these go out again; a provider may tell that it went out, or that it bounced.
    MessageStatus.FAILED: {MessageStatus.PENDING},
    MessageStatus.UNKNOWN: {
        MessageStatus.PENDING,
        MessageStatus.SENT,
        MessageStatus.DELIVERED,
        MessageStatus.READ,
        MessageStatus.FAILED,
    },
}


HIDDEN = "••••••"
CODE_KEY = "payment-code:"  # begins the dedupe_key of messages that bring a code
PASSWORD_KEY = "password:"  # noqa: S105 - of those that bring a password


# Of a message whose text tells of several bills, those besides Message.bill.
message_bill = Table(
    "message_bill",
    Model.metadata,
    Column("message_id", ForeignKey("message.id"), primary_key=True),
    Column("bill_id", ForeignKey("bill.id"), primary_key=True, index=True),
)


class Message(BranchScoped, Model):
    """A letter or an SMS to one recipient: an outbox row, written in the transaction of its cause.

    bill: that its text tells of, the first where it tells of several; further_bills: the others.
    recipient: an e-mail address, a phone (E.164), or what its channel knows the client by. subject: of letters alone.
    external_id: the provider's number of it, where he gives one; of a letter its own, by which it comes back. error:
    why it was not sent, or is not needed any more.
    line: of the run it was written by. cost: what the provider takes for it, None where he takes nothing.
    tags: names of those its text was filled in from, for who does not see what one of them tells.
    secret: what staff do not read, a code say; it stands where the body has HIDDEN, and is forgotten once the message
    is sent, has failed or may have been sent.
    dedupe_key: unique, so that a cause repeated makes no second letter. lease_until: while in a worker's hands, when
    the claim ends; a row still "sending" after it is moved to unknown and never sent again by itself.
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
    tags: Mapped[list[str]] = mapped_column(_JSON, default=list, server_default=text("'[]'"))
    secret: Mapped[str | None] = mapped_column(Secret)
    dedupe_key: Mapped[str] = mapped_column(String(120), unique=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(String(500), default="")
    external_id: Mapped[str] = mapped_column(String(100), default="", server_default=text("''"), index=True)
    kind: Mapped[MessageKind] = mapped_column(
        label_enum(MessageKind), default=MessageKind.PERSONAL, server_default="personal"
    )
    line_id: Mapped[int | None] = mapped_column(ForeignKey("mailing_run_line.id"), index=True)
    cost: Mapped[Decimal | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[Text200]

    client: Mapped[Client] = relationship()
    bill: Mapped[Bill | None] = relationship()
    further_bills: Mapped[list[Bill]] = relationship(secondary=message_bill, order_by=Bill.id, viewonly=True)
    run: Mapped[MailingRun | None] = relationship()

    def __str__(self) -> str:
        return f"#{self.id}"

    @property
    def bills(self) -> list[Bill]:
        """Those its text tells of that are in sight."""
        if self.bill_id is None:
            return []
        return [bill for bill in (self.bill, *self.further_bills) if bill is not None]

    @property
    def is_resendable(self) -> bool:
        """A person may decide that it goes out again."""
        return self.status in (MessageStatus.FAILED, MessageStatus.UNKNOWN)
