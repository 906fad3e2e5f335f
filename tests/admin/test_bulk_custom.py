"""Bulk edit of the fields staff have added: one key of many rows, the others untouched; told, audited and undone."""

from __future__ import annotations

from typing import Any

import pytest
from flask_babel import force_locale, gettext

from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import Scope, scoped_to
from crm.audit.bulk import change_many, put_back
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.operations import archive_bill
from crm.clients.models import Client
from crm.clients.operations import changing_clients
from crm.db import db, transaction
from crm.errors import DomainError
from crm.fields.models import FieldType
from crm.fields.operations import archive_field
from crm.protocol import Outcome
from tests.admin.test_bulk_edit import EDIT, go, job
from tests.admin.test_grids import plain
from tests.factories import (
    make_account,
    make_account_type,
    make_bill,
    make_client,
    make_plan,
    make_subscription,
)
from tests.fields.test_fields import add, other_company


def ticked(key: str, value: Any) -> dict[str, Any]:
    return {"set.change": [f"custom.{key}"], f"set.custom.{key}": value}


VALUES: list[tuple[FieldType, Any, Any, Any]] = [
    (FieldType.TEXT, "Ёлка «у дома»", "Ёлка «у дома»", "Ель"),
    (FieldType.NUMBER, "12,5", 12_500_000, 7_000_000),
    (FieldType.MONEY, "99,90", 9990, 100),
    (FieldType.DATE, "2030-05-05", "2030-05-05", "2029-01-01"),
    (FieldType.CHOICE, "odin", "odin", "dva"),
    (FieldType.CHOICES, ["odin", "dva"], ["odin", "dva"], ["dva"]),
    (FieldType.YES_NO, "0", False, True),
    (FieldType.LINK, "https://demo.test/", "https://demo.test/", "https://old.test"),
    (FieldType.PHONE, "8 916 123-45-67", "+79161234567", "+79160000000"),
]


@pytest.mark.parametrize(("type", "typed", "kept", "other"), VALUES)
def test_every_type_is_set_in_many_rows_and_put_back(
    network: Any, web: Any, type: FieldType, typed: Any, kept: Any, other: Any
) -> None:
    options = ["Один", "Два"] if type.has_options else ()
    add(network.company, "Поле", type, options=options)
    rows = [make_client(network.lesnoy) for _ in range(3)]
    olds: list[dict[str, Any]] = [{"a": "Ж", "pole": other, "z": [1]}, {}, {"pole": kept, "a": 1}]
    with transaction():
        for row, old in zip(rows, olds, strict=True):
            row.custom = old
    browser = web(network.owner, network.lesnoy)
    preview = plain(browser.post("/admin/client/action/", data={**EDIT, "all": "1", **ticked("pole", typed)}).text)
    assert "Будет изменено: 2" in preview
    with force_locale("ru"):
        assert f"{Outcome.SKIPPED.label}: 1 — {gettext('It is so already.')}" in preview
    page = go(browser, "/admin/client/action/", all="1", **ticked("pole", typed))
    db.session.expire_all()
    assert [row.custom for row in rows] == [{"a": "Ж", "pole": kept, "z": [1]}, {"pole": kept}, {"pole": kept, "a": 1}]
    assert "Поле" in plain(page.text)
    noted = db.session.query(AuditEntry).filter_by(entity="client", action=AuditAction.UPDATE).order_by(AuditEntry.id)
    assert [entry.changes for entry in noted][-2:] == [{"custom.pole": [other, kept]}, {"custom.pole": [None, kept]}]
    browser.post("/admin/job/undo/", data={"id": str(job().id)})
    db.session.expire_all()
    assert [row.custom for row in rows] == olds


def test_a_ticked_field_left_empty_is_emptied_and_comes_back(network: Any) -> None:
    add(network.company)
    rows = [make_client(network.lesnoy, custom={"rost_sm": 180 + n}) for n in range(2)]
    change = changing_clients({"custom.rost_sm": None, "comment": "Убрали"}, by=SYSTEM)
    with transaction():
        lines = change_many(change, [row.id for row in rows], by=SYSTEM)
    db.session.expire_all()
    assert [row.custom for row in rows] == [{}, {}]
    with transaction():
        put_back(change, [(line.id, line.changes or {}) for line in lines], by=SYSTEM)
    db.session.expire_all()
    assert [(row.custom, row.comment) for row in rows] == [
        ({"rost_sm": 180_000_000}, ""),
        ({"rost_sm": 181_000_000}, ""),
    ]


def test_what_was_changed_since_stays_and_other_fields_do_not_matter(network: Any) -> None:
    add(network.company)
    first, second = (make_client(network.lesnoy) for _ in range(2))
    change = changing_clients({"custom.rost_sm": 150}, by=SYSTEM)
    with transaction():
        lines = change_many(change, [first.id, second.id], by=SYSTEM)
    with transaction():
        first.custom = {"rost_sm": 151_000_000}
        second.custom = {**second.custom, "a": "Новое"}
    with transaction():
        undone = put_back(change, [(line.id, line.changes or {}) for line in lines], by=SYSTEM)
    db.session.expire_all()
    assert [line.reason is None for line in undone] == [False, True]
    assert (first.custom, second.custom) == ({"rost_sm": 151_000_000}, {"a": "Новое"})


def test_rows_of_a_company_without_the_field_are_refused(network: Any) -> None:
    add(network.company)
    company = other_company()
    with transaction():
        branch = Branch(
            company_id=company.id, city_id=network.lesnoy.city_id, name="Речная школа, филиал", time_zone="UTC"
        )
        db.session.add(branch)
    mine, foreign = make_client(network.lesnoy), make_client(branch)
    change = changing_clients({"custom.rost_sm": 150}, by=SYSTEM)
    with transaction():
        lines = change_many(change, [mine.id, foreign.id], by=SYSTEM)
    assert [line.reason for line in lines] == [None, "У компании нет поля «rost_sm»."]
    db.session.expire_all()
    assert (mine.custom, foreign.custom) == ({"rost_sm": 150_000_000}, {})


def test_a_required_field_is_not_emptied_and_an_archived_one_not_set(network: Any) -> None:
    field = add(network.company)
    required = add(network.company, "Класс", FieldType.TEXT, is_required=True)
    with pytest.raises(DomainError) as refused:
        changing_clients({f"custom.{required.key}": ""}, by=SYSTEM)
    assert (refused.value.code, refused.value.field) == ("field_required", "custom.klass")
    with transaction():
        archive_field(field, by=SYSTEM)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(DomainError) as refused:
        changing_clients({"custom.rost_sm": 150}, by=SYSTEM)
    assert refused.value.code == "field_unknown"


@pytest.mark.parametrize("entity", ["bill", "account", "subscription"])
def test_bills_accounts_and_subscriptions_are_changed_too(network: Any, web: Any, entity: str) -> None:
    add(network.company, "Заметка", FieldType.TEXT, entity=entity)
    client = make_client(network.lesnoy)
    row: Any = {
        "bill": lambda: make_bill(client),
        "account": lambda: make_account(client, make_account_type(network.lesnoy)),
        "subscription": lambda: make_subscription(client, make_plan()),
    }[entity]()
    if entity == "bill":  # its term may be changed no more; what staff note of it may
        with transaction():
            archive_bill(row, by=SYSTEM)
    browser = web(network.owner, network.lesnoy)
    page = go(browser, f"/admin/{entity}/action/", id=[str(row.id)], **ticked("zametka", "Срочно"))
    assert "Срочно" in plain(page.text)
    db.session.expire_all()
    assert row.custom == {"zametka": "Срочно"}
    browser.post("/admin/job/undo/", data={"id": str(job().id)})
    db.session.expire_all()
    assert row.custom == {}


def test_a_wrong_value_is_told_beside_its_field(network: Any, web: Any) -> None:
    add(network.company)
    client = make_client(network.lesnoy)
    browser = web(network.owner, network.lesnoy)
    sent = {**EDIT, "id": str(client.id), **ticked("rost_sm", "сто")}
    answer = browser.post("/admin/client/action/", data=sent)
    assert answer.status_code == 422
    assert "Введите число" in answer.text
    assert db.session.query(Client.custom).scalar() == {}
