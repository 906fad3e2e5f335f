"""Usual terms of payment, from the day a bill can be paid from."""

from __future__ import annotations

from datetime import date, timedelta

from flask_babel import lazy_gettext as _l

from crm.db import LabelEnum


class Term(LabelEnum):
    UNLIMITED = "unlimited", _l("without a limit of the term")
    DAYS_3 = "days_3", _l("3 days")
    DAYS_5 = "days_5", _l("5 days")
    DAYS_6 = "days_6", _l("6 days")
    WEEK = "week", _l("1 week")
    WEEKS_2 = "weeks_2", _l("2 weeks")
    MONTH_END = "month_end", _l("last day of the current month")
    NEXT_MONTH_END = "next_month_end", _l("last day of the next month")

    def until(self, first: date) -> date | None:
        """The last day of the term that begins on `first`; None when it has none. A term of days ends so many days
        after its first; one to the end of the month may be of a single day.
        """
        if self is Term.UNLIMITED:
            return None
        if self in _DAYS:
            return first + timedelta(days=_DAYS[self])
        end = month_end(first)
        return end if self is Term.MONTH_END else month_end(end + timedelta(days=1))


_DAYS = {Term.DAYS_3: 3, Term.DAYS_5: 5, Term.DAYS_6: 6, Term.WEEK: 7, Term.WEEKS_2: 14}


def month_end(day: date) -> date:
    """Last day of the month `day` is in."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def farthest_end(today: date) -> date:
    """The last day a bill's period may end on: two years ahead. A later one is a slip of the hand."""
    is_leap_day = (today.month, today.day) == (2, 29)
    return (today - timedelta(days=1) if is_leap_day else today).replace(year=today.year + 2)
