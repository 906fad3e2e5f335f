"""What people did, by day: counted in the day of the place, on both databases."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import insert

from crm.audit.models import AuditAction, AuditEntry
from crm.audit.queries import StaffDay, staff_actions
from crm.db import db, transaction
from tests.factories import Network


def noted(user: Any, *instants: str, action: AuditAction = AuditAction.UPDATE) -> None:
    """Audit lines of `user` at instants of UTC."""
    line = {"actor_id": user.id if user else None, "actor_name": "", "origin": "cli", "action": action, "changes": {}}
    with transaction():
        db.session.execute(
            insert(AuditEntry),
            [line | {"at": datetime.fromisoformat(at).replace(tzinfo=UTC), "entity": "client"} for at in instants],
        )


def test_a_day_begins_at_midnight_of_the_place(network: Network) -> None:
    noted(
        network.owner, "2026-09-01 20:59:59", "2026-09-01 21:00:00", "2026-09-02 20:59:59.999999", "2026-09-02 21:00:00"
    )
    found = staff_actions(date(2026, 9, 2), date(2026, 9, 2), "Europe/Moscow")
    assert found == [StaffDay(network.owner.id, date(2026, 9, 2), {AuditAction.UPDATE: 2})]


def test_the_clock_changes_within_the_period(network: Network) -> None:
    """Berlin: UTC+1 until 29 March 2026, 01:00 UTC; UTC+2 until 25 October, 01:00 UTC."""
    noted(network.owner, "2026-03-28 22:59:59", "2026-03-28 23:00:00", "2026-03-29 21:59:59", "2026-03-29 22:00:00")
    noted(network.owner, "2026-10-25 22:59:59", "2026-10-25 23:00:00", "2026-10-24 22:00:00", "2026-10-24 21:59:59")
    found = staff_actions(date(2026, 3, 28), date(2026, 10, 26), "Europe/Berlin")
    assert {day.day: day.total for day in found} == {
        date(2026, 3, 28): 1,
        date(2026, 3, 29): 2,
        date(2026, 3, 30): 1,
        date(2026, 10, 24): 1,
        date(2026, 10, 25): 2,
        date(2026, 10, 26): 1,
    }


def test_people_and_actions_are_told_apart_and_the_system_is_nobody(network: Network) -> None:
    at = "2026-09-01 12:00:00"
    noted(network.owner, at, at)
    noted(network.owner, at, action=AuditAction.LOGIN)
    noted(network.director, at, action=AuditAction.EXPORT)
    noted(None, at)
    found = staff_actions(date(2026, 9, 1), date(2026, 9, 1), "Europe/Moscow")
    assert [(day.person_id, day.counts, day.total) for day in found] == [
        (network.owner.id, {AuditAction.UPDATE: 2, AuditAction.LOGIN: 1}, 3),
        (network.director.id, {AuditAction.EXPORT: 1}, 1),
    ]


def test_latest_day_first(network: Network) -> None:
    noted(network.owner, "2026-09-01 12:00:00", "2026-09-03 12:00:00", "2026-09-02 12:00:00")
    found = staff_actions(date(2026, 9, 1), date(2026, 9, 3), "Europe/Moscow")
    assert [day.day.day for day in found] == [3, 2, 1]


def test_days_without_actions_are_none(network: Network) -> None:
    assert staff_actions(date(2026, 1, 1), date(2026, 1, 31), "Europe/Moscow") == []
