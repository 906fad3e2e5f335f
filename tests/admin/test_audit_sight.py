"""Who sees the lines of the change log: those who may see what changed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from crm.audit.models import AuditEntry
from crm.db import db
from tests.admin.world import one_of_each

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def test_lines_of_entities_one_may_not_see_are_not_there(network: Any, web: Any) -> None:
    one_of_each(network.lesnoy, "Своё-7f3a")
    money = {"account", "bill", "payment", "subscription"}
    lines = dict(
        db.session.execute(select(AuditEntry.entity, func.max(AuditEntry.id)).group_by(AuditEntry.entity)).all()
    )
    assert money | {"client", "mailing_rule", "employee"} <= set(lines)

    def seen(user: Any) -> set[str]:
        browser = web(user)
        answers = {table: browser.get(f"/admin/audit/details/?id={line}").status_code for table, line in lines.items()}
        assert set(answers.values()) <= {200, 404}
        return {table for table, status in answers.items() if status == 200}

    assert seen(network.owner) == set(lines)
    of_lessons = {"attendance", "booking", "client_group", "lesson", "task"}
    assert seen(network.support) == set(lines) - money - of_lessons - {"export_schedule", "visit", "shift", "refund"}
    assert money <= seen(network.director)


@pytest.mark.parametrize("path", ["", "export/xlsx/"])
def test_nor_are_they_in_the_grid_and_the_export(network: Any, web: Any, path: str) -> None:
    one_of_each(network.lesnoy, "Своё-7f3a")

    def answer(user: Any, table: str) -> bytes:
        return bytes(web(user).get(f"/admin/audit/{path}?f.entity.has={table}").data)

    nothing = len(answer(network.support, "nothing"))
    assert (
        abs(len(answer(network.support, "payment")) - nothing) < 80
    )  # as long a word; an Excel row packs into few bytes
    assert len(answer(network.support, "employee")) > nothing + 120
    assert len(answer(network.owner, "payment")) > nothing + 120
