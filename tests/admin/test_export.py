"""Every grid as Excel: what it shows, in types Excel counts with, within scope, filters and permission."""

from __future__ import annotations

import html
import io
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import openpyxl
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import select
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.admin.selection import Selection
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.models import Bill
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.security import on_behalf_of
from tests.admin.test_grids import headers, table
from tests.admin.world import one_of_each, views
from tests.factories import (
    make_account,
    make_bill,
    make_client,
    make_employee,
    make_job,
    make_message,
    make_payment,
    make_plan,
    make_schedule,
    make_subscription,
)

sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def sheet(client: Any, entity: str, query: str = "") -> list[tuple[Any, ...]]:
    """The exported cells as (type, value), header first."""
    answer = client.get(f"/admin/{entity}/export/xlsx/{query}")
    assert answer.status_code == 200
    assert answer.mimetype.endswith("spreadsheetml.sheet")
    book = openpyxl.load_workbook(io.BytesIO(answer.data))
    return [tuple(row) for row in book.active.iter_rows()]


def values(client: Any, entity: str, query: str = "") -> list[list[Any]]:
    """Header and rows, without the line of totals."""
    header, *rows = sheet(client, entity, query)
    if rows and rows[-1][0].font.bold:
        rows.pop()
    return [[cell.value for cell in row] for row in (header, *rows)]


# What is said of somebody in the waiting list stays there and in his card (C28); a link is no column.
IN_NO_FILE = {("waiting", "Комментарий"), ("waiting", "Расписание")}


def test_every_grid_opens_in_excel_with_the_columns_it_shows(network: Any, web: Any, app: Flask) -> None:
    one_of_each(network.lesnoy, "Лесные")
    one_of_each(network.mira, "Самарские")
    make_job(network.owner)
    make_schedule(network.owner)
    exported = 0
    for branch in (None, network.lesnoy):
        client = web(network.owner, branch)
        for view in views(app):
            page = client.get(f"/admin/{view.entity}/?size=200").text
            rows = values(client, view.entity)
            if not table(page):  # an empty grid has no head, and a page of one's own has another
                assert len(rows) == 1 or view.list_template != "admin/list.html", view.entity
                continue
            assert rows[0] == [name for name in headers(page) if (view.entity, name) not in IN_NO_FILE], view.entity
            # The export of one grid adds a line to the change log before the next is read.
            assert len(rows) - 1 - len(table(page)) in ({0, 1} if view.entity == "audit" else {0}), view.entity
            exported += len(rows) - 1
    assert exported > 60


def test_numbers_dates_and_texts_keep_their_types(network: Any, web: Any) -> None:
    with clock.frozen(datetime(2026, 11, 1, 20, 30, 15, tzinfo=UTC)):
        client = make_client(network.mira, name="=1+1", email="a@demo.test")
        bill = make_bill(
            client,
            amount=Decimal("1234.56"),
            period_from=date(2026, 11, 1),
            period_to=date(2026, 11, 30),
            payable_from=date(2026, 11, 1),
        )
    browser = web(network.owner)
    header, row, _total = sheet(browser, "bill")
    shown = {cell.value: row[index] for index, cell in enumerate(header)}
    assert (shown["Номер"].value, shown["Номер"].data_type) == (bill.title, "s")
    assert (shown["Клиент"].value, shown["Клиент"].data_type) == ("=1+1", "s")
    assert (shown["Сумма"].value, shown["Сумма"].data_type) == (1234.56, "n")
    assert shown["Период с"].value == datetime(2026, 11, 1)
    assert shown["Период с"].is_date
    # The wall clock of the branch, as in the grid: Samara is four hours ahead of UTC.
    assert shown["Выставлен"].value == datetime(2026, 11, 2, 0, 30, 15)
    assert "02.11.2026 00:30" in browser.get("/admin/bill/").text
    assert shown["Статус"].value == "Ожидает оплаты"
    assert shown["Когда оплачен"].value is None


@sqlite_only
@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(1)", "http://a.example", "{=1}", "=HYPERLINK(1)", "007", "1e5"]
)
def test_nothing_in_the_data_becomes_a_formula_a_link_or_a_number(network: Any, web: Any, text: str) -> None:
    make_employee(network.lesnoy, name=text, position=text)
    rows = sheet(web(network.owner), "employee", "?sort=-id")
    cells = [cell for row in rows for cell in row if cell.value == text]
    assert len(cells) >= 2
    assert {cell.data_type for cell in cells} == {"s"}
    assert not any(cell.hyperlink for cell in cells)


def test_money_that_is_owed_and_whole_numbers(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client)
    rows = sheet(web(network.owner), "account")
    balance = [cell.value for cell in rows[0]].index("Баланс")
    assert (rows[1][balance].value, rows[1][balance].data_type) == (-4000, "n")
    rows = sheet(web(network.owner), "subscription")
    lessons = [cell.value for cell in rows[0]].index("Занятия")
    assert (rows[1][lessons].value, rows[1][lessons].data_type) == (8, "n")


def test_overdue_bills_are_exported_as_they_are_shown(network: Any, web: Any) -> None:
    with clock.frozen(datetime(2026, 1, 10, 9, tzinfo=UTC)):
        make_bill(make_client(network.lesnoy), payable_until=date(2026, 1, 12))
    assert "Срок оплаты истёк" in web(network.owner).get("/admin/bill/").text
    assert "Срок оплаты истёк" in values(web(network.owner), "bill")[1]


def test_the_change_log_is_exported_as_it_is_read(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна <b>", comment="")
    rows = values(web(network.owner), "audit", "?f.entity.is=client&q=Анна")
    header, line = rows[0], rows[1]
    assert line[header.index("Вид записи")] == "Клиенты"
    changes = line[header.index("Изменения")]
    assert f"ФИО: {client.name}" in changes.splitlines()


def test_it_obeys_search_filters_order_and_pages(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    other = make_client(network.mira, name="Олег")
    for amount in (30, 10, 20):
        make_bill(client, amount=Decimal(amount))
    make_bill(other, amount=Decimal(15))
    browser = web(network.owner)

    def sums(query: str) -> list[float]:
        rows = values(browser, "bill", query)
        return [row[rows[0].index("Сумма")] for row in rows[1:]]

    assert sums("?sort=amount") == [10, 15, 20, 30]
    assert sums("?sort=-amount&q=Анна") == [30, 20, 10]
    assert sums("?f.amount.from=15&f.amount.to=20&sort=amount") == [15, 20]
    assert sums("?sort=amount&page=2&size=25") == [10, 15, 20, 30]  # all pages
    rows = values(web(network.owner, network.lesnoy), "bill")
    assert len(rows) == 4
    assert "Филиал" not in rows[0]
    assert len(values(web(network.director), "bill")) == 4
    with transaction():
        archive_client(other, by=network.owner)
    assert len(values(browser, "client")) == 2
    assert len(values(browser, "client", "?f.status.is=archived")) == 2


def test_more_rows_than_are_fetched_at_once(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        from crm.mailings.models import Message

        first = make_message(client)
        db.session.flush()
        facts = {c.key: getattr(first, c.key) for c in Message.__table__.columns if c.key not in {"id", "dedupe_key"}}
        db.session.add_all(Message(**facts, dedupe_key=f"many:{index}") for index in range(2300))
    rows = values(web(network.owner), "message")
    assert len(rows) == 2302


def test_who_may_not_export_does_not_and_an_export_is_audited(network: Any, web: Any) -> None:
    for index in range(3):
        make_account(make_client(network.lesnoy, name=f"Клиент {'абв'[index]}ый"))
    assert web(network.instructor).get("/admin/client/export/xlsx/").status_code == 403
    assert web(network.administrator).get("/admin/plan/export/xlsx/").status_code == 403
    assert "Экспорт" not in web(network.instructor).get("/admin/client/").text
    assert "Экспорт" in web(network.manager).get("/admin/client/").text
    assert len(values(web(network.manager), "client", "?q=бый")) == 2
    noted = db.session.scalars(select(AuditEntry).where(AuditEntry.action == AuditAction.EXPORT)).all()
    assert [(line.actor_id, line.entity, line.changes["rows"]) for line in noted] == [
        (network.manager.id, "client", [None, 1])
    ]
    assert "q=" in noted[0].changes["what"][1]
    assert "Экспорт" in web(network.owner).get("/admin/audit/").text


@sqlite_only
def test_the_audit_holds_the_number_of_all_rows(network: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm.admin import selection

    monkeypatch.setattr(selection, "COUNT_LIMIT", 2)
    for _ in range(5):
        make_client(network.lesnoy)
    assert len(values(web(network.owner), "client")) == 6
    noted = db.session.scalars(select(AuditEntry).where(AuditEntry.action == AuditAction.EXPORT)).one()
    assert noted.changes["rows"] == [None, 5]


@sqlite_only
def test_the_file_has_a_name_people_read(network: Any, web: Any) -> None:
    with clock.frozen(datetime(2026, 11, 1, 22, 30, tzinfo=UTC)):  # the second of November in Moscow
        answer = web(network.owner, network.lesnoy).get("/admin/client/export/xlsx/")
    assert answer.data
    assert unquote(answer.headers["Content-Disposition"]).endswith("filename*=UTF-8''Клиенты 2026-11-02.xlsx")


@sqlite_only
def test_a_long_export_holds_up_nobody_who_writes(network: Any, web: Any) -> None:
    """SQLite has one writer: reading the rows must not take its place."""
    from unittest import mock

    from crm.exchange import excel

    make_client(network.lesnoy)
    wrote = []

    def meanwhile(columns: Any, rows: Any, **options: Any) -> Any:
        import sqlite3

        source = iter(rows)
        first = next(source)
        with sqlite3.connect(db.engine.url.database, timeout=0) as other:
            other.execute("UPDATE city SET name = name || '!'")
        wrote.append(first)
        return write(columns, [first, *source], **options)

    write = excel.export_file
    with mock.patch.object(excel, "export_file", meanwhile):
        assert web(network.owner).get("/admin/client/export/xlsx/").data
    assert wrote


def cells_of(view: Any, *, is_fast: bool) -> list[list[Any]]:
    selection = Selection.from_args(view, MultiDict(), view.here())
    with view.export_rows(view.export_of(selection, view.available_columns()), is_fast=is_fast) as rows:
        return [*rows, [rows.count, *rows.sums.values()]]


def test_cells_of_plain_sql_equal_those_of_the_orm_in_every_view(network: Any, app: Flask) -> None:
    """All columns there are, over rows with and without everything that may be missing."""
    for branch, mark in ((network.lesnoy, "Лесные"), (network.mira, "Самарские")):
        one_of_each(branch, mark)
        client = make_client(branch, name=f"{mark} без всего", email="", phone="")
        make_client(branch, name="Ребёнок", payer=client)
        with clock.frozen(datetime(2026, 1, 10, 21, 30, 59, 999, tzinfo=UTC)):
            make_bill(client, payable_until=date(2026, 1, 12))
    make_job(network.owner)
    make_schedule(network.owner)
    fast, slow = set(), set()
    for branch_id in (None, network.mira.id):
        with on_behalf_of(network.owner.id, branch_id=branch_id, locale="ru", source="test"):
            for view in views(app):
                through_orm = cells_of(view, is_fast=False)
                try:
                    through_sql = cells_of(view, is_fast=True)
                except LookupError:
                    slow.add(view.entity)
                    continue
                assert through_sql == through_orm, view.entity
                assert len(through_sql) > 1, view.entity
                fast.add(view.entity)
    assert {"client", "bill", "payment", "account", "subscription", "message", "mailingrun"} <= fast
    assert slow.isdisjoint(fast)


def test_what_a_row_points_at_beyond_the_scope_stays_there(network: Any, app: Flask) -> None:
    bill = make_bill(make_client(network.lesnoy, name="Свой"))
    stranger = make_client(network.mira, name="Чужой")
    db.session.execute(sa.update(Bill).where(Bill.id == bill.id).values(client_id=stranger.id))
    db.session.commit()
    bills = next(view for view in views(app) if view.entity == "bill")
    with on_behalf_of(network.director.id, branch_id=network.lesnoy.id, locale="ru", source="test"):
        for is_fast in (True, False):
            assert "Чужой" not in str(cells_of(bills, is_fast=is_fast)), is_fast


def test_the_last_line_adds_up_the_rows_that_count(network: Any, web: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=Decimal("700.50"))
    make_payment(account, amount=Decimal("100.25"))
    header, *_payments, last = sheet(web(network.owner), "payment")
    total = [cell.value for cell in last]
    shown = dict(zip((cell.value for cell in header), total, strict=True))
    page = web(network.owner).get("/admin/payment/").text
    assert shown["№"] == "Итого получено"
    assert [value for value in total if isinstance(value, float | int)] == [shown["Сумма"]]
    assert f"{shown['Сумма']:.2f}".replace(".", ",") in page.replace("\xa0", "").replace(" ", "").replace("&nbsp;", "")


def test_all_columns_are_those_of_the_details_as_well(network: Any, web: Any) -> None:
    make_bill(make_client(network.lesnoy))
    shown, everything = (values(web(network.owner), "bill", query)[0] for query in ("", "?columns=all"))
    assert everything[: len(shown)] == shown
    assert "Тип расчета" in everything
    assert "Тип расчета" not in shown


@pytest.mark.spec("C94")
def test_all_purchases_of_a_client_are_exported_with_equal_sums(network: Any, web: Any) -> None:
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    plans = [make_plan(price=Decimal(price)) for price in ("4500.50", "999.99", "12.30")]
    sold = [make_subscription(client, plan=plan) for plan in plans]
    make_subscription(other, plan=plans[0])
    card = web(network.owner).get(f"/admin/client/card/{client.id}/?tab=subscriptions").text
    address = re.search(r'href="([^"]*/export/[^"]*)"[^>]*>(?:(?!</a>).)*Экспорт', card)
    assert address is not None
    book = openpyxl.load_workbook(io.BytesIO(web(network.owner).get(html.unescape(address[1])).data))
    header, *rows, total = book.active.iter_rows(values_only=True)
    price = header.index("Стоимость")
    assert sorted(row[price] for row in rows) == sorted(float(item.price) for item in sold)
    assert round(total[price], 2) == 5512.79


def test_a_sheet_is_as_wide_as_the_person_made_the_grid(network: Any, web: Any) -> None:
    make_bill(make_client(network.lesnoy))
    staff = web(network.owner)
    book = openpyxl.load_workbook(io.BytesIO(staff.get("/admin/bill/export/xlsx/").data))
    before = book.active.column_dimensions["B"].width
    staff.post("/admin/bill/layout/", data={"do": "width:client", "width": "40"})
    book = openpyxl.load_workbook(io.BytesIO(staff.get("/admin/bill/export/xlsx/").data))
    assert book.active.column_dimensions["B"].width > before
