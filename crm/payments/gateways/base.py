"""What every gateway offers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from flask_babel import gettext as _


class RemoteStatus(enum.Enum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"


@dataclass(frozen=True)
class ShopKeys:
    """What a service gave the shop to sign in with. options: what else it wants, by name."""

    shop_id: str
    secret: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Customer:
    """Who pays, as far as a receipt has to be sent to him. phone: +79161234567."""

    email: str = ""
    phone: str = ""


@dataclass(frozen=True)
class CreatedPayment:
    """external_id: the gateway's id; confirmation_url: the bank's form, where the client is sent. Of a payment that was
    paid before create() was repeated it is the return_url: there is no form any more.
    """

    external_id: str
    confirmation_url: str


@dataclass(frozen=True)
class RemotePayment:
    """A payment as the gateway has it. amount, refunded: in currency units, two decimals; of one refunded since,
    `amount` is still what was paid. refunded: None when money was given back and the service does not say how much
    (T-Bank); `amount` may then be either what was paid or what is left. is_refunded: nothing is left of it, whoever
    gave it back. reference: ours, as create() was given it. paid_at: when the client paid, if known.
    """

    external_id: str
    status: RemoteStatus
    amount: Decimal
    currency: str = "RUB"
    refunded: Decimal | None = Decimal(0)
    reference: str = ""
    paid_at: datetime | None = None
    is_refunded: bool = False


@dataclass(frozen=True)
class RemoteRefund:
    """A refund as the gateway has it. CANCELED: refused for good, error says why in words."""

    external_id: str
    status: RemoteStatus
    amount: Decimal
    error: str = ""


@dataclass(frozen=True)
class Notice:
    """What a webhook says it is about; nothing of it is believed before Gateway.check_notice() and fetch().

    event: the service's own word. shop_id: of the shop, where the notice names it. reference: as create() was given it,
    where the notice repeats it. One reference may stand for several payments of the service (at T-Bank, one whose
    beginning was lost is given up for another), so what is told of one that is not ours to wait for only counts when it
    was paid.
    """

    external_id: str
    event: str = ""
    shop_id: str = ""
    reference: str = ""


class GatewayError(Exception):
    """The gateway did not answer, or not in a way that can be read; nothing is known to have happened."""


class GatewayRefused(GatewayError):
    """The gateway said no, and would again; nothing has happened. The text is its reason in words."""


class KeysRefused(GatewayError):
    """The service does not let the shop in: its keys are wrong, taken back or cannot be read. It says nothing of what
    was asked about, and right keys may be entered any moment: nothing is given up because of it.
    """


def unreadable_key() -> str:
    """What is said of a key that reads as ""."""
    return _("The key cannot be read any more: the installation's own key has changed. Enter it anew.")


class NoticeRefused(Exception):
    """A webhook that does not come from the gateway (bad signature) or cannot be read."""


class Gateway(Protocol):
    """A payment service, or one shop at it. Every call is bounded in time.

    create() and refund() with the same idempotence_key return the same payment, the same refund (YooKassa remembers a
    key for 24 hours). customer: to whom the receipt goes, where the shop sends receipts. fetch() tells the truth behind
    a notice; fetch_refund() that of a refund that was pending. check() asks whether the keys are right, in words for
    staff. All raise GatewayError, of it GatewayRefused when that is final (fetch_refund(): that the question was
    refused, not the refund), KeysRefused when the shop is not let in. check_notice() raises NoticeRefused when a
    webhook is not the service's (a service that does not sign lets everything pass: fetch() decides). Header names come
    in lower case. shop_id: whose contract, as the service calls it; "" of the demo bank.
    """

    name: str
    shop_id: str

    def create(
        self,
        *,
        amount: Decimal,
        currency: str,
        description: str,
        return_url: str,
        idempotence_key: str,
        reference: str,
        customer: Customer | None = None,
    ) -> CreatedPayment: ...

    def fetch(self, external_id: str) -> RemotePayment: ...

    def refund(
        self,
        external_id: str,
        *,
        amount: Decimal,
        currency: str,
        idempotence_key: str,
        reason: str,
        customer: Customer | None = None,
    ) -> RemoteRefund: ...

    def fetch_refund(self, external_id: str) -> RemoteRefund: ...

    def check(self) -> str: ...

    def check_notice(self, headers: Mapping[str, str], body: bytes) -> None: ...


@dataclass(frozen=True)
class GatewayType:
    """A kind of gateway. read_notice: a webhook's headers and body -> what it is about, unbelieved; raises
    NoticeRefused when it cannot be read. answer: what the service wants to hear when its notice was taken. is_signed:
    whether a notice proves who sent it.
    """

    name: str
    read_notice: Callable[[Mapping[str, str], bytes], Notice]
    answer: str = "ok"
    is_signed: bool = True
