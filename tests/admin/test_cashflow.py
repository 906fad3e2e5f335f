"""«Движение денег»: the grid and its totals."""

from __future__ import annotations

import io
import itertools
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.access.scope import Scope, ScopeMissing, enter_scope, leave_scope, scoped_to
from crm.db import db, transaction
from crm.ledger.models import Entry, TransactionKind
from crm.payments.models import PaymentMethod
from crm.tills.models import Till, TillKind
from crm.tills.movements import Movement
from crm.tills.moves import move_money, spend_other
from crm.tills.queries import money_in, tills_in
from tests.admin.test_grids import headers, table, totals
from tests.admin.test_grids import money as number
from tests.factories import make_account, make_bill, make_client, make_payment, make_subscription, make_till

GRID = "/admin/cashflow/"
TOTALS = "/admin/cashflow/totals/"


def money(text: str) -> Decimal:
    return number(text.replace("\xa0", " "))


def at(day: int, hour: int) -> Any:
    return clock.frozen(datetime(2026, 3, day, hour, 30, tzinfo=UTC))


@pytest.fixture
def month(network: Any) -> Any:
    """March: clients of two cities pay in cash and by card, money is moved and spent."""
    with at(1, 9):
        desk = make_till(network.lesnoy, name="Стойка", money=100)
        bank = make_till(network.lesnoy, kind=TillKind.BANK, name="Р/с")
        client = make_client(network.lesnoy, name="Анна Плательщик")
        account = make_account(client, balance=1000, by=network.administrator)
    with at(2, 20):  # 23:30 in Moscow, 00:30 of the third in Samara
        make_payment(account, 500, method=PaymentMethod.CARD, by=network.director)
        make_account(make_client(network.mira, name="Борис Самарский"), balance=300)
    with at(3, 9), transaction():
        move_money(desk, bank, amount=Decimal(800), by=network.director, comment="Инкассация")
        spend_other(desk, amount=Decimal("50.50"), comment="Бумага", by=network.director)
    return desk


def column(page: str, name: str) -> list[str]:
    place = headers(page).index(name)
    return [row[place] for row in table(page)]


def amounts(page: str, name: str) -> list[Decimal]:
    return [money(text) for text in column(page, name) if text != "—"]


@pytest.mark.spec("C147", "A27")
def test_every_movement_of_money_stands_in_one_list(network: Any, web: Any, month: Till) -> None:
    browser = web(network.director, network.lesnoy)
    assert "Движение денег" in browser.get("/admin/").text
    page = browser.get(GRID).text
    assert column(page, "Операция") == [
        "Прочий приход или расход",
        "Перемещение между кассами",
        "Перемещение между кассами",
        "Пополнение",
        "Пополнение",
        "Прочий приход или расход",
    ]
    assert sorted(amounts(page, "Приход")) == [100, 500, 800, 1000]
    assert sorted(amounts(page, "Расход")) == [Decimal("50.50"), 800]
    shown = totals(page)
    assert money(shown[headers(page).index("Приход")]) == 2400
    assert money(shown[headers(page).index("Расход")]) == Decimal("850.50")
    assert "Анна Плательщик" in page
    assert network.administrator.name in page


@pytest.mark.spec("A28")
@pytest.mark.parametrize(("method", "title"), [(PaymentMethod.CASH, "Касса"), (PaymentMethod.CARD, "Терминал")])
def test_what_is_taken_with_an_opening_is_a_movement_of_the_same_sum(
    network: Any, web: Any, method: PaymentMethod, title: str
) -> None:
    make_account(make_client(network.lesnoy), balance=Decimal("777.77"), method=method)
    page = web(network.director, network.lesnoy).get(GRID).text
    assert amounts(page, "Приход") == [Decimal("777.77")]
    assert title.lower() in column(page, "Касса")[0].lower()


def test_what_never_touched_a_till_is_no_movement(network: Any) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=10)
    make_subscription(client)
    assert [row.amount for row in db.session.scalars(select(Movement))] == [10]


def test_amounts_add_up_to_the_money_in_the_tills(network: Any, month: Till) -> None:
    found: dict[int, Decimal] = {}
    for row in db.session.scalars(select(Movement)):
        assert (row.came_in or 0) - (row.went_out or 0) == row.amount
        found[row.till_id] = found.get(row.till_id, Decimal(0)) + row.amount
    assert found == {till.id: money_in(till) for till in db.session.scalars(select(Till))}


def test_movements_are_only_read(month: Till) -> None:
    row = db.session.scalars(select(Movement).limit(1)).one()
    row.comment = "Другое"
    with pytest.raises(TypeError):
        db.session.flush()
    db.session.rollback()


def test_the_scope_holds_movements_too(network: Any, month: Till) -> None:
    with scoped_to(Scope(frozenset({network.mira.id}))):
        assert [row.amount for row in db.session.scalars(select(Movement))] == [300]
    token = enter_scope(None)
    try:
        with pytest.raises(ScopeMissing):
            db.session.scalars(select(Movement)).all()
    finally:
        leave_scope(token)


def test_the_network_sees_all_branches_and_a_branch_its_own(network: Any, web: Any, month: Till) -> None:
    assert 300 in amounts(web(network.owner).get(GRID).text, "Приход")
    assert amounts(web(network.owner, network.mira).get(GRID).text, "Приход") == [300]
    assert 300 not in amounts(web(network.regional).get(GRID).text, "Приход")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("f.method.is=terminal", [500]),
        ("f.kind.is=cash_move", [800]),
        ("f.happened_at.is=2026-03-01", [100, 1000]),
        ("f.author_name.has=Director", [500, 800]),
        ("q=Анна", [500, 1000]),
        ("f.came_in.from=600", [800, 1000]),
    ],
)
def test_rows_are_filtered_by_what_they_show(
    network: Any, web: Any, month: Till, query: str, expected: list[int]
) -> None:
    page = web(network.director, network.lesnoy).get(f"{GRID}?{query}").text
    assert sorted(amounts(page, "Приход")) == expected


def test_days_are_those_of_each_branch(network: Any, web: Any, month: Till) -> None:
    """One moment, 20:30 UTC of the second: the second in Moscow, the third in Samara."""
    browser = web(network.owner)
    assert sorted(amounts(browser.get(f"{GRID}?f.happened_at.is=2026-03-02").text, "Приход")) == [500]
    assert sorted(amounts(browser.get(f"{GRID}?f.happened_at.is=2026-03-03").text, "Приход")) == [300, 800]
    span = "f.happened_at.from=2026-03-02&f.happened_at.to=2026-03-02"
    assert sorted(amounts(browser.get(f"{GRID}?{span}").text, "Приход")) == [500]


def test_the_bill_that_was_paid_is_named(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    bill = make_bill(client)
    make_payment(bill.account, 1500, bill=bill)
    page = web(network.director, network.lesnoy).get(GRID).text
    assert column(page, "Счёт на оплату" if "Счёт на оплату" in headers(page) else "Счёт") == [bill.title]


# --- totals ---------------------------------------------------------------------------------------------------------


def lines(page: str) -> tuple[list[list[str]], list[str]]:
    """The cells of the rows of the totals, and of their last line."""
    rows = [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    ]
    return rows[1:-1], rows[-1]


def summed(rows: list[list[str]]) -> list[Decimal]:
    return [sum((money(row[place]) for row in rows if row[place] != "—"), Decimal(0)) for place in (-3, -2, -1)]


DIMENSIONS = ("day", "branch", "till", "method", "kind", "author_name", "employee")


@pytest.mark.spec("C147")
@pytest.mark.parametrize("by", [*itertools.combinations(DIMENSIONS, 1), ("day", "till", "kind"), DIMENSIONS])
def test_totals_by_whatever_is_asked_for_equal_the_rows(
    network: Any, web: Any, month: Till, by: tuple[str, ...]
) -> None:
    browser = web(network.owner)
    filters = "f.happened_at.from=2026-03-01&f.happened_at.to=2026-03-31"
    page = browser.get(f"{TOTALS}?{filters}&{'&'.join(f'by={name}' for name in by)}").text
    rows, total = lines(page)
    assert summed(rows) == [2700, Decimal("850.50"), Decimal("1849.50")]
    assert [money(text) for text in total[-3:]] == summed(rows)
    grid = browser.get(f"{GRID}?{filters}").text
    assert money(totals(grid)[headers(grid).index("Приход")]) == 2700
    assert sum(int(row[-4]) for row in rows) == len(table(grid)) == 7


def test_a_day_of_the_totals_is_the_branch_s_own(network: Any, web: Any, month: Till) -> None:
    page = web(network.owner).get(f"{TOTALS}?f.happened_at.from=2026-03-01&by=day&by=branch").text
    assert [row[:2] for row in lines(page)[0]] == [
        ["03.03.2026", "Лесной"],
        ["03.03.2026", "Мира"],
        ["02.03.2026", "Лесной"],
        ["01.03.2026", "Лесной"],
    ]


def test_money_at_the_beginning_and_at_the_end(network: Any, web: Any, month: Till) -> None:
    browser = web(network.director, network.lesnoy)

    def standing(query: str) -> list[Decimal]:
        page = browser.get(f"{TOTALS}?{query}").text
        found = re.search(r'<dl class="facts money-standing">(.*?)</dl>', page, re.DOTALL)
        return [money(text) for text in re.findall(r"<dd[^>]*>(.*?)</dd>", found[1])] if found else []

    assert standing("f.happened_at.is=2026-03-02") == [1100, 500, 0, 1600]
    assert standing("f.happened_at.is=2026-03-03") == [1600, 800, Decimal("850.50"), Decimal("1549.50")]
    assert standing("f.happened_at.is=2026-03-03&f.method.is=cash") == [1100, 0, Decimal("850.50"), Decimal("249.50")]
    assert standing(f"f.happened_at.from=2026-03-02&f.till.is={month.id}")[0] == 1100
    # Of some of the movements nobody can say how much money there was.
    assert standing("f.happened_at.is=2026-03-03&f.kind.is=cash_move") == []
    assert standing("f.happened_at.is=2026-03-03&q=Анна") == []
    assert standing("f.happened_at.to=2026-03-03") == []


def test_totals_as_excel(network: Any, web: Any, month: Till) -> None:
    answer = web(network.director, network.lesnoy).get(f"{TOTALS}xlsx/?f.happened_at.from=2026-03-01&by=day&by=kind")
    assert answer.status_code == 200
    sheet = openpyxl.load_workbook(io.BytesIO(answer.data)).active
    head, *rows, last = list(sheet.iter_rows(values_only=True))
    assert head[:3] == ("День", "Операция", "Операций")
    assert sum(row[-3] or 0 for row in rows) == last[-3] == 2400
    assert last[-2] == 850.5
    assert rows[0][0] == datetime(2026, 3, 3)


def test_without_filters_the_totals_are_of_this_month(network: Any, web: Any, month: Till) -> None:
    browser = web(network.director, network.lesnoy)
    with at(31, 9):
        assert len(lines(browser.get(TOTALS).text)[0]) > 0
    with clock.frozen(datetime(2026, 4, 2, 9, tzinfo=UTC)):
        assert "Денег никто не двигал" in browser.get(TOTALS).text


def test_who_does_not_see_payments_sees_no_sums_here(network: Any, web: Any, month: Till) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.DIRECTOR)).one()
    with transaction():
        change_role(settings, permissions={}, fields={"payment.amount": FieldRule.HIDE}, by=network.owner)
    browser = web(network.director, network.lesnoy)
    page = browser.get(GRID).text
    assert not {"Приход", "Расход"} & {*headers(page)}
    assert "1\xa0000,00" not in page
    assert browser.get(TOTALS).status_code == 403
    assert browser.get(f"{TOTALS}xlsx/").status_code == 403


def test_the_grid_is_exported_whole(network: Any, web: Any, month: Till) -> None:
    answer = web(network.director, network.lesnoy).get(f"{GRID}export/xlsx/?columns=all")
    head, *rows, last = list(openpyxl.load_workbook(io.BytesIO(answer.data)).active.iter_rows(values_only=True))
    place = head.index("Приход")
    assert sum(row[place] or 0 for row in rows) == last[place] == 2400
    assert len(rows) == 6
    assert db.session.scalar(select(Entry.id).limit(1)) is not None


def test_a_reversal_is_a_movement_of_its_own(network: Any) -> None:
    from crm.ledger.models import Transaction
    from crm.ledger.operations import reverse

    make_account(make_client(network.lesnoy), balance=100)
    (till,) = tills_in(network.lesnoy.id, TillKind.CASH)
    with transaction():
        reverse(db.session.scalars(select(Transaction)).one(), by=SYSTEM, comment="Ошибка")
    rows = db.session.scalars(select(Movement).order_by(Movement.id)).all()
    assert [(row.kind, row.amount) for row in rows] == [(TransactionKind.TOP_UP, 100), (TransactionKind.REVERSAL, -100)]
    assert money_in(till) == 0


@pytest.mark.parametrize(
    "query", ["f.happened_at.from=вчера", "f.happened_at.is=2026-99-99", "by=ничего", "f.till.is=x"]
)
def test_an_address_that_cannot_be_read_breaks_nothing(network: Any, web: Any, month: Till, query: str) -> None:
    assert web(network.owner).get(f"{TOTALS}?{query}").status_code == 200


def test_the_days_are_chosen_on_the_page(network: Any, web: Any, month: Till) -> None:
    browser = web(network.director, network.lesnoy)
    with at(3, 9):
        page = browser.get(f"{TOTALS}?f.happened_at.period=today&by=kind").text
        links = [link.replace("&amp;", "&") for link in re.findall(r'class="chip chip-quick" href="([^"]+)"', page)]
        (yesterday,) = [link for link in links if "yesterday" in link]
        assert summed(lines(browser.get(TOTALS + yesterday).text)[0]) == [500, 0, 500]
        (days,) = re.findall(r'href="([^"]+)">Выбрать дни', page)
        page = browser.get(TOTALS + days.replace("&amp;", "&")).text
        assert 'name="f.happened_at.from" value="2026-03-03"' in page
        assert summed(lines(page)[0]) == [800, Decimal("850.50"), Decimal("-50.50")]


def test_found_by_the_number_of_the_operation_among_others(network: Any, web: Any, month: Any) -> None:
    number_ = db.session.scalars(select(Movement.transaction_id).order_by(Movement.id).limit(1)).one()
    page = web(network.owner).get(f"{GRID}?q={number_}")
    assert page.status_code == 200
    assert len(table(page.text)) >= 1
