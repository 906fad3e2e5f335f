"""E-mail over SMTP: one connection for many letters, and an exact answer to "has it been handed over?"."""

from __future__ import annotations

import hmac
import re
import secrets
import smtplib
import ssl
from dataclasses import replace
from email import policy
from email.encoders import encode_base64
from email.errors import MessageError
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime, formataddr
from functools import lru_cache, partial
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from flask import current_app, render_template
from flask_babel import gettext as _

from crm import clock
from crm.mailings.channels.base import Attachment, Fate, Letter, Outcome

TIMEOUT_SECONDS = 30


class _Folded(policy.Compat32):
    """Headers stand as _compose() has made them: lines folded, ASCII. The others of a letter are short."""

    def fold_binary(self, name: str, value: str) -> bytes:
        return f"{name}: {value}\r\n".encode("ascii")


# Bodies of seven bits pass through every server, signed or not; lines are broken with CRLF as SMTP wants them.
_POLICY = _Folded(linesep="\r\n", cte_type="7bit")


class EmailSender:
    """Sends letters through the server of `url`: smtp://[user:password@]host[:port] or smtps://…

    smtp:// turns to TLS when the server offers it; a password is never sent over a plain line, except to this machine.
    return_to: whom a letter that cannot be delivered goes back to; by default its sender.
    """

    def __init__(self, url: str, return_to: str = "") -> None:
        self._return_to = return_to
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
        return_to = self._return_to or sender
        outcome = self._converse(return_to, recipient, content)
        # A server closes idle connections; nothing had been handed over, so a fresh one may try at once.
        if is_reused and self._connection is None and outcome.fate is Fate.UNREACHABLE:
            outcome = self._converse(return_to, recipient, content)
        if outcome.fate in {Fate.SENT, Fate.UNKNOWN}:  # it may come back
            return replace(outcome, external_id=letter_id(letter.key))
        return outcome

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
                    return self._refusal(code, reply, is_of_recipient=step.func == smtp.rcpt)
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
                if not is_safe and not is_this_machine(self._host):
                    raise smtplib.SMTPException("the server offers no encryption for the password")
                smtp.login(self._user, self._password)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _refusal(self, code: int, reply: bytes, *, is_of_recipient: bool = True) -> Outcome:
        reason = f"{code} {reply.decode('utf-8', 'replace')}"[:500]
        if code == 421 or code < 0:  # the server is closing the connection
            self._drop()
            return Outcome(Fate.UNREACHABLE, reason)
        self._reset()
        if code < 500:
            return Outcome(Fate.POSTPONED, reason)
        return Outcome(Fate.REFUSED, reason, is_gone=is_of_recipient and names_no_address(reason))

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


# Of RFC 3463: no such mailbox, domain or name, or one that has moved.
_NO_ADDRESS = re.compile(r"5\.1\.(1|2|3|6|10)")
# Words of a reply that is about the sender, or about now.
_OF_US = re.compile(
    r"sender|sending|outgoing|your|relay|policy|spam|block|reject|helo|dns|host|auth|rate|limit|quota|temporar",
    re.IGNORECASE,
)
# How servers without such codes say it. A 550 alone may as well be of their policy.
_NO_ADDRESS_WORDS = re.compile(
    r"(no such|unknown|invalid|non-?existent) (local )?(user|recipient|mailbox|address|account)"
    r"|(user|recipient|mailbox|address|account)\b.{0,80}?"
    r"\b(unknown|not found|not exist|doesn't exist|disabled|invalid|no longer)",
    re.IGNORECASE | re.DOTALL,
)


def names_no_address(said: str) -> bool:
    """Whether a server refused a letter because there is no such address, so that none will ever reach it. said: its
    reply, `550 5.1.1 …`, or a status of a report and the reply; the first code of RFC 3463 that says anything counts.
    In doubt it is not so: what a server holds against us it says of every letter.
    """
    codes = re.findall(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?!\.?\d)", said)
    told = next((code for code in codes if not code.endswith(".0.0")), None)
    if told is not None and told != "5.2.1":  # closed, or for a while
        return _NO_ADDRESS.fullmatch(told) is not None
    if _OF_US.search(said):
        return False
    return told is not None or ("550" in said.split() and _NO_ADDRESS_WORDS.search(said) is not None)


def is_this_machine(host: str) -> bool:
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
    a letter sent again, so that a reader can tell a copy. Nobody guesses it who has not had the letter.
    """
    secret = current_app.config["SETTINGS"].secret_key
    return hmac.digest(secret.encode(), b"letter:" + key.encode(), "sha256").hex()[:32]


def _compose(letter: Letter, sender: str, recipient: str) -> bytes:
    """The letter as SMTP's DATA takes it: text and HTML, attachments, CRLF, leading dots doubled.

    By the older classes of `email`: EmailMessage parses and folds each header it is given, which takes seven times as
    long as all the rest. They let line breaks into headers, so that is asked here. Raises ValueError.
    """
    facts = {"sender": letter.sender_name, "unsubscribe": letter.unsubscribe}
    html = render_template("mail/letter.html", subject=letter.subject, text=letter.text, **facts)
    plain = letter.text
    if letter.unsubscribe:
        plain = f"{plain.rstrip()}\n\n{_('Do not send me such letters')}: {letter.unsubscribe}"
    message = _together("alternative", _text(plain, "plain"), _text(html, "html"))
    if letter.attachments:
        message = _together("mixed", message, *(_attached(file) for file in letter.attachments))
    headers = {
        "From": _mailbox(letter.sender_name, sender),
        "To": _mailbox(letter.recipient_name, recipient),
        "Subject": _encoded(letter.subject, "Subject"),
        "Date": format_datetime(clock.now()),
        "Message-ID": f"<{letter_id(letter.key)}@{sender.rpartition('@')[2]}>",
        "Auto-Submitted": "auto-generated",
    }
    if letter.unsubscribe:
        headers["List-Unsubscribe"] = _one_line(f"<{letter.unsubscribe}>")
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    for name, value in headers.items():
        message[name] = value
    return re.sub(rb"(?m)^\.", b"..", message.as_bytes(policy=_POLICY))


def _together(subtype: str, *parts: MIMEBase) -> MIMEMultipart:
    """Parts in base64 cannot hold the boundary, so nobody looks for it there."""
    return MIMEMultipart(subtype, f"={secrets.token_hex(12)}", parts)


def _text(text: str, subtype: str) -> MIMEText:
    """A part in UTF-8; its lines end with CRLF, as MIME wants them of any text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    return MIMEText("\r\n".join(lines) + "\r\n", subtype, "utf-8")


def _attached(file: Attachment) -> MIMEBase:
    maintype, _slash, subtype = _one_line(file.content_type).partition("/")
    part = MIMEBase(maintype, subtype)
    part.set_payload(file.content)
    encode_base64(part)
    name = _one_line(file.name)
    part.add_header("Content-Disposition", "attachment", filename=name if name.isascii() else ("utf-8", "", name))
    return part


def _mailbox(name: str, address: str) -> str:
    """A name and an address as From and To take them; what a name holds beside letters cannot end it."""
    name = " ".join(name.split())
    if name.isascii():
        return _one_line(formataddr((name, address)))
    return f"{_encoded(name, 'From')}\r\n <{address}>"


@lru_cache(maxsize=512)  # the letters of a mailing have a sender and often a subject in common
def _encoded(value: str, header: str) -> str:
    """A header's text as it is, when it is of one short ASCII line, else in encoded words of RFC 2047."""
    return Header(_one_line(value), None if value.isascii() else "utf-8", header_name=header).encode(linesep="\r\n")


def _one_line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("a line break in a header")
    return value
