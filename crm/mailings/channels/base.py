"""What every channel takes and gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True)
class Attachment:
    """A file that goes with a letter. content_type: `application/pdf` and the like."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Letter:
    """A ready text for one recipient. key: unique per letter, so that a provider or a reader can tell a copy.
    unsubscribe: of the page where he refuses such letters, by a POST too (RFC 8058); empty: he may not.
    """

    key: str
    sender_name: str
    sender: str
    recipient_name: str
    recipient: str
    subject: str
    text: str
    attachments: tuple[Attachment, ...] = ()
    unsubscribe: str = ""


def storable(text: str) -> str:
    """The text as every database takes it: without the zeros and the halves of characters JSON may bring."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


class Fate(enum.Enum):
    """What became of a letter.

    SENT: taken by the provider. POSTPONED: not taken now, may be tried again. UNREACHABLE: likewise, and so will be
    every other letter now. REFUSED: never will be taken. UNKNOWN: handed over, but no answer came.
    """

    SENT = "sent"
    POSTPONED = "postponed"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Outcome:
    """reason: for people and logs, what the provider said; empty when sent. external_id: his number of it, if any.
    retry_after: s, how long he asks to wait; 0: he does not say. is_gone: refused because the recipient has blocked the
    sender or left, or there is no such address: he is not to be written to there any more.
    """

    fate: Fate
    reason: str = ""
    external_id: str = ""
    cost: Decimal | None = None
    retry_after: int = 0
    is_gone: bool = False


class ChannelNotSet(Exception):
    """The settings do not say where to send; the text names what is missing. Letters wait for it."""


class Sender(Protocol):
    """An open channel. send() never raises for what the provider or the network does; close() never raises."""

    def send(self, letter: Letter) -> Outcome: ...

    def close(self) -> None: ...
