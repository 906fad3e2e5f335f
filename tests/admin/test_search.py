"""The search box of any grid heeds no case, in any alphabet.

On SQLite, whose own lower() knows ASCII only. PostgreSQL goes by the locale of its database (docs/operations.md), which
is "C" in these tests.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import make_plan, make_template

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.mark.parametrize("text", ["утренний", "УТРЕННИЙ", "РЕНН"])
def test_case_does_not_matter(network: Any, web: Any, text: str) -> None:
    make_plan(name="Утренний абонемент")
    make_plan(name="Вечерний абонемент")
    page = web(network.owner).get("/admin/plan/", query_string={"q": text}).text
    assert "Утренний абонемент" in page
    assert "Вечерний абонемент" not in page


def test_nor_in_words_of_two_alphabets(network: Any, web: Any) -> None:
    make_template(name="Счёт STANDARD")
    assert "Счёт STANDARD" in web(network.owner).get("/admin/template/", query_string={"q": "сЧЁТ standard"}).text
