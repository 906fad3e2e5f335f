"""Letters that came back: the message has failed with what the server said, and an address that is no good is not
written to any more.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.bell import ring
from crm.contacts.models import Channel
from crm.contacts.operations import note_returned
from crm.db import db, transaction
from crm.mailings.channels.mailbox import Bounce, Mailbox, MailboxAway, read_report
from crm.mailings.delivery import AFTER_FAILURE, move_message
from crm.mailings.models import Message, MessageStatus

# The name of jobs/tasks.py these operations ring for.
READ_BOUNCES = "mailings.read_bounces"
# Reports a worker reads at once; the rest waits for the next time.
BATCH = 200
# A letter that comes back later than that is not told over the next way of its mailing any more.
NEXT_WAY_WITHIN = timedelta(hours=1)

log = structlog.get_logger()


def ring_for_bounces() -> None:
    """Ask a worker to read the mailbox, where one is set. The caller commits."""
    if current_app.config["SETTINGS"].imap_url is not None:
        ring(READ_BOUNCES)


def read_bounces() -> int:
    """Read the reports that have come since; how many letters have come back. Commits by itself, report by report: one
    noted and not marked as read is read again, which changes nothing. A mailbox that is away is tried the next time.
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
                        noted += note_bounce(bounce)
                mailbox.mark_read(uid)
    except MailboxAway as away:
        log.warning("mailbox_away", reason=str(away))
    return noted


def note_bounce(bounce: Bounce) -> bool:
    """Note what a report says; False where it is of no letter of ours, or of one noted before. The caller commits."""
    of_letter = (Message.external_id == bounce.letter_id, Message.channel == Channel.EMAIL)
    message = db.session.scalar(select(Message).where(*of_letter).order_by(Message.id).limit(1))
    if message is None or message.status is not MessageStatus.SENT:
        return False
    said = " ".join(part for part in (bounce.status, bounce.reason) if part)
    error = _("The letter came back: %(reason)s", reason=said or _("the server did not say why"))[:500]
    if not move_message(message.id, message.status, MessageStatus.FAILED, error=error):
        return False
    db.session.refresh(message)
    log.warning("message_bounced", message_id=message.id, status=bounce.status, reason=bounce.reason)
    if bounce.is_no_address:
        note_returned(message.client, message.recipient)
    if message.sent_at is not None and clock.now() - message.sent_at < NEXT_WAY_WITHIN:
        for hook in AFTER_FAILURE:
            hook(message)
    return True
