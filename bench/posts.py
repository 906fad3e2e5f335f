"""Posts per second, beside the same INSERTs without the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench import bare, kontora
from bench.contestants import Contestant, Outcome
from bench.databases import Place
from bench.duels import duel
from bench.report import duel_head, duel_line, within
from bench.sizes import POST_SPEED

TURNS = 7
COUNT = 250  # posts of one turn and connection
CONNECTIONS = 4


def posts(place: Place) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where somebody posted less than he was asked to."""
    for system, driver in (("PostgreSQL", "psycopg"), ("SQLite", "sqlite3")):
        with ExitStack() as stack:
            name = "kontora_bench_posts"
            url = stack.enter_context(place.postgresql(name)) if system == "PostgreSQL" else place.sqlite(name)
            kontora.prepare_ledger(url, place.home)
            yield duel_head(f"{system}, top-ups posted, each committed")
            ours = [
                stack.enter_context(Contestant(kontora.cashier, url, place.home, desk)) for desk in range(CONNECTIONS)
            ]
            theirs = [stack.enter_context(Contestant(bare.poster, url)) for _ in ours]
            peer = f"bare INSERTs by {driver}"
            limit = POST_SPEED if system == "PostgreSQL" else 0.0
            for what, skill, desks in (
                ("post(), one connection", "top_up", 1),
                (f"post(), {CONNECTIONS} connections", "top_up", CONNECTIONS),
                ("accounts looked up, too", "fresh_top_up", 1),
            ):
                before = int(ours[0].run("proof").content)
                result = duel(together(ours[:desks], skill), together(theirs[:desks], "top_up"), turns=TURNS)
                posted = int(ours[0].run("proof").content) - before
                if posted != (wanted := 2 * (TURNS + 1) * COUNT * desks):
                    raise SystemExit(f"{what}: {posted} were posted, {wanted} asked for")
                checks = [within("speed", result.speed, at_least=limit)] if limit and skill == "top_up" else []
                each = replace(result, ours=result.ours / COUNT / desks, theirs=result.theirs / COUNT / desks)
                yield duel_line(what, peer, each, *checks, unit="/s")


def together(contestants: Sequence[Contestant], skill: str) -> Callable[[], Outcome]:
    """Each posts COUNT at the same time as the others. The outcome counts the SQL statements of one post."""

    def turn() -> Outcome:
        began = time.perf_counter()
        for contestant in contestants:
            contestant.begin(skill, COUNT)
        outcomes = [contestant.finish() for contestant in contestants]
        seconds = time.perf_counter() - began
        return Outcome(seconds, sum(outcome.queries for outcome in outcomes) // len(outcomes) // COUNT, b"")

    return turn
