"""Start, run, cancel and forget long jobs. A job that dies goes on where it was: its lease runs out and a sweep rings.

An adapter says what a kind of job does with @executor("kind"). It is called within the author's rights and scope, and
outside any transaction: it opens its own, small ones, and notes its progress inside them. What it does and how far it
is are committed together, so nothing is done twice; a worker that was taken for dead and comes back writes nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import func, or_, select, update

from crm import clock
from crm.access.actors import Actor
from crm.access.scope import current_scope
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.bell import ring
from crm.db import db, end_reading, insert_rows, reading, transaction
from crm.errors import DomainError, report_exception
from crm.protocol import Outcome, ProtocolLine

RUN = "background.run"
LEASE = timedelta(minutes=2)
KEPT = timedelta(days=7)  # a finished job, its protocol and its file
MAX_ATTEMPTS = 10  # a job that takes its worker down with it is not begun for ever
AT_ONCE = 500  # rows that need no worker: the person waits for them

log = structlog.get_logger()

# Set while the process is told to stop: a job then ends its step and waits for the next worker.
stopping = threading.Event()


class JobCanceled(Exception):
    """Raised inside an executor when its author has pressed cancel; what is committed stays."""


class JobInterrupted(Exception):
    """This process is told to stop: the job goes back to the queue and is taken up where it was."""


class JobLost(Exception):
    """Another worker has taken the job meanwhile: this one was too slow. What it was about to write is not written."""


class Progress:
    """What an executor says of its work. All methods but check() write in the caller's transaction."""

    def __init__(self, job_id: int, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt

    def expect(self, total: int) -> None:
        """How many rows there are to do."""
        self._update(total=total)

    def restart(self) -> None:
        """Begin with the first row: what an earlier attempt made is no use."""
        self._update(done=0, skipped=0, failed=0)

    def keep_file(self, name: str, shown_name: str) -> None:
        """The job has made the file `name` in files_folder(); its author saves it as `shown_name`."""
        self._update(file=name, file_name=shown_name)

    def advance(
        self,
        done: int,
        *,
        failed: int = 0,
        lines: Sequence[ProtocolLine] = (),
        state: dict[str, Any] | None = None,
    ) -> None:
        """`done` more rows are behind us; `lines` tell what became of them, `failed` of those without a line were
        refused. state: where to go on after a crash.

        Raises JobLost when the job is another worker's by now.
        """
        outcomes = Counter(line.outcome for line in lines)
        values: dict[str, Any] = {
            "done": BackgroundJob.done + done,
            "skipped": BackgroundJob.skipped + outcomes[Outcome.SKIPPED],
            "failed": BackgroundJob.failed + outcomes[Outcome.FAILED] + failed,
        }
        if state is not None:
            values["state"] = state
        self._update(**values)
        rows = [
            {
                "job_id": self.job_id,
                "row_id": line.id,
                "label": line.label[:300],
                "outcome": line.outcome,
                "reason": line.reason,
                "changes": line.changes,
            }
            for line in lines
        ]
        insert_rows(JobLine, rows)

    def check(self) -> None:
        """Raise JobCanceled when the author has asked for it, JobInterrupted when this process is to end.

        Between transactions; ends the reading it begins.
        """
        if stopping.is_set():
            raise JobInterrupted
        query = select(BackgroundJob.is_cancel_requested).where(BackgroundJob.id == self.job_id)
        with reading():
            is_canceled = db.session.scalar(query)
            end_reading()
        if is_canceled:
            raise JobCanceled

    def _update(self, **values: Any) -> None:
        if not _set(self.job_id, self.attempt, lease_until=clock.now() + LEASE, **values):
            raise JobLost


Executor = Callable[[BackgroundJob, Progress], None]
EXECUTORS: dict[str, Executor] = {}


def executor(kind: str) -> Callable[[Executor], Executor]:
    """Register what runs jobs of a kind."""

    def register(function: Executor) -> Executor:
        EXECUTORS[kind] = function
        return function

    return register


def start_job(
    kind: str,
    *,
    by: Actor,
    title: str,
    entity: str = "",
    params: dict[str, Any] | None = None,
    branch_id: int | None = None,
    locale: str = "ru",
    total: int | None = None,
    at_once: bool = False,
) -> BackgroundJob:
    """Put a job in the queue. The caller commits; a worker begins soon after.

    at_once: the caller is about to run it himself, and no worker is told; if he dies first, the sweep tells one.
    """
    if kind not in EXECUTORS:
        raise LookupError(f"no executor for {kind!r}")
    job = BackgroundJob(
        kind=kind,
        entity=entity,
        title=title[:200],
        author_id=by.id,
        branch_id=branch_id,
        locale=locale,
        params=params or {},
        total=total,
        created_at=clock.now(),
    )
    db.session.add(job)
    db.session.flush()
    if not at_once:
        ring(RUN, job.id)
    return job


def claim_job(job_id: int) -> bool:
    """Take a waiting job, or one whose worker is gone. Commits by itself; False when somebody else has it."""
    now = clock.now()
    with transaction():
        statement = (
            update(BackgroundJob)
            .where(
                BackgroundJob.id == job_id,
                or_(
                    BackgroundJob.status == JobStatus.WAITING,
                    (BackgroundJob.status == JobStatus.RUNNING) & (BackgroundJob.lease_until < now),
                ),
            )
            .values(
                status=JobStatus.RUNNING,
                started_at=func.coalesce(BackgroundJob.started_at, now),
                lease_until=now + LEASE,
                attempt=BackgroundJob.attempt + 1,
            )
        )
        result: Any = db.session.execute(statement.execution_options(synchronize_session=False))
        return bool(result.rowcount)


def execute_job(job_id: int) -> None:
    """Run a claimed job within the author's rights (the adapter has entered them) and note how it ended."""
    job = db.session.get_one(BackgroundJob, job_id, populate_existing=True)
    progress = Progress(job_id, job.attempt)
    is_hopeless = job.attempt > MAX_ATTEMPTS
    seen = current_scope().branch_ids
    with transaction():  # whose rows are in what it makes: the author may lose a branch while that is kept
        job.params = {**job.params, "branches": None if seen is None else sorted(seen)}
    end_reading()
    try:
        if is_hopeless:
            raise DomainError("job_hopeless", _("The job was interrupted again and again and has been given up."))
        progress.check()
        EXECUTORS[job.kind](job, progress)
    except JobCanceled:
        finish_job(job_id, JobStatus.CANCELED, attempt=progress.attempt)
    except JobInterrupted:
        _hand_back(job_id, progress.attempt)
    except JobLost:
        db.session.rollback()
        log.warning("job_lost", job_id=job_id, attempt=progress.attempt)
    except DomainError as error:
        finish_job(job_id, JobStatus.FAILED, str(error), attempt=progress.attempt)
    except Exception as error:
        db.session.rollback()
        reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
        finish_job(job_id, JobStatus.FAILED, reason, attempt=progress.attempt)
    else:
        finish_job(job_id, JobStatus.DONE, attempt=progress.attempt)


def finish_job(job_id: int, status: JobStatus, error: str = "", *, attempt: int | None = None) -> None:
    """Note the end of a running job, of this attempt when one is given. Commits by itself."""
    now = clock.now()
    db.session.rollback()
    with transaction():
        _set(job_id, attempt, status=status, error=error, finished_at=now, expires_at=now + KEPT, lease_until=None)
    db.session.expire_all()


def _hand_back(job_id: int, attempt: int) -> None:
    """An orderly interruption is no failed attempt."""
    db.session.rollback()
    with transaction():
        _set(job_id, attempt, status=JobStatus.WAITING, lease_until=None, attempt=attempt - 1)


def _set(job_id: int, running_attempt: int | None, **values: Any) -> bool:
    """Change a running job; False when it runs no more, or runs as another attempt."""
    statement = update(BackgroundJob).where(BackgroundJob.id == job_id, BackgroundJob.status == JobStatus.RUNNING)
    if running_attempt is not None:
        statement = statement.where(BackgroundJob.attempt == running_attempt)
    result: Any = db.session.execute(statement.values(**values).execution_options(synchronize_session=False))
    return bool(result.rowcount)


def cancel_job(job: BackgroundJob) -> None:
    """Ask a job to stop: a waiting one ends now, a running one at its next step. The caller commits."""
    now = clock.now()
    statement = update(BackgroundJob).where(BackgroundJob.id == job.id)
    waiting = statement.where(BackgroundJob.status == JobStatus.WAITING).values(
        status=JobStatus.CANCELED, is_cancel_requested=True, finished_at=now, expires_at=now + KEPT
    )
    running = statement.where(BackgroundJob.status == JobStatus.RUNNING).values(is_cancel_requested=True)
    for step in (waiting, running):
        db.session.execute(step.execution_options(synchronize_session=False))
    db.session.refresh(job)


def ring_for_jobs(*, now: datetime) -> None:
    """Ring again for jobs nobody runs: lost rings, dead workers. The caller commits."""
    waiting = (BackgroundJob.status == JobStatus.WAITING) & (BackgroundJob.created_at < now - timedelta(seconds=20))
    lost = (BackgroundJob.status == JobStatus.RUNNING) & (BackgroundJob.lease_until < now)
    for job_id in db.session.scalars(select(BackgroundJob.id).where(or_(waiting, lost)).limit(100)):
        ring(RUN, job_id)


def forget_jobs(*, now: datetime) -> None:
    """Drop jobs whose time is over, with their files. The caller commits."""
    for job in db.session.scalars(select(BackgroundJob).where(BackgroundJob.expires_at < now)):
        if job.file:
            file_of(job).unlink(missing_ok=True)
        db.session.delete(job)


def files_folder() -> Path:
    """Where jobs keep their files; made at the first use."""
    folder: Path = Path(current_app.config["SETTINGS"].data_dir) / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_of(job: BackgroundJob) -> Path:
    """The file of a job that has one."""
    assert job.file is not None
    return files_folder() / Path(job.file).name


def jobs_of(author: Actor, *, limit: int = 50) -> Iterable[BackgroundJob]:
    """A person's jobs, newest first."""
    query = select(BackgroundJob).where(BackgroundJob.author_id == author.id).order_by(BackgroundJob.id.desc())
    return db.session.scalars(query.limit(limit))
