"""A made-up network to try Kontora on, and any volume of it to measure Kontora with. Nobody in it exists.

network.py: company, branches, staff, price list; story.py: some months of a small network, lived through the domains'
own operations; volume.py: as much more of the same as is asked for, by bulk INSERT.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.db import db, transaction
from crm.demo.network import build_network, thank_from_now_on
from crm.demo.story import live_story
from crm.demo.volume import add_volume
from crm.errors import DomainError

__all__ = ["Loaded", "load_demo"]

# Beyond either of these, a small story and the rest in bulk.
MANY_CLIENTS, MANY_BILLS = 500, 500


@dataclass(frozen=True)
class Loaded:
    """How many cards (payers and children) and bills there are now."""

    clients: int
    bills: int


def load_demo(*, clients: int = 60, bills: int = 60, seed: int = 1) -> Loaded:
    """Fill an empty database; the same seed makes the same people and sums, dated back from now. Commits by itself.

    Raises DomainError "not_empty" where there are users already: demo logins do not belong among real ones.
    """
    bills = bills if clients else 0
    is_bulk = clients > MANY_CLIENTS or bills > MANY_BILLS
    lived = Loaded(min(60, clients // 2), min(60, bills)) if is_bulk else Loaded(clients, bills)
    chance = random.Random(seed)  # noqa: S311 - made-up people, not keys
    with scoped_to(EVERYWHERE), acting(SYSTEM, "demo"):
        with transaction():
            if db.session.scalar(select(User.id).limit(1)) is not None:
                raise DomainError("not_empty", _("There are users in this database; demo data goes into an empty one."))
            network = build_network()
            live_story(network, clients=lived.clients, bills=lived.bills, chance=chance)
            thank_from_now_on()
        if is_bulk:
            add_volume(network, clients=clients - lived.clients, bills=bills - lived.bills, chance=chance)
    return Loaded(clients, bills)
