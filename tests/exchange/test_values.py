"""Spellings of values: what is understood, and what is refused and not guessed."""

from __future__ import annotations

import random
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from crm.errors import DomainError
from crm.exchange import values

TODAY = date(2026, 11, 20)

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    "cell",
    [
        *("+79181590830", "79181590830", "89181590830", "9181590830", "+7 (918) 159-08-30", "8 918 159 08 30"),
        *(
            " +7 918 159-08-30 ",
            "918-159-0830",
            "(918)1590830",
            "8\u00a0918\u00a0159‑08‑30",
            79181590830.0,
            89181590830.0,
        ),
    ],
)
def test_phones(app: Flask, cell: Any) -> None:
    assert values.parse_phone(cell) == "+79181590830"


@pytest.mark.parametrize(
    "cell", ["+7 900", "12345", "нет", "см. комментарий", 1.5, "8918159083O", "+79181590830 мама", True]
)
def test_no_phones(app: Flask, cell: Any) -> None:
    with pytest.raises(DomainError) as caught:
        values.parse_phone(cell)
    assert caught.value.code == "phone_invalid"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        *(
            (0.0, "0.00"),
            (15110.57, "15110.57"),
            (-4325.57, "-4325.57"),
            (0.1 + 0.2, "0.30"),
            ("", "0.00"),
            (None, "0.00"),
        ),
        *(("0,00", "0.00"), ("0,00 ₽", "0.00"), ("20577,38 руб.", "20577.38"), ("7\u00a0199,40", "7199.40")),
        *(("-2445,48 руб.", "-2445.48"), ("−4 504,90", "-4504.90"), ("1\u202f234\u202f567,5 р", "1234567.50")),
        *(("1,234,567.89", "1234567.89"), ("1.234.567,89", "1234567.89"), ("+5", "5.00"), ("12.5", "12.50")),
    ],
)
def test_sums(app: Flask, cell: Any, expected: str) -> None:
    assert str(values.parse_amount(cell)) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "долг",
            "—1",
            "#Н/Д",
            "#N/A",
            "12,3,4",
            "1 2 3",
            "1 23,00",
            "10,999",
            "1.234.567",
            "1e5",
            "--5",
            "5-",
            "₽",
            "NaN",
        ),
        *(0.125, True, float("nan"), float("inf"), 1e300, 100000000.01, date(2020, 1, 1)),
    ],
)
def test_no_sums(app: Flask, cell: Any) -> None:
    with pytest.raises(DomainError) as caught:
        values.parse_amount(cell)
    assert caught.value.code == "amount_invalid"


def test_every_sum_of_kopecks_survives_a_number_cell_and_a_text(app: Flask) -> None:
    chance = random.Random(1)
    for kopecks in [0, 1, -1, 10_000_000_000, *(chance.randrange(-(10**10), 10**10) for _ in range(5000))]:
        expected = Decimal(kopecks) / 100
        assert values.parse_amount(float(expected)) == expected
        assert values.parse_amount(f"{expected:,.2f}".replace(",", "\u00a0").replace(".", ",") + " ₽") == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        *((date(2019, 12, 28), date(2019, 12, 28)), (datetime(2019, 12, 28, 15, 30), date(2019, 12, 28))),
        *(("28.12.2019", date(2019, 12, 28)), ("28/12/2019", date(2019, 12, 28)), ("2019-12-28", date(2019, 12, 28))),
        *(("28.12.19", date(2019, 12, 28)), ("19.11.26", date(2026, 11, 19)), ("1.2.2019", date(2019, 2, 1))),
        *(("21.11.26", date(1926, 11, 21)), ("15.01.85", date(1985, 1, 15)), ("29.02.2016", date(2016, 2, 29))),
        *(("", None), (None, None), ("  ", None)),
    ],
)
def test_dates(app: Flask, cell: Any, expected: date | None) -> None:
    assert values.parse_past_date(cell, today=TODAY) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "вчера",
            "2015",
            "31.02.2015",
            "00.00.0000",
            "29.02.2015",
            "12/31/2019",
            "28.12/2019",
            "28-12.2019",
            "20191228",
        ),
        *(2015.0, 43827.0, True, "21.11.2026", "01.01.1899", date(2026, 11, 21), "29.02.00.1"),
    ],
)
def test_no_dates(app: Flask, cell: Any) -> None:
    with pytest.raises(DomainError) as caught:
        values.parse_past_date(cell, today=TODAY)
    assert caught.value.code == "date_invalid"


@pytest.mark.parametrize(
    ("cell", "expected"), [(" User1@Example.ORG ", "user1@example.org"), ("", ""), ("a@b.test", "a@b.test")]
)
def test_emails(app: Flask, cell: str, expected: str) -> None:
    assert values.parse_email(cell) == expected


@pytest.mark.parametrize(
    "cell", ["vasya@", "mail.example.org", "a b@example.org", "no email", "@x.org", "a@b@c.org", 5.0]
)
def test_no_emails(app: Flask, cell: Any) -> None:
    with pytest.raises(DomainError) as caught:
        values.parse_email(cell)
    assert caught.value.code == "email_invalid"


@pytest.mark.parametrize(("cell", "expected"), [(8.0, 8), ("8", 8), ("", 0), (-0.0, 0), ("12,00", 12)])
def test_counts(app: Flask, cell: Any, expected: int) -> None:
    assert values.parse_count(cell) == expected


@pytest.mark.parametrize("cell", [1.5, "много", "1,5", True, 1e9, -2.0, "-2", "−1"])
def test_no_counts(app: Flask, cell: Any) -> None:
    with pytest.raises(DomainError) as caught:
        values.parse_count(cell)
    assert caught.value.code == "count_invalid"


def test_the_reason_shows_the_cell_as_it_stands(app: Flask) -> None:
    with pytest.raises(DomainError, match="12,3,4"):
        values.parse_amount("12,3,4")
