"""Time: aware, movable, and a day that belongs to a place."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from types import SimpleNamespace

import pytest

from crm import clock

MOSCOW = SimpleNamespace(time_zone="Europe/Moscow")
SAMARA = SimpleNamespace(time_zone="Europe/Samara")
BERLIN = SimpleNamespace(time_zone="Europe/Berlin")


def test_now_is_aware_utc() -> None:
    assert clock.now().tzinfo is UTC
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_frozen_holds_the_clock_and_lets_go() -> None:
    instant = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with clock.frozen(instant):
        assert clock.now() == instant
        with clock.frozen(instant + timedelta(days=1)):
            assert clock.now() == instant + timedelta(days=1)
        assert clock.now() == instant
    assert clock.now() > instant


def test_frozen_lets_go_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), clock.frozen(datetime(2026, 3, 1, tzinfo=UTC)):
        raise ZeroDivisionError
    assert clock.now() > datetime(2026, 3, 1, tzinfo=UTC)


def test_those_who_hold_the_clock_let_go_in_any_order() -> None:
    first, second = (clock.frozen(datetime(2026, 3, day, tzinfo=UTC)) for day in (1, 2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert clock.now() == datetime(2026, 3, 2, tzinfo=UTC)
    second.__exit__(None, None, None)
    assert not clock.is_held()


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"), clock.frozen(datetime(2026, 3, 1)):
        pass


def test_today_is_the_day_of_the_place() -> None:
    with clock.frozen(datetime(2026, 12, 31, 20, 30, tzinfo=UTC)):
        assert clock.today(MOSCOW) == date(2026, 12, 31)
        assert clock.today(SAMARA) == date(2027, 1, 1)


def test_a_moment_skipped_by_daylight_saving_moves_forward() -> None:
    assert clock.at(date(2026, 3, 29), time(2, 30), BERLIN) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert clock.local(datetime(2026, 3, 29, 1, 30, tzinfo=UTC), BERLIN).time() == time(3, 30)
