"""Verbs on tills: which one money goes through, and holding it while it does."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.db import db
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account, Unit
from crm.tills.models import Shift, Till, TillKind
from crm.tills.queries import money_in


def tills_in(branch_id: int, kind: TillKind) -> Sequence[Till]:
    """The branch's tills of a kind that are in use, in their order."""
    query = (
        select(Till)
        .where(Till.branch_id == branch_id, Till.kind == kind, Till.is_archived.is_(False))
        .order_by(Till.position, Till.id)
    )
    return db.session.scalars(query).all()


def hold_till(kind: TillKind, branch_id: int, till: Till | None = None, *, pays_out: Decimal | None = None) -> Account:
    """The ledger account money of this kind goes through in the branch, held until the transaction ends.

    till: the one that was chosen; the first in use by default, made at its first use. Many may hold a till at once;
    only the opening and closing of a shift waits for all of them, and whoever hands out cash. After the bill, before
    client accounts (Locks in docs/architecture.md).
    pays_out: the sum that is handed out; cash must be there. Raises DomainError beside `till`: "till_foreign",
    "till_archived", "shift_closed", "till_short".
    """
    if till is None:
        till = next(iter(tills_in(branch_id, kind)), None) or _first_till(kind, branch_id)
    if till.branch_id != branch_id or till.kind is not kind:
        raise DomainError("till_foreign", _("Choose a till of this branch and of this kind."), "till")
    if kind is TillKind.CASH:
        # Of two who would hand out the same banknotes one waits for the other, and for those who bring some.
        is_alone = pays_out is not None
        db.session.execute(
            select(Till.id).where(Till.id == till.id).with_for_update(read=not is_alone, key_share=is_alone)
        )
        db.session.refresh(till)
    if till.is_archived:
        raise DomainError("till_archived", _("The till “%(till)s” is in the archive.", till=till.title), "till")
    if till.uses_shifts and open_shift(till) is None:
        raise DomainError(
            "shift_closed", _("Open a shift of “%(till)s” first: it works by shifts.", till=till.title), "till"
        )
    if kind is TillKind.CASH and pays_out is not None and money_in(till) < pays_out:
        raise DomainError("till_short", _("There is not enough cash in “%(till)s”.", till=till.title), "till")
    return till.account


def open_shift(till: Till) -> Shift | None:
    """The shift that is open at the till."""
    return db.session.scalar(select(Shift).where(Shift.till_id == till.id, Shift.closed_at.is_(None)))


def _first_till(kind: TillKind, branch_id: int) -> Till:
    """The branch's till without a name; of two who make it at once, one does."""
    query = select(Till).where(Till.branch_id == branch_id, Till.kind == kind, Till.name == "")
    if found := db.session.scalar(query):
        return found
    try:
        with db.session.begin_nested():
            made = new_till(kind, branch_id)
    except IntegrityError:
        if found := db.session.scalar(query):
            return found
        raise NotFound("not_found", _("The account was not found in this branch.")) from None
    return made


def new_till(kind: TillKind, branch_id: int, *, name: str = "") -> Till:
    """A till with its account, in the session and flushed."""
    account = Account(kind=kind.account_kind, unit=Unit.MONEY, branch_id=branch_id, opened_at=clock.now())
    db.session.add(account)
    db.session.flush()
    till = Till(branch_id=branch_id, kind=kind, name=name, account_id=account.id)
    db.session.add(till)
    db.session.flush()
    return till
