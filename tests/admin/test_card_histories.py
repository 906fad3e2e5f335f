"""The card's tab «Счета клиента» with the change history, and «История финансов»."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, base_account, house_account, post, reverse
from crm.payments.desk import close_account
from tests.admin.test_grids import plain, table, totals
from tests.factories import make_account, make_account_type, make_child, make_client, make_payment, make_subscription


def tab(browser: Any, client: Any, name: str, query: str = "") -> str:
    answer = browser.get(f"/admin/client/card/{client.id}/?tab={name}{query}")
    assert answer.status_code == 200
    return str(answer.text)


def sums(page: str) -> list[str]:
    """Signed sums of the history's rows, as shown."""
    return [next(cell for cell in row if re.fullmatch(r"[+-][\d ]+,\d\d", cell)) for row in table(page)]


def excel_of(browser: Any, page: str) -> list[list[Any]]:
    """Rows of the file the page's export button leads to."""
    link = re.search(r'href="(/admin/entry/export/xlsx/[^"]*)"', page)
    assert link is not None
    answer = browser.get(html.unescape(link[1]))
    assert answer.status_code == 200
    sheet = openpyxl.load_workbook(BytesIO(answer.data)).active
    return [[cell.value for cell in row] for row in sheet.iter_rows()]


def rows_of(page: str) -> list[tuple[str, list[str]]]:
    """(class, cells) of the history's rows."""
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert body is not None
    classes = [found or "" for found in re.findall(r'<tr(?: class="([^"]*)")?>', body[1])]
    return list(zip(classes, table(page), strict=True))


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Берёзкина Анна")


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


# --- the accounts ---------------------------------------------------------------------------------------------------


@pytest.mark.spec("A30", "C20", "X14")
def test_balances_are_red_for_debts_and_green_for_money_ahead(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=500)
    make_subscription(client)
    page = tab(browser, client, "accounts")
    balances = re.findall(r'<p class="balance tabular (\w+)">.*?</span>\s*(.*?)</p>', page)
    assert [(css, text.replace("\xa0", " ")) for css, text in balances] == [
        ("debt", "-4 000,00 ₽"),
        ("prepaid", "500,00 ₽"),
    ]


@pytest.mark.spec("A23", "A30")
def test_an_account_says_what_it_has_been_through_and_who_opened_it(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client, balance=500, by=network.administrator)
    with transaction():
        cash = house_account(AccountKind.CASH, network.lesnoy.id)
        lines = [Line(account, Decimal("-120.50")), Line(cash, Decimal("120.50"))]
        post(TransactionKind.REFUND, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    page = plain(tab(browser, client, "accounts"))
    assert "Пополнения: 500,00 Списания: 120,50" in page
    opened = clock.local(account.opened_at, network.lesnoy)
    assert re.search(rf"{opened:%d.%m.%Y %H:%M} ?, {network.administrator.name}", page)


@pytest.mark.spec("A31")
def test_what_may_be_done_is_offered(network: Any, browser: Any, web: Any, client: Any) -> None:
    account = make_account(client)
    path = f"/admin/account/{account.id}"
    verbs = ("top-up", "write-off", "refund", "transfer", "close")
    of_clerk, of_director, of_manager = (
        {verb for verb in verbs if f'href="{path}/{verb}/"' in tab(web(user, network.lesnoy), client, "accounts")}
        for user in (network.administrator, network.director, network.manager)
    )
    assert of_director == set(verbs)
    assert "top-up" in of_clerk
    assert "close" not in of_clerk
    assert of_manager == set()


def test_closed_accounts_are_folded_below(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client)
    make_account(client, make_account_type(network.lesnoy, name="Подарочные"), balance=5)
    with transaction():
        close_account(account, by=network.director)
    page = tab(browser, client, "accounts")
    opened, _details, closed = page.partition('<details class="closed-accounts">')
    assert "<h2>Подарочные</h2>" in opened
    assert "<h2>Депозиты</h2>" in closed
    assert f'href="/admin/account/{account.id}/top-up/"' not in page


# --- the change history ---------------------------------------------------------------------------------------------


@pytest.mark.spec("A23", "A24", "A32")
def test_the_history_says_date_kind_sum_balance_author_and_employee(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client)
    make_payment(account, 700, by=network.administrator, employee=network.employee, comment="За ноябрь")
    (row,) = table(tab(browser, client, "accounts"))
    happened = db.session.scalars(select(Transaction.happened_at)).one()
    assert row[:-1] == [
        f"{clock.local(happened, network.lesnoy):%d.%m.%Y %H:%M}",
        *("Депозиты", "Пополнение", "+700,00", "700,00"),
        *(network.administrator.name, "Вера Тренер", "Лесной", "За ноябрь", "—", "Наличными"),
    ]


@pytest.mark.spec("A23")
def test_the_author_is_there_without_an_employee(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=10, by=network.director)
    (row,) = table(tab(browser, client, "accounts"))
    assert row[5:7] == [network.director.name, "—"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["-4 000,00", "+20,00", "+10,00"]),
        ("&kind=top_up", ["+20,00", "+10,00"]),
        ("&account={first}", ["+10,00"]),
        ("&account={second}", ["+20,00"]),
        ("&account={first}&kind=sale", []),
        ("&from=2999-01-01", []),
        ("&to=2999-01-01", ["-4 000,00", "+20,00", "+10,00"]),
        ("&from=вчера", ["-4 000,00", "+20,00", "+10,00"]),
        ("&account={theirs}", ["-4 000,00", "+20,00", "+10,00"]),
        ("&kind=nonsense", ["-4 000,00", "+20,00", "+10,00"]),
    ],
)
def test_the_history_is_narrowed_and_its_file_is_the_same(
    network: Any, browser: Any, client: Any, query: str, found: list[str]
) -> None:
    first = make_account(client, balance=10)
    second = make_account(client, make_account_type(network.lesnoy, name="Подарочные"), balance=20)
    theirs = make_account(make_client(network.lesnoy), balance=30)
    make_subscription(client)
    page = tab(browser, client, "accounts", query.format(first=first.id, second=second.id, theirs=theirs.id))
    if not found:
        assert "Ничего не подходит" in plain(page)
        return
    assert sums(page) == found
    if "вчера" in query or "nonsense" in query:  # what cannot be read is said, and nothing is taken away by mistake
        assert 'class="alert alert-warning' in page
        return
    header, *lines, last = excel_of(browser, page)
    column = header.index("Сумма")
    told = [Decimal(text.replace(" ", "").replace(",", ".")) for text in found]
    assert [line[column] for line in lines] == told
    assert last[column] == sum(told)


def test_a_day_is_the_branchs_day(network: Any, web: Any, client: Any, monkeypatch: Any) -> None:
    """23:30 of the 14th in London is the 15th in Moscow."""
    account = make_account(client)
    with transaction():
        cash = house_account(AccountKind.CASH, network.lesnoy.id)
        lines = [Line(account, Decimal(5)), Line(cash, Decimal(-5))]
        late = datetime(2026, 3, 14, 23, 30, tzinfo=UTC)
        post(TransactionKind.TOP_UP, lines, branch_id=network.lesnoy.id, by=SYSTEM, happened_at=late)
    browser = web(network.administrator, network.lesnoy)
    assert sums(tab(browser, client, "accounts", "&from=2026-03-15&to=2026-03-15")) == ["+5,00"]
    assert "Ничего не подходит" in plain(tab(browser, client, "accounts", "&to=2026-03-14"))


def test_the_latest_fifty_are_shown_and_the_total_is_of_all(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client)
    for number in range(1, 54):
        make_payment(account, number)
    page = tab(browser, client, "accounts")
    assert (len(table(page)), sums(page)[0], sums(page)[-1]) == (50, "+53,00", "+4,00")
    assert "Показаны последние 50 из 53; итог — по всем." in plain(page)
    assert "+1 431,00" in totals(page)
    assert excel_of(browser, page)[-1].count(1431) == 1


def test_the_whole_history_is_a_link_away(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=10)
    make_account(make_client(network.lesnoy), balance=99)
    page = tab(browser, client, "accounts", "&kind=top_up")
    link = re.search(r'href="(/admin/entry/\?[^"]*)"[^>]*>Вся история', page)
    assert link is not None
    assert [row[4] for row in table(browser.get(html.unescape(link[1])).text)] == ["+10,00"]


def test_a_childs_card_shows_the_payers_accounts_and_the_familys_own(network: Any, browser: Any, client: Any) -> None:
    child = make_child(client, name="Берёзкин Лев")
    make_account(client, balance=10)
    with transaction():  # left from a time when he paid for himself
        own = base_account(child.id, network.lesnoy.id)
        cash = house_account(AccountKind.CASH, network.lesnoy.id)
        lines = [Line(own, Decimal(3)), Line(cash, Decimal(-3))]
        post(TransactionKind.TOP_UP, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    for card in (client, child):
        page = tab(browser, card, "accounts")
        assert sums(page) == ["+3,00", "+10,00"]
        assert "Берёзкин Лев" in plain(page)
        assert sums(tab(browser, card, "history")) == ["+3,00", "+10,00"]


@pytest.mark.parametrize("name", ["accounts", "history"])
def test_hidden_sums_stay_hidden(network: Any, browser: Any, client: Any, name: str) -> None:
    make_account(client, balance=Decimal("777.31"))
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    with transaction():
        change_role(settings, permissions={}, fields={"account.balance": FieldRule.HIDE}, by=SYSTEM)
    page = tab(browser, client, name)
    assert "777,31" not in page
    assert "777.31" not in page
    assert "Пополнение" in plain(page)
    assert "standing-" not in page
    assert "777.31" not in str(excel_of(browser, page))


def test_without_the_permission_there_is_no_history(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=Decimal("777.31"))
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    with transaction():
        change_role(settings, permissions={"entry.view": False}, fields={}, by=SYSTEM)
    page = tab(browser, client, "accounts")
    assert "777,31" in page  # the balance
    assert "История изменений" not in page
    assert "tab=history" not in page


def test_nothing_of_a_foreign_branch(network: Any, web: Any, client: Any) -> None:
    """An account a merged card had elsewhere: who does not see that branch does not see its operations."""
    account = make_account(client, balance=10)
    theirs = make_account(make_client(network.mira), balance=Decimal("888.31"))
    with transaction():
        db.session.execute(
            Account.__table__.update().where(Account.__table__.c.id == theirs.id).values(client_id=client.id)
        )
    assert account.client_id == client.id
    for name in ("accounts", "history"):
        assert "888,31" not in tab(web(network.director), client, name)
        assert "888,31" in tab(web(network.owner), client, name)


# --- the history of finances ----------------------------------------------------------------------------------------


@pytest.mark.spec("C90")
def test_finances_say_date_kind_employee_quantity_and_sum(network: Any, browser: Any, client: Any) -> None:
    sold = make_subscription(client)
    page = tab(browser, client, "history")
    heads = [plain(cell) for cell in re.findall(r"<th scope.*?</th>", page, re.DOTALL)]
    assert heads[:6] == ["Дата", "Операция", "За что", "Сотрудник", "Количество", "Сумма"]
    (row,) = table(page)
    happened = db.session.scalars(select(Transaction.happened_at)).one()
    assert row[0] == f"{clock.local(happened, network.lesnoy):%d.%m.%Y %H:%M}"
    assert row[1:6] == ["Продажа абонемента", f"8 занятий #{sold.id}", "—", "+8", "-4 000,00"]


@pytest.mark.spec("C91", "C92", "C93", "C20", "X14")
def test_rows_are_red_green_and_orange_and_say_why(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client, balance=1000)  # ahead
    sold = make_subscription(client)  # owes 4000
    base = base_account(client.id, network.lesnoy.id)

    def move(kind: TransactionKind, target: Account, amount: int, other: AccountKind) -> None:
        with transaction():
            lines = [Line(target, Decimal(amount)), Line(house_account(other, network.lesnoy.id), Decimal(-amount))]
            cause = Cause(client.id, subscription_id=sold.id)
            post(kind, lines, branch_id=network.lesnoy.id, by=SYSTEM, cause=cause)

    move(TransactionKind.DISCOUNT, base, 400, AccountKind.DISCOUNTS)  # a discount, though he still owes
    move(TransactionKind.TOP_UP, base, 600, AccountKind.CASH)  # the debt is less, but nobody is ahead
    move(TransactionKind.WRITE_OFF, account, -100, AccountKind.REVENUE)  # 900 are left of his own money
    move(TransactionKind.WRITE_OFF, base, -1, AccountKind.REVENUE)  # deeper in debt
    found = [(css, row[5], row[6]) for css, row in reversed(rows_of(tab(browser, client, "history")))]
    red, green, orange = "Центр дал в долг клиенту", "Клиент дал в долг центру", "Скидка"
    assert found == [
        ("standing-prepaid", "+1 000,00", green),
        ("standing-debt", "-4 000,00", red),
        ("standing-discount", "+400,00", orange),
        ("", "+600,00", "—"),
        ("", "-100,00", "—"),
        ("standing-debt", "-1,00", red),
    ]


@pytest.mark.spec("C94")
def test_the_file_of_finances_holds_the_same_sums(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client, balance=Decimal("1000.55"))
    make_payment(account, Decimal("0.45"))
    make_subscription(client)
    with transaction():
        posted = db.session.scalars(select(Transaction).order_by(Transaction.id)).first()
        assert posted is not None
        reverse(posted, by=SYSTEM, comment="ошибка")
    page = tab(browser, client, "history")
    header, *lines, last = excel_of(browser, page)
    assert header == ["Дата", "Операция", "За что", "Сотрудник", "Количество", "Сумма"]
    shown = [Decimal(text.replace(" ", "").replace(",", ".")) for text in sums(page)]
    assert [Decimal(str(line[5])).quantize(Decimal("0.01")) for line in lines] == shown
    assert Decimal(str(last[5])).quantize(Decimal("0.01")) == sum(shown) == Decimal("-3999.55")
    assert "-3 999,55" in totals(page)
    assert [line[4] for line in lines] == [None, 8, None, None]
    assert "Экспорт" in plain(page)
