"""Fields a role is denied, in every view: a hidden one is nowhere, a frozen one is shown and never written."""

from __future__ import annotations

import re
from datetime import date
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from flask import Flask
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings, User
from crm.access.roles import change_role
from crm.admin.rights import rights_of_role
from crm.clients.models import Client
from crm.clients.operations import edit_client
from crm.db import db, transaction
from crm.security import on_behalf_of
from tests.admin.world import fields, one_of_each, views
from tests.factories import Network, make_client

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)

SECRETS = ("999-123", "9991234", "777-654", "7776543", "tajna", "Тайна", "29.02.1996", "1996-02-29")


def deny(app: Flask, role: Role, rule: FieldRule, *, by: User, entity: str | None = None) -> set[str]:
    """Put `rule` on every field it can be put on; returns their keys."""
    with on_behalf_of(by.id, branch_id=None, locale="ru", source="test"):
        offered = rights_of_role(views(app), role, {}, {})
        keys = {
            field.key for of in offered for field in of.fields if rule in field.rules and entity in {None, of.entity}
        }
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == role)).one()
    with transaction():
        change_role(settings, permissions={}, fields=dict.fromkeys(keys, rule), by=SYSTEM)
    return keys


def of_entity(keys: set[str], entity: str) -> set[str]:
    return {name for of, _dot, name in (key.partition(".") for key in keys) if of == entity}


@pytest.fixture
def client(network: Network) -> Client:
    client = make_client(
        network.lesnoy,
        name="Видимая Анна",
        phone="+79991234567",
        extra_phone="+77776543210",
        email="tajna@demo.test",
        birth_date=date(1996, 2, 29),
        comment="Тайна-1",
    )
    with transaction():
        edit_client(
            client,
            name="Видимая Анна",
            phone="+79991234568",
            extra_phone="+77776543211",
            email="tajna2@demo.test",
            birth_date=date(1996, 2, 28),
            comment="Тайна-2",
            by=SYSTEM,
        )
    return client


def test_hidden_fields_are_in_no_list_of_any_view(network: Network, app: Flask) -> None:
    rows = one_of_each(network.lesnoy, "Своё")
    hidden = deny(app, Role.DIRECTOR, FieldRule.HIDE, by=network.owner)
    assert {"client.phone", "bill.amount", "account.balance", "payment.amount", "audit.changes"} <= hidden
    shown = []
    with on_behalf_of(network.director.id, branch_id=None, locale="ru", source="test"):
        for view in views(app):
            if not view.is_accessible() or not (names := of_entity(hidden, view.entity)):
                continue
            row = db.session.get_one(view.model, rows[view.entity])
            places = {
                "columns": {column.name for column in view.columns},
                "available": {column.name for column in view.available_columns()},
                "details": {column.name for column in view.details_columns(row)},
                "filters": set(view.filter_columns()),
                "sorts": set(view.sortable_columns()) - {"id"},  # the order of creation, which shows no number
            }
            shown += [(view.entity, place, name) for place, there in places.items() for name in sorted(there & names)]
    assert shown == []


def test_hidden_values_are_on_no_page(network: Network, app: Flask, web: Any, client: Client) -> None:
    director = web(network.director, network.lesnoy)
    pages = [
        "/admin/client/",
        "/admin/client/?q=Видимая",
        "/admin/client/?sort=phone&f.birth_date.from=1990-01-01",
        f"/admin/client/card/{client.id}/",
        f"/admin/client/edit/?id={client.id}",
        f"/admin/client/history/?id={client.id}",
        "/admin/audit/",
        "/admin/search/?q=Видимая",
        "/admin/",
    ]
    seen = {path for path in pages if any(secret in director.get(path).text for secret in SECRETS)}
    assert {"/admin/client/", f"/admin/client/card/{client.id}/", "/admin/audit/"} <= seen  # nothing hidden yet
    deny(app, Role.DIRECTOR, FieldRule.HIDE, by=network.owner, entity="client")
    found = []
    for path in pages:
        text = re.sub(r'<input[^>]*name="(?:q|csrf_token|form_key)"[^>]*>|\?[^"]*"', "", director.get(path).text)
        found += [(path, secret) for secret in SECRETS if secret in text]
    sheet = openpyxl.load_workbook(BytesIO(director.get("/admin/client/export/xlsx/").data)).active
    cells = " ".join(str(cell) for line in sheet.iter_rows(values_only=True) for cell in line)
    assert "Видимая Анна" in cells
    found += [("export", secret) for secret in SECRETS if secret in cells]
    assert found == []


def test_a_form_without_hidden_fields_leaves_them_as_they_are(
    network: Network, app: Flask, web: Any, client: Client
) -> None:
    deny(app, Role.DIRECTOR, FieldRule.HIDE, by=network.owner, entity="client")
    director, path = web(network.director, network.lesnoy), f"/admin/client/edit/?id={client.id}"
    form = fields(director.get(path).text)
    assert not {"phone", "email", "comment"} & set(form)
    forged = {"phone": "+79990000000", "email": "x@demo.test", "comment": "x", "birth_date": ""}
    assert director.post(path, data=form | forged).status_code == 302
    assert (client.phone, client.email, client.comment) == ("+79991234568", "tajna2@demo.test", "Тайна-2")
    assert client.birth_date == date(1996, 2, 28)


def test_frozen_fields_are_shown_and_refused_in_every_way(
    network: Network, app: Flask, web: Any, client: Client
) -> None:
    frozen = of_entity(deny(app, Role.DIRECTOR, FieldRule.FREEZE, by=network.owner, entity="client"), "client")
    assert {"name", "phone", "email", "comment", "birth_date"} <= frozen
    director, path = web(network.director, network.lesnoy), f"/admin/client/edit/?id={client.id}"
    assert "999 123-45-68" in director.get("/admin/client/").text
    form = fields(director.get(path).text)
    forged = {"name": "Другая", "phone": "+79990000000", "email": "x@demo.test", "comment": "x", "birth_date": ""}
    director.post(path, data=form | forged)
    for name, value in forged.items():
        sent = {"id": str(client.id), "column": name, name: value, "version": str(client.version)}
        assert director.post("/admin/client/cell/", data=sent).status_code == 403, name
    with on_behalf_of(network.director.id, branch_id=None, locale="ru", source="test"):
        view = next(item for item in views(app) if item.entity == "client")
        assert not frozen & set(view.bulk_edit_names())
    db.session.refresh(client)
    assert (client.name, client.phone, client.email) == ("Видимая Анна", "+79991234568", "tajna2@demo.test")
    assert (client.comment, client.birth_date) == ("Тайна-2", date(1996, 2, 28))
