"""Operations on a client's account at the desk: write off, refund, transfer, reverse; closing and reopening it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import Select, or_, select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Employee
from crm.audit.models import AuditAction
from crm.audit.operations import record, transition
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import lock_bill, unsettle_bill
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.debts.queries import FORGIVING, forgiven_by, forgiven_of
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.i18n import moment, money
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import (
    Cause,
    Line,
    check_amount,
    heir_of,
    house_account,
    is_reversed,
    lock_accounts,
    lock_funds,
    post,
    reverse,
)
from crm.ledger.queries import open_accounts_of
from crm.ledger.reach import check_within_reach, is_within_reach
from crm.payments.models import PAYMENT_MOVES, Payment, PaymentMethod, PaymentStatus
from crm.subscriptions.models import Subscription, SubscriptionStatus
from crm.tills.models import Till
from crm.tills.operations import hold_till, hold_tills

# How money is given back. What was paid online is given back in one of these ways too.
REFUND_METHODS = (PaymentMethod.CASH, PaymentMethod.CARD, PaymentMethod.BANK)


def write_off(
    account: Account, *, amount: Decimal, reason: str, by: Actor, employee: Employee | None = None
) -> Transaction:
    """Take `amount` off the account to the branch's revenue, for a reason. The caller commits.

    Raises DomainError beside `amount` or `reason`; "not_enough" on a base account too: a debt is accrued, not written
    off.
    """
    _require_own(account, "account.write_off", by)
    amount = check_amount(amount)
    reason = _said(reason, _("Say what it is written off for."), "reason")
    _check_employee(employee, account)
    revenue = house_account(AccountKind.REVENUE, account.branch_id)
    lock_funds(account, amount)
    return post(
        TransactionKind.WRITE_OFF,
        [Line(account, -amount), Line(revenue, amount)],
        branch_id=account.branch_id,
        by=by,
        cause=_cause(account, employee),
        comment=reason,
    )


def refund(
    account: Account,
    *,
    amount: Decimal,
    method: PaymentMethod | None,
    by: Actor,
    till: Till | None = None,
    employee: Employee | None = None,
    comment: str = "",
) -> Transaction:
    """Give `amount` of the account back to the payer: in cash, to his card or to his bank. The caller commits.

    till: where the money is taken from; the branch's first of the method's kind by default.
    Raises DomainError beside `amount`, `method` or `till`: no more than there is on the account, and in the cash desk.
    """
    _require_own(account, "account.refund", by)
    amount = check_amount(amount)
    if method not in REFUND_METHODS:
        raise DomainError("method_required", _("Choose how the money is given back."), "method")
    _check_employee(employee, account)
    source = hold_till(method.till_kind, account.branch_id, till, pays_out=amount)
    lock_funds(account, amount)
    return post(
        TransactionKind.REFUND,
        [Line(account, -amount), Line(source, amount)],
        branch_id=account.branch_id,
        by=by,
        cause=_cause(account, employee),
        comment=comment,
    )


def transfer(
    source: Account,
    target: Account | None,
    *,
    amount: Decimal,
    by: Actor,
    employee: Employee | None = None,
    comment: str = "",
) -> Transaction:
    """Move `amount` to another account: of the same family, or, with a permission of its own, of another client; within
    one city and one company. The caller commits.

    Raises DomainError beside `amount` or `target`.
    """
    amount = check_amount(amount)
    return _transfer(source, target, amount=amount, by=by, employee=employee, comment=comment)


def _transfer(
    source: Account,
    target: Account | None,
    *,
    amount: Decimal,
    by: Actor,
    employee: Employee | None = None,
    comment: str = "",
) -> Transaction:
    """transfer() of a sum nobody has typed, which may be bigger."""
    if target is None:
        raise DomainError("account_required", _("Choose the account to transfer to."), "target")
    is_family = _payer_id(source) == _payer_id(target)
    for account in (source, target):
        _require_own(account, "account.transfer" if is_family else "account.transfer_out", by)
    _check_employee(employee, source)
    _check_destination(source, target, is_family=is_family)
    lock_funds(source, amount, target)
    return post(
        TransactionKind.TRANSFER,
        [Line(source, -amount), Line(target, amount)],
        branch_id=source.branch_id,
        by=by,
        cause=_cause(source, employee),
        comment=comment,
    )


def _check_destination(source: Account, target: Account, *, is_family: bool) -> None:
    if source.id == target.id:
        raise DomainError("account_same", _("Choose another account: this is the one the money comes from."), "target")
    check_within_reach(source.branch, target.branch, field="target")
    if not is_family and (target.client is None or target.client.status is ClientStatus.ARCHIVED):
        raise DomainError("client_archived", _("The client's card is in the archive."), "target")


def _payer_id(account: Account) -> int | None:
    """Who pays for the owner of the account: one for all accounts of a family."""
    return (account.client.payer_id if account.client is not None else None) or account.client_id


# --- reversal -------------------------------------------------------------------------------------------------------

# Why operations of a kind are not reversed by hand.
_IRREVERSIBLE = {
    TransactionKind.SALE: _l("A sale is undone by returning the subscription, not by a reversal."),
    TransactionKind.DISCOUNT: _l("A sale is undone by returning the subscription, not by a reversal."),
    TransactionKind.LESSON: _l("A lesson that was written off comes back when its mark is changed."),
    TransactionKind.RETURN: _l("A return is not undone: sell the subscription anew."),
    TransactionKind.CASH_COUNT: _l("A cash count is corrected by counting again."),
    TransactionKind.REVERSAL: _l("A reversal cannot be reversed; repeat the operation instead."),
}

# What else is needed to take back what only some may do.
PERMISSIONS_OF_LESSONS = {
    TransactionKind.GRANT: "subscription.add_lessons",
    TransactionKind.LESSONS_TRANSFER: "subscription.transfer_lessons",
}
_PERMISSIONS = PERMISSIONS_OF_LESSONS | {
    TransactionKind.DEBT: "account.debt",
    TransactionKind.DEBT_WRITE_OFF: "account.debt",
    TransactionKind.BAD_DEBT: "account.bad_debt",
    TransactionKind.CASH_MOVE: "till.move",
    TransactionKind.CASH_OTHER: "till.move",
}


def may_reverse(operation: Transaction, by: Actor) -> bool:
    """Whether `by` has what reversing an operation of its kind needs."""
    needed = _PERMISSIONS.get(operation.kind)
    return by.may("account.reverse") and (needed is None or by.may(needed))


def check_reversible(operation: Transaction) -> None:
    """Raise DomainError "irreversible", "forgiven", "forgiven_and_gone", or Conflict "already_reversed", with the
    reason in words.
    """
    if (reason := _IRREVERSIBLE.get(operation.kind)) is not None:
        raise DomainError("irreversible", reason)
    payment = db.session.get(Payment, operation.payment_id) if operation.payment_id is not None else None
    if payment is not None and payment.method is PaymentMethod.ONLINE:
        raise DomainError("irreversible", _("This was paid online: make a refund instead."))
    if is_reversed(operation):
        raise Conflict("already_reversed", _("This operation has already been reversed."))
    if operation.kind in PERMISSIONS_OF_LESSONS:
        _check_subscriptions_last(operation)
    _check_forgiven(operation)


def _check_forgiven(operation: Transaction) -> None:
    """Nothing forgiven turns into money, and what was taken back since is not owed again. For good only while the
    accounts are locked.
    """
    if forgiven_of([operation.id]):
        raise DomainError("forgiven", _("A debt for this operation was written off: reverse the writing-off first."))
    if operation.kind not in FORGIVING:
        return
    if any(entry.amount < 0 and entry.account.client_id is not None for entry in operation.entries if entry.account):
        raise DomainError("irreversible", _("This belongs to a mark that was changed: it is not reversed by itself."))
    covered = forgiven_by(operation)
    ended = select(Subscription).where(
        Subscription.id.in_([one.subscription_id for one in covered if one.subscription_id is not None]),
        Subscription.status.in_([SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED]),
    )
    if (subscription := db.session.scalar(ended.order_by(Subscription.id).limit(1))) is not None:
        raise DomainError(
            "forgiven_and_gone",
            _(
                "It was written off for the subscription %(name)s, which is “%(status)s” by now: a reversal would make"
                " a debt for what was taken back.",
                name=subscription,
                status=subscription.status.label,
            ),
        )
    undone = select(Transaction.id).where(Transaction.reverses_id.in_([one.transaction_id for one in covered])).limit(1)
    if db.session.scalar(undone) is not None:
        raise DomainError(
            "forgiven_and_gone",
            _("What it was written off for has been taken back since: a reversal would make a debt for nothing."),
        )


def _subscriptions_of(operation: Transaction) -> Select[Subscription]:
    """Those lessons of which it moves."""
    moved = select(Account.subscription_id).join(Entry).where(Entry.transaction_id == operation.id)
    return select(Subscription).where(Subscription.id.in_(moved)).order_by(Subscription.id)


def _check_subscriptions_last(operation: Transaction) -> None:
    """Lessons do not go back to a subscription that has been returned."""
    living = [SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN]
    query = _subscriptions_of(operation).where(Subscription.status.not_in(living)).limit(1)
    if (ended := db.session.scalar(query)) is not None:
        raise DomainError(
            "irreversible",
            _("The subscription %(name)s is “%(status)s” by now.", name=ended, status=ended.status.label),
        )


def refusal_of_reversal(operation: Transaction) -> str | None:
    """Why an operation cannot be reversed, for who looks at it; None when it can."""
    try:
        check_reversible(operation)
    except DomainError as refused:
        return str(refused)
    return None


def reverse_operation(operation: Transaction, *, by: Actor, comment: str) -> Transaction:
    """Undo an operation entered by mistake, by its mirror image through the same accounts and the same till, and what
    came of it: its payment is reversed, the bill awaits payment again, a visit is unpaid. The caller commits.

    A correction hands nothing out, so it does not ask how much cash there is. Raises as check_reversible(),
    hold_tills() and post() do; Forbidden "foreign_branch" when one of the accounts is out of sight, and without the
    permission for what only some may do.
    """
    require(by, "account.reverse", operation)
    if needed := _PERMISSIONS.get(operation.kind):
        require(by, needed)
    comment = _said(comment, _("Say why it is reversed."), "comment")
    # Of two who reverse it one waits here, before anything is undone.
    db.session.execute(select(Transaction.id).where(Transaction.id == operation.id).with_for_update(key_share=True))
    if operation.kind in PERMISSIONS_OF_LESSONS:  # nor is one of them returned meanwhile
        locked = _subscriptions_of(operation).with_for_update(key_share=True, of=Subscription)
        db.session.scalars(locked.execution_options(populate_existing=True)).all()
    check_reversible(operation)
    accounts = [entry.account for entry in operation.entries]
    if None in accounts:
        raise Forbidden("foreign_branch", _("An account of another branch takes part in this operation."))
    if operation.payment_id is not None:
        _take_back(operation.payment_id, by=by)
    tills = select(Till).where(Till.account_id.in_([account.id for account in accounts]))
    hold_tills(dict.fromkeys(db.session.scalars(tills), Decimal(0)))
    lock_accounts([heir_of(account) for account in accounts])
    _check_forgiven(operation)
    return reverse(operation, by=by, comment=comment)


def _take_back(payment_id: int, *, by: Actor) -> None:
    """The payment is reversed, its bill awaits payment again."""
    payment = db.session.get_one(Payment, payment_id)
    if payment.bill_id is not None and payment.bill is None:
        raise Forbidden("foreign_branch", _("The bill that was paid belongs to another branch."))
    transition(payment, PAYMENT_MOVES, PaymentStatus.REVERSED, by=by)
    if payment.bill is not None:
        lock_bill(payment.bill)
        unsettle_bill(payment.bill, payment.amount, by=by)


# --- closing --------------------------------------------------------------------------------------------------------


def close_account(account: Account, *, by: Actor, transfer_to: Account | None = None, comment: str = "") -> Account:
    """Close a deposit: at zero, or with what is left moved to another account of the family. The caller commits.

    Refused while a bill that awaits payment asks for it, or an online payment to it is under way. Money that comes all
    the same is put on the base account (payments.operations.account_to_credit).
    Raises DomainError; what is wrong with transfer_to, or its lack, beside `target`.
    """
    _require_own(account, "account.close", by)
    if account.kind is not AccountKind.DEPOSIT:
        raise DomainError("not_a_deposit", _("The base account is not closed: debts and payments are kept on it."))
    if transfer_to is not None and _payer_id(account) != _payer_id(transfer_to):
        raise DomainError("account_foreign", _("This account belongs to another client."), "target")
    left = lock_accounts([account, *([transfer_to] if transfer_to is not None else [])])[account.id]
    _check_not_awaited(account)
    if left and transfer_to is None:
        raise DomainError(
            "balance_left", _("There is money on the account: choose where it goes, or refund it."), "target"
        )
    if left:
        _transfer(account, transfer_to, amount=left, by=by, comment=comment)
    _note_closing(account, clock.now(), comment, by=by)
    return account


def reopen_account(account: Account, *, by: Actor, comment: str = "") -> Account:
    """Open a closed deposit again, at zero. The caller commits."""
    _require_own(account, "account.close", by)
    db.session.refresh(account, ["closed_at"], with_for_update={"key_share": True})
    if not account.is_closed:
        raise DomainError("account_open", _("The account is open."))
    if account.kind is not AccountKind.DEPOSIT:
        raise DomainError("not_a_deposit", _("This account was closed when two cards were merged; it stays closed."))
    _note_closing(account, None, comment, by=by)
    return account


def places_for_rest(account: Account) -> list[Account]:
    """The open accounts what is left on `account` can be moved to: the others of the family within reach."""
    return [other for other in family_accounts(account) if is_within_reach(account.branch, other.branch)]


def _note_closing(account: Account, closed_at: datetime | None, comment: str, *, by: Actor) -> None:
    account.closed_at = closed_at
    db.session.flush()
    if comment := " ".join(comment.split()):
        record(AuditAction.UPDATE, account, {"comment": [None, comment]}, by=by)


def _check_not_awaited(account: Account) -> None:
    bill = db.session.scalar(
        select(Bill).where(Bill.account_id == account.id, Bill.status == BillStatus.PENDING).order_by(Bill.id).limit(1)
    )
    if bill is not None:
        raise DomainError(
            "bill_awaits",
            _("Bill %(number)s asks for money to this account: take its payment or archive it.", number=bill.title),
        )
    payment = db.session.scalar(
        select(Payment)
        .where(Payment.account_id == account.id, Payment.status == PaymentStatus.PENDING)
        .order_by(Payment.id)
        .limit(1)
    )
    if payment is not None:
        raise DomainError(
            "payment_pending",
            _(
                "An online payment of %(sum)s to this account is under way (%(moment)s): wait until it is finished.",
                sum=money(payment.amount),
                moment=moment(payment.created_at, account.branch.time_zone),
            ),
        )


# --- common ---------------------------------------------------------------------------------------------------------


def family_accounts(account: Account) -> list[Account]:
    """The other open money accounts of the family, the payer's first."""
    payer_id = _payer_id(account)
    family = select(Client.id).where(or_(Client.id == payer_id, Client.payer_id == payer_id))
    ids = sorted({*db.session.scalars(family)}, key=lambda id: (id != payer_id, id))
    return [other for id in ids for other in open_accounts_of(id) if other.id != account.id]


def _require_own(account: Account, permission: str, by: Actor) -> None:
    """Only a client's money is operated on; what is counted otherwise does not exist here."""
    require(by, permission, account)
    if account.client_id is None or account.unit is not Unit.MONEY:
        raise NotFound("not_found", _("The account was not found in this branch."))


def _check_employee(employee: Employee | None, account: Account) -> None:
    if employee is not None and (employee.branch_id != account.branch_id or not employee.is_active):
        raise DomainError("employee_unavailable", _("This employee does not work in this branch."), "employee")


def _said(text: str, demand: str, field: str) -> str:
    text = text.strip()
    if not text:
        raise DomainError(f"{field}_required", demand, field)
    return text


def _cause(account: Account, employee: Employee | None) -> Cause:
    return Cause(client_id=account.client_id, employee_id=employee.id if employee is not None else None)
