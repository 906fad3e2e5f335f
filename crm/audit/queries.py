"""Reads of the audit log: what people have done, by day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from crm.audit.models import AuditAction, AuditEntry
from crm.db import db


@dataclass(frozen=True)
class StaffDay:
    """What a person did on one day: how many lines of the audit, by action."""

    person_id: int
    day: date
    counts: dict[AuditAction, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def staff_actions(
    first: date, last: date, zone: str, *, narrow: Callable[[Any], Any] = lambda query: query
) -> list[StaffDay]:
    """People's actions from `first` to `last`, days of the time zone `zone`; latest day first. What the system did by
    itself is nobody's. narrow: puts further conditions on the query (the branches of who asks, one person).
    """
    there = ZoneInfo(zone)
    begin = datetime.combine(first, time(0), there).astimezone(UTC)
    end = datetime.combine(last + timedelta(days=1), time(0), there).astimezone(UTC)
    day = _day_of(AuditEntry.at, begin, end, there).label("day")
    query = sa.select(AuditEntry.actor_id, day, AuditEntry.action, sa.func.count()).where(
        AuditEntry.at >= begin, AuditEntry.at < end, AuditEntry.actor_id.is_not(None)
    )
    query = narrow(query).group_by(AuditEntry.actor_id, day, AuditEntry.action)
    found: dict[tuple[date, int], dict[AuditAction, int]] = {}
    for person_id, on, action, count in db.session.execute(query):
        found.setdefault((on, person_id), {})[action] = count
    return [
        StaffDay(person_id, on, counts)
        for (on, person_id), counts in sorted(found.items(), key=lambda item: (-item[0][0].toordinal(), item[0][1]))
    ]


def _day_of(column: Any, begin: datetime, end: datetime, zone: ZoneInfo) -> Any:
    """SQL of the calendar day of an instant in `zone`. SQLite knows no zones: there the offset is written out, one for
    each stretch of the period between two changes of the clock.
    """
    if db.engine.dialect.name != "sqlite":
        return sa.cast(sa.func.timezone(str(zone), column), sa.Date)
    stretches = [(until, _shifted(column, offset)) for until, offset in _offsets(begin, end, zone)]
    *earlier, (_end, latest) = stretches
    return sa.case(*((column < until, day) for until, day in earlier), else_=latest) if earlier else latest


def _shifted(column: Any, offset: timedelta) -> Any:
    seconds = sa.func.substr(column, 1, 19)  # SQLite would round the last half a millisecond up into the next day
    return sa.func.date(seconds, f"{int(offset.total_seconds()):+d} seconds", type_=sa.Date)


def _offsets(begin: datetime, end: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, timedelta]]:
    """(instant it holds until, offset from UTC) of each stretch of a period, to the minute."""
    at = begin
    offset = at.astimezone(zone).utcoffset() or timedelta()
    while at < end:
        following = min(at + timedelta(days=1), end)
        then = following.astimezone(zone).utcoffset() or timedelta()
        if then != offset:
            low, high = at, following
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
            yield high.replace(second=0, microsecond=0), offset
            offset = then
        at = following
    yield end, offset
