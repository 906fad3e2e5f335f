"""Verbs on tills: made, changed, and held while money goes through them.

Everything that moves money of a till holds the till until its transaction ends: FOR SHARE on its row, so that many may
at once, while the opening and closing of a shift (and the change of a till) waits for all of them. Who takes cash out
also locks the till's account: of two who take the last banknote, the second finds it gone; who brings money waits for
neither. Tills are held in id order, before their accounts (Locks in docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.db import db
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.ledger.models import Account, Unit
from crm.tills.models import Till, TillKind
from crm.tills.queries import current_shift, money_in, tills_in

# --- holding --------------------------------------------------------------------------------------------------------


def hold_till(kind: TillKind, branch_id: int, till: Till | None = None, *, pays_out: Decimal | None = None) -> Account:
    """The ledger account money of this kind goes through in the branch, held until the transaction ends.

    till: the one that was chosen; the first in use by default, made at its first use. pays_out: the sum that is handed
    out; cash must be there. After the bill, before client accounts. Raises DomainError beside `till`: "till_foreign",
    "till_archived", "shift_closed", "till_short".
    """
    if till is None:
        till = _default_till(kind, branch_id)
    if till.branch_id != branch_id or till.kind is not kind:
        raise DomainError("till_foreign", _("Choose a till of this branch and of this kind."), "till")
    hold_tills({till: -(pays_out or Decimal(0))})
    return till.account


def hold_first_tills(places: Collection[tuple[TillKind, int]]) -> dict[tuple[TillKind, int], Account]:
    """hold_till() of several kinds and branches that only gain, without a choice; the accounts by (kind, branch id)."""
    ordered = sorted(places, key=lambda place: (place[1], place[0].value))  # of two who make several, one waits
    tills = {(kind, branch_id): _default_till(kind, branch_id) for kind, branch_id in ordered}
    hold_tills(dict.fromkeys(tills.values(), Decimal(0)))
    return {place: till.account for place, till in tills.items()}


def _default_till(kind: TillKind, branch_id: int) -> Till:
    return next(iter(tills_in(branch_id, kind)), None) or _first_till(kind, branch_id)


def hold_tills(gains: Mapping[Till, Decimal], *, field: str = "till") -> None:
    """Hold several tills, given with what each is about to gain (+) or to give (-).

    Raises DomainError beside `field`: "till_archived", "shift_closed", "till_short".
    """
    query = select(Till).where(Till.id.in_([till.id for till in gains])).order_by(Till.id).with_for_update(read=True)
    db.session.execute(query.execution_options(populate_existing=True)).all()
    for till in gains:
        if till.is_archived:
            raise DomainError("till_archived", _("The till “%(till)s” is in the archive.", till=till.title), field)
        if till.uses_shifts and current_shift(till) is None:
            raise DomainError(
                "shift_closed", _("Open a shift of “%(till)s” first: it works by shifts.", till=till.title), field
            )
    # Cash is either there or not; what the other places hold, the bank knows better.
    giving = [till for till, gain in gains.items() if gain < 0 and till.kind is TillKind.CASH]
    if giving:
        accounts = select(Account.id).where(Account.id.in_([till.account_id for till in giving])).order_by(Account.id)
        db.session.execute(accounts.with_for_update(key_share=True)).all()
    for till in giving:
        if money_in(till) < -gains[till]:
            raise DomainError("till_short", _("There is not enough cash in “%(till)s”.", till=till.title), field)


def lock_till(till: Till) -> None:
    """Wait for everybody who holds the till, and let nobody else hold it until the transaction ends."""
    query = select(Till).where(Till.id == till.id).with_for_update(key_share=True)
    if db.session.scalar(query.execution_options(populate_existing=True)) is None:
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))


# --- making and changing --------------------------------------------------------------------------------------------


def create_till(
    *,
    kind: TillKind,
    branch: Branch,
    name: str,
    by: Actor,
    uses_shifts: bool = False,
    position: int | None = None,
    is_archived: bool = False,
) -> Till:
    """Add a till to a branch. Raises DomainError beside `name`, `branch` or `uses_shifts`. The caller commits."""
    require(by, "till.create")
    if not current_scope().covers(branch.id):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
    name = " ".join(name.split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    _check_name(kind, branch.id, name)
    _check_shifts(kind, uses_shifts)
    till = new_till(kind, branch.id, name=name)
    till.uses_shifts, till.position, till.is_archived = uses_shifts, position or 0, is_archived
    db.session.flush()
    return till


def change_till(
    till: Till, *, name: str, by: Actor, uses_shifts: bool = False, position: int | None = None, is_archived: bool
) -> Till:
    """Change what a till is called and how it works; its kind and branch stay. The caller commits.

    The one a branch was given at its first payment may stay without a name: it is called by its kind. Raises
    DomainError beside `name`, `uses_shifts` ("shift_open") or `is_archived` ("till_not_empty", "shift_open").
    """
    require(by, "till.edit", till)
    version = till.version
    lock_till(till)
    if till.version != version:
        raise Conflict("changed", _("Somebody changed this record at the same moment. Check it and save again."))
    name = " ".join(name.split())
    if not name and till.name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    _check_name(till.kind, till.branch_id, name, own=till)
    _check_shifts(till.kind, uses_shifts)
    is_open = current_shift(till) is not None
    if is_open and not uses_shifts:
        raise DomainError("shift_open", _("A shift is open: close it first."), "uses_shifts")
    if is_archived and not till.is_archived:
        if is_open:
            raise DomainError("shift_open", _("A shift is open: close it first."), "is_archived")
        if money_in(till):
            raise DomainError(
                "till_not_empty",
                _("There is money there. Move it before it goes to the archive."),
                "is_archived",
            )
    till.name, till.uses_shifts, till.position, till.is_archived = name, uses_shifts, position or 0, is_archived
    db.session.flush()
    return till


def _check_name(kind: TillKind, branch_id: int, name: str, *, own: Till | None = None) -> None:
    with db.session.no_autoflush:
        taken = db.session.scalar(
            select(Till.id).where(
                Till.branch_id == branch_id, Till.kind == kind, Till.name == name, Till.id != (own.id if own else 0)
            )
        )
    if taken:
        raise DomainError("name_taken", _("The branch has a till of this kind and name already."), "name")


def _check_shifts(kind: TillKind, uses_shifts: bool) -> None:
    if uses_shifts and kind is not TillKind.CASH:
        raise DomainError("shifts_of_cash", _("Only cash desks work by shifts."), "uses_shifts")


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
