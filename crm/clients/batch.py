"""Many cards at once (imports): the same rules as create_client(), in a few statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from flask_babel import gettext as _

from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.clients.models import Client
from crm.clients.operations import ClientFacts, new_client, set_facts
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.errors import DomainError
from crm.fields.queries import Definitions
from crm.phones import format_phone


class NewClient:
    """A card to be, as create_client() takes it."""

    def __init__(self, *, branch: Branch, payer: Client | None = None, **facts: Unpack[ClientFacts]) -> None:
        self.branch, self.payer, self.facts = branch, payer, facts


def create_clients(cards: Sequence[NewClient], *, by: Actor) -> list[Client]:
    """Add the cards, in order, by one flush. Raises DomainError for the first that is refused. The caller commits."""
    require(by, "client.create")
    definitions = Definitions("client")
    made = [new_client(card.branch, card.payer, card.facts, definitions) for card in cards]
    phones = [client.phone for client in made if client.phone and client.is_payer]
    taken = {phone: payer.shown_name for phone, (payer, *_others) in payers_by_phone(phones).items()}
    for client in made:
        if not client.phone or not client.is_payer:
            continue
        if client.phone in taken:
            raise DomainError(
                "phone_taken",
                _(
                    "%(phone)s already belongs to the client %(name)s.",
                    phone=format_phone(client.phone),
                    name=taken[client.phone],
                ),
                "phone",
            )
        taken[client.phone] = client.shown_name
    db.session.add_all(made)
    db.session.flush()
    return made


def edit_clients(changes: Sequence[tuple[Client, ClientFacts]], *, by: Actor) -> None:
    """Change cards by one flush; none of them its main phone. Raises DomainError for the first that is refused.
    The caller commits.
    """
    definitions = Definitions("client")
    for client, facts in changes:
        require(by, "client.edit", client)
        set_facts(client, facts, definitions)
    db.session.flush()
