"""The password of a client's personal cabinet: made, and checked."""

from __future__ import annotations

import secrets
from datetime import timedelta
from math import ceil

from flask_babel import ngettext
from sqlalchemy import select

from crm import clock
from crm.access.operations import hash_password, is_password_of
from crm.clients.models import Client
from crm.contacts.models import ClientPassword
from crm.db import db
from crm.errors import DomainError

# Without those that look alike (0 and o, 1 and l): it is read from a phone and typed by hand.
_SIGNS = "23456789abcdefghjkmnpqrstuvwxyz"
LENGTH = 10  # 49 bits
PAUSE = timedelta(minutes=1)


def renew_password(client: Client) -> str:
    """Give the client a new password and say which: it can be read nowhere afterwards, and the former one is of no use
    any more. The caller has asked whether he may, sends it in the same transaction, and commits.

    Raises DomainError "too_soon" less than PAUSE after the last.
    """
    # Two who ask at once come one after the other.
    db.session.execute(select(Client.id).where(Client.id == client.id).with_for_update(key_share=True))
    kept = _of(client)
    now = clock.now()
    if kept is not None and kept.changed_at > now - PAUSE:
        left = ceil((kept.changed_at + PAUSE - now).total_seconds())
        raise DomainError(
            "too_soon",
            ngettext(
                "A password has just been sent. Another one can be sent in %(num)s second.",
                "A password has just been sent. Another one can be sent in %(num)s seconds.",
                left,
            ),
        )
    password = "".join(secrets.choice(_SIGNS) for _sign in range(LENGTH))
    if kept is None:
        kept = ClientPassword(client_id=client.id)
        db.session.add(kept)
    kept.password_hash, kept.changed_at = hash_password(password), now
    db.session.flush()
    return password


def check_password(client: Client, password: str) -> bool:
    """Whether it is the client's; takes as long for one who has none. Whoever asks counts the tries."""
    kept = _of(client)
    return is_password_of(kept.password_hash if kept is not None else "", password)


def has_password(client: Client) -> bool:
    return _of(client) is not None


def _of(client: Client) -> ClientPassword | None:
    query = select(ClientPassword).where(ClientPassword.client_id == client.id)
    return db.session.scalar(query.execution_options(populate_existing=True))
