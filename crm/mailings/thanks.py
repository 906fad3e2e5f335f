"""Thanks for a payment: written in the transaction that credits it, once per order, where a template says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

import structlog
from sqlalchemy import func, or_, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.mailing_option import MAILINGS_OFF
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bell import ring
from crm.clients.models import Client
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import reach
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import Message, Template
from crm.mailings.operations import DELIVER, new_message
from crm.mailings.tags import Paid, render, tags_told
from crm.payments.crediting import AFTER_PAYMENT
from crm.payments.models import Payment, PaymentStatus

log = structlog.get_logger()


def thank(payments: Sequence[Payment]) -> None:
    """Queue the thanks for payments of bills: by e-mail, or as an SMS to whoever has a mobile phone and no e-mail.
    Whoever does not take them gets none.

    Money taken at the desk for nothing in particular is thanked for by the slip, and money a person has to look at is
    told of by that person. Bills paid at once are thanked for once, with the whole sum. Neither a text that cannot be
    filled in nor a company that sends no messages ever keeps money from its account.
    """
    asked: dict[int, Payment] = {}
    for payment in payments:
        if payment.bill is not None and payment.attention is None:
            asked.setdefault(payment.order_id or payment.id, payment)
    if not asked:
        return
    templates = {
        template.channel: template for template in db.session.scalars(select(Template).where(Template.is_thanks))
    }
    if not templates:
        return
    keys = {leader: f"thanks:{leader}" for leader in asked}
    thanked = set(db.session.scalars(select(Message.dedupe_key).where(Message.dedupe_key.in_(keys.values()))))
    asked = {leader: payment for leader, payment in asked.items() if keys[leader] not in thanked}
    clients = _clients(asked.values())
    received = _received(asked)
    reached = reach(list(clients.values()), MessageKind.THANKS, [Channel.EMAIL, Channel.SMS])
    asked = dict(sorted(asked.items(), key=lambda found: (found[1].client_id, found[0])))  # as a mailing makes links
    # Nothing is asked of the database between the first of them and the last: they are written together.
    messages = [
        message
        for leader, payment in asked.items()
        if not isinstance(way := reached[payment.client_id], str)  # why not
        and (
            message := _thanks(payment, clients[payment.client_id], way, templates, received[leader], key=keys[leader])
        )
    ]
    if messages:
        db.session.add_all(messages)
        db.session.flush()
        ring(DELIVER)


def _thanks(
    payment: Payment,
    client: Client,
    way: tuple[Channel, str],
    templates: Mapping[Channel, Template],
    received: Decimal,
    *,
    key: str,
) -> Message | None:
    """The message; None when there is no template for how he is reached, or it cannot be written."""
    channel, recipient = way
    if channel not in templates:
        return None
    template = templates[channel]
    paid = Paid(received, payment.account, clock.today(payment.branch))
    try:
        return new_message(
            client,
            channel=template.channel,
            recipient=recipient,
            subject=render(template.subject, client=client, bill=payment.bill, paid=paid, field="subject"),
            body=render(template.body, client=client, bill=payment.bill, paid=paid),
            tags=tags_told(template.subject, template.body),
            dedupe_key=key,
            kind=MessageKind.THANKS,
            bill=payment.bill,
            by=SYSTEM,
        )
    except DomainError as error:
        if error.code != MAILINGS_OFF:
            log.error("thanks_not_written", payment_id=payment.id, template_id=template.id, reason=str(error))
        return None


def _clients(payments: Collection[Payment]) -> dict[int, Client]:
    """Who has paid, by id; out of sight of the clerk who takes the money, too: cards of two branches may be merged."""
    query = select(Client).where(Client.id.in_({payment.client_id for payment in payments}))
    with scoped_to(EVERYWHERE):
        return {client.id: client for client in db.session.scalars(query)}


def _received(leaders: Collection[int]) -> dict[int, Decimal]:
    """What has come of the orders of these payments, by their first: all its bills together."""
    leader = func.coalesce(Payment.order_id, Payment.id)
    query = (
        select(leader, func.sum(Payment.amount))
        .where(or_(Payment.id.in_(leaders), Payment.order_id.in_(leaders)), Payment.status == PaymentStatus.SUCCEEDED)
        .group_by(leader)
    )
    return {row[0]: row[1] for row in db.session.execute(query)}


AFTER_PAYMENT.append(thank)
