"""A mistake at the desk is undone, with what came of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.roles import change_role
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.clients.merging import merge_clients
from crm.clock import now
from crm.db import db, transaction
from crm.debts.operations import write_off_bad_debt, write_off_debt
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import (
    close_account,
    may_reverse,
    refund,
    refusal_of_reversal,
    reverse_operation,
    transfer,
    write_off,
)
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import accept_notice, pay_bill_at_desk
from crm.sales.returning import ReturnWay, return_subscription
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Mark
from crm.tills.models import Till, TillKind
from crm.tills.moves import move_money
from crm.tills.operations import new_till
from crm.tills.queries import tills_in
from crm.visits.models import WayToPay
from crm.visits.operations import book_visit, pay_visit
from tests.access.test_roles import settings_of
from tests.bank import begin, pay_at
from tests.factories import (
    house_balance,
    make_account,
    make_bill,
    make_client,
    make_lesson,
    make_payment,
    make_subscription,
    make_visit,
)


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


# --- what was forgiven ----------------------------------------------------------------------------------------------


def base_of(client: Any) -> Any:
    return base_account(client.id, client.branch_id)


def owed_visit(client: Any, price: int = 300) -> Transaction:
    with transaction():
        return pay_visit(make_visit(client, price=Decimal(price)), WayToPay.DEBT, by=SYSTEM)


def forgive(client: Any, is_bad: bool = True) -> Transaction:
    account = base_of(client)
    with transaction():
        if is_bad:
            return write_off_bad_debt(account, by=SYSTEM)
        return write_off_debt(account, amount=-account.balance, reason="Ошибка", by=SYSTEM)


@pytest.mark.parametrize("is_bad", [True, False])
def test_a_charge_whose_debt_was_forgiven_turns_into_no_money(network: Any, is_bad: bool) -> None:
    client = make_client(network.lesnoy)
    paid, owed = owed_visit(client), owed_visit(client)
    make_payment(base_of(client), 300)
    forgiven = forgive(client, is_bad)
    assert refusal(owed) == "forgiven"
    assert "сначала отмените списание" in str(refusal_of_reversal(owed))
    undo(paid)
    assert refusal(owed) == "forgiven"  # though the money would cover it now
    assert base_of(client).balance == 300
    undo(forgiven)
    undo(owed)
    assert base_of(client).balance == 300


def test_what_was_forgiven_is_known_on_the_account_of_the_other_card(network: Any) -> None:
    kept, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    with transaction():
        base_of(kept)
    charge = owed_visit(gone)
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    forgiven = forgive(kept)
    assert refusal(charge) == "forgiven"
    undo(forgiven)
    undo(charge)
    assert base_of(kept).balance == 0


def test_a_forgiveness_of_what_was_returned_is_not_reversed(network: Any) -> None:
    """Nothing of it was used, and nothing is owed."""
    client = make_client(network.lesnoy)
    sold = make_subscription(client)
    forgiven = forgive(client)
    with transaction():
        return_subscription(sold, way=ReturnWay.KEEP, by=SYSTEM)
    assert base_of(client).balance == 0
    assert refusal(forgiven) == "forgiven_and_gone"
    assert str(sold) in str(refusal_of_reversal(forgiven))


def test_a_forgiveness_of_a_mark_taken_back_is_not_reversed(network: Any) -> None:
    client = make_client(network.lesnoy)
    with clock.frozen(datetime(2027, 3, 10, 12, tzinfo=UTC)):
        lesson = make_lesson(network.lesnoy, client, starts_at=clock.now())
        for mark in (Mark.ABSENT, Mark.EXCUSED):
            with transaction():
                mark_attendance(lesson, {one.id: mark for one in lesson.attendances}, by=SYSTEM)
            if mark is Mark.ABSENT:
                forgiven = forgive(client)
        assert refusal(forgiven) == "forgiven_and_gone"
        assert refusal(last(TransactionKind.BAD_DEBT)) == "irreversible"  # nor is what made it owed again
    assert base_of(client).balance == 0


def test_a_debt_forgiven_while_its_charge_is_reversed(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    client = make_client(network.lesnoy)
    charge_id, account_id = owed_visit(client).id, base_of(client).id

    def both(index: int) -> str:
        try:
            with transaction():
                if index:
                    write_off_bad_debt(db.session.get_one(Account, account_id), by=SYSTEM)
                else:
                    reverse_operation(db.session.get_one(Transaction, charge_id), by=SYSTEM, comment="Ошибка")
        except DomainError as error:
            return error.code
        return "done"

    assert sorted(in_parallel(both, 2)) in [["done", "forgiven"], ["done", "no_debt"]]
    db.session.expire_all()
    assert base_of(client).balance == 0


@pytest.mark.parametrize("kind", [TransactionKind.BAD_DEBT, TransactionKind.DEBT_WRITE_OFF, TransactionKind.CASH_MOVE])
def test_what_only_some_may_do_only_they_take_back(network: Any, web: Any, kind: TransactionKind) -> None:
    """The owner may give a role the right to reverse without that to write debts off or to move money of tills."""
    client = make_client(network.lesnoy)
    if kind is TransactionKind.CASH_MOVE:
        make_payment(base_of(client), 300)
        with transaction():
            source = next(till for till in tills_in(network.lesnoy.id, TillKind.CASH))
            bar = new_till(TillKind.CASH, network.lesnoy.id, name="Бар")
            done = move_money(source, bar, amount=Decimal(100), by=SYSTEM)
    else:
        owed_visit(client)
        done = forgive(client, is_bad=kind is TransactionKind.BAD_DEBT)
    assert done.kind is kind
    needed = {
        TransactionKind.BAD_DEBT: "account.bad_debt",
        TransactionKind.DEBT_WRITE_OFF: "account.debt",
        TransactionKind.CASH_MOVE: "till.move",
    }[kind]
    page = f"/admin/account/operation/{done.id}/reverse/"
    assert web(network.director, network.lesnoy).get(page).status_code == 200
    with transaction():
        change_role(settings_of(Role.DIRECTOR), permissions={needed: False}, fields={}, by=SYSTEM)
    with pytest.raises(Forbidden):
        undo(done, by=network.director)
    assert not may_reverse(done, network.director)
    assert web(network.director, network.lesnoy).get(page).status_code == 403
    undo(done, by=network.owner)
