"""The usual terms of payment."""

from __future__ import annotations

from datetime import date

import pytest

from crm.bills.terms import Term


@pytest.mark.spec("W6")
@pytest.mark.parametrize(
    ("term", "first", "last"),
    [
        (Term.UNLIMITED, date(2027, 1, 31), None),
        (Term.DAYS_3, date(2027, 1, 30), date(2027, 2, 2)),
        (Term.DAYS_5, date(2027, 1, 1), date(2027, 1, 6)),
        (Term.DAYS_6, date(2027, 1, 1), date(2027, 1, 7)),
        (Term.WEEK, date(2027, 12, 28), date(2028, 1, 4)),
        (Term.WEEKS_2, date(2028, 2, 20), date(2028, 3, 5)),
        (Term.MONTH_END, date(2027, 1, 31), date(2027, 1, 31)),
        (Term.MONTH_END, date(2027, 2, 1), date(2027, 2, 28)),
        (Term.MONTH_END, date(2028, 2, 29), date(2028, 2, 29)),
        (Term.NEXT_MONTH_END, date(2027, 1, 31), date(2027, 2, 28)),
        (Term.NEXT_MONTH_END, date(2026, 12, 15), date(2027, 1, 31)),
    ],
)
def test_when_a_term_ends(term: Term, first: date, last: date | None) -> None:
    assert term.until(first) == last
