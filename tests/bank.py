"""The demo bank, on for one test; nobody listens at the shop's own port unless the test serves the app there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from flask import Flask
from werkzeug.serving import make_server

from crm.bills.links import bill_url
from crm.bills.models import Bill
from crm.db import db
from crm.payments.gateways import open_gateway
from crm.payments.gateways.base import RemotePayment, RemoteStatus
from crm.payments.gateways.demo import SIGNATURE_HEADER, DemoGateway
from crm.payments.models import Payment
from crm.payments.notices import read_notices, take_notice
from crm.payments.operations import start_payment


@pytest.fixture
def bank(app: Flask) -> Iterator[DemoGateway]:
    """The demo bank, connected. Its calls back are refused by an unused port."""
    before = app.config["SETTINGS"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        app.config["SETTINGS"] = replace(before, is_demo=True, port=unused.getsockname()[1])
        gateway = open_gateway("demo")
        assert isinstance(gateway, DemoGateway)
        try:
            yield gateway
        finally:
            app.config["SETTINGS"] = before


@pytest.fixture
def served(app: Flask, bank: DemoGateway) -> Iterator[str]:
    """Address of the app, really listening there, with the bank's calls back coming in."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    url = f"http://127.0.0.1:{server.port}"
    app.config["SETTINGS"] = replace(app.config["SETTINGS"], port=server.port, public_url=url)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        thread.join()


def begin(bill: Bill, bank: DemoGateway) -> Payment:
    """A payment of `bill` begun by its payer and waiting at the bank."""
    db.session.commit()
    payment = start_payment(bill, gateway=bank, return_url=bill_url(bill))
    db.session.commit()
    return payment


def pay_at(bank: DemoGateway, payment: Payment) -> str:
    """The payer presses «Pay» at the bank; the shop has not heard yet. Returns the bank's id."""
    external_id = payment.external_id
    assert external_id is not None
    db.session.commit()
    assert bank.decide(external_id, RemoteStatus.SUCCEEDED)
    return external_id


def decline_at(bank: DemoGateway, payment: Payment) -> str:
    """The payer presses «Decline»; the shop has not heard yet. Returns the bank's id."""
    external_id = payment.external_id
    assert external_id is not None
    db.session.commit()
    assert bank.decide(external_id, RemoteStatus.CANCELED)
    return external_id


@dataclass
class TalkingBank:
    """A bank that says what the test wants; `saying` is asked each time, in the thread that asks."""

    saying: Callable[[str], RemotePayment]
    name: str = "demo"
    shop_id: str = ""

    def fetch(self, external_id: str) -> RemotePayment:
        return self.saying(external_id)


def says(status: RemoteStatus, amount: str) -> Callable[[str], RemotePayment]:
    return lambda external_id: RemotePayment(external_id, status, Decimal(amount))


def hear_all() -> None:
    """What a worker does at the bell: read the stored notices until none is due."""
    db.session.commit()
    while read_notices():
        pass


def hear(bank: DemoGateway, external_id: str, event: str = "payment.updated") -> None:
    """The bank sends a notice, and a worker reads it."""
    body = json.dumps({"event": event, "payment": external_id}).encode()
    db.session.commit()
    take_notice("demo", {SIGNATURE_HEADER: bank.sign(body)}, body)
    hear_all()
