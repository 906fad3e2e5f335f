"""Start, run, cancel and forget long jobs. A job that dies goes on where it was: its lease runs out and a sweep rings.

An adapter says what a kind of job does with @executor("kind"). It is called within the author's rights and scope, and
outside any transaction: it opens its own, small ones, and notes its progress inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import insert, or_, select, update

from crm import clock
from crm.access.actors import Actor
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.bell import ring
from crm.db import db, transaction
from crm.errors import DomainError, report_exception
from crm.protocol import ProtocolLine

RUN = "background.run"
LEASE = timedelta(minutes=2)
KEPT = timedelta(days=7)  # a finished job, its protocol and its file


class JobCanceled(Exception):
    """Raised inside an executor when its author has pressed cancel; what is committed stays."""


class Progress:
    """What an executor says of its work. All methods write in the caller's transaction."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id

    def expect(self, total: int) -> None:
        """How many rows there are to do."""
        self._update(total=total)

    def advance(
        self,
        done: int,
        *,
        failed: int = 0,
        lines: Sequence[ProtocolLine] = (),
        changes: dict[int, dict[str, Any]] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """`done` more rows are behind us, `failed` of them refused. state: where to go on after a crash.

        lines: protocol lines; changes: {row id: {field: [old, new]}} kept for the undo.
        """
        values: dict[str, Any] = {"done": BackgroundJob.done + done, "failed": BackgroundJob.failed + failed}
        if state is not None:
            values["state"] = state
        self._update(**values)
        if lines:
            known = changes or {}
            rows = [
                {
                    "job_id": self.job_id,
                    "row_id": line.id,
                    "label": line.label[:300],
                    "error": line.error,
                    "changes": known.get(line.id),
                }
                for line in lines
            ]
            db.session.execute(insert(JobLine), rows)

    def check(self) -> None:
        """Raise JobCanceled when the author has asked for it. Between transactions."""
        query = select(BackgroundJob.is_cancel_requested).where(BackgroundJob.id == self.job_id)
        if db.session.scalar(query):
            raise JobCanceled

    def _update(self, **values: Any) -> None:
        statement = update(BackgroundJob).where(BackgroundJob.id == self.job_id)
        statement = statement.values(lease_until=clock.now() + LEASE, **values)
        db.session.execute(statement.execution_options(synchronize_session=False))


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
) -> BackgroundJob:
    """Put a job in the queue. The caller commits; a worker begins soon after."""
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
            .values(status=JobStatus.RUNNING, started_at=now, lease_until=now + LEASE)
        )
        result: Any = db.session.execute(statement.execution_options(synchronize_session=False))
        return bool(result.rowcount)


def execute_job(job_id: int) -> None:
    """Run a claimed job within the author's rights (the adapter has entered them) and note how it ended."""
    job = db.session.get_one(BackgroundJob, job_id)
    db.session.commit()
    progress = Progress(job_id)
    try:
        progress.check()
        EXECUTORS[job.kind](job, progress)
    except JobCanceled:
        finish_job(job_id, JobStatus.CANCELED)
    except DomainError as error:
        db.session.rollback()
        finish_job(job_id, JobStatus.FAILED, str(error))
    except Exception as error:
        db.session.rollback()
        reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
        finish_job(job_id, JobStatus.FAILED, reason)
    else:
        finish_job(job_id, JobStatus.DONE)


def finish_job(job_id: int, status: JobStatus, error: str = "") -> None:
    """Note the end of a job. Commits by itself."""
    now = clock.now()
    db.session.rollback()
    with transaction():
        statement = (
            update(BackgroundJob)
            .where(BackgroundJob.id == job_id, BackgroundJob.status == JobStatus.RUNNING)
            .values(status=status, error=error, finished_at=now, expires_at=now + KEPT, lease_until=None)
        )
        db.session.execute(statement.execution_options(synchronize_session=False))
    db.session.expire_all()


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
