"""The demo's post office: letters and SMS that would have left are kept as files, one each, and can be read back."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from crm.config import Settings

_CHANNEL, _SMS = "X-Kontora-Channel", "sms"
_NAME = re.compile(r"\d{20}-[0-9a-f]{8}")


def folder_of(settings: Settings) -> Path:
    """Where the letters of this installation lie; it exists once a sink has run."""
    return settings.data_dir / "mail"


class Sink:
    """Handler of an aiosmtpd server: takes every letter and keeps it in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        _keep(self._folder, envelope.content)
        return "250 OK"


def keep_sms(folder: Path, *, sender: str, recipient: str, text: str) -> None:
    """Put an SMS among the letters. recipient: a phone."""
    message = EmailMessage(policy=policy.SMTPUTF8)
    message["From"], message["To"], message[_CHANNEL] = " ".join(sender.split()), recipient, _SMS
    message.set_content(text)
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, message.as_bytes())


def _keep(folder: Path, content: bytes) -> None:
    # The time first, so that names sort by arrival; renamed when whole, so that nobody reads a half.
    path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    path.write_bytes(content)
    path.rename(path.with_suffix(".eml"))


@dataclass(frozen=True)
class ReceivedLetter:
    """A letter as it arrived; text is its plain part. is_sms: it is a message to a phone, without a subject."""

    id: str
    received_at: datetime
    sender: str
    recipient: str
    subject: str
    text: str
    is_sms: bool


def letters(folder: Path, *, limit: int = 200) -> list[ReceivedLetter]:
    """The latest letters, newest first."""
    names = sorted((path.stem for path in folder.glob("*.eml")), reverse=True)
    return [_read(folder, name) for name in names[:limit]]


def letter(folder: Path, letter_id: str) -> ReceivedLetter | None:
    """One letter; None when there is none under this id, or it is no id at all."""
    if not _NAME.fullmatch(letter_id) or not (folder / f"{letter_id}.eml").is_file():
        return None
    return _read(folder, letter_id)


def _read(folder: Path, name: str) -> ReceivedLetter:
    content = (folder / f"{name}.eml").read_bytes()
    message = message_from_bytes(content, policy=policy.default)
    body = message.get_body(("plain",))
    return ReceivedLetter(
        id=name,
        received_at=datetime.fromtimestamp(int(name[:20]) / 1e9, UTC),
        sender=_header(message, "from"),
        recipient=_header(message, "to"),
        subject=_header(message, "subject"),
        text=str(body.get_content()) if body is not None else "",
        is_sms=message.get(_CHANNEL) == _SMS,
    )


def _header(message: EmailMessage, name: str) -> str:
    """A header as people read it, encoded or in plain UTF-8. The parser of addresses leaves a space where a long name
    was folded; we do not.
    """
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name), "")
    # Bytes beyond ASCII are read as halves of characters, which no page can hold.
    raw = raw.encode(errors="surrogateescape").decode(errors="replace")
    return str(make_header(decode_header(raw)))
