"""Finding clients."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, or_, select

from crm.clients.models import Client, ClientStatus, fold
from crm.phones import search_digits
from crm.db import db


def matches_text(text: str) -> ColumnElement[bool]:
    """Condition: every word is part of the name or e-mail, or the whole is part of a phone in any spelling."""
    words = fold(text.replace("\x00", "")).split()
    condition: ColumnElement[bool] = and_(*(Client.search.contains(word, autoescape=True) for word in words))
    return or_(condition, *(Client.search.contains(digits, autoescape=True) for digits in search_digits(text)))


def find_clients(text: str, *, limit: int = 20) -> list[Client]:
    """Active clients by part of a name, phone or e-mail, best known order: by name. Archived ones are not found."""
    if not text.strip():
        return []
    query = (
        select(Client)
        .where(Client.status == ClientStatus.ACTIVE, matches_text(text))
        .order_by(Client.name, Client.id)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def payers_by_phone(phones: Sequence[str]) -> dict[str, Client]:
    """Active payers whose main phone is one of `phones` (E.164), by phone; the oldest card where several share one."""
    found: dict[str, Client] = {}
    for start in range(0, len(phones), 1000):
        query = (
            select(Client)
            .where(
                Client.phone.in_(phones[start : start + 1000]),
                Client.payer_id.is_(None),
                Client.status == ClientStatus.ACTIVE,
            )
            .order_by(Client.id)
        )
        for client in db.session.scalars(query):
            found.setdefault(str(client.phone), client)
    return found
