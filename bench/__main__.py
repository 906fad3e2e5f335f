"""The run: a database, contestants in turns, a table; then the same on the other database."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import python_calamine
from sqlalchemy.engine import make_url

from bench import bare, kontora, stock
from bench.contestants import Contestant
from bench.duels import duel
from bench.kontora import Sample
from bench.report import head, line, plain_line
from bench.weight import weigh
from tests import servers

GRID_TURNS, EXPORT_TURNS, PAGE_TURNS = 31, 3, 101
PAGE_SIZE = 50
STOCK = "stock Flask-Admin"


def main() -> None:
    began = time.perf_counter()
    bills = int(os.environ.get("BENCH_ROWS") or 100_000)
    with tempfile.TemporaryDirectory(prefix="kontora-bench-") as folder, _postgresql() as postgresql_url:
        home = Path(folder)
        for database, url in (("SQLite", f"sqlite:///{home / 'bench.db'}"), ("PostgreSQL", postgresql_url)):
            print(f"{database}: making {bills:,} bills…", file=sys.stderr, flush=True)
            sample = _prepare(url, home, bills)
            print(head(database, sample.bills), flush=True)
            for text in itertools.chain(
                grids(url, home, sample), export(url, home, sample), bill_page(url, home, sample)
            ):
                print(text, flush=True)
    print("\nspeed: median over pairs of (the peer's time / ours), so ×2 is twice as fast as the peer")
    print(f"the whole run: {time.perf_counter() - began:.0f} s")


def grids(url: str, home: Path, sample: Sample) -> Iterator[str]:
    deep = max(1, sample.bills // PAGE_SIZE * 3 // 4)
    cases = {
        "bills, first page": ("", ""),
        "bills, filtered by status": ("f.status.is=pending", "flt0_status_equals=pending"),
        "bills, searched by client's name": (f"q={sample.name}", f"search={sample.name}"),
        f"bills, page {deep}": (f"page={deep}", f"page={deep - 1}"),  # stock counts pages from 0
    }
    with Contestant(kontora.site, url, home, sample.session_user) as ours, Contestant(stock.site, url) as theirs:
        for name, (our_query, their_query) in cases.items():
            result = duel(
                partial(ours.run, "get", f"/admin/bill/?{our_query}"),
                partial(theirs.run, "get", f"/admin/bill/?{their_query}"),
                turns=GRID_TURNS,
            )
            if _bills_in(result.our_outcome.content) != _bills_in(result.their_outcome.content):
                raise SystemExit(f"{name}: the two pages show different bills")
            yield line(name, STOCK, result)
        our, their = weigh(ours, "/admin/bill/"), weigh(theirs, "/admin/bill/")
        yield plain_line("  its HTML", _kilobytes(our.html), _kilobytes(their.html), STOCK)
        yield plain_line("  its assets", _assets(our.count, our.assets), _assets(their.count, their.assets), STOCK)
        yield plain_line("  memory at most", _megabytes(ours.peak_memory()), _megabytes(theirs.peak_memory()), STOCK)


def export(url: str, home: Path, sample: Sample) -> Iterator[str]:
    our_file, their_file = home / "ours.xlsx", home / "theirs.xlsx"
    with (
        Contestant(kontora.site, url, home, sample.session_user) as ours,
        Contestant(bare.xlsx, url, sample.labels) as theirs,
    ):
        result = duel(
            partial(ours.run, "export", our_file), partial(theirs.run, "export", their_file), turns=EXPORT_TURNS
        )
        if _cells(our_file) != _cells(their_file):
            raise SystemExit("export: the two files hold different cells")
        peer = "bare xlsxwriter, constant memory"
        yield line(f"export of {sample.bills:,} rows", peer, result, unit="s")
        yield plain_line("  memory at most", _megabytes(ours.peak_memory()), _megabytes(theirs.peak_memory()), peer)


def bill_page(url: str, home: Path, sample: Sample) -> Iterator[str]:
    our_tokens, their_tokens = itertools.cycle(sample.tokens), itertools.cycle(sample.tokens)
    with Contestant(kontora.site, url, home, None) as ours, Contestant(bare.page, url) as theirs:
        result = duel(
            lambda: ours.run("get", f"/pay/{next(our_tokens)}"),
            lambda: theirs.run("get", f"/pay/{next(their_tokens)}"),
            turns=PAGE_TURNS,
        )
        yield line("bill page, one process", "bare Flask: one SELECT, one template", result, unit="/s")


# --- databases ------------------------------------------------------------------------------------------------------


@contextmanager
def _postgresql() -> Iterator[str]:
    """A database of our own, gone afterwards."""
    name = f"kontora_bench_{os.getpid()}"
    with servers.postgresql() as server:
        address = make_url(server)
        admin = psycopg.connect(
            address.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
        with admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 ENCODING UTF8')
            try:
                yield address.set(database=name).render_as_string(hide_password=False)
            finally:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _prepare(url: str, home: Path, bills: int) -> Sample:
    """In a process of its own: what it imports and holds is nobody's start."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(kontora.prepare, url, home, bills).result()


# --- proofs that both did the same ----------------------------------------------------------------------------------


def _bills_in(page: bytes) -> set[str]:
    found = set(re.findall(r"\b20\d\d-\d{6}\b", page.decode()))
    if len(found) < 2:
        raise SystemExit("a grid shows no bills: there is nothing to compare")
    return found


def _cells(file: Path) -> list[list[object]]:
    """All cells below the header."""
    with file.open("rb") as stream:
        return python_calamine.load_workbook(stream).get_sheet_by_index(0).to_python()[1:]


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.0f} kB"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _assets(count: int, size: int) -> str:
    return f"{count}: {_kilobytes(size)}"


if __name__ == "__main__":
    main()
