"""A mailing through everything that can go wrong at once: workers killed, the queue wiped and restarted, letters
refused for a while, two schedulers. Everybody has one bill and one message in the end, and nobody two letters.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from aiosmtpd.controller import Controller
from sqlalchemy import func, select

from crm import clock
from crm.bills.models import Bill
from crm.config import Settings
from crm.db import db
from crm.mailings.channels.email import letter_id
from crm.mailings.models import MailingRun, MailingRunLine, Message, MessageStatus, RunResult, RunStatus
from crm.supervisor import queue_program
from tests.chaos.conftest import IS_LONG
from tests.chaos.mailers import FastClock
from tests.chaos.recipients import make_recipients
from tests.factories import make_rule, make_template
from tests.servers import ROOT, free_port, stop, wait_until

RECIPIENTS = int(os.environ.get("CHAOS_RECIPIENTS") or (20_000 if IS_LONG else 300))
KILLS = int(os.environ.get("CHAOS_KILLS") or (20 if IS_LONG else 3))
WORKERS, SCHEDULERS = 3, 2
REFUSED = 0.05
# A lease of ten minutes lasts so much the shorter.
SPEED = 20 if IS_LONG else 40
SECONDS = 3600 if IS_LONG else 240
# The share of the work that is done when something happens.
WIPED, RESTARTED, REFUSING = 0.3, (0.15, 0.6), (0.4, 0.7)


@dataclass
class Sink:
    """A real SMTP server that takes letters and remembers whose they are. taken: by the Message-ID."""

    taken: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    is_refusing: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:
        if self.is_refusing and self.chance.random() < REFUSED:
            self.refusals += 1
            return "451 4.3.0 Try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        lines = envelope.content.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
        self.taken[next(line[12:].decode() for line in lines if line.startswith(b"Message-ID: "))] += 1
        return "250 OK"


@contextlib.contextmanager
def _sink() -> Iterator[tuple[Sink, str]]:
    sink, port = Sink(), free_port()
    controller = Controller(sink, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield sink, f"smtp://127.0.0.1:{port}"
    finally:
        controller.stop()


class Queue:
    """A Valkey that keeps what it is told, as the supervisor starts it."""

    def __init__(self, home: Path) -> None:
        self.url = f"unix://{home / 'v.sock'}"
        self._command = [queue_program(), "--port", "0", "--unixsocket", str(home / "v.sock"), "--dir", str(home)]
        self._command += ["--appendonly", "yes", "--save", ""]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, seconds=30, what="Valkey did not answer")

    def stop(self) -> None:
        stop(self._process)

    def wipe(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Parts:
    """The processes of a server: workers, and schedulers; every one that is killed is started anew."""

    def __init__(self, settings: Settings, queue: Queue, smtp_url: str, time_: FastClock, log: Path) -> None:
        self._env = os.environ | {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": queue.url,
            "SMTP_URL": smtp_url,
            "DATA_DIR": str(settings.data_dir),
            "SECRET_KEY": settings.secret_key,
            "CHAOS_CLOCK": str(time_),
        }
        self._log = log
        self._workers = [self._start("worker") for _ in range(WORKERS)]
        self._schedulers = [self._start("scheduler") for _ in range(SCHEDULERS)]

    def check(self) -> None:
        """Nobody has ended by himself."""
        if any(process.poll() is not None for process in [*self._workers, *self._schedulers]):
            raise RuntimeError(f"a process has ended:\n{self._log.read_text()[-4000:]}")

    def kill_one(self, chance: random.Random) -> None:
        """kill -9 of a worker at work, of the process that does its job, or of both."""
        at = chance.randrange(WORKERS)
        worker = self._workers[at]
        victims = chance.choice([[worker.pid], _children(worker.pid), [worker.pid, *_children(worker.pid)]])
        for pid in victims or [worker.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if worker.pid in victims or not victims:
            worker.wait()
            self._workers[at] = self._start("worker")

    def stop(self) -> None:
        for process in [*self._workers, *self._schedulers]:
            children = _children(process.pid)
            process.kill()
            process.wait()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _start(self, part: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.mailers", part],
                cwd=ROOT,
                env=self._env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _counts(column: Any) -> Counter[Any]:
    db.session.rollback()
    found = dict(db.session.execute(select(column, func.count()).group_by(column)).all())
    db.session.rollback()
    return Counter(found)


def _is_over(parts: Parts) -> bool:
    parts.check()
    if _counts(MailingRun.status) != {RunStatus.DONE: 1}:
        return False
    under_way = {MessageStatus.PENDING, MessageStatus.TAKEN, MessageStatus.SENDING}
    return not under_way & _counts(Message.status).keys()


def _harm(parts: Parts, queue: Queue, sink: Sink) -> None:
    """Everything that goes wrong, each when its share of the work is done: lines of the run, and letters."""
    chance = random.Random(9)
    planned: list[tuple[float, str]] = [
        *(((number + 0.5) / KILLS, "kill") for number in range(KILLS)),
        *((share, "restart") for share in RESTARTED),
        (WIPED, "wipe"),
        (REFUSING[0], "refuse"),
        (REFUSING[1], "accept"),
    ]
    for share, what in sorted(planned):

        def is_time(share: float = share) -> bool:
            parts.check()
            lines = _counts(MailingRunLine.result)
            done = sum(lines.values()) - lines[RunResult.WAITING] + sum(sink.taken.values())
            return done >= min(share, 0.95) * 2 * RECIPIENTS

        wait_until(is_time, seconds=SECONDS, what=f"nothing went on before {what} at {share:.2f}")
        if what == "kill":
            time.sleep(chance.uniform(0, 0.05))
            parts.kill_one(chance)
        elif what == "restart":
            queue.stop()
            time.sleep(0.3)
            queue.start()
        elif what == "wipe":
            queue.wipe()
        else:
            sink.is_refusing = what == "refuse"


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_mailing_reaches_everybody_once(app: Any, network: Any, tmp_path: Path) -> None:
    settings = app.config["SETTINGS"]
    start = datetime(2027, 3, 10, 9, tzinfo=UTC)
    log = tmp_path / "log"
    with clock.frozen(start):
        make_recipients(network.lesnoy, RECIPIENTS)
        template = make_template(subject="Счёт на {bill.amount}", body="{customer.name}, оплатите: {bill.url}")
        due = clock.local(start + timedelta(minutes=1), network.lesnoy).time()
        rule = make_rule(network.lesnoy, template=template, send_time=due)
        db.session.commit()
        rule_id = rule.id
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        sink, smtp_url = stack.enter_context(_sink())
        # The name of a socket may not be long.
        queue = Queue(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-"))))
        stack.callback(queue.stop)
        parts = Parts(settings, queue, smtp_url, FastClock(start, time.time(), SPEED), log)
        stack.callback(parts.stop)
        _harm(parts, queue, sink)
        wait_until(lambda: _is_over(parts), seconds=SECONDS, what=f"the mailing did not end: {_counts(Message.status)}")
    seconds = time.monotonic() - began

    db.session.expire_all()
    run = db.session.scalars(select(MailingRun)).one()
    assert (run.rule_id, run.total) == (rule_id, RECIPIENTS)
    assert _counts(MailingRunLine.result) == {RunResult.ISSUED: RECIPIENTS}
    bills = _counts(Bill.client_id)
    assert (len(bills), set(bills.values())) == (RECIPIENTS, {1})
    messages = _counts(Message.client_id)
    assert (len(messages), set(messages.values())) == (RECIPIENTS, {1})

    statuses = _counts(Message.status)
    unknown = statuses[MessageStatus.UNKNOWN]
    print(f"{RECIPIENTS} recipients, {KILLS} kills, {seconds:.0f} s: {unknown} unknown, {sink.refusals} refusals")
    assert statuses[MessageStatus.SENT] + unknown == RECIPIENTS
    assert unknown <= KILLS
    ids = dict(db.session.execute(select(Message.dedupe_key, Message.status)).all())
    sent = {letter_id(key) for key, status in ids.items() if status is MessageStatus.SENT}
    known = {letter_id(key) for key in ids}
    arrived = Counter({name.strip("<>").partition("@")[0]: count for name, count in sink.taken.items()})
    assert set(arrived.values()) == {1}
    assert sent <= arrived.keys() <= known
    assert sink.refusals or not IS_LONG
