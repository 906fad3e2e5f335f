"""Sending the letters of export schedules: claim, send, note. At most once, as the mailings do it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from flask_babel import gettext as _
from sqlalchemy import select, update

from crm import clock
from crm.access.models import Branch, Company
from crm.background.operations import file_of
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.exchange.excel import XLSX
from crm.exchange.schedules.models import DeliveryStatus, ExportDelivery, ExportLetter
from crm.exchange.schedules.operations import note_outcome
from crm.mailings.channels.base import Attachment, ChannelNotSet, Fate, Letter, Outcome
from crm.mailings.delivery import LEASE, SENDERS, sender_of, wait_after
from crm.mailings.models import MESSAGE_MOVES, MessageStatus

MAX_ATTEMPTS = 12  # an hour's waits at the end: most of a day
BATCH = 50

log = structlog.get_logger()


def deliver_export_letters(*, limit: int = BATCH) -> None:
    """Send up to `limit` due letters, oldest first. Commits by itself, letter by letter; no transaction is open while a
    server is spoken to. Stops when the server cannot be reached; letters wait while there is none.
    """
    due = select(ExportLetter.id).where(
        ExportLetter.status == MessageStatus.PENDING, ExportLetter.next_try_at <= clock.now()
    )
    with transaction():
        ids = list(db.session.scalars(due.order_by(ExportLetter.next_try_at, ExportLetter.id).limit(limit)))
    if not ids:
        return
    try:
        sender = SENDERS[Channel.EMAIL]()
    except ChannelNotSet as lack:
        with transaction():
            for letter_id in ids:
                _note(letter_id, str(lack))
        return
    try:
        for letter_id in ids:
            claim = _claim(letter_id)
            if claim is None:
                continue
            attempt, letter = claim
            outcome = sender.send(letter)
            _settle(letter_id, attempt, outcome)
            if outcome.fate is Fate.UNREACHABLE:
                return  # the next tick goes on
    finally:
        sender.close()


def _claim(letter_id: int) -> tuple[int, Letter] | None:
    """The letter in this worker's hands and the number of its try; None when another has it, or its file is gone.
    Commits by itself.
    """
    now = clock.now()
    with transaction():
        won = _move(
            letter_id,
            MessageStatus.PENDING,
            MessageStatus.SENDING,
            ExportLetter.next_try_at <= now,
            lease_until=now + LEASE,
            attempts=ExportLetter.attempts + 1,
        )
        return _compose(letter_id) if won else None


def _compose(letter_id: int) -> tuple[int, Letter] | None:
    """The letter as the channel takes it; None, and the letter failed, when its file is kept no more."""
    row = db.session.get_one(ExportLetter, letter_id, populate_existing=True)
    delivery = row.delivery
    attachment = None
    if delivery.is_attached:
        path = file_of(delivery.job) if delivery.job is not None and delivery.job.file else None
        if path is None or not path.exists():
            reason = _("The file is kept no more.")
            _move(letter_id, MessageStatus.SENDING, MessageStatus.FAILED, lease_until=None, error=reason)
            note_outcome(delivery)
            return None
        assert delivery.job is not None
        attachment = Attachment(delivery.job.file_name or path.name, XLSX, path.read_bytes())
    name, address = sender_of(_company(delivery))
    return row.attempts, Letter(
        key=f"export:{letter_id}",
        sender_name=name,
        sender=address,
        recipient_name="",
        recipient=row.recipient,
        subject=delivery.subject,
        text=delivery.body,
        attachments=(attachment,) if attachment else (),
    )


def _company(delivery: ExportDelivery) -> Company | None:
    """Whose name stands on the letter: the branch's company, or the only or first one of the network."""
    if delivery.schedule.branch_id is not None:
        return db.session.get_one(Branch, delivery.schedule.branch_id).company
    return db.session.scalar(select(Company).order_by(Company.id).limit(1))


def _settle(letter_id: int, attempt: int, outcome: Outcome) -> None:
    now = clock.now()
    values: dict[str, Any] = {"lease_until": None, "error": outcome.reason[:500]}
    if outcome.fate is Fate.SENT:
        status = MessageStatus.SENT
        values["sent_at"] = now
    elif outcome.fate is Fate.UNKNOWN:
        status = MessageStatus.UNKNOWN
    elif outcome.fate is Fate.REFUSED or attempt >= MAX_ATTEMPTS:
        status = MessageStatus.FAILED
    else:
        status = MessageStatus.PENDING
        values["next_try_at"] = now + wait_after(attempt)
    with transaction():
        noted = _move(letter_id, MessageStatus.SENDING, status, ExportLetter.attempts == attempt, **values)
        if noted:
            note_outcome(db.session.get_one(ExportLetter, letter_id, populate_existing=True).delivery)
    if outcome.fate is not Fate.SENT:
        log.warning("export_letter_not_sent", letter_id=letter_id, status=status.value, reason=outcome.reason)


def _move(letter_id: int, old: MessageStatus, new: MessageStatus, *conditions: Any, **values: Any) -> bool:
    """Move a letter if it still has the status `old`: the one writer of its status. The caller commits."""
    if new not in MESSAGE_MOVES[old]:
        raise ValueError(f"a letter does not move from {old} to {new}")
    statement = (
        update(ExportLetter)
        .where(ExportLetter.id == letter_id, ExportLetter.status == old, *conditions)
        .values(status=new, **values)
    )
    result: Any = db.session.execute(statement.execution_options(synchronize_session=False))
    return bool(result.rowcount == 1)


def _note(letter_id: int, reason: str) -> None:
    """Say beside a letter why it waits; it loses no try and stays due."""
    statement = update(ExportLetter).where(ExportLetter.id == letter_id).values(error=reason[:500])
    db.session.execute(statement.execution_options(synchronize_session=False))
    note_outcome(db.session.get_one(ExportLetter, letter_id, populate_existing=True).delivery)


def give_up_lost_letters(*, now: datetime) -> None:
    """Letters whose worker died while sending may have left: they become unknown. The caller commits."""
    lost = select(ExportLetter).where(ExportLetter.status == MessageStatus.SENDING, ExportLetter.lease_until < now)
    for letter in list(db.session.scalars(lost)):
        reason = _("The sending was interrupted; the letter may have left.")
        moved = _move(
            letter.id,
            MessageStatus.SENDING,
            MessageStatus.UNKNOWN,
            ExportLetter.lease_until < now,
            lease_until=None,
            error=reason,
        )
        if moved:
            db.session.refresh(letter)
            note_outcome(letter.delivery)


def has_due_letters(*, now: datetime) -> bool:
    """Whether any letter waits for its turn now."""
    query = (
        select(ExportLetter.id)
        .join(ExportDelivery)
        .where(
            ExportDelivery.status == DeliveryStatus.READY,
            ExportLetter.status == MessageStatus.PENDING,
            ExportLetter.next_try_at <= now,
        )
    )
    return db.session.scalar(query.limit(1)) is not None
