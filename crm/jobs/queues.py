"""The queues, and the ringer the domains ring. A worker listens to one queue only: on two, rq can lose a job."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq import Queue, Retry

from crm.background.operations import RUN
from crm.payments.notices import READ_NOTICES

QUEUE = "kontora"
LONG_QUEUE = "kontora-long"  # a letter does not wait behind somebody's export
QUEUES = (QUEUE, LONG_QUEUE)
LONG_TASKS = frozenset({RUN})
# The longest run there may be; it only ends jobs that hang.
JOB_SECONDS = {QUEUE: 3600, LONG_QUEUE: 6 * 3600}

# Rung hundreds of times a second, they wait in the queue once: who answers takes all there is. A ring whose job was
# lost keeps the bell still for RUNG_SECONDS at most.
RUNG_ONCE = frozenset({READ_NOTICES})
RUNG_SECONDS = 5

log = structlog.get_logger()


def connect(redis_url: str) -> Redis:
    """For ringing and asking: gives up at once when the server is away, since a person may be waiting."""
    return Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2, retry=ConnectionRetry(NoBackoff(), 0))


def queue(name: str = QUEUE) -> Queue:
    """A queue of the current app."""
    found: Queue = current_app.extensions["queues"][name]
    return found


def queue_of(task: str) -> str:
    """Name of the queue a task waits in."""
    return LONG_QUEUE if task in LONG_TASKS else QUEUE


def _rung(task: str) -> str:
    return f"kontora:rung:{task}"


def answer_bell(task: str) -> None:
    """Before the work is looked for: whoever leaves some from here on rings anew."""
    if task in RUNG_ONCE:
        try:
            queue(queue_of(task)).connection.delete(_rung(task))
        except RedisError as error:
            log.warning("bell_not_answered", task=task, reason=str(error))


def _ring(task: str, args: tuple[Any, ...]) -> None:
    """Ask a worker to run `task`. A lost ring is logged and made good by the sweep within a minute."""
    name = queue_of(task)
    try:
        if task in RUNG_ONCE and not queue(name).connection.set(_rung(task), 1, nx=True, ex=RUNG_SECONDS):
            return
        queue(name).enqueue(
            "crm.jobs.tasks.perform",
            task,
            *args,
            retry=Retry(max=2),
            job_timeout=JOB_SECONDS[name],
            result_ttl=0,
            failure_ttl=86400,
        )
    except RedisError as error:
        log.warning("bell_lost", task=task, reason=str(error))


def register(app: Flask) -> None:
    # Connections are made at the first use, so a server that is away does not keep the app from starting.
    connection = connect(app.config["SETTINGS"].redis_url)
    app.extensions["queues"] = {name: Queue(name, connection=connection) for name in QUEUES}
    app.extensions["bell"] = _ring
