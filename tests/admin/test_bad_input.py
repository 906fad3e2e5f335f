"""Whatever is sent, there is a clear answer, and nothing is half done."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.models import Role
from crm.audit.models import AuditEntry
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client
from crm.db import db
from tests.admin.test_grids import first_column, plain
from tests.factories import make_bill, make_client, make_user


def status_of(bill_id: int) -> BillStatus:
    db.session.expire_all()
    return db.session.scalars(select(Bill.status).where(Bill.id == bill_id)).one()


@pytest.mark.parametrize(
    "place",
    ["page=-1", "page=0", "page=1.5", "page=%00", "after=zzz", "after=%00", "before=e30", "after=" + "A" * 5000],
)
def test_a_senseless_place_is_the_first_page(network: Any, web: Any, place: str) -> None:
    bills = [make_bill(make_client(network.lesnoy)) for _ in range(3)]
    answer = web(network.owner).get(f"/admin/bill/?{place}")
    assert answer.status_code == 200
    assert first_column(answer.text) == [bill.title for bill in reversed(bills)]


def test_a_page_far_behind_the_end_is_no_error_and_leads_back(network: Any, web: Any) -> None:
    make_bill(make_client(network.lesnoy))
    answer = web(network.owner).get(f"/admin/bill/?page={10**12}")
    assert answer.status_code == 200
    assert first_column(answer.text) or 'href="/admin/bill/"' in answer.text


@pytest.mark.parametrize("text", ["%00", "%00%00Лесной", "%25", "_", "'", '"', "\\", "%F0%9F%98%80", "а" * 3000])
def test_a_senseless_search_finds_nothing_or_everything(network: Any, web: Any, text: str) -> None:
    make_client(network.lesnoy, name="Обычный Клиент")
    answer = web(network.owner).get(f"/admin/client/?q={text}")
    assert answer.status_code == 200
    assert first_column(answer.text) in ([], ["Обычный Клиент"])


def test_a_broken_alternative_is_told_and_the_others_hold(network: Any, web: Any) -> None:
    small = make_bill(make_client(network.lesnoy), amount=Decimal(100))
    make_bill(make_client(network.lesnoy), amount=Decimal(5000))
    query = "any1.f.amount.from=много&any1.f.amount.to=200"
    page = web(network.owner).get(f"/admin/bill/?{query}").text
    assert first_column(page) == [small.title]
    assert "«много» — не сумма." in plain(page)


def test_rows_of_another_branch_are_left_alone_though_their_ids_are_sent(network: Any, web: Any) -> None:
    own, foreign = make_bill(make_client(network.lesnoy)), make_bill(make_client(network.mira))
    own_id, foreign_id, client_id = own.id, foreign.id, foreign.client_id
    before = db.session.scalar(select(func.count()).select_from(AuditEntry))
    client = web(make_user(Role.DIRECTOR, branches=[network.lesnoy]), network.lesnoy)
    form = {"action": "archive", "id": [str(foreign_id)], "confirmed": "1"}
    assert client.post("/admin/bill/action/", data=form).status_code in {302, 404}
    assert status_of(foreign_id) is BillStatus.PENDING
    assert client.get(f"/admin/bill/details/?id={foreign_id}").status_code == 404
    assert client.get(f"/admin/client/card/{client_id}/").status_code == 404
    change = {"id": client_id, "column": "name", "name": "Чужой"}
    assert client.post("/admin/client/cell/", data=change).status_code == 404
    assert status_of(own_id) is BillStatus.PENDING
    after = db.session.scalar(select(func.count()).select_from(AuditEntry).where(AuditEntry.entity != "user"))
    assert after <= before


@pytest.mark.parametrize("row", ["", "0", "-1", "abc", "%00", "9" * 30, "1e3"])
def test_an_id_that_is_none_is_not_found(network: Any, web: Any, row: str) -> None:
    client = web(network.owner)
    assert client.get(f"/admin/bill/details/?id={row}").status_code == 404
    assert client.get(f"/admin/client/cell/?id={row}&column=name").status_code == 404


def test_of_two_who_change_a_cell_the_second_is_told_what_the_first_has_done(network: Any, web: Any) -> None:
    row = make_client(network.lesnoy, name="Прежнее Имя")
    row_id, version = row.id, str(row.version)
    first, second = web(network.owner), web(make_user(Role.DIRECTOR, branches=[network.lesnoy]))
    change = {"id": row_id, "column": "name", "version": version}
    assert first.post("/admin/client/cell/", data={**change, "name": "Первый Успел"}).status_code == 200
    answer = second.post("/admin/client/cell/", data={**change, "name": "Второй Опоздал"})
    assert answer.status_code == 409
    assert "Первый Успел" in answer.json["error"]
    db.session.expire_all()
    assert db.session.get_one(Client, row_id).name == "Первый Успел"


@pytest.mark.parametrize("column", ["branch_id", "__class__", "", "search", "version"])
def test_a_column_nobody_may_change_stays(network: Any, web: Any, column: str) -> None:
    row = make_client(network.lesnoy, name="Тот Же")
    row_id = row.id
    answer = web(network.owner).post("/admin/client/cell/", data={"id": row_id, "column": column, column or "x": "9"})
    assert answer.status_code == 403
    db.session.expire_all()
    assert db.session.get_one(Client, row_id).name == "Тот Же"
