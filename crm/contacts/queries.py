"""Whether and where a message reaches a client, and why not: for one, and for hundreds in as many statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask_babel import gettext as _
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import select

from crm.access.models import Branch, Company
from crm.clients.models import Client
from crm.contacts.models import Channel, Contact, ContactLink, MessageChoice, MessageKind
from crm.db import LabelEnum, db

_BY_PHONE = frozenset({Channel.SMS, Channel.WHATSAPP})


class ContactState(LabelEnum):
    """What a channel is to a client. NONE: his card has no address for it, or he has not linked himself."""

    ON = "on", _lp("contact", "On")
    OFF = "off", _lp("contact", "Off")
    NONE = "none", _lp("contact", "Not connected")


class ChoiceState(LabelEnum):
    """What holds of a kind of messages."""

    ALLOWED = "allowed", _lp("messages", "Allowed")
    FORBIDDEN = "forbidden", _lp("messages", "Forbidden")


@dataclass(frozen=True)
class ContactWay:
    """A channel of one client. address: where it reaches him, switched off or not; None: nowhere. is_returned: it is
    off because letters came back from there.
    """

    channel: Channel
    address: str | None
    is_on: bool
    is_returned: bool = False

    @property
    def state(self) -> ContactState:
        if self.address is None:
            return ContactState.NONE
        return ContactState.ON if self.is_on else ContactState.OFF

    @property
    def refusal(self) -> str:
        """Why nothing can be sent there, in words; empty when it can."""
        if self.state is ContactState.ON:
            return ""
        if self.is_returned:
            return _("%(channel)s: letters to this address come back", channel=self.channel.label)
        if self.state is ContactState.OFF:
            return _("%(channel)s: switched off for this client", channel=self.channel.label)
        if self.channel is Channel.EMAIL:
            return _("no e-mail address")
        if self.channel in _BY_PHONE:
            return _("%(channel)s: no mobile phone", channel=self.channel.label)
        return _("%(channel)s: the client has not connected it", channel=self.channel.label)


def address_for(client: Client, channel: Channel) -> str | None:
    """Where messages of a channel reach the client; None when it is off or there is no address."""
    way = _way(client, channel, _contacts([client.id]))
    return way.address if way.state is ContactState.ON else None


def ways_of(client: Client) -> list[ContactWay]:
    """All channels there are, in the order the card shows them."""
    known = _contacts([client.id])
    return [_way(client, channel, known) for channel in Channel]


def choices_of(client: Client) -> dict[MessageKind, bool]:
    """Whether he takes a kind of messages, of all kinds he may refuse."""
    rows = select(MessageChoice.kind, MessageChoice.is_allowed).where(MessageChoice.client_id == client.id)
    said = dict(db.session.execute(rows).all())
    by_default = not _asking_branches([client])
    return {
        kind: said.get(kind, by_default or not kind.is_advertising)
        for kind in MessageKind
        if not kind.is_forbidden_by_nobody
    }


def why_not(client: Client, kind: MessageKind, channel: Channel) -> str:
    """Why a message of this kind is not sent to the client over this channel, in words; empty when it is."""
    found = reach([client], kind, [channel])[client.id]
    return found if isinstance(found, str) else ""


def reach(
    clients: Sequence[Client], kind: MessageKind, channels: Sequence[Channel]
) -> dict[int, tuple[Channel, str] | str]:
    """By client id: the first of `channels` that reaches him and the address there, or why none does, in words.

    Three statements whatever the number of clients, the kind and the channels.
    """
    refused = refusals(clients, kind)
    known = _contacts([client.id for client in clients])
    return {client.id: refused.get(client.id) or _first(client, channels, known) for client in clients}


def refusals(clients: Sequence[Client], kind: MessageKind) -> dict[int, str]:
    """By client id, of those who do not take messages of this kind: why, in words. Two statements at most."""
    if kind.is_forbidden_by_nobody:
        return {}
    ids = [client.id for client in clients]
    rows = select(MessageChoice.client_id, MessageChoice.is_allowed).where(
        MessageChoice.client_id.in_(ids), MessageChoice.kind == kind
    )
    said = dict(db.session.execute(rows).all())
    asking = _asking_branches(clients) if kind.is_advertising else frozenset()
    return {client.id: reason for client in clients if (reason := _refusal(client, kind, said, asking))}


def client_by_token(token: str) -> Client | None:
    """Whose page of messages it is: the card, or the one it was merged into. None for a token there is not."""
    if "\x00" in token:
        return None
    link = db.session.scalar(select(ContactLink).where(ContactLink.token == token))
    return None if link is None else link.client.merged_into or link.client


def _first(
    client: Client, channels: Sequence[Channel], known: Mapping[tuple[int, Channel], tuple[str, bool]]
) -> tuple[Channel, str] | str:
    ways = [_way(client, channel, known) for channel in channels]
    for way in ways:
        if way.address is not None and way.is_on:
            return way.channel, way.address
    return "; ".join(way.refusal for way in ways) or _("No way of sending is chosen.")


def _refusal(client: Client, kind: MessageKind, said: Mapping[int, bool], asking: frozenset[int]) -> str:
    if said.get(client.id) is False:
        return _("the client has forbidden such messages: %(kind)s", kind=kind.label)
    if client.id not in said and client.branch_id in asking:
        return _("the client has not agreed to such messages: %(kind)s", kind=kind.label)
    return ""


def _asking_branches(clients: Sequence[Client]) -> frozenset[int]:
    """Branches among the clients' whose company sends news to those alone who have agreed."""
    rows = (
        select(Branch.id)
        .join(Company, Company.id == Branch.company_id)
        .where(Branch.id.in_({client.branch_id for client in clients}), Company.asks_consent)
    )
    return frozenset(db.session.scalars(rows))


def _contacts(ids: Sequence[int]) -> dict[tuple[int, Channel], tuple[str, bool]]:
    """(address, whether it is on) by client and channel, of what has been said or linked."""
    rows = select(Contact.client_id, Contact.channel, Contact.address, Contact.is_on).where(Contact.client_id.in_(ids))
    return {(id, channel): (address, is_on) for id, channel, address, is_on in db.session.execute(rows)}


def _way(client: Client, channel: Channel, known: Mapping[tuple[int, Channel], tuple[str, bool]]) -> ContactWay:
    linked, is_on = known.get((client.id, channel), ("", True))
    if channel is Channel.PUSH:
        # His browser's subscription is too long for a message's row, and that of the moment of sending counts.
        address: str | None = str(client.id) if linked else ""
    elif channel.is_linked:
        address = linked
    elif channel is Channel.EMAIL:
        address = client.email
        if linked and not is_on:  # for that address alone
            is_on = (address or "").lower() != linked.lower()
            return ContactWay(channel, address or None, is_on, is_returned=bool(address) and not is_on)
    elif channel in _BY_PHONE:
        address = client.mobile_phone
    else:
        address = str(client.id)  # his cabinet: the card itself
    return ContactWay(channel, address or None, is_on)
