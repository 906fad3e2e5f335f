"""Reads about payments."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.bills.models import Bill
from crm.db import db
from crm.payments.models import Payment


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


def payment_of_bill(bill: Bill, payment_id: int | None) -> Payment | None:
    """The payment with this id, if it is one of the bill's; any number may be asked for."""
    if payment_id is None or not 0 < payment_id < 2**63:
        return None
    return db.session.scalar(select(Payment).where(Payment.id == payment_id, Payment.bill_id == bill.id))
