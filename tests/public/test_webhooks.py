"""Notices of the gateway: genuine ones are stored and answered at once, and acted upon once."""

from __future__ import annotations

import contextvars
import json
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.payments.gateways.base import GatewayError, RemotePayment, RemoteStatus
from crm.payments.gateways.demo import SIGNATURE_HEADER
from crm.payments.models import Attention, GatewayNotice, NoticeStatus, PaymentStatus
from tests.bank import begin, hear_all, pay_at
from tests.factories import make_bill, make_client

PATH = "/webhooks/demo"


def notice(bank, external_id) -> dict:
    """What the bank sends, as arguments of a test client's post()."""
    body = json.dumps({"event": "payment.updated", "payment": external_id}).encode()
    return {"data": body, "headers": {SIGNATURE_HEADER: bank.sign(body)}}


@pytest.fixture
def shop(web):
    """A gateway's HTTP client: no session, no CSRF token."""
    client = web()
    client.with_csrf = False
    return client


@pytest.mark.spec("B32")
def test_heard_once_and_again(network, bank, shop):
    bill = make_bill(make_client(network.lesnoy))
    external_id = pay_at(bank, begin(bill, bank))
    for _ in range(3):
        answer = shop.post(PATH, **notice(bank, external_id))
        assert (answer.status_code, answer.text) == (200, "ok")
    assert bill.status is BillStatus.PENDING  # nobody has read it yet
    hear_all()
    db.session.expire_all()
    stored = db.session.scalars(select(GatewayNotice)).one()
    assert (stored.repeats, stored.status, stored.external_id) == (2, NoticeStatus.DONE, external_id)
    assert bill.status is BillStatus.PAID
    assert bill.account.balance == bill.amount


def test_forged_or_unreadable_is_refused_and_nothing_happens(network, bank, shop):
    bill = make_bill(make_client(network.lesnoy))
    genuine = notice(bank, pay_at(bank, begin(bill, bank)))
    bodies = [b"{}", b"[]", b"not json", b'{"payment": 5}', b"\xff\xfe"]
    refused = [
        {"data": genuine["data"]},
        {"data": genuine["data"], "headers": {SIGNATURE_HEADER: "sha256=" + "0" * 64}},
        {"data": genuine["data"], "headers": {SIGNATURE_HEADER: "ключ".encode().decode("latin-1")}},
        {"data": genuine["data"] + b" ", "headers": genuine["headers"]},
        *({"data": body, "headers": {SIGNATURE_HEADER: bank.sign(body)}} for body in bodies),
    ]
    for asked in refused:
        assert shop.post(PATH, **asked).status_code == 400
    assert not db.session.scalars(select(GatewayNotice)).all()
    hear_all()
    db.session.expire_all()
    assert bill.status is BillStatus.PENDING


def test_of_an_unknown_payment_or_gateway(network, bank, shop):
    stranger = bank.create(
        amount=Decimal(5), currency="RUB", description="x", return_url="http://x", idempotence_key="another shop's"
    )
    assert shop.post(PATH, **notice(bank, stranger.external_id)).status_code == 200
    hear_all()
    assert db.session.scalars(select(GatewayNotice)).one().status is NoticeStatus.UNKNOWN
    assert shop.post("/webhooks/nobody", **notice(bank, "x")).status_code == 404
    assert shop.get(PATH).status_code == 405


def test_another_sum_is_held_for_review_and_the_gateway_stops(network, bank, shop, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    monkeypatch.setattr(
        "crm.payments.gateways.demo.DemoGateway.fetch",
        lambda _self, external_id: RemotePayment(external_id, RemoteStatus.SUCCEEDED, Decimal("1.00")),
    )
    assert shop.post(PATH, **notice(bank, payment.external_id)).status_code == 200
    hear_all()
    db.session.expire_all()
    assert (payment.status, bill.status) == (PaymentStatus.PENDING, BillStatus.PENDING)
    assert payment.attention is Attention.WRONG_SUM
    assert "1,00" in payment.comment


def test_what_goes_wrong_is_tried_again_later(network, bank, shop, monkeypatch):
    bill = make_bill(make_client(network.lesnoy))
    external_id = pay_at(bank, begin(bill, bank))
    assert shop.post(PATH, **notice(bank, external_id)).status_code == 200

    def fail(error):
        def fetch(*_args):
            raise error

        return fetch

    now = clock.now()
    with monkeypatch.context() as patch:
        for error, after in ((GatewayError("no answer"), 0), (ZeroDivisionError(), 1)):
            patch.setattr("crm.payments.gateways.demo.DemoGateway.fetch", fail(error))
            with clock.frozen(now + timedelta(minutes=after)):
                hear_all()
            db.session.expire_all()
            stored = db.session.scalars(select(GatewayNotice)).one()
            assert stored.status is NoticeStatus.NEW
            assert stored.next_try_at > now + timedelta(minutes=after)
            assert stored.result
    with clock.frozen(now + timedelta(minutes=10)):
        hear_all()
    db.session.expire_all()
    assert stored.status is NoticeStatus.DONE
    assert bill.account.balance == bill.amount


@pytest.mark.spec("B55")
def test_late_for_an_archived_bill(network, bank, shop):
    bill = make_bill(make_client(network.lesnoy))
    external_id = pay_at(bank, begin(bill, bank))
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert shop.post(PATH, **notice(bank, external_id)).status_code == 200
    hear_all()
    db.session.expire_all()
    assert bill.status is BillStatus.ARCHIVED
    assert bill.account.balance == bill.amount


def test_a_hundred_at_once_over_http_credit_once(network, bank, app, in_parallel):
    bill = make_bill(make_client(network.lesnoy))
    asked = notice(bank, pay_at(bank, begin(bill, bank)))

    def post(_index: int) -> set[int]:
        def send() -> int:
            return app.test_client().post(PATH, **asked).status_code

        return {contextvars.Context().run(send) for _ in range(10)}

    assert in_parallel(post, 10) == [{200}] * 10
    hear_all()
    db.session.expire_all()
    assert db.session.scalars(select(GatewayNotice.repeats)).all() == [99]
    assert bill.account.balance == bill.amount
    assert bill.payments_count == 1
