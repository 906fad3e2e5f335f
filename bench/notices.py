"""Notices of a bank at 500 a second, three in ten of them repeated: the answer's time, and what is credited after.

The bank is the demo bank; the payments were paid there before. The web server is the one the supervisor runs, with a
worker beside it that reads what is stored all the while.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import secrets
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from redis import Redis
from rq import Worker
from sqlalchemy import func, insert, select

from bench import kontora
from bench.databases import Place
from bench.report import figure_line, within
from bench.sizes import NOTICE_RATIO, NOTICE_TAIL
from crm import clock
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.models import Bill, BillStatus
from crm.db import db
from crm.ledger.models import Entry, Transaction
from crm.ledger.queries import check_ledger
from crm.payments.gateways.base import RemoteStatus
from crm.payments.gateways.demo import SIGNATURE_HEADER, DemoBankPayment, DemoGateway
from crm.payments.models import GatewayNotice, NoticeStatus, Payment, PaymentMethod, PaymentStatus
from crm.supervisor import web_command
from tests import servers

SECRET = "a secret of the bench"
RATE, SECONDS, REPEATED = 500, int(os.environ.get("BENCH_NOTICE_SECONDS") or 20), 0.3
CONNECTIONS = 32


def notices(place: Place) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where a payment was lost or credited twice."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-")))
        url = stack.enter_context(place.postgresql("kontora_bench_notices"))
        redis_url = stack.enter_context(servers.valkey())
        kontora.prepare_ledger(url, place.home)
        bodies, ids = _begin_payments(url, place.home, count=round(RATE * SECONDS * (1 - REPEATED)))
        sent = [*bodies, *random.Random(6).choices(bodies, k=RATE * SECONDS - len(bodies))]
        random.Random(7).shuffle(sent)
        env = {"DATABASE_URL": url, "REDIS_URL": redis_url, "DATA_DIR": str(home), "SECRET_KEY": SECRET}
        yield f"\nPostgreSQL, {RATE} notices a second for {SECONDS} s, {REPEATED:.0%} of them repeated"
        with _serving("bench.bare:webhook()", env, home) as port:
            floor = _send(port, sent)
        with _serving("app:app", env, home) as port, _working(env, home):
            done_before, began = _count(url, place.home), time.perf_counter()
            ours = _send(port, sent)
            answered = time.perf_counter() - began
            done_then = _count(url, place.home) - done_before
            yield from _report(ours, floor, answered=answered)
            yield figure_line("credited meanwhile", f"{done_then} of {len(ids)}, {done_then / answered:.0f} /s")
            _wait_until_read(url, place.home)
            rest = time.perf_counter() - began - answered
            yield figure_line("the rest after it", f"{rest:.1f} s, {(len(ids) - done_then) / max(rest, 0.001):.0f} /s")
        _prove(url, place.home, ids)
        yield figure_line("credited", f"each of {len(ids)} payments once, ledger whole")


def _report(ours: Sequence[float], floor: Sequence[float], *, answered: float) -> Iterator[str]:
    tail, bare = (quantiles(turn, n=100)[98] for turn in (ours, floor))
    ratio = tail / bare
    # Either will do: a machine of its own keeps to the first, a busy one to the second.
    check = (
        within("p99 ms", tail * 1000, at_most=NOTICE_TAIL * 1000)
        if tail <= NOTICE_TAIL
        else within("p99 ratio", ratio, at_most=NOTICE_RATIO)
    )
    yield figure_line(
        "answers",
        f"{len(ours) / answered:.0f} /s, median {median(ours) * 1000:.0f} ms, p99 {tail * 1000:.0f} ms",
        check,
    )
    yield figure_line("  a bare view", f"median {median(floor) * 1000:.0f} ms, p99 {bare * 1000:.0f} ms, ×{ratio:.2f}")


def _begin_payments(url: str, home: Path, *, count: int) -> tuple[list[bytes], list[int]]:
    """Payments that wait at the demo bank and have been paid there: a bill each. Their notices, and their ids."""
    with kontora.application(url, home).app_context(), scoped_to(EVERYWHERE):
        source = db.session.scalars(select(Bill).where(Bill.status == BillStatus.PENDING).limit(50)).all()
        now = clock.now()
        first = (db.session.scalar(select(func.max(Bill.number))) or 0) + 1
        bills = [
            {
                **{name: getattr(one, name) for name in _COPIED},
                "number": first + number,
                "token": secrets.token_urlsafe(24),
                "payable_until": None,
                "status": BillStatus.PENDING,
                "version": 1,
            }
            for number, one in ((number, source[number % len(source)]) for number in range(count))
        ]
        bill_ids = list(db.session.scalars(insert(Bill).returning(Bill.id, sort_by_parameter_order=True), bills))
        payments = [
            {
                "branch_id": bill["branch_id"],
                "client_id": bill["client_id"],
                "account_id": bill["account_id"],
                "bill_id": bill_id,
                "method": PaymentMethod.ONLINE,
                "status": PaymentStatus.PENDING,
                "amount": bill["amount"],
                "gateway": "demo",
                "external_id": f"bench-{bill_id}",
                "created_at": now,
                "author_name": "demo",
            }
            for bill_id, bill in zip(bill_ids, bills, strict=True)
        ]
        ids = list(db.session.scalars(insert(Payment).returning(Payment.id, sort_by_parameter_order=True), payments))
        book = [
            {
                "id": payment["external_id"],
                "idempotence_key": payment["external_id"],
                "status": RemoteStatus.SUCCEEDED,
                "amount": payment["amount"],
                "currency": "RUB",
                "description": "",
                "return_url": "",
                "created_at": now,
                "decided_at": now,
            }
            for payment in payments
        ]
        db.session.execute(insert(DemoBankPayment), book)
        db.session.commit()
        db.session.remove()
        db.engine.dispose()
    return [json.dumps({"event": "paid", "payment": payment["external_id"]}).encode() for payment in payments], ids


_COPIED = (
    *("branch_id", "company_id", "year", "client_id", "account_id", "method", "amount", "period_from", "period_to"),
    *("payable_from", "is_repeatable", "issued_at"),
)


# --- sending --------------------------------------------------------------------------------------------------------


def _send(port: int, bodies: Sequence[bytes]) -> list[float]:
    """Send the notices at RATE over CONNECTIONS kept open; seconds from when each was due until its answer."""
    bank = DemoGateway.__new__(DemoGateway)
    bank._key = _key()
    requests = [_request(body, bank.sign(body)) for body in bodies]
    latencies: list[float] = []
    with selectors.DefaultSelector() as waiting:
        free = deque(_connect(port) for _ in range(CONNECTIONS))  # in turn: the server closes what lies idle
        lines = list(free)
        asked: dict[socket.socket, float] = {}
        heard: dict[socket.socket, bytes] = {}
        at, began = 0, time.perf_counter()
        while len(latencies) < len(requests):
            now = time.perf_counter()
            while free and at < len(requests) and began + at / RATE <= now:
                line = free.popleft()
                line.sendall(requests[at])
                asked[line] = began + at / RATE  # a notice that had to wait for a connection waited for its answer
                waiting.register(line, selectors.EVENT_READ)
                at += 1
            due = began + at / RATE - time.perf_counter() if free and at < len(requests) else 30.0
            for key, _events in waiting.select(max(due, 0)):
                line: Any = key.fileobj
                heard[line] = answer = heard.get(line, b"") + line.recv(2**16)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(answer.decode(errors="replace") or "the server closed the connection")
                head, gap, body = answer.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                if not gap or length is None or len(body) < int(length[1]):
                    continue
                del heard[line]
                latencies.append(time.perf_counter() - asked.pop(line))
                waiting.unregister(line)
                free.append(line)
        for line in lines:
            line.close()
    return latencies


def _key() -> bytes:
    return hashlib.sha256(b"demo-bank:" + SECRET.encode()).digest()


def _connect(port: int) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def _request(body: bytes, signature: str) -> bytes:
    head = (
        f"POST /webhooks/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"{SIGNATURE_HEADER}: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# --- processes ------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(application: str, facts: dict[str, str], home: Path) -> Iterator[int]:
    """The port of an application behind gunicorn, as the supervisor starts it."""
    port, metrics = servers.free_port(), home / f"metrics-{application.partition(':')[0]}"
    metrics.mkdir(exist_ok=True)
    env = os.environ | facts | {"PORT": str(port), "KONTORA_DEMO": "1", "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    with (home / "log").open("ab") as log:
        server = subprocess.Popen(web_command(application, port), cwd=servers.ROOT, env=env, stdout=log, stderr=log)
        try:
            servers.wait_until(lambda: _listens(port), seconds=60, what=f"{application} did not listen")
            yield port
        finally:
            servers.stop(server)


@contextmanager
def _working(facts: dict[str, str], home: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "flask", "--app", "app", "worker"]
    env = os.environ | facts | {"KONTORA_DEMO": "1"}
    with (home / "log").open("ab") as log:
        worker = subprocess.Popen(command, cwd=servers.ROOT, env=env, stdout=log, stderr=log)
        try:
            servers.wait_until(lambda: _is_waited_for(facts), seconds=60, what="the worker did not begin")
            yield
        finally:
            servers.stop(worker)


def _is_waited_for(facts: dict[str, str]) -> bool:
    with Redis.from_url(facts["REDIS_URL"]) as connection:
        return Worker.count(connection=connection) == 1


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- proof ----------------------------------------------------------------------------------------------------------


def _count(url: str, home: Path) -> int:
    """Payments of the bench that have been received."""
    with kontora.application(url, home).app_context(), scoped_to(EVERYWHERE):
        query = select(func.count()).where(
            Payment.external_id.startswith("bench-"), Payment.status == PaymentStatus.SUCCEEDED
        )
        return db.session.scalar(query.select_from(Payment)) or 0


def _wait_until_read(url: str, home: Path) -> None:
    with kontora.application(url, home).app_context(), scoped_to(EVERYWHERE):
        waiting = select(func.count()).where(GatewayNotice.status.in_([NoticeStatus.NEW, NoticeStatus.WORKING]))

        def is_over() -> bool:
            db.session.commit()
            return not db.session.scalar(waiting.select_from(GatewayNotice))

        servers.wait_until(is_over, seconds=600, what="notices are left unread")


def _prove(url: str, home: Path, ids: Sequence[int]) -> None:
    """Every payment received, posted once, for its own sum; the ledger whole."""
    with kontora.application(url, home).app_context(), scoped_to(EVERYWHERE):
        known = set(ids)
        received = set(db.session.scalars(select(Payment.id).where(Payment.status == PaymentStatus.SUCCEEDED)))
        if lost := known - received:
            raise SystemExit(f"{len(lost)} payments were lost")
        posted = db.session.execute(
            select(Transaction.payment_id, func.count(Transaction.id.distinct()))
            .join(Entry)
            .where(Transaction.payment_id.in_(select(Payment.id).where(Payment.external_id.startswith("bench-"))))
            .group_by(Transaction.payment_id)
        ).all()
        if {count for _id, count in posted} != {1} or known - {id for id, _count in posted}:
            raise SystemExit("a payment was credited twice or never")
        if problems := check_ledger():
            raise SystemExit(f"the ledger is broken: {problems[:3]}")
