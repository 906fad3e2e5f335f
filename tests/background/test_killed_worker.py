"""A real worker killed in the middle of a bulk action: another ends it, and no row is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.audit.models import AuditAction, AuditEntry
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.background.operations import start_job
from crm.bills.models import Bill, BillStatus
from crm.db import db, insert_rows, reading, transaction
from crm.jobs.tasks import perform
from tests.factories import make_bill, make_client
from tests.servers import ROOT, stop, wait_until

BILLS = 12_000


@pytest.fixture
def worker(app: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A real `flask worker` of the long queue on the test's database."""
    settings = app.config["SETTINGS"]
    env = os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "DATA_DIR": str(settings.data_dir),
    }
    command = [sys.executable, "-m", "flask", "--app", "app", "worker", "--queue", "kontora-long"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    yield process
    stop(process)


def add_bills(network: Any) -> None:
    """Many unpaid bills, alike but for their numbers."""
    first = make_bill(make_client(network.lesnoy))
    row = {column.name: getattr(first, column.name) for column in Bill.__table__.columns}
    del row["id"]
    copies = [{**row, "number": number, "token": f"token-{number}"} for number in range(2, BILLS + 1)]
    with transaction():
        insert_rows(Bill, copies)


def done(job_id: int) -> int:
    db.session.commit()
    with reading():
        count = db.session.scalar(select(BackgroundJob.done).where(BackgroundJob.id == job_id)) or 0
        db.session.commit()
    return count


def test_killed_in_the_middle_the_job_goes_on_and_no_row_is_done_twice(network: Any, worker: Any) -> None:
    add_bills(network)
    with transaction():
        until = db.session.scalar(select(func.max(Bill.id)))
        params = {"action": "archive", "selection": [], "until": until, "values": [], "is_undoable": False}
        job_id = start_job(
            "bulk", by=network.administrator, title="Архив", entity="bill", params=params, total=BILLS
        ).id
    wait_until(lambda: done(job_id) > 0, seconds=60, what="the worker did not begin")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    before = done(job_id)
    assert 0 < before < BILLS

    db.session.commit()
    perform("background.run", job_id)
    assert done(job_id) == before, "the dead worker's lease still holds"
    with clock.frozen(clock.now() + timedelta(minutes=3)):
        perform("background.run", job_id)
    job = db.session.get_one(BackgroundJob, job_id, populate_existing=True)
    assert (job.status, job.done, job.failed, job.attempt) == (JobStatus.DONE, BILLS, 0, 2)
    assert db.session.scalar(select(func.count()).where(Bill.status == BillStatus.ARCHIVED)) == BILLS
    lines = select(func.count(), func.count(JobLine.row_id.distinct())).where(JobLine.job_id == job_id)
    assert tuple(db.session.execute(lines).one()) == (BILLS, BILLS)
    moves = select(func.count()).where(AuditEntry.action == AuditAction.TRANSITION, AuditEntry.entity == "bill")
    assert db.session.scalar(moves) == BILLS
