"""Payment and its states."""

from __future__ import annotations

import secrets
from datetime import datetime
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_babel import pgettext
from sqlalchemy import JSON, Boolean, CheckConstraint, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.actors import Actor
from crm.access.models import Branch, Company
from crm.access.scope import BranchScoped
from crm.bills.models import Bill, BillBundle
from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, label_enum
from crm.ledger.models import Account
from crm.secret import Secret
from crm.tills.models import TillKind


class GatewayKind(LabelEnum):
    """Payment services a shop can be connected to. The demo bank is none of them: it is there with the demo."""

    YOOKASSA = "yookassa", _l("YooKassa")
    TBANK = "tbank", _l("T-Bank")


class Shop(Model):
    """A company's contract with a payment service: what online payments go through. branch: of this one only; None: of
    all that have none of their own. shop_id, secret: as the service gave them (T-Bank: terminal key and password).
    options: what else the service wants, by name.
    """

    __secret__ = frozenset({"secret"})

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"), index=True)
    branch_id: Mapped[int | None] = mapped_column(ForeignKey("branch.id"), index=True)
    gateway: Mapped[GatewayKind] = mapped_column(label_enum(GatewayKind))
    name: Mapped[str] = mapped_column(String(200))
    shop_id: Mapped[str] = mapped_column(String(100))
    secret: Mapped[str] = mapped_column(Secret)
    options: Mapped[dict[str, Any]] = mapped_column(
        JSON().with_variant(JSONB(), "postgresql"), default=dict, server_default=text("'{}'")
    )
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    company: Mapped[Company] = relationship()
    branch: Mapped[Branch | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


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


class Attention(LabelEnum):
    """Why a person has to look at a payment; what is done about each is in docs/payments.md."""

    WRONG_SUM = "wrong_sum", _lp("payment", "Another sum than was asked for")
    WRONG_CURRENCY = "wrong_currency", _lp("payment", "Another currency than was asked for")
    DEAD_BILL = "dead_bill", _lp("payment", "Paid a bill that could not be paid any more")
    PAID_TWICE = "paid_twice", _lp("payment", "Paid a bill that was paid already")
    REFUND_FAILED = "refund_failed", _lp("payment", "The refund was refused")
    REFUNDED_ELSEWHERE = "refunded_elsewhere", _lp("payment", "Refunded at the bank, not here")


def make_nonce() -> str:
    """Eight characters: what a bank is told apart from the names another installation, or a copy put back, gives it."""
    return secrets.token_hex(4)


class Payment(BranchScoped, Model):
    """Money from a client to one of his accounts, by hand or through a gateway.

    gateway, external_id: the gateway's name and its id of this payment; unique together. shop: whose contract; None:
    of the demo bank.
    order_id: several bills paid at once are one order at the bank, each with a payment of its own: the first of them
    holds the external id, the others point at it. bundle: the bills were paid under this link.
    refunded: given back of it so far, through the gateway. reported_amount, reported_currency: what the gateway said
    where it differs from what was asked. attention: a person has to look, until attention_closed_at.
    nonce: what its name at the bank ends with (outcomes.py). asking_until: while the bank is being asked for its order.
    confirmation_url: where the client pays while it is pending. next_poll_at: when the gateway is asked about it next,
    None until it has been asked once.
    """

    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("refunded >= 0 AND refunded <= amount", name="refunded"),
        Index(None, "attention", "attention_closed_at"),
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
    refunded: Mapped[Decimal] = mapped_column(default=Decimal(0), server_default=text("0"))
    shop_id: Mapped[int | None] = mapped_column(ForeignKey("shop.id"))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("payment.id"), index=True)
    bundle_id: Mapped[int | None] = mapped_column(ForeignKey("bill_bundle.id"), index=True)
    gateway: Mapped[str | None] = mapped_column(String(40))
    external_id: Mapped[str | None] = mapped_column(String(100))
    nonce: Mapped[str] = mapped_column(String(8), default=make_nonce, server_default=text("''"))
    asking_until: Mapped[datetime | None]
    confirmation_url: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[datetime]
    received_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    reported_amount: Mapped[Decimal | None]
    reported_currency: Mapped[str | None] = mapped_column(String(3))
    attention: Mapped[Attention | None] = mapped_column(label_enum(Attention))
    attention_closed_at: Mapped[datetime | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[str] = mapped_column(String(200))
    comment: Mapped[str] = mapped_column(Text, default="")

    client: Mapped[Client] = relationship()
    account: Mapped[Account] = relationship()
    bill: Mapped[Bill | None] = relationship()
    shop: Mapped[Shop | None] = relationship()
    bundle: Mapped[BillBundle | None] = relationship()
    events: Mapped[list[PaymentEvent]] = relationship(back_populates="payment", order_by="PaymentEvent.id")

    @property
    def status_shown(self) -> tuple[str, str]:
        """Its status as people read it, and by what name it is coloured: what was given back counts as no money."""
        if self.status is PaymentStatus.SUCCEEDED and self.refunded:
            return shown_refunded(self.refunded, self.amount), "refunded"
        return str(self.status.label), self.status.value

    def __str__(self) -> str:
        return f"#{self.id}"


def shown_refunded(refunded: Decimal, amount: Decimal) -> str:
    """What a payment is called of which something was given back."""
    return pgettext("payment", "Given back") if refunded >= amount else pgettext("payment", "Given back in part")


class PaymentEventKind(LabelEnum):
    """What happened to a payment at the gateway and here."""

    STARTED = "started", _lp("payment event", "Sent to the bank")
    NOTICE = "notice", _lp("payment event", "The bank sent a notice")
    ASKED = "asked", _lp("payment event", "The bank was asked")
    CREDITED = "credited", _lp("payment event", "Credited")
    CANCELED = "canceled", _lp("payment event", "Canceled by the bank")
    HELD = "held", _lp("payment event", "Held for a person to look at")
    RESOLVED = "resolved", _lp("payment event", "Looked at and settled")
    REFUND = "refund", _lp("payment event", "Refund")
    REPEATED = "repeated", _lp("payment event", "Said again, nothing to do")


class PaymentEvent(Model):
    """A line of a payment's history."""

    __tablename__ = "payment_event"
    __audited__ = False
    __table_args__ = (Index(None, "payment_id", "id"),)

    id: Mapped[PrimaryKey]
    payment_id: Mapped[int] = mapped_column(ForeignKey("payment.id"))
    notice_id: Mapped[int | None] = mapped_column(ForeignKey("gateway_notice.id"), index=True)
    at: Mapped[datetime]
    kind: Mapped[PaymentEventKind] = mapped_column(label_enum(PaymentEventKind))
    detail: Mapped[str] = mapped_column(String(500), default="")
    author_name: Mapped[str] = mapped_column(String(200), default="")

    payment: Mapped[Payment] = relationship(back_populates="events")


class RefundStatus(LabelEnum):
    PENDING = "pending", _lp("refund", "Asked of the bank")
    SUCCEEDED = "succeeded", _lp("refund", "Refunded")
    FAILED = "failed", _lp("refund", "Refused")


REFUND_MOVES = {RefundStatus.PENDING: {RefundStatus.SUCCEEDED, RefundStatus.FAILED}}


class Refund(BranchScoped, Model):
    """Money of an online payment given back through its gateway, the whole or a part. It leaves the client's account
    when it is asked of the bank (transaction_id) and comes back there when the bank refuses. nonce: what its name at
    the bank ends with.
    """

    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        Index(None, "status", "next_poll_at"),
        Index(None, "payment_id", "id"),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"), index=True)
    payment_id: Mapped[int] = mapped_column(ForeignKey("payment.id"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    transaction_id: Mapped[int | None] = mapped_column(ForeignKey("ledger_transaction.id"), index=True)
    amount: Mapped[Decimal]
    status: Mapped[RefundStatus] = mapped_column(label_enum(RefundStatus), default=RefundStatus.PENDING)
    external_id: Mapped[str | None] = mapped_column(String(100))
    nonce: Mapped[str] = mapped_column(String(8), default=make_nonce)
    reason: Mapped[str] = mapped_column(String(250), default="")
    error: Mapped[str] = mapped_column(String(500), default="")
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[str] = mapped_column(String(200))

    payment: Mapped[Payment] = relationship()
    account: Mapped[Account] = relationship()

    def __str__(self) -> str:
        return f"#{self.id}"


class NoticeStatus(LabelEnum):
    NEW = "new", _lp("notice", "Stored")
    WORKING = "working", _lp("notice", "Being read")
    DONE = "done", _lp("notice", "Acted upon")
    IGNORED = "ignored", _lp("notice", "Nothing to do")
    UNKNOWN = "unknown", _lp("notice", "About a payment that is not ours")
    HELD = "held", _lp("notice", "Held for a person to look at")
    FAILED = "failed", _lp("notice", "Could not be acted upon")


class GatewayNotice(Model):
    """What a gateway sent, as it came: stored first, answered at once, acted upon after.

    digest: of gateway and body; the same notice again only raises `repeats`. lease_until: while it is being read, when
    another worker may take it. result: what came of it, in words.
    """

    __tablename__ = "gateway_notice"
    __audited__ = False
    __table_args__ = (
        Index(None, "status", "next_try_at"),
        *(Index(None, name, "id") for name in ("received_at", "gateway", "payment_id", "external_id")),
    )

    id: Mapped[PrimaryKey]
    gateway: Mapped[str] = mapped_column(String(40))
    external_id: Mapped[str] = mapped_column(String(100), default="")
    event: Mapped[str] = mapped_column(String(60), default="")
    body: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    status: Mapped[NoticeStatus] = mapped_column(label_enum(NoticeStatus), default=NoticeStatus.NEW)
    received_at: Mapped[datetime]
    repeats: Mapped[int] = mapped_column(Integer, default=0)
    payment_id: Mapped[int | None] = mapped_column(ForeignKey("payment.id"))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    result: Mapped[str] = mapped_column(String(500), default="")

    payment: Mapped[Payment | None] = relationship()

    def __str__(self) -> str:
        return f"#{self.id}"


class PaymentCode(Model):
    """A code sent to a payer so that he confirms a payment from his deposit. code_hash: the code itself is not kept.

    bill_id or bundle_id: what it pays. attempts: wrong tries so far. used_at: a code works once.
    """

    __tablename__ = "payment_code"
    __audited__ = False
    __secret__ = frozenset({"code_hash"})
    __table_args__ = (Index(None, "bill_id", "id"), Index(None, "bundle_id", "id"))

    id: Mapped[PrimaryKey]
    bill_id: Mapped[int | None] = mapped_column(ForeignKey("bill.id"))
    bundle_id: Mapped[int | None] = mapped_column(ForeignKey("bill_bundle.id"))
    code_hash: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(index=True)
    expires_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    used_at: Mapped[datetime | None]
