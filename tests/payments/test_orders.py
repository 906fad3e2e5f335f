"""Several bills paid at once are one order at the bank; the sum of one bill is chosen by the company's rules."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.errors import DomainError
from crm.jobs.tasks import perform
from crm.payments.crediting import AFTER_PAYMENT
from crm.payments.gateways.base import GatewayRefused, RemotePayment, RemoteStatus
from crm.payments.models import Attention, Payment, PaymentEvent, PaymentEventKind, PaymentMethod, PaymentStatus
from crm.payments.operations import start_payment, top_up
from crm.payments.outcomes import accept_notice, reference_of
from tests.bank import TalkingBank, begin, decline_at, pay_at
from tests.factories import make_account, make_bill, make_client

BACK = "https://kontora.test/pay/x"


def start(bills, bank, **changes):
    db.session.commit()
    payment = start_payment(bills, gateway=bank, return_url=BACK, **changes)
    db.session.commit()
    return payment


def order_of(leader):
    query = select(Payment).where((Payment.id == leader.id) | (Payment.order_id == leader.id)).order_by(Payment.id)
    return list(db.session.scalars(query))


def events_of(payment):
    query = select(PaymentEvent).where(PaymentEvent.payment_id == payment.id).order_by(PaymentEvent.id)
    return [(event.kind, event.detail) for event in db.session.scalars(query)]


@pytest.fixture
def bills(network):
    client = make_client(network.lesnoy)
    deposit = make_account(client)
    return [
        make_bill(client, amount=Decimal(1000)),
        make_bill(client, amount=Decimal(700), account=deposit),
        make_bill(client, amount=Decimal("50.50")),
    ]


def test_the_bank_is_asked_for_the_total_under_one_name(bills, bank):
    leader = start(bills[::-1], bank)
    form = bank.read_form(leader.external_id)
    assert form.amount == Decimal("1750.50")
    assert all(bill.title in form.description for bill in bills)
    assert bank.fetch(leader.external_id).reference == reference_of(leader)
    payments = order_of(leader)
    assert [(payment.bill_id, payment.amount) for payment in payments] == [(bill.id, bill.amount) for bill in bills]
    assert [payment.order_id for payment in payments] == [None, leader.id, leader.id]
    assert [payment.external_id for payment in payments] == [leader.external_id, None, None]


@pytest.mark.spec("B2", "B19")
def test_all_bills_of_an_order_are_credited_to_their_own_accounts(bills, bank):
    leader = start(bills, bank)
    accept_notice(bank, pay_at(bank, leader))
    db.session.expire_all()
    assert {bill.status for bill in bills} == {BillStatus.PAID}
    assert {payment.status for payment in order_of(leader)} == {PaymentStatus.SUCCEEDED}
    assert bills[0].account.balance == Decimal("1050.50")
    assert bills[1].account.balance == Decimal(700)


def test_a_declined_order_is_canceled_whole(bills, bank):
    leader = start(bills, bank)
    accept_notice(bank, decline_at(bank, leader))
    db.session.expire_all()
    assert {payment.status for payment in order_of(leader)} == {PaymentStatus.CANCELED}


def test_a_dead_bill_among_them_goes_to_the_base_account(bills, bank):
    leader = start(bills, bank)
    with transaction():
        archive_bill(bills[1], by=SYSTEM)
    accept_notice(bank, pay_at(bank, leader))
    db.session.expire_all()
    assert [bill.status for bill in bills] == [BillStatus.PAID, BillStatus.ARCHIVED, BillStatus.PAID]
    assert (bills[0].account.balance, bills[1].account.balance) == (Decimal("1750.50"), 0)
    assert [payment.attention for payment in order_of(leader)] == [None, Attention.DEAD_BILL, None]


def test_the_same_bills_and_sums_are_the_same_order_while_it_is_unfinished(bills, bank):
    first = start(bills, bank)
    assert start(bills[::-1], bank).id == first.id
    assert start(bills[:2], bank).id not in {payment.id for payment in order_of(first)}
    decline_at(bank, first)
    assert start(bills, bank).id != first.id


def test_clicks_at_once_on_several_bills_begin_one_order(bills, bank, in_parallel):
    ids = [bill.id for bill in bills]

    def click(index: int) -> str:
        found = [db.session.get_one(Bill, id) for id in (ids if index % 2 else ids[::-1])]
        return start_payment(found, gateway=bank, return_url=BACK).confirmation_url

    results = in_parallel(click, 6)
    assert len(set(results)) == 1, results
    assert len(db.session.scalars(select(Payment)).all()) == 3


def test_bills_of_two_payers_are_no_order(network, bank):
    with pytest.raises(ValueError, match="one payer"):
        start([make_bill(make_client(network.lesnoy)) for _ in range(2)], bank)


# --- sums -----------------------------------------------------------------------------------------------------------


def refusal(bill, bank, amount):
    with pytest.raises(DomainError) as refused:
        start(bill, bank, amount=Decimal(amount))
    db.session.rollback()
    return refused.value.code, refused.value.field


def test_another_sum_than_the_bill_is_for_the_company_to_allow(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    company = network.company
    assert refusal(bill, bank, 1000) == ("amount_exact", "amount")
    company.takes_part_payments = True
    db.session.commit()
    assert refusal(bill, bank, 2000) == ("amount_too_big", "amount")
    company.takes_part_payments, company.takes_overpayments = False, True
    db.session.commit()
    assert refusal(bill, bank, 1000) == ("amount_too_small", "amount")
    assert start(bill, bank, amount=Decimal(2000)).amount == 2000


def test_parts_make_up_a_bill(network, bank):
    network.company.takes_part_payments = True
    bill = make_bill(make_client(network.lesnoy))
    first = start(bill, bank, amount=Decimal(600))
    accept_notice(bank, pay_at(bank, first))
    db.session.expire_all()
    assert (bill.status, bill.paid_amount, bill.due) == (BillStatus.PENDING, 600, 900)
    assert events_of(first)[-1] == (PaymentEventKind.CREDITED, "Часть счёта.")
    accept_notice(bank, pay_at(bank, start(bill, bank)))
    db.session.expire_all()
    assert (bill.status, bill.paid_amount, bill.payments_count) == (BillStatus.PAID, 1500, 2)
    assert bill.account.balance == 1500


def test_another_sum_begins_another_order(network, bank):
    network.company.takes_part_payments = True
    bill = make_bill(make_client(network.lesnoy))
    first = start(bill, bank, amount=Decimal(600))
    second = start(bill, bank, amount=Decimal(700))
    assert second.id != first.id
    assert start(bill, bank, amount=Decimal(600)).id == first.id


def test_what_is_over_after_two_orders_of_one_bill_is_flagged(network, bank):
    network.company.takes_part_payments = True
    bill = make_bill(make_client(network.lesnoy))
    whole, part = start(bill, bank), start(bill, bank, amount=Decimal(600))
    accept_notice(bank, pay_at(bank, part))
    accept_notice(bank, pay_at(bank, whole))
    db.session.expire_all()
    assert (bill.status, bill.paid_amount, bill.account.balance) == (BillStatus.PAID, 2100, 2100)
    assert (part.attention, whole.attention) == (None, Attention.PAID_TWICE)


# --- what goes wrong between us and the bank -------------------------------------------------------------------------


def test_a_bank_that_says_no_ends_the_order_and_the_next_click_begins_another(network, bank, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))

    def refuse(**_asked):
        raise GatewayRefused("the terminal is blocked")

    with monkeypatch.context() as patch:
        patch.setattr(bank, "create", refuse)
        with pytest.raises(GatewayRefused):
            start(bill, bank)
    db.session.rollback()
    left = db.session.scalars(select(Payment)).one()
    assert left.status is PaymentStatus.CANCELED
    assert events_of(left) == [(PaymentEventKind.CANCELED, "the terminal is blocked")]
    assert begin(bill, bank).id != left.id


def killed_after_create(bill, bank, monkeypatch):
    """We died between the bank's answer and our commit; the bank's id of it."""
    made = []

    def create(**asked):
        made.append(type(bank).create(bank, **asked))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bank, "create", create)
        with pytest.raises(KeyboardInterrupt):
            start(bill, bank)
    db.session.rollback()
    return made[0].external_id


def test_a_payment_whose_number_was_never_noted_is_found_by_our_name_for_it(network, bank, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))
    external_id = killed_after_create(bill, bank, monkeypatch)
    bank.decide(external_id, RemoteStatus.SUCCEEDED)
    payment = accept_notice(bank, external_id)
    db.session.expire_all()
    assert (payment.external_id, payment.status) == (external_id, PaymentStatus.SUCCEEDED)
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, bill.amount)


def test_an_order_the_bank_made_twice_and_was_paid_twice_loses_nothing(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    first = begin(bill, bank)
    accept_notice(bank, pay_at(bank, first))
    again = RemotePayment("another", RemoteStatus.SUCCEEDED, bill.amount, reference=reference_of(first))
    for _ in range(2):
        second = accept_notice(TalkingBank(lambda _id: again), "another")
    db.session.expire_all()
    assert second.id != first.id
    assert (second.attention, second.status) == (Attention.PAID_TWICE, PaymentStatus.SUCCEEDED)
    assert bill.account.balance == 2 * bill.amount


def test_what_never_reached_the_bank_is_given_up_after_a_day(network, bank, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))
    external_id = killed_after_create(bill, bank, monkeypatch)
    with clock.frozen(clock.now() + timedelta(hours=25)):
        perform("payments.poll")
        left = db.session.scalars(select(Payment)).one()
        assert left.status is PaymentStatus.CANCELED
        db.session.commit()
        bank.decide(external_id, RemoteStatus.SUCCEEDED)  # and was paid all the same
        accept_notice(bank, external_id)
    db.session.expire_all()
    assert left.status is PaymentStatus.SUCCEEDED
    assert bill.account.balance == bill.amount


def test_what_is_begun_is_told_in_the_history(network, bank):
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    assert events_of(payment) == [(PaymentEventKind.STARTED, "1\xa0500,00\xa0₽")]


# --- after a payment ------------------------------------------------------------------------------------------------


def test_who_waits_for_payments_is_told_in_their_transaction(network, bank, monkeypatch):
    heard = []
    monkeypatch.setattr(
        "crm.payments.crediting.AFTER_PAYMENT", [lambda payments: heard.extend(payment.id for payment in payments)]
    )
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    pay_at(bank, payment)
    for _ in range(2):
        accept_notice(bank, payment.external_id)
    with transaction():
        at_desk = top_up(bill.account, amount=Decimal(5), method=PaymentMethod.CASH, by=SYSTEM)
    assert heard == [payment.id, at_desk.id]


def test_whoever_fails_after_a_payment_undoes_it_and_the_next_notice_brings_it_again(network, bank, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))
    external_id = pay_at(bank, begin(bill, bank))

    def fail(_payments):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("crm.payments.crediting.AFTER_PAYMENT", [*AFTER_PAYMENT, fail])
        with pytest.raises(ZeroDivisionError):
            accept_notice(bank, external_id)
    db.session.rollback()
    db.session.expire_all()
    assert (bill.status, bill.account.balance) == (BillStatus.PENDING, 0)
    accept_notice(bank, external_id)
    db.session.expire_all()
    assert bill.account.balance == bill.amount
