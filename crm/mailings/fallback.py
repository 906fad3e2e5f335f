"""Fall-back: what was definitely not sent one way goes the next way of its rule, in the transaction that says so."""

from __future__ import annotations

import structlog
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.bell import ring
from crm.bills.models import BillStatus
from crm.contacts.queries import reach
from crm.db import db
from crm.errors import DomainError
from crm.mailings.delivery import AFTER_FAILURE
from crm.mailings.models import MailingRun, Message
from crm.mailings.operations import DELIVER, queue_message
from crm.mailings.tags import render

log = structlog.get_logger()


def queue_next_way(message: Message) -> Message | None:
    """Queue what a failed message of a run told over the next way of its rule that reaches the client; None when there
    is none. Once for each line, bill and way. The caller commits.
    """
    if message.run_id is None or message.line_id is None:
        return None
    bill = message.bill
    if bill is not None and (bill.status is not BillStatus.PENDING or bill.link_revoked_at is not None):
        return None
    run = db.session.get_one(MailingRun, message.run_id)
    ways = list(run.rule.ways)
    tried = next((place for place, way in enumerate(ways) if way.channel is message.channel), len(ways))
    for way in ways[tried + 1 :]:
        found = reach([message.client], message.kind, [way.channel])[message.client_id]
        if isinstance(found, str):  # says why not
            continue
        recipient = found[1]
        key = f"bill:{bill.id}:{way.channel.value}" if bill else f"line:{message.line_id}:{way.channel.value}"
        if db.session.scalar(select(Message.id).where(Message.dedupe_key == key)) is not None:
            return None
        subject, body = way.text
        try:
            following = queue_message(
                message.client,
                channel=way.channel,
                recipient=recipient,
                subject=render(subject, client=message.client, bill=bill, field="subject"),
                body=render(body, client=message.client, bill=bill),
                dedupe_key=key,
                bill=bill,
                run=run,
                by=SYSTEM,
            )
        except DomainError as error:
            log.error("next_way_not_written", message_id=message.id, way=way.channel.value, reason=str(error))
            continue
        following.line_id, following.kind = message.line_id, message.kind
        following.author_id, following.author_name = message.author_id, message.author_name
        ring(DELIVER)
        return following
    return None


AFTER_FAILURE.append(queue_next_way)
