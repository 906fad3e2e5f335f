"""Payment and its states."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.actors import Actor
from crm.access.scope import BranchScoped
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, label_enum
from crm.ledger.models import Account
from crm.tills.models import TillKind


class PaymentMethod(LabelEnum):
    CASH = "cash", _l("In cash")
    CARD = "card", _l("By card")
    ONLINE = "online", _l("Online")
    BANK = "bank", _l("Bank transfer")
    ACCOUNT = "account", _l("From the client's account")

    @property
    def till_kind(self) -> TillKind:
        """Through which kind of till the money goes; a KeyError for ACCOUNT, whose money is here already."""
        return {
            PaymentMethod.CASH: TillKind.CASH,
            PaymentMethod.CARD: TillKind.TERMINAL,
            PaymentMethod.ONLINE: TillKind.ACQUIRING,
            PaymentMethod.BANK: TillKind.BANK,
        }[self]


# At the desk: what a clerk can take in person. Money that came to the bank is noted by who may move it.
DESK_METHODS = (PaymentMethod.CASH, PaymentMethod.CARD)
BANK_PERMISSION = "till.move"


def desk_methods(by: Actor) -> tuple[PaymentMethod, ...]:
    """How this person can take money. What is paid online is never entered by hand."""
    return (*DESK_METHODS, *([PaymentMethod.BANK] if by.may(BANK_PERMISSION) else []))


class PaymentStatus(LabelEnum):
    PENDING = "pending", _lp("payment", "Started")
    SUCCEEDED = "succeeded", _lp("payment", "Received")
    CANCELED = "canceled", _lp("payment", "Canceled")
    REVERSED = "reversed", _lp("payment", "Reversed")


# A canceled payment the bank reports as paid after all is still money received. One entered at the desk by mistake is
# reversed.
PAYMENT_MOVES = {
    PaymentStatus.PENDING: {PaymentStatus.SUCCEEDED, PaymentStatus.CANCELED},
    PaymentStatus.CANCELED: {PaymentStatus.SUCCEEDED},
    PaymentStatus.SUCCEEDED: {PaymentStatus.REVERSED},
}


class Payment(BranchScoped, Model):
    """Money from a client to one of his accounts, by hand or through a gateway.

    gateway, external_id: the gateway's name and its id of this payment; unique together.
    confirmation_url: where the client pays while it is pending. next_poll_at: when the gateway is asked about it next,
    None until it has been asked once.
    """

    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        Index("uq_payment_gateway_external_id", "gateway", "external_id", unique=True),
        Index(None, "status", "created_at"),
        Index(None, "status", "next_poll_at"),
        *(
            Index(None, name, "id")
            for name in (
                *("client_id", "account_id", "bill_id", "branch_id", "method", "status", "amount", "created_at"),
                *("received_at", "author_name"),
            )
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    bill_id: Mapped[int | None] = mapped_column(ForeignKey("bill.id"))
    method: Mapped[PaymentMethod] = mapped_column(label_enum(PaymentMethod))
    status: Mapped[PaymentStatus] = mapped_column(label_enum(PaymentStatus), default=PaymentStatus.PENDING)
    amount: Mapped[Decimal]
    gateway: Mapped[str | None] = mapped_column(String(40))
    external_id: Mapped[str | None] = mapped_column(String(100))
    confirmation_url: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[datetime]
    received_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[str] = mapped_column(String(200))
    comment: Mapped[str] = mapped_column(Text, default="")

    client: Mapped[Client] = relationship()
    account: Mapped[Account] = relationship()
    bill: Mapped[Bill | None] = relationship()

    def __str__(self) -> str:
        return f"#{self.id}"
