"""Where a run keeps its databases, and those of the grids: each kind small and full, filled once. BENCH_KEEP=folder
keeps them for the next run.
"""

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


@dataclass(frozen=True)
class Place:
    """Where a run may make databases. home: a folder; server: a PostgreSQL; is_kept: whether they outlive the run."""

    home: Path
    server: URL
    is_kept: bool

    def sqlite(self, name: str) -> str:
        """Address of a SQLite file of this name."""
        return f"sqlite:///{self.home / f'{name}.db'}"

    @contextmanager
    def postgresql(self, name: str) -> Iterator[str]:
        """Address of a PostgreSQL database of our own, gone afterwards unless it is kept."""
        if not self.is_kept:
            name = f"{name}_{os.getpid()}"
        address = self.server.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as admin:
            if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                create = "CREATE DATABASE {} TEMPLATE template0 ENCODING UTF8"
                admin.execute(sql.SQL(create).format(sql.Identifier(name)))
        try:
            yield self.server.set(database=name).render_as_string(hide_password=False)
        finally:
            if not self.is_kept:
                with psycopg.connect(address, autocommit=True) as admin:
                    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def place() -> Iterator[Place]:
    """The folder named by BENCH_KEEP, or one that goes away, and a PostgreSQL server."""
    kept = os.environ.get("BENCH_KEEP")
    with ExitStack() as stack:
        home = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-bench-"))).resolve()
        home.mkdir(parents=True, exist_ok=True)
        yield Place(home, make_url(stack.enter_context(servers.postgresql())), bool(kept))


@contextmanager
def grounds(place: Place, sizes: Sizes) -> Iterator[list[Ground]]:
    """Both systems, filled: SQLite beside PostgreSQL, for each is busy on one core."""
    few = Sizes(min(SMALL_CLIENTS, sizes.clients // 2), min(SMALL_BILLS, sizes.bills // 2))
    home = place.home
    with ExitStack() as stack:
        sqlite = [place.sqlite(_name(size)) for size in (few, sizes)]
        postgresql = [stack.enter_context(place.postgresql(_name(size))) for size in (few, sizes)]
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
