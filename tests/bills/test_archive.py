"""Archiving bills: for good, in bulk, each with its line of the protocol."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.audit.operations import transition
from crm.bills.models import BILL_MOVES, Bill, BillStatus
from crm.bills.operations import archive_bill, archive_bills, check_payable
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden
from crm.payments.models import PaymentMethod
from crm.payments.operations import accept_notice, top_up
from crm.protocol import Outcome
from tests.bank import begin, pay_at
from tests.factories import make_bill, make_client

ALREADY = "Статус: Уже в архиве"
PAID = "Статус: Данный счет оплачен, его нельзя архивировать"


def settle_at_desk(bill: Bill) -> Bill:
    with transaction():
        top_up(bill.account, amount=bill.amount, method=PaymentMethod.CASH, bill=bill, by=SYSTEM)
    return bill


def test_an_unpaid_bill_is_archived_and_cannot_be_paid(network):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        archive_bill(bill, by=network.administrator)
    assert bill.status is BillStatus.ARCHIVED
    with pytest.raises(DomainError) as refused:
        check_payable(bill)
    assert refused.value.code == "archived"


@pytest.mark.spec("B57")
def test_not_twice(network):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        archive_bill(bill, by=network.administrator)
    with pytest.raises(DomainError) as refused, transaction():
        archive_bill(bill, by=network.administrator)
    assert str(refused.value) == ALREADY


@pytest.mark.spec("B58")
def test_never_a_paid_one(network):
    bill = settle_at_desk(make_bill(make_client(network.lesnoy)))
    with pytest.raises(DomainError) as refused, transaction():
        archive_bill(bill, by=network.administrator)
    assert str(refused.value) == PAID
    assert bill.status is BillStatus.PAID


@pytest.mark.spec("B54")
def test_there_is_no_way_back(network):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        archive_bill(bill, by=network.administrator)
    for status in BillStatus:
        with pytest.raises(Conflict), transaction():
            transition(bill, BILL_MOVES, status, by=network.owner)
    assert bill.status is BillStatus.ARCHIVED


@pytest.mark.spec("B50", "B56", "B59")
def test_in_bulk_each_has_its_line_and_none_stops_the_others(network):
    client = make_client(network.lesnoy)
    first, gone, paid, overdue, last = (make_bill(client) for _ in range(5))
    with transaction():
        archive_bill(gone, by=SYSTEM)
        overdue.payable_until = clock.today(network.lesnoy)
    settle_at_desk(paid)
    asked = [last.id, gone.id, first.id, 999_999, paid.id, overdue.id]
    with clock.frozen(clock.now() + timedelta(days=5)), transaction():
        lines = archive_bills(asked, by=network.administrator)
    assert [line.id for line in lines] == asked
    assert [line.reason for line in lines] == [None, ALREADY, None, "Не найден", PAID, None]
    done, failed = Outcome.DONE, Outcome.FAILED
    assert [line.outcome for line in lines] == [done, failed, done, failed, failed, done]
    assert [line.label for line in lines] == [
        last.title,
        gone.title,
        first.title,
        "#999999",
        paid.title,
        overdue.title,
    ]
    db.session.expire_all()
    assert {bill.status for bill in (first, gone, overdue, last)} == {BillStatus.ARCHIVED}
    assert paid.status is BillStatus.PAID


def test_another_branchs_bill_is_not_found(network):
    bill = make_bill(make_client(network.rechnoy))
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), transaction():
        (line,) = archive_bills([bill.id], by=network.administrator)
    assert (line.reason, line.label) == ("Не найден", f"#{bill.id}")
    assert bill.status is BillStatus.PENDING


def test_only_those_who_may(network):
    bill = make_bill(make_client(network.lesnoy))
    with pytest.raises(Forbidden):
        archive_bill(bill, by=network.manager)


def test_overlapping_selections_in_opposite_orders_do_not_deadlock(network, in_parallel):
    client = make_client(network.lesnoy)
    ids = [make_bill(client).id for _ in range(30)]

    def archive(index: int) -> int:
        with transaction():
            lines = archive_bills(ids if index % 2 else ids[::-1], by=SYSTEM)
        return sum(line.reason is None for line in lines)

    results = in_parallel(archive, 4)
    assert sorted(results) == [0, 0, 0, 30]


@pytest.mark.spec("B55")
def test_a_late_notice_is_credited_and_the_bill_stays_archived(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    with transaction():
        archive_bill(bill, by=network.administrator)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert bill.status is BillStatus.ARCHIVED
    assert bill.payments_count == 1
    assert bill.account.balance == bill.amount


def test_archived_or_paid_but_never_both(network, bank, in_parallel):
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(8)]
    external_ids = [pay_at(bank, begin(bill, bank)) for bill in bills]
    ids = [bill.id for bill in bills]

    def race(index: int) -> None:
        if index == 0:
            with transaction():
                archive_bills(ids, by=SYSTEM)
        else:
            for external_id in external_ids if index == 1 else external_ids[::-1]:
                accept_notice(bank, external_id)

    assert in_parallel(race, 3) == [None, None, None]
    db.session.expire_all()
    for bill in bills:
        assert bill.payments_count == 1
        assert (bill.status is BillStatus.PAID) == (bill.paid_at is not None)
        assert bill.status is not BillStatus.PENDING
    assert bills[0].account.balance == sum(bill.amount for bill in bills)
