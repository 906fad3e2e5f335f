"""Reads of tills: which there are, what is in them, which shift is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import aliased

from crm.db import db
from crm.ledger.models import Entry, Transaction, TransactionKind
from crm.tills.models import Shift, Till, TillKind


def tills_in(branch_id: int, kind: TillKind) -> Sequence[Till]:
    """The branch's tills of a kind that are in use, in their order: what a clerk chooses from."""
    query = (
        select(Till)
        .where(Till.branch_id == branch_id, Till.kind == kind, Till.is_archived.is_(False))
        .order_by(Till.position, Till.id)
    )
    return db.session.scalars(query).all()


def money_in(till: Till) -> Decimal:
    """What the ledger says there is in the till now: positive for money."""
    return Decimal(db.session.scalar(select(Till.balance).where(Till.id == till.id)) or 0)


def current_shift(till: Till) -> Shift | None:
    """The shift that is open at the till."""
    return db.session.scalar(select(Shift).where(Shift.till_id == till.id, Shift.closed_at.is_(None)))


def last_entry_id(till: Till) -> int:
    """Number of the last entry of the till's account, 0 before the first."""
    return db.session.scalar(select(func.max(Entry.id)).where(Entry.account_id == till.account_id)) or 0


@dataclass(frozen=True)
class Turnover:
    """What came in and went out by one kind of operation, both as positive sums."""

    kind: TransactionKind
    count: int
    came_in: Decimal
    went_out: Decimal


def turnovers_of(shift: Shift) -> list[Turnover]:
    """The movements of a shift by kind of operation, in the order the kinds are declared."""
    incoming = func.coalesce(func.sum(-Entry.amount).filter(Entry.amount < 0), 0)
    outgoing = func.coalesce(func.sum(Entry.amount).filter(Entry.amount > 0), 0)
    query = (
        select(Transaction.kind, func.count(), incoming, outgoing)
        .select_from(Entry)
        .join(Entry.transaction)
        .where(*movements_of(shift))
        .group_by(Transaction.kind)
    )
    found = {
        kind: Turnover(kind, count, Decimal(came_in), Decimal(went_out))
        for kind, count, came_in, went_out in db.session.execute(query)
    }
    return [found[kind] for kind in TransactionKind if kind in found]


def movements_of(shift: Shift) -> list[ColumnElement[bool]]:
    """Conditions of the entries of a shift."""
    conditions = [Entry.account_id == shift.till.account_id, Entry.id > shift.from_entry_id]
    return conditions if shift.to_entry_id is None else [*conditions, Entry.id <= shift.to_entry_id]


def clients_money(branch_id: int, first: datetime, end: datetime) -> dict[TillKind, tuple[Decimal, Decimal]]:
    """(received from clients, given back to them) by kind of till, of the operations from `first` until `end`.

    A reversal lessens what it reverses, on its own day. Kinds nothing went through are left out.
    """
    reversed_one = aliased(Transaction)
    kind = func.coalesce(reversed_one.kind, Transaction.kind)
    query = (
        select(
            Till.kind,
            func.coalesce(func.sum(-Entry.amount).filter(kind == TransactionKind.TOP_UP), 0),
            func.coalesce(func.sum(Entry.amount).filter(kind == TransactionKind.REFUND), 0),
        )
        .select_from(Transaction)
        .join(Entry, Entry.transaction_id == Transaction.id)
        .join(Till, Till.account_id == Entry.account_id)
        .outerjoin(reversed_one, reversed_one.id == Transaction.reverses_id)
        .where(Transaction.happened_at >= first, Transaction.happened_at < end, Till.branch_id == branch_id)
        .where(kind.in_([TransactionKind.TOP_UP, TransactionKind.REFUND]))
        .group_by(Till.kind)
    )
    found = {row[0]: (Decimal(row[1]), Decimal(row[2])) for row in db.session.execute(query)}
    return {kind: found[kind] for kind in TillKind if kind in found}


def shifts_now(branch_id: int) -> list[tuple[Till, Shift | None]]:
    """The branch's tills that work by shifts, and the shift that is open at each."""
    query = (
        select(Till, Shift)
        .outerjoin(Shift, (Shift.till_id == Till.id) & Shift.closed_at.is_(None))
        .where(Till.branch_id == branch_id, Till.uses_shifts, Till.is_archived.is_(False))
        .order_by(Till.position, Till.id)
    )
    return [(till, shift) for till, shift in db.session.execute(query)]
