"""What every gateway offers."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


class RemoteStatus(enum.Enum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"


@dataclass(frozen=True)
class CreatedPayment:
    """external_id: the gateway's id; confirmation_url: the bank's form, where the client is sent."""

    external_id: str
    confirmation_url: str


@dataclass(frozen=True)
class RemotePayment:
    """A payment as the gateway has it; amount in currency units, two decimals."""

    external_id: str
    status: RemoteStatus
    amount: Decimal


class GatewayError(Exception):
    """The gateway did not answer or refused; nothing is known to have happened."""


class NoticeRefused(Exception):
    """A webhook that does not come from the gateway (bad signature) or cannot be read."""


class Gateway(Protocol):
    """create() with the same idempotence_key returns the same payment. fetch() tells the truth behind a notice.

    read_notice() checks a webhook's authenticity and returns the external id it is about; header names come in lower
    case. It raises NoticeRefused; the other two raise GatewayError.
    """

    name: str

    def create(
        self, *, amount: Decimal, currency: str, description: str, return_url: str, idempotence_key: str
    ) -> CreatedPayment: ...

    def fetch(self, external_id: str) -> RemotePayment: ...

    def read_notice(self, headers: Mapping[str, str], body: bytes) -> str: ...
