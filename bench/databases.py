"""The databases of a run: each kind small and full, filled once; BENCH_KEEP=folder keeps them for the next run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from bench import kontora
from bench.kontora import Sample
from bench.sizes import SMALL_BILLS, SMALL_CLIENTS, Sizes
from tests import servers


@dataclass(frozen=True)
class Ground:
    """One database system at two sizes. home: a folder for the files contestants make."""

    name: str
    home: Path
    small_url: str
    full_url: str
    small: Sample
    full: Sample

    @property
    def is_postgresql(self) -> bool:
        return self.name == "PostgreSQL"


@contextmanager
def grounds(sizes: Sizes) -> Iterator[list[Ground]]:
    """Both systems, filled: SQLite beside PostgreSQL, for each is busy on one core."""
    few = Sizes(min(SMALL_CLIENTS, sizes.clients // 2), min(SMALL_BILLS, sizes.bills // 2))
    kept = os.environ.get("BENCH_KEEP")
    with ExitStack() as stack:
        home = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-bench-"))).resolve()
        home.mkdir(parents=True, exist_ok=True)
        server = make_url(stack.enter_context(servers.postgresql()))
        sqlite = [f"sqlite:///{home / f'{_name(size)}.db'}" for size in (few, sizes)]
        postgresql = [stack.enter_context(_database(server, _name(size), kept=bool(kept))) for size in (few, sizes)]
        began = time.perf_counter()
        print(f"making databases of {sizes.clients:,} clients and {sizes.bills:,} bills…", file=sys.stderr, flush=True)
        tasks = [(sqlite[1], sizes), (postgresql[1], sizes), (sqlite[0], few), (postgresql[0], few)]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as apart:
            asked = {url: apart.submit(kontora.prepare, url, home, size.clients, size.bills) for url, size in tasks}
            samples = {url: sample.result() for url, sample in asked.items()}
        print(f"databases made: {time.perf_counter() - began:.0f} s", flush=True)
        yield [
            Ground(name, home, small, full, samples[small], samples[full])
            for name, (small, full) in (("SQLite", sqlite), ("PostgreSQL", postgresql))
        ]


def _name(size: Sizes) -> str:
    return f"kontora_bench_{size.clients}_{size.bills}"


@contextmanager
def _database(server: URL, name: str, *, kept: bool) -> Iterator[str]:
    """A database of our own, gone afterwards unless it is kept."""
    if not kept:
        name = f"{name}_{os.getpid()}"
    address = server.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as admin:
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING UTF8").format(sql.Identifier(name)))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        if not kept:
            with psycopg.connect(address, autocommit=True) as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
