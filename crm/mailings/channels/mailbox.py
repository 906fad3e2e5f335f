"""Reports of letters that came back: a mailbox is read by IMAP, a report by RFC 3464."""

from __future__ import annotations

import contextlib
import imaplib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, message_from_string
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from crm.mailings.channels.email import TIMEOUT_SECONDS, is_this_machine, names_no_address

# A report quotes the letter, attachments and all; what is wanted of it stands before that.
MOST_BYTES = 256 * 1024

_QUOTES = frozenset({"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"})


class MailboxAway(Exception):
    """The mailbox cannot be read now; the text says why."""


@dataclass(frozen=True)
class Bounce:
    """A letter that was not delivered, for good. letter_id: what stood before the @ of its Message-ID; recipient: whom
    it did not reach, empty where the report does not say; status: of RFC 3463, as `5.1.1`; reason: what the server of
    the recipient said. written_at: the Date of the letter, which tells one from a copy sent again.
    """

    letter_id: str
    recipient: str
    status: str
    reason: str
    written_at: datetime | None = None

    @property
    def is_no_address(self) -> bool:
        """No letter will ever reach this address."""
        return names_no_address(f"{self.status} {self.reason}")


# --- reports ---------------------------------------------------------------------------------------------------------


def read_report(content: bytes) -> Bounce | None:
    """What a letter to the mailbox tells of a letter of ours; None for any other, and for one that is only late."""
    report = message_from_bytes(content)
    if report.get_content_type() != "multipart/report" or not report.is_multipart():
        return None
    letter_id, written_at, failed = "", None, None
    parts: Any = report.get_payload()
    for part in parts:  # only its own parts: what they quote is not the server's word
        kind = part.get_content_type()
        if kind in {"message/delivery-status", "message/global-delivery-status"}:
            failed = failed or _failed(part)
        elif not letter_id and kind in _QUOTES:
            letter_id, written_at = _letter(part)
    if not letter_id or failed is None:
        return None
    recipient = _after(failed, "Original-Recipient") or _after(failed, "Final-Recipient")
    status = re.search(r"\b[245]\.\d{1,3}\.\d{1,3}\b", str(failed["Status"] or ""))
    reason = _after(failed, "Diagnostic-Code")[:300]
    return Bounce(letter_id, recipient, status[0] if status else "", reason, written_at)


def _failed(part: Message) -> Message | None:
    """The recipient a report is about who did not get the letter: each stands in a block of lines of his own."""
    blocks: Any = part.get_payload()
    for block in blocks if isinstance(blocks, list) else []:
        if str(block["Action"] or "").strip().lower() == "failed":
            return block
    return None


def _letter(part: Message) -> tuple[str, datetime | None]:
    """The id and the Date of the letter a report quotes; an empty id where it is none of ours."""
    quoted: Any = part.get_payload()
    if isinstance(quoted, list):
        letter = quoted[0]
    else:
        text = part.get_payload(decode=True)
        letter = message_from_string(text.decode("utf-8", "replace") if isinstance(text, bytes) else "")
    found = re.match(r"\s*<([0-9a-f]{32})@", str(letter["Message-ID"] or ""))
    try:
        written_at = parsedate_to_datetime(str(letter["Date"] or ""))
    except ValueError:
        written_at = None
    return (found[1] if found else ""), written_at if written_at is not None and written_at.tzinfo else None


def _after(block: Message, name: str) -> str:
    """A field `type; value` without its type, on one line."""
    kind, semicolon, value = str(block[name] or "").partition(";")
    return " ".join((value if semicolon else kind).split())


# --- the mailbox -----------------------------------------------------------------------------------------------------


class Mailbox:
    """A mailbox by its address: imaps://user:password@host[:port][/folder], or imap://, which turns to TLS where the
    server offers it; a password is never sent over a plain line, except to this machine. Use with `with`.

    Raises MailboxAway for whatever the server or the network does.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "imaps"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (993 if self._is_tls else 143)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._folder = unquote(parts.path.strip("/")) or "INBOX"
        self._imap: imaplib.IMAP4 | None = None

    def __enter__(self) -> Self:
        with _away():
            self._imap = self._connect()
        return self

    def __exit__(self, *_error: object) -> None:
        imap, self._imap = self._imap, None
        if imap is not None:
            try:
                imap.logout()
            except (imaplib.IMAP4.error, OSError):
                imap.shutdown()

    def _connect(self) -> imaplib.IMAP4:
        context = ssl.create_default_context()
        if self._is_tls:
            imap: imaplib.IMAP4 = imaplib.IMAP4_SSL(
                self._host, self._port, ssl_context=context, timeout=TIMEOUT_SECONDS
            )
        else:
            imap = imaplib.IMAP4(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            if not self._is_tls and "STARTTLS" in imap.capabilities:
                imap.starttls(context)
            elif not self._is_tls and not is_this_machine(self._host):
                raise imaplib.IMAP4.error("the server offers no encryption for the password")
            imap.login(self._user, self._password)
            folder = self._folder.replace("\\", "\\\\").replace('"', '\\"')
            _checked(imap.select(f'"{folder}"'))
        except BaseException:
            imap.shutdown()
            raise
        return imap

    def reports(self, *, limit: int) -> Iterator[tuple[str, bytes]]:
        """(uid, content) of reports nobody has read, oldest first. Other letters are not looked at."""
        with _away():
            assert self._imap is not None
            found = _checked(self._imap.uid("SEARCH", "UNSEEN", "HEADER", "Content-Type", "multipart/report"))
            uids = (found[0] or b"").split()[:limit]
        for uid in uids:
            with _away():
                answer = _checked(self._imap.uid("FETCH", uid.decode(), f"(BODY.PEEK[]<0.{MOST_BYTES}>)"))
                content = next((part[1] for part in answer if isinstance(part, tuple)), b"")
            yield uid.decode(), content

    def mark_read(self, uid: str) -> None:
        with _away():
            assert self._imap is not None
            _checked(self._imap.uid("STORE", uid, "+FLAGS.SILENT", r"(\Seen)"))


@contextlib.contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except (imaplib.IMAP4.error, OSError) as error:
        raise MailboxAway((str(error) or type(error).__name__)[:300]) from None


def _checked(answer: tuple[str, list[Any]]) -> list[Any]:
    kind, data = answer
    if kind != "OK":
        raise imaplib.IMAP4.error(f"{kind} {data!r}")
    return data
