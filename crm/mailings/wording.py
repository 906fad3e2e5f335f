"""What a run writes to a client: one message for all he is told of, or one for each of his bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select

from crm import clock
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db, insert_rows
from crm.mailings.models import MailingRun, MailingWay, Message, MessageStatus, message_bill
from crm.mailings.tags import Subject, render, tags_told, told_of


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
    instead_of: Message | None = None,
) -> list[dict[str, Any]]:
    """Rows of Message for a line of a run, as write_messages() takes them: one for each bill where the text tells of a
    bill, else one.

    way: whose text it is; channel: what it goes over, which is another where something stands in for the way. author:
    id and name. facts: of a reminder, as recipients.told_to() gives them. instead_of: the message of the same channel
    that is not needed any more. Raises DomainError as tags.render() does.
    """
    is_of_each, tags = Subject.BILL in told_of(*way.text), tags_told(*way.text)
    found = list[dict[str, Any]]()
    for bill in bills if is_of_each else [bills[0] if bills else None]:
        # Of a message to each bill {customer.bills…} tells of that one alone.
        of_all = () if is_of_each else bills
        subject, body = (
            render(text, client=client, bill=bill, bills=of_all, branch=run.branch, field=field, **(facts or {}))
            for text, field in zip(way.text, ("subject", "body"), strict=True)
        )
        now = clock.now()
        key = f"bill:{bill.id}:{channel.value}" if bill else f"line:{line_id}:{channel.value}"
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
                "tags": tags,
                "dedupe_key": f"{key}:instead:{instead_of.id}" if instead_of else key,
                "attempts": 0,
                "next_try_at": now,
                "created_at": now,
                "error": "",
                "external_id": "",
                "author_id": author[0],
                "author_name": author[1],
                "further_bills": [other.id for other in of_all[1:]],
            }
        )
    return found


def write_messages(rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of message_rows(), with the further bills of those that tell of several. The caller commits."""
    further = {row["dedupe_key"]: row["further_bills"] for row in rows if row["further_bills"]}
    insert_rows(Message, [{name: row[name] for name in row if name != "further_bills"} for row in rows])
    if not further:
        return
    written = select(Message.id, Message.dedupe_key).where(Message.dedupe_key.in_(further))
    told = [{"message_id": id, "bill_id": bill} for id, key in db.session.execute(written) for bill in further[key]]
    db.session.execute(insert(message_bill), told)
