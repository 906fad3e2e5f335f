"""A bank that is not one: it lets a person live the whole way of an online payment on his own machine.

This is the bank's own side: its book of payments, its signature, its calls back. Its pages are in public/demo_bank.py.
The book is written over a connection of its own, never through the caller's session: a bank knows nothing of our
transactions, and what it has promised stays promised when ours is rolled back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import httpx
from sqlalchemy import CheckConstraint, ForeignKey, String, func, insert, select, text, update
from sqlalchemy import Enum as EnumType
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from crm import clock
from crm.config import Settings
from crm.db import Model, db, reading
from crm.payments.gateways.base import (
    CreatedPayment,
    Customer,
    GatewayError,
    GatewayRefused,
    Notice,
    NoticeRefused,
    RemotePayment,
    RemoteRefund,
    RemoteStatus,
)

SIGNATURE_HEADER = "x-demo-bank-signature"
NOTICE_TRIES = 3
NOTICE_TIMEOUT_SECONDS = 3.0

_log = logging.getLogger(__name__)


class DemoBankPayment(Model):
    """A line of the bank's book. id: unguessable, the only key to its form."""

    __tablename__ = "demo_bank_payment"
    __audited__ = False
    __table_args__ = (CheckConstraint("amount > 0", name="amount"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    idempotence_key: Mapped[str] = mapped_column(String(100), unique=True)
    status: Mapped[RemoteStatus] = mapped_column(
        EnumType(
            RemoteStatus,
            name="remote_status",
            native_enum=False,
            create_constraint=True,
            length=32,
            values_callable=lambda statuses: [status.value for status in statuses],
        )
    )
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3))
    description: Mapped[str] = mapped_column(String(200))
    return_url: Mapped[str] = mapped_column(String(500))
    reference: Mapped[str] = mapped_column(String(100), default="", server_default=text("''"))
    created_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]


class DemoBankRefund(Model):
    """Money the bank gave back of a payment. id: as the bank calls it."""

    __tablename__ = "demo_bank_refund"
    __audited__ = False
    __table_args__ = (CheckConstraint("amount > 0", name="amount"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("demo_bank_payment.id"), index=True)
    idempotence_key: Mapped[str] = mapped_column(String(100), unique=True)
    amount: Mapped[Decimal]
    created_at: Mapped[datetime]


@dataclass(frozen=True)
class BankForm:
    """What the bank's form shows; return_url: where it sends the client afterwards."""

    external_id: str
    status: RemoteStatus
    amount: Decimal
    currency: str
    description: str
    return_url: str


def read_notice(headers: Mapping[str, str], body: bytes) -> Notice:
    """What a notice of the demo bank is about, unbelieved. Raises NoticeRefused."""
    try:
        said = json.loads(body)
        external_id, event = said["payment"], said.get("event", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoticeRefused("the notice cannot be read") from error
    if not isinstance(external_id, str) or not isinstance(event, str):
        raise NoticeRefused("the notice names no payment")
    return Notice(external_id, event[:60])


class DemoGateway:
    """The Gateway of the demo bank; see gateways/base.py for what the verbs promise."""

    name = "demo"
    shop_id = ""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = hashlib.sha256(b"demo-bank:" + settings.secret_key.encode()).digest()

    # --- what a shop may ask --------------------------------------------------------------------------------------

    def create(
        self,
        *,
        amount: Decimal,
        currency: str,
        description: str,
        return_url: str,
        idempotence_key: str,
        reference: str = "",
        customer: Customer | None = None,
    ) -> CreatedPayment:
        row = {
            "id": secrets.token_urlsafe(18),
            "idempotence_key": idempotence_key,
            "status": RemoteStatus.PENDING,
            "amount": amount,
            "currency": currency,
            "description": description,
            "return_url": return_url,
            "reference": reference,
            "created_at": clock.now(),
        }
        try:
            with db.engine.begin() as bank:
                bank.execute(insert(DemoBankPayment).values(row))
            external_id = str(row["id"])
        except IntegrityError:
            with db.engine.begin() as bank:
                external_id = bank.execute(
                    select(DemoBankPayment.id).where(DemoBankPayment.idempotence_key == idempotence_key)
                ).scalar_one()
        return CreatedPayment(external_id, f"{self._settings.public_url}/demo-bank/{external_id}")

    def fetch(self, external_id: str) -> RemotePayment:
        book, given_back = DemoBankPayment.__table__.c, DemoBankRefund.__table__.c
        refunded = select(func.coalesce(func.sum(given_back.amount), 0, type_=given_back.amount.type))
        refunded = refunded.where(given_back.payment_id == book.id)
        columns = (book.status, book.amount, book.currency, book.reference, book.decided_at)
        with reading(), db.engine.begin() as bank:
            row = bank.execute(
                select(*columns, refunded.scalar_subquery().label("refunded")).where(book.id == external_id)
            ).one_or_none()
        if row is None:
            raise GatewayError(f"the demo bank knows no payment {external_id!r}")
        return RemotePayment(
            external_id, row.status, row.amount, row.currency, row.refunded, row.reference, row.decided_at
        )

    def refund(
        self,
        external_id: str,
        *,
        amount: Decimal,
        currency: str,
        idempotence_key: str,
        reason: str = "",
        customer: Customer | None = None,
    ) -> RemoteRefund:
        given_back = DemoBankRefund.__table__.c
        with db.engine.begin() as bank:
            # Locks the payment: of two refunds one waits for the other.
            touched = bank.execute(
                update(DemoBankPayment)
                .where(DemoBankPayment.id == external_id, DemoBankPayment.status == RemoteStatus.SUCCEEDED)
                .values(status=RemoteStatus.SUCCEEDED)
            )
            if touched.rowcount != 1:
                raise GatewayRefused("the payment was not received")
            known = bank.execute(
                select(given_back.id, given_back.amount).where(given_back.idempotence_key == idempotence_key)
            ).one_or_none()
            if known is not None:
                return RemoteRefund(known.id, RemoteStatus.SUCCEEDED, known.amount)
            paid = bank.execute(select(DemoBankPayment.amount).where(DemoBankPayment.id == external_id)).scalar_one()
            back = bank.execute(
                select(func.coalesce(func.sum(given_back.amount), 0, type_=given_back.amount.type)).where(
                    given_back.payment_id == external_id
                )
            ).scalar_one()
            if amount > paid - back:
                raise GatewayRefused("more than is left of the payment")
            refund_id = secrets.token_urlsafe(12)
            bank.execute(
                insert(DemoBankRefund).values(
                    id=refund_id,
                    payment_id=external_id,
                    idempotence_key=idempotence_key,
                    amount=amount,
                    created_at=clock.now(),
                )
            )
        return RemoteRefund(refund_id, RemoteStatus.SUCCEEDED, amount)

    def fetch_refund(self, external_id: str) -> RemoteRefund:
        given_back = DemoBankRefund.__table__.c
        with reading(), db.engine.begin() as bank:
            row = bank.execute(select(given_back.amount).where(given_back.id == external_id)).one_or_none()
        if row is None:
            raise GatewayError(f"the demo bank knows no refund {external_id!r}")
        return RemoteRefund(external_id, RemoteStatus.SUCCEEDED, row.amount)

    def check(self) -> str:
        return ""  # asks nobody who he is

    def check_notice(self, headers: Mapping[str, str], body: bytes) -> None:
        if not hmac.compare_digest(headers.get(SIGNATURE_HEADER, "").encode(), self.sign(body).encode()):
            raise NoticeRefused("the signature is not the bank's")

    # --- the bank's own doing -------------------------------------------------------------------------------------

    def read_form(self, external_id: str) -> BankForm | None:
        """The bank's line of this payment; None when it has none."""
        book = DemoBankPayment.__table__.c
        columns = (book.id, book.status, book.amount, book.currency, book.description, book.return_url)
        with reading(), db.engine.begin() as bank:
            row = bank.execute(select(*columns).where(book.id == external_id)).one_or_none()
        return BankForm(*row) if row is not None else None

    def decide(self, external_id: str, status: RemoteStatus) -> bool:
        """The person paid or declined; False when that had been decided before."""
        with db.engine.begin() as bank:
            decided = bank.execute(
                update(DemoBankPayment)
                .where(DemoBankPayment.id == external_id, DemoBankPayment.status == RemoteStatus.PENDING)
                .values(status=status, decided_at=clock.now())
            )
        return bool(decided.rowcount == 1)

    def notify(self, external_id: str) -> bool:
        """Tell the shop's webhook that something happened, up to three times; was it heard?

        Not being heard does no harm: the return page and the sweep ask by themselves. Each try is bounded, because the
        client waits. Over loopback: PUBLIC_URL may be a proxy that cannot be reached from inside.
        """
        body = json.dumps({"event": "payment.updated", "payment": external_id}).encode()
        headers = {SIGNATURE_HEADER: self.sign(body), "Content-Type": "application/json"}
        address = f"http://127.0.0.1:{self._settings.port}/webhooks/{self.name}"
        with httpx.Client(timeout=NOTICE_TIMEOUT_SECONDS, trust_env=False) as client:
            for attempt in range(NOTICE_TRIES):
                time.sleep(0.1 * attempt)
                try:
                    answer = client.post(address, content=body, headers=headers)
                except httpx.HTTPError as error:
                    _log.info("demo bank: the shop did not hear the notice: %s", error)
                else:
                    if answer.is_success:
                        return True
                    _log.info("demo bank: the shop answered the notice with %s", answer.status_code)
        return False

    def sign(self, body: bytes) -> str:
        """The header's value: HMAC-SHA256 of the body under a key derived from this installation's secret."""
        return "sha256=" + hmac.new(self._key, body, hashlib.sha256).hexdigest()
