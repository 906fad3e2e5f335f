"""«Выслать пароль повторно»: a new password of the personal cabinet goes to the client by SMS or by e-mail."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from flask_babel import force_locale
from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.access.mailing_option import check_mailings
from crm.bell import ring
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.contacts.models import Channel, MessageKind
from crm.contacts.passwords import has_password, renew_password
from crm.db import db
from crm.errors import DomainError
from crm.mailings.delivery import landline_text, move_message
from crm.mailings.models import HIDDEN, PASSWORD_KEY, Message, MessageStatus
from crm.mailings.operations import DELIVER, new_message
from crm.mailings.providers import channels_of
from crm.mailings.tags import LETTER_LANGUAGE
from crm.phones import is_landline

WAYS = (Channel.SMS, Channel.EMAIL)


def send_password(client: Client, channel: Channel, *, by: Actor) -> Message:
    """Give whoever pays for the client, whose the cabinet is, a new password and queue it by SMS, which costs what the
    provider takes, or by e-mail, which is free. An earlier one that has not left yet is not sent any more. Where the
    company has WhatsApp, an SMS goes over it. The caller commits.

    Raises DomainError "mailings_off", "no_email", "no_phone", "phone_landline", "too_soon".
    """
    if channel not in WAYS:
        raise ValueError(f"passwords are not sent over {channel}")
    payer = payer_of(client)
    require(by, "message.send", payer)
    check_mailings(payer.branch_id)
    if channel is Channel.SMS:
        used, recipient = channels_of(payer.branch.company_id, channel)[0], _phone(payer)
    elif payer.email:
        used, recipient = channel, payer.email
    else:
        raise DomainError("no_email", _("This client has no e-mail address."))
    is_first = not has_password(payer)
    password = renew_password(payer)
    _give_up(_waiting(payer))
    with force_locale(LETTER_LANGUAGE):
        company = payer.branch.company.name
        subject = _("Password of the personal cabinet: %(company)s", company=company)
        if is_first:
            body = _("%(company)s: your password of the personal cabinet is %(password)s", **_of(company))
        else:
            body = _("%(company)s: your new password of the personal cabinet is %(password)s", **_of(company))
    message = new_message(
        payer,
        channel=used,
        kind=MessageKind.SERVICE,
        recipient=recipient,
        subject=subject if used is Channel.EMAIL else "",
        body=body,
        dedupe_key=f"{PASSWORD_KEY}{uuid.uuid4()}",
        by=by,
    )
    message.secret = password
    db.session.add(message)
    db.session.flush()
    ring(DELIVER)
    return message


def _of(company: str) -> dict[str, str]:
    return {"company": company, "password": HIDDEN}


def _phone(client: Client) -> str:
    phone = client.mobile_phone
    if phone is None and (found := client.phone or client.extra_phone) and is_landline(found):
        raise DomainError("phone_landline", landline_text())
    if phone is None:
        raise DomainError("no_phone", _("This client has no mobile phone."))
    return phone


def _waiting(client: Client) -> list[Message]:
    """Passwords of the client that have not left."""
    query = select(Message).where(
        Message.client_id == client.id,
        Message.dedupe_key.startswith(PASSWORD_KEY, autoescape=True),
        Message.status == MessageStatus.PENDING,
    )
    return list(db.session.scalars(query.order_by(Message.id)))


def _give_up(messages: Iterable[Message]) -> None:
    for message in messages:
        reason = _("A newer password has been sent.")
        move_message(message.id, MessageStatus.PENDING, MessageStatus.SKIPPED, secret=None, error=reason)
