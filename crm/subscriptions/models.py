"""Plans and subscriptions."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import Boolean, CheckConstraint, Date, ForeignKey, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.fields.models import HasCustomFields


class SubscriptionStatus(LabelEnum):
    ACTIVE = "active", _lp("subscription", "Active")
    ARCHIVED = "archived", _lp("subscription", "Archived")


SUBSCRIPTION_MOVES = {SubscriptionStatus.ACTIVE: {SubscriptionStatus.ARCHIVED}}


class Plan(Model):
    """What is sold: a price, a number of lessons, a duration."""

    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)
    price: Mapped[Decimal]
    lessons: Mapped[int] = mapped_column(Integer)
    duration_days: Mapped[int] = mapped_column(Integer, default=30)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}
    __table_args__ = (
        CheckConstraint("price >= 0", name="price"),
        CheckConstraint("lessons >= 0", name="lessons"),
        CheckConstraint("duration_days > 0", name="duration"),
    )

    def __str__(self) -> str:
        return self.name


class Subscription(HasCustomFields, BranchScoped, Model):
    """A plan sold to a client, at the price and with the lessons of that day. Charged to one of the payer's accounts.

    price: of the plan; discount: what was let off it at the sale.
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
    lessons: Mapped[int] = mapped_column(Integer)
    starts_on: Mapped[date] = mapped_column(Date)
    ends_on: Mapped[date] = mapped_column(Date)
    sold_at: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))

    client: Mapped[Client] = relationship()
    plan: Mapped[Plan] = relationship()

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

    def __str__(self) -> str:
        return f"{self.plan.name} #{self.id}"
