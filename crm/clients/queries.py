"""Finding clients and who pays for them."""

from __future__ import annotations

from collections.abc import Sequence

from flask_babel import gettext as _
from sqlalchemy import ColumnElement, and_, or_, select, true

from crm.clients.models import Client, ClientStatus, fold
from crm.db import db
from crm.errors import NotFound
from crm.phones import search_digits


def payer_of(client: Client) -> Client:
    """Who pays for a client: himself, or the card he points at. Raises NotFound when that card is out of sight."""
    if client.payer_id is None:
        return client
    if client.payer is None:
        raise NotFound("payer_not_found", _("The payer's card was not found in this branch."))
    return client.payer


def _words(text: str) -> list[str]:
    return fold(text.replace("\x00", "")).split()  # PostgreSQL takes no NUL in a text


def matches_text(text: str) -> ColumnElement[bool]:
    """Condition: every word is part of the name or e-mail, or the whole is part of a phone in any spelling."""
    words = _words(text)
    condition: ColumnElement[bool] = and_(true(), *(Client.search.contains(word, autoescape=True) for word in words))
    return or_(condition, *(Client.search.contains(digits, autoescape=True) for digits in search_digits(text)))


def find_clients(text: str, *, limit: int = 20) -> list[Client]:
    """Active clients by part of a name, phone or e-mail, best known order: by name. Archived ones are not found."""
    if not _words(text):
        return []
    query = (
        select(Client)
        .where(Client.status == ClientStatus.ACTIVE, matches_text(text))
        .order_by(Client.name, Client.id)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def payers_by_phone(phones: Sequence[str]) -> dict[str, list[Client]]:
    """Active payers whose main phone is one of `phones` (E.164), by phone; the oldest card first where several branches
    have one each.
    """
    found: dict[str, list[Client]] = {}
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
            found.setdefault(str(client.phone), []).append(client)
    return found
