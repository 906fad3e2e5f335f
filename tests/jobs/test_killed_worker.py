"""A worker killed in the middle of a run: another one ends it, and nobody is billed or written to twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.db import db, reading, transaction
from crm.mailings.models import MailingRunLine, Message, RunResult, RunStatus
from crm.mailings.running import BATCH, execute_run
from crm.mailings.runs import run_now
from tests.factories import make_client, make_rule, make_subscription
from tests.servers import ROOT, stop, wait_until

# Some batches of a run.
PAYERS = 4 * BATCH


@pytest.fixture
def worker(app):
    """A real `flask worker` process on the test's database and queue; it delivers no letters: its SMTP is closed."""
    settings = app.config["SETTINGS"]
    env = os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SMTP_URL": "smtp://127.0.0.1:1",
        "DATA_DIR": str(settings.data_dir),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "worker"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL
    )
    yield process
    stop(process)


def lines():
    """How many payers are done, without holding the worker up."""
    db.session.commit()
    with reading():
        done = select(func.count()).select_from(MailingRunLine).where(MailingRunLine.result != RunResult.WAITING)
        count = db.session.scalar(done) or 0
        db.session.commit()
    return count


@pytest.mark.spec("B3")
def test_killed_in_the_middle_another_worker_ends_the_run(network, worker):
    for _ in range(PAYERS):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        run = run_now(make_rule(network.lesnoy), by=SYSTEM)
    run_id = run.id
    db.session.commit()

    wait_until(lambda: lines() > 0, seconds=30, what="the worker did not begin")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done_before = lines()
    assert 0 < done_before < PAYERS

    # What it had in hand is free as soon as the database has noticed that it is gone.
    wait_until(lambda: execute_run(run_id, by=SYSTEM), seconds=30, what="the run was not ended")
    db.session.expire_all()
    assert (run.status, run.total, lines()) == (RunStatus.DONE, PAYERS, PAYERS)
    per_payer = select(func.count()).select_from(Bill).group_by(Bill.client_id)
    assert list(db.session.scalars(per_payer)) == [1] * PAYERS
    per_bill = select(func.count()).select_from(Message).group_by(Message.bill_id)
    assert list(db.session.scalars(per_bill)) == [1] * PAYERS


def test_a_worker_outlives_its_queue(app, network, worker, smtp):
    """SIGTERM ends it with 0 though the queue was wiped under it."""
    from rq import Worker

    from crm.jobs.queues import queue

    wait_until(lambda: Worker.count(connection=queue().connection) == 1, seconds=20, what="the worker did not begin")
    queue().connection.flushall()
    make_subscription(make_client(network.lesnoy))
    with transaction():
        run_now(make_rule(network.lesnoy), by=SYSTEM)

    wait_until(lambda: lines() == 1, seconds=20, what="the worker did not go on")
    assert stop(worker) == 0
