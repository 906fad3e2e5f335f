"""Verbs on contacts: channels switched on, off, linked and detached; kinds of messages allowed and forbidden.

What was done is told in the history of the client's card.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Any

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from crm import clock
from crm.access.actors import SYSTEM, Actor, System, require
from crm.audit.models import AuditAction
from crm.audit.operations import record
from crm.clients.models import Client
from crm.contacts.models import Channel, Contact, ContactLink, MessageChoice, MessageKind
from crm.contacts.queries import ChoiceState, ContactState, choices_of, client_by_token, ways_of
from crm.db import db
from crm.errors import DomainError

# Who acts where a client does it himself: on his page of messages, or in a bot.
CLIENT = System("client")


def set_contact(client: Client, channel: Channel, is_on: bool, *, by: Actor) -> Contact:
    """Switch a channel of the client on or off. The caller commits.

    Raises DomainError "not_linked" for one he has to link himself to first.
    """
    require(by, "client.edit", client)
    contact, before = _locked(client, channel), _state(client, channel)
    if channel.is_linked and (contact is None or not contact.address):
        raise _not_linked(channel)
    if contact is None:
        contact = Contact(client_id=client.id, channel=channel, address="")
        db.session.add(contact)
    elif contact.is_on is is_on and (channel.is_linked or not contact.address):
        return contact
    if not channel.is_linked:
        contact.address = ""  # what came back from there is settled by who says this
    contact.is_on, contact.changed_at = is_on, clock.now()
    _note_contact(client, channel, before, by)
    return contact


def note_returned(client: Client, address: str) -> bool:
    """Write no more to the client's e-mail while it is `address`, which letters come back from: until his card has
    another, or somebody switches it on. False where there is nothing to change. The caller commits.
    """
    contact, before = _locked(client, Channel.EMAIL), _state(client, Channel.EMAIL)
    if before is not ContactState.ON or (client.email or "").lower() != address.lower():
        return False
    if contact is None:
        contact = Contact(client_id=client.id, channel=Channel.EMAIL)
        db.session.add(contact)
    contact.address, contact.is_on, contact.changed_at = address, False, clock.now()
    _note_contact(client, Channel.EMAIL, before, SYSTEM)
    return True


def detach_contact(client: Client, channel: Channel, *, by: Actor) -> None:
    """Forget where a channel reaches the client, until he links himself anew. The caller commits.

    Raises DomainError "not_linked"; "by_card" for a channel that goes by the e-mail or the phone of the card: it can be
    switched off.
    """
    require(by, "client.edit", client)
    if not channel.is_linked:
        raise DomainError(
            "by_card", _("%(channel)s goes by what the card says. Switch it off instead.", channel=channel.label)
        )
    contact, before = _locked(client, channel), _state(client, channel)
    if contact is None or not contact.address:
        raise _not_linked(channel)
    db.session.delete(contact)
    _note_contact(client, channel, before, by)


def link_contact(token: str, channel: Channel, address: str) -> Client | None:
    """Connect whose page of messages has `token` over a channel: what a bot does when he comes to it. Linked once more,
    it is on again, at the new address. None when there is no such page. The caller commits.
    """
    client = client_by_token(token)
    if client is None or not channel.is_linked or not address:
        return None
    contact, before = _locked(client, channel), _state(client, channel)
    if contact is None:
        contact = Contact(client_id=client.id, channel=channel)
        db.session.add(contact)
    if contact.address != address or contact.is_on is not True:
        contact.address, contact.is_on = address, True
        contact.linked_at = contact.changed_at = clock.now()
        _note_contact(client, channel, before, CLIENT)
    return client


def choose(client: Client, kind: MessageKind, is_allowed: bool, *, by: Actor | None) -> MessageChoice:
    """Note that the client takes a kind of messages, or does not. by: None when he says so himself. The caller commits.

    Raises DomainError "always_sent" for what nobody can refuse.
    """
    if by is not None:
        require(by, "client.edit", client)
    if kind.is_forbidden_by_nobody:
        raise DomainError("always_sent", _("Such messages answer what the client does, and are always sent."))
    _lock(client)
    before = choices_of(client)[kind]
    choice = db.session.scalar(
        select(MessageChoice)
        .where(MessageChoice.client_id == client.id, MessageChoice.kind == kind)
        .execution_options(populate_existing=True)
    )
    if choice is None:
        choice = MessageChoice(client_id=client.id, kind=kind)
        db.session.add(choice)
    elif choice.is_allowed is is_allowed:
        return choice
    choice.is_allowed, choice.decided_at = is_allowed, clock.now()
    choice.decided_by = "" if by is None else str(by.name)
    db.session.flush()
    states = [ChoiceState.ALLOWED.value if taken else ChoiceState.FORBIDDEN.value for taken in (before, is_allowed)]
    record(AuditAction.UPDATE, client, {f"messages_{kind.value}": states}, by=by or CLIENT)
    return choice


def contact_url(client: Client) -> str:
    """Absolute address of the client's page of messages, made at its first use. The caller commits."""
    return contact_urls([client])[client.id]


def contact_urls(clients: Sequence[Client]) -> dict[int, str]:
    """The same of many, by client id, in three statements at most. Two who ask at once get one address."""
    ids = sorted({client.id for client in clients})
    tokens = _tokens(ids)
    missing = [
        {"client_id": id, "token": secrets.token_urlsafe(24), "created_at": clock.now()}
        for id in ids
        if id not in tokens
    ]
    if missing:
        connection = db.session.connection()
        # On a conflict it has waited for whoever was making it, whose token is then read.
        connection.execute(_insert_link(connection.dialect.name), missing)
        tokens = _tokens(ids)
    public_url = current_app.config["SETTINGS"].public_url
    return {id: f"{public_url}/messages/{token}" for id, token in tokens.items()}


def _tokens(ids: Sequence[int]) -> dict[int, str]:
    rows = select(ContactLink.client_id, ContactLink.token).where(ContactLink.client_id.in_(ids))
    return dict(db.session.execute(rows).all())


@cache
def _insert_link(dialect: str) -> Any:
    insert_ = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert_(ContactLink.__table__).on_conflict_do_nothing()  # type: ignore[arg-type]


def _lock(client: Client) -> None:
    """Two who change one client's contacts come one after the other."""
    db.session.execute(select(Client.id).where(Client.id == client.id).with_for_update(key_share=True))


def _locked(client: Client, channel: Channel) -> Contact | None:
    _lock(client)
    rows = select(Contact).where(Contact.client_id == client.id, Contact.channel == channel)
    return db.session.scalar(rows.execution_options(populate_existing=True))


def _state(client: Client, channel: Channel) -> ContactState:
    return next(way.state for way in ways_of(client) if way.channel is channel)


def _note_contact(client: Client, channel: Channel, before: ContactState, by: Actor) -> None:
    db.session.flush()
    states = [before.value, _state(client, channel).value]
    record(AuditAction.UPDATE, client, {f"contact_{channel.value}": states}, by=by)


def _not_linked(channel: Channel) -> DomainError:
    return DomainError("not_linked", _("%(channel)s: the client has not connected it.", channel=channel.label))
