"""Letters that came back: the message has failed with what the server said, and an address that is no good is not
written to any more.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import select

from crm.bell import ring
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mailings.channels.email import letter_id
from crm.mailings.channels.mailbox import Bounce, Mailbox, MailboxAway, read_report
from crm.mailings.delivery import fail_later
from crm.mailings.models import Message, MessageStatus

# The name of jobs/tasks.py these operations ring for.
READ_BOUNCES = "mailings.read_bounces"
# Reports a worker reads at once; the rest waits for the next time.
BATCH = 200
# Dates of letters are of whole seconds, and two workers' clocks may differ.
SLACK = timedelta(minutes=1)

log = structlog.get_logger()


def ring_for_bounces() -> None:
    """Ask a worker to read the mailbox, where one is set. The caller commits."""
    if current_app.config["SETTINGS"].imap_url is not None:
        ring(READ_BOUNCES)


def read_bounces() -> int:
    """Read the reports that have come since; how many letters have come back. Commits by itself, report by report: one
    noted and not marked as read is read again, which changes nothing. A mailbox that is away is tried the next time;
    one of a letter that is being sent, as far as we know, stays unread until its fate is noted.
    """
    url = current_app.config["SETTINGS"].imap_url
    if url is None:
        return 0
    noted = 0
    try:
        with Mailbox(url) as mailbox:
            for uid, content in mailbox.reports(limit=BATCH):
                bounce = read_report(content)
                if bounce is not None:
                    with transaction():
                        if _is_being_sent(bounce):
                            continue
                        noted += note_bounce(bounce)
                mailbox.mark_read(uid)
    except MailboxAway as away:
        log.warning("mailbox_away", reason=str(away))
    return noted


def _is_being_sent(bounce: Bounce) -> bool:
    """Whether its letter is in a worker's hands: it is noted in a moment, or was killed and is not known of yet."""
    query = select(Message.dedupe_key).where(Message.status == MessageStatus.SENDING, Message.channel == Channel.EMAIL)
    return any(letter_id(key) == bounce.letter_id for key in db.session.scalars(query))


def note_bounce(bounce: Bounce) -> bool:
    """Note what a report says; False where it is of no letter of ours, of one noted before, or of a copy that was sent
    before a person had it sent once more. The caller commits.

    One that did not reach somebody it was sent on to has not arrived as it should; his address here is good.
    """
    of_letter = (Message.external_id == bounce.letter_id, Message.channel == Channel.EMAIL)
    message = db.session.scalar(select(Message).where(*of_letter).order_by(Message.id).limit(1))
    if message is None or (bounce.written_at is not None and bounce.written_at < message.next_try_at - SLACK):
        return False
    is_his = bounce.recipient.casefold() in {"", message.recipient.casefold()}
    said = " ".join(part for part in (bounce.status, bounce.reason) if part)
    error = _("The letter came back: %(reason)s", reason=said or _("the server did not say why"))
    return fail_later(message, error, is_gone=is_his and bounce.is_no_address, goes_on=is_his)
