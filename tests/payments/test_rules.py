"""The rules of docs/payments.md: what becomes of money that comes twice, late, in another sum, for a dead bill; each
leaves a line in the payment's history.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.links import revoke_link
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import AccountKind
from crm.ledger.operations import base_account
from crm.payments.gateways.base import RemotePayment, RemoteStatus
from crm.payments.models import (
    Attention,
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentMethod,
    PaymentStatus,
)
from crm.payments.operations import pay_bill_at_desk, start_payment
from crm.payments.outcomes import accept_notice
from crm.payments.resolving import accept_reported, count_unresolved, resolve_attention
from tests.bank import TalkingBank, begin, hear, pay_at, says
from tests.factories import house_balance, make_account, make_bill, make_client


def last_event(payment, kind):
    query = select(PaymentEvent).where(PaymentEvent.payment_id == payment.id, PaymentEvent.kind == kind)
    return db.session.scalars(query.order_by(PaymentEvent.id.desc())).first()


def count_events(payment, kind):
    query = select(PaymentEvent).where(PaymentEvent.payment_id == payment.id, PaymentEvent.kind == kind)
    return len(db.session.scalars(query).all())


@pytest.fixture
def client(network):
    return make_client(network.lesnoy)


@pytest.fixture
def deposit(client):
    return make_account(client)


@pytest.fixture
def bill(client, deposit):
    """Of 1500, to a separate account."""
    return make_bill(client, account=deposit)


@pytest.fixture
def payment(bill, bank):
    return begin(bill, bank)


def base_of(bill):
    with transaction():
        return base_account(bill.client_id, bill.branch_id)


def is_dead_money(payment, bill, attention):
    """Credited to the base account and flagged, whatever the bill asked for."""
    db.session.expire_all()
    base = base_of(bill)
    assert payment.status is PaymentStatus.SUCCEEDED
    assert (base.balance, payment.account_id) == (payment.amount, base.id)
    assert (payment.attention, payment.attention_closed_at) == (attention, None)
    assert bill.title in last_event(payment, PaymentEventKind.HELD).detail
    return True


def test_duplicate(payment, bill, bank):
    external_id = pay_at(bank, payment)
    hear(bank, external_id, "paid")
    hear(bank, external_id, "paid")
    hear(bank, external_id, "paid, said in other words")
    db.session.expire_all()
    assert bill.account.balance == bill.amount
    assert count_events(payment, PaymentEventKind.CREDITED) == 1
    assert count_events(payment, PaymentEventKind.REPEATED) == 1


@pytest.mark.spec("B29", "X8")
def test_late_paid_in_the_meantime(payment, bill, bank, network):
    """The bill was paid at the desk while its payer sat at the bank's form."""
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    accept_notice(bank, pay_at(bank, payment))
    assert is_dead_money(payment, bill, Attention.PAID_TWICE)
    assert (bill.status, bill.paid_amount) == (BillStatus.PAID, bill.amount)
    assert bill.account.balance == bill.amount


def test_late_for_a_repeatable_bill_is_simply_the_second_payment(client, bank):
    bill = make_bill(client, is_repeatable=True)
    payment = begin(bill, bank)
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert (bill.payments_count, bill.account.balance, payment.attention) == (2, 2 * bill.amount, None)


def test_out_of_order_canceled_then_succeeded(payment, bill, bank):
    accept_notice(TalkingBank(says(RemoteStatus.CANCELED, "1500.00")), payment.external_id)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert bill.account.balance == bill.amount
    assert last_event(payment, PaymentEventKind.CREDITED).id > last_event(payment, PaymentEventKind.CANCELED).id


def test_out_of_order_confirmed_before_authorized(payment, bill, bank):
    external_id = pay_at(bank, payment)
    hear(bank, external_id, "CONFIRMED")
    hear(bank, external_id, "AUTHORIZED")
    db.session.expire_all()
    assert (payment.status, bill.account.balance) == (PaymentStatus.SUCCEEDED, bill.amount)
    assert last_event(payment, PaymentEventKind.REPEATED).detail == "AUTHORIZED"


def test_a_notice_before_the_end_only_leaves_a_line(payment, bill, bank):
    hear(bank, payment.external_id, "AUTHORIZED")
    db.session.expire_all()
    assert (payment.status, bill.status) == (PaymentStatus.PENDING, BillStatus.PENDING)
    assert last_event(payment, PaymentEventKind.NOTICE).detail == "AUTHORIZED"


# --- another sum, another currency -----------------------------------------------------------------------------------


@pytest.fixture
def underpaid(payment):
    for _ in range(3):  # asked again and again, it is held and told once
        accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "1400.00")), payment.external_id)
    db.session.expire_all()
    return payment


def test_wrong_sum_is_held(underpaid, bill):
    assert (underpaid.status, underpaid.attention) == (PaymentStatus.PENDING, Attention.WRONG_SUM)
    assert (underpaid.reported_amount, underpaid.reported_currency) == (1400, "RUB")
    assert bill.account.balance == 0
    assert count_events(underpaid, PaymentEventKind.HELD) == 1
    assert "1\xa0400,00" in last_event(underpaid, PaymentEventKind.HELD).detail


def test_a_held_payment_is_not_offered_to_the_next_click(underpaid, bill, bank):
    assert begin(bill, bank).id != underpaid.id


def test_what_really_came_is_credited_when_a_person_says_so(underpaid, bill, network):
    assert count_unresolved() == 1
    with transaction():
        accept_reported(underpaid, by=network.owner)
    db.session.expire_all()
    assert (underpaid.status, underpaid.amount) == (PaymentStatus.SUCCEEDED, 1400)
    assert (bill.account.balance, bill.paid_amount, bill.status) == (1400, 1400, BillStatus.PENDING)
    assert last_event(underpaid, PaymentEventKind.RESOLVED).author_name == network.owner.name
    assert count_unresolved() == 0
    with pytest.raises(Conflict), transaction():
        accept_reported(underpaid, by=network.owner)


def test_two_who_accept_it_at_once_credit_once(underpaid, bill, network, in_parallel):
    payment_id, owner = underpaid.id, network.owner

    def accept(_index: int) -> bool:
        with transaction():
            accept_reported(db.session.get_one(Payment, payment_id), by=SYSTEM)
        return True

    results = in_parallel(accept, 4)
    assert sum(result is True for result in results) == 1, (results, owner)
    db.session.expire_all()
    assert bill.account.balance == 1400


def test_money_that_is_held_is_not_waved_through(underpaid, network):
    with pytest.raises(DomainError) as refused, transaction():
        resolve_attention(underpaid, by=network.owner)
    assert refused.value.code == "held"


def test_held_money_the_bank_has_given_back_is_not_there_to_accept(underpaid, bill, network):
    def given_back(external_id):
        return replace(says(RemoteStatus.SUCCEEDED, "1400.00")(external_id), refunded=Decimal("1400.00"))

    for _ in range(2):
        accept_notice(TalkingBank(given_back), underpaid.external_id)
    db.session.expire_all()
    assert (underpaid.status, underpaid.attention) == (PaymentStatus.CANCELED, Attention.REFUNDED_ELSEWHERE)
    assert count_events(underpaid, PaymentEventKind.HELD) == 2  # the sum, then that it is gone
    with pytest.raises(Conflict), transaction():
        accept_reported(underpaid, by=network.owner)
    with transaction():
        resolve_attention(underpaid, by=network.owner)
    assert (bill.paid_amount, underpaid.attention_closed_at is not None) == (0, True)


def test_only_who_may_settles(underpaid, network):
    for verb in (accept_reported, resolve_attention):
        with pytest.raises(Forbidden), transaction():
            verb(underpaid, by=network.instructor)


def test_of_several_bills_what_came_is_shared_in_their_order(network, client, bank):
    bills = [make_bill(client, amount=Decimal(sum_)) for sum_ in (100, 200, 300)]
    db.session.commit()
    leader = start_payment(bills, gateway=bank, return_url="https://kontora.test/pay/x")
    accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "250.00")), leader.external_id)
    db.session.expire_all()
    assert leader.attention is Attention.WRONG_SUM
    with transaction():
        accept_reported(leader, by=network.owner)
    db.session.expire_all()
    assert [bill.paid_amount for bill in bills] == [100, 150, 0]
    assert [bill.status for bill in bills] == [BillStatus.PAID, BillStatus.PENDING, BillStatus.PENDING]
    assert bills[0].account.balance == 250


def test_wrong_currency_is_held_and_accepted_for_what_it_is_worth(payment, bill, network):
    said = RemotePayment(payment.external_id, RemoteStatus.SUCCEEDED, Decimal("1500.00"), "KZT")
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)
    db.session.expire_all()
    assert (payment.attention, payment.reported_currency) == (Attention.WRONG_CURRENCY, "KZT")
    assert bill.account.balance == 0
    assert last_event(payment, PaymentEventKind.HELD) is not None
    with pytest.raises(DomainError) as asked, transaction():
        accept_reported(payment, by=network.owner)
    assert (asked.value.code, asked.value.field) == ("amount_required", "amount")
    with transaction():
        accept_reported(payment, by=network.owner, amount=Decimal("280.15"))
    db.session.expire_all()
    assert bill.account.balance == Decimal("280.15")


# --- dead bills ------------------------------------------------------------------------------------------------------


@pytest.mark.spec("X1", "B55")
@pytest.mark.parametrize("is_repeatable", [False, True])
def test_archived_bill(client, deposit, bank, is_repeatable):
    """Also of one that may be paid repeatedly: the archive wins."""
    bill = make_bill(client, account=deposit, is_repeatable=is_repeatable)
    payment = begin(bill, bank)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    with pytest.raises(DomainError):
        begin(bill, bank)
    db.session.rollback()
    accept_notice(bank, pay_at(bank, payment))
    assert is_dead_money(payment, bill, Attention.DEAD_BILL)
    assert bill.status is BillStatus.ARCHIVED
    assert deposit.balance == 0


def paid_at(payment, instant):
    said = RemotePayment(payment.external_id, RemoteStatus.SUCCEEDED, payment.amount, paid_at=instant)
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)


@pytest.fixture
def of_today(client, deposit, network):
    return make_bill(client, account=deposit, payable_until=clock.today(network.lesnoy))


def midnight_after(bill):
    return clock.at(bill.payable_until + timedelta(days=1), time(0), bill.branch)


def test_begun_in_time_and_paid_soon_after_midnight_counts(of_today, bank):
    payment = begin(of_today, bank)
    paid_at(payment, midnight_after(of_today) + timedelta(hours=23))
    db.session.expire_all()
    assert (of_today.status, payment.attention) == (BillStatus.PAID, None)
    assert of_today.account.balance == of_today.amount


def test_expired_bill(of_today, bank):
    payment = begin(of_today, bank)
    paid_at(payment, midnight_after(of_today) + timedelta(hours=24, seconds=1))
    assert is_dead_money(payment, of_today, Attention.DEAD_BILL)
    assert (of_today.status, of_today.paid_amount) == (BillStatus.PENDING, 0)


def test_a_payment_that_was_begun_after_the_term_is_for_a_dead_bill(of_today, bank):
    payment = begin(of_today, bank)
    with transaction():
        of_today.payable_from = of_today.payable_until = of_today.payable_until - timedelta(days=1)
    accept_notice(bank, pay_at(bank, payment))
    assert is_dead_money(payment, of_today, Attention.DEAD_BILL)


def test_revoked_link(payment, bill, bank, network):
    with transaction():
        revoke_link(bill, by=network.owner)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert (bill.status, payment.attention) == (BillStatus.PAID, None)
    assert bill.account.balance == bill.amount
    assert "Ссылк" in last_event(payment, PaymentEventKind.CREDITED).detail


def test_a_person_has_looked_at_money_for_a_dead_bill(payment, bill, bank, network):
    with transaction():
        archive_bill(bill, by=SYSTEM)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    with transaction():
        resolve_attention(payment, "Вернули в кассе", by=network.owner)
    assert count_unresolved() == 0
    event = last_event(payment, PaymentEventKind.RESOLVED)
    assert (event.detail, event.author_name) == ("Вернули в кассе", network.owner.name)
    with pytest.raises(Conflict), transaction():
        resolve_attention(payment, by=network.owner)


@pytest.mark.spec("X13")
def test_online_money_comes_through_the_acquiring_till(payment, bill, bank, network):
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    assert payment.method is PaymentMethod.ONLINE
    assert house_balance(AccountKind.ACQUIRING, network.lesnoy) == bill.amount
    assert house_balance(AccountKind.CASH, network.lesnoy) == 0
