"""Every queue has a worker of its own, and every task a queue."""

from __future__ import annotations

from crm.jobs.queues import LONG_TASKS, QUEUES, queue_of
from crm.jobs.schedule import SCHEDULE
from crm.jobs.tasks import TASKS
from crm.supervisor import WORKERS


def test_every_queue_has_a_worker_that_listens_to_nothing_else() -> None:
    heard = [options[1:] for options in WORKERS.values()]
    assert sorted(heard) == sorted([name] for name in QUEUES)
    assert {options[0] for options in WORKERS.values()} == {"--queue"}


def test_every_task_has_a_queue_and_none_is_long_and_periodic() -> None:
    assert {queue_of(task) for task in TASKS} == set(QUEUES)
    assert set(TASKS) >= LONG_TASKS
    assert not LONG_TASKS & {periodic.task for periodic in SCHEDULE}
