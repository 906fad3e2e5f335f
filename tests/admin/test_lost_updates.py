"""Two people in one form: the later one sees what the earlier did, and overwrites nothing unseen."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from crm.audit.models import AuditAction, AuditEntry
from crm.db import db
from tests.admin.world import fields, send
from tests.factories import PASSWORD, make_template

CASES = [
    ("user", {"name": "Первое"}, {"email": "second@demo.test"}),
    ("user", {"branches": []}, {"name": "Второе"}),
    ("company", {"legal_name": "ООО «Первое»"}, {"address": "Вторая ул., 2"}),
    ("branch", {"address": "Первая ул., 1"}, {"name": "Второе"}),
    ("employee", {"position": "Первая"}, {"name": "Второе"}),
    ("plan", {"price": "1"}, {"lessons": "2"}),
    ("template", {"subject": "Первая"}, {"body": "Вторая"}),
    ("accounttype", {"position": "1"}, {"name": "Второе"}),
    ("accounttype", {"branches": ["1"]}, {"name": "Второе"}),
]


@pytest.mark.parametrize(("entity", "earlier", "later"), CASES)
def test_the_later_one_overwrites_nothing(
    network: Any, web: Any, entity: str, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    rows = {
        "user": network.director,
        "company": network.company,
        "branch": network.lesnoy,
        "employee": network.employee,
        "plan": network.plan,
        "accounttype": network.account_type,
    }
    row = rows.get(entity) or make_template()
    path = f"/admin/{entity}/edit/?id={row.id}"
    slow = web(network.owner)
    opened = fields(slow.get(path).text)
    assert send(web(network.owner), path, **earlier).status_code == 302
    changes = select(func.count()).where(AuditEntry.action == AuditAction.UPDATE)
    before = db.session.scalar(changes)
    answer = slow.post(path, data={**opened, **later})
    assert answer.status_code == 409
    assert next(iter(later.values())) in answer.text  # nothing typed is lost
    assert db.session.scalar(changes) == before
    assert send(slow, path, **later).status_code == 302  # having seen it


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_signing_in_disturbs_nobody_who_edits_the_user(network: Any, web: Any) -> None:
    path = f"/admin/user/edit/?id={network.director.id}"
    editor = web(network.owner)
    opened = fields(editor.get(path).text)
    assert web().post("/login", data={"email": network.director.email, "password": PASSWORD}).status_code == 302
    assert editor.post(path, data={**opened, "name": "Новое Имя"}).status_code == 302
