"""«Операции по счетам»: the grid, an operation's own page."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.history import AccountOperation
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Line, house_account, post, reverse
from tests.admin.test_grids import plain, table
from tests.factories import make_account, make_bill, make_client, make_payment, make_subscription

GRID = "/admin/entry/"


def rows(page: str) -> list[list[str]]:
    return table(page)


def operations() -> list[AccountOperation]:
    return list(db.session.scalars(select(AccountOperation).order_by(AccountOperation.id)).unique())


def hide(role: Role, *fields: str) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == role)).one()
    with transaction():
        change_role(settings, permissions={}, fields=dict.fromkeys(fields, FieldRule.HIDE), by=SYSTEM)


@pytest.fixture
def account(network: Any) -> Any:
    client = make_client(network.lesnoy, name="Берёзкина Анна")
    return make_account(client, balance=1000, by=network.administrator, employee=network.employee)


@pytest.mark.spec("A1", "A23", "A24", "A32")
def test_a_row_says_when_whose_what_how_much_and_who(network: Any, web: Any, account: Any) -> None:
    page = web(network.director).get(GRID).text
    (row,) = rows(page)
    assert row[1:6] == ["Берёзкина Анна", "Депозиты", "Пополнение", "+1 000,00", "1 000,00"]
    assert row[7:10] == ["Наличными", network.administrator.name, "Вера Тренер"]


@pytest.mark.spec("C20")
def test_sums_are_red_when_they_left_and_green_when_they_came(network: Any, web: Any, account: Any) -> None:
    make_subscription(account.client)
    page = web(network.director).get(GRID).text
    assert '<span class="prepaid">+1\xa0000,00</span>' in page
    assert '<span class="debt">-4\xa0000,00</span>' in page


def test_what_it_was_for_is_linked(network: Any, web: Any, account: Any) -> None:
    bill = make_bill(account.client, amount=Decimal(300), account=account)
    make_payment(account, 300, bill=bill)
    sold = make_subscription(account.client)
    page = web(network.director).get(GRID).text
    assert f'<a href="/admin/bill/details/?id={bill.id}">{bill.title}</a>' in page
    assert f'<a href="/admin/subscription/details/?id={sold.id}">8 занятий #{sold.id}</a>' in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("f.kind.is=sale", [-4000]),
        ("f.amount.from=1000", [1000]),
        ("f.amount.to=-1", [-4000]),
        ("f.happened_at.period=today", [-4000, 1000]),
        ("f.happened_at.to=2020-01-01", []),
        ("q=берёзкина", [-4000, 1000]),
        ("f.author_name.has=administrator", [1000]),
    ],
)
def test_filters(network: Any, web: Any, account: Any, query: str, found: list[int]) -> None:
    make_subscription(account.client)
    make_account(make_client(network.mira), balance=7)
    page = web(network.director).get(f"{GRID}?{query}").text
    sums = [row[4] for row in rows(page)]
    assert [int(text.replace("\xa0", "").replace(" ", "").split(",")[0]) for text in sums] == found


def test_a_search_finds_an_operation_by_its_number(network: Any, web: Any, account: Any) -> None:
    make_payment(account, 5)
    (first, _second) = operations()
    page = web(network.director).get(f"{GRID}?q={first.transaction_id}").text
    assert [row[4] for row in rows(page)] == ["+1 000,00"]


def test_pages_go_on_where_the_last_one_ended(network: Any, web: Any, account: Any) -> None:
    """By date and then by number, keys of two tables."""
    for number in range(1, 60):
        make_payment(account, number)
    browser = web(network.director)
    first = browser.get(f"{GRID}?size=25&sort=-happened_at").text
    last = browser.get(f"{GRID}?size=25&sort=-happened_at&before=end").text
    assert [row[4] for row in rows(first)][:2] == ["+59,00", "+58,00"]
    assert [row[4] for row in rows(last)][-2:] == ["+1,00", "+1 000,00"]
    back = re.search(r'rel="prev" href="([^"]*)"', last)
    assert back is not None
    middle = browser.get(GRID + html.unescape(back[1])).text
    assert len(rows(middle)) == 25
    following = re.search(r'rel="next" href="([^"]*)"', middle)
    assert following is not None
    assert rows(browser.get(GRID + html.unescape(following[1])).text) == rows(last)
    sums = [row[4] for row in rows(middle) + rows(last)]
    assert sums == [*(f"+{number},00" for number in range(49, 0, -1)), "+1 000,00"]


def test_top_ups_and_write_offs_are_totalled_apart(network: Any, web: Any, account: Any) -> None:
    make_subscription(account.client)
    browser = web(network.director)
    answer = browser.get(f"{GRID}export/xlsx/?columns=all")
    sheet = openpyxl.load_workbook(BytesIO(answer.data)).active
    header, *lines = [[cell.value for cell in row] for row in sheet.iter_rows()]
    totals = dict(zip(header, lines[-1], strict=True))
    assert (totals["Пополнения"], totals["Списания"], totals["Сумма"]) == (1000, 4000, -3000)
    assert sum(line[header.index("Сумма")] for line in lines[:-1]) == totals["Сумма"]


@pytest.mark.parametrize("columns", ["", "columns=all"])
def test_the_fast_export_and_the_slow_one_say_the_same(network: Any, app: Any, account: Any, columns: str) -> None:
    from crm.admin.selection import Selection
    from crm.security import on_behalf_of
    from tests.admin.world import views

    make_subscription(account.client)
    bill = make_bill(account.client, amount=Decimal(300), account=account)
    make_payment(account, 300, bill=bill)
    with transaction():
        reverse(db.session.get_one(Transaction, operations()[0].transaction_id), by=SYSTEM, comment="ошибка")
    view = next(view for view in views(app) if view.entity == "entry")
    with on_behalf_of(network.director.id, branch_id=None, locale="ru", source="test"):
        selection = Selection.from_params(view, [], view.here())
        export = view.export_of(selection, view.available_columns() if columns else view.columns)
        with view.export_rows(export, is_fast=True) as fast, view.export_rows(export, is_fast=False) as slow:
            assert list(fast) == list(slow)


def test_a_correction_is_marked_on_both_sides(network: Any, web: Any, account: Any) -> None:
    (first,) = operations()
    with transaction():
        undone = reverse(db.session.get_one(Transaction, first.transaction_id), by=SYSTEM, comment="ошибка")
    texts = [row[3] for row in rows(web(network.director).get(GRID).text)]
    assert texts == [
        f"Отмена операции Отменяет операцию № {first.transaction_id}",
        f"Пополнение Отменена операцией № {undone.id}",
    ]


def test_the_page_of_an_operation_says_what_moved_where(network: Any, web: Any, account: Any) -> None:
    (row,) = operations()
    page = web(network.director).get(f"{GRID}details/?id={row.id}").text
    assert rows(page) == [
        ["Депозиты · Берёзкина Анна", "Зачислено", "+1 000,00"],
        ["Касса", "Принято", "+1 000,00"],
    ]
    assert f'href="/admin/entry/receipt/{row.transaction_id}/"' in page
    assert f'href="/admin/account/operation/{row.transaction_id}/reverse/"' in page


def test_who_may_not_correct_is_not_offered_it(network: Any, web: Any, account: Any) -> None:
    (row,) = operations()
    assert "/reverse/" not in web(network.administrator).get(f"{GRID}details/?id={row.id}").text


def test_a_sale_says_its_lessons_and_the_income(network: Any, web: Any, account: Any) -> None:
    make_subscription(account.client)
    row = operations()[-1]
    page = web(network.director).get(f"{GRID}details/?id={row.id}").text
    assert rows(page) == [
        ["Базовый счёт · Берёзкина Анна", "Списано", "-4 000,00"],
        ["Остаток занятий · Берёзкина Анна", "Начислены занятия", "+8"],
        ["Выручка", "Доход", "+4 000,00"],
        ["Выданные занятия", "Списаны занятия", "-8"],
    ]


def test_of_a_foreign_branch_only_ones_own_side_is_seen(network: Any, web: Any, account: Any) -> None:
    theirs = make_account(make_client(network.mira, name="Чужой"))
    lines = [Line(account, Decimal(-200)), Line(theirs, Decimal(200))]
    with transaction():
        post(TransactionKind.TRANSFER, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    row = next(row for row in operations() if row.amount == -200)
    page = web(network.director).get(f"{GRID}details/?id={row.id}").text
    assert "Чужой" not in page
    assert [line[1:] for line in rows(page)] == [["Списано", "-200,00"], ["Должны другому филиалу", "+200,00"]]


@pytest.mark.parametrize("field", ["account.balance", "payment.amount", "entry.amount"])
def test_hidden_sums_are_nowhere(network: Any, web: Any, account: Any, field: str) -> None:
    hide(Role.DIRECTOR, field)
    browser = web(network.director)
    (row,) = operations()
    pages = [browser.get(path).text for path in (GRID, f"{GRID}details/?id={row.id}")]
    book = openpyxl.load_workbook(BytesIO(browser.get(f"{GRID}export/xlsx/?columns=all").data)).active
    pages.append(" ".join(str(cell.value) for line in book.iter_rows() for cell in line))
    if field == "entry.amount":
        pages = [page.replace("1 000,00", "") for page in map(plain, pages[1:2])]  # the balance is another matter
    assert not [page for page in map(plain, pages) if "1 000" in page or "1000" in page]


def test_house_accounts_are_not_in_the_grid(network: Any, web: Any, account: Any) -> None:
    cash, revenue = (house_account(kind, network.lesnoy.id) for kind in (AccountKind.CASH, AccountKind.OTHER))
    with transaction():
        lines = [Line(cash, Decimal(-50)), Line(revenue, Decimal(50))]
        post(TransactionKind.CASH_OTHER, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    assert len(rows(web(network.director).get(GRID).text)) == 1
