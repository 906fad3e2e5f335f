"""History of a record: who changed what, when, from what to what; and a field put back."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import inspect, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.admin.history import _SILENT
from crm.admin.labels import LABELS
from crm.audit.models import AuditEntry
from crm.audit.operations import _IGNORED
from crm.clients.models import Client
from crm.db import db, transaction
from tests.admin.test_grids import plain
from tests.admin.world import errors, send, views
from tests.factories import Network, make_client, make_rule, make_subject

MACHINERY = _SILENT | _IGNORED | {"custom"}


@pytest.fixture
def client(network: Network) -> Client:
    return make_client(network.lesnoy, name="Анна Белова", phone="89181590830", email="anna@demo.test")


def edited(browser: Any, row: Client, **changes: Any) -> None:
    assert send(browser, f"/admin/client/edit/?id={row.id}", **changes).status_code == 302


def history(browser: Any, row: Any, *, entity: str = "client", page: int = 1) -> str:
    answer = browser.get(f"/admin/{entity}/history/?id={row.id}&page={page}")
    assert answer.status_code == 200
    return html.unescape(re.sub(r"\s+", " ", answer.text))


def offered(page: str) -> list[str]:
    """Fields that can be put back, by their addresses."""
    return re.findall(r'href="/admin/\w+/put-back/\?id=\d+&entry=\d+&field=(\w+)"', page)


def put_back(browser: Any, row: Any, field: str, *, line: int = -1, entity: str = "client") -> Any:
    """Put `field` back to what it was before a line of the row's history."""
    entries = db.session.scalars(
        select(AuditEntry.id).where(AuditEntry.entity == entity, AuditEntry.entity_id == row.id).order_by(AuditEntry.id)
    ).all()
    path = f"/admin/{entity}/put-back/?id={row.id}&entry={entries[line]}&field={field}"
    page = browser.get(path)
    return send(browser, path) if page.status_code == 200 else page


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_who_when_and_from_what_to_what(network: Network, web: Any) -> None:
    moment = datetime(2026, 9, 1, 21, 30, tzinfo=UTC)
    with clock.frozen(moment - timedelta(days=2)):
        client = make_client(network.lesnoy, name="Анна", phone="89181590830")
    with clock.frozen(moment):
        edited(web(network.administrator, network.lesnoy), client, phone="89181590831")
    with clock.frozen(moment + timedelta(hours=3)):
        page = history(web(network.director, network.lesnoy), client)
    assert "3 часа назад, 02.09.2026 00:30" in page
    assert network.administrator.name in page
    assert "Телефон:</span> <del>+7 918 159-08-30</del> → +7 918 159-08-31" in page
    assert "из командной строки" in page  # the creation, by the factory


def test_a_field_is_put_back(network: Network, web: Any, client: Client) -> None:
    browser = web(network.administrator, network.lesnoy)
    edited(browser, client, phone="89181590831", name="Анна Чернова")
    assert set(offered(history(browser, client))) == {"name", "phone"}
    assert put_back(browser, client, "phone").status_code == 302
    assert (client.phone, client.name) == ("+79181590830", "Анна Чернова")
    last = db.session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert last is not None
    assert (last.actor_id, last.changes) == (network.administrator.id, {"phone": ["+79181590831", "+79181590830"]})


def test_an_empty_value_is_put_back_too(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    edited(browser, client, comment="VIP", birth_date="2000-02-29")
    for field in ("comment", "birth_date"):
        assert put_back(browser, client, field, line=1).status_code == 302
    assert (client.comment, client.birth_date) == ("", None)


def test_rows_of_other_tables_go_by_their_names(network: Network, web: Any) -> None:
    first, second = make_subject(name="Первый"), make_subject(name="Второй")
    rule = make_rule(network.lesnoy)
    with transaction():
        rule.subject_id = first.id
    with transaction():
        rule.subject_id = second.id
    browser = web(network.director, network.lesnoy)
    assert "Предмет:</span> <del>Первый</del> → Второй" in history(browser, rule, entity="mailingrule")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_rule_of_the_form_holds(network: Network, web: Any, client: Client) -> None:
    """What the form would refuse is refused here: nobody is without a name."""
    with transaction():
        client.name = ""
    with transaction():
        client.name = "Анна"
    browser = web(network.administrator, network.lesnoy)
    answer = put_back(browser, client, "name")
    assert answer.status_code == 422
    assert errors(answer.text)[""]
    assert client.name == "Анна"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_somebody_was_quicker(network: Network, web: Any, client: Client) -> None:
    browser = web(network.administrator, network.lesnoy)
    edited(browser, client, phone="89181590831")
    entry = db.session.scalars(select(AuditEntry.id).order_by(AuditEntry.id.desc())).first()
    path = f"/admin/client/put-back/?id={client.id}&entry={entry}&field=phone"
    shown = browser.get(path).text
    edited(web(network.director, network.lesnoy), client, phone="89181590832")
    version = re.search(r'name="version" value="(\d+)"', shown)
    assert version
    late = browser.post(path, data={"version": version[1]})
    assert late.status_code == 409
    assert "+7 918 159-08-32" in late.text
    assert client.phone == "+79181590832"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_who_may_not_edit_puts_nothing_back(network: Network, web: Any, client: Client) -> None:
    edited(web(network.administrator, network.lesnoy), client, phone="89181590831")
    manager = web(network.manager, network.lesnoy)
    assert offered(history(manager, client)) == []
    assert put_back(manager, client, "phone").status_code == 403


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("rule", list(FieldRule))
def test_fields_denied_to_the_role(network: Network, web: Any, client: Client, rule: FieldRule) -> None:
    edited(web(network.owner, network.lesnoy), client, phone="89181590831", comment="VIP")
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    with transaction():
        change_role(settings, permissions={}, fields={"client.phone": rule}, by=SYSTEM)
    browser = web(network.administrator, network.lesnoy)
    page = history(browser, client)
    assert offered(page) == ["comment"]
    assert ("159-08-3" in page) is (rule is FieldRule.FREEZE)
    assert put_back(browser, client, "phone").status_code == 403


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_statuses_and_creations_are_not_put_back(network: Network, web: Any, client: Client) -> None:
    browser = web(network.administrator, network.lesnoy)
    assert browser.post(f"/admin/client/card/{client.id}/archive/").status_code == 302
    page = history(browser, client)
    assert "В архиве" in page
    assert offered(page) == []
    assert put_back(browser, client, "status").status_code == 403
    assert put_back(browser, client, "name", line=0).status_code == 403


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_line_of_another_record_is_not_there(network: Network, web: Any, client: Client) -> None:
    other = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    edited(browser, other, phone="89181590831")
    entry = db.session.scalars(select(AuditEntry.id).order_by(AuditEntry.id.desc())).first()
    for bad in (entry, 0, 10**18, "x", ""):
        assert browser.get(f"/admin/client/put-back/?id={client.id}&entry={bad}&field=phone").status_code == 404


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_long_history_has_pages(network: Network, web: Any, client: Client) -> None:
    for number in range(60):
        with transaction():
            client.comment = f"Заметка {number:02d}."
    browser = web(network.administrator, network.lesnoy)
    first, second = history(browser, client), history(browser, client, page=2)
    assert "→ Заметка 59." in first
    assert "page=2" in first
    assert "→ Заметка 05." in second
    assert "Анна Белова" in second
    assert "page=3" not in second
    assert "→ Заметка 59." in history(browser, client, page=-5)
    assert browser.get(f"/admin/client/history/?id={client.id}&page={10**12}").status_code == 200


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_foreign_branchs_history_is_not_there(network: Network, web: Any) -> None:
    foreign = make_client(network.mira)
    assert web(network.director).get(f"/admin/client/history/?id={foreign.id}").status_code == 404


def test_every_field_of_a_history_has_a_name_people_know(app: Flask) -> None:
    nameless = []
    for view in views(app):
        if not getattr(view.model, "__audited__", True):
            continue
        for attribute in inspect(view.model).column_attrs:
            name, is_key = view._name_of(attribute.key)
            is_silent = (is_key and name == attribute.key) or name in MACHINERY
            if not (is_silent or name in view.column_labels or name in LABELS):
                nameless.append(f"{view.entity}.{name}")
    assert nameless == []


def test_what_the_system_does_is_told_in_the_readers_language(network: Network, web: Any) -> None:
    row = make_rule(network.lesnoy, weekday=2)
    browser = web(network.owner)
    page = plain(browser.get(f"/admin/mailingrule/details/?id={row.id}").text)
    assert "Система" in page
    assert "День недели: среда" in page
    assert "system" not in page
    journal = plain(browser.get("/admin/audit/").text)
    assert "Система" in journal
    assert "Командная строка" in journal
