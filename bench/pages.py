"""The public page of a bill, beside a bare Flask view."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from bench import bare, kontora
from bench.contestants import Contestant
from bench.databases import Ground
from bench.duels import duel
from bench.report import duel_head, duel_line

TURNS = 101


def bill_page(ground: Ground) -> Iterator[str]:
    """One process, one at a time, fifty bills in turn, nobody signed in."""
    tokens = ground.full.tokens
    our_tokens, their_tokens = itertools.cycle(tokens), itertools.cycle(tokens)
    with (
        Contestant(kontora.site, ground.full_url, ground.home, None) as ours,
        Contestant(bare.page, ground.full_url) as theirs,
    ):
        result = duel(
            lambda: ours.run("get", f"/pay/{next(our_tokens)}"),
            lambda: theirs.run("get", f"/pay/{next(their_tokens)}"),
            turns=TURNS,
        )
    yield duel_head(ground.name)
    yield duel_line("bill page, one process", "bare Flask: one SELECT, one template", result, unit="/s")
