"""Grid pages: among few rows, among all, and stock Flask-Admin's page of the same rows among all."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from bench import kontora, stock
from bench.contestants import Contestant, Outcome
from bench.databases import Ground
from bench.kontora import Sample
from bench.report import Verdict, grid_head, grid_line, within
from bench.sizes import FASTER_AT_DEPTH, FASTER_AT_FIRST, FLATNESS, PAGE_SECONDS

TURNS = 9
STOCK_SECONDS = 2.0  # a slow peer is asked until its time is over, once at least
PAGE_SIZE = 50
DEEP_BY_NUMBER = 199  # Kontora numbers 200 pages; that one is the last of ten thousand rows, and costs a query less


@dataclass(frozen=True)
class Case:
    """A page. query: Kontora's, as asked of a sample; stock: the peer's, None where it has no such page; faster: how
    many times faster than the peer it must be, if at all.
    """

    name: str
    query: Callable[[Sample], str]
    stock: str | None = None
    faster: float | None = None


@dataclass(frozen=True)
class Measured:
    """Median seconds; queries: SQL statements of Kontora's page among few and among all."""

    name: str
    small: float
    full: float
    stock: float | None
    queries: tuple[int, int]
    faster: float | None

    def verdict(self, *, is_postgresql: bool) -> Verdict:
        checks = [within("flat", self.full / self.small, at_most=FLATNESS)]
        if is_postgresql:
            checks.append(within("ms", self.full * 1000, at_most=PAGE_SECONDS * 1000))
        if self.stock is not None and self.faster is not None:
            checks.append(within("faster", self.stock / self.full, at_least=self.faster))
        checks.append(within("SQL", abs(self.queries[1] - self.queries[0]), at_most=0))
        return Verdict(checks)


def grids(ground: Ground) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where the contestants show different rows."""
    with (
        Contestant(kontora.site, ground.small_url, ground.home, ground.small.session_user) as small,
        Contestant(kontora.site, ground.full_url, ground.home, ground.full.session_user) as full,
        Contestant(stock.site, ground.full_url) as theirs,
    ):
        for entity, rows in (
            ("bill", (ground.small.bills, ground.full.bills)),
            ("client", (ground.small.clients, ground.full.clients)),
        ):
            yield grid_head(ground.name, entity, *rows)
            bench = _Bench(ground, entity, small, full, theirs)
            for case in _plain_cases(entity, ground.full):
                yield grid_line(bench.measure(case), is_postgresql=ground.is_postgresql)
            yield from bench.sorted_by_every_column()
            yield grid_line(bench.before_last(), is_postgresql=ground.is_postgresql)


def _plain_cases(entity: str, full: Sample) -> Iterator[Case]:
    """Pages that any grid has; sorting and the page before the last need a look at the page first."""
    rows = full.bills if entity == "bill" else full.clients
    status = "pending" if entity == "bill" else "archived"
    last = (rows - 1) // PAGE_SIZE
    yield Case("first page", lambda _sample: "", "", FASTER_AT_FIRST)
    yield Case("filtered by status", lambda _sample: f"f.status.is={status}", f"flt0_status_equals={status}")
    made = "issued_at" if entity == "bill" else "created_at"
    yield Case("made this month", lambda _sample: f"f.{made}.period=this_month")
    for name, word in full.words.items():
        yield Case(
            f"searched: {name}",
            lambda sample, name=name: f"q={sample.words[name]}",  # type: ignore[misc]
            f"search={word}",
            FASTER_AT_DEPTH,
        )
    # Stock counts pages from 0.
    yield Case(
        f"page {DEEP_BY_NUMBER}",
        lambda _sample: f"page={DEEP_BY_NUMBER}",
        f"page={DEEP_BY_NUMBER - 1}",
    )
    yield Case("last page", lambda _sample: "before=end", f"page={last}", FASTER_AT_DEPTH)


class _Bench:
    def __init__(self, ground: Ground, entity: str, small: Contestant, full: Contestant, theirs: Contestant) -> None:
        self._ground, self._entity = ground, entity
        self._small, self._full, self._theirs = small, full, theirs

    def measure(self, case: Case) -> Measured:
        """One turn of each of ours unmeasured, then in turns; the peer as often as its time allows."""
        ours = (
            lambda: self._small.run("get", self._path(case.query(self._ground.small))),
            lambda: self._full.run("get", self._path(case.query(self._ground.full))),
        )
        for ask in ours:
            ask()
        outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
        theirs: list[Outcome] = []
        for turn in range(TURNS):
            for which in (0, 1) if turn % 2 else (1, 0):
                outcomes[which].append(ours[which]())
            if case.stock is not None and (not theirs or sum(outcome.seconds for outcome in theirs) < STOCK_SECONDS):
                theirs.append(self._theirs.run("get", self._path(case.stock)))
        if theirs:
            self._check_rows(case, outcomes[1][-1].content, theirs[-1].content)
        return Measured(
            case.name,
            median(outcome.seconds for outcome in outcomes[0]),
            median(outcome.seconds for outcome in outcomes[1]),
            median(outcome.seconds for outcome in theirs) if theirs else None,
            (outcomes[0][-1].queries, outcomes[1][-1].queries),
            case.faster,
        )

    def sorted_by_every_column(self) -> Iterator[str]:
        """By each column of the page's head, either way; the slowest is shown, and all that break a limit."""
        page = self._full.run("get", self._path("")).content.decode()
        head = page[page.index("<thead") : page.index("</thead>")]
        columns = list(dict.fromkeys(re.findall(r"[?&;]sort=-?([\w.]+)", head)))
        columns += [] if len(columns) == head.count('scope="col"') else ["id"]
        found = [
            self.measure(Case(f"sorted by {way}{column}", lambda _sample, by=f"{way}{column}": f"sort={by}"))  # type: ignore[misc]
            for column in columns
            for way in ("", "-")
        ]
        slowest = max(found, key=lambda measured: measured.full)
        yield f"  sorted by {len(columns)} of {head.count('scope=')} shown columns, both ways; the slowest:"
        for measured in found:
            if measured is slowest or not measured.verdict(is_postgresql=self._ground.is_postgresql).is_pass:
                yield grid_line(measured, is_postgresql=self._ground.is_postgresql)

    def before_last(self) -> Measured:
        """Two steps back from the end, by the page's own link: a page no number reaches."""
        rows = self._ground.full.bills if self._entity == "bill" else self._ground.full.clients
        steps = {
            sample.session_user + str(sample.bills): link_back(contestant.run("get", self._path("before=end")).content)
            for contestant, sample in ((self._small, self._ground.small), (self._full, self._ground.full))
        }
        return self.measure(
            Case(
                "the page before the last",
                lambda sample: steps[sample.session_user + str(sample.bills)],
                f"page={(rows - 1) // PAGE_SIZE - 1}",
                FASTER_AT_DEPTH,
            )
        )

    def _check_rows(self, case: Case, ours: bytes, theirs: bytes) -> None:
        """Both show the same rows, or, where their order or the ends of their pages differ, as many of them.

        Clients stand by name, and namesakes come as they come; the last page of stock holds the rest of the rows, ours
        the last fifty.
        """
        our_rows, their_rows = shown(ours), shown_by_stock(theirs)
        is_by_id = self._entity == "bill" and "last" not in case.name
        if our_rows != their_rows and (is_by_id or (len(our_rows) < PAGE_SIZE and len(their_rows) < PAGE_SIZE)):
            raise SystemExit(f"{self._entity}, {case.name}: the two pages show different rows")

    def _path(self, query: str) -> str:
        return f"/admin/{self._entity}/?{query}"


def shown(page: bytes) -> set[int]:
    """Ids of the rows of Kontora's page."""
    links = re.findall(r"<a [^>]*data-open[^>]*>", page.decode())
    found = {int(re.findall(r"(\d+)/?\"", link)[0]) for link in links}
    return found


def shown_by_stock(page: bytes) -> set[int]:
    """Ids of the rows of stock Flask-Admin's page."""
    return {int(row_id) for row_id in re.findall(r"/details/\?id=(\d+)", page.decode())}


def link_back(page: bytes) -> str:
    """The query of a page's link to the one before."""
    links = re.findall(r"<a [^>]*rel=\"prev\"[^>]*>", page.decode())
    if not links:
        raise SystemExit("the last page has no link back")
    return html.unescape(re.findall(r"href=\"[^\"?]*\?([^\"]*)\"", links[0])[0])
