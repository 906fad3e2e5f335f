"""Reads of tills."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import func, select

from crm.db import db
from crm.ledger.models import Entry
from crm.tills.models import Till


def money_in(till: Till) -> Decimal:
    """What the ledger says there is in a till: the negated sum of its entries."""
    total = db.session.scalar(select(func.sum(Entry.amount)).where(Entry.account_id == till.account_id))
    return -Decimal(total or 0)
