"""Plans and subscriptions."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    false,
    func,
    select,
    text,
)
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from crm.access.models import Branch
from crm.access.scope import BranchScoped
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.fields.models import HasCustomFields
from crm.ledger.models import Account, AccountKind


class ChargeMoment(LabelEnum):
    """When the price is taken from the account."""

    AT_SALE = "at_sale", _l("The whole price at the sale")
    PER_LESSON = "per_lesson", _l("Lesson by lesson")


class PlanAccount(LabelEnum):
    """Which of the payer's accounts a subscription is kept on."""

    BASE = "base", _lp("plan account", "Base account")
    SEPARATE = "separate", _lp("plan account", "Separate account")


class SubscriptionStatus(LabelEnum):
    """What was done with it; SubscriptionState says more by the day and the lessons left."""

    ACTIVE = "active", _lp("subscription", "Active")
    FROZEN = "frozen", _lp("subscription", "Frozen")
    RETURNED = "returned", _lp("subscription", "Returned")
    CANCELED = "canceled", _lp("subscription", "Sold by mistake")
    ARCHIVED = "archived", _lp("subscription", "Archived")


SUBSCRIPTION_MOVES = {
    SubscriptionStatus.ACTIVE: {
        *(SubscriptionStatus.FROZEN, SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED),
        SubscriptionStatus.ARCHIVED,
    },
    SubscriptionStatus.FROZEN: {SubscriptionStatus.ACTIVE, SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED},
    SubscriptionStatus.RETURNED: {SubscriptionStatus.ARCHIVED},
    SubscriptionStatus.CANCELED: {SubscriptionStatus.ARCHIVED},
}


class SubscriptionState(LabelEnum):
    """What is shown of a subscription on a day: its status, or what follows from its dates and lessons. Not stored."""

    NOT_BEGUN = "not_begun", _lp("subscription", "Not begun")
    ACTIVE = "active", _lp("subscription", "Active")
    FROZEN = "frozen", _lp("subscription", "Frozen")
    USED_UP = "used_up", _lp("subscription", "Used up")
    EXPIRED = "expired", _lp("subscription", "Expired")
    RETURNED = "returned", _lp("subscription", "Returned")
    CANCELED = "canceled", _lp("subscription", "Sold by mistake")
    ARCHIVED = "archived", _lp("subscription", "Archived")


plan_lesson_type = Table(
    "plan_lesson_type",
    Model.metadata,
    Column("plan_id", ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
    Column("lesson_type_id", ForeignKey("lesson_type.id"), primary_key=True),
)
plan_subject = Table(
    "plan_subject",
    Model.metadata,
    Column("plan_id", ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
    Column("subject_id", ForeignKey("subject.id"), primary_key=True),
)
plan_branch = Table(
    "plan_branch",
    Model.metadata,
    Column("plan_id", ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
    Column("branch_id", ForeignKey("branch.id"), primary_key=True),
)


class Plan(Model):
    """What is sold: a price, a number of lessons (None: without a limit), a duration.

    lesson_types, subjects, branches: what it is good for and where it is sold; without any, for all and everywhere.
    charge PER_LESSON: each lesson takes its part of the price, so the number of lessons is a must.
    """

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    price: Mapped[Decimal]
    lessons: Mapped[int | None] = mapped_column(Integer)
    duration_days: Mapped[int] = mapped_column(Integer, default=30)
    charge: Mapped[ChargeMoment] = mapped_column(
        label_enum(ChargeMoment), default=ChargeMoment.AT_SALE, server_default="at_sale"
    )
    account: Mapped[PlanAccount] = mapped_column(
        label_enum(PlanAccount), default=PlanAccount.BASE, server_default="base"
    )
    is_trial: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    position: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    lesson_types: Mapped[list[LessonType]] = relationship(secondary=plan_lesson_type, order_by=LessonType.name)
    subjects: Mapped[list[Subject]] = relationship(secondary=plan_subject, order_by=Subject.name)
    branches: Mapped[list[Branch]] = relationship(secondary=plan_branch, order_by=Branch.name)

    __mapper_args__ = {"version_id_col": version}
    __table_args__ = (
        CheckConstraint("price >= 0", name="price"),
        CheckConstraint("lessons >= 0", name="lessons"),
        CheckConstraint("duration_days > 0", name="duration"),
        CheckConstraint("charge <> 'per_lesson' OR lessons > 0", name="per_lesson"),
    )

    def __str__(self) -> str:
        return self.name


class Subscription(HasCustomFields, BranchScoped, Model):
    """A plan sold to a client, at the price and with the lessons of that day. Charged to one of the payer's accounts.

    price: of the plan; discount: what was let off it at the sale, client_discount of it for the client's own sake.
    lessons: granted at the sale, None: without a limit; what is left is on an account of its own (lessons_left).
    charge, account: of the plan at the sale. ends_on: moved on by freezes and prolongations. frozen_on: the first day
    of the freeze that lasts. replaces_id: the one it was recalculated from.
    """

    __optional_fields__ = {"sold_at": True}

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    plan_id: Mapped[int] = mapped_column(ForeignKey("plan.id"))
    status: Mapped[SubscriptionStatus] = mapped_column(
        label_enum(SubscriptionStatus), default=SubscriptionStatus.ACTIVE
    )
    price: Mapped[Decimal]
    discount: Mapped[Decimal] = mapped_column(default=Decimal(0), server_default=text("0"))
    client_discount: Mapped[Decimal] = mapped_column(default=Decimal(0), server_default=text("0"))
    lessons: Mapped[int | None] = mapped_column(Integer)
    charge: Mapped[ChargeMoment] = mapped_column(
        label_enum(ChargeMoment), default=ChargeMoment.AT_SALE, server_default="at_sale"
    )
    account: Mapped[PlanAccount] = mapped_column(
        label_enum(PlanAccount), default=PlanAccount.BASE, server_default="base"
    )
    is_trial: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    starts_on: Mapped[date] = mapped_column(Date)
    ends_on: Mapped[date] = mapped_column(Date)
    frozen_on: Mapped[date | None] = mapped_column(Date)
    sold_at: Mapped[datetime]
    replaces_id: Mapped[int | None] = mapped_column(ForeignKey("subscription.id"), index=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    version: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))

    if TYPE_CHECKING:  # made below: it asks the accounts
        lessons_left: Mapped[Decimal]

    client: Mapped[Client] = relationship()
    plan: Mapped[Plan] = relationship()
    replaces: Mapped[Subscription | None] = relationship(remote_side="Subscription.id")
    freezes: Mapped[list[SubscriptionFreeze]] = relationship(
        back_populates="subscription", order_by="SubscriptionFreeze.id"
    )

    __mapper_args__ = {"version_id_col": version}
    __table_args__ = (
        CheckConstraint("ends_on >= starts_on", name="period"),
        CheckConstraint("discount >= 0 AND discount <= price", name="discount"),
        *(
            Index(None, name, "id")
            for name in (
                *("client_id", "plan_id", "branch_id", "status", "price", "lessons", "starts_on", "ends_on", "sold_at"),
            )
        ),
    )

    @property
    def cost(self) -> Decimal:
        """What is paid for it: the price less the discount."""
        return self.price - self.discount

    @property
    def is_payable(self) -> bool:
        """Whether its price stands: it is not free, and was neither returned nor sold by mistake."""
        return bool(self.cost) and self.status not in {SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED}

    @property
    def is_unlimited(self) -> bool:
        return self.lessons is None

    def state(self, today: date) -> SubscriptionState:
        """What it is on a day of its branch; queries.state_of() says the same in SQL."""
        if self.status is not SubscriptionStatus.ACTIVE:
            return SubscriptionState[self.status.name]
        if self.ends_on < today:
            return SubscriptionState.EXPIRED
        if self.lessons and not self.lessons_left:
            return SubscriptionState.USED_UP
        return SubscriptionState.NOT_BEGUN if self.starts_on > today else SubscriptionState.ACTIVE

    def __str__(self) -> str:
        return f"{self.plan.name} #{self.id}"


# Lessons left on its account; 0 where none were ever granted. Read with the row; refresh it after a write-off.
Subscription.lessons_left = column_property(
    select(func.coalesce(func.sum(Account.balance), 0, type_=Account.balance.type))
    .where(Account.subscription_id == Subscription.id, Account.kind == AccountKind.LESSONS)
    .correlate(Subscription)
    .scalar_subquery()
)


class SubscriptionFreeze(Model):
    """A time during which a subscription rests: from from_on to until_on, both included; until_on None: it lasts.

    planned_until: when it is to end by itself, if that is known. days: by how much it moved the end.
    """

    __tablename__ = "subscription_freeze"

    id: Mapped[PrimaryKey]
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscription.id"), index=True)
    from_on: Mapped[date] = mapped_column(Date)
    planned_until: Mapped[date | None] = mapped_column(Date)
    until_on: Mapped[date | None] = mapped_column(Date)
    days: Mapped[int] = mapped_column(Integer, default=0)
    comment: Mapped[str] = mapped_column(Text, default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[Text200]
    created_at: Mapped[datetime]

    subscription: Mapped[Subscription] = relationship(back_populates="freezes")

    def __str__(self) -> str:
        return f"{self.from_on.isoformat()} – {self.until_on.isoformat() if self.until_on else ''}"
