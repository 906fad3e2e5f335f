"""The list of a million client accounts with its totals, now and as of a past day, and other pages about money."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

from bench import kontora
from bench.books import write_books
from bench.contestants import Contestant
from bench.databases import Place
from bench.report import Check, figure_line, within
from bench.sizes import ACCOUNTS_SECONDS, AS_OF_SECONDS, ledger_sizes

TURNS = 9
SLOW = 10.0  # seconds
AS_OF = "as_of"


@dataclass(frozen=True)
class Page:
    """path: of the page, told a client's id. seconds: its limit, None where it is shown for information."""

    name: str
    path: Callable[[int], str]
    seconds: float | None = None


def _as_of(days: int) -> Callable[[int], str]:
    return lambda _client: f"/admin/account/?{AS_OF}={date.today() - timedelta(days=days)}"


PAGES = (
    Page("list of accounts, with totals", lambda _: "/admin/account/", ACCOUNTS_SECONDS),
    Page("  sorted by balance", lambda _: "/admin/account/?sort=-balance", ACCOUNTS_SECONDS),
    Page("  page 200", lambda _: "/admin/account/?page=199", ACCOUNTS_SECONDS),
    Page("  in debt", lambda _: "/admin/account/?f.balance.to=-0.01"),
    Page("  as of yesterday", _as_of(1), AS_OF_SECONDS),
    Page("  as of a month ago", _as_of(30), AS_OF_SECONDS),
    Page("  as of a year ago", _as_of(365), AS_OF_SECONDS),
    Page("  as of two years ago", _as_of(729), AS_OF_SECONDS),
    Page("card of a client, its accounts", lambda client: f"/admin/client/card/{client}/?tab=accounts"),
    Page("operations on accounts", lambda _: "/admin/entry/"),
    Page("movement of money", lambda _: "/admin/cashflow/"),
    Page("debtors", lambda _: "/admin/debtor/"),
)


def accounts(place: Place) -> Iterator[str]:
    """Lines of the report, PostgreSQL only."""
    accounts, entries = ledger_sizes()
    with place.postgresql(f"kontora_bench_books_{accounts}_{entries}") as url:
        books = write_books(url, place.home, accounts, entries)
        yield f"\nPostgreSQL, {books.accounts:,} client accounts, {books.entries:,} entries: median of {TURNS}, slowest"
        with Contestant(kontora.site, url, place.home, books.session_user) as site:
            for page in PAGES:
                path = page.path(books.client)
                turns = [site.run("get", path)]
                _, is_past, day = path.partition(f"{AS_OF}=")
                if is_past and f'value="{day}"' not in turns[0].content.decode():
                    raise SystemExit(f"{page.name}: the page does not say that it is of {day}")
                if turns[0].seconds < SLOW:  # else nobody waits for it once more
                    turns = [site.run("get", path) for _ in range(TURNS)]
                seconds = [turn.seconds for turn in turns]
                checks: list[Check] = []
                if page.seconds is not None:
                    checks = [within("ms", median(seconds) * 1000, at_most=page.seconds * 1000)]
                figures = f"{median(seconds) * 1000:.0f} ms, {max(seconds) * 1000:.0f} ms, {turns[-1].queries} SQL"
                yield figure_line(page.name, figures, *checks)
