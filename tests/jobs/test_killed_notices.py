"""A worker killed while it reads notices: another goes on, and every payment is credited once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.db import db, reading
from crm.ledger.models import Transaction
from crm.payments.models import GatewayNotice, NoticeStatus, Payment, PaymentStatus
from crm.payments.notices import LEASE, take_notice
from tests.bank import bank, begin, hear_all, pay_at  # noqa: F401
from tests.factories import make_bill, make_client
from tests.servers import ROOT, stop, wait_until

PAYMENTS = 40


@pytest.fixture
def start_worker(app):
    """Starts real `flask worker` processes on the test's database and queue, with the demo bank."""
    settings, started = app.config["SETTINGS"], []
    env = os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SECRET_KEY": settings.secret_key,
        "DATA_DIR": str(settings.data_dir),
        "KONTORA_DEMO": "1",
    }

    def start():
        command = [sys.executable, "-m", "flask", "--app", "app", "worker"]
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            stop(process)


def received():
    """How many payments have come, without holding the worker up."""
    db.session.commit()
    with reading():
        query = select(func.count()).where(Payment.status == PaymentStatus.SUCCEEDED).select_from(Payment)
        count = db.session.scalar(query) or 0
        db.session.commit()
    return count


@pytest.mark.spec("B2")
def test_killed_in_the_middle_each_payment_is_credited_once(network, bank, start_worker):  # noqa: F811
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(PAYMENTS)]
    external_ids = [pay_at(bank, begin(bill, bank)) for bill in bills]
    db.session.commit()
    for external_id in external_ids:
        for event in ("paid", "paid", "confirmed"):
            body = json.dumps({"event": event, "payment": external_id}).encode()
            take_notice("demo", {"x-demo-bank-signature": bank.sign(body)}, body)
    worker = start_worker()
    wait_until(lambda: received() > 0, seconds=60, what="the worker did not begin")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert 0 < received() < PAYMENTS

    hear_all()  # what it had claimed is still its own
    with clock.frozen(clock.now() + LEASE + timedelta(minutes=1)):
        hear_all()
    db.session.expire_all()
    assert received() == PAYMENTS
    assert set(db.session.scalars(select(GatewayNotice.status))) == {NoticeStatus.DONE}
    per_payment = select(func.count()).select_from(Transaction).group_by(Transaction.payment_id)
    assert list(db.session.scalars(per_payment)) == [1] * PAYMENTS
    assert bills[0].account.balance == sum(bill.amount for bill in bills)
