"""Verbs on payments: take money at the desk, start an online payment. What becomes of it is in outcomes.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from flask_babel import force_locale
from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, System, require
from crm.access.models import Branch, Employee
from crm.audit.operations import transition
from crm.bills.models import Bill, BillBundle
from crm.bills.operations import check_payable, lock_bill
from crm.bills.sums import sum_of_payment
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import payer_of
from crm.db import db, transaction
from crm.errors import Conflict, DomainError
from crm.i18n import money
from crm.ledger.models import Account, AccountType, Unit
from crm.ledger.operations import check_amount, lock_funds, open_account
from crm.ledger.reach import check_within_reach
from crm.payments.crediting import AFTER_PAYMENT, account_to_credit, credit, credit_from, note
from crm.payments.gateways.base import CreatedPayment, Gateway, GatewayError, GatewayRefused, KeysRefused
from crm.payments.models import (
    PAYMENT_MOVES,
    Payment,
    PaymentEventKind,
    PaymentMethod,
    PaymentStatus,
    Shop,
    desk_methods,
)
from crm.payments.outcomes import accept_notice, customer_of, lock_order, reference_of
from crm.payments.shops import gateway_of
from crm.tills.models import Till

__all__ = [
    "AFTER_PAYMENT",
    "accept_notice",
    "account_to_credit",
    "open_account_paid",
    "pay_bill_at_desk",
    "pay_bill_from_account",
    "pay_bills_from_account",
    "start_payment",
    "top_up",
]

# While one click asks the bank for an order, no other does; longer than a gateway usually takes.
ASKING_LEASE = timedelta(seconds=90)
# How long another click waits for what the first is told.
PATIENCE_SECONDS = 3.0
PAUSE_SECONDS = 0.1
# Of what the bank is told, whatever the payer's browser reads: asked again, it must be told the same.
BANK_LANGUAGE = "ru"


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
    credit(payment, by=by, employee=employee, till=till, subscription_id=subscription_id)
    return payment


def pay_bill_from_account(
    bill: Bill, account: Account | None, *, by: Actor, amount: Decimal | None = None, comment: str = ""
) -> Payment:
    """Pay a bill with what the client has on another of his accounts, a deposit say. The caller commits.

    The sum, as sum_of_payment() has it, moves from `account` to the account the bill is for. Raises DomainError beside
    `account`: also as check_within_reach() does, "not_enough" when the sum is not there, on a base account too; and the
    texts of check_payable().
    """
    return pay_bills_from_account([bill], account, amount=amount, comment=comment, by=by)[0]


def pay_bills_from_account(
    bills: Sequence[Bill],
    account: Account | None,
    *,
    by: Actor,
    amount: Decimal | None = None,
    bundle: BillBundle | None = None,
    comment: str = "",
) -> list[Payment]:
    """Pay bills of one payer at once, all or none, as pay_bill_from_account() does one: one order, as several bills
    paid at once at the bank are. amount: of one bill; bundle: they are paid under its link. The caller commits.
    """
    if account is None:
        raise DomainError("account_required", _("Choose the account to pay from."), "account")
    require(by, "account.spend", account)
    bills = sorted(bills, key=lambda bill: bill.id)
    for bill in bills:
        if account.client_id != bill.client_id or account.unit is not Unit.MONEY:
            raise DomainError("account_foreign", _("This account belongs to another client."), "account")
        check_within_reach(bill.branch, account.branch, field="account")
        lock_bill(bill)
        check_payable(bill)
    sums = [sum_of_payment(bill, amount) for bill in bills]
    destinations = [account_to_credit(bill.account) for bill in bills]
    if account.id in {destination.id for destination in destinations}:
        raise DomainError("account_same", _("The bill tops up this very account; choose another."), "account")
    lock_funds(account, sum(sums, Decimal(0)), *destinations, field="account")
    payments = list[Payment]()
    for bill, asked in zip(bills, sums, strict=True):
        payment = Payment(
            branch_id=bill.branch_id,
            client_id=bill.client_id,
            account_id=bill.account_id,
            bill_id=bill.id,
            order_id=payments[0].id if payments else None,
            bundle_id=bundle.id if bundle else None,
            method=PaymentMethod.ACCOUNT,
            amount=asked,
            created_at=clock.now(),
            author_id=by.id,
            author_name=str(by.name),
            comment=comment,
        )
        db.session.add(payment)
        db.session.flush()
        payments.append(payment)
    credit_from(account, payments, by=by)
    return payments


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


def start_payment(
    bills: Bill | Sequence[Bill],
    *,
    gateway: Gateway,
    shop: Shop | None = None,
    return_url: str,
    amount: Decimal | None = None,
    bundle: BillBundle | None = None,
) -> Payment:
    """Begin to pay a bill, or several of one payer in one branch, online; the first payment of the bank's order, with
    its confirmation_url.

    shop: whose contract; None: of the demo bank. return_url: where the bank sends the client afterwards;
    `?payment=<id>` is added to it. amount: of one bill, by the rules of its company; what is due by default. bundle:
    the bills are paid under its link.
    Two clicks get the same order while it is unfinished, if bills and sums are the same, and only one of them asks the
    bank for it; what the bank has finished meanwhile of any of the bills is noted first.
    Raises DomainError when a bill is not payable now, beside `amount` ("amount_exact", "amount_too_small",
    "amount_too_big"), or "being_begun" when another click is still asking; GatewayError when the bank does not answer.
    Commits by itself: the gateway is asked between short transactions, with the first payment's name as its key.
    """
    bills = sorted([bills] if isinstance(bills, Bill) else bills, key=lambda bill: bill.id)
    if len({(bill.branch_id, bill.client_id) for bill in bills}) != 1 or (amount is not None and len(bills) > 1):
        raise ValueError("bills of one payer in one branch, or a sum for one bill")
    shop_id = shop.id if shop is not None else None
    for known in [order[0] for order in _unfinished_orders(bills)]:
        _ask_again(known, gateway, shop_id)
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        with transaction():
            for bill in bills:
                lock_bill(bill)  # of two clicks the second finds the first one's order
                check_payable(bill)
            sums = {bill.id: sum_of_payment(bill, amount) for bill in bills}
            orders = _unfinished_orders(bills)
            payments = next((order for order in orders if _is_for(order, sums, gateway, shop_id)), None)
            if payments is None:
                payments = _begin_order(bills, sums, gateway, shop_id, bundle)
            payment = payments[0]
            if payment.confirmation_url is not None:
                return payment
            if payment.asking_until is None or payment.asking_until <= clock.now():
                payment.asking_until = lease = clock.now() + ASKING_LEASE
                number = payment.external_id
                ask = {
                    "amount": sum((each.amount for each in payments), Decimal(0)),
                    "currency": bills[0].branch.company.currency,
                    "description": _description(bills),
                    "return_url": f"{return_url}?payment={payment.id}",
                    "idempotence_key": reference_of(payment),
                    "reference": reference_of(payment),
                    "customer": customer_of(payment),
                }
                break
        if time.monotonic() >= patience:
            raise DomainError(
                "being_begun", _("This payment is being begun already. Please press the button again in a few seconds.")
            )
        time.sleep(PAUSE_SECONDS)
    try:
        created = gateway.create(**ask)  # with nothing read or locked: the bank takes its time
    except GatewayRefused as refused:  # for good: the next click begins anew, under another key
        _give_up(payment, str(refused))
        raise
    except GatewayError:  # nobody knows: the next click asks the same again
        with transaction():
            _end_lease(lock_order(payment)[0], lease)
        raise
    with transaction():
        lock_order(payment)
        _end_lease(payment, lease)
        if is_ours := payment.external_id in {None, number, created.external_id}:
            _note_created(payment, created, text=money(ask["amount"], ask["currency"]))
    if not is_ours:  # this order is shown to nobody
        raise GatewayError(_("This order is being paid at the bank at the moment."))
    return payment


def _note_created(payment: Payment, created: CreatedPayment, *, text: str) -> None:
    if payment.external_id is None:
        note(payment, PaymentEventKind.STARTED, text)
    payment.external_id, payment.confirmation_url = created.external_id, created.confirmation_url


def _end_lease(payment: Payment, lease: datetime) -> None:
    """Unless it ran out, and another click has taken it."""
    if payment.asking_until == lease:
        payment.asking_until = None


def _description(bills: Sequence[Bill]) -> str:
    """For the bank's form, which takes 128 characters."""
    numbers = ", ".join(bill.title for bill in bills)
    with force_locale(BANK_LANGUAGE):
        if len(bills) == 1:
            return _("Bill %(number)s", number=numbers)
        text = _("Bills %(numbers)s", numbers=numbers)
    return text if len(text) <= 128 else f"{text[:127]}…"


def _unfinished_orders(bills: Sequence[Bill]) -> list[list[Payment]]:
    """The orders in which one of the bills is being paid online, each with all its payments in id order. One that is
    held for a person is as good as finished.
    """
    awaited = select(Payment).where(
        Payment.bill_id.in_([bill.id for bill in bills]),
        Payment.status == PaymentStatus.PENDING,
        Payment.method == PaymentMethod.ONLINE,
    )
    found = db.session.scalars(awaited.order_by(Payment.id)).all()
    leaders = sorted({payment.order_id or payment.id for payment in found})
    if not leaders:
        return []
    every = db.session.scalars(
        select(Payment)
        .where(Payment.id.in_(leaders) | Payment.order_id.in_(leaders))
        .order_by(Payment.id)
        .execution_options(populate_existing=True)
    ).all()
    orders = [[payment for payment in every if (payment.order_id or payment.id) == leader] for leader in leaders]
    return [order for order in orders if order[0].attention is None]


def _is_for(order: Sequence[Payment], sums: Mapping[int, Decimal], gateway: Gateway, shop_id: int | None) -> bool:
    asked = {payment.bill_id: payment.amount for payment in order}
    return asked == sums and (order[0].gateway, order[0].shop_id) == (gateway.name, shop_id)


def _ask_again(payment: Payment, gateway: Gateway, shop_id: int | None) -> None:
    """Note what the bank has finished meanwhile."""
    if payment.external_id is None:
        return
    is_here = (payment.gateway, payment.shop_id) == (gateway.name, shop_id)
    try:
        accept_notice(gateway if is_here else gateway_of(payment), payment.external_id)
    except (LookupError, KeysRefused):
        if is_here:
            raise
        # that bank is not connected any more, or lets us in no more


def _begin_order(
    bills: Sequence[Bill],
    sums: Mapping[int, Decimal],
    gateway: Gateway,
    shop_id: int | None,
    bundle: BillBundle | None,
) -> list[Payment]:
    """A payment for each bill; the others point at the first."""
    payments: list[Payment] = []
    for bill in bills:
        payment = Payment(
            branch_id=bill.branch_id,
            client_id=bill.client_id,
            account_id=bill.account_id,
            bill_id=bill.id,
            method=PaymentMethod.ONLINE,
            amount=sums[bill.id],
            gateway=gateway.name,
            shop_id=shop_id,
            order_id=payments[0].id if payments else None,
            bundle_id=bundle.id if bundle is not None else None,
            created_at=clock.now(),
            author_name=gateway.name,
        )
        db.session.add(payment)
        db.session.flush()
        payments.append(payment)
    return payments


def _give_up(payment: Payment, reason: str) -> None:
    with transaction():
        for each in lock_order(payment):
            each.asking_until = None
            try:
                transition(each, PAYMENT_MOVES, PaymentStatus.CANCELED, by=System(each.gateway or ""))
            except Conflict:
                return  # another click has come through
            note(each, PaymentEventKind.CANCELED, reason)
