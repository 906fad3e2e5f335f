"""Figures as lines of one table."""

from __future__ import annotations

from bench.duels import Duel

_COLUMNS = f"{'':32}{'Kontora':>12}{'peer':>12}{'speed':>8}  {'quartiles':13}{'SQL':>8}  peer is"


def head(database: str, bills: int) -> str:
    return f"\n{database}, {bills:,} bills\n{_COLUMNS}"


def line(name: str, peer: str, result: Duel, *, unit: str = "ms") -> str:
    """unit: ms, s, or /s for as many a second as there are done. SQL statements of a bare driver are not counted."""
    spread = f"{result.low:.2f}–{result.high:.2f}"
    sent = f"{result.our_outcome.queries} : {result.their_outcome.queries or '–'}"
    ours, theirs = _shown(result.ours, unit), _shown(result.theirs, unit)
    return f"{name:32}{ours:>12}{theirs:>12}{'×' + format(result.speed, '.2f'):>8}  {spread:13}{sent:>8}  {peer}"


def plain_line(name: str, ours: str, theirs: str, peer: str) -> str:
    """Figures that were not timed."""
    return f"{name:32}{ours:>12}{theirs:>12}{'':31}  {peer}"


def _shown(seconds: float, unit: str) -> str:
    return {"ms": f"{seconds * 1000:.1f} ms", "s": f"{seconds:.1f} s", "/s": f"{1 / seconds:.0f} /s"}[unit]
