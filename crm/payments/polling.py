"""Asking the gateways by ourselves: a notice may never have come. Less and less often, and never given up: a client who
has paid must be credited even if we were away for a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, case, literal, or_, update

from crm.db import UtcDateTime, db
from crm.payments.models import Payment, PaymentStatus

# A notice usually comes within seconds.
FIRST_AFTER = timedelta(minutes=2)
# (age of the payment up to which, pause between two questions); older ones once in LONGEST_PAUSE.
PAUSES = ((timedelta(hours=1), timedelta(minutes=1)), (timedelta(days=7), timedelta(hours=1)))
LONGEST_PAUSE = timedelta(days=1)


@dataclass(frozen=True)
class Question:
    """A payment its gateway is to be asked about."""

    gateway: str
    external_id: str


def take_questions(*, now: datetime) -> list[Question]:
    """Online payments whose outcome is not known and whose turn it is; sets the next turn of each. The caller commits.

    One statement, so that two schedulers do not both ask.
    """
    is_due = or_(
        Payment.next_poll_at <= now,
        and_(Payment.next_poll_at.is_(None), Payment.created_at <= now - FIRST_AFTER),
    )
    next_poll_at = case(
        *((Payment.created_at > now - age, literal(now + pause, UtcDateTime())) for age, pause in PAUSES),
        else_=literal(now + LONGEST_PAUSE, UtcDateTime()),
    )
    taken = db.session.execute(
        update(Payment)
        .where(Payment.status == PaymentStatus.PENDING, Payment.external_id.is_not(None), is_due)
        .values(next_poll_at=next_poll_at)
        .returning(Payment.gateway, Payment.external_id)
        .execution_options(synchronize_session=False)
    )
    return [Question(row.gateway or "", row.external_id or "") for row in taken]
