"""Believing the bank: what it says is done once, whatever comes twice, late, wrong or all at the same moment."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillStatus
from crm.db import db, transaction
from crm.errors import NotFound
from crm.ledger.models import Account, AccountKind, Transaction
from crm.payments.gateways.base import RemoteStatus
from crm.payments.models import Attention, Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import accept_notice, pay_bill_from_account, start_payment, top_up
from tests.bank import TalkingBank, begin, decline_at, pay_at, says
from tests.factories import house_balance, make_account, make_bill, make_client


@pytest.mark.spec("B2", "B32")
def test_a_paid_bill_makes_a_payment_and_moves_by_itself(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert (payment.status, payment.method) == (PaymentStatus.SUCCEEDED, PaymentMethod.ONLINE)
    assert (payment.client_id, payment.account_id, payment.bill_id) == (bill.client_id, bill.account_id, bill.id)
    assert payment.received_at is not None
    assert bill.status is BillStatus.PAID
    assert str(bill.status.label) == "Оплачен"
    assert bill.account.balance == bill.amount
    assert house_balance(AccountKind.ACQUIRING, network.lesnoy) == bill.amount


@pytest.mark.spec("B19")
def test_the_chosen_account_is_credited_and_no_other(network, bank):
    client = make_client(network.lesnoy)
    base = make_bill(client).account
    deposit = make_account(client, balance=100)
    bill = make_bill(client, account=deposit, amount=Decimal(700))
    accept_notice(bank, pay_at(bank, begin(bill, bank)))
    db.session.expire_all()
    assert (deposit.balance, base.balance) == (Decimal(800), Decimal(0))


@pytest.mark.spec("B2")
def test_the_same_notice_a_hundred_times_at_once_credits_once(network, bank, in_parallel):
    bill = make_bill(make_client(network.lesnoy))
    external_id = pay_at(bank, begin(bill, bank))

    def hear(_index: int) -> None:
        for _ in range(10):
            accept_notice(bank, external_id)

    assert in_parallel(hear, 10) == [None] * 10
    db.session.expire_all()
    assert bill.account.balance == bill.amount
    assert bill.payments_count == 1
    assert db.session.scalar(select(func.count()).select_from(Transaction)) == 1


def test_a_decline_is_noted_and_credits_nothing(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    external_id = decline_at(bank, payment)
    for _ in range(2):
        accept_notice(bank, external_id)
    assert payment.status is PaymentStatus.CANCELED
    assert bill.status is BillStatus.PENDING
    assert bill.account.balance == 0


def test_money_reported_after_a_decline_is_still_money(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    accept_notice(TalkingBank(says(RemoteStatus.CANCELED, "1500.00")), payment.external_id)
    accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "1500.00")), payment.external_id)
    accept_notice(TalkingBank(says(RemoteStatus.CANCELED, "1500.00")), payment.external_id)  # old news
    db.session.expire_all()
    assert payment.status is PaymentStatus.SUCCEEDED
    assert bill.account.balance == bill.amount


def test_a_decline_and_a_success_at_once_never_lose_the_money(network, bank, in_parallel):
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(6)]
    external_ids = [begin(bill, bank).external_id for bill in bills]

    def hear(index: int) -> None:
        status = RemoteStatus.SUCCEEDED if index % 2 else RemoteStatus.CANCELED
        for external_id in external_ids:
            accept_notice(TalkingBank(says(status, "1500.00")), external_id)

    assert in_parallel(hear, 4) == [None] * 4
    db.session.expire_all()
    assert bills[0].account.balance == Decimal(1500) * 6
    assert {bill.status for bill in bills} == {BillStatus.PAID}


def test_another_sum_than_asked_for_credits_nothing_and_says_so(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "15.00")), payment.external_id)
    db.session.expire_all()
    assert payment.status is PaymentStatus.PENDING
    assert (payment.attention, payment.attention_closed_at) == (Attention.WRONG_SUM, None)
    assert payment.reported_amount == Decimal(15)
    assert "15,00" in payment.comment
    assert bill.account.balance == 0


def test_a_payment_we_did_not_start(network, bank):
    with pytest.raises(NotFound):
        accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "1.00")), "unheard-of")


def test_clicks_notices_and_the_desk_at_once_do_not_deadlock(network, bank, in_parallel):
    """Three ways to the same rows: a click locks the bill and points at the account, a notice locks payment, bill and
    account, the desk bill and account. A full FOR UPDATE on either deadlocks PostgreSQL here.
    """
    client = make_client(network.lesnoy)
    bills = [make_bill(client, is_repeatable=True, amount=Decimal(10)) for _ in range(6)]
    ids, account_id = [bill.id for bill in bills], bills[0].account_id

    def live(index: int) -> int:
        paid = 0
        for bill_id in ids:
            bill = db.session.get_one(Bill, bill_id)
            if index % 3 == 2:
                with transaction():
                    top_up(bill.account, amount=Decimal(10), method=PaymentMethod.CASH, bill=bill, by=SYSTEM)
                paid += 1
            else:
                payment = start_payment(bill, gateway=bank, return_url="https://kontora.test/pay/x")
                external_id = payment.external_id
                db.session.commit()
                paid += bank.decide(external_id, RemoteStatus.SUCCEEDED)
                accept_notice(bank, external_id)
        return paid

    results = in_parallel(live, 6)
    assert all(isinstance(result, int) for result in results), results
    db.session.expire_all()
    assert db.session.get_one(Bill, ids[0]).account_id == account_id
    assert bills[0].account.balance == 10 * sum(results)
    assert sum(bill.payments_count for bill in bills) == sum(results)
    received = select(func.count()).select_from(Payment).where(Payment.status == PaymentStatus.SUCCEEDED)
    assert db.session.scalar(received) == sum(results)


def test_notices_and_bills_paid_from_accounts_at_once_do_not_deadlock(network, bank, in_parallel):
    """Both lock the bill before the accounts; the other way round in one of them deadlocks PostgreSQL here."""
    client = make_client(network.lesnoy)
    source = make_account(client, balance=10_000)
    bills = [make_bill(client, is_repeatable=True, amount=Decimal(10)) for _ in range(4)]
    ids, source_id = [bill.id for bill in bills], source.id

    def live(index: int) -> int:
        for _ in range(5):
            for bill_id in ids:
                bill = db.session.get_one(Bill, bill_id)
                if index % 2:
                    with transaction():
                        account = db.session.get_one(Account, source_id)
                        pay_bill_from_account(bill, account, by=SYSTEM)
                else:
                    payment = start_payment(bill, gateway=bank, return_url="https://kontora.test/pay/x")
                    external_id = payment.external_id
                    db.session.commit()
                    bank.decide(external_id, RemoteStatus.SUCCEEDED)
                    accept_notice(bank, external_id)
        return index

    assert in_parallel(live, 4) == [0, 1, 2, 3]
    db.session.expire_all()
    received = select(func.count()).select_from(Payment).where(Payment.status == PaymentStatus.SUCCEEDED)
    assert bills[0].account.balance == 10 * (db.session.scalar(received) - 1)  # one filled the source
    assert source.balance == 10_000 - 10 * 40
