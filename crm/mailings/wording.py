"""What a run writes to a client: one message for all he is told of, or one for each of his bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crm import clock
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.mailings.models import MailingRun, MailingWay, MessageStatus
from crm.mailings.tags import Subject, render, told_of


def message_rows(
    client: Client,
    *,
    run: MailingRun,
    line_id: int,
    way: MailingWay,
    channel: Channel,
    recipient: str,
    author: tuple[int | None, str],
    bills: Sequence[Bill] = (),
    facts: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Rows of Message for a line of a run, as db.insert_rows() takes them: one for each bill where the text tells of a
    bill, else one.

    way: whose text it is; channel: what it goes over, which is another where something stands in for the way. author:
    id and name. facts: of a reminder, as recipients.told_to() gives them. Raises DomainError as tags.render() does.
    """
    is_of_each = Subject.BILL in told_of(*way.text)
    found = list[dict[str, Any]]()
    for bill in bills if is_of_each else [bills[0] if bills else None]:
        # Of a message to each bill {customer.bills…} tells of that one alone.
        of_all = () if is_of_each else bills
        subject, body = (
            render(text, client=client, bill=bill, bills=of_all, branch=run.branch, field=field, **(facts or {}))
            for text, field in zip(way.text, ("subject", "body"), strict=True)
        )
        now = clock.now()
        found.append(
            {
                "branch_id": run.branch_id,
                "channel": channel,
                "status": MessageStatus.PENDING,
                "kind": run.rule.kind.message_kind,
                "client_id": client.id,
                "bill_id": bill.id if bill else None,
                "run_id": run.id,
                "line_id": line_id,
                "recipient": recipient,
                "subject": " ".join(subject.split())[:500],
                "body": body,
                "dedupe_key": f"bill:{bill.id}:{channel.value}" if bill else f"line:{line_id}:{channel.value}",
                "attempts": 0,
                "next_try_at": now,
                "created_at": now,
                "error": "",
                "external_id": "",
                "author_id": author[0],
                "author_name": author[1],
            }
        )
    return found
