"""A notice that never came: the gateway is asked, less and less often, until it says how the payment ended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crm import clock
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.jobs.tasks import perform
from crm.payments.models import PaymentStatus
from crm.payments.polling import take_questions
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
