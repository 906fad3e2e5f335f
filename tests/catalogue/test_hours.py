"""When a branch is open: its hours, its days off, midnight, its own clock; the form of the hours."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import pytest

from crm import clock
from crm.catalogue.queries import reason_closed
from crm.db import db, transaction
from tests.admin.world import errors, fields, send
from tests.factories import make_holiday

MONDAY, SUNDAY = date(2027, 2, 1), date(2027, 2, 7)
HOURS = {**{str(number): ["09:00", "21:00"] for number in range(6)}, "5": ["20:00", "00:00"]}


def closed(branch: Any, day: date, begins: str, ends: str, until: date | None = None) -> str | None:
    start, end = time.fromisoformat(begins), time.fromisoformat(ends)
    return reason_closed(branch, clock.at(day, start, branch), clock.at(until or day, end, branch))


@pytest.fixture
def branch(network: Any) -> Any:
    with transaction():
        network.mira.working_hours = HOURS
    return network.mira


@pytest.mark.parametrize(
    ("begins", "ends", "is_open"),
    [
        ("09:00", "10:00", True),
        ("20:00", "21:00", True),
        ("08:59", "10:00", False),
        ("20:30", "21:01", False),
        ("07:00", "08:00", False),
        ("22:00", "23:00", False),
    ],
)
def test_within_the_hours_of_the_day_it_is_open(branch: Any, begins: str, ends: str, is_open: bool) -> None:
    assert (closed(branch, MONDAY, begins, ends) is None) is is_open


def test_the_hours_are_those_of_the_branchs_own_clock(branch: Any) -> None:
    at_five = datetime(2027, 2, 1, 5, tzinfo=UTC)  # nine in Samara, eight in Moscow
    assert reason_closed(branch, at_five, at_five.replace(hour=6)) is None
    assert reason_closed(branch, at_five.replace(hour=4), at_five) is not None


def test_a_day_without_hours_is_a_day_off_and_without_any_it_never_is(network: Any, branch: Any) -> None:
    assert closed(branch, SUNDAY, "12:00", "13:00") is not None
    assert closed(network.lesnoy, SUNDAY, "03:00", "04:00") is None
    assert closed(network.lesnoy, SUNDAY, "23:30", "00:30", date(2027, 2, 8)) is None


def test_on_a_holiday_it_is_closed_whatever_its_hours(network: Any, branch: Any) -> None:
    for of in (branch, network.lesnoy):
        make_holiday(of, MONDAY)
        assert closed(of, MONDAY, "12:00", "13:00") is not None
        assert closed(of, date(2027, 2, 2), "12:00", "13:00") is None
    assert closed(network.rechnoy, MONDAY, "12:00", "13:00") is None
    # What ends at midnight does not reach into the holiday; what goes on a minute longer does.
    assert closed(network.lesnoy, date(2027, 1, 31), "23:00", "00:00", MONDAY) is None
    assert closed(network.lesnoy, date(2027, 1, 31), "23:00", "00:01", MONDAY) is not None


def test_midnight_closes_the_day_it_ends(branch: Any) -> None:
    saturday = date(2027, 2, 6)
    assert closed(branch, saturday, "23:00", "00:00", SUNDAY) is None
    assert closed(branch, saturday, "23:30", "00:30", SUNDAY) is not None
    assert closed(branch, MONDAY, "20:30", "00:00", date(2027, 2, 2)) is not None


def test_the_day_is_said_in_words(branch: Any, app: Any) -> None:
    with app.test_request_context("/", headers={"Accept-Language": "ru"}):
        assert closed(branch, MONDAY, "22:00", "23:00") == "01.02.2027 филиал работает с 09:00 до 21:00."
        assert closed(branch, SUNDAY, "12:00", "13:00") == "07.02.2027 филиал не работает."
        make_holiday(branch, MONDAY)
        assert closed(branch, MONDAY, "12:00", "13:00") == "01.02.2027 филиал закрыт: выходной или праздник."


# --- the form -------------------------------------------------------------------------------------------------------


def typed(**days: tuple[str, str]) -> list[str]:
    """What the fourteen inputs send."""
    return [text for number in range(7) for text in days.get(f"d{number}", ("", ""))]


def test_the_hours_are_filled_in_on_the_form_of_a_branch(network: Any, web: Any) -> None:
    browser, path = web(network.support), f"/admin/branch/edit/?id={network.mira.id}"
    assert "Режим работы" in browser.get(path).text
    hours = typed(d0=("09:00", "21:00"), d1=("09:00", "21:00"), d5=("10:00", "00:00"))
    assert send(browser, path, working_hours=hours).status_code == 302
    db.session.expire_all()
    expected = {"0": ["09:00", "21:00"], "1": ["09:00", "21:00"], "5": ["10:00", "00:00"]}
    assert network.mira.working_hours == expected
    assert fields(browser.get(path).text)["working_hours"] == hours
    page = browser.get(f"/admin/branch/details/?id={network.mira.id}").text
    assert "пн–вт 09:00–21:00, сб 10:00–00:00" in page
    assert "понедельник" in page  # in the history
    assert send(browser, path, address="Мира, 3").status_code == 302
    db.session.expire_all()
    assert network.mira.working_hours == expected
    assert send(browser, path, working_hours=typed()).status_code == 302
    db.session.expire_all()
    assert network.mira.working_hours == {}


@pytest.mark.parametrize(
    ("monday", "text"),
    [
        (("21:00", "09:00"), "Закрытие должно быть позже открытия."),
        (("09:00", "09:00"), "Закрытие должно быть позже открытия."),
        (("09:00", ""), "Укажите оба времени или ни одного, если это выходной."),
        (("", "21:00"), "Укажите оба времени или ни одного, если это выходной."),
        (("9 утра", "21:00"), "Введите время, например 09:00."),
    ],
)
def test_a_mistake_stands_in_the_line_of_its_day(network: Any, web: Any, monday: Any, text: str) -> None:
    path = f"/admin/branch/edit/?id={network.mira.id}"
    answer = send(web(network.owner), path, working_hours=typed(d0=monday, d2=("10:00", "18:00")))
    assert answer.status_code == 422
    assert errors(answer.text) == {"working_hours-0": text}
    assert fields(answer.text)["working_hours"] == typed(d0=monday, d2=("10:00", "18:00"))
    db.session.expire_all()
    assert network.mira.working_hours == {}
