"""What follows a message of a mailing that was not sent: refused for good, it goes the next way of its rule; left out
for a bill that is not to be paid any more, the other bills it told of are told anew. In the transaction that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import or_, select

from crm.access.mailing_option import mailings_off
from crm.bell import ring
from crm.bills.models import Bill
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.mailings.billing import Planned
from crm.mailings.delivery import AFTER_FAILURE, AFTER_SKIP, why_gone
from crm.mailings.models import MailingKind, MailingRun, Message, message_bill
from crm.mailings.operations import DELIVER
from crm.mailings.queries import bills_told
from crm.mailings.recipients import channels_to, told_to, way_to
from crm.mailings.wording import message_rows, write_messages

log = structlog.get_logger()

# What they tell may be so no more.
_REMINDERS = frozenset({MailingKind.DEBT, MailingKind.SUBSCRIPTION, MailingKind.LESSON})


def queue_next_way(message: Message) -> int:
    """Queue what a failed message of a run told, as it is now, over the next way of its rule that reaches the client;
    nothing when there is no such way, when it is no longer so, or the company sends nothing any more. Once for each
    line, bill and way. How many messages that is. The caller commits.
    """
    if message.run_id is None or message.line_id is None:
        return 0
    run = db.session.get_one(MailingRun, message.run_id)
    bills, facts = _payable(message), _facts_of(run, message)
    if (message.bill_id is not None and not bills) or facts is None or mailings_off(run.branch):
        return 0
    return _queue_over(_after(message.channel, list(channels_to(run.rule))), message, run, bills, facts)


def _queue_over(
    channels: Sequence[Channel], message: Message, run: MailingRun, bills: Sequence[Bill], facts: dict[str, Any]
) -> int:
    """Queue what a message told over the first of these ways of its rule that reaches the client; how many it is."""
    assert message.line_id is not None
    texts = channels_to(run.rule)
    for channel in channels:
        found = way_to(run.rule, [message.client], [channel])[message.client_id]
        if isinstance(found, str):  # says why not
            continue
        if _is_tried(message, channel, bills):
            return 0
        try:
            following = message_rows(
                message.client,
                run=run,
                line_id=message.line_id,
                way=texts[channel],
                channel=channel,
                recipient=found[1],
                author=(message.author_id, message.author_name),
                bills=bills,
                facts=facts,
            )
        except DomainError as error:
            log.error("next_way_not_written", message_id=message.id, way=channel.value, reason=str(error))
            continue
        write_messages(following)
        ring(DELIVER)
        return len(following)
    return 0


def queue_rest(message: Message) -> int:
    """Queue a message that told of several bills, one of which was paid a moment ago, anew for those that can still be
    paid. How many messages that is. The caller commits.
    """
    if message.run_id is None or message.line_id is None:
        return 0
    run = db.session.get_one(MailingRun, message.run_id)
    bills, texts = _payable(message), channels_to(run.rule)
    if not bills:
        return 0
    if message.channel not in texts:  # the rule has it no more
        return _queue_over(list(texts), message, run, bills, {})
    try:
        rest = message_rows(
            message.client,
            run=run,
            line_id=message.line_id,
            way=texts[message.channel],
            channel=message.channel,
            recipient=message.recipient,
            author=(message.author_id, message.author_name),
            bills=bills,
            instead_of=message,
        )
    except DomainError as error:
        log.error("rest_not_written", message_id=message.id, reason=str(error))
        return 0
    write_messages(rest)
    ring(DELIVER)
    return len(rest)


def _after(channel: Channel, ordered: Sequence[Channel]) -> Sequence[Channel]:
    """The ways that follow a channel."""
    if channel in ordered:
        return ordered[ordered.index(channel) + 1 :]
    if channel is Channel.WHATSAPP and Channel.SMS in ordered:  # the company has it no more
        return ordered[ordered.index(Channel.SMS) :]
    return []


def _facts_of(run: MailingRun, message: Message) -> dict[str, Any] | None:
    """What a reminder tells; None when it is not so any more."""
    if run.rule.kind not in _REMINDERS:
        return {}
    return told_to(run.rule, Planned.of_run(run).day, [message.client_id]).get(message.client_id)


def _payable(message: Message) -> list[Bill]:
    """Those the message told of that can still be paid."""
    return [bill for bill in bills_told(message) if not why_gone(bill)]


def _is_tried(message: Message, channel: Channel, bills: Sequence[Bill]) -> bool:
    """Whether the line has a message over the channel about one of these bills, or any where it tells of none."""
    tried = select(Message.id).where(Message.line_id == message.line_id, Message.channel == channel)
    if bills:
        ids = [bill.id for bill in bills]
        of_several = select(message_bill.c.message_id).where(message_bill.c.bill_id.in_(ids))
        tried = tried.where(or_(Message.bill_id.in_(ids), Message.id.in_(of_several)))
    return db.session.scalar(tried.limit(1)) is not None


AFTER_FAILURE.append(queue_next_way)
AFTER_SKIP.append(queue_rest)
