"""Finding clients and who pays for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import ColumnElement, and_, column, false, func, or_, select, table, union
from sqlalchemy.orm import aliased, selectinload

from crm.access.fields import field_rules
from crm.access.models import Branch
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.errors import NotFound
from crm.i18n import day
from crm.phones import format_phone, search_digits
from crm.search import holds, parts_of, searchable_sql


def payer_of(client: Client) -> Client:
    """Who pays for a client: himself, or the card he points at. Raises NotFound when that card is out of sight."""
    if client.payer_id is None:
        return client
    if client.payer is None:
        raise NotFound("payer_not_found", _("The payer's card was not found in this branch."))
    return client.payer


# What Client.search is made of.
_SEARCHED = ("name", "surname", "patronymic", "phone", "extra_phone", "email")
# SQLite's index of three-letter parts, kept by triggers (migration 0004).
_PARTS = table("client_search", column("rowid"), column("client_search"))


def matches_text(text: str, *, by: Any = None) -> ColumnElement[bool]:
    """Condition on Client: every word is part of the name or e-mail (a word of one or two letters begins one), or the
    whole is part of a phone in any spelling. What is hidden from `by` finds nothing: it would be guessed bit by bit.
    """
    ways = [parts_of(text), *([digits] for digits in search_digits(text))]
    found = or_(*(_holds(parts) for parts in ways))
    hidden = field_rules(by, "client").hidden
    if hidden.isdisjoint(_SEARCHED):
        return found
    # The index still finds them; what is left of them is read.
    seen = searchable_sql(*(getattr(Client, name) for name in _SEARCHED if name not in hidden))
    return and_(found, or_(*(holds(seen, parts) for parts in ways)))


def client_matches(key: Any, text: str, *, by: Any = None) -> ColumnElement[bool]:
    """The same condition on the client that `key`, a column of another table, points at."""
    return key.in_(select(Client.id).where(matches_text(text, by=by)))


def _holds(parts: Sequence[str]) -> ColumnElement[bool]:
    """Condition: every part is in what the card is found by."""
    if db.engine.dialect.name != "sqlite":
        return holds(Client.search, parts)
    long = [part for part in parts if len(part) >= 3]
    short = [part for part in parts if len(part) < 3]
    if not long:
        return holds(Client.search, short)
    query = " AND ".join('"' + part.replace('"', '""') + '"' for part in long)
    return and_(
        Client.id.in_(select(_PARTS.c.rowid).where(_PARTS.c.client_search.op("MATCH")(query))),
        holds(Client.search, short),
    )


def find_clients(text: str, *, limit: int = 20, by: Any = None) -> list[Client]:
    """Active clients by part of a name, phone or e-mail, best known order: by name. Archived ones are not found."""
    if not parts_of(text):
        return []
    query = (
        select(Client)
        .where(Client.status == ClientStatus.ACTIVE, matches_text(text, by=by))
        .options(selectinload(Client.branch).selectinload(Branch.city))
        .order_by(Client.name, Client.id)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def likely_duplicates(client: Client, *, limit: int = 10, by: Any = None) -> list[Client]:
    """Other cards that may be the same person's: a phone, the e-mail, or the name and the date of birth is the same.

    Not those of his family, who share a phone with him, nor merged ones. What is hidden from `by` tells nothing.
    """
    hidden = field_rules(by, "client").hidden
    phones = [phone for name in ("phone", "extra_phone") if name not in hidden and (phone := getattr(client, name))]
    same = [getattr(Client, name).in_(phones) for name in ("phone", "extra_phone") if phones and name not in hidden]
    if client.email and "email" not in hidden:
        same.append(Client.email == client.email)
    if client.birth_date and "birth_date" not in hidden:
        same.append(and_(Client.name == client.name, Client.birth_date == client.birth_date))
    payer_id = client.payer_id or client.id
    query = (
        select(Client)
        .where(
            or_(false(), *same),
            Client.id.not_in([client.id, payer_id]),
            Client.payer_id.is_distinct_from(payer_id),
            Client.merged_into_id.is_(None),
        )
        .order_by(Client.status, Client.name, Client.id)
        .limit(limit)
    )
    return list(db.session.scalars(query))


@dataclass(frozen=True)
class Duplicates:
    """Cards that have something in common which one person has: shown, as it is written on the first of them."""

    shown: str
    cards: Sequence[Client]


def duplicates(*, limit: int = 100, by: Any = None) -> list[Duplicates]:
    """Active cards that share an e-mail or a phone and pay for themselves, or a name and a date of birth; at most
    `limit` groups of each, in their order. What is hidden from `by` tells nothing.
    """
    hidden = field_rules(by, "client").hidden
    active = (Client.status == ClientStatus.ACTIVE, Client.merged_into_id.is_(None))
    payers = (*active, Client.payer_id.is_(None))
    ways: list[tuple[tuple[str, ...], Any]] = [
        (("email",), select(Client.id, Client.email.label("shared")).where(*payers)),
        (
            ("phone", "extra_phone"),
            union(
                *(
                    select(Client.id, phone.label("shared")).where(*payers)
                    for phone in (Client.phone, Client.extra_phone)
                )
            ),
        ),
    ]
    found = [
        group for names, query in ways if hidden.isdisjoint(names) for group in _shared(query.subquery(), limit=limit)
    ]
    if "birth_date" not in hidden:
        query = select(Client.name, Client.birth_date).where(*active, Client.birth_date.is_not(None))
        repeated = query.group_by(Client.name, Client.birth_date).having(func.count() > 1)
        for name, born in db.session.execute(repeated.order_by(Client.name, Client.birth_date).limit(limit)):
            same = select(Client).where(*active, Client.name == name, Client.birth_date == born).order_by(Client.id)
            found.append(Duplicates(f"{name}, {day(born)}", list(db.session.scalars(same))))
    return found


def _shared(pairs: Any, *, limit: int) -> list[Duplicates]:
    """Groups of the cards that have the same in (id, shared)."""
    repeated = select(pairs.c.shared).where(pairs.c.shared.is_not(None)).group_by(pairs.c.shared)
    repeated = repeated.having(func.count() > 1).order_by(pairs.c.shared).limit(limit)
    groups: dict[str, list[Client]] = {}
    query = select(pairs.c.shared, Client).join(Client, Client.id == pairs.c.id).where(pairs.c.shared.in_(repeated))
    for shared, card in db.session.execute(query.order_by(pairs.c.shared, Client.id)):
        groups.setdefault(shared, []).append(card)
    return [
        Duplicates(format_phone(shared) if shared.startswith("+") else shared, cards)
        for shared, cards in groups.items()
        if len(cards) > 1  # of those in sight
    ]


def payers_by_phone(phones: Sequence[str]) -> dict[str, list[Client]]:
    """Active payers whose main phone is one of `phones` (E.164), by phone; the oldest card first where several branches
    have one each. A phone nobody has any more leads from a merged card to the one that took it in.
    """
    found: dict[str, list[Client]] = {}
    for start in range(0, len(phones), 1000):
        some = phones[start : start + 1000]
        is_payer = (Client.payer_id.is_(None), Client.status == ClientStatus.ACTIVE)
        query = select(Client).where(Client.phone.in_(some), *is_payer).order_by(Client.id)
        for client in db.session.scalars(query):
            found.setdefault(str(client.phone), []).append(client)
        merged = aliased(Client)
        heirs = select(merged.phone, Client).join(merged, merged.merged_into_id == Client.id)
        unknown = [phone for phone in some if phone not in found]
        inherited = db.session.execute(heirs.where(merged.phone.in_(unknown), *is_payer).order_by(Client.id)).all()
        for phone, client in inherited:
            if client not in found.setdefault(str(phone), []):
                found[str(phone)].append(client)
    return found
