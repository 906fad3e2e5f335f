"""Reads about mailings."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.bills.models import Bill
from crm.db import db
from crm.mailings.models import Message, message_bill


def messages_of(*client_ids: int, limit: int = 50) -> list[Message]:
    """Messages to these clients, newest first."""
    query = (
        select(Message)
        .where(Message.client_id.in_(client_ids))
        .options(joinedload(Message.bill), joinedload(Message.client))
        .order_by(Message.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))


def bills_told(message: Message) -> list[Bill]:
    """The bills the text of a message tells of, as they are now."""
    if message.bill_id is None:
        return []
    further = db.session.scalars(select(message_bill.c.bill_id).where(message_bill.c.message_id == message.id))
    query = select(Bill).where(Bill.id.in_([message.bill_id, *further])).order_by(Bill.id)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))
