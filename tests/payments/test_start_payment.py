"""Beginning to pay online."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import select

from crm.bills.models import Bill, BillStatus
from crm.db import db
from crm.errors import DomainError
from crm.payments.gateways.base import GatewayError, RemoteStatus
from crm.payments.models import Payment, PaymentStatus
from crm.payments.operations import start_payment
from tests.bank import begin, decline_at, pay_at
from tests.factories import make_bill, make_client

BACK = "https://kontora.test/pay/x"


def test_the_bank_is_told_sum_currency_and_where_to_return(network, bank):
    bill = make_bill(make_client(network.lesnoy), amount=Decimal("4300.50"))
    network.company.currency = "KZT"
    payment = begin(bill, bank)
    form = bank.read_form(payment.external_id)
    assert (form.amount, form.currency, form.status) == (Decimal("4300.50"), "KZT", RemoteStatus.PENDING)
    assert form.return_url.endswith(f"/pay/{bill.token}?payment={payment.id}")
    assert payment.confirmation_url.endswith(f"/demo-bank/{payment.external_id}")
    assert (payment.client_id, payment.account_id, payment.bill_id) == (bill.client_id, bill.account_id, bill.id)


def test_clicks_at_once_begin_one_payment(network, bank, in_parallel):
    bill_id = make_bill(make_client(network.lesnoy)).id

    def click(_index: int) -> tuple[int, str]:
        payment = start_payment(db.session.get_one(Bill, bill_id), gateway=bank, return_url=BACK)
        return payment.id, payment.confirmation_url

    results = in_parallel(click, 8)
    assert len(set(results)) == 1, results
    assert len(db.session.scalars(select(Payment)).all()) == 1


def test_a_declined_payment_gives_way_to_a_new_one_even_if_the_notice_was_lost(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    first = begin(bill, bank)
    decline_at(bank, first)
    second = begin(bill, bank)
    assert second.id != first.id
    assert (first.status, second.status) == (PaymentStatus.CANCELED, PaymentStatus.PENDING)


def test_who_has_paid_already_is_not_sent_to_the_bank_again(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    pay_at(bank, begin(bill, bank))
    with pytest.raises(DomainError) as refused:
        begin(bill, bank)
    assert refused.value.code == "paid"
    assert bill.status is BillStatus.PAID
    assert bill.account.balance == bill.amount


def test_a_bank_that_fails_leaves_a_payment_the_next_click_takes_up(network, bank, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))

    def out_of_order(**_asked):
        assert not db.session().in_transaction(), "nothing may be held while the bank is asked"
        raise GatewayError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(bank, "create", out_of_order)
        with pytest.raises(GatewayError):
            begin(bill, bank)
    db.session.rollback()
    left = db.session.scalars(select(Payment)).one()
    assert (left.status, left.external_id) == (PaymentStatus.PENDING, None)
    assert begin(bill, bank).id == left.id


def test_the_bank_makes_one_payment_per_key(network, bank):
    asked = {"amount": Decimal(5), "currency": "RUB", "description": "x", "return_url": BACK}
    first = bank.create(idempotence_key="one", **asked)
    assert bank.create(idempotence_key="one", **asked) == first
    assert bank.create(idempotence_key="two", **asked) != first


@pytest.mark.spec("B29")
def test_a_repeatable_bill_is_paid_again(network, bank):
    bill = make_bill(make_client(network.lesnoy), is_repeatable=True)
    for _ in range(2):
        pay_at(bank, begin(bill, bank))
    with_third = begin(bill, bank)
    assert with_third.status is PaymentStatus.PENDING
    db.session.expire_all()
    assert bill.status is BillStatus.PAID
    assert bill.payments_count == 2
    assert bill.account.balance == 2 * bill.amount
    payments = db.session.scalars(select(Payment).where(Payment.status == PaymentStatus.SUCCEEDED)).all()
    assert len(payments) == 2
