"""What a service tells us by its webhook, whichever it is."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crm.mailings.channels.base import storable


class HearingRefused(Exception):
    """Not the service's, or not readable; nothing of it is believed."""


class News(enum.Enum):
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"


@dataclass(frozen=True)
class Told:
    """What became of a message, by the service's number of it. reason: of a failure. at: when it happened, None where
    the service does not say.
    """

    external_id: str
    news: News
    reason: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class Linked:
    """Somebody has opened the chat `address` by the link with `token`; empty: without one."""

    address: str
    token: str


@dataclass(frozen=True)
class Gone:
    """Whoever has the chat `address` wants no more of it."""

    address: str


Heard = Told | Linked | Gone


def told_in(body: bytes) -> dict[str, Any]:
    """The object a notice is, its texts as the database takes them. Raises HearingRefused."""
    try:
        told = _storable(json.loads(body))
    except ValueError:  # not of UTF-8 either
        raise HearingRefused("no JSON") from None
    except RecursionError:
        raise HearingRefused("nested too deep") from None
    if not isinstance(told, dict):
        raise HearingRefused("no object")
    return told


def _storable(told: Any) -> Any:
    if isinstance(told, str):
        return storable(told)
    if isinstance(told, list):
        return [_storable(one) for one in told]
    return {name: _storable(one) for name, one in told.items()} if isinstance(told, dict) else told
