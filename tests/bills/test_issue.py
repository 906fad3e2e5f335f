"""Issuing a bill by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillMethod, BillStatus
from crm.bills.operations import issue_bill
from crm.bills.queries import bill_by_token, bills_of
from crm.clients.models import Client
from crm.db import MAX_AMOUNT, db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import AccountKind
from tests.factories import make_account, make_bill, make_child, make_client

PERIOD = {"period_from": date(2027, 2, 1), "period_to": date(2027, 2, 28)}


@pytest.mark.spec("B1", "B3", "B12")
def test_any_amount_for_any_period(network):
    client = make_client(network.lesnoy)
    for amount, first, last in (
        ("0.01", date(2020, 1, 1), date(2020, 1, 1)),
        ("4300.50", date(2027, 2, 1), date(2027, 2, 28)),
        (str(MAX_AMOUNT), date(2027, 1, 1), date(2031, 12, 31)),
    ):
        with transaction():
            bill = issue_bill(
                client, amount=Decimal(amount), period_from=first, period_to=last, by=network.administrator
            )
        db.session.expire_all()
        assert (bill.amount, bill.period_from, bill.period_to) == (Decimal(amount), first, last)
        assert bill.method is BillMethod.MANUAL
        assert bill.author_id == network.administrator.id
    assert len(bills_of(client.id)) == 3


@pytest.mark.spec("B31")
def test_a_new_bill_awaits_payment(network):
    bill = make_bill(make_client(network.lesnoy))
    assert bill.status is BillStatus.PENDING
    assert str(bill.status.label) == "Ожидает оплаты"


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "100000000.01"])
def test_an_amount_that_cannot_be_paid_is_refused(network, amount):
    with pytest.raises(DomainError) as refused:
        make_bill(make_client(network.lesnoy), amount=Decimal(amount))
    assert (refused.value.code, refused.value.field) == ("amount_invalid", "amount")
    assert db.session.scalars(select(Bill)).all() == []


def test_a_float_is_refused(network):
    with pytest.raises(TypeError):
        make_bill(make_client(network.lesnoy), amount=10.1)


@pytest.mark.spec("B20")
def test_a_period_that_ends_before_it_begins_is_refused(network):
    with pytest.raises(DomainError) as refused:
        make_bill(make_client(network.lesnoy), period_from=date(2027, 2, 2), period_to=date(2027, 2, 1))
    assert refused.value.field == "period_to"


@pytest.mark.spec("B23", "B24")
def test_the_term_has_both_ends_or_no_end(network):
    client = make_client(network.lesnoy)
    both = make_bill(client, payable_from=date(2027, 2, 3), payable_until=date(2027, 2, 5))
    assert (both.payable_from, both.payable_until) == (date(2027, 2, 3), date(2027, 2, 5))
    assert make_bill(client).payable_until is None
    with pytest.raises(DomainError) as refused:
        make_bill(client, payable_from=date(2027, 2, 3), payable_until=date(2027, 2, 2))
    assert refused.value.field == "payable_until"


def test_the_term_begins_today_where_the_branch_is(network):
    # 23:30 in Moscow is half past midnight in Samara, and already next year there.
    with clock.frozen(datetime(2026, 12, 31, 20, 30, tzinfo=UTC)):
        moscow, samara = make_bill(make_client(network.lesnoy)), make_bill(make_client(network.mira))
    assert (moscow.payable_from, moscow.year) == (date(2026, 12, 31), 2026)
    assert (samara.payable_from, samara.year) == (date(2027, 1, 1), 2027)


def test_a_bill_for_a_child_goes_to_the_payer(network):
    payer = make_client(network.lesnoy)
    bill = make_bill(make_child(payer))
    assert bill.client_id == payer.id
    assert (bill.account.client_id, bill.account.kind) == (payer.id, AccountKind.BASE)


def test_another_clients_account_is_refused(network):
    stranger = make_account(make_client(network.lesnoy))
    with pytest.raises(DomainError) as refused:
        make_bill(make_client(network.lesnoy), account=stranger)
    assert refused.value.field == "account"


def test_only_those_who_may_issue_bills(network):
    with pytest.raises(Forbidden):
        make_bill(make_client(network.lesnoy), by=network.manager)


def test_the_token_is_long_and_finds_its_bill_only(network):
    bills = [make_bill(make_client(network.lesnoy)) for _ in range(3)]
    assert len({bill.token for bill in bills}) == 3
    assert all(len(bill.token) >= 32 for bill in bills)  # 192 bits, urlsafe base64
    assert bill_by_token(bills[1].token) is bills[1]
    for token in ("", "x", bills[0].token[:-1], bills[0].token.swapcase()):
        with pytest.raises(NotFound):
            bill_by_token(token)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_numbers_run_without_holes_while_many_issue_and_some_give_up(network, in_parallel):
    clients = [make_client(branch).id for branch in (network.lesnoy, network.mira)]

    class GaveUp(Exception):
        pass

    def issue(index: int) -> None:
        for turn in range(4):
            try:
                with transaction():
                    client = db.session.get_one(Client, clients[index % 2])
                    issue_bill(client, amount=Decimal(100), by=SYSTEM, **PERIOD)
                    if (index + turn) % 3 == 0:
                        raise GaveUp
            except GaveUp:
                pass

    results = in_parallel(issue, 6)
    assert results == [None] * 6
    numbers = list(db.session.scalars(select(Bill.number).order_by(Bill.number)))
    assert len(numbers) == 16
    assert numbers == list(range(1, 17))


def test_each_company_year_counts_from_one(network):
    client = make_client(network.lesnoy)
    with clock.frozen(datetime(2026, 6, 1, 9, tzinfo=UTC)):
        old = [make_bill(client).title for _ in range(2)]
    with clock.frozen(datetime(2027, 6, 1, 9, tzinfo=UTC)):
        new = make_bill(client).title
    assert (old, new) == (["2026-000001", "2026-000002"], "2027-000001")


def test_one_bill_per_key_however_many_ask_at_once(network, in_parallel):
    client_id = make_client(network.lesnoy).id
    make_bill(db.session.get_one(Client, client_id))  # the base account and the counter exist

    def issue(_index: int) -> int:
        with transaction():
            client = db.session.get_one(Client, client_id)
            return issue_bill(client, amount=Decimal(100), by=SYSTEM, dedupe_key="rule:1:2027-02", **PERIOD).id

    results = in_parallel(issue, 8)
    assert len(set(results)) == 1, results
    assert isinstance(results[0], int)
    next_one = make_bill(db.session.get_one(Client, client_id))
    assert next_one.number == 3  # the losers' numbers came back


def test_the_first_bills_of_a_client_at_once(network, in_parallel):
    """Base account and counter are made by whoever comes first; the others use them."""
    client_id = make_client(network.lesnoy).id

    def issue(_index: int) -> int:
        with transaction():
            return issue_bill(db.session.get_one(Client, client_id), amount=Decimal(5), by=SYSTEM, **PERIOD).number

    assert sorted(in_parallel(issue, 6)) == [1, 2, 3, 4, 5, 6]
