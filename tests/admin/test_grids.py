"""Every registered grid: shown with rows and without, searched, filtered, sorted, paged, whatever the address holds;
and never by a number of queries that grows with the rows.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import pytest
from flask import Flask
from sqlalchemy import event
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.access.models import Role
from crm.access.scope import BranchScoped
from crm.admin import selection
from crm.bills.operations import archive_bill
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.security import on_behalf_of
from tests.admin.world import one_of_each, views
from tests.factories import (
    make_account,
    make_bill,
    make_child,
    make_client,
    make_employee,
    make_job,
    make_message,
    make_payment,
    make_plan,
    make_rule,
    make_schedule,
    make_subscription,
    make_template,
    make_user,
)

sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
PARTS = 4  # of the walks through all the views: none keeps one worker while the others have ended


def plain(page: str) -> str:
    """What the page says, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())


def table(page: str) -> list[list[str]]:
    """Cells of the grid's body, row by row; the column of ticks left out."""
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    if body is None:
        return []
    cells = re.compile(r"<(t[hd])\b([^>]*)>(.*?)</\1>", re.DOTALL)
    rows = re.findall(r"<tr\b.*?</tr>", body[1], re.DOTALL)
    return [[plain(cell[2]) for cell in cells.findall(row) if "tick" not in cell[1]] for row in rows]


def headers(page: str) -> list[str]:
    head = re.search(r'<table class="[^"]*grid.*?<thead>(.*?)</thead>', page, re.DOTALL)
    assert head is not None
    unranked = re.sub(r"<sup>\d+</sup>", "", head[1])  # of several sorts, which comes first
    return [plain(cell) for cell in re.findall(r"<th scope.*?</th>", unranked, re.DOTALL)]


def totals(page: str) -> list[str]:
    foot = re.search(r"<tfoot>(.*?)</tfoot>", page, re.DOTALL)
    cells = re.findall(r"<td\b.*?</td>", foot[1], re.DOTALL) if foot else []
    return [plain(cell) for cell in cells if 'class="tick"' not in cell]


def first_column(page: str) -> list[str]:
    return [row[0] for row in table(page)]


def money(text: str) -> Decimal:
    return Decimal(text.replace(" ", "").replace(",", "."))


# --- whatever is in the address -------------------------------------------------------------------------------------


def addresses(view: Any) -> Iterator[str]:
    """Good and senseless addresses of a grid, every filter and every order among them."""
    yield from ("", "?q=а", "?q=918", "?q=%00", "?q=%25_%5C'%22", f"?q={'слово+' * 300}", "?q=7&q=8")
    yield from (
        "?page=-1",
        f"?page={10**12}",
        "?page=2",
        "?page=99999",
        "?page=abc",
        "?page=%00",
        "?size=25",
        "?size=-1",
    )
    yield from ("?sort=unknown", "?sort=-", "?sort=-id", "?sort=__class__", "?f.id.is=1", "?f..=", "?f.unknown.is=1")
    yield from ("?f.status.unknown=1", "?f=1", "?f.a.b.c=1", "?q=" + "9" * 40)
    for name in view.sortable_columns():
        yield from (f"?sort={name}", f"?sort=-{name}")
    columns = view.filter_columns()
    odd = ("", "abc", "%00", "1", "-1", "0", "2026-01-31", "0001-01-01", "9999-12-31", "2026-02-30", "1e999", "NaN")
    odder = ("Infinity", "9" * 30, "1.005", "1 234,50", "%D9%A1", "²", "../..", "😀", "this_month")
    for value in (*odd, *odder):  # all filters at once: one page tells of each
        yield "?" + "&".join(
            f"{group}f.{name}.{operator}={value}"
            for name, column in columns.items()
            for operator in column.kind.operators
            for group in ("", "any1.")
        )
    for name, column in columns.items():
        yield f"?f.{name}.unknown=1&f.{name}.{column.kind.operators[0]}={'9' * 5000}"
        if choices := [value for value, _label in column.kind.choices()]:
            yield f"?f.{name}.is={choices[0]}&f.{name}.is={choices[-1]}&f.{name}.is=zzz&f.{name}.not={choices[0]}"


@pytest.fixture
def world(network: Any) -> dict[str, int]:
    one_of_each(network.mira, "Самарские")
    return one_of_each(network.lesnoy, "Лесные")


@sqlite_only
@pytest.mark.parametrize("part", range(PARTS))
def test_no_address_breaks_a_grid(network: Any, web: Any, app: Flask, world: Any, part: int) -> None:
    client = web(network.owner)
    bad = []
    for view in views(app)[part::PARTS]:
        with on_behalf_of(network.owner.id, branch_id=None, locale="ru", source="test"):
            paths = list(addresses(view))
        for path in paths:
            answer = client.get(f"/admin/{view.entity}/{path}")
            if answer.status_code != 200:
                bad.append((view.entity, path[:80], answer.status_code))
    assert bad == []


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_no_address_breaks_the_statements_of_a_grid(network: Any, app: Flask, world: Any) -> None:
    """All that a grid asks of the other database; its page is drawn of the answers alike."""
    bad = []
    with on_behalf_of(network.owner.id, branch_id=None, locale="ru", source="test"):
        for view in views(app):
            totalled = [column for column in view.columns if view.is_totalled(column)]
            for path in addresses(view):
                args = MultiDict(parse_qsl(path.removeprefix("?"), keep_blank_values=True))
                try:
                    chosen = selection.Selection.from_args(view, args, view.here())
                    columns = chosen.columns(view.columns)
                    page = chosen.read_page(columns)
                    chosen.page_links(page)
                    chosen.summary(totalled)
                    view.chip_notes(chosen, exact=False)
                except Exception as error:
                    db.session.rollback()
                    bad.append((view.entity, path[:80], repr(error)[:200]))
    assert bad == []


@sqlite_only
def test_no_address_breaks_an_export(network: Any, web: Any, world: Any) -> None:
    client = web(network.owner)
    for path in ("?page=-1", "?q=%00", "?sort=title"):
        answer = client.get(f"/admin/bill/export/xlsx/{path}")
        assert (answer.status_code, answer.data[:2]) == (200, b"PK"), path
    # Without the filter it would be another, larger file: back to the grid, which says what is wrong.
    for path in ("?f.amount.from=abc", "?f.amount.to=NaN", "?f.status.is=zzz", "?f.nothing.is=1"):
        answer = client.get(f"/admin/bill/export/xlsx/{path}")
        assert answer.status_code == 302, path
        assert answer.location.startswith("/admin/bill/?f."), path


@sqlite_only
def test_a_filter_that_cannot_be_read_says_so_and_is_not_applied(network: Any, web: Any) -> None:
    make_bill(make_client(network.lesnoy), amount=Decimal("1500"))
    page = web(network.owner).get("/admin/bill/?f.amount.from=abc&f.status.is=zzz&f.issued_at.from=31.02.2026").text
    assert len(table(page)) == 1
    for text in ("«abc» — не сумма.", "«zzz» нет среди вариантов.", "«31.02.2026» — не дата."):
        assert text in plain(page)
    assert page.count("chip-bad") == 3


def test_every_grid_is_shown_empty(app: Flask, web: Any) -> None:
    owner = make_user(Role.OWNER)
    client = web(owner)
    for view in views(app):
        path = "?f.nothing.is=1&q=нетникого" if view.has_search else ""
        answer = client.get(f"/admin/{view.entity}/{path}")
        assert answer.status_code == 200, view.entity
    page = client.get("/admin/client/").text
    assert "Добавьте первого клиента или загрузите клиентов из Excel." in page
    assert "Добавить клиента" in page


# --- what rows cost -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted(app: Flask) -> Iterator[list[str]]:
    """Statements sent to the database meanwhile, whoever sends them."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def grow(network: Any, count: int) -> None:
    """`count` more rows in every grid but those of places; each with relations of its own."""
    branches = (network.lesnoy, network.rechnoy, network.mira)
    for index in range(count):
        branch = branches[index % 3]
        client = make_client(branch)
        make_child(client)
        account = make_account(client, balance=10)
        make_payment(account, 5)
        make_bill(client, account=account)
        make_subscription(client, make_plan())
        make_message(client)
        make_rule(branch, template=make_template())
        make_employee(branch)
        make_user(Role.DIRECTOR, branches=[branch], cities=[network.moscow])


@pytest.mark.parametrize("branch", [None, "lesnoy"])
def test_the_number_of_queries_does_not_grow_with_the_rows(
    network: Any, web: Any, app: Flask, branch: str | None
) -> None:
    client = web(network.owner, getattr(network, branch) if branch else None)

    def cost() -> dict[str, tuple[int, int]]:
        found = {}
        for view in views(app):
            for path in ("", "export/xlsx/"):
                with counted(app) as statements:
                    answer = client.get(f"/admin/{view.entity}/{path}?size=50")
                    assert answer.status_code == 200
                    assert answer.data
                found[f"{view.entity}/{path}"] = len(statements)
        return found

    grow(network, 4)
    cost()  # the first requests compile and cache
    few = cost()
    grow(network, 11)
    many = cost()
    # A page that has a next one is counted: one query more.
    grown = {name: (few[name], many[name]) for name in few if many[name] > few[name] + 1}
    assert grown == {}
    assert max(many.values()) < 30


# --- clients --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(network: Any) -> Any:
    make_client(network.lesnoy, name="Берёзкина Анна Петровна", phone="+79181590830", email="anna@demo.test")
    make_client(network.lesnoy, name="Соснин Павел", phone="+79265550102", email="pavel@demo.test")
    make_client(network.mira, name="Берёзкин Олег", phone="+79271234567", email="oleg@demo.test")
    return network


@pytest.mark.spec("C1", "C2")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("берез", ["Берёзкин Олег", "Берёзкина Анна Петровна"]),
        ("БЕРЁЗКИНА анна", ["Берёзкина Анна Петровна"]),
        ("петровна", ["Берёзкина Анна Петровна"]),
        ("918159", ["Берёзкина Анна Петровна"]),
        ("8 (918) 159-08-30", ["Берёзкина Анна Петровна"]),
        ("+7 918 159", ["Берёзкина Анна Петровна"]),
        ("0102", ["Соснин Павел"]),
        ("pavel@", ["Соснин Павел"]),
        ("никого", []),
        ("%", []),
    ],
)
def test_clients_are_found_by_part_of_the_name_or_the_phone(three: Any, web: Any, text: str, found: list[str]) -> None:
    client = web(three.owner)
    assert first_column(client.get("/admin/client/", query_string={"q": text}).text) == found
    page = client.get("/admin/search/", query_string={"q": text})
    if len(found) == 1:  # a single hit opens at once
        assert "/admin/client/card/" in page.location
    else:
        assert re.findall(r"<li><a [^>]*><strong>([^<]+)</strong>", page.text) == found


@pytest.mark.spec("C3")
def test_archived_clients_are_seen_only_when_asked_for(three: Any, web: Any) -> None:
    gone = make_client(three.lesnoy, name="Берёзкин Архивный", phone="+79180000001")
    with transaction():
        archive_client(gone, by=three.owner)
    client = web(three.owner)
    for path in ("/admin/client/", "/admin/client/?q=берез", "/admin/client/?f.status.is=active"):
        assert "Берёзкин Архивный" not in client.get(path).text
    assert "Берёзкин Архивный" not in client.get("/admin/search/?q=Архивный").text
    assert first_column(client.get("/admin/client/?f.status.is=archived").text) == ["Берёзкин Архивный"]
    both = first_column(client.get("/admin/client/?f.status.is=archived&f.status.is=active").text)
    assert len(both) == 4
    assert client.get(f"/admin/client/card/{gone.id}/").status_code == 200


def test_the_branch_switcher_and_the_branch_column(three: Any, web: Any) -> None:
    network = web(three.owner).get("/admin/client/").text
    assert "Филиал" in headers(network)
    assert len(table(network)) == 3
    branch = web(three.owner, three.lesnoy).get("/admin/client/").text
    assert "Филиал" not in headers(branch)
    assert first_column(branch) == ["Берёзкина Анна Петровна", "Соснин Павел"]
    filtered = web(three.owner).get(f"/admin/client/?f.branch.is={three.mira.id}").text
    assert first_column(filtered) == ["Берёзкин Олег"]
    director = web(three.director).get("/admin/client/").text
    assert first_column(director) == ["Берёзкина Анна Петровна", "Соснин Павел"]
    assert first_column(web(three.director).get(f"/admin/client/?f.branch.is={three.mira.id}").text) == []
    assert "Мира" not in director


def test_the_first_cell_opens_the_row(network: Any, web: Any, app: Flask, world: Any) -> None:
    client = web(network.owner)
    make_job(network.owner)
    make_schedule(network.owner)
    for view in views(app):
        if view.list_template != "admin/list.html":
            continue  # a page of its own
        link = re.search(r'<a href="([^"]+)" data-open', client.get(f"/admin/{view.entity}/?sort=-id").text)
        assert link, view.entity
        answer = client.get(html.unescape(link[1]))
        assert answer.status_code == 200, link[1]
        assert "object at 0x" not in answer.text
        assert not re.search(r"&lt;\w+ \d+&gt;", answer.text), view.entity  # a row without a name of its own


# --- orders, pages, totals ------------------------------------------------------------------------------------------


def test_orders(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    bills = [make_bill(client, amount=Decimal(amount)) for amount in ("300", "100", "200")]
    titles = [bill.title for bill in bills]
    browser = web(network.owner)
    assert first_column(browser.get("/admin/bill/?sort=amount").text) == [titles[1], titles[2], titles[0]]
    assert first_column(browser.get("/admin/bill/?sort=-amount").text) == [titles[0], titles[2], titles[1]]
    page = browser.get("/admin/bill/?sort=-amount").text
    assert re.search(r'aria-sort="descending">\s*<a[^>]*>Сумма', page)


def test_pages_show_every_row_once(network: Any, web: Any) -> None:
    with clock.frozen(datetime(2026, 11, 2, 9, tzinfo=UTC)):  # a tie in every column people sort by
        client = make_client(network.lesnoy)
        for _ in range(60):
            make_bill(client)
    browser = web(network.owner)
    for sort in ("amount", "-issued_at", "status"):
        seen = [
            title
            for page in (1, 2, 3)
            for title in first_column(browser.get(f"/admin/bill/?sort={sort}&size=25&page={page}").text)
        ]
        assert len(seen) == len(set(seen)) == 60
    page = browser.get("/admin/bill/?size=25&page=2").text
    assert "26–50 из 60" in plain(page)
    assert 'rel="prev"' in page
    assert 'rel="next"' in page
    assert 'rel="next"' not in browser.get("/admin/bill/?size=25&page=3").text


def test_totals_are_the_sum_of_the_rows(network: Any, web: Any) -> None:
    for index, branch in enumerate((network.lesnoy, network.lesnoy, network.mira), 1):
        client = make_client(branch, name=f"Клиент {index}")
        make_account(client, balance=Decimal("100.10") * index)
        make_bill(client, amount=Decimal("10.01") * index)
        make_subscription(client)  # the base account goes into debt
    for path in ("", "?f.balance.from=0", "?q=Клиент+2"):
        for branch in (None, network.lesnoy):
            page = web(network.owner, branch).get(f"/admin/account/{path}").text
            names, rows, foot = headers(page), table(page), totals(page)
            for column in ("Баланс", "Пополнения", "Списания"):
                place = names.index(column)
                assert money(foot[place]) == sum(money(row[place]) for row in rows), (path, column)
            balance, credited, debited = (names.index(c) for c in ("Баланс", "Пополнения", "Списания"))
            for row in [*rows, foot]:
                assert money(row[credited]) - money(row[debited]) == money(row[balance])
    page = web(network.owner).get("/admin/bill/?size=25").text
    assert money(totals(page)[headers(page).index("Сумма")]) == Decimal("60.06")


@pytest.mark.spec("A33", "A34", "A35", "A36")
def test_the_list_of_accounts_holds_the_accounts_of_all_clients_who_ever_had_one(network: Any, web: Any) -> None:
    without, with_account = make_client(network.lesnoy), make_client(network.mira)
    make_account(with_account, balance=150)
    make_subscription(with_account)  # a house account, a base account and a count of lessons
    page = web(network.owner).get("/admin/account/").text
    assert "Счета клиентов" in plain(page)
    assert "Список счетов" in plain(page)
    assert {"Баланс", "Пополнения", "Списания"} <= set(headers(page))
    shown = sorted((row[0], row[1], money(row[2])) for row in table(page))
    assert shown == [
        (with_account.name, "Базовый счёт", Decimal("-4000.00")),
        (with_account.name, "Депозиты", Decimal("150.00")),
    ]
    assert without.name not in page


def test_totals_of_everything_not_of_the_page(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    for _ in range(30):
        make_bill(client, amount=Decimal("1.50"))
    page = web(network.owner).get("/admin/bill/?size=25").text
    assert len(table(page)) == 25
    assert money(totals(page)[headers(page).index("Сумма")]) == Decimal("45.00")


@sqlite_only
def test_counting_stops_at_a_limit(network: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(network.lesnoy)
    for _ in range(30):
        make_bill(client)
    monkeypatch.setattr(selection, "COUNT_LIMIT", 28)
    page = plain(web(network.owner).get("/admin/bill/?size=25").text)
    assert "1–25 из 10 000+" in page
    assert "Все подходящие: 10 000+" in page
    monkeypatch.setattr(selection, "COUNT_LIMIT", 30)
    assert "1–25 из 30" in plain(web(network.owner).get("/admin/bill/?size=25").text)


# --- filters --------------------------------------------------------------------------------------------------------


def test_bills_are_filtered_by_the_status_the_grid_shows(network: Any, web: Any) -> None:
    client, samara = make_client(network.lesnoy), make_client(network.mira)
    with clock.frozen(datetime(2026, 11, 1, 9, tzinfo=UTC)):
        open_ended = make_bill(client).title
        ends_today, here = (make_bill(who, payable_until=date(2026, 11, 10)).title for who in (client, samara))
    with clock.frozen(datetime(2026, 11, 10, 20, 30, tzinfo=UTC)):  # 23:30 in Moscow, the next day in Samara
        browser = web(network.owner)
        page = browser.get("/admin/bill/").text
        chips = dict(re.findall(r'class="chip chip-quick" href="([^"]+)"[^>]*>([^<]+)', page))
        found = {
            label.strip(): first_column(browser.get(f"/admin/bill/{html.unescape(url)}").text)
            for url, label in chips.items()
        }
        assert found["Ожидает оплаты"] == [ends_today, open_ended]
        assert found["Срок оплаты истёк"] == [here]
        for path, count in (("f.status.not=overdue", 2), ("f.status.is=pending", 3), ("f.status.not=awaiting", 1)):
            assert len(first_column(browser.get(f"/admin/bill/?{path}").text)) == count, path
        assert "Статус: Срок оплаты истёк" in plain(browser.get("/admin/bill/?f.status.is=overdue").text)


def test_filters_of_every_kind(network: Any, web: Any) -> None:
    with clock.frozen(datetime(2026, 11, 1, 20, 30, tzinfo=UTC)):  # 23:30 in Moscow, the next day in Samara
        anna = make_client(network.lesnoy, name="Анна", birth_date=datetime(1990, 5, 1).date())
        first = make_bill(anna, amount=Decimal("100"))
    with clock.frozen(datetime(2026, 11, 3, 9, tzinfo=UTC)):
        oleg = make_client(network.lesnoy, name="Олег", phone="+79991112233")
        second = make_bill(oleg, amount=Decimal("1234.50"), payable_until=datetime(2026, 11, 30).date())
        with transaction():
            archive_bill(make_bill(oleg, amount=Decimal("5000")), by=network.owner)
    browser = web(network.owner)

    def bills(path: str) -> list[str]:
        return first_column(browser.get(f"/admin/bill/?{path}").text)

    assert bills("f.amount.from=1 234,50&f.amount.to=1234.50") == [second.title]
    assert bills("f.amount.to=100") == [first.title]
    assert bills("f.status.is=pending&f.amount.from=0") == [second.title, first.title]
    assert len(bills("f.status.is=pending&f.status.is=archived")) == 3
    # A day is the branch's day, both ends included.
    assert bills("f.issued_at.from=2026-11-01&f.issued_at.to=2026-11-01") == [first.title]
    assert bills("f.issued_at.from=2026-11-02&f.issued_at.to=2026-11-02") == []
    assert bills("f.payable_until.from=2026-11-30") == [second.title]

    def clients(path: str) -> list[str]:
        return first_column(browser.get(f"/admin/client/?{path}").text)

    assert clients("f.birth_date.to=1990-05-01") == ["Анна"]
    assert clients("f.phone.has=8 999 111") == ["Олег"]
    assert clients("f.email.has=@demo") == ["Анна", "Олег"]
    page = browser.get("/admin/bill/?f.status.is=archived&f.amount.from=10").text
    assert "Статус: В архиве" in plain(page)
    assert "Сумма от 10,00" in plain(page)


@pytest.mark.spec("B49")
def test_bills_stand_under_finance(network: Any, web: Any) -> None:
    page = web(network.administrator, network.lesnoy).get("/admin/").text
    menu = re.search(r'<nav class="side".*?</nav>', page, re.DOTALL)
    assert menu is not None
    finance = menu[0].split(">Финансы<")[1].split("</ul>")[0]
    assert re.search(r'href="/admin/bill/"[^>]*>.*?Счета', finance)


@pytest.mark.spec("A5")
def test_account_types_stand_under_client_accounts(network: Any, web: Any) -> None:
    page = web(network.owner).get("/admin/accounttype/").text
    accounts = page.split(">Счета клиентов<")[1].split("</ul>")[0]
    assert re.search(r'href="/admin/accounttype/"[^>]*>.*?Типы счетов', accounts)
    assert re.search(r'href="/admin/accounttype/new/"[^>]*>.*?Добавить тип счета', page)


@sqlite_only
def test_the_menu_holds_what_the_role_may_see(network: Any, web: Any, app: Flask) -> None:
    for user in network.users:
        menu = web(user).get("/admin/").text.partition('<nav class="side"')[2].partition("</nav>")[0]
        shown = set(re.findall(r'href="/admin/(\w+)/"', menu))
        shown |= {"template"} & {
            name.removeprefix("email").removesuffix("s") for name in shown
        }  # two lists of one grid
        # One's own jobs stand behind the avatar; reports are no grids.
        grids = {view.entity for view in views(app)} - {"job"}
        assert shown & grids == {entity for entity in grids if user.may(f"{entity}.view")}, user.role


def test_every_branch_scoped_grid_obeys_the_switcher(network: Any, web: Any, app: Flask, world: Any) -> None:
    scoped = [
        view for view in views(app) if issubclass(view.model, BranchScoped) or view.entity in {"employee", "audit"}
    ]
    assert len(scoped) >= 11
    for view in scoped:
        everywhere = len(table(web(network.owner).get(f"/admin/{view.entity}/?size=200").text))
        lesnoy = len(table(web(network.owner, network.lesnoy).get(f"/admin/{view.entity}/?size=200").text))
        mira = len(table(web(network.owner, network.mira).get(f"/admin/{view.entity}/?size=200").text))
        rechnoy = len(table(web(network.owner, network.rechnoy).get(f"/admin/{view.entity}/?size=200").text))
        assert lesnoy, view.entity
        assert mira, view.entity
        assert rechnoy == 0, view.entity
        assert everywhere >= lesnoy + mira, view.entity
