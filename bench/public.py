"""The public page of a bill under load, on the server the supervisor runs, beside a bare Flask view on the same."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from bench.databases import Ground
from bench.load import Load, load
from bench.report import figure_line, within
from bench.sizes import PUBLIC_RATE, PUBLIC_TAIL
from crm.supervisor import web_command
from tests import servers

CONNECTIONS = 50
TURNS, SECONDS = 7, 2.0


def under_load(ground: Ground) -> Iterator[str]:
    """Fifty connections, fifty bills in turn, nobody signed in; who begins changes with every pair."""
    yield f"\n{ground.name}, {CONNECTIONS} connections on two workers of four threads"
    with (
        tempfile.TemporaryDirectory(prefix="kontora-") as home,
        _serving("app:app", ground.full_url, Path(home)) as ours,
        _serving("bench.bare:served()", ground.full_url, Path(home)) as theirs,
    ):
        paths = itertools.cycle([f"/pay/{token}" for token in ground.full.tokens])

        def turn(port: int, seconds: float = SECONDS) -> Load:
            return load(port, paths, connections=CONNECTIONS, seconds=seconds)

        for port in (ours, theirs):
            turn(port, 1.0)
        pairs: list[tuple[Load, Load]] = []
        for number in range(TURNS):
            first, second = (ours, theirs) if number % 2 else (theirs, ours)
            one, other = turn(first), turn(second)
            pairs.append((one, other) if number % 2 else (other, one))
    ratio = median(mine.rate / peer.rate for mine, peer in pairs)
    our_rate, their_rate = (median(each[side].rate for each in pairs) for side in (0, 1))
    # Of each turn its own: what the machine does to one is not laid to another's charge.
    tails = [_tail(mine) for mine, _peer in pairs]
    middle = median(latency for mine, _peer in pairs for latency in mine.latencies)
    tail, slowest = median(tails), max(tails)
    yield figure_line(
        "bill page, rate",
        f"{our_rate:.0f} /s, bare Flask view {their_rate:.0f} /s, ×{ratio:.2f}",
        within("rate", ratio, at_least=PUBLIC_RATE),
    )
    yield figure_line(
        "bill page, p99 / median",
        f"×{tail:.2f} of {middle * 1000:.0f} ms, worst turn ×{slowest:.2f}",
        within("tail", tail, at_most=PUBLIC_TAIL),
    )


def _tail(turn: Load) -> float:
    return quantiles(turn.latencies, n=100)[98] / median(turn.latencies)


@contextmanager
def _serving(application: str, database_url: str, home: Path) -> Iterator[int]:
    """The port of an application behind gunicorn, as the supervisor starts it; nobody reads its log."""
    port, metrics = servers.free_port(), home / f"metrics-{application.partition(':')[0]}"
    metrics.mkdir()
    env = os.environ | {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(home),
        "SECRET_KEY": "a secret of the bench",
        "PORT": str(port),
        "KONTORA_DEMO": "1",  # with a bank, so that the page has its button
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }
    with (home / "log").open("ab") as log:
        server = subprocess.Popen(web_command(application, port), cwd=servers.ROOT, env=env, stdout=log, stderr=log)
        try:
            servers.wait_until(lambda: _listens(port), seconds=60, what=f"{application} did not listen")
            yield port
        finally:
            servers.stop(server)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
