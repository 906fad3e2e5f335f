"""A bill paid in person: in cash, or with what the payer keeps on a deposit."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillStatus
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.models import Account
from crm.ledger.operations import base_account
from crm.ledger.queries import entries_of
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk, top_up
from crm.subscriptions.operations import sell_subscription
from tests.factories import make_account, make_bill, make_child, make_client


@pytest.mark.spec("A1", "A2")
def test_a_deposit_pays_a_bill(network: Any) -> None:
    with transaction():
        payer = make_client(network.lesnoy)
        deposit = make_account(payer, balance=Decimal("1000.00"))
        bill = make_bill(payer, amount=Decimal("399.50"), account=base_account(payer.id, payer.branch_id))
    with transaction():
        payment = pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=deposit, by=network.administrator)
    assert (deposit.balance, bill.account.balance) == (Decimal("600.50"), Decimal("399.50"))
    assert bill.status is BillStatus.PAID
    assert (payment.method, payment.author_name) == (PaymentMethod.ACCOUNT, network.administrator.name)
    assert [entry.amount for entry in db.session.scalars(entries_of(deposit))] == [
        Decimal("-399.50"),
        Decimal("1000.00"),
    ]


@pytest.mark.spec("A3")
def test_a_parents_deposit_pays_for_a_childs_subscription(network: Any) -> None:
    with transaction():
        parent = make_client(network.lesnoy)
        deposit = make_account(parent, balance=Decimal("5000.00"))
        child = make_child(parent)
        sold = sell_subscription(child, network.plan, starts_on=date(2026, 11, 1), by=network.administrator)
        debt = base_account(parent.id, parent.branch_id)
        assert debt.balance == -sold.price
        bill = make_bill(child, amount=sold.price, account=debt)
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=deposit, by=network.administrator)
    assert debt.balance == 0
    assert deposit.balance == Decimal("5000.00") - sold.price


def test_cash_pays_a_bill_into_its_account(network: Any) -> None:
    with transaction():
        bill = make_bill(make_client(network.lesnoy), amount=Decimal("250.00"))
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=network.administrator)
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, Decimal("250.00"))


def test_a_deposit_pays_to_the_last_kopeck_and_no_further(network: Any) -> None:
    with transaction():
        payer = make_client(network.lesnoy)
        deposit = make_account(payer, balance=Decimal("250.00"))
        dear, exact = make_bill(payer, amount=Decimal("250.01")), make_bill(payer, amount=Decimal("250.00"))
    with pytest.raises(DomainError) as caught, transaction():
        pay_bill_at_desk(dear, method=PaymentMethod.ACCOUNT, account=deposit, by=network.administrator)
    assert caught.value.code == "not_enough"
    assert (deposit.balance, dear.status) == (Decimal("250.00"), BillStatus.PENDING)
    with transaction():
        pay_bill_at_desk(exact, method=PaymentMethod.ACCOUNT, account=deposit, by=network.administrator)
    assert deposit.balance == 0


def test_no_account_pays_what_is_not_on_it(network: Any) -> None:
    """A base account may be in debt for what was sold; a bill paid out of nothing would be a debt called a payment."""
    with transaction():
        payer = make_client(network.lesnoy)
        base = base_account(payer.id, payer.branch_id)
        top_up(base, amount=Decimal("99.99"), method=PaymentMethod.CASH, by=network.administrator)
        bill = make_bill(payer, amount=Decimal("100.00"), account=make_account(payer))
    with pytest.raises(DomainError) as caught, transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=base, by=network.administrator)
    assert (caught.value.code, caught.value.field) == ("not_enough", "account")
    assert (base.balance, bill.status, bill.account.balance) == (Decimal("99.99"), BillStatus.PENDING, 0)


def test_two_bills_at_once_do_not_spend_the_same_money(network: Any, in_parallel: Any) -> None:
    with transaction():
        payer = make_client(network.lesnoy)
        base = base_account(payer.id, payer.branch_id)
        top_up(base, amount=Decimal("150.00"), method=PaymentMethod.CASH, by=network.administrator)
        deposit = make_account(payer)
        ids = [make_bill(payer, amount=Decimal("100.00"), account=deposit).id for _ in range(4)]
    base_id = base.id

    def pay(index: int) -> str:
        with transaction():
            bill, source = db.session.get_one(Bill, ids[index]), db.session.get_one(Account, base_id)
            return pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=source, by=SYSTEM).status

    results = in_parallel(pay, 4)
    refused = [result for result in results if isinstance(result, DomainError)]
    assert [error.code for error in refused] == ["not_enough"] * 3, results
    db.session.expire_all()
    assert (base.balance, deposit.balance) == (Decimal("50.00"), Decimal("100.00"))


def test_another_clients_account_and_the_bills_own_are_refused(network: Any) -> None:
    with transaction():
        payer = make_client(network.lesnoy)
        foreign = make_account(make_client(network.lesnoy), balance=Decimal("900.00"))
        own = make_account(payer, balance=Decimal("900.00"))
        bill = make_bill(payer, amount=Decimal("100.00"), account=own)
    for account, code in ((foreign, "account_foreign"), (own, "account_same"), (None, "account_required")):
        with pytest.raises(DomainError) as caught, transaction():
            pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=account, by=network.administrator)
        assert caught.value.code == code


def test_a_paid_bill_is_not_paid_twice_at_the_desk(network: Any) -> None:
    with transaction():
        bill = make_bill(make_client(network.lesnoy), amount=Decimal("250.00"))
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=network.administrator)
    with pytest.raises(DomainError) as caught, transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CARD, by=network.administrator)
    assert caught.value.code == "paid"
    assert bill.account.balance == Decimal("250.00")
