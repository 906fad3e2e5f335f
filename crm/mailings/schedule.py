"""When something is due by the clock: wall-clock moments of a place."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from crm import clock
from crm.bills import terms
from crm.mailings.models import MailingRule, Periodicity, Term

# Any two months hold a planned day of every rule.
_LOOK_BACK_DAYS = 62


@dataclass(frozen=True)
class Days:
    """On which days: every one, these of the week (0 Monday to 6 Sunday), or this one of the month (1 to 31)."""

    periodicity: Periodicity
    weekdays: tuple[int, ...] = ()
    month_day: int | None = None

    def __contains__(self, day: date) -> bool:
        """Day 29–31 of a shorter month is its last day."""
        if self.periodicity is Periodicity.DAILY:
            return True
        if self.periodicity is Periodicity.WEEKLY:
            return day.weekday() in self.weekdays
        assert self.month_day is not None
        return day.day == min(self.month_day, monthrange(day.year, day.month)[1])


def latest_moment(days: Days, at: time, place: clock.HasTimeZone, *, now: datetime) -> datetime:
    """The latest moment (UTC) not after `now` that is `at` on one of the days; daylight saving moves no day twice."""
    today = clock.local(now, place).date()
    for back in range(_LOOK_BACK_DAYS):
        day = today - timedelta(days=back)
        if day in days and (moment := clock.at(day, at, place)) <= now:
            return moment
    raise AssertionError("no planned day in two months")


def _days(rule: MailingRule) -> Days:
    return Days(rule.periodicity, () if rule.weekday is None else (rule.weekday,), rule.month_day)


def falls_on(rule: MailingRule, day: date) -> bool:
    """Is `day`, at the branch, one of the rule's days?"""
    return day == rule.once_on if rule.once_on is not None else day in _days(rule)


def latest_planned(rule: MailingRule, *, now: datetime) -> datetime | None:
    """The latest moment not after `now` the rule is planned for (UTC); None while that of a single day is to come."""
    if rule.once_on is None:
        return latest_moment(_days(rule), rule.send_time, rule.branch, now=now)
    moment = clock.at(rule.once_on, rule.send_time, rule.branch)
    return moment if moment <= now else None


def month_of(day: date) -> tuple[date, date]:
    """First and last day of the month `day` lies in."""
    return day.replace(day=1), day.replace(day=monthrange(day.year, day.month)[1])


# What a bill by hand calls them.
_BY_HAND = {
    Term.UNLIMITED: terms.Term.UNLIMITED,
    Term.DAYS_3: terms.Term.DAYS_3,
    Term.DAYS_5: terms.Term.DAYS_5,
    Term.DAYS_6: terms.Term.DAYS_6,
    Term.WEEK_1: terms.Term.WEEK,
    Term.WEEKS_2: terms.Term.WEEKS_2,
    Term.MONTH_END: terms.Term.MONTH_END,
    Term.NEXT_MONTH_END: terms.Term.NEXT_MONTH_END,
}


def last_payable_day(term: Term, issued_on: date, *, days: int | None = None) -> date | None:
    """The last day a bill issued on `issued_on` may be paid, None: any; as of a bill by hand: a term of days ends so
    many days after its first. days: of Term.DAYS.
    """
    if term is Term.DAYS:
        assert days is not None
        return issued_on + timedelta(days=days)
    return _BY_HAND[term].until(issued_on)
