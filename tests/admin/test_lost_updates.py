"""Two people in one form: the later one sees what the earlier did, and overwrites nothing unseen."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.audit.models import AuditAction, AuditEntry
from crm.db import db, transaction
from crm.fields.models import FieldType
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from tests.admin.world import fields, send
from tests.factories import PASSWORD, make_account, make_client, make_subscription, make_template
from tests.fields.test_fields import add

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


@pytest.fixture(params=["account", "subscription"])
def noted(request: Any, network: Any) -> tuple[str, Any]:
    """A row of a table without a version of its own, with the fields «note» and «other»."""
    for label in ("note", "other"):
        add(network.company, label, FieldType.TEXT, entity=request.param)
    client = make_client(network.lesnoy)
    make = {
        "account": lambda: make_account(client, network.account_type, balance=100),
        "subscription": lambda: make_subscription(client, network.plan),
    }
    return request.param, make[request.param]()


def test_own_fields_of_what_operations_make_are_not_overwritten_unseen(network: Any, web: Any, noted: Any) -> None:
    entity, row = noted
    path = f"/admin/{entity}/edit/?id={row.id}"
    slow = web(network.owner)
    opened = fields(slow.get(path).text)
    assert send(web(network.owner), path, **{"custom.note": "первый"}).status_code == 302
    answer = slow.post(path, data={**opened, "custom.other": "второй"})
    assert answer.status_code == 409
    assert "второй" in answer.text
    db.session.refresh(row)
    assert row.custom == {"note": "первый"}
    assert send(slow, path, **{"custom.other": "второй"}).status_code == 302  # having seen it
    db.session.refresh(row)
    assert row.custom == {"note": "первый", "other": "второй"}


def test_nor_are_their_cells(network: Any, web: Any, noted: Any) -> None:
    entity, row = noted
    path, sent = f"/admin/{entity}/cell/", {"id": row.id, "column": "custom.note"}
    first, second = web(network.owner), web(network.owner)
    found = re.search('name="version" value="([^"]+)"', second.get(path, query_string=sent).text)
    assert found is not None
    version = found[1]
    assert first.post(path, data={**sent, "version": version, "custom.note": "первый"}).status_code == 200
    answer = second.post(path, data={**sent, "version": version, "custom.note": "второй"})
    assert answer.status_code == 409
    assert "первый" in answer.json["now"]
    again = {**sent, "version": answer.json["version"], "custom.note": "второй"}
    assert second.post(path, data=again).status_code == 200
    db.session.refresh(row)
    assert row.custom == {"note": "второй"}


def test_money_that_moves_makes_no_form_of_an_account_stale(network: Any, web: Any) -> None:
    add(network.company, "note", FieldType.TEXT, entity="account")
    account = make_account(make_client(network.lesnoy), network.account_type, balance=100)
    path = f"/admin/account/edit/?id={account.id}"
    browser = web(network.owner)
    opened = fields(browser.get(path).text)
    with transaction():
        top_up(account, amount=Decimal(50), method=PaymentMethod.CASH, by=network.owner)
    assert browser.post(path, data={**opened, "custom.note": "да"}).status_code == 302


def test_two_at_the_same_moment_both_see_it(network: Any, web: Any, noted: Any, in_parallel: Any) -> None:
    entity, row = noted
    path = f"/admin/{entity}/edit/?id={row.id}"
    browsers = [web(network.owner), web(network.owner)]
    sent = [
        {**fields(browser.get(path).text), f"custom.{name}": name}
        for browser, name in zip(browsers, ("note", "other"), strict=True)
    ]
    answers: list[int] = []
    db.session.commit()
    in_parallel(lambda index: answers.append(browsers[index].post(path, data=sent[index]).status_code), times=2)
    assert sorted(answers) == [302, 409]


def test_a_cell_sent_without_what_it_was_opened_on_is_not_saved(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, comment="прежний")
    sent = {"id": client.id, "column": "comment", "comment": "новый"}
    assert web(network.owner).post("/admin/client/cell/", data=sent).status_code == 409
    db.session.refresh(client)
    assert client.comment == "прежний"
