"""The days a rule of repetition means."""

from __future__ import annotations

import json
from calendar import monthrange
from datetime import date, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.errors import DomainError
from crm.schedule.recurrence import Recurrence, RepeatUnit

TUESDAY = date(2026, 12, 1)


def rule(**changes: Any) -> Recurrence:
    facts = {"starts_on": TUESDAY, "time": time(10), "minutes": 60, "count": 3}
    if "until" in changes:
        facts["count"] = None
    return Recurrence(**{**facts, **changes})


rules = st.builds(
    rule,
    starts_on=st.dates(date(2000, 1, 1), date(2060, 1, 1)),
    unit=st.sampled_from(RepeatUnit),
    interval=st.integers(1, 7),
    count=st.integers(1, 200),
)


@pytest.mark.spec("C34")
@pytest.mark.parametrize(
    ("changes", "days"),
    [
        ({"unit": RepeatUnit.DAY}, ["12-01", "12-02", "12-03"]),
        ({"unit": RepeatUnit.WEEK}, ["12-01", "12-08", "12-15"]),
        ({"unit": RepeatUnit.MONTH, "count": 1}, ["12-01"]),
        ({"unit": RepeatUnit.DAY, "interval": 2, "until": date(2026, 12, 6)}, ["12-01", "12-03", "12-05"]),
        ({"unit": RepeatUnit.DAY, "weekdays": (5, 6)}, ["12-05", "12-06", "12-12"]),
    ],
)
def test_lessons_repeat_by_day_week_and_month(changes: Any, days: list[str]) -> None:
    assert [f"{day:%m-%d}" for day in rule(**changes).days()] == days


@pytest.mark.spec("C36")
def test_weeks_are_counted_from_the_one_the_first_day_is_in() -> None:
    found = rule(weekdays=(0, 3), interval=2, count=4).days()
    assert found == [date(2026, 12, 3), date(2026, 12, 14), date(2026, 12, 17), date(2026, 12, 28)]


def test_a_month_without_the_day_has_it_on_its_last_one() -> None:
    found = rule(starts_on=date(2027, 1, 31), unit=RepeatUnit.MONTH, count=5).days()
    assert [f"{day:%d.%m}" for day in found] == ["31.01", "28.02", "31.03", "30.04", "31.05"]
    leap = rule(starts_on=date(2028, 1, 30), unit=RepeatUnit.MONTH, count=2).days()
    assert leap[1] == date(2028, 2, 29)


@pytest.mark.spec("C35")
@pytest.mark.parametrize("interval", [-1, 0, 8])
def test_an_interval_out_of_one_to_seven_is_refused(interval: int) -> None:
    with pytest.raises(DomainError) as caught:
        rule(interval=interval)
    assert caught.value.field == "interval"
    assert len({rule(interval=allowed).days()[1] for allowed in range(1, 8)}) == 7


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"count": None}, "count"),
        ({"count": 0}, "count"),
        ({"count": 10_001}, "count"),
        ({"unit": RepeatUnit.MONTH, "interval": 7, "count": 9_000}, "count"),
        ({"count": 3, "until": TUESDAY}, "count"),
        ({"until": date(2026, 11, 30)}, "until"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 24 * 60 + 1}, "minutes"),
        ({"weekdays": (7,)}, "weekdays"),
        ({"weekdays": (1,), "unit": RepeatUnit.MONTH}, "weekdays"),
        ({"weekdays": (2,), "until": TUESDAY}, "weekdays"),
        ({"weekdays": (2,), "unit": RepeatUnit.DAY, "interval": 7}, "weekdays"),
        ({"starts_on": date(1066, 10, 14)}, "starts_on"),
        ({"unit": RepeatUnit.DAY, "until": date(2199, 1, 1)}, "until"),
    ],
)
def test_what_is_no_rule_is_refused_beside_its_field(changes: Any, field: str) -> None:
    facts = {"starts_on": TUESDAY, "time": time(10), "minutes": 60, "count": None if "until" in changes else 3}
    with pytest.raises(DomainError) as caught:
        Recurrence(**{**facts, **changes})
    assert caught.value.field == field


@pytest.mark.spec("C37")
@given(rules)
def test_days_are_as_many_as_asked_for_in_order_from_the_first(found: Recurrence) -> None:
    days = found.days()
    assert len(days) == found.count
    assert days == sorted(set(days))
    assert days[0] == found.starts_on


@given(rules)
def test_a_rule_by_its_last_day_means_the_same_days(found: Recurrence) -> None:
    days = found.days()
    by_end = rule(starts_on=found.starts_on, unit=found.unit, interval=found.interval, until=days[-1])
    assert by_end.days() == days


@given(rules, st.sets(st.integers(0, 6)))
def test_distances_are_of_the_unit(found: Recurrence, weekdays: set[int]) -> None:
    for before, after in zip(found.days(), found.days()[1:], strict=False):
        if found.unit is RepeatUnit.MONTH:
            months = (after.year - before.year) * 12 + after.month - before.month
            assert months == found.interval
            assert after.day == min(found.starts_on.day, monthrange(after.year, after.month)[1])
        else:
            step = found.interval * (7 if found.unit is RepeatUnit.WEEK else 1)
            assert after - before == timedelta(days=step)


@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.integers(1, 7), st.sets(st.integers(0, 6), min_size=1))
def test_weekly_days_are_the_chosen_ones_of_every_nth_week(start: date, interval: int, weekdays: set[int]) -> None:
    days = rule(starts_on=start, interval=interval, weekdays=tuple(weekdays), count=60).days()
    first = start - timedelta(days=start.weekday())
    expected = [
        day
        for number in range(60 * 7 * 8)
        if (day := first + timedelta(days=number)) >= start
        and day.weekday() in weekdays
        and (day - first).days // 7 % interval == 0
    ]
    assert days == expected[:60]


def test_a_rule_is_kept_as_json() -> None:
    found = rule(weekdays=(0, 3), until=date(2027, 1, 31)).as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["time"], found["unit"], found["weekdays"], found["until"]) == ("10:00", "week", [0, 3], "2027-01-31")
