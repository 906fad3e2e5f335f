"""Relative dates of filters: "this month", "last 7 days". Weeks begin on Monday."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from flask_babel import lazy_gettext as _l

# Labels in the order they are offered.
PERIODS: dict[str, Any] = {
    "today": _l("today"),
    "yesterday": _l("yesterday"),
    "tomorrow": _l("tomorrow"),
    "this_week": _l("this week"),
    "last_week": _l("last week"),
    "next_week": _l("next week"),
    "this_month": _l("this month"),
    "last_month": _l("last month"),
    "next_month": _l("next month"),
    "this_quarter": _l("this quarter"),
    "this_year": _l("this year"),
    "last_year": _l("last year"),
    "last_7_days": _l("last 7 days"),
    "last_30_days": _l("last 30 days"),
    "next_7_days": _l("next 7 days"),
    "next_30_days": _l("next 30 days"),
}


def days_of(period: str, today: date) -> tuple[date, date]:
    """First and last day of a period of PERIODS, seen from `today`. Raises KeyError for an unknown one."""
    return _DAYS[period](today)


def _shifted(days: int, length: int = 1) -> Callable[[date], tuple[date, date]]:
    """`length` days from `days` after today."""
    return lambda today: (today + timedelta(days), today + timedelta(days + length - 1))


def _week(shift: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: _shifted(7 * shift - today.weekday(), 7)(today)


def _months(shift: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: _from_month(today.year * 12 + today.month - 1 + shift, 1)


def _from_month(month: int, length: int) -> tuple[date, date]:
    """Days of `length` months from the month counted from the year 0."""
    return _first_of(month), _first_of(month + length) - timedelta(1)


def _first_of(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


_DAYS: dict[str, Callable[[date], tuple[date, date]]] = {
    "today": _shifted(0),
    "yesterday": _shifted(-1),
    "tomorrow": _shifted(1),
    "this_week": _week(0),
    "last_week": _week(-1),
    "next_week": _week(1),
    "this_month": _months(0),
    "last_month": _months(-1),
    "next_month": _months(1),
    "this_quarter": lambda today: _from_month(today.year * 12 + (today.month - 1) // 3 * 3, 3),
    "this_year": lambda today: _from_month(today.year * 12, 12),
    "last_year": lambda today: _from_month((today.year - 1) * 12, 12),
    "last_7_days": _shifted(-6, 7),
    "last_30_days": _shifted(-29, 30),
    "next_7_days": _shifted(0, 7),
    "next_30_days": _shifted(0, 30),
}
