"""Reads of the audit log: what people have done, by day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from crm.audit.models import AuditAction, AuditEntry
from crm.db import day_of, db


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
    day = day_of(AuditEntry.at, begin, end, there).label("day")
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
