"""E-mail over SMTP: one connection for many letters, and an exact answer to "has it been handed over?"."""

from __future__ import annotations

import re
import smtplib
import ssl
from dataclasses import replace
from email import policy
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from flask import render_template

from crm import clock
from crm.mailings.channels.base import Fate, Letter, Outcome

TIMEOUT_SECONDS = 30

# 7-bit bodies pass through every server; the policy breaks lines with CRLF as SMTP wants them.
_POLICY = policy.SMTP.clone(cte_type="7bit")


class EmailSender:
    """Sends letters through the server of `url`: smtp://[user:password@]host[:port] or smtps://…

    smtp:// turns to TLS when the server offers it; a password is never sent over a plain line, except to this machine.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "smtps"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (465 if self._is_tls else 587 if parts.username else 25)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._connection: smtplib.SMTP | None = None

    def send(self, letter: Letter) -> Outcome:
        try:
            sender, recipient = _ascii_address(letter.sender), _ascii_address(letter.recipient)
            content = _compose(letter, sender, recipient)
        except (ValueError, MessageError) as error:
            return Outcome(Fate.REFUSED, f"bad address or header: {error}")
        is_reused = self._connection is not None
        outcome = self._converse(sender, recipient, content)
        # A server closes idle connections; nothing had been handed over, so a fresh one may try at once.
        if is_reused and self._connection is None and outcome.fate is Fate.UNREACHABLE:
            outcome = self._converse(sender, recipient, content)
        return replace(outcome, external_id=letter_id(letter.key)) if outcome.fate is Fate.SENT else outcome

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.quit()
        except (OSError, smtplib.SMTPException):
            connection.close()

    def _converse(self, sender: str, recipient: str, content: bytes) -> Outcome:
        """One MAIL–RCPT–DATA exchange. After the last byte of DATA only the server's answer counts."""
        is_handed_over = False
        try:
            smtp = self._connection or self._connect()
            self._connection = smtp
            for step in (partial(smtp.mail, sender), partial(smtp.rcpt, recipient), partial(smtp.docmd, "DATA")):
                code, reply = step()
                if not 200 <= code < 400:
                    return self._refusal(code, reply)
            is_handed_over = True
            smtp.send(content + b".\r\n")
            code, reply = smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            self._drop()
            reason = _reason(error)
            return Outcome(Fate.UNKNOWN if is_handed_over else Fate.UNREACHABLE, reason)
        if 200 <= code < 300:
            return Outcome(Fate.SENT)
        if code < 400:
            self._drop()
            return Outcome(Fate.UNKNOWN, f"the server's answer makes no sense: {code} {reply!r}"[:500])
        return self._refusal(code, reply)

    def _connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        smtp: smtplib.SMTP
        if self._is_tls:
            smtp = smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)
        else:
            smtp = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            smtp.ehlo_or_helo_if_needed()
            is_safe = self._is_tls
            if not is_safe and smtp.has_extn("starttls"):
                smtp.starttls(context=context)
                smtp.ehlo()
                is_safe = True
            if self._user:
                if not is_safe and not _is_this_machine(self._host):
                    raise smtplib.SMTPException("the server offers no encryption for the password")
                smtp.login(self._user, self._password)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _refusal(self, code: int, reply: bytes) -> Outcome:
        reason = f"{code} {reply.decode('utf-8', 'replace')}"[:500]
        if code == 421 or code < 0:  # the server is closing the connection
            self._drop()
            return Outcome(Fate.UNREACHABLE, reason)
        self._reset()
        return Outcome(Fate.REFUSED if code >= 500 else Fate.POSTPONED, reason)

    def _reset(self) -> None:
        """Forget the refused letter, keep the connection."""
        try:
            if self._connection is not None:
                self._connection.rset()
        except (OSError, smtplib.SMTPException):
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _reason(error: Exception) -> str:
    """Short text of a network or SMTP error; an SMTP reply is bytes within a tuple."""
    if isinstance(error, smtplib.SMTPResponseException):
        reply = error.smtp_error
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        return f"{error.smtp_code} {text}"[:500]
    return (str(error) or type(error).__name__)[:500]


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ascii_address(address: str) -> str:
    """The address as plain SMTP carries it: an international domain in its ASCII form. Raises ValueError."""
    local, at, domain = address.rpartition("@")
    ascii_address = f"{local}@{domain.encode('idna').decode('ascii')}"
    if not at or not re.fullmatch(r"[!-~]+@[!-~]+", ascii_address):
        raise ValueError(f"{address!r} is no address a mail server takes")
    return ascii_address


def letter_id(key: str) -> str:
    """What stands before the @ of a letter's Message-ID: a report that the letter bounced is known by it. The same for
    a letter sent again, so that a reader can tell a copy.
    """
    return sha256(key.encode()).hexdigest()[:32]


def _compose(letter: Letter, sender: str, recipient: str) -> bytes:
    """The letter as SMTP's DATA takes it: text and HTML, attachments, CRLF, leading dots doubled."""
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address(" ".join(letter.sender_name.split()), addr_spec=sender)
    message["To"] = Address(" ".join(letter.recipient_name.split()), addr_spec=recipient)
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = f"<{letter_id(letter.key)}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    if letter.unsubscribe:
        message["List-Unsubscribe"] = f"<{letter.unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(letter.text)
    message.add_alternative(
        render_template("mail/letter.html", subject=letter.subject, text=letter.text, sender=letter.sender_name),
        subtype="html",
    )
    for file in letter.attachments:
        maintype, _slash, subtype = file.content_type.partition("/")
        message.add_attachment(file.content, maintype=maintype, subtype=subtype, filename=file.name)
    content = message.as_bytes(policy=_POLICY)
    return re.sub(rb"(?m)^\.", b"..", content if content.endswith(b"\r\n") else content + b"\r\n")
