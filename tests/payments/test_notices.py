"""Stored notices: claimed with a lease, tried again, never acted upon twice; real services' as they come."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import event, func, select

from crm import clock
from crm.audit.models import AuditEntry
from crm.bills.models import BillStatus
from crm.db import db, transaction
from crm.errors import Conflict, Forbidden
from crm.jobs.tasks import perform
from crm.ledger.models import Entry
from crm.mailings.models import Message
from crm.payments.gateways.base import GatewayError, NoticeRefused
from crm.payments.gateways.demo import SIGNATURE_HEADER, DemoGateway
from crm.payments.models import (
    Attention,
    GatewayKind,
    GatewayNotice,
    NoticeStatus,
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentMethod,
    PaymentStatus,
    Shop,
)
from crm.payments.notices import (
    LEASE,
    PAUSES,
    claim_notices,
    forget_notices,
    read_again,
    read_notice,
    ring_for_notices,
    take_notice,
)
from crm.payments.operations import start_payment
from crm.payments.refunds import refund_payment
from crm.payments.shops import open_shop
from tests.bank import begin, hear_all, pay_at
from tests.factories import make_bill, make_client, make_notice, make_template
from tests.gateways.fixtures import local_tbank, local_yookassa  # noqa: F401

BACK = "https://kontora.test/pay/x"


def store(bank, external_id, event="payment.updated"):
    body = json.dumps({"event": event, "payment": external_id}).encode()
    db.session.commit()
    take_notice("demo", {SIGNATURE_HEADER: bank.sign(body)}, body)


@contextmanager
def counted():
    """The statements sent in the block."""
    sent = []

    def note(_connection, _cursor, statement, *_rest):
        sent.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def begin_anew(bill, bank):
    """One more payment of the bill, as if the one begun before were nowhere to be found."""
    asked = {"amount": bill.amount, "currency": "RUB", "description": "", "idempotence_key": f"other-{bill.id}"}
    db.session.commit()
    created = bank.create(return_url=BACK, **asked)
    with transaction():
        payment = Payment(
            branch_id=bill.branch_id,
            client_id=bill.client_id,
            account_id=bill.account_id,
            bill_id=bill.id,
            method=PaymentMethod.ONLINE,
            amount=bill.amount,
            gateway="demo",
            external_id=created.external_id,
            created_at=clock.now(),
            author_name="demo",
        )
        db.session.add(payment)
    return payment


def stored():
    db.session.expire_all()
    return db.session.scalars(select(GatewayNotice)).one()


@pytest.fixture
def rings(app):
    """Tasks the bell was rung for."""
    heard, before = [], app.extensions.get("bell")
    app.extensions["bell"] = lambda task, _args: heard.append(task)
    yield heard
    app.extensions["bell"] = before


@pytest.fixture
def paid(network, bank):
    """The bank's id of a payment it has received; nobody has heard yet."""
    return pay_at(bank, begin(make_bill(make_client(network.lesnoy)), bank))


def test_a_notice_rings_once_however_often_it_comes(bank, paid, rings):
    for _ in range(3):
        store(bank, paid)
    assert rings == ["payments.notices"] * 3  # nobody has read it yet: every ring may be the one that is heard
    hear_all()
    store(bank, paid)
    assert len(rings) == 3
    assert stored().repeats == 3


def test_the_same_words_an_hour_later_are_read_again(bank, paid):
    store(bank, paid)
    hear_all()
    with clock.frozen(clock.now() + timedelta(hours=2)):
        store(bank, paid)
        assert stored().status is NoticeStatus.NEW
        hear_all()
        assert stored().status is NoticeStatus.DONE
    assert db.session.scalars(select(Payment)).one().account.balance == 1500


def test_workers_at_once_claim_each_notice_once(bank, paid, in_parallel):
    for number in range(20):
        store(bank, paid, event=f"said {number}")

    def work(_index: int) -> list[int]:
        taken = []
        while claims := claim_notices(limit=3):
            taken += [claim.id for claim in claims]
        return taken

    results = in_parallel(work, 4)
    taken = [id for result in results for id in result]
    assert sorted(taken) == sorted(db.session.scalars(select(GatewayNotice.id)))


def test_no_more_are_claimed_than_asked_for(network):
    for _ in range(12):
        make_notice(status=NoticeStatus.NEW)
    assert [len(claim_notices(limit=5)) for _ in range(4)] == [5, 5, 2, 0]


def test_a_worker_that_died_is_followed_by_another_when_its_lease_ends(bank, paid):
    store(bank, paid)
    (dead,) = claim_notices()
    assert claim_notices() == []
    with clock.frozen(clock.now() + LEASE + timedelta(seconds=1)):
        (heir,) = claim_notices()
        assert heir.attempt == dead.attempt + 1
        read_notice(dead)  # it was only slow: what it does is refused
        assert stored().status is NoticeStatus.WORKING
        assert db.session.scalars(select(Payment)).one().status is PaymentStatus.PENDING
        read_notice(heir)
    assert stored().status is NoticeStatus.DONE
    assert db.session.scalars(select(Payment)).one().account.balance == 1500


def test_a_silent_gateway_is_asked_less_and_less_often_and_given_up_in_the_end(bank, paid, monkeypatch):
    def silent(*_args):
        assert not db.session().in_transaction()
        raise GatewayError("no answer")

    store(bank, paid)
    monkeypatch.setattr("crm.payments.gateways.demo.DemoGateway.fetch", silent)
    now, waits = clock.now(), []
    for _ in range(len(PAUSES) + 1):
        with clock.frozen(now):
            hear_all()
            notice = stored()
            if notice.status is NoticeStatus.NEW:
                waits.append(notice.next_try_at - now)
                now = notice.next_try_at
    assert waits == list(PAUSES)
    assert (notice.status, notice.result) == (NoticeStatus.FAILED, "no answer")


def test_several_are_credited_in_as_many_statements_as_two_and_each_as_if_alone(network, bank, app):
    make_template(is_thanks=True)
    clients = [
        make_client(branch, email=f"payer{n}@example.com")
        for n, branch in enumerate([network.lesnoy, network.rechnoy] * 4)
    ]

    def read(some):
        payments = [begin(make_bill(client), bank) for client in some]
        for payment in payments:
            store(bank, pay_at(bank, payment))
        with counted() as sent:
            hear_all()
        # The bank is asked of each; SQLite inserts row by row.
        ours = [text for text in sent if text.startswith(("SELECT", "UPDATE")) and "demo_bank_payment" not in text]
        return len(ours), payments

    def new_rows(of_each):
        db.session.expire_all()
        return {name: db.session.scalar(select(func.count()).select_from(model)) for name, model in of_each.items()}

    tables = {"events": PaymentEvent, "audit": AuditEntry, "entries": Entry, "messages": Message}
    read(clients)  # tills and accounts are made at their first use
    few, _payments = read(clients[:2])
    before = new_rows(tables)
    one, _payments = read(clients[:1])
    between = new_rows(tables)
    many, payments = read(clients)
    after = new_rows(tables)
    assert (many, one) == (few, pytest.approx(few, abs=8))
    # Begun ones are told of, too: each leaves as much behind as one that came alone.
    assert {name: after[name] - between[name] for name in tables} == {
        name: len(clients) * (between[name] - before[name]) for name in tables
    }
    for payment in payments:
        assert (payment.status, payment.bill.status) == (PaymentStatus.SUCCEEDED, BillStatus.PAID)
        kinds = [event.kind for event in payment.events]
        assert kinds == [PaymentEventKind.STARTED, PaymentEventKind.CREDITED]
    assert {notice.status for notice in db.session.scalars(select(GatewayNotice))} == {NoticeStatus.DONE}


def test_one_that_fails_among_several_does_not_stop_the_others(network, bank, monkeypatch):
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(4)]
    for payment in payments:
        store(bank, pay_at(bank, payment))
    ill = payments[1].id

    def fail(credited):
        if ill in [payment.id for payment in credited]:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("crm.payments.crediting.AFTER_PAYMENT", [fail])
        hear_all()
    db.session.expire_all()
    assert [payment.status for payment in payments] == [
        PaymentStatus.PENDING if payment.id == ill else PaymentStatus.SUCCEEDED for payment in payments
    ]
    again = db.session.scalars(select(GatewayNotice).where(GatewayNotice.status == NoticeStatus.NEW)).one()
    assert again.external_id == payments[1].external_id
    with clock.frozen(again.next_try_at):
        hear_all()
    db.session.expire_all()
    assert [payment.account.balance for payment in payments] == [1500] * 4


def test_of_several_about_one_payment_or_one_bill_the_second_knows_of_the_first(network, bank):
    bill = make_bill(make_client(network.lesnoy))
    first = begin(bill, bank)
    second = begin_anew(bill, bank)
    other = begin(make_bill(make_client(network.lesnoy)), bank)
    store(bank, pay_at(bank, first))
    store(bank, first.external_id, event="said again")
    store(bank, pay_at(bank, second))
    store(bank, pay_at(bank, other))
    hear_all()
    db.session.expire_all()
    assert [payment.attention for payment in (first, second, other)] == [None, Attention.PAID_TWICE, None]
    assert [event.kind for event in first.events][-2:] == [PaymentEventKind.CREDITED, PaymentEventKind.REPEATED]
    assert (bill.status, bill.payments_count, bill.paid_amount) == (BillStatus.PAID, 2, 1500)
    assert sum(account.balance for account in {first.account, second.account}) == 3000


def test_several_that_were_taken_over_are_left_to_who_has_them(network, bank, monkeypatch):
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(3)]
    for payment in payments:
        store(bank, pay_at(bank, payment))
    slow = claim_notices()
    with clock.frozen(clock.now() + LEASE + timedelta(seconds=1)):
        heirs = claim_notices()
        with monkeypatch.context() as patch:
            patch.setattr("crm.payments.notices.claim_notices", lambda **_limit: slow)
            hear_all()
        db.session.expire_all()
        assert {payment.status for payment in payments} == {PaymentStatus.PENDING}
        for heir in heirs:
            read_notice(heir)
    db.session.expire_all()
    assert [payment.account.balance for payment in payments] == [1500] * 3


def test_what_was_answered_does_not_wait_for_a_slow_bank(network, bank, monkeypatch):
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(3)]
    for payment in payments:
        store(bank, pay_at(bank, payment))
    ask, received = DemoGateway.fetch, []

    def slow(gateway, external_id):
        received.append(db.session.scalar(select(func.count()).where(Payment.status == PaymentStatus.SUCCEEDED)))
        db.session.commit()
        return ask(gateway, external_id)

    monkeypatch.setattr("crm.payments.notices.ASKING", 0)
    monkeypatch.setattr(DemoGateway, "fetch", slow)
    hear_all()
    assert received == [0, 1, 2]


def test_who_may_has_a_failed_one_read_again(bank, paid, network, monkeypatch, rings):
    store(bank, paid)
    with transaction():
        notice = stored()
        notice.status = NoticeStatus.FAILED
    with pytest.raises(Forbidden), transaction():
        read_again(notice, by=network.instructor)
    with transaction():
        read_again(notice, by=network.owner)
    assert rings[-1] == "payments.notices"
    hear_all()
    assert stored().status is NoticeStatus.DONE
    with pytest.raises(Conflict), transaction():
        read_again(stored(), by=network.owner)


def test_the_sweep_rings_for_what_the_bell_missed(bank, paid, rings):
    store(bank, paid)
    rings.clear()
    perform("jobs.sweep")
    assert "payments.notices" in rings
    perform("payments.notices")
    assert stored().status is NoticeStatus.DONE
    rings.clear()
    with transaction():
        ring_for_notices(now=clock.now())
    assert rings == []


@pytest.mark.parametrize("external_id", ["x" * 101, "\ud800", "\x00", "номер"])
def test_ids_no_payment_can_have_are_refused(bank, external_id):
    body = json.dumps({"payment": external_id}).encode()
    with pytest.raises(NoticeRefused):
        take_notice("demo", {SIGNATURE_HEADER: bank.sign(body)}, body)


def test_old_notices_are_forgotten_and_what_failed_stays(network, bank, paid):
    store(bank, paid)
    hear_all()
    failed = make_notice(status=NoticeStatus.FAILED)
    make_notice(status=NoticeStatus.UNKNOWN)
    lines = len(db.session.scalars(select(PaymentEvent)).all())
    with transaction():
        forget_notices(now=clock.now() + timedelta(days=29))
    assert len(db.session.scalars(select(GatewayNotice)).all()) == 3
    with transaction():
        forget_notices(now=clock.now() + timedelta(days=181))
    db.session.expire_all()
    assert db.session.scalars(select(GatewayNotice.id)).all() == [failed.id]
    assert len(db.session.scalars(select(PaymentEvent)).all()) == lines


# --- the real services, on loopback ---------------------------------------------------------------------------------


def make_shop(network, gateway, shop_id, secret):
    with transaction():
        shop = Shop(
            company_id=network.company.id,
            gateway=gateway,
            name=shop_id,
            shop_id=shop_id,
            secret=secret,
            created_at=clock.now(),
        )
        db.session.add(shop)
    return shop


def begin_at(shop, bill):
    db.session.commit()
    payment = start_payment(bill, gateway=open_shop(shop), shop=shop, return_url=BACK)
    db.session.commit()
    return payment


@pytest.fixture
def shop_client(web):
    client = web()
    client.with_csrf = False
    return client


@pytest.mark.spec("B2")
def test_tbank_from_its_notice_to_the_account(network, app, local_tbank, shop_client):  # noqa: F811
    ((terminal, password),) = local_tbank.terminals.items()
    shop = make_shop(network, GatewayKind.TBANK, terminal, password)
    bill = make_bill(make_client(network.lesnoy))
    payment = begin_at(shop, bill)
    assert (payment.shop_id, payment.gateway) == (shop.id, "tbank")
    local_tbank.pay(payment.external_id)
    forged = local_tbank.notice(payment.external_id, password="another")
    assert shop_client.post("/webhooks/tbank", data=forged).status_code == 400
    notice = local_tbank.notice(payment.external_id)
    for _ in range(2):
        answer = shop_client.post("/webhooks/tbank", data=notice)
        assert (answer.status_code, answer.text) == (200, "OK")
    assert bill.account.balance == 0
    hear_all()
    db.session.expire_all()
    assert stored().repeats == 1
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, bill.amount)


def test_a_notice_of_a_terminal_nobody_has_connected_is_refused(network, app, local_tbank, shop_client):  # noqa: F811
    shop = make_shop(network, GatewayKind.TBANK, *next(iter(local_tbank.terminals.items())))
    payment = begin_at(shop, make_bill(make_client(network.lesnoy)))
    with transaction():
        shop.shop_id = "moved"
    answer = shop_client.post("/webhooks/tbank", data=local_tbank.notice(payment.external_id))
    assert answer.status_code == 400
    assert not db.session.scalars(select(GatewayNotice)).all()


def test_yookassa_from_its_notice_to_the_account_and_back(network, app, local_yookassa, shop_client):  # noqa: F811
    shop_id, secret = next(iter(local_yookassa.shops.items()))
    shop = make_shop(network, GatewayKind.YOOKASSA, shop_id, secret)
    bill = make_bill(make_client(network.lesnoy, phone="+79180000000"))
    payment = begin_at(shop, bill)
    local_yookassa.pay(payment.external_id)
    answer = shop_client.post("/webhooks/yookassa", data=local_yookassa.notice(payment.external_id))
    assert answer.status_code == 200
    hear_all()
    db.session.expire_all()
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, bill.amount)
    with transaction():
        refund_payment(payment, Decimal(500), "Болел", by=network.owner)
    db.session.expire_all()
    assert (payment.refunded, bill.account.balance) == (500, 1000)
    # Money that the shop's own people give back in the service's cabinet.
    elsewhere = local_yookassa.give_back(payment.external_id, "300.00")
    shop_client.post("/webhooks/yookassa", data=local_yookassa.notice(elsewhere))
    hear_all()
    db.session.expire_all()
    assert (payment.attention, payment.reported_amount) == (Attention.REFUNDED_ELSEWHERE, 800)
    assert bill.account.balance == 1000


def test_a_notice_of_a_payment_whose_number_was_never_noted_finds_it_by_name(
    network,
    app,
    local_tbank,  # noqa: F811
    shop_client,
):
    shop = make_shop(network, GatewayKind.TBANK, *next(iter(local_tbank.terminals.items())))
    bill = make_bill(make_client(network.lesnoy))
    payment = begin_at(shop, bill)
    external_id = payment.external_id
    with transaction():
        payment.external_id = payment.confirmation_url = None  # as if we had been killed before noting it
    local_tbank.pay(external_id)
    shop_client.post("/webhooks/tbank", data=local_tbank.notice(external_id))
    hear_all()
    db.session.expire_all()
    assert (payment.external_id, bill.status) == (external_id, BillStatus.PAID)


def test_each_payment_is_asked_of_its_own_shop_by_the_clock(network, app, local_yookassa):  # noqa: F811
    local_yookassa.shops |= {"200002": "another secret"}
    shops = [make_shop(network, GatewayKind.YOOKASSA, *keys) for keys in local_yookassa.shops.items()]
    payments = [begin_at(shop, make_bill(make_client(network.lesnoy))) for shop in shops]
    for payment in payments:
        local_yookassa.pay(payment.external_id)
    with clock.frozen(clock.now() + timedelta(minutes=5)):
        db.session.commit()
        perform("payments.poll")
    db.session.expire_all()
    assert {payment.status for payment in payments} == {PaymentStatus.SUCCEEDED}


def test_without_a_shop_the_services_hear_that_nobody_is_here(network, app, shop_client, local_yookassa):  # noqa: F811
    app.config["SETTINGS"] = replace(app.config["SETTINGS"], is_demo=False)
    assert shop_client.post("/webhooks/demo", data=b'{"payment": "x"}').status_code == 404
