from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from crm import clock
from crm.db import db, transaction
from crm.jobs.models import CronTick
from crm.jobs.schedule import SCHEDULE, Periodic, run_due, take_tick
from crm.jobs.tasks import TASKS

NOW = datetime(2027, 3, 10, 9, 0, 30, tzinfo=UTC)


def test_every_periodic_task_exists():
    assert {periodic.task for periodic in SCHEDULE} <= set(TASKS)


def test_a_tick_is_a_whole_period_plus_the_offset():
    assert Periodic("x", timedelta(minutes=1)).latest_tick(NOW) == NOW.replace(second=0)
    nightly = Periodic("x", timedelta(days=1), offset=timedelta(hours=10))
    assert nightly.latest_tick(NOW) == datetime(2027, 3, 9, 10, tzinfo=UTC)
    assert nightly.latest_tick(NOW + timedelta(hours=1)) == datetime(2027, 3, 10, 10, tzinfo=UTC)


def test_of_many_schedulers_one_takes_a_tick(app, in_parallel):
    assert sorted(in_parallel(lambda _: take_tick("x", NOW), times=8)) == [False] * 7 + [True]
    assert not take_tick("x", NOW)
    assert take_tick("x", NOW + timedelta(minutes=1))
    assert take_tick("y", NOW)


def test_each_task_is_done_once_per_period(app):
    everything = [periodic.task for periodic in SCHEDULE]
    minutely = [periodic.task for periodic in SCHEDULE if periodic.every == timedelta(minutes=1)]
    with clock.frozen(NOW):
        assert run_due(NOW) == everything
        assert run_due(NOW + timedelta(seconds=29)) == []
        assert run_due(NOW + timedelta(seconds=30)) == minutely
        assert run_due(NOW + timedelta(days=3)) == everything


def test_one_failing_task_stops_no_other(app, monkeypatch):
    def fail():
        raise RuntimeError("on purpose")

    first = SCHEDULE[0].task
    monkeypatch.setitem(TASKS, first, fail)
    with clock.frozen(NOW):
        assert run_due(NOW) == [periodic.task for periodic in SCHEDULE]


def test_old_ticks_are_pruned(app):
    with clock.frozen(NOW):
        with transaction():
            db.session.add_all(CronTick(task="x", tick=NOW - timedelta(days=day), taken_at=NOW) for day in range(5, 10))
        run_due(NOW)
    oldest = db.session.scalar(select(func.min(CronTick.tick)))
    assert oldest == NOW - timedelta(days=7)
