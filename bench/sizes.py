"""How big a run is, and the limits it is held to (issue "Grids that staff love, at a million rows")."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

SMALL_CLIENTS, SMALL_BILLS = 10_000, 30_000

FLATNESS = 1.5  # a page among all rows / the same page among a few
PAGE_SECONDS = 0.060  # median of a grid page, PostgreSQL
FASTER_AT_DEPTH = 10.0  # search and deep pages / stock Flask-Admin
FASTER_AT_FIRST = 1.0
PAGE_BYTES, COLD_REQUESTS, WARM_REQUESTS = 60_000, 8, 1
EXPORT_SPEED, EXPORT_MEMORY = 0.8, 150e6  # of a bare cursor feeding xlsxwriter
BULK_SECONDS, FASTER_THAN_ORM = 10.0, 20.0
IMPORT_SECONDS, IMPORT_MEMORY = 60.0, 300e6
POST_SPEED = 0.35  # of bare INSERTs of the same rows, PostgreSQL
PUBLIC_RATE, PUBLIC_TAIL = 0.5, 5.0  # bill page: of a bare view on the same server; p99 / median
NOTICE_TAIL, NOTICE_RATIO = 0.200, 3.0  # p99 of the answer to a notice; where that is missed, to a bare view's
LESSON_PAGE_SECONDS = 0.100
MAILING_SPEED, SECOND_WORKER = 0.6, 1.7  # of a bare loop's letters a second; of one worker's
BILLS_PER_SECOND = 300.0  # by the forecast, in one action
SELECT_SECONDS, BILLING_GROWTH = 5.0, 20e6  # recipients of a mailing; memory while a hundred thousand are billed
ACCOUNTS_SECONDS, AS_OF_SECONDS = 0.100, 2.0  # the list of accounts with its totals: now, as of any day


@dataclass(frozen=True)
class Sizes:
    """Rows of the run. The limits of the issue are meant for a million clients and three million bills."""

    clients: int
    bills: int

    @property
    def changed(self) -> int:
        """Bills of a bulk change."""
        return min(100_000, self.bills // 10)

    @property
    def imported(self) -> int:
        """Lines of an import."""
        return min(100_000, self.clients)


def sizes() -> Sizes:
    """BENCH_CLIENTS and BENCH_BILLS, a million and three by default."""
    return Sizes(
        clients=int(os.environ.get("BENCH_CLIENTS") or 1_000_000),
        bills=int(os.environ.get("BENCH_BILLS") or 3_000_000),
    )


def ledger_sizes() -> tuple[int, int]:
    """Client accounts and entries: BENCH_ACCOUNTS and BENCH_ENTRIES, a million and twenty by default."""
    return int(os.environ.get("BENCH_ACCOUNTS") or 1_000_000), int(os.environ.get("BENCH_ENTRIES") or 20_000_000)


def parts(known: Collection[str]) -> set[str]:
    """BENCH_PARTS: which parts to run, by name, all by default. Raises SystemExit for one there is not."""
    chosen = set((os.environ.get("BENCH_PARTS") or " ".join(known)).split())
    if unknown := chosen - set(known):
        raise SystemExit(f"BENCH_PARTS: no part {', '.join(sorted(unknown))}; there are {' '.join(known)}")
    return chosen
