"""Money that moves between tills, and money that comes and goes for reasons of the business's own."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _

from crm.access.actors import Actor, require
from crm.access.models import Employee
from crm.errors import DomainError
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, check_amount, house_account, post
from crm.tills.models import Till
from crm.tills.operations import hold_tills


def move_money(
    source: Till,
    target: Till,
    *,
    amount: Decimal,
    by: Actor,
    employee: Employee | None = None,
    comment: str = "",
) -> Transaction:
    """Move money from one till to another: the day's cash to the bank, change into a desk, what acquiring has paid out.

    Between branches of one company too: each branch's books stay balanced by settlements. employee: who carried it.
    Raises DomainError beside `amount`, `source` ("till_short" when a desk has less) or `target`. The caller commits.
    """
    require(by, "till.move", source)
    require(by, "till.move", target)
    amount = check_amount(amount)
    if source.id == target.id:
        raise DomainError("till_same", _("Choose another till: the money is in this one already."), "target")
    if source.branch.company_id != target.branch.company_id:
        raise DomainError("company_foreign", _("The tills belong to different companies."), "target")
    hold_tills({source: -amount, target: amount}, field="source")
    return post(
        TransactionKind.CASH_MOVE,
        [Line(source.account, amount), Line(target.account, -amount)],
        branch_id=source.branch_id,
        by=by,
        cause=Cause(employee_id=employee.id if employee else None),
        comment=comment,
    )


def take_other(
    till: Till, *, amount: Decimal, comment: str, by: Actor, employee: Employee | None = None
) -> Transaction:
    """Money that comes into the till and is no client's: a deposit returned by a supplier. The comment says what."""
    return _post_other(till, amount, 1, comment=comment, by=by, employee=employee)


def spend_other(
    till: Till, *, amount: Decimal, comment: str, by: Actor, employee: Employee | None = None
) -> Transaction:
    """Money that leaves the till and goes to no client: stationery bought. The comment says what for.

    Raises DomainError beside `amount`, `till` ("till_short") or `comment`. The caller commits.
    """
    return _post_other(till, amount, -1, comment=comment, by=by, employee=employee)


def _post_other(
    till: Till, amount: Decimal, sign: int, *, comment: str, by: Actor, employee: Employee | None
) -> Transaction:
    require(by, "till.move", till)
    gain, comment = check_amount(amount) * sign, comment.strip()
    if not comment:
        raise DomainError("comment_empty", _("Say what the money is for."), "comment")
    hold_tills({till: gain})
    return post(
        TransactionKind.CASH_OTHER,
        [Line(till.account, -gain), Line(house_account(AccountKind.OTHER, till.branch_id), gain)],
        branch_id=till.branch_id,
        by=by,
        cause=Cause(employee_id=employee.id if employee else None),
        comment=comment,
    )
