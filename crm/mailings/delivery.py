"""Delivery of the outbox: claim, send, note. At most once: what may have left is never sent again by itself.

Letters and SMS wait for nobody but their own channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import select, update

from crm import clock
from crm.access.models import Branch, Company
from crm.bills.models import Bill, BillStatus
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mail_sink import folder_of
from crm.mailings.channels.base import ChannelNotSet, Fate, Letter, Outcome, Sender
from crm.mailings.channels.demo import DemoSmsSender
from crm.mailings.channels.email import EmailSender
from crm.mailings.channels.sms import SmsSender
from crm.mailings.models import CODE_KEY, HIDDEN, MESSAGE_MOVES, Message, MessageStatus
from crm.payments.confirmation import LIFE as CODE_LIVES
from crm.phones import is_landline

# Longer than any conversation with a server can take, its timeouts included.
LEASE = timedelta(minutes=10)
# Waits of 1, 2, 4 … 32 minutes, then of an hour: about a day in all.
MAX_ATTEMPTS = 30
LONGEST_WAIT = timedelta(hours=1)
BATCH = 200

log = structlog.get_logger()


@dataclass(frozen=True)
class Claim:
    """A letter in this worker's hands. attempt: the proof, since every claim raises it."""

    message_id: int
    channel: Channel
    attempt: int
    letter: Letter


@dataclass
class Delivered:
    """Counts of a batch by fate; is_more: letters that were due are left."""

    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    is_more: bool = False


def move_message(message_id: int, old: MessageStatus, new: MessageStatus, *conditions: Any, **values: Any) -> bool:
    """Move a message if it still has the status `old` and meets `conditions`: the one writer of a message's status.

    False: somebody else moved it first. The caller commits.
    """
    if new not in MESSAGE_MOVES.get(old, frozenset()):
        raise ValueError(f"a message does not move from {old} to {new}")
    result = db.session.execute(
        update(Message)
        .where(Message.id == message_id, Message.status == old, *conditions)
        .values(status=new, **values)
        .execution_options(synchronize_session=False)
    )
    return result.rowcount == 1  # type: ignore[attr-defined]


def claim_message(message_id: int) -> Claim | None:
    """Take one due letter for sending; None when it is not due, is not needed any more or another worker has it.
    Commits by itself.
    """
    now = clock.now()
    with transaction():
        won = move_message(
            message_id,
            MessageStatus.PENDING,
            MessageStatus.SENDING,
            Message.next_try_at <= now,
            lease_until=now + LEASE,
            attempts=Message.attempts + 1,
        )
        if not won:
            return None
        message = db.session.get_one(Message, message_id, populate_existing=True)
        if reason := _idle_reason(message):
            values = {"lease_until": None, "error": reason, "secret": None}
            move_message(message_id, MessageStatus.SENDING, MessageStatus.SKIPPED, **values)
            return None
        return Claim(message.id, message.channel, message.attempts, _letter(message))


def _idle_reason(message: Message) -> str:
    """Why a letter of a mailing asks for nothing any more, or one with a code brings none that is good; empty for one
    that does. By hand it is sent all the same.
    """
    if message.dedupe_key.startswith(CODE_KEY) and (
        message.secret is None or clock.now() >= message.created_at + CODE_LIVES
    ):
        return _("The code is not good any more: the payer asks for a new one.")
    if message.run_id is None or message.bill_id is None:
        return ""
    bill = db.session.get_one(Bill, message.bill_id, populate_existing=True)
    if bill.status is BillStatus.PAID:
        return _("Bill %(number)s has been paid meanwhile.", number=bill.title)
    if bill.status is BillStatus.ARCHIVED or bill.link_revoked_at is not None:
        return _("Bill %(number)s cannot be paid any more.", number=bill.title)
    return ""


def sender_of(company: Company | None) -> tuple[str, str]:
    """Name and address letters of a company come from; None: of the installation itself."""
    host = urlsplit(current_app.config["SETTINGS"].public_url).hostname or "localhost"
    nobody = f"no-reply@{host if any(c.isalpha() for c in host) else 'localhost'}"
    return (company.name, company.email or nobody) if company is not None else ("Kontora", nobody)


def _letter(message: Message) -> Letter:
    name, address = sender_of(db.session.get_one(Branch, message.branch_id).company)
    return Letter(
        key=message.dedupe_key,
        sender_name=name,
        sender=address,
        recipient_name=message.client.name,
        recipient=message.recipient,
        subject=message.subject,
        text=message.body if message.secret is None else message.body.replace(HIDDEN, message.secret),
    )


def deliver_batch(*, limit: int = BATCH) -> Delivered:
    """Send up to `limit` due letters, oldest first. Commits by itself, letter by letter; no transaction is open while
    a server is spoken to. When a server cannot be reached, the rest of its channel keeps its turn until the sweep rings
    again; the other channel goes on. Letters of a channel the settings do not provide for stay where they are, with the
    reason beside them.
    """
    senders = _open_senders()
    try:
        delivered, left, away = Delivered(), limit, set[Channel]()
        while channels := senders.keys() - away:
            due = _due(channels, limit=left + 1)
            delivered.is_more = len(due) > left
            for message_id in due[:left]:
                left -= 1
                claim = claim_message(message_id)
                if claim is None:
                    continue
                outcome = _refused(claim) or senders[claim.channel].send(claim.letter)
                settle_message(claim, outcome)
                delivered.fates[outcome.fate] += 1
                if outcome.fate is Fate.UNREACHABLE:
                    away.add(claim.channel)
                    break
            else:
                break
        else:
            delivered.is_more = False
    finally:
        for sender in senders.values():
            sender.close()
    return delivered


def _refused(claim: Claim) -> Outcome | None:
    """What need not be tried."""
    if claim.channel is Channel.SMS and is_landline(claim.letter.recipient):
        return Outcome(Fate.REFUSED, landline_text())
    return None


def landline_text() -> str:
    """Why no SMS is sent there. It does not name the number: not everybody sees phones."""
    return _("By its number this phone is a landline: SMS do not reach it.")


def _open_senders() -> dict[Channel, Sender]:
    """A sender of each channel there is; nobody is spoken to yet. Commits by itself."""
    senders = {}
    for channel, open_sender in SENDERS.items():
        try:
            senders[channel] = open_sender()
        except ChannelNotSet as lack:
            with transaction():
                _note_waiting(channel, str(lack))
    return senders


def _note_waiting(channel: Channel, reason: str) -> None:
    """Say beside the due letters of a channel why they do not leave. They lose no try and stay due."""
    waiting = (Message.status == MessageStatus.PENDING, Message.next_try_at <= clock.now(), Message.error != reason)
    noted = db.session.execute(
        update(Message)
        .where(Message.channel == channel, *waiting)
        .values(error=reason)
        .execution_options(synchronize_session=False)
    )
    if noted.rowcount:  # type: ignore[attr-defined]
        log.warning("channel_not_set", channel=channel.value, reason=reason)


def _due(channels: Iterable[Channel], *, limit: int) -> list[int]:
    """Ids of letters of these channels whose turn it is, oldest first."""
    query = (
        select(Message.id)
        .where(
            Message.status == MessageStatus.PENDING,
            Message.next_try_at <= clock.now(),
            Message.channel.in_(list(channels)),
        )
        .order_by(Message.next_try_at, Message.id)
        .limit(limit)
    )
    with transaction():
        return list(db.session.scalars(query))


def settle_message(claim: Claim, outcome: Outcome) -> None:
    """Note what became of a claimed letter. Commits by itself."""
    now = clock.now()
    status: MessageStatus
    values: dict[str, Any] = {"lease_until": None, "error": outcome.reason[:500], "secret": None}
    if outcome.fate is Fate.SENT:
        status = MessageStatus.SENT
        values |= {"sent_at": now, "external_id": outcome.external_id}
    elif outcome.fate is Fate.UNKNOWN:
        status = MessageStatus.UNKNOWN
    elif outcome.fate is Fate.REFUSED or claim.attempt >= MAX_ATTEMPTS:
        status = MessageStatus.FAILED
    else:
        status = MessageStatus.PENDING
        values["next_try_at"] = now + wait_after(claim.attempt)
        del values["secret"]  # it goes out again
    with transaction():
        noted = move_message(
            claim.message_id, MessageStatus.SENDING, status, Message.attempts == claim.attempt, **values
        )
    if not noted:  # the lease ran out: the sweep has called it unknown, and so it stays
        log.warning("message_lease_lost", message_id=claim.message_id, fate=outcome.fate.value)
    elif outcome.fate is not Fate.SENT:
        log.warning("message_not_sent", message_id=claim.message_id, status=status.value, reason=outcome.reason)


def wait_after(attempt: int) -> timedelta:
    """How long to wait after the given attempt, counted from 1."""
    return min(timedelta(minutes=2 ** min(attempt - 1, 10)), LONGEST_WAIT)


def give_up_lost_claims(*, now: datetime) -> int:
    """Letters whose worker died while sending become "unknown", for a person to decide. The caller commits."""
    reason = _("The sending was interrupted; the letter may have left.")
    lost = select(Message.id).where(Message.status == MessageStatus.SENDING, Message.lease_until < now)
    return sum(
        move_message(
            message_id,
            MessageStatus.SENDING,
            MessageStatus.UNKNOWN,
            Message.lease_until < now,
            lease_until=None,
            error=reason,
            secret=None,
        )
        for message_id in list(db.session.scalars(lost))
    )


def _email() -> Sender:
    url = current_app.config["SETTINGS"].smtp_url
    if url is None:
        raise ChannelNotSet(_("SMTP_URL is not set"))
    return EmailSender(url)


def _sms() -> Sender:
    settings = current_app.config["SETTINGS"]
    if settings.sms is not None:
        return SmsSender(settings.sms)
    if settings.is_demo:
        return DemoSmsSender(folder_of(settings))
    raise ChannelNotSet(_("SMS_URL is not set"))


SENDERS: dict[Channel, Callable[[], Sender]] = {Channel.EMAIL: _email, Channel.SMS: _sms}
