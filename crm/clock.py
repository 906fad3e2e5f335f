"""The only source of time. Tests move it; nothing else calls datetime.now()."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from typing import Protocol
from zoneinfo import ZoneInfo


class HasTimeZone(Protocol):
    """A branch, as far as time goes."""

    @property
    def time_zone(self) -> str: ...


_source: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731


def now() -> datetime:
    """This instant, aware, in UTC."""
    return _source()


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
    """Hold the clock at `instant` (tests and demo data)."""
    if instant.tzinfo is None:
        raise ValueError("the clock takes aware datetimes only")
    global _source
    before, _source = _source, lambda: instant
    try:
        yield
    finally:
        _source = before
