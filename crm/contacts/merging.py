"""Two cards of one person: what either of them refuses, the one that is left refuses too.

Links stay where they are (STAYS): those in letters sent long ago lead to the card theirs was merged into.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor
from crm.clients.merging import BEFORE_MERGE
from crm.clients.models import Client
from crm.contacts.models import ClientPassword, Contact, MessageChoice
from crm.db import db


def join_contacts(kept: Client, gone: Client, by: Actor) -> None:
    """Leave `gone` no contact, no choice and no password that `kept` has too."""
    own = _by(Contact.client_id, kept, "channel")
    for channel, theirs in _by(Contact.client_id, gone, "channel").items():
        if (mine := own.get(channel)) is None:
            continue
        mine.is_on = mine.is_on and theirs.is_on
        if not mine.address:
            mine.address, mine.linked_at = theirs.address, theirs.linked_at
        mine.changed_at = clock.now()
        db.session.delete(theirs)
    said = _by(MessageChoice.client_id, kept, "kind")
    for kind, other in _by(MessageChoice.client_id, gone, "kind").items():
        if (choice := said.get(kind)) is None:
            continue
        if choice.is_allowed and not other.is_allowed:
            choice.is_allowed, choice.decided_at, choice.decided_by = False, other.decided_at, other.decided_by
        db.session.delete(other)
    passwords = {one.client_id: one for one in db.session.scalars(_passwords(kept, gone))}
    if len(passwords) == 2:
        db.session.delete(passwords[gone.id])
    db.session.flush()


def _passwords(kept: Client, gone: Client) -> Any:
    return select(ClientPassword).where(ClientPassword.client_id.in_([kept.id, gone.id]))


def _by(column: Any, client: Client, key: str) -> dict[Any, Any]:
    return {getattr(row, key): row for row in db.session.scalars(select(column.class_).where(column == client.id))}


BEFORE_MERGE.append(join_contacts)
