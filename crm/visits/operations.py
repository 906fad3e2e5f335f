"""Verbs on visits: book, change, mark, take the payment. A reversed payment leaves the visit unpaid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict, Unpack

from flask_babel import gettext as _
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Employee
from crm.audit.operations import transition
from crm.clients.models import Client, ClientStatus
from crm.db import MAX_AMOUNT, db
from crm.db import amount as to_amount
from crm.errors import Conflict, DomainError
from crm.i18n import money
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind, Unit
from crm.ledger.operations import AFTER_REVERSAL, Cause, Line, base_account, house_account, lock_funds, post
from crm.ledger.reach import check_within_reach
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.tills.models import Till
from crm.visits.models import VISIT_MOVES, Visit, VisitStatus, WayToPay
from crm.visits.queries import payer_of_visit

_DESK = {WayToPay.CASH: PaymentMethod.CASH, WayToPay.CARD: PaymentMethod.CARD}
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class VisitFacts(TypedDict, total=False):
    """What staff fill in of a visit. price: not below zero, two decimals; zero needs no payment. employee: who serves,
    of the visit's branch. Facts left out stay as they are.
    """

    service: str
    starts_at: datetime
    price: Decimal
    employee: Employee | None
    comment: str


def book_visit(client: Client, *, by: Actor, **facts: Unpack[VisitFacts]) -> Visit:
    """Note that `client` comes for a service, in his branch; his payer pays. Raises DomainError beside the field. The
    caller commits.
    """
    require(by, "visit.create", client)
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."), "client")
    visit = Visit(branch_id=client.branch_id, client_id=client.id, author_id=by.id, created_at=clock.now())
    given: VisitFacts = {"service": "", "price": Decimal(0), "comment": "", **facts}
    _set_facts(visit, given)
    db.session.add(visit)
    db.session.flush()
    return visit


def edit_visit(visit: Visit, *, by: Actor, **facts: Unpack[VisitFacts]) -> Visit:
    """Change a visit; the price only while it is unpaid. Raises DomainError beside the field. The caller commits."""
    require(by, "visit.edit", visit)
    if visit.paid_at is not None and facts.get("price", visit.price) != visit.price:
        raise DomainError(
            "visit_paid", _("The visit is paid: reverse the payment before you change its price."), "price"
        )
    _set_facts(visit, facts)
    db.session.flush()  # by its version: a payment taken meanwhile makes this one stale
    return visit


def move_visit(visit: Visit, to: VisitStatus, *, by: Actor) -> Visit:
    """Mark that the client came, did not come, is expected after all, or has canceled. The caller commits.

    Raises Conflict when the status does not lead there, DomainError "visit_paid" for the cancellation of a paid one.
    """
    require(by, "visit.edit", visit)
    lock_visit(visit)
    if to is VisitStatus.CANCELED and visit.paid_at is not None:
        raise DomainError("visit_paid", _("The visit is paid: reverse the payment before you cancel it."))
    return transition(visit, VISIT_MOVES, to, by=by)


def pay_visit(
    visit: Visit,
    way: WayToPay | None,
    *,
    by: Actor,
    account: Account | None = None,
    till: Till | None = None,
    price: Decimal | None = None,
) -> Transaction:
    """Charge the price of a visit to its payer, once. The caller commits.

    CASH, CARD: the sum is taken at the desk onto his base account (till: where it goes, the first by default) and
    charged there; ACCOUNT: it is on `account` of his already; DEBT: his base account goes below zero.
    price: what who takes the money was shown, if anything. Raises DomainError of check_visit_payable(), or beside
    `way`, `account`, `till`; Conflict "price_changed" when the visit costs something else by now.
    """
    require(by, "visit.pay", visit)
    if way is None:
        raise DomainError("way_required", _("Choose how the visit is paid."), "way")
    lock_visit(visit)
    check_visit_payable(visit)
    if price is not None and price != visit.price:
        raise Conflict(
            "price_changed",
            _(
                "The price has been changed meanwhile: it was %(was)s, now it is %(now)s. Check it and send again.",
                was=money(price, visit.branch.company.currency),
                now=money(visit.price, visit.branch.company.currency),
            ),
        )
    payer = payer_of_visit(visit)
    revenue = house_account(AccountKind.REVENUE, visit.branch_id)  # before client accounts are locked
    if way is WayToPay.ACCOUNT:
        account = _with_funds(account, payer, visit, by=by)
    else:
        account = base_account(payer.id, visit.branch_id)
    if method := _DESK.get(way):
        top_up(account, amount=visit.price, method=method, till=till, comment=visit.service, by=by)
    paid = post(
        TransactionKind.VISIT,
        [Line(account, -visit.price), Line(revenue, visit.price)],
        branch_id=visit.branch_id,
        by=by,
        key=f"visit:{visit.id}:{'debt' if way is WayToPay.DEBT else 'payment'}:{_payments_so_far(visit)}",
        cause=Cause(client_id=payer.id, visit_id=visit.id, employee_id=visit.employee_id),
        comment=visit.service,
    )
    visit.paid_at = paid.happened_at
    db.session.flush()
    return paid


def check_visit_payable(visit: Visit) -> None:
    """Raise DomainError when there is nothing to pay: "visit_free", "visit_paid", "visit_canceled"."""
    if not visit.price:
        raise DomainError("visit_free", _("The visit costs nothing: there is nothing to pay."))
    if visit.paid_at is not None:
        raise Conflict("visit_paid", _("The visit is paid already."))
    if visit.status is VisitStatus.CANCELED:
        raise DomainError("visit_canceled", _("The visit is canceled: there is nothing to pay."))


def lock_visit(visit: Visit) -> None:
    """Hold the visit until the transaction ends, and know it as it is now; before tills and accounts, as a bill."""
    db.session.execute(select(Visit.id).where(Visit.id == visit.id).with_for_update(key_share=True))
    db.session.refresh(visit)


def _with_funds(account: Account | None, payer: Client, visit: Visit, *, by: Actor) -> Account:
    """The account, if it is the payer's, within reach and holds the price: nobody slips into debt by paying from an
    account.
    """
    if account is None:
        raise DomainError("account_required", _("Choose the account to pay from."), "account")
    require(by, "account.spend", account)
    if account.client_id != payer.id or account.unit is not Unit.MONEY:
        raise DomainError("account_foreign", _("This account belongs to another client."), "account")
    check_within_reach(visit.branch, account.branch, field="account")
    lock_funds(account, visit.price, field="account")
    return account


def _payments_so_far(visit: Visit) -> int:
    """How often the visit has been paid, reversed payments among them: the number of the next one."""
    query = select(func.count()).where(Transaction.visit_id == visit.id, Transaction.kind == TransactionKind.VISIT)
    return db.session.scalar(query) or 0


def _leave_unpaid(paid: Transaction, _by: Actor) -> None:
    """The payment of a visit has been reversed."""
    visit = db.session.get_one(Visit, paid.visit_id)
    lock_visit(visit)
    visit.paid_at = None
    db.session.flush()


AFTER_REVERSAL[TransactionKind.VISIT] = _leave_unpaid


# --- facts ----------------------------------------------------------------------------------------------------------


def _set_facts(visit: Visit, facts: VisitFacts) -> None:
    with db.session.no_autoflush:
        for name, value in facts.items():
            setattr(visit, name, _READ[name](value, visit))


def _read_service(text: str, _visit: Visit) -> str:
    if not (service := " ".join(text.split())):
        raise DomainError("service_empty", _("Enter the service."), "service")
    return service


def _read_price(price: Decimal | None, _visit: Visit) -> Decimal:
    price = to_amount(price or 0)
    if not 0 <= price <= MAX_AMOUNT:
        raise DomainError("price_invalid", _("Enter a price not below zero and not above 100 000 000."), "price")
    return price


def _read_starts_at(moment: datetime, _visit: Visit) -> datetime:
    if not _FIRST <= moment < _LAST:
        raise DomainError("moment_invalid", _("Enter a day that can be meant."), "starts_at")
    return moment


def _read_employee(employee: Employee | None, visit: Visit) -> Employee | None:
    """One who has left, or works elsewhere by now, stays where he served."""
    if employee is None or employee.id == visit.employee_id:
        return employee
    if employee.branch_id != visit.branch_id or not employee.is_active:
        raise DomainError("employee_unavailable", _("This employee does not work in this branch."), "employee")
    return employee


_READ: dict[str, Callable[[Any, Visit], Any]] = {
    "service": _read_service,
    "starts_at": _read_starts_at,
    "price": _read_price,
    "employee": _read_employee,
    "comment": lambda text, _visit: text.strip(),
}
