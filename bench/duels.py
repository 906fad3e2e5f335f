"""Two contestants at the same work, in turns: what a shared machine does to one it does to the other a moment later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from bench.contestants import Outcome


@dataclass(frozen=True)
class Duel:
    """What `turns` pairs showed. ours, theirs: median seconds; speed: median of (their seconds / our seconds), so that
    2.0 is twice as fast as the peer, and low, high the quartiles around it. The outcomes are the last ones.
    """

    ours: float
    theirs: float
    speed: float
    low: float
    high: float
    our_outcome: Outcome
    their_outcome: Outcome


def duel(ours: Callable[[], Outcome], theirs: Callable[[], Outcome], *, turns: int, is_warm: bool = False) -> Duel:
    """One turn each unmeasured unless they are warm, then `turns` pairs; who begins changes with every pair."""
    if not is_warm:
        last = ours(), theirs()
    pairs: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn % 2:
            last = ours(), theirs()
        else:
            their_outcome = theirs()
            last = ours(), their_outcome
        pairs.append((last[0].seconds, last[1].seconds))
    ratios = [their_seconds / our_seconds for our_seconds, their_seconds in pairs]
    low, speed, high = quantiles(ratios, n=4, method="inclusive") if turns > 1 else ratios * 3
    return Duel(
        ours=median(pair[0] for pair in pairs),
        theirs=median(pair[1] for pair in pairs),
        speed=speed,
        low=low,
        high=high,
        our_outcome=last[0],
        their_outcome=last[1],
    )
