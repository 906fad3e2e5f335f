"""Reads about mailings."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.db import db
from crm.mailings.models import Message


def messages_of(client_id: int, *, limit: int = 50) -> list[Message]:
    """Letters to a client, newest first."""
    query = (
        select(Message)
        .where(Message.client_id == client_id)
        .options(joinedload(Message.bill))
        .order_by(Message.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))
