"""Many cards at once (imports): the same rules as create_client(), in a few statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from flask_babel import gettext as _

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.clients.models import Client
from crm.clients.operations import check_payer, set_fields
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.errors import DomainError, Forbidden
from crm.phones import format_phone


@dataclass(frozen=True)
class NewClient:
    """A card to be, as create_client() takes it."""

    branch: Branch
    name: str
    phone: str = ""
    extra_phone: str = ""
    email: str = ""
    birth_date: date | None = None
    comment: str = ""
    payer: Client | None = None


def create_clients(cards: Sequence[NewClient], *, by: Actor) -> list[Client]:
    """Add the cards, in order, by one flush. Raises DomainError for the first that is refused. The caller commits."""
    require(by, "client.create")
    made, now = [], clock.now()
    for card in cards:
        if not current_scope().covers(card.branch.id):
            raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
        check_payer(card.payer, card.branch)
        client = Client(branch_id=card.branch.id, created_at=now, payer_id=card.payer.id if card.payer else None)
        set_fields(
            client,
            name=card.name,
            phone=card.phone,
            extra_phone=card.extra_phone,
            email=card.email,
            birth_date=card.birth_date,
            comment=card.comment,
        )
        made.append(client)
    phones = [client.phone for client in made if client.phone and client.is_payer]
    taken = {phone: payer.name for phone, (payer, *_others) in payers_by_phone(phones).items()}
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
        taken[client.phone] = client.name
    db.session.add_all(made)
    db.session.flush()
    return made
