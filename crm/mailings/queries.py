"""Reads about mailings."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.db import db
from crm.mailings.models import Message


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
