"""Money given back through the bank: the whole or a part, never twice, whoever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import BillStatus
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden
from crm.jobs.tasks import perform
from crm.ledger.models import AccountKind, Transaction
from crm.ledger.operations import base_account
from crm.payments.desk import close_account, reverse_operation, write_off
from crm.payments.gateways.base import GatewayError, GatewayRefused, RemotePayment, RemoteStatus
from crm.payments.gateways.demo import DemoBankRefund, DemoGateway
from crm.payments.models import (
    Attention,
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentStatus,
    Refund,
    RefundStatus,
)
from crm.payments.operations import start_payment
from crm.payments.outcomes import accept_notice
from crm.payments.refunds import (
    ask_refund,
    kept_for_refund,
    note_refund_elsewhere,
    refund_payment,
    refund_reported,
)
from crm.payments.resolving import accept_reported, resolve_attention
from tests.bank import TalkingBank, begin, pay_at, says
from tests.factories import house_balance, make_account, make_bill, make_client, make_payment
from tests.servers import ROOT


@pytest.fixture
def bill(network):
    client = make_client(network.lesnoy)
    return make_bill(client, account=make_account(client))


@pytest.fixture
def payment(bill, bank):
    """1500, received."""
    payment = begin(bill, bank)
    accept_notice(bank, pay_at(bank, payment))
    db.session.expire_all()
    return payment


def give_back(payment, amount, *, by=SYSTEM, reason="Болел"):
    db.session.commit()
    with transaction():
        refund = refund_payment(payment, Decimal(amount), reason, by=by)
    db.session.expire_all()
    return refund


def refusal(payment, amount, **changes):
    with pytest.raises(DomainError) as refused:
        give_back(payment, amount, **changes)
    return refused.value.code, refused.value.field


def at_the_bank():
    """What the demo bank has given back, by its own book."""
    return db.session.scalars(select(DemoBankRefund.amount).order_by(DemoBankRefund.amount)).all()


def broken(name, error):
    """The bank fails at one of its verbs."""

    def fail(*_args, **_facts):
        raise error

    context = pytest.MonkeyPatch()
    context.setattr(DemoGateway, name, fail)
    return context


def test_a_part_then_the_rest(payment, bill, network):
    first = give_back(payment, "500.50", by=network.owner)
    assert (first.status, first.author_name, first.reason) == (RefundStatus.SUCCEEDED, network.owner.name, "Болел")
    assert (payment.refunded, bill.account.balance) == (Decimal("500.50"), Decimal("999.50"))
    assert house_balance(AccountKind.ACQUIRING, network.lesnoy) == Decimal("999.50")
    give_back(payment, "999.50")
    assert (payment.refunded, bill.account.balance) == (1500, 0)
    assert at_the_bank() == [Decimal("500.50"), Decimal("999.50")]


@pytest.mark.spec("B32")
def test_a_wholly_refunded_bill_stays_paid(payment, bill):
    give_back(payment, 1500)
    assert (bill.status, payment.status, payment.refunded) == (BillStatus.PAID, PaymentStatus.SUCCEEDED, 1500)


def test_never_more_than_is_left(payment):
    give_back(payment, 1000)
    assert refusal(payment, "500.01") == ("amount_too_big", "amount")
    assert refusal(payment, 0) == ("amount_invalid", "amount")
    assert refusal(payment, 5, reason=" ") == ("reason_required", "reason")


def test_not_more_than_is_on_the_account(payment, bill):
    with transaction():
        write_off(bill.account, amount=Decimal(1000), reason="Занятия", by=SYSTEM)
    assert refusal(payment, "500.01") == ("not_enough", "amount")
    give_back(payment, 500)
    assert bill.account.balance == 0


def test_only_what_came_online_and_only_who_may(payment, bill, network):
    assert refusal(make_payment(bill.account, 100), 50)[0] == "not_refundable"
    for person in (network.manager, network.instructor):
        with pytest.raises(Forbidden):
            give_back(payment, 5, by=person)
        db.session.rollback()


def test_two_clerks_at_once_never_give_back_more_than_was_paid(payment, bill, in_parallel):
    payment_id = payment.id

    def give(_index: int) -> bool:
        with transaction():
            refund_payment(db.session.get_one(Payment, payment_id), Decimal(1000), "Болел", by=SYSTEM)
        return True

    results = in_parallel(give, 4)
    assert sum(result is True for result in results) == 1, results
    db.session.expire_all()
    assert (payment.refunded, bill.account.balance) == (1000, 500)
    assert at_the_bank() == [1000]


def test_of_several_bills_each_is_refunded_by_itself(network, bank):
    client = make_client(network.lesnoy)
    bills = [make_bill(client, amount=Decimal(sum_)) for sum_ in (100, 200)]
    db.session.commit()
    leader = start_payment(bills, gateway=bank, return_url="https://kontora.test/pay/x")
    accept_notice(bank, pay_at(bank, leader))
    second = db.session.scalars(select(Payment).where(Payment.order_id == leader.id)).one()
    assert refusal(second, 201)[0] == "amount_too_big"
    give_back(second, 200)
    assert (leader.refunded, second.refunded) == (0, 200)
    assert bank.fetch(leader.external_id).refunded == 200
    accept_notice(bank, leader.external_id)
    db.session.expire_all()
    assert leader.attention is None  # the bank's sum is ours


# --- a bank that says no, or nothing --------------------------------------------------------------------------------


def test_a_refusal_brings_the_money_back_and_asks_for_a_person(payment, bill):
    patch = broken("refund", GatewayRefused("no money in the shop"))
    try:
        refund = give_back(payment, 700)
    finally:
        patch.undo()
    assert (refund.status, refund.error) == (RefundStatus.FAILED, "no money in the shop")
    assert (payment.refunded, bill.account.balance) == (0, 1500)
    assert payment.attention is Attention.REFUND_FAILED
    give_back(payment, 1500)
    assert at_the_bank() == [1500]


def test_a_refusal_after_the_account_was_closed_is_put_on_the_base_account(payment, bill):
    patch = broken("refund", GatewayError("no answer"))
    try:
        give_back(payment, 1500)
    finally:
        patch.undo()
    with transaction():
        close_account(bill.account, by=SYSTEM)
    patch = broken("refund", GatewayRefused("no"))
    try:
        db.session.commit()
        with clock.frozen(clock.now() + timedelta(minutes=5)):
            perform("payments.poll")
    finally:
        patch.undo()
    db.session.expire_all()
    with transaction():
        assert base_account(bill.client_id, bill.branch_id).balance == 1500


def test_a_time_out_stays_pending_and_is_asked_again_under_the_same_key(payment, bill, bank):
    answered = DemoGateway.refund

    def lost(self, *args, **facts):
        answered(self, *args, **facts)  # the bank has done it, its answer was lost
        raise GatewayError("time-out")

    patch = pytest.MonkeyPatch()
    patch.setattr(DemoGateway, "refund", lost)
    try:
        refund = give_back(payment, 600)
    finally:
        patch.undo()
    assert refund.status is RefundStatus.PENDING
    assert (payment.refunded, bill.account.balance) == (0, 900)  # off the account at once
    assert refusal(payment, 901)[0] == "amount_too_big"
    accept_notice(bank, payment.external_id)  # the bank tells of it before we have asked
    assert payment.attention is None
    db.session.commit()
    with clock.frozen(clock.now() + timedelta(minutes=2)):
        perform("payments.poll")
    db.session.expire_all()
    assert (refund.status, payment.refunded, bill.account.balance) == (RefundStatus.SUCCEEDED, 600, 900)
    assert at_the_bank() == [600]


@pytest.mark.parametrize("was_made", [True, False])
def test_a_day_later_the_bank_is_first_asked_what_it_has_given_back(payment, bill, was_made):
    """It remembers a key for a day: a repeated request would be another refund by then."""
    answered = DemoGateway.refund

    def lost(self, *args, **facts):
        if was_made:
            answered(self, *args, **facts)
        raise GatewayError("time-out")

    def forgetful(self, *args, **facts):
        return answered(self, *args, **{**facts, "idempotence_key": "another"})

    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(DemoGateway, "refund", lost)
        refund = give_back(payment, 600)
        patch.setattr(DemoGateway, "refund", forgetful)
        db.session.commit()
        with clock.frozen(clock.now() + timedelta(days=2)):
            perform("payments.poll")
    finally:
        patch.undo()
    db.session.expire_all()
    assert (refund.status, payment.refunded, at_the_bank()) == (RefundStatus.SUCCEEDED, 600, [600])


def test_asking_at_once_from_everywhere_refunds_once(payment, bill, in_parallel):
    patch = broken("refund", GatewayError("no answer"))
    try:
        refund_id = give_back(payment, 600).id
    finally:
        patch.undo()
    assert in_parallel(lambda _index: ask_refund(refund_id), 6) == [None] * 6
    db.session.expire_all()
    assert (payment.refunded, bill.account.balance, at_the_bank()) == (600, 900, [600])
    succeeded = select(func.count()).select_from(PaymentEvent).where(PaymentEvent.kind == PaymentEventKind.REFUND)
    assert db.session.scalar(succeeded) == 2  # asked, done


KILLED = """
import os, signal, sys
from decimal import Decimal
from crm import create_app
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import db, transaction
from crm.payments.gateways.demo import DemoGateway
from crm.payments.models import Payment
from crm.payments.refunds import refund_payment

answered = DemoGateway.refund

def die(self, *args, **facts):
    if sys.argv[2] == "after":
        answered(self, *args, **facts)
    os.kill(os.getpid(), signal.SIGKILL)

DemoGateway.refund = die
with create_app().app_context(), scoped_to(EVERYWHERE):
    with transaction():
        refund_payment(db.session.get_one(Payment, int(sys.argv[1])), Decimal(600), "Болел", by=SYSTEM)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_while_the_bank_is_asked_refunds_once(app, payment, bill, when):
    """Killed before the bank heard, or after it had done it and before we noted so."""
    settings = app.config["SETTINGS"]
    env = os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "DATA_DIR": str(settings.data_dir),
        "SECRET_KEY": settings.secret_key,
        "KONTORA_DEMO": "1",
    }
    asked = [sys.executable, "-c", KILLED, str(payment.id), when]
    db.session.commit()
    died = subprocess.run(asked, cwd=ROOT, env=env, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    db.session.expire_all()
    refund = db.session.scalars(select(Refund)).one()
    assert (refund.status, bill.account.balance) == (RefundStatus.PENDING, 900)
    with clock.frozen(clock.now() + timedelta(minutes=5)):
        db.session.commit()
        perform("payments.poll")
    db.session.expire_all()
    assert (refund.status, payment.refunded, at_the_bank()) == (RefundStatus.SUCCEEDED, 600, [600])


# --- refunds we did not make, and money that was held ----------------------------------------------------------------


def elsewhere(payment, refunded):
    said = RemotePayment(
        payment.external_id, RemoteStatus.SUCCEEDED, payment.amount, refunded=Decimal(refunded) if refunded else None
    )
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)
    db.session.expire_all()


def test_a_refund_at_the_bank_is_told_once_and_taken_off_here_when_a_person_says_so(payment, bill, network):
    give_back(payment, 100)
    for _ in range(2):
        elsewhere(payment, 400)
    held = select(PaymentEvent).where(PaymentEvent.kind == PaymentEventKind.HELD)
    (event,) = db.session.scalars(held).all()
    assert "400,00" in event.detail
    assert (payment.attention, bill.account.balance) == (Attention.REFUNDED_ELSEWHERE, 1400)
    with transaction():
        note_refund_elsewhere(payment, by=network.owner)
    db.session.expire_all()
    assert (payment.refunded, bill.account.balance) == (400, 1100)
    assert payment.attention_closed_at is not None
    elsewhere(payment, 400)
    assert payment.attention_closed_at is not None
    with pytest.raises(Conflict), transaction():
        note_refund_elsewhere(payment, by=network.owner)


def test_a_bank_that_does_not_say_how_much_is_told_in_words(payment):
    elsewhere(payment, None)
    assert payment.attention is Attention.REFUNDED_ELSEWHERE
    assert payment.reported_amount is None


def test_what_was_held_goes_back_whole_and_touches_no_account(bill, bank, network):
    payment = begin(bill, bank)
    pay_at(bank, payment)
    accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "1400.00")), payment.external_id)
    db.session.expire_all()
    with transaction():
        refund = refund_reported(payment, "Не та сумма", by=network.owner)
    db.session.expire_all()
    assert (refund.status, refund.amount, refund.transaction_id) == (RefundStatus.SUCCEEDED, 1400, None)
    assert (payment.status, bill.account.balance) == (PaymentStatus.CANCELED, 0)
    assert payment.attention_closed_at is not None
    assert at_the_bank() == [1400]
    with pytest.raises(Conflict), transaction():
        refund_reported(payment, "Ещё раз", by=network.owner)


def held(bill, bank, amount, currency="RUB"):
    """A payment of which the bank says that so much has come."""
    payment = begin(bill, bank)
    said = RemotePayment(payment.external_id, RemoteStatus.SUCCEEDED, Decimal(amount), currency)
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)
    db.session.expire_all()
    return payment


def test_held_money_whose_refund_was_refused_is_not_settled_by_a_look(bill, bank, network):
    payment = held(bill, bank, 1400)
    context = broken("refund", GatewayRefused("нельзя"))
    with transaction():
        refund = refund_reported(payment, "Не та сумма", by=network.owner)
    context.undo()
    db.session.expire_all()
    assert (refund.status, payment.attention) == (RefundStatus.FAILED, Attention.REFUND_FAILED)
    with pytest.raises(DomainError) as refused, transaction():
        resolve_attention(payment, by=network.owner)
    assert refused.value.code == "held"
    with transaction():
        accept_reported(payment, by=network.owner)
    db.session.expire_all()
    assert (payment.status, bill.account.balance) == (PaymentStatus.SUCCEEDED, 1400)
    assert payment.attention_closed_at is not None


def test_a_reported_sum_of_zero_is_only_looked_at(bill, bank, network):
    payment = held(bill, bank, 0)
    for settle in (
        lambda: accept_reported(payment, by=network.owner),
        lambda: refund_reported(payment, "Не та сумма", by=network.owner),
    ):
        with pytest.raises(DomainError) as refused, transaction():
            settle()
        assert refused.value.code == "nothing_came"
    with transaction():
        resolve_attention(payment, by=network.owner)
    assert (payment.status, bill.account.balance) == (PaymentStatus.PENDING, 0)


# --- an account that was closed meanwhile, another currency ---------------------------------------------------------


@pytest.mark.parametrize("where", ["here", "at the bank"])
def test_once_the_account_is_closed_a_refund_leaves_the_base_account(payment, bill, network, where):
    base = base_account(bill.client_id, bill.branch_id)
    with transaction():
        close_account(bill.account, transfer_to=base, by=SYSTEM)
    if where == "here":
        refund = give_back(payment, 500)
    else:
        elsewhere(payment, 500)
        with transaction():
            refund = note_refund_elsewhere(payment, by=network.owner)
        db.session.expire_all()
    assert (refund.status, refund.account_id, payment.refunded) == (RefundStatus.SUCCEEDED, base.id, 500)
    assert (base.balance, bill.account.balance) == (1000, 0)


def test_after_a_merge_of_cards_it_is_the_base_account_that_is_open(payment, bill, network):
    gone = make_client(network.lesnoy)
    with transaction():
        base_account(gone.id, gone.branch_id)  # the older one: the merge closes it
    with transaction():
        base = base_account(bill.client_id, bill.branch_id)
        merge_clients(bill.client, gone, by=SYSTEM)
    db.session.expire_all()
    with transaction():
        close_account(bill.account, transfer_to=base, by=SYSTEM)
    assert kept_for_refund(payment) == 1500
    assert give_back(payment, 1500).account_id == base.id


def test_a_refused_refund_off_the_base_account_comes_back_there(payment, bill):
    base = base_account(bill.client_id, bill.branch_id)
    with transaction():
        close_account(bill.account, transfer_to=base, by=SYSTEM)
    context = broken("refund", GatewayRefused("нельзя"))
    refund = give_back(payment, 500)
    context.undo()
    assert (refund.status, base.balance, bill.account.balance) == (RefundStatus.FAILED, 1500, 0)


def test_what_was_given_back_in_another_currency_is_taken_off_as_a_person_says(bill, bank, network):
    payment = held(bill, bank, 15, "EUR")
    with transaction():
        accept_reported(payment, by=network.owner, amount=Decimal(1500))
    db.session.commit()
    said = RemotePayment(payment.external_id, RemoteStatus.SUCCEEDED, Decimal(15), "EUR", refunded=Decimal(5))
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)
    db.session.expire_all()
    for amount in (None, Decimal(1501), Decimal(0)):
        with pytest.raises(DomainError) as refused, transaction():
            note_refund_elsewhere(payment, by=network.owner, amount=amount)
        assert refused.value.field == "amount"
    with transaction():
        refund = note_refund_elsewhere(payment, by=network.owner, amount=Decimal(500))
    db.session.expire_all()
    assert (refund.amount, bill.account.balance, payment.refunded) == (500, 1000, 500)


def test_a_refund_through_the_bank_is_not_reversed_by_hand(payment):
    refund = give_back(payment, 100)
    with pytest.raises(DomainError) as refused, transaction():
        reverse_operation(db.session.get_one(Transaction, refund.transaction_id), by=SYSTEM, comment="x")
    assert refused.value.code == "irreversible"
