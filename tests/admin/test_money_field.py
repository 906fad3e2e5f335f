"""Sums as people type them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from flask import Flask

from crm.i18n import read_money

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    ("typed", "sum_"),
    [
        *(("1500", "1500"), ("99,90", "99.90"), ("99.9", "99.90"), (",5", "0.50"), ("5,", "5"), ("−7", "-7")),
        *(("1 234,50", "1234.50"), ("1\u00a0234\u202f567,5 ₽", "1234567.50"), (" 1500 ₽ ", "1500"), ("- 50", "-50")),
        *(
            ("1,234.50", "1234.50"),
            ("1.234,50", "1234.50"),
            ("1,234,567.8", "1234567.80"),
            ("100 000 000", "100000000"),
        ),
    ],
)
def test_a_sum_is_read(app: Flask, typed: str, sum_: str) -> None:
    assert read_money(typed) == Decimal(sum_)


@pytest.mark.parametrize(
    "typed",
    [
        *("1,5.5", "12,34.5", "1.23,4", "1234,567.8", "1,234,56.7", "1,234.567,8", "1 5", "12 34,50", "1 234 5"),
        *("", "-", ".", "1e3", "NaN", "0x10", "١٢", "1--2", "1.001", "9" * 16),
    ],
)
def test_a_slip_of_the_finger_is_no_sum(app: Flask, typed: str) -> None:
    with pytest.raises(ValueError, match="."):
        read_money(typed)
