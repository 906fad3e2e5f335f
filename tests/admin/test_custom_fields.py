"""Fields staff add, through the panel: from the settings to form, card, grid, filter, sort, totals and file."""

from __future__ import annotations

import io
from typing import Any

import openpyxl
import pytest

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.fields.models import CustomField, FieldType
from crm.fields.operations import hide_built_in
from crm.ledger.models import Account
from crm.subscriptions.models import Subscription
from tests.admin.test_roles import settings_of
from tests.admin.world import errors, send
from tests.factories import make_account_type, make_bill, make_client, make_plan
from tests.fields.test_fields import add, other_company


@pytest.mark.spec("C15", "C18")
def test_the_head_adds_a_field_and_it_is_in_form_card_grid_filter_and_file(network: Any, web: Any) -> None:
    owner = web(network.owner, network.lesnoy)
    answer = send(
        owner,
        f"/admin/field/new/?company={network.company.id}&entity=client",
        label="Класс",
        type="choice",
        new_options="5 «А»\n5 «Б»",
        description="Из школы",
    )
    assert answer.status_code == 302
    assert db.session.query(CustomField).one().key == "klass"
    assert send(owner, "/admin/client/new/", name="Анна", **{"custom.klass": "5_b"}).status_code == 302
    client = db.session.query(Client).one()
    assert client.custom == {"klass": "5_b"}
    make_client(network.lesnoy, name="Борис")
    card = owner.get(f"/admin/client/card/{client.id}/").text
    assert "Класс" in card
    assert "5 «Б»" in card
    page = owner.get("/admin/client/?f.custom.klass.is=5_b&sort=custom.klass").text
    assert "Анна" in page
    assert "Борис" not in page
    sheet = openpyxl.load_workbook(
        io.BytesIO(owner.get("/admin/client/export/xlsx/?f.custom.klass.is=5_b").data)
    ).active
    head, first = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=1, max_row=2)]
    assert first[head.index("Класс")] == "5 «Б»"


def test_a_required_field_says_so_beside_itself_and_nothing_is_lost(network: Any, web: Any) -> None:
    add(network.company, is_required=True)
    owner = web(network.owner, network.lesnoy)
    answer = send(owner, "/admin/client/new/", name="Анна", comment="Не потеряйся")
    assert answer.status_code == 422
    assert set(errors(answer.text)) == {"custom.rost_sm"}
    assert "Не потеряйся" in answer.text
    answer = send(owner, "/admin/client/new/", name="Анна", **{"custom.rost_sm": "сто"})
    assert set(errors(answer.text)) == {"custom.rost_sm"}
    assert db.session.query(Client).count() == 0


def test_numbers_and_money_are_added_up(network: Any, web: Any) -> None:
    add(network.company, "Скидка", FieldType.MONEY)
    for value in ("0.10", "0.20"):
        make_client(network.lesnoy, custom={"skidka": value})
    page = web(network.owner, network.lesnoy).get("/admin/client/").text
    assert "0,30" in page[page.index("<tfoot") :]


@pytest.mark.spec("C16")
def test_another_company_does_not_have_the_field(network: Any, web: Any) -> None:
    add(other_company(), "Чужое", FieldType.TEXT)
    owner = web(network.owner, network.lesnoy)
    assert "Чужое" not in owner.get("/admin/client/new/").text
    assert "Чужое" not in owner.get("/admin/client/").text


@pytest.mark.spec("C13", "C14")
def test_hidden_built_in_fields_are_nowhere_and_keep_their_values(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна", comment="Тайна", email="anna@demo.test")
    support, owner = web(network.support), web(network.owner, network.lesnoy)
    assert "№" in owner.get("/admin/client/").text
    for name in ("id", "comment", "email"):
        data = {"company": network.company.id, "entity": "client", "name": name, "hide": "1"}
        assert support.post("/admin/field/built-in/", data=data).status_code == 302
    for path in ("/admin/client/", f"/admin/client/card/{client.id}/", f"/admin/client/edit/?id={client.id}"):
        page = owner.get(path).text
        assert "anna@demo.test" not in page
        assert ">Тайна<" not in page
    assert send(owner, f"/admin/client/edit/?id={client.id}", name="Анна Б").status_code == 302
    db.session.expire_all()
    assert (client.name, client.comment, client.email) == ("Анна Б", "Тайна", "anna@demo.test")


@pytest.mark.spec("D3", "D4")
def test_surname_and_patronymic_are_switched_on(network: Any, web: Any) -> None:
    owner = web(network.owner, network.lesnoy)
    assert "Фамилия" not in owner.get("/admin/client/new/").text
    with transaction():
        for name in ("surname", "patronymic"):
            hide_built_in(network.company, "client", name, is_hidden=False, by=network.support)
    answer = send(owner, "/admin/client/new/", name="Анна", surname="Лесная", patronymic="Петровна")
    assert "<h1" in owner.get(answer.location).text
    assert "Лесная Анна Петровна" in owner.get(answer.location).text
    assert "Фамилия" in owner.get("/admin/client/").text


def test_bills_accounts_and_subscriptions_get_fields_too(network: Any, web: Any) -> None:
    add(network.company, "Заметка", FieldType.TEXT, entity="bill")
    bill = make_bill(make_client(network.lesnoy))
    owner = web(network.owner, network.lesnoy)
    assert send(owner, f"/admin/bill/edit/?id={bill.id}", **{"custom.zametka": "Срочно"}).status_code == 302
    assert "Срочно" in owner.get(f"/admin/bill/details/?id={bill.id}").text
    assert "Срочно" in owner.get("/admin/bill/").text


def test_fields_are_ordered_hidden_and_archived_by_buttons(network: Any, web: Any) -> None:
    first, second = add(network.company, "Один"), add(network.company, "Два")
    support = web(network.support)
    support.post("/admin/field/move/", data={"id": second.id, "to": "up"})
    page = support.get(f"/admin/field/?company={network.company.id}").text
    assert page.index("Два") < page.index("Один")
    for path in ("hide", "archive"):
        assert support.post(f"/admin/field/{path}/", data={"id": first.id}).status_code == 302
    db.session.expire_all()
    assert (first.is_hidden, first.is_archived) == (True, True)
    assert web(network.director, network.lesnoy).get("/admin/field/").status_code == 403


@pytest.mark.spec("C17")
def test_a_contract_is_filled_with_the_fields_of_the_card(network: Any, web: Any) -> None:
    add(network.company, "Паспорт", FieldType.TEXT)
    add(network.company, "Взнос", FieldType.MONEY)
    owner = web(network.owner, network.lesnoy)
    body = "{customer.name}, паспорт {customer.custom.pasport}, взнос {customer.custom.vznos}"
    answer = send(owner, "/admin/contract/new/", name="Договор", body=body + " {customer.custom.nope}")
    assert "{customer.custom.nope}" in errors(answer.text)["body"]
    assert send(owner, "/admin/contract/new/", name="Договор", body=body).status_code == 302
    client = make_client(network.lesnoy, name="Анна {bill.url}", custom={"pasport": "<b>45</b>", "vznos": "1500.5"})
    card = owner.get(f"/admin/client/card/{client.id}/").text
    assert f"/admin/contract/print/{client.id}/" in card
    page = owner.get(f"/admin/contract/print/{client.id}/").text
    assert "Анна {bill.url}, паспорт &lt;b&gt;45&lt;/b&gt;, взнос 1\xa0500,50" in page


ISSUE = {
    "method": "manual",
    "amount": "1000",
    "period_from": "2026-01-01",
    "period_to": "2026-01-31",
    "payable_from": "2026-01-01",
}


def _operation(network: Any, entity: str, client: Client) -> tuple[str, dict[str, Any]]:
    """The address and the filled-in form of the operation that makes a row of a table for a client."""
    card = f"/admin/client/card/{client.id}"
    if entity == "bill":
        return f"{card}/bill/new/", ISSUE
    if entity == "account":
        return f"{card}/account/new/", {"account_type": str(make_account_type(network.lesnoy).id)}
    return f"{card}/subscription/new/", {"plan": str(make_plan().id), "starts_on": "2030-01-01"}


@pytest.mark.spec("C15", "C18")
@pytest.mark.parametrize(("entity", "model"), [("bill", Bill), ("account", Account), ("subscription", Subscription)])
def test_a_required_field_is_asked_where_the_row_is_made(network: Any, web: Any, entity: str, model: Any) -> None:
    add(network.company, "Куратор", FieldType.TEXT, entity=entity, is_required=True)
    path, sent = _operation(network, entity, make_client(network.lesnoy))
    owner = web(network.owner, network.lesnoy)
    assert "Куратор" in owner.get(path).text
    refused = send(owner, path, **sent)
    assert (refused.status_code, set(errors(refused.text))) == (422, {"custom.kurator"})
    assert db.session.query(model).count() == 0
    assert send(owner, path, **sent, **{"custom.kurator": "Анна"}).status_code == 302
    assert [row.custom for row in db.session.query(model) if row.custom] == [{"kurator": "Анна"}]


def test_a_field_the_role_may_not_change_is_not_asked_where_the_row_is_made(network: Any, web: Any) -> None:
    """Nor is a declared field of the form taken away with it: the rules of the bill's role are about the bill."""
    add(network.company, "Куратор", FieldType.TEXT, entity="bill", is_required=True)
    with transaction():
        fields = {"bill.custom.kurator": FieldRule.FREEZE, "bill.amount": FieldRule.FREEZE}
        change_role(settings_of(Role.ADMINISTRATOR), permissions={}, fields=fields, by=SYSTEM)
    path, sent = _operation(network, "bill", make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    assert send(browser, path, **sent, **{"custom.kurator": "Чужой"}).status_code == 302
    assert db.session.query(Bill).one().custom == {}


@pytest.mark.parametrize("number", ["999999999999999", "-9 999 999 999 999 999 999 999", "1000000000000"])
def test_a_number_too_large_for_any_row_is_a_filter_nobody_can_read(network: Any, web: Any, number: str) -> None:
    add(network.company)
    make_client(network.lesnoy, name="Анна")
    answer = web(network.owner).get("/admin/client/", query_string={"f.custom.rost_sm.from": number})
    assert answer.status_code == 200
    assert "не число" in answer.text
