"""Long jobs: claimed by one, cancelled, handed back, given up, forgotten; what a job does and notes is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.models import City
from crm.background import operations
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.background.operations import (
    EXECUTORS,
    MAX_ATTEMPTS,
    Progress,
    cancel_job,
    claim_job,
    execute_job,
    file_of,
    ring_for_jobs,
    start_job,
)
from crm.db import db, transaction
from crm.errors import DomainError
from crm.jobs.queues import LONG_QUEUE, QUEUE, queue
from crm.jobs.tasks import perform
from crm.protocol import Outcome, ProtocolLine
from tests.factories import make_job

ROWS = [1, 2, 3, 4, 5]


@pytest.fixture
def counting() -> Iterator[Callable[..., None]]:
    """Executor "test.count": writes a city per row and notes it; `before` is called before each row."""
    hooks: dict[str, Any] = {}

    def count(job: BackgroundJob, progress: Progress) -> None:
        with transaction():
            progress.expect(len(ROWS))
        for row in [row for row in ROWS if row > job.state.get("after", 0)]:
            progress.check()
            hooks.get("before", lambda _row: None)(row)
            with transaction():
                db.session.add(City(name=f"Город {row}"))
                left = {2: (Outcome.SKIPPED, "Второй уже такой"), 3: (Outcome.FAILED, "Третий не вышел")}
                line = ProtocolLine(row, f"№{row}", *left.get(row, ()))
                progress.advance(1, lines=[line], state={"after": row})

    EXECUTORS["test.count"] = count
    yield lambda before: hooks.update(before=before)
    del EXECUTORS["test.count"]


def started(network: Any, kind: str = "test.count", **facts: Any) -> int:
    """Id of a job of the director that waits."""
    job_id: int = make_job(network.director, kind=kind, **facts).id
    db.session.commit()
    return job_id


def seen(job_id: int) -> BackgroundJob:
    """The job as it is now; the test's session holds nobody up."""
    db.session.commit()
    job = db.session.get_one(BackgroundJob, job_id, populate_existing=True)
    db.session.expunge(job)
    db.session.commit()
    return job


def run(job_id: int) -> BackgroundJob:
    db.session.commit()
    perform("background.run", job_id)
    return seen(job_id)


def cities() -> int:
    count = db.session.scalar(select(func.count()).where(City.name.startswith("Город "))) or 0
    db.session.commit()
    return count


def test_a_job_leaves_its_count_its_protocol_and_its_end(network: Any, counting: Any) -> None:
    job = run(started(network))
    assert (job.status, job.total, job.done, job.skipped, job.failed, job.error) == (JobStatus.DONE, 5, 5, 1, 1, "")
    assert job.changed == 3
    lines = db.session.scalars(select(JobLine).where(JobLine.job_id == job.id).order_by(JobLine.id)).all()
    assert [line.row_id for line in lines] == ROWS
    assert [line.reason for line in lines] == [None, "Второй уже такой", "Третий не вышел", None, None]
    assert [line.outcome.value for line in lines] == ["done", "skipped", "failed", "done", "done"]
    assert None not in {job.started_at, job.finished_at, job.expires_at}
    assert cities() == 5


def test_it_waits_in_a_queue_where_no_letter_waits_behind_it(network: Any, counting: Any) -> None:
    started(network)
    assert (queue(QUEUE).count, queue(LONG_QUEUE).count) == (0, 1)


def test_it_runs_as_its_author_in_his_branch_and_language(network: Any) -> None:
    found: list[Any] = []

    def look(job: BackgroundJob, progress: Progress) -> None:
        from flask import g
        from flask_babel import get_locale
        from flask_login import current_user

        found.append((current_user.id, g.scope.branch_id, str(get_locale())))

    EXECUTORS["test.look"] = look
    run(started(network, "test.look", branch_id=network.lesnoy.id, locale="en"))
    assert found == [(network.director.id, network.lesnoy.id, "en")]


def test_of_an_author_switched_off_meanwhile_nothing_is_done(network: Any, counting: Any) -> None:
    job = started(network)
    with transaction():
        network.director.is_active = False
    assert run(job).status is JobStatus.FAILED
    assert cities() == 0


def test_two_workers_at_one_bell_do_it_once(network: Any, counting: Any, in_parallel: Any) -> None:
    job = started(network)
    assert sorted(in_parallel(lambda _index: claim_job(job), 4)) == [False, False, False, True]


def test_a_dead_workers_job_goes_on_where_it_was_when_its_lease_is_over(network: Any, counting: Any) -> None:
    class Killed(BaseException):
        """Nothing in the process is left to note it."""

    def die(row: int) -> None:
        if row == 4:
            raise Killed

    counting(die)
    job = started(network)
    with pytest.raises(Killed):
        perform("background.run", job)
    counting(lambda _row: None)
    assert run(job).status is JobStatus.RUNNING, "its lease still holds"
    with clock.frozen(clock.now() + timedelta(minutes=3)):
        with transaction():
            ring_for_jobs(now=clock.now())
        assert queue(LONG_QUEUE).count == 2
        ended = run(job)
    assert (ended.status, ended.done, ended.failed, cities()) == (JobStatus.DONE, 5, 1, 5)


def test_a_worker_taken_for_dead_writes_nothing_more(network: Any, counting: Any) -> None:
    """Its row and its note go together: of the two who run the job each row is done by one."""
    job = started(network)
    begun: list[int] = []

    def hang(row: int) -> None:
        begun.append(row)
        if len(begun) == 3:  # the first worker sleeps too long before row 3: a second one does the rest
            with clock.frozen(clock.now() + timedelta(minutes=3)):
                perform("background.run", job)

    counting(hang)
    ended = run(job)
    assert begun == [1, 2, 3, 3, 4, 5]
    assert (ended.status, ended.done, cities()) == (JobStatus.DONE, 5, 5)


def test_a_process_told_to_stop_hands_the_job_back(network: Any, counting: Any) -> None:
    job = started(network)
    counting(lambda row: operations.stopping.set() if row == 2 else None)
    try:
        stopped = run(job)
    finally:
        operations.stopping.clear()
    assert (stopped.status, stopped.done) == (JobStatus.WAITING, 2)
    counting(lambda _row: None)
    assert run(job).status is JobStatus.DONE
    assert cities() == 5


def test_a_job_that_kills_every_worker_is_given_up(network: Any, counting: Any) -> None:
    job = started(network)
    with transaction():
        db.session.get_one(BackgroundJob, job).attempt = MAX_ATTEMPTS
    ended = run(job)
    assert ended.status is JobStatus.FAILED
    assert "снова и снова" in ended.error
    assert cities() == 0


def test_a_waiting_job_is_cancelled_at_once(network: Any, counting: Any) -> None:
    job = started(network)
    with transaction():
        cancel_job(db.session.get_one(BackgroundJob, job))
    assert seen(job).status is JobStatus.CANCELED
    assert (run(job).status, cities()) == (JobStatus.CANCELED, 0)


def test_a_running_job_is_cancelled_at_its_next_step_and_keeps_what_it_did(network: Any, counting: Any) -> None:
    job = started(network)

    def cancel(row: int) -> None:
        if row == 2:
            with transaction():
                cancel_job(db.session.get_one(BackgroundJob, job))

    counting(cancel)
    ended = run(job)
    assert (ended.status, ended.done, cities()) == (JobStatus.CANCELED, 2, 2)


@pytest.mark.parametrize(
    ("error", "text"),
    [(DomainError("no", "Так нельзя"), "Так нельзя"), (RuntimeError("secret"), "Непредвиденная ошибка")],
)
def test_an_error_is_told_and_what_was_done_stays(network: Any, counting: Any, error: Exception, text: str) -> None:
    def fail(row: int) -> None:
        if row == 2:
            raise error

    counting(fail)
    job = run(started(network))
    assert (job.status, job.done, cities()) == (JobStatus.FAILED, 1, 1)
    assert text in job.error
    assert "secret" not in job.error


def test_without_a_queue_the_sweep_finds_the_job(network: Any, counting: Any) -> None:
    started(network)
    queue().connection.flushall()
    for seconds, rings in ((5, 0), (30, 1)):
        with clock.frozen(clock.now() + timedelta(seconds=seconds)), transaction():
            ring_for_jobs(now=clock.now())
        assert queue(LONG_QUEUE).count == rings


def test_a_job_to_be_run_at_once_rings_nobody(network: Any, counting: Any) -> None:
    job = started(network, at_once=True)
    assert queue(LONG_QUEUE).count == 0
    with clock.frozen(clock.now() + timedelta(seconds=30)), transaction():
        ring_for_jobs(now=clock.now())
    assert queue(LONG_QUEUE).count == 1, f"job {job} is not lost with the process that was to run it"


def test_a_job_and_its_file_are_forgotten_in_time(network: Any, counting: Any) -> None:
    job = started(network)
    with transaction():
        row = db.session.get_one(BackgroundJob, job)
        row.file, row.file_name = "report.xlsx", "Отчёт.xlsx"
        path = file_of(row)
    path.write_bytes(b"xlsx")
    run(job)
    for days, is_kept in ((6, True), (8, False)):
        with clock.frozen(clock.now() + timedelta(days=days)):
            perform("jobs.prune")
        assert path.exists() == is_kept
        assert bool(db.session.scalar(select(func.count()).select_from(BackgroundJob))) == is_kept
        db.session.commit()
    assert db.session.scalar(select(func.count()).select_from(JobLine)) == 0


def test_an_unknown_kind_is_not_even_begun(network: Any) -> None:
    with pytest.raises(LookupError), transaction():
        start_job("test.unheard_of", by=network.owner, title="?")


def test_only_a_claimed_job_can_write(network: Any, counting: Any) -> None:
    job = started(network)
    execute_job(job)
    still = seen(job)
    assert (still.status, still.done, cities()) == (JobStatus.WAITING, 0, 0)
