"""Verbs on payments: take money at the desk, start an online payment, believe the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM, Actor, System, require
from crm.access.models import Branch, Employee
from crm.audit.operations import transition
from crm.bills.models import Bill
from crm.bills.operations import check_payable, lock_bill, settle_bill
from crm.bills.sums import sum_of_payment
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import payer_of
from crm.db import db, end_reading, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account, AccountKind, AccountType, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, check_amount, lock_funds, open_account, post
from crm.ledger.reach import check_within_reach
from crm.payments.gateways.base import Gateway, RemotePayment, RemoteStatus
from crm.payments.models import PAYMENT_MOVES, Payment, PaymentMethod, PaymentStatus, desk_methods
from crm.tills.models import Till
from crm.tills.operations import hold_till


def open_account_paid(
    client: Client,
    account_type: AccountType,
    *,
    branch: Branch | None,
    initial_balance: Decimal | None,
    method: PaymentMethod | None,
    by: Actor,
    employee: Employee | None = None,
    till: Till | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Account:
    """Open a deposit; with an initial balance also take its payment, both or neither. till: where that money goes, the
    branch's first of the method's kind by default; custom: values of the company's own fields, by key. The caller
    commits.

    Raises DomainError "client_archived", beside `initial_balance`, or as open_account() and top_up() do.
    """
    if initial_balance:
        check_amount(initial_balance, field="initial_balance")
    payer = payer_of(client)
    if ClientStatus.ARCHIVED in {client.status, payer.status}:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
    account = open_account(
        client_id=payer.id, account_type=account_type, branch=branch, by=by, employee=employee, custom=custom
    )
    if initial_balance:
        top_up(account, amount=initial_balance, method=method, by=by, employee=employee, till=till)
    return account


def top_up(
    account: Account,
    *,
    amount: Decimal,
    method: PaymentMethod | None,
    by: Actor,
    employee: Employee | None = None,
    bill: Bill | None = None,
    till: Till | None = None,
    subscription_id: int | None = None,
    comment: str = "",
) -> Payment:
    """Take `amount` at the desk onto a client's account. The caller commits.

    till: where the money goes; the branch's first of the method's kind by default. A bank transfer is noted only by who
    may move money between tills. subscription_id: the one the money is taken for, at its sale.
    Raises DomainError beside `amount`, `method` or `till`.
    """
    require(by, "account.top_up", account)
    if method not in desk_methods(by):
        raise DomainError("method_required", _("Choose how it was paid: in cash or by card."), "method")
    amount = check_amount(amount)
    if bill is not None and bill.client_id != account.client_id:
        raise DomainError("bill_foreign", _("This bill belongs to another client."), "bill")
    assert account.client_id is not None
    payment = Payment(
        branch_id=account.branch_id,
        client_id=account.client_id,
        account_id=account.id,
        bill_id=bill.id if bill else None,
        method=method,
        amount=amount,
        created_at=clock.now(),
        author_id=by.id,
        author_name=str(by.name),
        comment=comment,
    )
    db.session.add(payment)
    db.session.flush()
    _credit(payment, by=by, employee=employee, till=till, subscription_id=subscription_id)
    return payment


def pay_bill_from_account(
    bill: Bill, account: Account | None, *, by: Actor, amount: Decimal | None = None, comment: str = ""
) -> Payment:
    """Pay a bill with what the client has on another of his accounts, a deposit say. The caller commits.

    The sum, as sum_of_payment() has it, moves from `account` to the account the bill is for. Raises DomainError beside
    `account`: also as check_within_reach() does, "not_enough" when the sum is not there, on a base account too; and the
    texts of check_payable().
    """
    if account is None:
        raise DomainError("account_required", _("Choose the account to pay from."), "account")
    require(by, "account.spend", account)
    if account.client_id != bill.client_id or account.unit is not Unit.MONEY:
        raise DomainError("account_foreign", _("This account belongs to another client."), "account")
    check_within_reach(bill.branch, account.branch, field="account")
    lock_bill(bill)
    check_payable(bill)
    amount = sum_of_payment(bill, amount)
    destination = account_to_credit(bill.account)
    if account.id == destination.id:
        raise DomainError("account_same", _("The bill tops up this very account; choose another."), "account")
    lock_funds(account, amount, destination, field="account")
    payment = Payment(
        branch_id=bill.branch_id,
        client_id=bill.client_id,
        account_id=bill.account_id,
        bill_id=bill.id,
        method=PaymentMethod.ACCOUNT,
        amount=amount,
        created_at=clock.now(),
        author_id=by.id,
        author_name=str(by.name),
        comment=comment,
    )
    db.session.add(payment)
    db.session.flush()
    _credit(payment, by=by, source=account)
    return payment


def pay_bill_at_desk(
    bill: Bill,
    *,
    method: PaymentMethod | None,
    by: Actor,
    amount: Decimal | None = None,
    account: Account | None = None,
    till: Till | None = None,
    comment: str = "",
) -> Payment:
    """Take the payment of a bill in person: as top_up() does, into `till`, or from the client's `account`. amount: as
    sum_of_payment() has it, what is due by default. The caller commits.
    """
    if method is PaymentMethod.ACCOUNT:
        return pay_bill_from_account(bill, account, amount=amount, comment=comment, by=by)
    lock_bill(bill)
    check_payable(bill)
    amount = sum_of_payment(bill, amount)
    return top_up(bill.account, amount=amount, method=method, bill=bill, till=till, comment=comment, by=by)


def start_payment(bill: Bill, *, gateway: Gateway, return_url: str) -> Payment:
    """Begin to pay a bill online and return the payment with its confirmation_url.

    return_url: where the bank sends the client afterwards; `?payment=<id>` is added to it.
    Two clicks get the same payment while it is unfinished; one the bank has finished meanwhile is noted first.
    Raises DomainError when the bill is not payable now, GatewayError when the bank does not answer.
    Commits by itself: the gateway is asked between short transactions, with the payment's id as its key.
    """
    if (unfinished := _unfinished_payment(bill, gateway)) and unfinished.external_id is not None:
        accept_notice(gateway, unfinished.external_id)
    with transaction():
        lock_bill(bill)  # of two clicks the second finds the first one's payment
        check_payable(bill)
        payment = _unfinished_payment(bill, gateway)
        if payment is None:
            payment = Payment(
                branch_id=bill.branch_id,
                client_id=bill.client_id,
                account_id=bill.account_id,
                bill_id=bill.id,
                method=PaymentMethod.ONLINE,
                amount=bill.amount,
                gateway=gateway.name,
                created_at=clock.now(),
                author_name=gateway.name,
            )
            db.session.add(payment)
            db.session.flush()
        if payment.confirmation_url is not None:
            return payment
        ask = {
            "amount": payment.amount,
            "currency": bill.branch.company.currency,
            "description": _("Bill %(number)s", number=bill.title),
            "return_url": f"{return_url}?payment={payment.id}",
            "idempotence_key": f"payment-{payment.id}",
            "reference": f"payment-{payment.id}",
        }
    created = gateway.create(**ask)  # with nothing read or locked: the bank takes its time
    with transaction():
        payment.external_id = created.external_id
        payment.confirmation_url = created.confirmation_url
    return payment


def _unfinished_payment(bill: Bill, gateway: Gateway) -> Payment | None:
    return db.session.scalar(
        select(Payment)
        .where(Payment.bill_id == bill.id, Payment.status == PaymentStatus.PENDING, Payment.gateway == gateway.name)
        .order_by(Payment.id)
        .limit(1)
    )


def accept_notice(gateway: Gateway, external_id: str) -> Payment:
    """A gateway said something about one of its payments: ask it what is true and act on that. Commits by itself.

    Safe to repeat and to run in parallel: the payment's row lock lets one in at a time, the status moves once and the
    ledger key is the payment's id.
    Raises NotFound for a payment we did not start, DomainError "amount_differs" when the sums disagree (nothing is
    credited, the payment's comment says why), GatewayError when the bank does not answer.
    """
    end_reading()
    remote = gateway.fetch(external_id)
    with transaction():
        payment = db.session.scalar(
            select(Payment)
            .where(Payment.gateway == gateway.name, Payment.external_id == external_id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
        if payment is None:
            raise NotFound("payment_not_found", _("There is no such payment."))
        differs = remote.status is RemoteStatus.SUCCEEDED and remote.amount != payment.amount
        if differs:
            payment.comment = _("The bank reports the sum %(sum)s.", sum=format(remote.amount, "f"))
        else:
            _apply_remote(payment, remote, by=System(gateway.name))
    if differs:
        raise DomainError("amount_differs", _("The gateway reports another sum than was asked for."))
    return payment


def _apply_remote(payment: Payment, remote: RemotePayment, *, by: Actor) -> None:
    """Act on what the bank says. The caller holds the payment's row lock, so its status is the last word."""
    if remote.status is RemoteStatus.SUCCEEDED:
        _credit(payment, by=by)
    elif remote.status is RemoteStatus.CANCELED and payment.status is PaymentStatus.PENDING:
        transition(payment, PAYMENT_MOVES, PaymentStatus.CANCELED, by=by)


def _credit(
    payment: Payment,
    *,
    by: Actor = SYSTEM,
    employee: Employee | None = None,
    source: Account | None = None,
    till: Till | None = None,
    subscription_id: int | None = None,
) -> None:
    """Move the payment to succeeded, credit its account, settle its bill: all in the caller's transaction, once.

    source: the client's account the money comes from; a till of the payment's method by default, the one given or the
    first.
    """
    if payment.status is PaymentStatus.SUCCEEDED:
        return
    if payment.bill is not None:
        lock_bill(payment.bill)
    if source is None:
        source = hold_till(payment.method.till_kind, payment.branch_id, till)
        _hold_destination(payment.account)
    if payment.bill_id is not None:  # nobody has chosen the account now
        account = account_to_credit(payment.account)
        if account.id != payment.account_id:
            said = _("The account “%(name)s” is closed; the money is on the base account.", name=payment.account.title)
            payment.account, payment.comment = account, " ".join(filter(None, [payment.comment, said]))
            db.session.flush()
    transition(payment, PAYMENT_MOVES, PaymentStatus.SUCCEEDED, by=by, received_at=clock.now())
    post(
        TransactionKind.TOP_UP if source.kind.is_till else TransactionKind.TRANSFER,
        [Line(payment.account, payment.amount), Line(source, -payment.amount)],
        branch_id=payment.branch_id,
        by=by,
        key=f"payment:{payment.id}",
        cause=Cause(
            client_id=payment.client_id,
            payment_id=payment.id,
            bill_id=payment.bill_id,
            subscription_id=subscription_id,
            employee_id=employee.id if employee else None,
        ),
        comment=payment.comment,
    )
    if payment.bill is not None:
        settle_bill(payment.bill, payment.amount, by=by)


def _hold_destination(account: Account) -> None:
    """Lock the account and the base account beside it, in id order: neither is closed before the money is there."""
    is_base = (
        (Account.kind == AccountKind.BASE)
        & (Account.client_id == account.client_id)
        & (Account.branch_id == account.branch_id)
    )
    db.session.execute(
        select(Account.id)
        .where((Account.id == account.id) | is_base)
        .order_by(Account.id)
        .with_for_update(key_share=True)
    )


def account_to_credit(account: Account) -> Account:
    """The account itself; the client's base account instead of one that was closed before its money came: nothing is
    lost.
    """
    db.session.refresh(account, ["closed_at"])
    if not account.is_closed:
        return account
    assert account.client_id is not None
    return base_account(account.client_id, account.branch_id)
