"""«Список счетов»: all accounts of all clients who ever had one, what they add up to, and as of a past day."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.access.actors import SYSTEM
from crm.admin import selection as selections
from crm.admin.selection import Selection
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import Line, base_account, house_account, post
from crm.ledger.turnover import keep_turnover
from crm.security import on_behalf_of
from tests.admin.test_export import sheet
from tests.admin.test_grids import headers, plain, table, totals
from tests.admin.test_hidden_fields import hide
from tests.admin.world import views
from tests.factories import make_account, make_account_type, make_client

MARCH = datetime(2026, 3, 10, 9, tzinfo=UTC)
LATE = datetime(2026, 3, 10, 20, 30, tzinfo=UTC)  # the 10th in Moscow still, the 11th in Samara


def move(account: Account, amount: Decimal | int | str) -> None:
    """Cash onto `account`, or off it, now."""
    cash = house_account(AccountKind.CASH, account.branch_id)
    lines = [Line(account, Decimal(amount)), Line(cash, -Decimal(amount))]
    with transaction():
        post(TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM)


def rows(page: str) -> dict[str, list[str]]:
    """Cells of the grid by client, without his own."""
    return {line[0]: line[1:] for line in table(page)}


def money(page: str) -> list[str]:
    """The sums of the last line: balance, top-ups, write-offs."""
    return [text for text in totals(page) if text not in {"", "Итого"}]


@pytest.mark.spec("A33", "A35", "A36")
def test_columns_are_those_of_the_list(network: Any, web: Any) -> None:
    make_account(make_client(network.lesnoy, name="Анна"), balance=5)
    page = web(network.owner).get("/admin/account/").text
    assert headers(page) == [
        *("Клиент", "Тип счета", "Баланс", "Пополнения", "Списания", "Последнее движение"),
        *("Открыт", "Закрыт", "Филиал"),
    ]


@pytest.mark.spec("A34", "A35", "A36", "C20", "W7")
@pytest.mark.parametrize("is_summed", [False, True])
def test_rows_add_up_to_the_totals(network: Any, web: Any, is_summed: bool) -> None:
    anna = make_account(make_client(network.lesnoy, name="Анна"), balance=Decimal("1000.10"))
    move(anna, "-0.03")
    boris = base_account(make_client(network.mira, name="Борис").id, network.mira.id)
    move(boris, "-99999999.99")
    closed = make_account(make_client(network.lesnoy, name="Вера"), balance=700)
    move(closed, -700)
    make_client(network.lesnoy, name="Глеб")  # never had an account
    with transaction():
        closed.closed_at = clock.now()
    if is_summed:
        keep_turnover(tail=0)
    page = web(network.owner).get("/admin/account/").text
    found = rows(page)
    assert {name: cells[1:4] for name, cells in found.items()} == {
        "Анна": ["1 000,07", "1 000,10", "0,03"],
        "Борис": ["-99 999 999,99", "0,00", "99 999 999,99"],
        "Вера": ["0,00", "700,00", "700,00"],
    }
    assert money(page) == ["-99 998 999,92", "1 700,10", "100 000 700,02"]
    assert 'class="debt">' in page.split("Борис")[1].split("</tr>")[0]
    assert 'class="prepaid">' in page.split("Анна")[1].split("</tr>")[0]
    assert (found["Вера"][6] == "—", found["Анна"][6]) == (False, "—")


@pytest.mark.spec("A37")
def test_the_branch_switcher_rules_rows_and_totals(network: Any, web: Any) -> None:
    make_account(make_client(network.lesnoy, name="Анна"), balance=10)
    make_account(make_client(network.mira, name="Борис"), balance=200)
    keep_turnover(tail=0)
    make_account(make_client(network.mira, name="Вера"), balance=3000)
    for browser, names, total in (
        (web(network.owner), {"Анна", "Борис", "Вера"}, "3 210,00"),
        (web(network.owner, network.mira), {"Борис", "Вера"}, "3 200,00"),
        (web(network.owner, network.rechnoy), set(), None),
        (web(network.director, network.lesnoy), {"Анна"}, "10,00"),
        (web(network.regional), {"Анна"}, "10,00"),
    ):
        page = browser.get("/admin/account/").text
        assert set(rows(page)) == names
        if total:
            assert money(page)[:2] == [total, total]
    page = web(network.director, network.lesnoy).get(f"/admin/account/?f.branch.is={network.mira.id}").text
    assert "3 200,00" not in plain(page)


@pytest.mark.spec("A36")
def test_totals_of_a_million_rows_are_known_without_reading_them(
    network: Any, web: Any, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    gifts = make_account_type(network.lesnoy, name="Подарочные")
    client = make_client(network.lesnoy, name="Анна")
    for kind, sum_ in ((network.account_type, 1), (network.account_type, 20), (gifts, 300)):
        make_account(client, kind, balance=sum_)
    move(base_account(client.id, network.lesnoy.id), 4000)
    monkeypatch.setattr(selections, "COUNT_LIMIT", 1)
    browser = web(network.owner)
    for query, total in (
        ("", "4 321,00"),
        (f"?f.account_type.is={gifts.id}", "300,00"),
        (f"?f.account_type.not={gifts.id}", "4 021,00"),
        (f"?f.account_type.empty=0&f.branch.is={network.lesnoy.id}", "321,00"),
        ("?f.account_type.empty=1", "4 000,00"),
        (f"?f.branch.not={network.mira.id}&sort=balance", "4 321,00"),
    ):
        assert money(browser.get(f"/admin/account/{query}").text)[0] == total, query
    for query in ("?f.balance.from=1", "?q=Анна", f"?any1.f.account_type.is={gifts.id}&any1.f.balance.from=1"):
        assert "Σ" in money(browser.get(f"/admin/account/{query}").text), query


def test_open_and_closed_ones_are_one_click_away(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    make_account(client, balance=10)
    closed = make_account(make_client(network.lesnoy, name="Вера"))
    with transaction():
        closed.closed_at = clock.now()
    browser = web(network.owner)
    page = browser.get("/admin/account/").text
    assert "Открытые" in plain(page)
    assert "Закрытые" in plain(page)
    assert set(rows(browser.get("/admin/account/?f.closed_at.empty=1").text)) == {"Анна"}
    assert set(rows(browser.get("/admin/account/?f.closed_at.empty=0").text)) == {"Вера"}


# --- as of a day ----------------------------------------------------------------------------------------------------


@pytest.fixture
def past(network: Any) -> dict[str, Account]:
    """Four accounts of March 2026 and later, in two time zones."""
    with clock.frozen(MARCH):
        anna = make_account(make_client(network.lesnoy, name="Анна"), balance=100)
        boris = base_account(make_client(network.mira, name="Борис").id, network.mira.id)
        move(boris, "-7.50")
        vera = make_account(make_client(network.lesnoy, name="Вера"), balance=30)
    with clock.frozen(LATE):
        move(anna, -40)
        move(boris, "1000.01")
    with clock.frozen(datetime(2026, 3, 20, 9, tzinfo=UTC)):
        move(vera, -30)
        with transaction():
            vera.closed_at = clock.now()
        gleb = make_account(make_client(network.lesnoy, name="Глеб"), balance=5)
    return {"anna": anna, "boris": boris, "vera": vera, "gleb": gleb}


@pytest.mark.spec("A35", "A36", "A37")
@pytest.mark.parametrize("is_summed", [False, True])
def test_as_of_a_day_of_the_accounts_own_branch(
    network: Any, web: Any, past: dict[str, Account], is_summed: bool
) -> None:
    if is_summed:
        keep_turnover(tail=0)
    browser = web(network.owner)
    page = browser.get("/admin/account/?as_of=2026-03-10").text
    assert {name: cells[1:4] for name, cells in rows(page).items()} == {
        "Анна": ["60,00", "100,00", "40,00"],
        "Борис": ["-7,50", "0,00", "7,50"],
        "Вера": ["30,00", "30,00", "0,00"],
    }
    assert money(page) == ["82,50", "130,00", "47,50"]
    assert rows(page)["Вера"][6] == "—", "it was closed later"
    assert rows(page)["Анна"][4] == "10.03.2026 23:30"
    assert 'value="2026-03-10"' in page
    assert money(browser.get("/admin/account/?as_of=2026-03-11").text) == ["1 082,51", "1 130,01", "47,50"]
    assert money(browser.get("/admin/account/?as_of=2026-03-20").text) == ["1 057,51", "1 135,01", "77,50"]
    assert rows(browser.get("/admin/account/?as_of=2026-03-20").text)["Вера"][6] == "20.03.2026 12:00"
    assert rows(browser.get("/admin/account/?as_of=2026-03-09").text) == {}


def test_as_of_with_a_search_adds_up_what_is_found(network: Any, web: Any, past: dict[str, Account]) -> None:
    page = web(network.owner).get("/admin/account/?as_of=2026-03-10&q=Анна").text
    assert list(rows(page)) == ["Анна"]
    assert money(page) == ["60,00", "100,00", "40,00"]


def test_excel_is_as_of_the_day_too(network: Any, web: Any, past: dict[str, Account]) -> None:
    browser = web(network.owner)
    cells = sheet(browser, "account", "?as_of=2026-03-10&sort=opened_at")
    head, *lines = [[cell.value for cell in line] for line in cells]
    balance, credited, debited = (head.index(name) for name in ("Баланс", "Пополнения", "Списания"))
    sums = {line[0]: (line[balance], line[credited], line[debited]) for line in lines}
    assert sums == {
        "Анна": (60, 100, 40),
        "Борис": (-7.5, 0, 7.5),
        "Вера": (30, 30, 0),
        "Итого": (82.5, 130, 47.5),
    }
    answer = browser.get("/admin/account/export/xlsx/?as_of=2026-03-10")
    assert "2026-03-10.xlsx" in answer.headers["Content-Disposition"]


def test_a_past_day_is_not_sorted_or_filtered_by_todays_money(network: Any, web: Any, past: dict[str, Account]) -> None:
    browser = web(network.owner)
    page = browser.get("/admin/account/?as_of=2026-03-10&sort=balance").text
    assert "Столбца «balance» для сортировки нет" in plain(page)
    assert "sort=balance" not in page.split("<thead>")[1].split("</thead>")[0]
    page = browser.get("/admin/account/?as_of=2026-03-10&f.balance.from=1").text
    assert "отбирает по сегодняшним значениям" in plain(page)
    assert len(rows(page)) == 3
    answer = browser.get("/admin/account/export/xlsx/?as_of=2026-03-10&f.balance.from=1")
    assert answer.status_code == 302
    assert "f.balance.to" not in page.split('role="search"')[1].split("</form>")[0].replace("f.balance.from", "")


def test_today_and_later_is_now(network: Any, web: Any, past: dict[str, Account]) -> None:
    browser = web(network.owner)
    now = money(browser.get("/admin/account/").text)
    assert now == ["1 057,51", "1 135,01", "77,50"]
    page = browser.get("/admin/account/?as_of=9999-12-31").text
    assert "Этот день ещё не наступил" in plain(page)
    assert money(page) == now
    today = clock.today(network.lesnoy).isoformat()
    page = browser.get(f"/admin/account/?as_of={today}").text
    assert "ещё не наступил" not in plain(page)
    assert money(page) == now


@pytest.mark.parametrize("typed", ["abc", "2026-02-30", "0001-01-01", "%00", "1" * 500, "31.12.2025"])
def test_a_day_that_is_none_is_said_so(network: Any, web: Any, past: dict[str, Account], typed: str) -> None:
    browser = web(network.owner)
    page = browser.get(f"/admin/account/?as_of={typed}").text
    assert "chip-bad" in page
    assert "не дата" in plain(page)
    assert browser.get(f"/admin/account/export/xlsx/?as_of={typed}").status_code == 302
    assert browser.get(f"/admin/account/filters/?as_of={typed}").status_code == 200


def test_other_grids_know_no_day(network: Any, web: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    page = web(network.owner).get("/admin/client/?as_of=2020-01-01").text
    assert "Анна" in plain(page)
    assert 'name="as_of"' not in page


def test_the_day_goes_with_the_selection(network: Any, app: Flask, past: dict[str, Account]) -> None:
    """Into links, saved views, bulk actions and jobs."""
    view = next(view for view in views(app) if view.entity == "account")
    with app.test_request_context(), on_behalf_of(network.owner.id, branch_id=None, locale="ru", source="test"):
        first = Selection.from_args(view, MultiDict({"as_of": "2026-03-10"}), view.here())
        again = Selection.from_params(view, first.to_params(), view.here())
        assert again.as_of == first.as_of is not None
        assert len(again.row_ids()) == 3
        assert "as_of=2026-03-10" in first.sort_url("opened_at")


def test_an_account_is_there_from_its_first_entry_on(network: Any, web: Any) -> None:
    """So that rows add up to totals: an import may write of days before the account was made."""
    account = make_account(make_client(network.lesnoy, name="Анна"))
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    with transaction():
        lines = [Line(account, Decimal(50)), Line(cash, Decimal(-50))]
        post(TransactionKind.TOP_UP, lines, branch_id=network.lesnoy.id, by=SYSTEM, happened_at=MARCH)
    db.session.refresh(account)
    assert account.opened_at == MARCH
    page = web(network.owner).get("/admin/account/?as_of=2026-03-10").text
    assert rows(page)["Анна"][1] == "50,00"
    assert money(page)[0] == "50,00"


def test_hidden_balances_stay_hidden_on_any_day(network: Any, web: Any, past: dict[str, Account]) -> None:
    hide("account.balance", "account.credited", "account.debited")
    page = web(network.administrator, network.lesnoy).get("/admin/account/?as_of=2026-03-10").text
    assert set(rows(page)) == {"Анна", "Вера"}
    assert "Баланс" not in headers(page)
    assert "60,00" not in plain(page)
    assert money(page) == []
