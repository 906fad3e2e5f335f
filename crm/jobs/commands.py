"""`flask worker` and `flask scheduler`."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import click
import structlog
from flask import Flask, current_app
from flask.cli import with_appcontext
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker

from crm.background.operations import stopping as jobs_are_stopping
from crm.jobs.queues import QUEUE, QUEUES
from crm.jobs.schedule import run_scheduler

# Where a machine is busy, whoever waits for a page (or a bank for its answer) goes first.
NICENESS = 5

log = structlog.get_logger()


class Worker(SimpleWorker):
    """rq's worker without a process per job (five times faster; every task survives being repeated)."""

    max_connection_wait_time = 5.0
    is_stopping = False

    def request_stop(self, signum: int, frame: Any) -> None:
        self.is_stopping = True
        jobs_are_stopping.set()
        super().request_stop(signum, frame)


@click.command("worker")
@click.option(
    "--queue", type=click.Choice(QUEUES), default=QUEUE, show_default=True, help="The one queue to listen to."
)
@with_appcontext
def worker_command(queue: str) -> None:
    """Answer the bell until told to stop; a queue that goes away is waited for."""
    # A connection of its own: it waits on the queue for minutes, the ringer's gives up after a second.
    connection = Redis.from_url(current_app.config["SETTINGS"].redis_url)
    os.nice(NICENESS)
    wait = 0.5
    while True:
        started = time.monotonic()
        worker = Worker(
            [queue], connection=connection, worker_ttl=30, maintenance_interval=30, job_monitoring_interval=10
        )
        try:
            worker.work(logging_level="WARNING")
        except RedisError as error:
            log.warning("queue_away", reason=str(error))
        if worker.is_stopping:
            return
        wait = 0.5 if time.monotonic() - started > 30 else min(wait * 2, 5.0)
        time.sleep(wait)


@click.command("scheduler")
@with_appcontext
def scheduler_command() -> None:
    """Do what is due by the clock until told to stop. Two at once do no harm."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    run_scheduler(stopping)


def register(app: Flask) -> None:
    app.cli.add_command(worker_command)
    app.cli.add_command(scheduler_command)
