"""Reads about payments."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.bills.models import Bill
from crm.db import db
from crm.payments.models import Payment, PaymentStatus


def payments_of(client_id: int, *, limit: int = 50) -> list[Payment]:
    """A payer's payments, newest first."""
    query = (
        select(Payment)
        .where(Payment.client_id == client_id)
        .options(joinedload(Payment.account), joinedload(Payment.bill))
        .order_by(Payment.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))


def unfinished_payments(*, before: datetime, after: datetime) -> list[Payment]:
    """Online payments started in the window whose outcome is not known: their notice may have been lost."""
    query = (
        select(Payment)
        .where(
            Payment.status == PaymentStatus.PENDING,
            Payment.external_id.is_not(None),
            Payment.created_at < before,
            Payment.created_at > after,
        )
        .order_by(Payment.id)
    )
    return list(db.session.scalars(query))


def payment_of_bill(bill: Bill, payment_id: int | None) -> Payment | None:
    """The payment with this id, if it is one of the bill's."""
    if payment_id is None:
        return None
    return db.session.scalar(select(Payment).where(Payment.id == payment_id, Payment.bill_id == bill.id))
