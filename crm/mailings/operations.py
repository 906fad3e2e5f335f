"""Verbs on messages: written by hand, queued, sent again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from flask_babel import gettext as _

from crm import clock
from crm.access.actors import Actor, require
from crm.access.mailing_option import check_mailings
from crm.bell import ring
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, PhoneKind
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.mailings.channels.sms import SmsLength, sms_length
from crm.mailings.delivery import landline_text, move_message
from crm.mailings.models import MailingRun, Message, MessageStatus
from crm.mailings.tags import render
from crm.phones import is_landline

# The names of jobs/tasks.py these operations ring for.
EXECUTE_RUN = "mailings.execute_run"
DELIVER = "mailings.deliver"


# --- messages --------------------------------------------------------------------------------------------------------

# More are too dear to be sent by a slip of the hand, and SMS.RU takes no more.
MAX_SMS_PARTS = 8


@dataclass(frozen=True)
class Draft:
    """A message as the client will get it. length: of an SMS."""

    channel: Channel
    recipient: str
    subject: str
    body: str
    length: SmsLength | None


def address_of(client: Client, channel: Channel) -> str | None:
    """Where messages of a channel reach the client: his e-mail, or his first mobile phone; None when he has none."""
    return client.email if channel is Channel.EMAIL else client.mobile_phone


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

    subject: of a letter; an SMS has none. phone: which of the client's an SMS goes to, his first mobile one by default.
    bill: gives the bill's tags their values; without it such tags are refused.
    Raises DomainError beside `subject`, `text` or `bill`; "mailings_off", "no_email", "no_phone", "phone_not_mobile"
    above the form.
    """
    require(by, "message.send", client)
    check_mailings(bill.branch_id if bill else client.branch_id)
    if channel is Channel.EMAIL:
        if not client.email:
            raise DomainError("no_email", _("This client has no e-mail address."))
        recipient = client.email
    else:
        recipient = _mobile(client, phone)
    if bill is not None:
        _check_bill(bill, client)
    if channel is Channel.EMAIL and not subject.strip():
        raise DomainError("subject_empty", _("Enter the subject of the letter."), "subject")
    if not text.strip():
        raise DomainError("text_empty", _("Enter the text of the message."), "text")
    body = render(text.strip(), client=client, bill=bill, field="text")
    length = None
    if channel is Channel.SMS:
        body = body.replace("\r\n", "\n")
        length = sms_length(body)
        if length.parts > MAX_SMS_PARTS:
            raise DomainError(
                "sms_too_long",
                _("This text takes %(parts)s SMS; %(most)s at most are sent.", parts=length.parts, most=MAX_SMS_PARTS),
                "text",
            )
        subject = ""
    else:
        subject = " ".join(render(subject, client=client, bill=bill, field="subject").split())[:500]
    return Draft(channel, recipient, subject, body, length)


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
    message = queue_message(
        client,
        channel=draft.channel,
        recipient=draft.recipient,
        subject=draft.subject,
        body=draft.body,
        dedupe_key=f"manual:{uuid.uuid4()}",
        bill=bill,
        by=by,
    )
    ring(DELIVER)
    return message


def queue_message(
    client: Client,
    *,
    recipient: str,
    body: str,
    dedupe_key: str,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    subject: str = "",
    bill: Bill | None = None,
    run: MailingRun | None = None,
) -> Message:
    """Write the outbox row of a ready message in the caller's transaction, as new_message() makes it; the caller
    rings.
    """
    message = new_message(
        client,
        recipient=recipient,
        body=body,
        dedupe_key=dedupe_key,
        by=by,
        channel=channel,
        subject=subject,
        bill=bill,
        run=run,
    )
    db.session.add(message)
    db.session.flush()
    return message


def new_message(
    client: Client,
    *,
    recipient: str,
    body: str,
    dedupe_key: str,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    subject: str = "",
    bill: Bill | None = None,
    run: MailingRun | None = None,
) -> Message:
    """The outbox row of a ready message, for the caller to add, with others at once.

    Every message goes through here, by hand or not: whether a company may send any at all is asked in this place.
    Raises DomainError "mailings_off" before anything is written.
    """
    check_mailings(bill.branch_id if bill else client.branch_id)
    now = clock.now()
    return Message(
        branch_id=bill.branch_id if bill else client.branch_id,
        channel=channel,
        client_id=client.id,
        bill_id=bill.id if bill else None,
        run_id=run.id if run else None,
        recipient=recipient,
        subject=" ".join(subject.split())[:500],
        body=body,
        dedupe_key=dedupe_key,
        next_try_at=now,
        created_at=now,
        author_id=by.id,
        author_name=str(by.name),
    )


def resend_messages(messages: Sequence[Message], *, by: Actor) -> int:
    """Queue letters that failed, or whose fate is unknown, once more: a person's decision. How many were queued.

    Raises DomainError "mailings_off". The caller commits.
    """
    queued = 0
    for message in messages:
        require(by, "message.send", message)
        check_mailings(message.branch_id)
        if message.status in (MessageStatus.FAILED, MessageStatus.UNKNOWN):
            queued += move_message(
                message.id, message.status, MessageStatus.PENDING, attempts=0, next_try_at=clock.now(), error=""
            )
            db.session.refresh(message)
    if queued:
        ring(DELIVER)
    return queued
