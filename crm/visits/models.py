"""Visit and its states."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import Employee
from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum


class VisitStatus(LabelEnum):
    """Whether he came; whether it is paid is another matter (Visit.paid_at)."""

    PLANNED = "planned", _lp("visit", "Expected")
    CAME = "came", _lp("visit", "Came")
    MISSED = "missed", _lp("visit", "Did not come")
    CANCELED = "canceled", _lp("visit", "Canceled")


VISIT_MOVES = {
    VisitStatus.PLANNED: {VisitStatus.CAME, VisitStatus.MISSED, VisitStatus.CANCELED},
    VisitStatus.CAME: {VisitStatus.PLANNED, VisitStatus.MISSED},
    VisitStatus.MISSED: {VisitStatus.PLANNED, VisitStatus.CAME},
    VisitStatus.CANCELED: {VisitStatus.PLANNED},
}


class WayToPay(LabelEnum):
    """How a visit is paid: with money given at the desk, from an account of the payer, or later."""

    CASH = "cash", _l("In cash")
    CARD = "card", _l("By card")
    ACCOUNT = "account", _l("From the client's account")
    DEBT = "debt", _l("On credit")


class Visit(BranchScoped, Model):
    """A service for a client at a time, and its price. client_id: who comes; his payer pays.

    paid_at: when it was paid for; a transaction of kind VISIT says from which account; None again
    once that is reversed.
    """

    __table_args__ = (
        CheckConstraint("price >= 0", name="price"),
        *(
            Index(None, name, "id")
            for name in ("branch_id", "client_id", "employee_id", "starts_at", "status", "paid_at", "price")
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    employee_id: Mapped[int | None] = mapped_column(ForeignKey("employee.id"))
    service: Mapped[Text200]
    starts_at: Mapped[datetime]
    status: Mapped[VisitStatus] = mapped_column(label_enum(VisitStatus), default=VisitStatus.PLANNED)
    price: Mapped[Decimal]
    paid_at: Mapped[datetime | None]
    comment: Mapped[str] = mapped_column(Text, default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    client: Mapped[Client] = relationship()
    employee: Mapped[Employee | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.service
