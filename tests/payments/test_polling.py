"""A notice that never came: the gateway is asked, less and less often, until it says how the payment ended."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.jobs.tasks import perform
from crm.payments.gateways.base import GatewayError
from crm.payments.gateways.demo import DemoGateway
from crm.payments.models import PaymentStatus, Refund, RefundStatus
from crm.payments.outcomes import accept_notice
from crm.payments.polling import take_questions
from crm.payments.refunds import refund_payment
from tests.bank import begin, pay_at
from tests.factories import make_bill, make_client


@pytest.fixture
def payment(network, bank):
    return begin(make_bill(make_client(network.lesnoy)), bank)


def questions(after: timedelta, began) -> int:
    with transaction():
        return len(take_questions(now=began + after))


def test_the_pauses_grow_with_the_age_of_the_payment(payment):
    began = payment.created_at
    minutes = [minute for minute in range(180) if questions(timedelta(minutes=minute), began)]
    assert minutes == [*range(2, 61), 120]
    assert [hour for hour in range(4, 30) if questions(timedelta(hours=hour), began)] == list(range(4, 30))
    days = [hour for hour in range(24 * 8, 24 * 12) if questions(timedelta(hours=hour), began)]
    assert len(days) == 4
    assert questions(timedelta(days=400), began) == 1


def test_money_paid_while_we_were_away_for_a_month_is_credited(payment, bank):
    pay_at(bank, payment)
    with clock.frozen(payment.created_at + timedelta(days=31)):
        db.session.commit()
        perform("payments.poll")
    db.session.expire_all()
    assert payment.status is PaymentStatus.SUCCEEDED
    assert payment.account.balance == payment.amount
    assert questions(timedelta(days=60), payment.created_at) == 0


def test_asking_leaves_no_lines_in_the_history(payment):
    before = db.session.query(AuditEntry).count()
    assert questions(timedelta(minutes=5), payment.created_at) == 1
    assert db.session.query(AuditEntry).count() == before


def test_two_schedulers_ask_once(payment, in_parallel):
    began = payment.created_at

    def ask(_index: int) -> int:
        with scoped_to(EVERYWHERE):
            return questions(timedelta(minutes=5), began)

    assert sorted(in_parallel(ask, 4)) == [0, 0, 0, 1]


def test_a_fault_with_one_does_not_take_the_turn_of_the_others(network, bank, monkeypatch):
    """Whatever the fault is: here the bank's answer makes no sense."""
    broken, paid = (begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(2))
    ids = {payment: payment.external_id for payment in (broken, paid)}
    for payment in (broken, paid):
        pay_at(bank, payment)
    fetch = DemoGateway.fetch

    def senseless(self, external_id):
        if external_id == ids[broken]:
            raise ZeroDivisionError
        return fetch(self, external_id)

    monkeypatch.setattr(DemoGateway, "fetch", senseless)
    with clock.frozen(clock.now() + timedelta(hours=1)):
        perform("payments.poll")
    db.session.expire_all()
    assert (broken.status, paid.status) == (PaymentStatus.PENDING, PaymentStatus.SUCCEEDED)


def test_a_fault_with_one_refund_does_not_take_the_turn_of_the_others(network, bank, monkeypatch):
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(2)]
    for payment in payments:
        accept_notice(bank, pay_at(bank, payment))
    refund, first = DemoGateway.refund, payments[0].external_id

    def silent(self, *args, **facts):
        raise GatewayError("silent")

    monkeypatch.setattr(DemoGateway, "refund", silent)
    for payment in payments:
        with transaction():
            refund_payment(payment, payment.amount, "Болел", by=SYSTEM)

    def senseless(self, external_id, **facts):
        if external_id == first:
            raise ZeroDivisionError
        return refund(self, external_id, **facts)

    monkeypatch.setattr(DemoGateway, "refund", senseless)
    with clock.frozen(clock.now() + timedelta(hours=1)):
        perform("payments.poll")
    statuses = db.session.scalars(select(Refund.status).order_by(Refund.id)).all()
    assert statuses == [RefundStatus.PENDING, RefundStatus.SUCCEEDED]
