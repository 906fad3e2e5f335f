"""When lessons planned at once are: a rule, and the days it means. No database, no clock."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from itertools import count as counting
from itertools import islice
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_pgettext as _lp

from crm.db import LabelEnum
from crm.errors import DomainError

# Of one series: ten years of lessons on weekdays are 2 600.
MAX_LESSONS = 10_000
MAX_INTERVAL = 7
MAX_MINUTES = 24 * 60
_FIRST, _END = date(1990, 1, 1), date(2200, 1, 1)


class RepeatUnit(LabelEnum):
    """What the lessons of a series are apart from each other, taken `interval` times."""

    DAY = "day", _lp("periodicity", "Day")
    WEEK = "week", _lp("periodicity", "Week")
    MONTH = "month", _lp("periodicity", "Month")


@dataclass(frozen=True)
class Recurrence:
    """Lessons of `minutes` at `time`, from `starts_on` on, every `interval` days, weeks or months, up to `until`
    (included) or `count` of them: one of the two is given.

    weekdays: 0 Monday to 6 Sunday. Of a weekly rule: its days (that of starts_on by default), weeks counted from the
    one starts_on is in; of a daily one: the other days are left out; a monthly one has none. A month without the day
    has it on its last one. Raises DomainError beside the field that is wrong.
    """

    starts_on: date
    time: time
    minutes: int
    unit: RepeatUnit = RepeatUnit.WEEK
    interval: int = 1
    weekdays: tuple[int, ...] = ()
    until: date | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if not _FIRST <= self.starts_on < _END:
            raise DomainError("day_invalid", _("Enter a day that can be meant."), "starts_on")
        if not 0 < self.minutes <= MAX_MINUTES:
            raise DomainError("minutes_invalid", _("A lesson lasts from 1 minute to 24 hours."), "minutes")
        if not 1 <= self.interval <= MAX_INTERVAL:
            raise DomainError("interval_invalid", _("Enter an interval from 1 to 7."), "interval")
        if not set(self.weekdays) <= set(range(7)):
            raise DomainError("weekdays_invalid", _("Choose days of the week."), "weekdays")
        if self.weekdays and self.unit is RepeatUnit.MONTH:
            raise DomainError(
                "weekdays_of_month",
                _("Days of the week are chosen for a rule by days or weeks: a monthly one goes by its first day."),
                "weekdays",
            )
        if (self.until is None) == (self.count is None):
            raise DomainError(
                "end_required", _("Enter the last day or the number of lessons, one of the two."), "count"
            )
        if self.count is not None and not 1 <= self.count <= MAX_LESSONS:
            raise DomainError("count_invalid", _("Enter a number of lessons from 1 to 10 000."), "count")
        if self.until is not None and not self.starts_on <= self.until < _END:
            raise DomainError("until_invalid", _("The last day is not before the first one."), "until")
        found = len(list(islice(self._all_days(), MAX_LESSONS + 1)))
        if found > MAX_LESSONS:
            raise DomainError("too_many", _("These would be more than 10 000 lessons: choose an earlier day."), "until")
        if not found:
            raise DomainError("no_days", _("There is no such day of the week in this time."), "weekdays")
        if self.count is not None and found < self.count:
            raise DomainError("count_invalid", _("So many lessons would go on beyond the year 2199."), "count")

    def days(self) -> list[date]:
        """The days of the lessons, in order, each once."""
        return list(self._all_days())

    def _all_days(self) -> Iterator[date]:
        """By `until`, by `count`, or up to the end of all days there are."""
        steps = {RepeatUnit.DAY: self._daily, RepeatUnit.WEEK: self._weekly, RepeatUnit.MONTH: self._monthly}
        last = _END - timedelta(days=1) if self.until is None else self.until
        for day in islice(steps[self.unit](), self.count):
            if day > last:
                return
            yield day

    def _daily(self) -> Iterator[date]:
        """Without an end where the weekdays let one through at all: an interval of 7 meets one weekday only."""
        met = {(self.starts_on.weekday() + step * self.interval) % 7 for step in range(7)}
        if self.weekdays and met.isdisjoint(self.weekdays):
            return
        for step in counting():
            day = self.starts_on + timedelta(days=step * self.interval)
            if not self.weekdays or day.weekday() in self.weekdays:
                yield day

    def _weekly(self) -> Iterator[date]:
        monday = self.starts_on - timedelta(days=self.starts_on.weekday())
        weekdays = sorted(set(self.weekdays)) or [self.starts_on.weekday()]
        for step in counting():
            for weekday in weekdays:
                day = monday + timedelta(days=step * self.interval * 7 + weekday)
                if day >= self.starts_on:
                    yield day

    def _monthly(self) -> Iterator[date]:
        for step in counting():
            months = self.starts_on.month - 1 + step * self.interval
            year, month = self.starts_on.year + months // 12, months % 12 + 1
            yield date(year, month, min(self.starts_on.day, monthrange(year, month)[1]))

    def as_json(self) -> dict[str, Any]:
        """As LessonSeries.rule keeps it."""
        return {
            "starts_on": self.starts_on.isoformat(),
            "time": self.time.isoformat("minutes"),
            "minutes": self.minutes,
            "unit": self.unit.value,
            "interval": self.interval,
            "weekdays": list(self.weekdays),
            "until": self.until.isoformat() if self.until is not None else None,
            "count": self.count,
        }
