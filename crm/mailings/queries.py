"""Reads about mailings."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, select, union_all
from sqlalchemy.orm import joinedload, selectinload

from crm.bills.models import Bill
from crm.db import db
from crm.mailings.models import Message, message_bill


def messages_of(*client_ids: int, limit: int = 50) -> list[Message]:
    """Messages to these clients, newest first."""
    return _newest(Message.client_id.in_(client_ids), limit)


def messages_about(bill: Bill, limit: int = 50) -> list[Message]:
    """Messages whose text tells of a bill, newest first."""
    return _newest(tells_of(select(Bill.id).where(Bill.id == bill.id)), limit)


def _newest(condition: ColumnElement[bool], limit: int) -> list[Message]:
    options = joinedload(Message.client), selectinload(Message.bill), selectinload(Message.further_bills)
    query = select(Message).where(condition).options(*options)
    return list(db.session.scalars(query.order_by(Message.id.desc()).limit(limit)))


def tells_of(bills: Select[int]) -> ColumnElement[bool]:
    """Condition: the text of a message tells of one of the bills (SELECT of their ids), as the first or another."""
    # Not by OR: each has its own index. Beside the row scope, for which SQLite would read all of a branch: it narrows
    # the messages found.
    table = Message.__table__
    first = select(table.c.id).where(table.c.bill_id.in_(bills)).correlate(None)
    further = select(message_bill.c.message_id).where(message_bill.c.bill_id.in_(bills))
    return Message.id.in_(union_all(first, further))


def bills_told(message: Message) -> list[Bill]:
    """The bills the text of a message tells of, as they are now."""
    if message.bill_id is None:
        return []
    further = db.session.scalars(select(message_bill.c.bill_id).where(message_bill.c.message_id == message.id))
    query = select(Bill).where(Bill.id.in_([message.bill_id, *further])).order_by(Bill.id)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))
