"""What became of online payments: the gateway is asked and believed. The rules are written out in docs/payments.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import func, or_, select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, System
from crm.audit.operations import transition
from crm.db import db, end_reading, transaction
from crm.errors import NotFound
from crm.i18n import money
from crm.payments.crediting import PaidOrder, credit_order, credit_orders, flag, note
from crm.payments.gateways.base import Customer, Gateway, RemotePayment, RemoteStatus
from crm.payments.models import (
    PAYMENT_MOVES,
    Attention,
    GatewayNotice,
    Payment,
    PaymentEventKind,
    PaymentMethod,
    PaymentStatus,
    Refund,
    RefundStatus,
)

_REFERENCE = re.compile(r"payment-([0-9]{1,18})-([0-9a-f]{8})")


def reference_of(payment: Payment) -> str:
    """What the bank is told an order of ours is called, by its first payment; also its idempotence key. The id alone
    would not do: a database made anew or put back from a copy counts from the same number.
    """
    return f"payment-{payment.id}-{payment.nonce}"


def customer_of(payment: Payment) -> Customer:
    """To whom the bank sends the receipt."""
    return Customer(email=payment.client.email or "", phone=payment.client.phone or "")


def accept_notice(gateway: Gateway, external_id: str) -> Payment:
    """A gateway said something about one of its payments, or may have forgotten to: ask it what is true and act on
    that. Returns the first payment of the order. Commits by itself.

    Safe to repeat and to run in parallel: the row locks of the order's payments let one in at a time, a status moves
    once and the ledger key is the payment's id.
    Raises NotFound for a payment we did not start, GatewayError when the bank does not answer.
    """
    end_reading()
    remote = gateway.fetch(external_id)
    with transaction():
        return apply_remote(gateway, remote)


def apply_remote(gateway: Gateway, remote: RemotePayment, *, notice: GatewayNotice | None = None) -> Payment:
    """Act on what the gateway says of its payment. The caller commits. Raises NotFound as accept_notice() does, also
    for a payment begun at another shop.
    """
    payments = _lock_order(gateway, remote)
    leader = payments[0]
    notice_id = notice.id if notice is not None else None
    if leader.external_id != remote.external_id:
        is_paid = remote.status is RemoteStatus.SUCCEEDED
        if is_paid and _has_money(leader):
            leader = _once_more(leader, remote)
            payments = [leader]
        elif is_paid or _is_unnumbered(leader):
            leader.external_id = remote.external_id  # we were killed between asking the bank and noting its answer
        else:  # an order that was given up for the leader's own
            _note_heard(leader, notice)
            return leader
    by = System(gateway.name)
    if remote.status is RemoteStatus.SUCCEEDED:
        if _is_gone(payments, remote):
            _let_go(payments, by=by, notice_id=notice_id)
            return leader
        if leader.status is not PaymentStatus.SUCCEEDED:
            _receive(payments, remote, by=by, notice_id=notice_id)
        elif notice is not None:
            note(leader, PaymentEventKind.REPEATED, notice.event, notice_id=notice_id)
        _look_for_refunds(payments, remote, notice_id=notice_id)
    elif remote.status is RemoteStatus.CANCELED and leader.status is PaymentStatus.PENDING:
        for payment in payments:
            transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=by)
            note(payment, PaymentEventKind.CANCELED, notice_id=notice_id)
    else:
        _note_heard(leader, notice)
    return leader


@dataclass(frozen=True)
class Answer:
    """What a gateway said of its payment when it was asked, and the notice it was asked because of."""

    gateway: Gateway
    remote: RemotePayment
    notice_id: int


def credit_plain(name: str, answers: Collection[Answer]) -> dict[int, Payment]:
    """Credit, together, the orders of which the gateway called so says just what was waited for; the first payment of
    each by the notice. All others, for apply_remote(), are left alone. The caller commits.

    One gateway at a time: a bill of the next would be locked after accounts of the one before.
    """
    known = payments_at(name, [answer.remote.external_id for answer in answers])
    found = {payment.external_id: payment for payment in known}
    orders = lock_orders(found.values())
    plain: list[PaidOrder] = []
    credited: dict[int, Payment] = {}
    bills: set[int | None] = set()
    for answer in answers:
        leader = found.get(answer.remote.external_id)
        payments = orders.pop(leader.id, []) if leader is not None else []
        if leader is None or not _is_plain(payments, answer):
            continue
        paid = {payment.bill_id for payment in payments} - {None}
        if len(paid) < len(payments) or paid & bills:
            continue  # the second payment of a bill is judged by what the first has made of it
        bills |= paid
        plain.append(PaidOrder(payments, answer.remote.paid_at or clock.now(), answer.notice_id))
        credited[answer.notice_id] = leader
    if plain:
        credit_orders(plain, by=System(name))
    return credited


def _is_plain(payments: Sequence[Payment], answer: Answer) -> bool:
    """Whether an order that waits was paid, just so much, and nothing of it was given back: all there is to do is to
    credit it. apply_remote() would do the same.
    """
    if not payments or any(payment.status is not PaymentStatus.PENDING for payment in payments):
        return False
    leader, remote = payments[0], answer.remote
    return (
        leader.external_id == remote.external_id
        and shop_id_of(leader) == answer.gateway.shop_id
        and leader.reported_amount is None
        and remote.status is RemoteStatus.SUCCEEDED
        and not remote.is_refunded
        and remote.refunded == 0
        and remote.currency == leader.branch.company.currency
        and remote.amount == sum(payment.amount for payment in payments)
    )


def _has_money(leader: Payment) -> bool:
    """Whether the order the leader is numbered by was paid: credited, or held for a person."""
    return leader.status in {PaymentStatus.SUCCEEDED, PaymentStatus.REVERSED} or leader.reported_amount is not None


def _is_unnumbered(leader: Payment) -> bool:
    """Whether the bank's number of the order was never noted, and nobody is about to note it."""
    is_asked = leader.asking_until is not None and leader.asking_until > clock.now()
    return leader.external_id is None and not is_asked


def _note_heard(leader: Payment, notice: GatewayNotice | None) -> None:
    if notice is None:
        return
    is_waiting = leader.status is PaymentStatus.PENDING
    kind = PaymentEventKind.NOTICE if is_waiting else PaymentEventKind.REPEATED
    note(leader, kind, notice.event, notice_id=notice.id)


def payment_by_reference(gateway: str, reference: str) -> Payment | None:
    """The first payment of the order we called so; None when there is none such at this gateway."""
    if (found := _REFERENCE.fullmatch(reference)) is None:
        return None
    query = select(Payment).where(
        Payment.id == int(found[1]),
        Payment.nonce == found[2],
        Payment.gateway == gateway,
        Payment.order_id.is_(None),
    )
    return db.session.scalar(query)


def shop_id_of(payment: Payment) -> str:
    """The shop a payment was begun at, as its service calls it; "" of the demo bank."""
    return payment.shop.shop_id if payment.shop is not None else ""


def payment_at(gateway: str, external_id: str) -> Payment | None:
    """The payment the gateway calls so."""
    return db.session.scalar(select(Payment).where(Payment.gateway == gateway, Payment.external_id == external_id))


def payments_at(gateway: str, external_ids: Collection[str]) -> list[Payment]:
    """The payments the gateway calls so, with their shops."""
    query = select(Payment).where(Payment.gateway == gateway, Payment.external_id.in_(external_ids))
    return list(db.session.scalars(query.options(joinedload(Payment.shop))))


def _lock_order(gateway: Gateway, remote: RemotePayment) -> list[Payment]:
    """All payments of the order, in id order and locked so: the one with the external id first."""
    leader = payment_at(gateway.name, remote.external_id) or payment_by_reference(gateway.name, remote.reference)
    if leader is None or shop_id_of(leader) != gateway.shop_id:
        raise NotFound("payment_not_found", _("There is no such payment."))
    return lock_order(leader)


def lock_order(leader: Payment) -> list[Payment]:
    """The payments of an order by its first, held until the transaction ends."""
    return lock_orders([leader])[leader.id]


def lock_orders(leaders: Collection[Payment]) -> dict[int, list[Payment]]:
    """lock_order() of several, by the ids of their first; all are held in id order."""
    ids = [leader.id for leader in leaders]
    query = (
        select(Payment)
        .where(or_(Payment.id.in_(ids), Payment.order_id.in_(ids)))
        .order_by(Payment.id)
        .options(joinedload(Payment.shop), joinedload(Payment.bill), joinedload(Payment.account))
        .with_for_update(key_share=True, of=Payment)
        .execution_options(populate_existing=True)
    )
    orders: dict[int, list[Payment]] = {id: [] for id in ids}
    for payment in db.session.scalars(query):
        orders[payment.order_id if payment.order_id in orders else payment.id].append(payment)
    return orders


def _receive(payments: Sequence[Payment], remote: RemotePayment, *, by: Actor, notice_id: int | None) -> None:
    leader, asked = payments[0], sum((payment.amount for payment in payments), Decimal(0))
    currency = leader.branch.company.currency
    if remote.currency == currency and remote.amount == asked:
        credit_order(payments, paid_at=remote.paid_at or clock.now(), by=by, notice_id=notice_id)
        return
    # Nothing is credited: what was meant, only a person can find out.
    if (leader.reported_amount, leader.reported_currency) == (remote.amount, remote.currency):
        return  # said before
    leader.reported_amount, leader.reported_currency = remote.amount, remote.currency
    text = _(
        "The bank reports %(came)s; %(asked)s was asked for.",
        came=money(remote.amount, remote.currency),
        asked=money(asked, currency),
    )
    leader.comment = text
    is_same = remote.currency == currency
    flag(leader, Attention.WRONG_SUM if is_same else Attention.WRONG_CURRENCY, text, notice_id=notice_id)


def _is_gone(payments: Sequence[Payment], remote: RemotePayment) -> bool:
    """Whether the bank itself has given back, whole, money that was held here and never credited."""
    leader = payments[0]
    is_wholly_back = remote.is_refunded or (remote.refunded is not None and remote.refunded >= remote.amount > 0)
    return (
        is_wholly_back
        and leader.status is not PaymentStatus.SUCCEEDED
        and leader.reported_amount is not None
        and not asked_back(payments)
    )


def _let_go(payments: Sequence[Payment], *, by: Actor, notice_id: int | None) -> None:
    """There is nothing left to accept; a person is told."""
    leader = payments[0]
    if leader.attention is Attention.REFUNDED_ELSEWHERE:
        return  # said before
    for payment in payments:
        if payment.status is PaymentStatus.PENDING:
            transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=by)
    text = _("The bank has given back what had come; nothing of it was credited here.")
    flag(leader, Attention.REFUNDED_ELSEWHERE, text, notice_id=notice_id)


def _once_more(first: Payment, remote: RemotePayment) -> Payment:
    """The bank has made two payments of one order of ours and both were paid: the second is a payment of its own."""
    payment = Payment(
        branch_id=first.branch_id,
        client_id=first.client_id,
        account_id=first.account_id,
        bill_id=first.bill_id,
        method=PaymentMethod.ONLINE,
        status=PaymentStatus.PENDING,
        amount=remote.amount,
        gateway=first.gateway,
        shop_id=first.shop_id,
        external_id=remote.external_id,
        created_at=clock.now(),
        author_name=first.author_name,
    )
    db.session.add(payment)
    db.session.flush()
    return payment


def _look_for_refunds(payments: Sequence[Payment], remote: RemotePayment, *, notice_id: int | None) -> None:
    """Money given back at the bank that we did not ask it to give back."""
    if remote.refunded == 0:
        return
    leader, ours = payments[0], asked_back(payments)
    refunded, currency = remote.refunded, remote.currency
    if refunded is None and remote.is_refunded:  # by our books: what the service tells may be the last refund only
        refunded = sum((payment.amount for payment in payments), Decimal(0))
        if leader.status is not PaymentStatus.SUCCEEDED:
            refunded = leader.reported_amount or refunded
    if refunded is None:  # a part, and the service does not say how much
        if ours or leader.attention is Attention.REFUNDED_ELSEWHERE:
            return
        text = _("The bank has given back a part; it does not say how much.")
    else:
        known = leader.reported_amount if leader.attention is Attention.REFUNDED_ELSEWHERE else None
        if refunded <= max(ours, known or Decimal(0)):
            return
        leader.reported_amount, leader.reported_currency = refunded, currency
        text = _(
            "The bank has given back %(there)s, through us %(here)s.",
            there=money(refunded, currency),
            here=money(ours, currency),
        )
    flag(leader, Attention.REFUNDED_ELSEWHERE, text, notice_id=notice_id)


def asked_back(payments: Sequence[Payment]) -> Decimal:
    """What has been or is being given back of the payments through us."""
    query = select(func.coalesce(func.sum(Refund.amount), 0, type_=Refund.amount.type)).where(
        Refund.payment_id.in_([payment.id for payment in payments]), Refund.status != RefundStatus.FAILED
    )
    return db.session.scalar(query) or Decimal(0)
