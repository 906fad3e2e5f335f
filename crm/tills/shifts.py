"""Shifts of a cash desk: opened and closed with counted cash."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _

from crm import clock
from crm.access.actors import Actor, require
from crm.db import amount as to_amount
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.i18n import money
from crm.ledger.models import AccountKind, TransactionKind
from crm.ledger.operations import Line, house_account, post
from crm.tills.models import Shift, Till
from crm.tills.operations import lock_till
from crm.tills.queries import current_shift, last_entry_id, money_in

MAX_COUNTED = Decimal("100000000000.00")  # more than one operation may enter: a till gathers many


class DifferenceUnexplained(DomainError):
    """Another sum was counted than the ledger knows, and nobody has said why: count again, or explain it.

    expected: what there should be; difference: found more (+) or less (-) than that.
    """

    def __init__(self, expected: Decimal, counted: Decimal) -> None:
        self.expected, self.difference = expected, counted - expected
        super().__init__("difference_unexplained", self._text(), "comment")

    def _text(self) -> str:
        facts = {"expected": money(self.expected), "sum": money(abs(self.difference))}
        if self.difference > 0:
            return _("There should be %(expected)s: %(sum)s too much. Count again, or explain the difference.", **facts)
        return _("There should be %(expected)s: %(sum)s too little. Count again, or explain the difference.", **facts)


def open_shift(till: Till, *, counted: Decimal, by: Actor, comment: str = "", expected: Decimal | None = None) -> Shift:
    """Open a shift with the cash counted in the desk. The caller commits.

    A difference from what the ledger says is posted at once and must be explained by the comment. expected: what the
    person who explains it was shown; another sum by now is another difference. Raises DifferenceUnexplained,
    DomainError beside `counted`, Conflict "shift_open" when a shift is open already.
    """
    require(by, "till.shift", till)
    counted = _check_counted(counted)
    lock_till(till)
    if till.is_archived:
        raise DomainError("till_archived", _("The till “%(till)s” is in the archive.", till=till.title))
    if not till.uses_shifts:
        raise DomainError("no_shifts", _("The till “%(till)s” does not work by shifts.", till=till.title))
    if found := current_shift(till):
        raise Conflict("shift_open", _("A shift is open already: %(name)s opened it.", name=found.opened_by_name))
    there = money_in(till)
    _check_explained(there, counted, comment, expected)
    shift = Shift(
        branch_id=till.branch_id,
        till=till,
        opened_at=clock.now(),
        opened_by_id=by.id,
        opened_by_name=str(by.name),
        opening_expected=there,
        opening_counted=counted,
        opening_comment=comment,
        from_entry_id=last_entry_id(till),
    )
    db.session.add(shift)
    db.session.flush()
    _post_difference(till, counted - there, key=f"shift:{shift.id}:opening", comment=comment, by=by)
    return shift


def close_shift(
    shift: Shift, *, counted: Decimal, by: Actor, comment: str = "", expected: Decimal | None = None
) -> Shift:
    """Close a shift with the cash counted in the desk, once everybody who holds the till has finished.

    As open_shift(); raises Conflict "shift_closed" when somebody has closed it already. The caller commits.
    """
    require(by, "till.shift", shift)
    counted, till = _check_counted(counted), shift.till
    lock_till(till)
    db.session.refresh(shift)
    if shift.closed_at is not None:
        raise Conflict(
            "shift_closed", _("The shift has been closed already: %(name)s closed it.", name=shift.closed_by_name)
        )
    there = money_in(till)
    _check_explained(there, counted, comment, expected)
    _post_difference(till, counted - there, key=f"shift:{shift.id}:closing", comment=comment, by=by)
    shift.closed_at, shift.closed_by_id, shift.closed_by_name = clock.now(), by.id, str(by.name)
    shift.closing_expected, shift.closing_counted, shift.closing_comment = there, counted, comment
    shift.to_entry_id = last_entry_id(till)
    db.session.flush()
    return shift


def _check_counted(counted: Decimal) -> Decimal:
    counted = to_amount(counted)
    if not 0 <= counted <= MAX_COUNTED:
        raise DomainError("amount_invalid", _("Enter the sum you have counted, zero or more."), "counted")
    return counted


def _check_explained(there: Decimal, counted: Decimal, comment: str, expected: Decimal | None) -> None:
    is_seen = expected is None or expected == there
    if counted != there and not (comment.strip() and is_seen):
        raise DifferenceUnexplained(there, counted)


def _post_difference(till: Till, difference: Decimal, *, key: str, comment: str, by: Actor) -> None:
    """Cash that was found or is missing: the branch's own gain or loss."""
    if not difference:
        return
    post(
        TransactionKind.CASH_COUNT,
        [
            Line(till.account, -difference),
            Line(house_account(AccountKind.CASH_DIFFERENCE, till.branch_id), difference),
        ],
        branch_id=till.branch_id,
        by=by,
        key=key,
        comment=comment,
    )
