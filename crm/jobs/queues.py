"""The one queue, and the ringer the domains ring. A worker listens to one queue only: on two, rq can lose a job."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq import Queue, Retry

QUEUE = "kontora"
# The longest run there may be; it only ends jobs that hang.
JOB_SECONDS = 3600

log = structlog.get_logger()


def connect(redis_url: str) -> Redis:
    """For ringing and asking: gives up at once when the server is away, since a person may be waiting."""
    return Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2, retry=ConnectionRetry(NoBackoff(), 0))


def queue() -> Queue:
    """The queue of the current app."""
    found: Queue = current_app.extensions["queue"]
    return found


def _ring(task: str, args: tuple[Any, ...]) -> None:
    """Ask a worker to run `task`. A lost ring is logged and made good by the sweep within a minute."""
    try:
        queue().enqueue(
            "crm.jobs.tasks.perform",
            task,
            *args,
            retry=Retry(max=2),
            job_timeout=JOB_SECONDS,
            result_ttl=0,
            failure_ttl=86400,
        )
    except RedisError as error:
        log.warning("bell_lost", task=task, reason=str(error))


def register(app: Flask) -> None:
    # Connections are made at the first use, so a server that is away does not keep the app from starting.
    app.extensions["queue"] = Queue(QUEUE, connection=connect(app.config["SETTINGS"].redis_url))
    app.extensions["bell"] = _ring
