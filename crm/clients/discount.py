"""A client's own discount: money let off every subscription sold to him from now on."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.clients.models import Client, ClientStatus
from crm.db import MAX_AMOUNT, db
from crm.db import amount as to_amount
from crm.errors import DomainError

LONGEST_REASON = 500


def set_discount(client: Client, *, amount: Decimal, reason: str, by: Actor) -> Client:
    """Let `amount` off every subscription sold to the client from now on, for a reason (a large family, say), in place
    of the discount he had. The caller commits.

    Raises DomainError beside `amount` or `reason`, "client_archived".
    """
    require(by, "client.discount", client)
    amount = to_amount(amount)
    if not 0 < amount <= MAX_AMOUNT:
        raise DomainError("amount_invalid", _("Enter a sum above zero and not above 100 000 000."), "amount")
    reason = " ".join(reason.split())
    if not reason:
        raise DomainError("reason_empty", _("Enter the reason."), "reason")
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
    _lock(client)
    client.discount, client.discount_reason = amount, reason[:LONGEST_REASON]
    db.session.flush()
    return client


def remove_discount(client: Client, *, by: Actor) -> Client:
    """Let nothing off any more; what was sold stays as it is. The caller commits. Raises DomainError "no_discount"."""
    require(by, "client.discount", client)
    _lock(client)
    if not client.discount:
        raise DomainError("no_discount", _("The client has no discount."))
    client.discount, client.discount_reason = Decimal(0), ""
    db.session.flush()
    return client


def _lock(client: Client) -> None:
    db.session.execute(select(Client.id).where(Client.id == client.id).with_for_update(key_share=True))
    db.session.refresh(client)
