"""The only source of time. Tests move it; nothing else calls datetime.now()."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Protocol
from zoneinfo import ZoneInfo


@dataclass(frozen=True, eq=False)
class _Held:
    instant: datetime


class HasTimeZone(Protocol):
    """A branch, as far as time goes."""

    @property
    def time_zone(self) -> str: ...


_held: list[_Held] = []


def now() -> datetime:
    """This instant, aware, in UTC."""
    return _held[-1].instant if _held else datetime.now(UTC)


def today(place: HasTimeZone) -> date:
    """The calendar day it is now at `place`."""
    return now().astimezone(ZoneInfo(place.time_zone)).date()


def local(instant: datetime, place: HasTimeZone) -> datetime:
    """The same instant on the wall clock of `place`."""
    return instant.astimezone(ZoneInfo(place.time_zone))


def at(day: date, moment: time, place: HasTimeZone) -> datetime:
    """UTC instant of a wall-clock moment at `place`; a moment skipped by DST moves forward with the clock."""
    return datetime.combine(day, moment, ZoneInfo(place.time_zone)).astimezone(UTC)


@contextlib.contextmanager
def frozen(instant: datetime) -> Iterator[None]:
    """Hold the clock of this process at `instant` (tests and demo data); whoever held it last is obeyed.

    Threads may hold it and let go in any order: each takes back its own.
    """
    if instant.tzinfo is None:
        raise ValueError("the clock takes aware datetimes only")
    held = _Held(instant)
    _held.append(held)
    try:
        yield
    finally:
        _held.remove(held)


def is_held() -> bool:
    """Whether somebody holds the clock."""
    return bool(_held)
