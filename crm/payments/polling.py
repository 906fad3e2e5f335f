"""Asking the gateways by ourselves: a notice may never have come. Less and less often, and never given up: a client who
has paid must be credited even if we were away for a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from flask_babel import gettext as _
from sqlalchemy import and_, case, literal, or_, select, update

from crm.access.actors import SYSTEM
from crm.audit.operations import transition
from crm.db import UtcDateTime, db
from crm.payments.crediting import note
from crm.payments.models import PAYMENT_MOVES, Payment, PaymentEventKind, PaymentMethod, PaymentStatus
from crm.payments.outcomes import lock_order

# A notice usually comes within seconds.
FIRST_AFTER = timedelta(minutes=2)
# (age of the payment up to which, pause between two questions); older ones once in LONGEST_PAUSE.
PAUSES = ((timedelta(hours=1), timedelta(minutes=1)), (timedelta(days=7), timedelta(hours=1)))
LONGEST_PAUSE = timedelta(days=1)
AT_ONCE = 10_000


@dataclass(frozen=True)
class Question:
    """A payment its gateway is to be asked about: of several bills paid at once, the first."""

    payment_id: int
    external_id: str


# A canceled one may be paid after all, at a form still open in another tab.
CANCELED_ASKED = timedelta(days=1)
CANCELED_PAUSES = (timedelta(minutes=10), timedelta(hours=1))  # in the first hour, later


def take_questions(*, now: datetime) -> list[Question]:
    """Online payments whose outcome is not known, or that were canceled lately, and whose turn it is; sets the next
    turn of each. The caller commits.

    They are held first, so that two schedulers do not both ask; in id order, as who credits several holds them. What
    somebody else holds is being told of: it waits for its next turn.
    """
    is_due = or_(
        Payment.next_poll_at <= now,
        and_(Payment.next_poll_at.is_(None), Payment.created_at <= now - FIRST_AFTER),
    )
    is_open = or_(
        Payment.status == PaymentStatus.PENDING,
        and_(
            Payment.status == PaymentStatus.CANCELED,
            Payment.created_at > now - CANCELED_ASKED,
            Payment.reported_amount.is_(None),  # came, and was given back
        ),
    )
    is_canceled, is_young = Payment.status == PaymentStatus.CANCELED, Payment.created_at > now - PAUSES[0][0]
    next_poll_at = case(
        (and_(is_canceled, is_young), literal(now + CANCELED_PAUSES[0], UtcDateTime())),
        (is_canceled, literal(now + CANCELED_PAUSES[1], UtcDateTime())),
        *((Payment.created_at > now - age, literal(now + pause, UtcDateTime())) for age, pause in PAUSES),
        else_=literal(now + LONGEST_PAUSE, UtcDateTime()),
    )
    due = select(Payment.id).where(is_open, Payment.external_id.is_not(None), is_due).order_by(Payment.id)
    ids = db.session.scalars(due.limit(AT_ONCE).with_for_update(key_share=True, skip_locked=True)).all()
    taken = db.session.execute(
        update(Payment)
        .where(Payment.id.in_(ids))
        .values(next_poll_at=next_poll_at)
        .returning(Payment.id, Payment.external_id)
        .execution_options(synchronize_session=False)
    )
    return [Question(row.id, row.external_id or "") for row in taken]


# So long after nobody will come back with a bank's form we never got: such a payment keeps an account from closing.
UNASKED_KEPT = timedelta(days=1)


def give_up_unasked(*, now: datetime) -> None:
    """Cancel what was begun a day ago and never reached the bank, as far as we know. The caller commits.

    Were it paid all the same, its notice would find it by our name for it, and its money is credited.
    """
    leaders = select(Payment.id).where(
        Payment.status == PaymentStatus.PENDING,
        Payment.method == PaymentMethod.ONLINE,
        Payment.external_id.is_(None),
        Payment.order_id.is_(None),
        Payment.created_at < now - UNASKED_KEPT,
    )
    for payment_id in db.session.scalars(leaders.order_by(Payment.id).limit(200)).all():
        for payment in lock_order(db.session.get_one(Payment, payment_id)):
            if payment.status is PaymentStatus.PENDING and payment.external_id is None:
                transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=SYSTEM)
                note(payment, PaymentEventKind.CANCELED, _("It never reached the bank."))
