"""What a run writes to a client: one message for all he is told of, or one for each of his bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crm import clock
from crm.access.actors import Actor
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.mailings.models import MailingRun, MailingWay, Message
from crm.mailings.tags import Subject, render, told_of


def messages_to(
    client: Client,
    *,
    run: MailingRun,
    line_id: int,
    way: MailingWay,
    channel: Channel,
    recipient: str,
    by: Actor,
    bills: Sequence[Bill] = (),
    facts: Mapping[str, Any] | None = None,
) -> list[Message]:
    """The messages of a run's line, for the caller to add: one for each bill where the text tells of a bill, else one.

    way: whose text it is; channel: what it goes over, which is another where something stands in for the way. facts: of
    a reminder, as recipients.told_to() gives them. Raises DomainError as tags.render() does.
    """
    is_of_each = Subject.BILL in told_of(*way.text)
    found = list[Message]()
    for bill in bills if is_of_each else [bills[0] if bills else None]:
        # Of a message to each bill {customer.bills…} tells of that one alone.
        of_all = () if is_of_each else bills
        subject, body = (
            render(text, client=client, bill=bill, bills=of_all, branch=run.branch, field=field, **(facts or {}))
            for text, field in zip(way.text, ("subject", "body"), strict=True)
        )
        now = clock.now()
        found.append(
            Message(
                branch_id=run.branch_id,
                channel=channel,
                client_id=client.id,
                bill_id=bill.id if bill else None,
                run_id=run.id,
                line_id=line_id,
                kind=run.rule.kind.message_kind,
                recipient=recipient,
                subject=" ".join(subject.split())[:500],
                body=body,
                dedupe_key=f"bill:{bill.id}:{channel.value}" if bill else f"line:{line_id}:{channel.value}",
                next_try_at=now,
                created_at=now,
                author_id=by.id,
                author_name=str(by.name),
            )
        )
    return found
