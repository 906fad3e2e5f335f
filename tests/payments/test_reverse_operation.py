"""A mistake at the desk is undone, with what came of it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.clock import now
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import close_account, refund, reverse_operation, transfer, write_off
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import accept_notice, pay_bill_at_desk
from crm.tills.models import Till, TillKind
from crm.tills.operations import new_till
from crm.visits.models import WayToPay
from crm.visits.operations import book_visit, pay_visit
from tests.bank import begin, pay_at
from tests.factories import house_balance, make_account, make_bill, make_client, make_payment, make_subscription


def last(kind: TransactionKind | None = None) -> Transaction:
    query = select(Transaction).order_by(Transaction.id.desc()).limit(1)
    return db.session.scalars(query if kind is None else query.where(Transaction.kind == kind)).one()


def undo(operation: Transaction, **changes: Any) -> Transaction:
    with transaction():
        return reverse_operation(operation, **{"by": SYSTEM, "comment": "Ошиблись", **changes})


def refusal(operation: Transaction, **changes: Any) -> str:
    with pytest.raises(DomainError) as caught:
        undo(operation, **changes)
    return caught.value.code


def test_a_top_up_is_undone_with_its_payment(network: Any) -> None:
    account = make_account(make_client(network.lesnoy))
    payment = make_payment(account, 500)
    done = undo(last(), by=network.director)
    assert (account.balance, house_balance(AccountKind.CASH, network.lesnoy)) == (0, 0)
    assert payment.status is PaymentStatus.REVERSED
    assert (done.kind, done.comment, done.author_id) == (
        TransactionKind.REVERSAL,
        "Ошиблись",
        network.director.id,
    )


def test_write_off_refund_and_transfer_are_undone(network: Any) -> None:
    client = make_client(network.lesnoy)
    account, other = make_account(client, balance=1000), make_account(client)
    with transaction():
        done = [
            write_off(account, amount=Decimal(100), reason="Сбор", by=SYSTEM),
            refund(account, amount=Decimal(200), method=PaymentMethod.CASH, by=SYSTEM),
            transfer(account, other, amount=Decimal(300), by=SYSTEM),
        ]
    for operation in done:
        undo(operation)
    assert (account.balance, other.balance) == (1000, 0)
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == 0
    assert house_balance(AccountKind.CASH, network.lesnoy) == 1000


def test_a_paid_bill_awaits_payment_again_and_can_be_paid(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(250))
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CARD, by=SYSTEM)
    paid_at = bill.paid_at
    assert paid_at is not None
    undo(last())
    assert (bill.status, bill.payments_count, bill.paid_at) == (BillStatus.PENDING, 0, None)
    line = db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "bill").order_by(AuditEntry.id)).all()[-1]
    assert line.changes == {"status": ["paid", "pending"], "paid_at": [paid_at.isoformat(), None]}
    assert bill.account.balance == 0
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    assert (bill.status, bill.payments_count, bill.account.balance) == (BillStatus.PAID, 1, 250)
    assert bill.paid_at is not None


def test_a_bill_paid_twice_stays_paid(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(250), is_repeatable=True)
    for _ in range(2):
        with transaction():
            pay_bill_at_desk(bill, method=PaymentMethod.CARD, by=SYSTEM)
    undo(last())
    assert (bill.status, bill.payments_count) == (BillStatus.PAID, 1)


def test_an_archived_bill_stays_archived(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(250))
    with transaction():
        archive_bill(bill, by=SYSTEM)
    payment = make_payment(bill.account, 250, bill=bill)
    undo(last())
    assert (bill.status, bill.payments_count) == (BillStatus.ARCHIVED, 0)
    assert payment.status is PaymentStatus.REVERSED


def test_a_bill_paid_from_a_deposit_gives_the_money_back_to_it(network: Any) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=300)
    bill = make_bill(client, amount=Decimal(250))
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=deposit, by=SYSTEM)
    undo(last())
    assert (deposit.balance, bill.account.balance, bill.status) == (300, 0, BillStatus.PENDING)


def test_a_visit_is_unpaid_again(network: Any) -> None:
    """Paid in cash: the charge is undone, and the money stays on the base account until it is reversed as well."""
    client = make_client(network.lesnoy)
    with transaction():
        visit = book_visit(client, service="Массаж", starts_at=now(), price=Decimal(700), by=SYSTEM)
        charged = pay_visit(visit, WayToPay.CASH, by=SYSTEM)
        base = base_account(client.id, client.branch_id)
    undo(charged)
    assert (visit.paid_at, base.balance, house_balance(AccountKind.CASH, network.lesnoy)) == (None, 700, 700)
    undo(last(TransactionKind.TOP_UP))
    assert (base.balance, house_balance(AccountKind.CASH, network.lesnoy)) == (0, 0)


def test_a_reason_is_required_and_a_right(network: Any) -> None:
    make_account(make_client(network.lesnoy), balance=500)
    operation = last()
    assert refusal(operation, comment=" ") == "comment_required"
    with pytest.raises(Forbidden):
        undo(operation, by=network.administrator)


def test_once_only_and_a_reversal_is_final(network: Any) -> None:
    make_account(make_client(network.lesnoy), balance=500)
    operation = last()
    done = undo(operation)
    assert refusal(operation) == "already_reversed"
    assert refusal(done) == "irreversible"


def test_twice_at_once_is_once(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(250), is_repeatable=True)
    for _ in range(2):
        with transaction():
            pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    operation_id = last().id

    def again(_index: int) -> str:
        try:
            undo(db.session.get_one(Transaction, operation_id))
        except Conflict as error:
            return error.code
        return "done"

    assert sorted(in_parallel(again, 4)) == ["already_reversed"] * 3 + ["done"]
    db.session.expire_all()
    assert (bill.account.balance, bill.payments_count) == (250, 1)


def test_money_already_spent_is_not_taken_back_from_a_deposit(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=500)
    topped = last()
    with transaction():
        write_off(account, amount=Decimal(1), reason="Сбор", by=SYSTEM)
    assert refusal(topped) == "not_enough"
    assert (account.balance, db.session.scalars(select(Payment)).one().status) == (499, PaymentStatus.SUCCEEDED)


def test_a_base_account_then_owes(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        base = base_account(client.id, client.branch_id)
    make_payment(base, 500)
    topped = last()
    with transaction():
        write_off(base, amount=Decimal(400), reason="Сбор", by=SYSTEM)
    undo(topped)
    assert base.balance == -400


def test_a_sale_and_an_online_payment_are_not_reversed_by_hand(network: Any, bank: Any) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client)
    assert refusal(last(TransactionKind.SALE)) == "irreversible"
    bill = make_bill(client)
    accept_notice(bank, pay_at(bank, begin(bill, bank)))
    db.session.expire_all()
    assert refusal(last(TransactionKind.TOP_UP)) == "irreversible"
    assert bill.status is BillStatus.PAID


def test_through_the_same_till_which_must_be_in_use(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=1000)
    with transaction():
        bar = new_till(TillKind.CASH, network.lesnoy.id, name="Бар")
    make_payment(account, 300, till=bar)
    operation = last()
    bar.uses_shifts = True
    db.session.commit()
    assert refusal(operation) == "shift_closed"
    bar.uses_shifts, bar.is_archived = False, True
    db.session.commit()
    assert refusal(operation) == "till_archived"
    bar.is_archived = False
    db.session.commit()
    done = undo(operation)
    assert {entry.account_id for entry in done.entries} == {account.id, bar.account_id}
    assert db.session.query(Till).count() == 2


def test_into_a_closed_account_nothing_is_reversed(network: Any) -> None:
    client = make_client(network.lesnoy)
    account, other = make_account(client, balance=100), make_account(client)
    with transaction():
        close_account(account, transfer_to=other, by=SYSTEM)
    assert refusal(last(TransactionKind.TRANSFER)) == "account_closed"


def test_an_operation_of_two_branches_takes_the_sight_of_both(network: Any) -> None:
    here, near = make_account(make_client(network.lesnoy), balance=500), make_account(make_client(network.rechnoy))
    with transaction():
        done = transfer(here, near, amount=Decimal(100), by=SYSTEM)
    operation_id = done.id
    db.session.expire_all()
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert refusal(db.session.get_one(Transaction, operation_id), by=network.director) == "foreign_branch"
    db.session.expire_all()
    undo(db.session.get_one(Transaction, operation_id))
    assert (here.balance, near.balance) == (500, 0)
    assert house_balance(AccountKind.SETTLEMENT, network.lesnoy) == 0
