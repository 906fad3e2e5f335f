"""What the story is made of: families, and events that happen each at its own moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from crm import clock
from crm.access.models import Branch, User
from crm.audit.origin import acting
from crm.clients.models import Client
from crm.demo.network import DemoNetwork
from crm.ledger.models import Account


@dataclass(eq=False)
class Family:
    """A payer and those he pays for, filled in as the story goes."""

    branch: Branch
    joined_days_ago: int
    payer: Client | None = None
    children: list[Client] = field(default_factory=list)
    deposit: Account | None = None

    @property
    def card(self) -> Client:
        assert self.payer is not None, "the family has not joined yet"
        return self.payer


class Story:
    """Events are noted in any order and happen in the order of their moments."""

    def __init__(self, network: DemoNetwork, chance: random.Random) -> None:
        self.network = network
        self.chance = chance
        self.now = clock.now()
        self._events: list[tuple[datetime, int, User, Callable[[], object]]] = []

    def note(self, branch: Branch, days_ago: int, event: Callable[[], object], *, by: User | None = None) -> None:
        """`event` happens in opening hours `days_ago` days before today at the branch; by: its clerk by default."""
        moment = time(self.chance.randrange(9, 20), self.chance.randrange(60))
        at = clock.at(clock.today(branch) - timedelta(days=days_ago), moment, branch)
        self.note_at(at, by or self.clerk(branch), event)

    def note_at(self, at: datetime, by: User, event: Callable[[], object]) -> None:
        """`event` happens at an instant, and never in the future."""
        self._events.append((min(at, self.now - timedelta(minutes=1)), len(self._events), by, event))

    def tell(self) -> None:
        """Let everything happen. Things of one minute happen in the order they were noted."""
        for at, _order, by, event in sorted(self._events, key=lambda event: event[:2]):
            with clock.frozen(at), acting(by, "demo"):
                event()

    def clerk(self, branch: Branch) -> User:
        return self.network.clerks[branch.id]

    def head(self, branch: Branch) -> User:
        return self.network.heads[branch.id]
