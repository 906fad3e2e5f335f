"""What services tell by their webhooks: a message delivered, read or not; a client who has come to a bot or left it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from flask_babel import force_locale
from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.models import Branch
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.contacts.operations import link_contact
from crm.contacts.queries import client_by_token
from crm.db import db
from crm.mailings.channels import telegram, viber, whatsapp
from crm.mailings.channels.hearing import Gone, Heard, HearingRefused, Linked, News, Told
from crm.mailings.delivery import LEASE, fail_later, move_message
from crm.mailings.models import MESSAGE_MOVES, Message, MessageStatus, Provider, ProviderKind
from crm.mailings.providers import detach_address, webhook_secret
from crm.mailings.tags import LETTER_LANGUAGE

# No service takes longer to say under which number it has taken a message, nor goes its clock more wrong.
EARLY = timedelta(minutes=2)

log = structlog.get_logger()

_STATUSES = {
    News.DELIVERED: MessageStatus.DELIVERED,
    News.READ: MessageStatus.READ,
    News.FAILED: MessageStatus.FAILED,
}


class HeardTooEarly(Exception):
    """It may be of a message that has just been handed over and whose number is not noted yet: the service is asked to
    tell it again.
    """


def provider_of(token: str) -> Provider | None:
    """Whose callbacks come to the address with `token`; None: nobody's."""
    if "\x00" in token:
        return None
    return db.session.scalar(select(Provider).where(Provider.token == token))


def read_callback(provider: Provider, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Do what a service tells us, however often it tells it, and give what it is answered. headers: lower case.

    Raises HearingRefused for what is not the service's, HeardTooEarly: nothing of it has been done. The caller commits.
    """
    answer: dict[str, Any] = {}
    for heard in _hear(provider, headers, body):
        if isinstance(heard, Told):
            _note(provider, heard)
        elif isinstance(heard, Gone):
            detach_address(provider.channel, heard.address, provider.company_id)
        else:
            answer = _greet(provider, heard)
    return answer


def _hear(provider: Provider, headers: dict[str, str], body: bytes) -> list[Heard]:
    if not provider.secret:  # an empty key signs anything
        raise HearingRefused("no key")
    if provider.kind is ProviderKind.TELEGRAM:
        return telegram.hear(headers, body, secret=webhook_secret(provider))
    if provider.kind is ProviderKind.VIBER:
        return viber.hear(headers, body, token=provider.secret)
    if provider.kind is ProviderKind.WHATSAPP:
        return whatsapp.hear(body)
    raise HearingRefused("this provider tells nothing")


def _of_company(provider: Provider) -> Any:
    return select(Branch.id).where(Branch.company_id == provider.company_id)


def _note(provider: Provider, told: Told) -> None:
    """Move the message where its status allows: what comes late or twice changes nothing. What is of nobody's message
    is not ours (staff write by the same phone, say), unless one is being sent at this moment.
    """
    status = _STATUSES[told.news]
    query = select(Message.id, Message.status).where(
        Message.external_id == told.external_id,
        Message.external_id != "",
        Message.channel == provider.channel,
        Message.branch_id.in_(_of_company(provider)),
    )
    found = db.session.execute(query.order_by(Message.id)).all()
    if not found and _may_be_early(provider, told):
        raise HeardTooEarly(told.external_id)
    for message_id, old in found:
        if status is MessageStatus.FAILED:
            fail_later(db.session.get_one(Message, message_id, populate_existing=True), told.reason)
        elif status in MESSAGE_MOVES.get(old, frozenset()):
            move_message(message_id, old, status, error="")


def _may_be_early(provider: Provider, told: Told) -> bool:
    """Whether it may be of a message that was handed over a moment ago and before the service tells this to have
    happened, whose number will be noted in a moment.
    """
    now = clock.now()
    at = now if told.at is None else min(told.at, now)
    if at < now - 2 * EARLY:
        return False
    query = select(Message.id).where(
        Message.status == MessageStatus.SENDING,
        Message.channel == provider.channel,
        Message.branch_id.in_(_of_company(provider)),
        # begun then
        Message.lease_until > now - EARLY + LEASE,
        Message.lease_until < at + EARLY + LEASE,
    )
    return db.session.scalar(query.limit(1)) is not None


def _greet(provider: Provider, linked: Linked) -> dict[str, Any]:
    """Link whose token it is, a client of the bot's company, and say so in the chat."""
    client = client_by_token(linked.token) if linked.token else None
    is_ours = client is not None and _is_of(client, provider)
    if is_ours:
        link_contact(linked.token, provider.channel, linked.address)
    elif not linked.token and provider.channel is Channel.VIBER:
        return {}  # he has subscribed: linked already, or a passer-by
    with force_locale(LETTER_LANGUAGE):
        if not is_ours:
            text = _("Open the link of your page of messages: by it the bot learns who you are.")
        elif provider.channel is Channel.VIBER:
            text = _(
                "Done. Write anything here, so that Viber lets messages of “%(company)s” through.",
                company=provider.company.name,
            )
        else:
            text = _(
                "Done: messages of “%(company)s” will come here. To stop them, write /stop.",
                company=provider.company.name,
            )
    if provider.channel is Channel.TELEGRAM:
        return telegram.reply(linked.address, text)
    return viber.reply(provider.sender or provider.company.name, text)


def _is_of(client: Client, provider: Provider) -> bool:
    return client.branch.company_id == provider.company_id
