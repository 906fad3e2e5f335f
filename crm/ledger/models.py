"""Account types, accounts, transactions, entries. The database refuses to change what has been posted (triggers of
migration 0002).
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from sqlalchemy import Boolean, CheckConstraint, Column, Date, ForeignKey, Index, Integer, String, Table, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import Branch, Employee
from crm.access.scope import BranchScoped
from crm.catalogue.models import LessonType
from crm.db import BigId, LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.fields.models import HasCustomFields


class Unit(LabelEnum):
    MONEY = "money", _l("Money")
    LESSON = "lesson", _l("Lessons")
    BONUS = "bonus", _l("Bonuses")


class AccountKind(LabelEnum):
    """Client accounts first, house accounts after; house accounts keep no cached balance and are never locked.

    CASH to BANK hold the branch's own money; each such account belongs to a till (crm/tills), of which a branch may
    have several. Of the other kinds a branch has one account each.
    """

    BASE = "base", _l("Base account")
    DEPOSIT = "deposit", _l("Deposit")
    LESSONS = "lessons", _l("Lessons left")
    SUBSCRIPTION = "subscription", _l("Account of a subscription")
    CASH = "cash", _l("Cash desk")
    TERMINAL = "terminal", _l("Card terminal")
    ACQUIRING = "acquiring", _l("Online acquiring")
    BANK = "bank", _l("Bank account")
    REVENUE = "revenue", _l("Revenue")
    OPENING = "opening", _l("Opening balances")
    SERVICE = "service", _l("Lessons granted")
    DISCOUNTS = "discounts", _l("Discounts given")
    BAD_DEBT = "bad_debt", _l("Bad debts")
    CASH_DIFFERENCE = "cash_difference", _l("Cash over and short")
    OTHER = "other", _l("Other income and expenses")
    SETTLEMENT = "settlement", _l("Settlements between branches")
    ATTENDED = "attended", _l("Lessons attended")

    @property
    def is_till(self) -> bool:
        return self in TILL_KINDS

    @property
    def is_house(self) -> bool:
        return self not in _OF_CLIENTS

    @property
    def may_be_negative(self) -> bool:
        """A base account below zero, or a subscription's, is a debt; deposits and lessons never go there."""
        return self not in {AccountKind.DEPOSIT, AccountKind.LESSONS}


_OF_CLIENTS = frozenset({AccountKind.BASE, AccountKind.DEPOSIT, AccountKind.LESSONS, AccountKind.SUBSCRIPTION})
# Where the branch's own money is.
TILL_KINDS = (AccountKind.CASH, AccountKind.TERMINAL, AccountKind.ACQUIRING, AccountKind.BANK)


class TransactionKind(LabelEnum):
    OPENING = "opening", _l("Opening balance")
    TOP_UP = "top_up", _l("Top-up")
    WRITE_OFF = "write_off", _l("Write-off")
    REFUND = "refund", _l("Refund to the client")
    SALE = "sale", _l("Sale of a subscription")
    DISCOUNT = "discount", _l("Discount at the sale")
    VISIT = "visit", _l("Payment of a visit")
    LESSON = "lesson", _l("Lesson written off")
    GRANT = "grant", _l("Lessons added")
    LESSONS_TRANSFER = "lessons_transfer", _l("Lessons transferred")
    RETURN = "return", _l("Return of a subscription")
    TRANSFER = "transfer", _l("Transfer between accounts")
    DEBT = "debt", _l("Debt accrued")
    DEBT_WRITE_OFF = "debt_write_off", _l("Debt written off")
    BAD_DEBT = "bad_debt", _l("Bad debt written off")
    CASH_COUNT = "cash_count", _l("Difference of a cash count")
    CASH_MOVE = "cash_move", _l("Move between tills")
    CASH_OTHER = "cash_other", _l("Other cash in or out")
    REVERSAL = "reversal", _l("Reversal")


account_type_branch = Table(
    "account_type_branch",
    Model.metadata,
    Column("account_type_id", ForeignKey("account_type.id", ondelete="CASCADE"), primary_key=True),
    Column("branch_id", ForeignKey("branch.id"), primary_key=True),
)


class AccountType(Model):
    """A network-wide kind of deposit, offered only in its branches."""

    __tablename__ = "account_type"

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    branches: Mapped[list[Branch]] = relationship(secondary=account_type_branch, order_by=Branch.name)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


def _unique_where(name: str, *columns: str, where: str) -> Index:
    """Unique index over the rows that fulfil a condition, on both databases."""
    return Index(name, *columns, unique=True, sqlite_where=text(where), postgresql_where=text(where))


# Of each, what it holds could be told from the rest.
ACCOUNT_SUMS = frozenset({"balance", "credited", "debited"})


class Account(HasCustomFields, BranchScoped, Model):
    """Something counted for an owner: a client (client_id) or the branch itself (house accounts).

    balance, credited, debited are caches of its entries, kept by post() for client accounts only:
    balance = credited - debited. closed_at: nothing is posted to a closed account any more; its balance is zero.
    subscription_id: lessons left of a subscription, or the money of one that is kept on an account of its own.
    lesson_type_id: lessons of a type that belong to no subscription (added, or transferred from somebody).
    """

    __optional_fields__ = {"employee": True}
    __table_args__ = (
        CheckConstraint("balance = credited - debited", name="balance"),
        CheckConstraint("kind NOT IN ('deposit', 'lessons') OR balance >= 0", name="floor"),
        CheckConstraint("closed_at IS NULL OR balance = 0", name="closed"),
        Index(None, "account_type_id", "kind", "unit", "id"),
        *(
            Index(None, name, "id")
            for name in ("client_id", "branch_id", "balance", "credited", "debited", "opened_at")
        ),
        _unique_where(
            "uq_account_client_kind",
            *("client_id", "branch_id", "kind"),
            where="kind IN ('base','lessons') AND closed_at IS NULL"
            " AND subscription_id IS NULL AND lesson_type_id IS NULL",
        ),
        _unique_where(
            "uq_account_client_lesson_type",
            *("client_id", "branch_id", "lesson_type_id"),
            where="lesson_type_id IS NOT NULL AND closed_at IS NULL",
        ),
        _unique_where(
            "uq_account_subscription_kind", *("subscription_id", "kind"), where="subscription_id IS NOT NULL"
        ),
        _unique_where(
            "uq_account_house_kind",
            *("branch_id", "kind", "unit"),
            where="client_id IS NULL AND kind NOT IN ('cash','terminal','acquiring','bank')",
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    kind: Mapped[AccountKind] = mapped_column(label_enum(AccountKind))
    unit: Mapped[Unit] = mapped_column(label_enum(Unit), default=Unit.MONEY)
    client_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"))
    account_type_id: Mapped[int | None] = mapped_column(ForeignKey("account_type.id"))
    subscription_id: Mapped[int | None] = mapped_column(ForeignKey("subscription.id"))
    lesson_type_id: Mapped[int | None] = mapped_column(ForeignKey("lesson_type.id"))
    employee_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    balance: Mapped[Decimal] = mapped_column(default=Decimal(0))
    credited: Mapped[Decimal] = mapped_column(default=Decimal(0))
    debited: Mapped[Decimal] = mapped_column(default=Decimal(0))

    # By name: the ledger lies below the clients.
    client: Mapped[Any] = relationship("Client")
    subscription: Mapped[Any] = relationship("Subscription", viewonly=True)
    account_type: Mapped[AccountType | None] = relationship(lazy="joined")
    lesson_type: Mapped[LessonType | None] = relationship()
    employee: Mapped[Employee | None] = relationship()

    @property
    def is_closed(self) -> bool:
        return self.closed_at is not None

    @property
    def title(self) -> str:
        """What staff and clients call it: its type's name, the subscription's, else its kind."""
        if self.kind is AccountKind.SUBSCRIPTION and self.subscription is not None:
            return str(self.subscription)
        return self.account_type.name if self.account_type else str(self.kind.label)

    def __str__(self) -> str:
        return self.title


class Transaction(BranchScoped, Model):
    """A thing that happened, as balanced entries. Never changed or deleted; a mistake is reversed.

    author_id is the user who did it, None for the system; author_name is kept beside it for good.
    """

    __tablename__ = "ledger_transaction"
    __audited__ = False
    # Histories are read by these, latest first.
    __table_args__ = tuple(Index(None, name, "happened_at") for name in ("kind", "employee_id"))

    id: Mapped[PrimaryKey]
    kind: Mapped[TransactionKind] = mapped_column(label_enum(TransactionKind))
    happened_at: Mapped[datetime] = mapped_column(index=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"), index=True)
    author_name: Mapped[Text200]
    employee_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    client_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"), index=True)
    payment_id: Mapped[int | None] = mapped_column(ForeignKey("payment.id"), index=True)
    bill_id: Mapped[int | None] = mapped_column(ForeignKey("bill.id"), index=True)
    subscription_id: Mapped[int | None] = mapped_column(ForeignKey("subscription.id"), index=True)
    visit_id: Mapped[int | None] = mapped_column(ForeignKey("visit.id"), index=True)
    lesson_id: Mapped[int | None] = mapped_column(ForeignKey("lesson.id"), index=True)
    comment: Mapped[str] = mapped_column(Text, default="")
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    reverses_id: Mapped[int | None] = mapped_column(ForeignKey("ledger_transaction.id"), unique=True)

    entries: Mapped[list[Entry]] = relationship(back_populates="transaction", order_by="Entry.id")
    employee: Mapped[Employee | None] = relationship()

    def __str__(self) -> str:
        return f"{self.kind.label} #{self.id}"


class Entry(Model):
    """A signed amount on one account; balance_after is null on house accounts."""

    __tablename__ = "ledger_entry"
    __audited__ = False
    __table_args__ = (
        CheckConstraint("amount <> 0", name="amount"),
        Index(None, "account_id", "id", postgresql_include=["amount"]),
    )

    id: Mapped[PrimaryKey]
    transaction_id: Mapped[int] = mapped_column(ForeignKey("ledger_transaction.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    amount: Mapped[Decimal]
    balance_after: Mapped[Decimal | None]

    transaction: Mapped[Transaction] = relationship(back_populates="entries")
    account: Mapped[Account] = relationship()


class Turnover(BranchScoped, Model):
    """What came onto and went off a branch's client accounts of a type in a day of its time zone (ledger/turnover.py).

    account_type_id: 0 for base accounts. A read-model: entries are the truth.
    """

    __tablename__ = "ledger_turnover"
    __audited__ = False

    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"), primary_key=True)
    account_type_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    time_zone: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    credited: Mapped[Decimal]
    debited: Mapped[Decimal]


class LedgerMark(Model):
    """How far something has been done, as an id; see the names below."""

    __audited__ = False

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[int] = mapped_column(BigId)


SUMMED = "summed"  # entries up to this one are in the turnover
SETTLED = "settled"  # transactions after this one balance in each branch by itself: they have settlements()
