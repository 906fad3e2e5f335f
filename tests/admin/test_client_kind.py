"""«Тип клиента»: in the form, the grid, its filter, the bulk edit, Excel out and in."""

from __future__ import annotations

import io
from typing import Any

import pytest
from openpyxl import load_workbook
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.clients.models import Client, ClientKind
from crm.db import db, transaction
from crm.exchange.clients import ClientImport
from crm.exchange.importing import apply_import
from tests.admin.test_bulk_edit import CLIENTS, go
from tests.exchange.sheets import make_csv
from tests.factories import make_client

NEW = {
    "form_key": "1" * 32,
    "name": "ООО «Ромашка»",
    "phone": "+79180000111",
    "phone_kind": "mobile",
    "extra_phone_kind": "mobile",
}


def test_a_new_client_is_a_person_unless_it_is_said(network: Any, web: Any) -> None:
    browser = web(network.administrator, network.lesnoy)
    page = browser.get("/admin/client/new/").text
    assert "Тип клиента" in page
    assert "Юр. лицо" in page
    facts = {**NEW, "branch": str(network.lesnoy.id), "kind": "organisation"}
    answer = browser.post("/admin/client/new/", data=facts)
    assert answer.status_code == 302, answer.text
    client = db.session.scalars(select(Client)).one()
    assert client.kind is ClientKind.ORGANISATION
    assert "Юр. лицо" in browser.get(f"/admin/client/card/{client.id}/").text
    assert make_client(network.lesnoy).kind is ClientKind.PERSON


def test_the_card_is_edited(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    sent = {**NEW, "id": str(client.id), "version": str(client.version), "kind": "organisation"}
    answer = web(network.administrator, network.lesnoy).post(f"/admin/client/edit/?id={client.id}", data=sent)
    assert answer.status_code == 302, answer.text
    db.session.expire_all()
    assert client.kind is ClientKind.ORGANISATION


def test_the_grid_filters_and_exports_it(network: Any, web: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    make_client(network.lesnoy, name="ООО «Ромашка»", kind=ClientKind.ORGANISATION)
    browser = web(network.owner, network.lesnoy)
    page = browser.get("/admin/client/?f.kind.is=organisation").text
    assert "ООО «Ромашка»" in page
    assert "Анна" not in page
    file = browser.get("/admin/client/export/xlsx/?f.kind.is=organisation&columns=name,kind")
    rows = list(load_workbook(io.BytesIO(file.data)).active.values)
    place = rows[0].index("Тип клиента")
    assert [row[place] for row in rows[1:]] == ["Юр. лицо"]


def test_many_cards_are_given_a_type(network: Any, web: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    ids = [str(client.id) for client in clients[:2]]
    go(
        web(network.administrator, network.lesnoy),
        CLIENTS,
        id=ids,
        **{"set.change": ["kind"], "set.kind": "organisation"},
    )
    db.session.expire_all()
    assert [client.kind for client in clients] == [ClientKind.ORGANISATION] * 2 + [ClientKind.PERSON]


def _import(*rows: tuple[str, ...], is_updating: bool = False) -> Any:
    content = make_csv([("ФИО", "Телефон", "Филиал", "Тип клиента"), *rows])
    with transaction():
        return apply_import(ClientImport(is_updating=is_updating), content, file_name="Клиенты.csv", by=SYSTEM)


def test_an_import_reads_it_in_its_many_spellings(network: Any) -> None:
    told = ("", "Физ. лицо", "юр.лицо", "Юридическое лицо", "организация")
    _import(*((f"Клиент {n}", f"+7918000000{n}", "Лесной", text) for n, text in enumerate(told)))
    kinds = db.session.scalars(select(Client.kind).order_by(Client.name)).all()
    assert kinds == [ClientKind.PERSON] * 2 + [ClientKind.ORGANISATION] * 3


def test_an_import_refuses_what_is_no_type(network: Any) -> None:
    report = _import(("Анна", "+79180000001", "Лесной", "Марсианин"))
    assert (report.created, len(report.refusals)) == (0, 1)
    assert "Марсианин" in report.refusals[0].reason


@pytest.mark.parametrize(("told", "kind"), [("юрлицо", ClientKind.ORGANISATION), ("", ClientKind.PERSON)])
def test_an_update_changes_it_where_the_file_says_so(network: Any, told: str, kind: ClientKind) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="+79180000001")
    _import(("Анна", "+79180000001", "Лесной", told), is_updating=True)
    db.session.expire_all()
    assert client.kind is kind
