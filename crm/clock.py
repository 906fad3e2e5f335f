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


# Those who hold the clock, the last to be obeyed.
_sources: list[Callable[[], datetime]] = []


def now() -> datetime:
    """This instant, aware, in UTC."""
    return _sources[-1]() if _sources else datetime.now(UTC)


def today(place: HasTimeZone) -> date:
    """The calendar day it is now at `place`."""
    return now().astimezone(ZoneInfo(place.time_zone)).date()


def local(instant: datetime, place: HasTimeZone) -> datetime:
    """The same instant on the wall clock of `place`."""
    return instant.astimezone(ZoneInfo(place.time_zone))


def at(day: date, moment: time, place: HasTimeZone) -> datetime:
    """UTC instant of a wall-clock moment at `place`; a moment skipped by DST moves forward with the clock."""
    return datetime.combine(day, moment, ZoneInfo(place.time_zone)).astimezone(UTC)


def frozen(instant: datetime) -> contextlib.AbstractContextManager[None]:
    """Hold the clock of this process at `instant` (tests and demo data)."""
    if instant.tzinfo is None:
        raise ValueError("the clock takes aware datetimes only")
    return driven_by(lambda: instant)


@contextlib.contextmanager
def driven_by(source: Callable[[], datetime]) -> Iterator[None]:
    """It is what `source` says, an aware instant, whoever asks in this process. Threads may begin and end such blocks
    in any order: each takes back its own, and the one begun last is obeyed.
    """
    _sources.append(source)
    try:
        yield
    finally:
        _sources.remove(source)


def is_held() -> bool:
    """Whether the clock is another one than the machine's."""
    return bool(_sources)
