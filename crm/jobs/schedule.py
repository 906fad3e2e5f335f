"""What runs by the clock. A tick is a row under UNIQUE: of two schedulers one takes it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.db import db, transaction
from crm.errors import report_exception
from crm.jobs.models import CronTick
from crm.jobs.tasks import perform

log = structlog.get_logger()


@dataclass(frozen=True)
class Periodic:
    """A task and how often: at every whole `every` since midnight UTC, plus `offset`."""

    task: str
    every: timedelta
    offset: timedelta = timedelta(0)

    def latest_tick(self, now: datetime) -> datetime:
        """The latest moment not after `now` this is due at; a tick missed while nothing ran is taken late, once."""
        epoch = datetime(2000, 1, 1, tzinfo=UTC) + self.offset
        return now - (now - epoch) % self.every


MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

SCHEDULE = (
    Periodic("mailings.plan", MINUTE),
    Periodic("exports.plan", MINUTE),
    Periodic("jobs.sweep", MINUTE),
    Periodic("payments.poll", MINUTE),
    Periodic("mailings.bounces", 5 * MINUTE),
    Periodic("ledger.sum", MINUTE),
    Periodic("subscriptions.freezes", 15 * MINUTE),  # with the midnight of any zone
    Periodic("ledger.check", DAY, offset=timedelta(hours=1)),
    Periodic("jobs.prune", DAY, offset=timedelta(hours=1)),
)


def take_tick(task: str, tick: datetime) -> bool:
    """Is this tick ours? False when it has been taken. Commits by itself."""
    with transaction():
        if db.session.get(CronTick, (task, tick)) is not None:
            return False
        try:
            with db.session.begin_nested():
                db.session.add(CronTick(task=task, tick=tick, taken_at=clock.now()))
                db.session.flush()
        except IntegrityError:
            return False
    return True


def run_due(now: datetime) -> list[str]:
    """Do every periodic task whose latest tick is still free; the names of those done. One failing stops no other."""
    done = []
    for periodic in SCHEDULE:
        if take_tick(periodic.task, periodic.latest_tick(now)):
            try:
                perform(periodic.task)
            except Exception:
                log.warning("periodic_task_failed", task=periodic.task)  # perform() has reported it
            done.append(periodic.task)
    return done


def run_scheduler(stopping: threading.Event, *, pause_seconds: float = 1.0) -> None:
    """Do what is due, second by second, until told to stop. A database that is away is waited for."""
    while not stopping.is_set():
        try:
            run_due(clock.now())
        except Exception as error:
            report_exception(error)
            stopping.wait(5)
        finally:
            db.session.remove()
        stopping.wait(pause_seconds)
