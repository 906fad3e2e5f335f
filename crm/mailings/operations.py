"""Verbs on messages: written by hand, queued, sent again."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.mailing_option import check_mailings
from crm.access.models import Branch
from crm.bell import ring
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, PhoneKind
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import ContactWay, refusals, ways_of
from crm.db import db
from crm.errors import DomainError
from crm.mailings.channels import telegram, viber, whatsapp
from crm.mailings.channels.sms import SmsLength, sms_length
from crm.mailings.delivery import AFTER_FAILURE, landline_text, move_message
from crm.mailings.models import Message, MessageStatus, Provider
from crm.mailings.providers import channels_of, push_key
from crm.mailings.tags import check_seen, hidden_tags, render, tags_told
from crm.phones import is_landline

# The names of jobs/tasks.py these operations ring for.
EXECUTE_RUN = "mailings.execute_run"
DELIVER = "mailings.deliver"


# --- messages --------------------------------------------------------------------------------------------------------

# More are too dear to be sent by a slip of the hand, and SMS.RU takes no more.
MAX_SMS_PARTS = 8


# Of messengers, in UTF-16 units: who sends more is refused by them.
_LONGEST = {
    Channel.TELEGRAM: telegram.MAX_LENGTH,
    Channel.VIBER: viber.MAX_LENGTH,
    Channel.WHATSAPP: whatsapp.MAX_LENGTH,
}
_BY_PHONE = frozenset({Channel.SMS, Channel.WHATSAPP})


# Begins the dedupe_key of messages that were written as SMS, whatever they go over.
_SMS_BY_HAND = "manual:sms:"


@dataclass(frozen=True)
class Draft:
    """A message as the client will get it. chosen: the type of message it was written as; channel: what it really goes
    over. length: of an SMS. tags: those it was filled in from.
    """

    chosen: Channel
    channel: Channel
    kind: MessageKind
    recipient: str
    subject: str
    body: str
    length: SmsLength | None
    tags: Sequence[str] = ()


def address_of(client: Client, channel: Channel) -> str | None:
    """Where messages of a channel reach the client: his e-mail, or his first mobile phone; None when he has none."""
    return client.email if channel is Channel.EMAIL else client.mobile_phone


@dataclass(frozen=True)
class Routes:
    """Where messages written to one client go. connected: the channels his company has; instead: what an SMS goes over,
    in the order they are tried.
    """

    client: Client
    ways: Mapping[Channel, ContactWay]
    connected: frozenset[Channel]
    instead: Sequence[Channel]

    def find(self, channel: Channel, phone: str | None = None) -> tuple[Channel, str]:
        """What a message of the type `channel` really goes over, and the recipient there. phone: which of the client's
        an SMS goes to, his first mobile one by default.

        Raises DomainError: "channel_not_set", "channel_off", "not_linked", "no_email", "no_phone", "phone_not_mobile",
        "phone_landline", "phone_foreign".
        """
        if channel not in self.connected:
            raise DomainError("channel_not_set", _("The provider of “%(way)s” is not connected.", way=channel.label))
        for used in self.instead if channel is Channel.SMS else [channel]:
            way = self.ways[used]
            if used in _BY_PHONE and way.is_on:
                return used, _mobile(self.client, phone)
            if used not in _BY_PHONE and way.address is not None and way.is_on:
                return used, way.address
        way = self.ways[channel]
        if not way.is_on:
            raise DomainError("channel_off", f"{way.refusal}.")
        if channel is Channel.EMAIL:
            raise DomainError("no_email", _("This client has no e-mail address."))
        raise DomainError("not_linked", _("%(channel)s: the client has not connected it.", channel=channel.label))


def routes_to(client: Client, company_id: int) -> Routes:
    """How messages of a company reach the client, in three statements."""
    query = select(Provider.channel).where(Provider.company_id == company_id, Provider.is_active)
    # Without a provider e-mail and SMS go by the settings of the installation, or wait for them.
    connected = {Channel.EMAIL, Channel.SMS, Channel.CABINET, *db.session.scalars(query)}
    if push_key():
        connected.add(Channel.PUSH)
    ways = {way.channel: way for way in ways_of(client)}
    return Routes(client, ways, frozenset(connected), channels_of(company_id, Channel.SMS, is_personal=True))


def check_taken(client: Client, kind: MessageKind) -> None:
    """Raises DomainError "kind_refused" where the client does not take messages of the kind."""
    if client.id in refusals([client], kind):
        raise DomainError("kind_refused", _refused_text(kind))


def _refused_text(kind: MessageKind) -> str:
    return _(
        "The client takes no messages of the kind “%(kind)s”: so he has chosen, and his card says so.", kind=kind.label
    )


def draft_message_to(
    client: Client,
    *,
    text: str,
    by: Actor,
    subject: str = "",
    channel: Channel = Channel.EMAIL,
    phone: str | None = None,
    bill: Bill | None = None,
) -> Draft:
    """A message by hand with its tags filled in; nothing is written.

    channel: the type of message chosen; an SMS goes to the bot the client has linked himself to, or over WhatsApp,
    where his company has them. subject: of a letter. phone: which of the client's an SMS goes to, his first mobile one
    by default. bill: gives the bill's tags their values; without it such tags are refused, as are those that tell what
    `by` does not see, whoever has written them: he could send them to himself.
    Raises DomainError beside `subject`, `text` or `bill`; above the form "mailings_off", "kind_refused" and those of
    Routes.find().
    """
    require(by, "message.send", client)
    branch = bill.branch if bill else client.branch
    check_mailings(branch.id)
    kind = MessageKind.BILLS if bill else MessageKind.PERSONAL
    check_taken(client, kind)
    used, recipient = routes_to(client, branch.company_id).find(channel, phone)
    if bill is not None:
        _check_bill(bill, client)
    if used is Channel.EMAIL and not subject.strip():
        raise DomainError("subject_empty", _("Enter the subject of the letter."), "subject")
    if not text.strip():
        raise DomainError("text_empty", _("Enter the text of the message."), "text")
    subject, tags = subject if used is Channel.EMAIL else "", tags_told(subject, text)
    if tags:
        hidden = hidden_tags(by)
        check_seen(subject, hidden, field="subject")
        check_seen(text, hidden, field="text")
    body = render(text.strip(), client=client, bill=bill, field="text")
    if used is Channel.EMAIL:
        subject = " ".join(render(subject, client=client, bill=bill, field="subject").split())[:500]
        return Draft(channel, used, kind, recipient, subject, body, None, tags)
    body = body.replace("\r\n", "\n")
    return Draft(channel, used, kind, recipient, "", body, _checked_length(used, body), tags)


def _checked_length(channel: Channel, body: str) -> SmsLength | None:
    """The length of an SMS. Raises DomainError beside `text` for what is too long for its channel."""
    if channel is not Channel.SMS:
        longest = _LONGEST.get(channel)
        if longest is not None and len(body.encode("utf-16-le")) // 2 > longest:
            text = _("%(channel)s takes %(most)s characters at most.", channel=channel.label, most=longest)
            raise DomainError("text_too_long", text, "text")
        return None
    length = sms_length(body)
    if length.parts > MAX_SMS_PARTS:
        raise DomainError(
            "sms_too_long",
            _("This text takes %(parts)s SMS; %(most)s at most are sent.", parts=length.parts, most=MAX_SMS_PARTS),
            "text",
        )
    return length


def _mobile(client: Client, phone: str | None) -> str:
    """The number an SMS goes to. The texts do not name it: not everybody sees phones."""
    phone = phone or client.mobile_phone or client.phone or client.extra_phone
    if not phone:
        raise DomainError("no_phone", _("This client has no phone."))
    kinds = {client.extra_phone: client.extra_phone_kind, client.phone: client.phone_kind}
    if phone not in kinds:
        raise DomainError("phone_foreign", _("This client has another phone by now. Open the form again."))
    if kinds[phone] is not PhoneKind.MOBILE:
        raise DomainError(
            "phone_not_mobile",
            _(
                "SMS are sent only to phones of the type “%(mobile)s”; the type of this one is “%(kind)s”. If it is a "
                "mobile phone, change its type in the client's card.",
                mobile=PhoneKind.MOBILE.label,
                kind=kinds[phone].label,
            ),
        )
    if is_landline(phone):
        raise DomainError("phone_landline", landline_text())
    return phone


def _check_bill(bill: Bill, client: Client) -> None:
    if bill.client_id not in (client.id, client.payer_id):
        raise DomainError("bill_foreign", _("This bill belongs to another client."), "bill")
    if bill.status is BillStatus.ARCHIVED:
        raise DomainError("bill_archived", _("This bill is in the archive: its link leads nowhere."), "bill")
    if bill.link_revoked_at is not None:
        raise DomainError("bill_revoked", _("The link of this bill has been taken back: it leads nowhere."), "bill")


def send_message_to(
    client: Client,
    *,
    text: str,
    by: Actor,
    subject: str = "",
    channel: Channel = Channel.EMAIL,
    phone: str | None = None,
    bill: Bill | None = None,
) -> Message:
    """Queue a message from a client's card, as draft_message_to() shows it. The caller commits."""
    draft = draft_message_to(client, text=text, by=by, subject=subject, channel=channel, phone=phone, bill=bill)
    message = new_message(
        client,
        channel=draft.channel,
        recipient=draft.recipient,
        subject=draft.subject,
        body=draft.body,
        tags=draft.tags,
        dedupe_key=f"{_SMS_BY_HAND if channel is Channel.SMS else 'manual:'}{uuid.uuid4()}",
        kind=draft.kind,
        bill=bill,
        by=by,
    )
    db.session.add(message)
    db.session.flush()
    ring(DELIVER)
    return message


def queue_as_sms(message: Message) -> Message | None:
    """Queue what was written as an SMS and did not get through to a messenger over the next of what SMS go over; None
    when there is none. Once for each of them. The caller commits.
    """
    if not message.dedupe_key.startswith(_SMS_BY_HAND) or message.channel is Channel.SMS:
        return None
    client = message.client
    if client.id in refusals([client], message.kind):
        return None
    routes = routes_to(client, db.session.get_one(Branch, message.branch_id).company_id)
    left = routes.instead[routes.instead.index(message.channel) + 1 :] if message.channel in routes.instead else []
    number = message.recipient if message.channel in _BY_PHONE else None
    try:
        used, recipient = replace(routes, instead=left).find(Channel.SMS, number)
        _checked_length(used, message.body)
        key = f"{message.dedupe_key}:{used.value}"
        if db.session.scalar(select(Message.id).where(Message.dedupe_key == key)) is not None:
            return None
        following = new_message(
            client,
            channel=used,
            kind=message.kind,
            recipient=recipient,
            body=message.body,
            tags=message.tags,
            dedupe_key=key,
            bill=message.bill,
            by=SYSTEM,
        )
    except DomainError:  # there is nothing left, or the company sends nothing any more: it failed
        return None
    following.author_id, following.author_name = message.author_id, message.author_name
    db.session.add(following)
    ring(DELIVER)
    return following


AFTER_FAILURE.append(queue_as_sms)


def new_message(
    client: Client,
    *,
    recipient: str,
    body: str,
    dedupe_key: str,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    kind: MessageKind = MessageKind.PERSONAL,
    subject: str = "",
    bill: Bill | None = None,
    tags: Sequence[str] = (),
) -> Message:
    """The outbox row of a ready message, for the caller to add, with others at once; he rings.

    Every message goes through here, by hand or not: whether a company may send any at all is asked in this place.
    Raises DomainError "mailings_off" before anything is written.
    """
    check_mailings(bill.branch_id if bill else client.branch_id)
    now = clock.now()
    return Message(
        branch_id=bill.branch_id if bill else client.branch_id,
        channel=channel,
        kind=kind,
        client_id=client.id,
        bill_id=bill.id if bill else None,
        recipient=recipient,
        subject=" ".join(subject.split())[:500],
        body=body,
        tags=list(tags),
        dedupe_key=dedupe_key,
        next_try_at=now,
        created_at=now,
        author_id=by.id,
        author_name=str(by.name),
    )


def resend_messages(messages: Sequence[Message], *, by: Actor) -> int:
    """Queue messages that failed, or whose fate is unknown, once more: a person's decision. How many were queued.

    Those of clients who take such messages no more are left out. Raises DomainError "mailings_off"; "kind_refused"
    where only such are left. The caller commits.
    """
    queued, kept = 0, None
    refused = _refused_by(messages)
    for message in messages:
        require(by, "message.send", message)
        check_mailings(message.branch_id)
        if message.is_resendable:
            if (message.client_id, message.kind) in refused:
                kept = message.kind
                continue
            values = {"attempts": 0, "next_try_at": clock.now(), "error": "", "external_id": ""}
            queued += move_message(message.id, message.status, MessageStatus.PENDING, **values)
            db.session.refresh(message)
    if kept is not None and not queued:
        raise DomainError("kind_refused", _refused_text(kept))
    if queued:
        ring(DELIVER)
    return queued


def _refused_by(messages: Sequence[Message]) -> set[tuple[int, MessageKind]]:
    """Who takes what no more, of these messages: (client id, kind)."""
    of_kind: dict[MessageKind, dict[int, Client]] = defaultdict(dict)
    for message in messages:
        of_kind[message.kind][message.client_id] = message.client
    return {(id, kind) for kind, clients in of_kind.items() for id in refusals(list(clients.values()), kind)}
