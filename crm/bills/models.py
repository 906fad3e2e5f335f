"""Bill and its states."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import Boolean, CheckConstraint, Column, Date, ForeignKey, Index, Integer, String, Table, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm import clock
from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, label_enum
from crm.fields.models import HasCustomFields
from crm.ledger.models import Account
from crm.subscriptions.models import Subscription


class BillStatus(LabelEnum):
    """What is stored; "overdue" is derived (Bill.is_overdue)."""

    PENDING = "pending", _l("Awaiting payment")
    PAID = "paid", _lp("bill", "Paid")
    ARCHIVED = "archived", _lp("bill", "Archived")


# Archiving is for good, and a paid bill is never archived. One whose only payment is reversed awaits payment again.
BILL_MOVES = {
    BillStatus.PENDING: {BillStatus.PAID, BillStatus.ARCHIVED},
    BillStatus.PAID: {BillStatus.PENDING},
}


class BillMethod(LabelEnum):
    """How the sum was found («Тип расчета»)."""

    MANUAL = "manual", _l("By hand")
    FORECAST = "forecast", _l("By the payment forecast")
    SUBSCRIPTION = "subscription", _l("By the cost of subscriptions")


# Which sold subscriptions a bill asks for: what one asks for, no later one of a mailing asks for again.
bill_subscription = Table(
    "bill_subscription",
    Model.metadata,
    Column("bill_id", ForeignKey("bill.id"), primary_key=True),
    Column("subscription_id", ForeignKey("subscription.id"), primary_key=True, index=True),
)


def bill_title(year: int, number: int) -> str:
    """A bill's number as printed: `2026-000123`."""
    return f"{year}-{number:06d}"


def is_past_term(status: BillStatus, payable_until: date | None, *, today: date) -> bool:
    """Whether a bill of this status and last payable day is overdue on the branch's day `today`."""
    return status is BillStatus.PENDING and payable_until is not None and today > payable_until


class Bill(HasCustomFields, BranchScoped, Model):
    """A request to pay `amount` into `account` for a period.

    number: unique per company and year. token: 192 random bits, the only key to the public page.
    payable_until: last day it may be paid, in the branch's time zone; None = not set («не задан»).
    purpose: what it is for, in words, when somebody wrote it. lines: how the sum was found, as it was then; without any
    when it was given by hand. paid_amount: credited for it so far. link_revoked_at: since when the link leads nowhere.
    dedupe_key: makes a bill of a mailing unique per (rule, client, account, period), and generation where an earlier
    one can no longer be paid; None for bills by hand. subscriptions: what the sum is for.
    """

    __secret__ = frozenset({"token"})
    __ordered_by__ = ("year", "number")
    __optional_fields__ = dict.fromkeys(("account", "method", "is_repeatable", "payments_count", "paid_at"), True)
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("paid_amount >= 0", name="paid_amount"),
        CheckConstraint("period_to >= period_from", name="period"),
        CheckConstraint("payable_until IS NULL OR payable_until >= payable_from", name="payable"),
        Index("uq_bill_company_year_number", "company_id", "year", "number", unique=True),
        # With the amount in them, the totals of a grid are summed without touching the rows.
        Index(None, "status", "id", "amount"),
        Index(None, "branch_id", "status", "amount"),
        # What a grid is ordered by, with the key that breaks ties: a page is read from the index, however deep.
        Index(None, "year", "number", "id"),
        *(
            Index(None, name, "id")
            for name in (
                "client_id",
                "branch_id",
                "amount",
                "period_from",
                "period_to",
                "payable_until",
                "issued_at",
                "paid_at",
            )
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    year: Mapped[int] = mapped_column(Integer)
    number: Mapped[int] = mapped_column(Integer)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    status: Mapped[BillStatus] = mapped_column(label_enum(BillStatus), default=BillStatus.PENDING)
    method: Mapped[BillMethod] = mapped_column(label_enum(BillMethod))
    amount: Mapped[Decimal]
    paid_amount: Mapped[Decimal] = mapped_column(default=Decimal(0), server_default=text("0"))
    purpose: Mapped[str] = mapped_column(String(160), default="", server_default=text("''"))
    period_from: Mapped[date] = mapped_column(Date)
    period_to: Mapped[date] = mapped_column(Date)
    payable_from: Mapped[date] = mapped_column(Date)
    payable_until: Mapped[date | None] = mapped_column(Date)
    is_repeatable: Mapped[bool] = mapped_column(Boolean, default=False)
    payments_count: Mapped[int] = mapped_column(Integer, default=0)
    issued_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]
    link_revoked_at: Mapped[datetime | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    dedupe_key: Mapped[str | None] = mapped_column(String(120), unique=True)
    version: Mapped[int] = mapped_column(Integer)

    client: Mapped[Client] = relationship()
    account: Mapped[Account] = relationship()
    subscriptions: Mapped[list[Subscription]] = relationship(secondary=bill_subscription, order_by=Subscription.id)
    lines: Mapped[list[BillLine]] = relationship(back_populates="bill", order_by="BillLine.position")

    __mapper_args__ = {"version_id_col": version}

    @property
    def title(self) -> str:
        """Number as printed: `2026-000123`."""
        return bill_title(self.year, self.number)

    @property
    def due(self) -> Decimal:
        """What is left to pay; of a bill that is paid, what it asks if it may be paid once more."""
        return self.amount if self.status is BillStatus.PAID else max(self.amount - self.paid_amount, Decimal(0))

    @property
    def is_overdue(self) -> bool:
        return is_past_term(self.status, self.payable_until, today=clock.today(self.branch))

    def __str__(self) -> str:
        return self.title


class BillLineKind(LabelEnum):
    LESSON = "lesson", _lp("bill line", "Lesson")
    SUBSCRIPTION = "subscription", _lp("bill line", "Subscription")
    BALANCE = "balance", _lp("bill line", "Balance of the account")


class BillLine(Model):
    """One step of how a bill's sum was found; the lines of a bill add up to its amount. Never changed.

    day: of the lesson. student: who attends, by first name. title: of the lesson or the subscription. amount: what it
    takes; 0 for a lesson paid for already (note says by what); negative for a balance ahead, positive for a debt.
    """

    __tablename__ = "bill_line"
    __audited__ = False
    __table_args__ = (Index("uq_bill_line_bill_id_position", "bill_id", "position", unique=True),)

    id: Mapped[PrimaryKey]
    bill_id: Mapped[int] = mapped_column(ForeignKey("bill.id"))
    position: Mapped[int] = mapped_column(Integer)
    kind: Mapped[BillLineKind] = mapped_column(label_enum(BillLineKind))
    day: Mapped[date | None] = mapped_column(Date)
    student: Mapped[str] = mapped_column(String(200), default="")
    title: Mapped[str] = mapped_column(String(300), default="")
    note: Mapped[str] = mapped_column(String(300), default="")
    amount: Mapped[Decimal]

    bill: Mapped[Bill] = relationship(back_populates="lines")


bill_bundle_bill = Table(
    "bill_bundle_bill",
    Model.metadata,
    Column("bundle_id", ForeignKey("bill_bundle.id", ondelete="CASCADE"), primary_key=True),
    Column("bill_id", ForeignKey("bill.id"), primary_key=True, index=True),
)


class BillBundle(BranchScoped, Model):
    """Several bills of one payer in one branch under one link, to be paid at once. token: as a bill's."""

    __tablename__ = "bill_bundle"
    __secret__ = frozenset({"token"})

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"), index=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"), index=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    link_revoked_at: Mapped[datetime | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))

    client: Mapped[Client] = relationship()
    bills: Mapped[list[Bill]] = relationship(secondary=bill_bundle_bill, order_by=Bill.id)

    @property
    def shown_bills(self) -> list[Bill]:
        """Those its page shows: a bill whose own link was taken back is not to be seen here either."""
        return [bill for bill in self.bills if bill.link_revoked_at is None]

    def __str__(self) -> str:
        return f"#{self.id}"


class BillCounter(Model):
    """Last number given per company and year; its row lock makes numbers run without holes or doubles."""

    __audited__ = False

    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"), primary_key=True)
    year: Mapped[int] = mapped_column(Integer, primary_key=True)
    last: Mapped[int] = mapped_column(Integer)
