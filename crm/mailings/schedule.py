"""When a rule is due: wall-clock moments of its branch."""

from __future__ import annotations

from calendar import monthrange
from datetime import date, datetime, timedelta

from crm import clock
from crm.mailings.models import MailingRule, Periodicity

# Any two months hold a planned day of every rule.
_LOOK_BACK_DAYS = 62


def falls_on(rule: MailingRule, day: date) -> bool:
    """Is `day`, at the branch, one of the rule's days? Day 29–31 of a shorter month is its last day."""
    if rule.periodicity is Periodicity.DAILY:
        return True
    if rule.periodicity is Periodicity.WEEKLY:
        return day.weekday() == rule.weekday
    assert rule.month_day is not None
    return day.day == min(rule.month_day, monthrange(day.year, day.month)[1])


def latest_planned(rule: MailingRule, *, now: datetime) -> datetime:
    """The latest moment not after `now` the rule is planned for (UTC); daylight saving moves no day twice."""
    today = clock.local(now, rule.branch).date()
    for back in range(_LOOK_BACK_DAYS):
        day = today - timedelta(days=back)
        if falls_on(rule, day) and (moment := clock.at(day, rule.send_time, rule.branch)) <= now:
            return moment
    raise AssertionError("a rule without a planned day in two months")


def month_of(day: date) -> tuple[date, date]:
    """First and last day of the month `day` lies in."""
    return day.replace(day=1), day.replace(day=monthrange(day.year, day.month)[1])
