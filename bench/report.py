"""Figures as lines of one table, each with PASS or MISS where a limit is set for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.duels import Duel

if TYPE_CHECKING:
    from bench.grids import Measured

_DUEL = f"{'':34}{'Kontora':>12}{'peer':>12}{'speed':>8}  {'quartiles':13}{'SQL':>8}  peer is"
_GRID = f"{'':34}{'few':>9}{'all':>10}{'flat':>7}{'stock':>11}{'faster':>8}{'SQL':>5}"


@dataclass(frozen=True)
class Check:
    """One figure against its limit."""

    name: str
    figure: float
    limit: str
    is_kept: bool


@dataclass(frozen=True)
class Verdict:
    """PASS, or MISS with the limits that were not kept."""

    checks: list[Check]

    @property
    def is_pass(self) -> bool:
        return all(check.is_kept for check in self.checks)

    def __str__(self) -> str:
        missed = [f"{check.name} {check.figure:.4g}, limit {check.limit}" for check in self.checks if not check.is_kept]
        return f"MISS {'; '.join(missed)}" if missed else "PASS" if self.checks else ""


def within(name: str, figure: float, *, at_most: float | None = None, at_least: float | None = None) -> Check:
    """A figure held to one limit."""
    if at_most is not None:
        return Check(name, figure, f"≤ {at_most:g}", figure <= at_most)
    assert at_least is not None
    return Check(name, figure, f"≥ {at_least:g}", figure >= at_least)


def figure_line(name: str, figures: str, *checks: Check) -> str:
    """A figure of its own, no peer's."""
    return f"{name:34}{figures:50}{Verdict(list(checks))}".rstrip()


def grid_head(database: str, entity: str, few: int, all_rows: int) -> str:
    return f"\n{database}, grid of {entity}s: {few:,} and {all_rows:,} rows\n{_GRID}"


def grid_line(measured: Measured, *, is_postgresql: bool) -> str:
    """Medians among few rows and among all, and of the peer among all."""
    peer = f"{measured.stock * 1000:.0f} ms" if measured.stock is not None else "–"
    faster = f"×{measured.stock / measured.full:.3g}" if measured.stock is not None else ""
    few, every = f"{measured.small * 1000:.1f}", f"{measured.full * 1000:.1f} ms"
    flat = f"×{measured.full / measured.small:.2f}"
    verdict = measured.verdict(is_postgresql=is_postgresql)
    return f"{measured.name:34}{few:>9}{every:>10}{flat:>7}{peer:>11}{faster:>8}{measured.queries[1]:>5}  {verdict}"


def duel_head(database: str) -> str:
    return f"\n{database}\n{_DUEL}"


def duel_line(name: str, peer: str, result: Duel, *checks: Check, unit: str = "ms") -> str:
    """unit: ms, s, or /s for as many a second as there are done. SQL statements of a bare driver are not counted."""
    spread = f"{result.low:.2f}–{result.high:.2f}"
    sent = f"{result.our_outcome.queries} : {result.their_outcome.queries or '–'}"
    ours, theirs = _shown(result.ours, unit), _shown(result.theirs, unit)
    speed = f"×{result.speed:.2f}"
    return f"{name:34}{ours:>12}{theirs:>12}{speed:>8}  {spread:13}{sent:>8}  {peer}  {Verdict(list(checks))}".rstrip()


def plain_line(name: str, ours: str, theirs: str, peer: str, *checks: Check) -> str:
    """Figures that were not timed."""
    return f"{name:34}{ours:>12}{theirs:>12}{'':31}  {peer}  {Verdict(list(checks))}".rstrip()


def _shown(seconds: float, unit: str) -> str:
    return {"ms": f"{seconds * 1000:.1f} ms", "s": f"{seconds:.1f} s", "/s": f"{1 / seconds:.0f} /s"}[unit]


def kilobytes(size: float) -> str:
    return f"{size / 1000:.0f} kB"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
