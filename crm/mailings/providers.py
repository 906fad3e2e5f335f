"""What messages go through: providers of a company kept and connected, and the senders made of them."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.models import Branch, Company
from crm.clients.models import Client
from crm.contacts.models import Channel, Contact
from crm.contacts.operations import detach_contact
from crm.db import MAX_AMOUNT, db, end_reading, transaction
from crm.errors import DomainError
from crm.mailings.channels.base import ChannelNotSet, Fate, Letter, Outcome, Sender
from crm.mailings.channels.push import SERVICES, PushSender, own_key, public_key
from crm.mailings.channels.telegram import TelegramSender
from crm.mailings.channels.viber import ViberSender
from crm.mailings.channels.whatsapp import WazzupSender
from crm.mailings.delivery import BY_PROVIDER, SENDERS
from crm.mailings.models import Provider, ProviderKind

CHANNELS = {
    ProviderKind.HTTP: Channel.SMS,
    ProviderKind.SMSRU: Channel.SMS,
    ProviderKind.TELEGRAM: Channel.TELEGRAM,
    ProviderKind.VIBER: Channel.VIBER,
    ProviderKind.WHATSAPP: Channel.WHATSAPP,
}
# What a provider cannot do without, by name of its option.
_WANTED = {
    ProviderKind.TELEGRAM: "bot",
    ProviderKind.VIBER: "bot",
    ProviderKind.WHATSAPP: "channel",
}
# Those whose calls we hear: of messages, of clients who come to a bot.
HEARD = frozenset({ProviderKind.TELEGRAM, ProviderKind.VIBER, ProviderKind.WHATSAPP})
# Those that write to a phone, so that a test can be sent.
BY_PHONE = frozenset({ProviderKind.HTTP, ProviderKind.SMSRU, ProviderKind.WHATSAPP})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

log = structlog.get_logger()


# --- kept ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProviderFacts:
    """A provider as the form has it; see Provider. secret: "" keeps the present one, at the same server. options:
    `bot`, the name by which clients find a bot of Telegram or Viber; `channel`, the id of Wazzup's; `body`, `ok`, `id`
    of any SMS gateway, as SMS_BODY, SMS_OK and SMS_ID.
    """

    company: Company | None = None
    kind: ProviderKind = ProviderKind.TELEGRAM
    url: str = ""
    secret: str = field(default="", repr=False)
    sender: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    per_minute: int | None = None
    price: Decimal | None = None
    is_active: bool = True


def save_provider(provider: Provider | None, facts: ProviderFacts, *, by: Actor) -> Provider:
    """Connect a company to a service (None) or change how. Raises DomainError beside the field. The caller commits."""
    require(by, "provider.create" if provider is None else "provider.edit")
    company = facts.company
    if company is None:
        raise DomainError("company_empty", _("Choose a company."), "company")
    url, secret, channel = facts.url.strip().rstrip("/"), facts.secret.strip(), CHANNELS[facts.kind]
    options = {
        name: value.strip() if isinstance(value, str) else value for name, value in facts.options.items() if value
    }
    if facts.kind is ProviderKind.HTTP and not url:
        raise DomainError("url_required", _("Enter the address of the gateway."), "url")
    _check_url(url)
    keeps_secret = provider is not None and bool(provider.secret)
    # Another service is not told the key, nor a server that is not the service's own: whoever changes the address would
    # read it there.
    if provider is not None and (
        provider.kind is not facts.kind or (url and _server_of(url) != _server_of(provider.url))
    ):
        keeps_secret = False
    if not secret and not keeps_secret:
        text = _("Enter the key: without it the service does not let us in.")
        raise DomainError("secret_required", text, "secret")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise DomainError("secret_invalid", _("A key is made of Latin letters, digits and signs."), "secret")
    if (wanted := _WANTED.get(facts.kind)) and not options.get(wanted):
        texts = {"bot": _("Enter the name of the bot."), "channel": _("Enter the id of the channel at Wazzup.")}
        raise DomainError(f"{wanted}_required", texts[wanted], wanted)
    if facts.kind is ProviderKind.HTTP:
        _check_body(str(options.get("body", "")), str(options.get("ok", "")))
    if facts.per_minute is not None and facts.per_minute < 1:
        raise DomainError("per_minute_invalid", _("At least one message a minute."), "per_minute")
    if facts.price is not None and not 0 <= facts.price <= MAX_AMOUNT:
        raise DomainError("price_invalid", _("The price is zero or more."), "price")
    taken = select(Provider).where(Provider.company_id == company.id, Provider.channel == channel)
    if any(other is not provider for other in db.session.scalars(taken)):
        text = _("The company has a provider of this channel already: “%(channel)s”.", channel=channel.label)
        raise DomainError("provider_taken", text, "kind")
    provider = provider or Provider(secret=secret, token=secrets.token_urlsafe(32), created_at=clock.now())
    provider.company_id, provider.kind, provider.channel, provider.url = company.id, facts.kind, channel, url
    provider.secret = secret or provider.secret
    provider.sender, provider.options = facts.sender.strip(), options
    provider.per_minute, provider.price, provider.is_active = facts.per_minute, facts.price, facts.is_active
    db.session.add(provider)
    db.session.flush()
    return provider


def _check_url(url: str) -> None:
    if not url:
        return
    try:
        at = urlsplit(url)
        is_safe = at.scheme == "https" or (at.scheme == "http" and at.hostname in _LOOPBACK)
    except ValueError:
        raise DomainError("url_invalid", _("This is no address."), "url") from None
    if not at.hostname or not is_safe:
        text = _("The address begins with https://: over a plain line the key and the texts would be read.")
        raise DomainError("url_invalid", text, "url")


def _server_of(url: str) -> tuple[str, str]:
    """Of an address that has been checked."""
    at = urlsplit(url)
    return at.scheme, at.netloc.lower()


def _check_body(body: str, ok: str) -> None:
    if body.startswith("{"):
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DomainError("body_invalid", _("This is no JSON: %(error)s", error=error), "body") from None
    if body and ("{text}" not in body or not ("{phone}" in body or "{digits}" in body)):
        text = _("The request must hold {text}, and {phone} or {digits}.")
        raise DomainError("body_invalid", text, "body")
    if ok and not (ok.partition("=")[0] and ok.partition("=")[2]):
        raise DomainError("ok_invalid", _("Write it as path=value, for example status=ok."), "ok")


# --- connected -------------------------------------------------------------------------------------------------------


def callback_url(provider: Provider) -> str:
    """Where the service tells what became of messages, and who has come to a bot."""
    return f"{current_app.config['SETTINGS'].public_url}/channels/{provider.token}"


def webhook_secret(provider: Provider) -> str:
    """What Telegram signs its calls with; it goes by the bot's key, so that another bot's are not taken."""
    return sha256(f"{provider.token}:{provider.secret}".encode()).hexdigest()


def connect_provider(provider: Provider) -> str:
    """Have the service call us; what went wrong in words, empty when nothing did. Asks over the network: not within a
    transaction.
    """
    url = callback_url(provider)
    try:
        sender = _MADE[provider.kind](provider) if provider.kind in HEARD else None
    except ChannelNotSet as lack:
        return str(lack)
    hook = webhook_secret(provider)
    end_reading()  # the service takes its time
    try:
        if isinstance(sender, TelegramSender):
            return sender.set_webhook(url, hook)
        return sender.set_webhook(url) if isinstance(sender, (ViberSender, WazzupSender)) else ""
    finally:
        if sender is not None:
            sender.close()


def try_provider(provider: Provider, phone: str) -> Outcome:
    """Send a short text to a phone (E.164) through the service, past the outbox: whether the keys are right. Asks over
    the network: not within a transaction.
    """
    letter = Letter(
        key=f"test:{uuid.uuid4()}",
        sender_name=provider.company.name,
        sender="",
        recipient_name="",
        recipient=phone,
        subject="",
        text=_("A test message of “%(company)s”: the mailing channel works.", company=provider.company.name),
    )
    try:
        sender = BY_PROVIDER[provider.kind](provider)
    except ChannelNotSet as lack:
        return Outcome(Fate.REFUSED, str(lack))
    end_reading()  # the service takes its time
    try:
        return sender.send(letter)
    finally:
        sender.close()


# --- chosen ----------------------------------------------------------------------------------------------------------


def channels_of(company_id: int, channel: Channel, *, is_personal: bool = False) -> list[Channel]:
    """What a message goes over when `channel` was chosen, in the order they are tried: what the company has no provider
    for is left out. SMS go to WhatsApp where the company has it; those written to one client (is_personal) go to the
    bot he has linked himself to.
    """
    if channel is not Channel.SMS:
        return [channel]
    query = select(Provider.channel).where(Provider.company_id == company_id, Provider.is_active)
    there = set(db.session.scalars(query))
    before = [Channel.TELEGRAM, Channel.VIBER, Channel.WHATSAPP] if is_personal else [Channel.WHATSAPP]
    return [*(other for other in before if other in there), Channel.SMS]


# --- opened ----------------------------------------------------------------------------------------------------------


def _telegram(provider: Provider) -> Sender:
    return TelegramSender(_key(provider), provider.url)


def _viber(provider: Provider) -> Sender:
    return ViberSender(_key(provider), provider.url)


def _wazzup(provider: Provider) -> Sender:
    return WazzupSender(_key(provider), str(provider.options.get("channel") or ""), provider.url)


def _key(provider: Provider) -> str:
    """Raises ChannelNotSet: another SECRET_KEY than the one it was kept under reads it as empty."""
    if not provider.secret:
        raise ChannelNotSet(
            _("%(channel)s: the key of the provider has to be entered anew.", channel=provider.channel.label)
        )
    return provider.secret


_MADE: dict[ProviderKind, Callable[[Provider], Sender]] = {
    ProviderKind.TELEGRAM: _telegram,
    ProviderKind.VIBER: _viber,
    ProviderKind.WHATSAPP: _wazzup,
}


class DetachingSender:
    """Sends by another sender; whoever has blocked it is detached, so that his next message goes another way.

    company_id: only its clients, None: any.
    """

    def __init__(self, sender: Sender, channel: Channel, company_id: int | None) -> None:
        self._sender, self._channel, self._company_id = sender, channel, company_id

    def send(self, letter: Letter) -> Outcome:
        outcome = self._sender.send(letter)
        if outcome.is_gone and self._channel.is_linked:
            with transaction():
                detach_address(self._channel, letter.recipient, self._company_id)
        return outcome

    def close(self) -> None:
        self._sender.close()


def detach_address(channel: Channel, address: str, company_id: int | None) -> int:
    """Detach all who are reached at the address (a parent may have several cards). How many. The caller commits."""
    query = (
        select(Client)
        .join(Contact, Contact.client_id == Client.id)
        .where(Contact.channel == channel, Contact.address == address, Contact.address != "")
    )
    if company_id is not None:
        query = query.where(Client.branch_id.in_(select(Branch.id).where(Branch.company_id == company_id)))
    found = list(db.session.scalars(query.order_by(Client.id)))
    for client in found:
        detach_contact(client, channel, by=SYSTEM)
    return len(found)


def _opened(kind: ProviderKind) -> Callable[[Provider], Sender]:
    make = _MADE[kind]
    return lambda provider: DetachingSender(make(provider), provider.channel, provider.company_id)


class BrowserSender:
    """Notices to browsers. Letter.recipient: the client's number; his subscription is too long for a message's row, and
    that of the moment counts.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = DetachingSender(sender, Channel.PUSH, None)

    def send(self, letter: Letter) -> Outcome:
        number = int(letter.recipient) if letter.recipient.isascii() and letter.recipient.isdigit() else 0
        # Of a card that was merged while the message waited the one it was merged into.
        owner = select(func.coalesce(Client.merged_into_id, Client.id)).where(Client.id == number).scalar_subquery()
        query = select(Contact.address).where(
            Contact.channel == Channel.PUSH, Contact.client_id == owner, Contact.is_on
        )
        with transaction():
            address = db.session.scalars(query).one_or_none()
        if not address:
            return Outcome(Fate.REFUSED, _("The client's browser is not connected any more."))
        return self._sender.send(replace(letter, recipient=address))

    def close(self) -> None:
        self._sender.close()


def push_key() -> str:
    """What a browser subscribes with; empty where none can: it wants https://, or its own machine."""
    return public_key(own_key(current_app.config["SETTINGS"].data_dir)) if _can_push() else ""


def _can_push() -> bool:
    settings = current_app.config["SETTINGS"]
    return settings.is_https or urlsplit(settings.public_url).hostname in _LOOPBACK


def _push() -> Sender:
    settings = current_app.config["SETTINGS"]
    if not _can_push():
        raise ChannelNotSet(_("Push notifications need PUBLIC_URL to begin with https://"))
    return BrowserSender(PushSender(own_key(settings.data_dir), settings.public_url, push_services()))


def push_services() -> Sequence[str]:
    """Whose browsers may subscribe: PUSH_SERVICES of the application, where it is set, else those known."""
    return current_app.config.get("PUSH_SERVICES") or SERVICES


BY_PROVIDER.update({kind: _opened(kind) for kind in _MADE})
SENDERS[Channel.PUSH] = _push
