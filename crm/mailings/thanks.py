"""Thanks for a payment: written in the transaction that credits it, once per order, where a template says so."""

from __future__ import annotations

from decimal import Decimal

import structlog
from sqlalchemy import func, or_, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.mailing_option import MAILINGS_OFF
from crm.bell import ring
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import Message, Template
from crm.mailings.operations import DELIVER, address_of, queue_message
from crm.mailings.tags import Paid, render
from crm.payments.crediting import AFTER_PAYMENT
from crm.payments.models import Payment, PaymentStatus

log = structlog.get_logger()


def thank(payment: Payment) -> None:
    """Queue the thanks for a bill's payment: by e-mail, or as an SMS to whoever has a mobile phone and no e-mail.

    Money taken at the desk for nothing in particular is thanked for by the slip, and money a person has to look at is
    told of by that person. Bills paid at once are thanked for once, with the whole sum. Neither a text that cannot be
    filled in nor a company that sends no messages ever keeps money from its account.
    """
    if payment.bill is None or payment.attention is not None:
        return
    leader = payment.order_id or payment.id
    key = f"thanks:{leader}"
    if db.session.scalar(select(Message.id).where(Message.dedupe_key == key)) is not None:
        return
    client = db.session.get_one(Client, payment.client_id)
    found = _template_for(client)
    if found is None:
        return
    template, recipient = found
    paid = Paid(_received(leader), payment.account, clock.today(payment.branch))
    try:
        subject = render(template.subject, client=client, bill=payment.bill, paid=paid, field="subject")
        body = render(template.body, client=client, bill=payment.bill, paid=paid)
        queue_message(
            client,
            channel=template.channel,
            recipient=recipient,
            subject=subject,
            body=body,
            dedupe_key=key,
            bill=payment.bill,
            by=SYSTEM,
        )
    except DomainError as error:
        if error.code != MAILINGS_OFF:
            log.error("thanks_not_written", payment_id=payment.id, template_id=template.id, reason=str(error))
        return
    ring(DELIVER)


def _template_for(client: Client) -> tuple[Template, str] | None:
    """The template that thanks him and the address it goes to; None when there is no such template or no address."""
    query = select(Template).where(Template.is_thanks)
    templates = {template.channel: template for template in db.session.scalars(query)}
    if address := address_of(client, Channel.EMAIL):
        return (templates[Channel.EMAIL], address) if Channel.EMAIL in templates else None
    address = address_of(client, Channel.SMS)
    return (templates[Channel.SMS], address) if address and Channel.SMS in templates else None


def _received(leader: int) -> Decimal:
    """What has come of the order of this payment, all its bills together."""
    of_order = or_(Payment.id == leader, Payment.order_id == leader)
    query = select(func.sum(Payment.amount)).where(of_order, Payment.status == PaymentStatus.SUCCEEDED)
    return db.session.scalars(query).one()


AFTER_PAYMENT.append(thank)
