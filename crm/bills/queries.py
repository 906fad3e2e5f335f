"""Reads about bills."""

from __future__ import annotations

from datetime import date

from flask_babel import gettext as _
from sqlalchemy import func, or_, select

from crm.bills.models import Bill, BillStatus
from crm.db import db
from crm.errors import NotFound


def bill_by_token(token: str) -> Bill:
    """The bill behind a public link. Raises NotFound."""
    bill = db.session.scalar(select(Bill).where(Bill.token == token)) if token else None
    if bill is None:
        raise NotFound("bill_not_found", _("There is no such bill. Check the link."))
    return bill


def count_unpaid(client_id: int) -> int:
    """Bills of a client that wait for payment."""
    query = select(func.count()).select_from(Bill).where(Bill.client_id == client_id, Bill.status == BillStatus.PENDING)
    return db.session.scalar(query) or 0


def bills_of(client_id: int) -> list[Bill]:
    """A payer's bills, newest first."""
    return list(db.session.scalars(select(Bill).where(Bill.client_id == client_id).order_by(Bill.id.desc())))


def payable_bill_of(client_id: int, *, today: date) -> Bill | None:
    """The oldest bill of a client that waits for payment and has not expired by `today` of its branch."""
    query = (
        select(Bill)
        .where(
            Bill.client_id == client_id,
            Bill.status == BillStatus.PENDING,
            or_(Bill.payable_until.is_(None), Bill.payable_until >= today),
        )
        .order_by(Bill.id)
        .limit(1)
    )
    return db.session.scalar(query)
