"""Slows down who tries addresses at random. A right link always opens: only wrong ones are counted and refused, so that
somebody behind the same address as a guesser pays his bill undisturbed.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv6Address, ip_address

from sqlalchemy import select

from crm import clock
from crm.access.models import LoginAttempt
from crm.db import db, transaction

MAX_MISSES, WINDOW = 20, timedelta(minutes=10)


def note_miss(address: str) -> int | None:
    """Note a wrong link from a network address. Seconds to wait when there were too many: then nothing is noted any
    more, and somebody who goes on writes nothing. Commits by itself.
    """
    key, now = f"link:{_network(address)}"[:300], clock.now()
    latest = (
        select(LoginAttempt.failed_at)
        .where(LoginAttempt.key == key, LoginAttempt.failed_at > now - WINDOW)
        .order_by(LoginAttempt.failed_at.desc())
        .offset(MAX_MISSES - 1)
        .limit(1)
    )
    if (oldest := db.session.scalar(latest)) is not None:
        return int((oldest + WINDOW - now).total_seconds()) + 1
    with transaction():
        db.session.add(LoginAttempt(key=key, failed_at=now))
    return None


def _network(address: str) -> str:
    """Whom an address belongs to: of IPv6 anybody has a whole /64 of his own."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if isinstance(known, IPv6Address) and known.ipv4_mapped is None:
        return known.exploded[:19]
    return str(getattr(known, "ipv4_mapped", None) or known)
