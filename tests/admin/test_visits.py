"""Visits as an administrator works with them: the grid, booking, the visit window, the payment."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.models import Payment
from crm.tills.models import Till, TillKind
from crm.tills.operations import new_till
from crm.visits.models import Visit, VisitStatus, WayToPay
from crm.visits.operations import edit_visit, move_visit, pay_visit
from tests.admin.test_grids import first_column, plain
from tests.admin.world import errors, fields, send
from tests.factories import (
    house_balance,
    make_account,
    make_child,
    make_client,
    make_employee,
    make_payment,
    make_subscription,
    make_visit,
)

NEW = "/admin/visit/new/"


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Берёзкина Анна", phone="+79181234567")


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def window(visit: Any) -> str:
    return f"/admin/visit/details/?id={visit.id}"


def paying(visit: Any) -> str:
    return f"/admin/visit/pay/?id={visit.id}"


def block(page: str, heading: str) -> str:
    """HTML of the window's block under a heading."""
    return next(part for part in re.findall(r"<section.*?</section>", page, re.DOTALL) if f">{heading}</h2>" in part)


def test_who_comes_is_found_and_then_booked(network: Any, browser: Any, client: Any) -> None:
    make_client(network.mira, name="Берёзкина Чужая")
    assert 'name="q"' in browser.get(NEW).text
    page = browser.get(f"{NEW}?q=берёзк").text
    assert "Чужая" not in page
    [path] = re.findall(rf'href="({re.escape(NEW)}\?client=\d+)"', page)
    assert path == f"{NEW}?client={client.id}"
    assert "Никто не найден" in browser.get(f"{NEW}?q=никтошенька").text
    answer = send(
        browser,
        path,
        starts_at="2026-11-23T09:30",
        service="Стрижка",
        price="1 200,50",
        employee=str(network.employee.id),
        comment="Первый раз",
    )
    assert answer.status_code == 302
    visit = db.session.scalars(select(Visit)).one()
    assert answer.location.endswith(window(visit))
    assert visit.starts_at == datetime(2026, 11, 23, 6, 30, tzinfo=UTC)  # half past nine in Moscow
    assert (visit.client_id, visit.price, visit.author_id) == (client.id, Decimal("1200.50"), network.administrator.id)
    page = plain(browser.get(answer.location).text)
    for text in ("Стрижка", "23.11.2026 09:30", "1 200,50", "Вера Тренер", "Первый раз", "Ожидается"):
        assert text in page, text


def test_a_moment_is_the_wall_clock_of_the_visits_branch(network: Any, web: Any) -> None:
    """Samara is an hour ahead; the owner books from the network."""
    client = make_client(network.mira)
    owner = web(network.owner)
    with clock.frozen(datetime(2026, 11, 22, 19, 10, tzinfo=UTC)):
        page = fields(owner.get(f"{NEW}?client={client.id}").text)
    assert page["starts_at"] == "2026-11-23T00:00"  # the next full hour, past the midnight of Samara
    send(owner, f"{NEW}?client={client.id}", starts_at="2026-11-23T00:00", service="Урок", price="0")
    visit = db.session.scalars(select(Visit)).one()
    assert visit.starts_at == datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    assert fields(owner.get(f"/admin/visit/edit/?id={visit.id}").text)["starts_at"] == "2026-11-23T00:00"


def test_what_is_wrong_stands_beside_its_field(network: Any, browser: Any, client: Any) -> None:
    path, good = f"{NEW}?client={client.id}", {"starts_at": "2026-11-23T09:30", "service": "Урок", "price": "100"}
    stranger = make_employee(network.rechnoy)
    for field, value in (
        ("starts_at", "завтра"),
        ("starts_at", "0001-01-01T00:00"),
        ("starts_at", ""),
        ("service", "  "),
        ("price", "abc"),
        ("price", "-1"),
        ("price", ""),
        ("employee", str(stranger.id)),
    ):
        answer = send(browser, path, **good | {field: value})
        assert answer.status_code == 422, (field, value)
        assert list(errors(answer.text)) == [field], (field, value)
    assert db.session.scalars(select(Visit)).all() == []


def test_foreign_and_archived_cards_book_nothing(network: Any, browser: Any, client: Any) -> None:
    good = {"starts_at": "2026-11-23T09:30", "service": "Урок", "price": "100"}
    stranger = make_client(network.mira)
    for key in (stranger.id, "x", 10**30):
        assert browser.get(f"{NEW}?client={key}").status_code == 404
        assert browser.post(f"{NEW}?client={key}", data=good).status_code == 404
    with transaction():
        archive_client(client, by=network.director)
    answer = send(browser, f"{NEW}?client={client.id}", **good)
    assert errors(answer.text) == {"": "Карточка клиента в архиве. Сначала восстановите её."}
    assert f"{NEW}?client=" not in browser.get(f"{NEW}?q=берёзк").text
    assert f"{NEW}?client=" not in browser.get(f"/admin/client/card/{client.id}/?tab=visits").text


def test_the_grid_with_its_quick_filters_totals_and_export(network: Any, browser: Any, client: Any) -> None:
    noon = datetime(2026, 11, 22, 9, tzinfo=UTC)
    with clock.frozen(noon):
        # Midnight in Moscow, to the minute, at both ends of the day.
        today = [make_visit(client, starts_at=datetime(2026, 11, 21, 21, tzinfo=UTC), service="Первый")]
        today.append(make_visit(client, starts_at=datetime(2026, 11, 22, 20, 59, tzinfo=UTC), service="Второй"))
        make_visit(client, starts_at=datetime(2026, 11, 21, 20, 59, tzinfo=UTC), service="Вчерашний")
        canceled = make_visit(client, starts_at=datetime(2026, 11, 22, 21, tzinfo=UTC), service="Завтрашний")
        make_visit(make_client(network.mira), service="Чужой")
        make_visit(client, service="Бесплатный", price=Decimal(0), starts_at=noon - timedelta(days=9))
        with transaction():
            pay_visit(today[0], WayToPay.DEBT, by=network.administrator)
            move_visit(canceled, VisitStatus.CANCELED, by=network.administrator)
        page = browser.get("/admin/visit/").text
        text = plain(page)
        assert "Визиты" in text
        assert "Чужой" not in text
        assert text.count("не оплачен") >= 2
        assert "2 100,00" in text  # without what is canceled
        chips = dict(re.findall(r'<a class="chip chip-quick[^"]*" href="([^"]+)"[^>]*>\s*([^<]+?)\s*<', page))
        by_label = {label: url.replace("&amp;", "&") for url, label in chips.items()}
        only_today = browser.get(f"/admin/visit/{by_label['Сегодня']}").text
        assert first_column(only_today) == ["22.11.2026 23:59", "22.11.2026 00:00"]
        unpaid = plain(browser.get(f"/admin/visit/{by_label['Не оплачены']}").text)
        assert "Второй" in unpaid
        assert "Вчерашний" in unpaid
        for gone in ("Первый", "Завтрашний", "Бесплатный"):
            assert gone not in unpaid
        sheet = openpyxl.load_workbook(BytesIO(browser.get("/admin/visit/export/xlsx/").data)).active
        cells = [str(cell) for line in sheet.iter_rows(values_only=True) for cell in line]
        assert "Второй" in cells
        assert "Чужой" not in cells
        assert first_column(browser.get("/admin/visit/?q=Берёзкина").text)
        assert first_column(browser.get("/admin/visit/?q=Неизвестная").text) == []


@pytest.mark.spec("A17")
def test_accounts_are_reached_from_the_block_client_of_the_visit_window(
    network: Any, browser: Any, client: Any
) -> None:
    child = make_child(client, name="Берёзкин Петя")
    deposit = make_account(client, balance=500)
    make_subscription(client)  # 4000 in debt on the base account
    visit = make_visit(child)
    shown = block(browser.get(window(visit)).text, "Клиент")
    text = plain(shown)
    for expected in ("Берёзкин Петя", "★", "Берёзкина Анна", "+7 918 123-45-67", "Счета клиента", "Депозиты", "500,00"):
        assert expected in text, expected
    assert re.search(r'class="[^"]*prepaid[^"]*">500,00', shown)
    assert re.search(r'class="[^"]*debt[^"]*">-4\s000,00', shown.replace("\xa0", " ").replace("−", "-"))
    assert "Долг" in text
    [card, *_] = re.findall(r'href="([^"]+)"', shown)
    assert card == f"/admin/client/card/{child.id}/"
    assert f"/admin/client/card/{client.id}/?tab=accounts" in shown
    [opening] = re.findall(r'href="([^"]+)"[^>]*><i[^>]*></i> Открыть новый счет', shown)
    answer = send(browser, opening.replace("&amp;", "&"), initial_balance="300", method="cash")
    assert answer.status_code == 302
    assert answer.location.endswith(window(visit))  # back to the visit
    assert sorted(
        a.balance for a in db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT))
    ) == [
        Decimal(300),
        Decimal(500),
    ]
    links = re.findall(r'href="([^"]+)"[^>]*><i[^>]*></i> Пополнить', shown)
    topping = next(link for link in links if f"/{deposit.id}/" in link).replace("&amp;", "&")
    answer = send(browser, topping, amount="100", method="card")
    assert answer.location.endswith(window(visit))
    assert deposit.balance == 600


@pytest.mark.spec("A11")
def test_in_the_network_the_window_opens_no_account(network: Any, web: Any, client: Any) -> None:
    visit = make_visit(client)
    shown = block(web(network.owner).get(window(visit)).text, "Клиент")
    assert "Открыть новый счет" not in shown
    assert "только в филиале" in plain(shown)


@pytest.mark.spec("A2")
def test_the_deposit_pays_the_visit(network: Any, browser: Any, client: Any) -> None:
    deposit = make_account(client, balance=1000)
    short = make_account(client, balance=5)
    visit = make_visit(client, service="Стрижка")
    shown = block(browser.get(window(visit)).text, "Оплата")
    assert "не оплачен" in plain(shown)
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', shown)]
    assert [re.sub(r".*way=", "", link) for link in links] == [
        f"account&account={deposit.id}",
        "cash",
        "card",
        "debt",
    ]
    form = fields(browser.get(links[0]).text)
    assert (form["way"], form["account"]) == ("account", str(deposit.id))
    page = browser.get(links[0]).text
    assert f'value="{short.id}"' not in page  # not enough on it
    assert "700,00" in plain(page)
    answer = send(browser, links[0])
    assert answer.status_code == 302
    assert answer.location.endswith(window(visit))
    shown = plain(block(browser.get(window(visit)).text, "Оплата"))
    for text in ("Оплачен", "700,00", "Депозиты", network.administrator.name):
        assert text in shown
    assert deposit.balance == 300
    # Again: nothing more is taken.
    answer = send(browser, paying(visit), way="cash", account=None)
    assert answer.status_code in {409, 422}
    assert "Визит уже оплачен." in plain(answer.text)
    assert db.session.scalars(select(Payment).order_by(Payment.id)).all()[-1].account_id == short.id


def test_the_same_form_sent_twice_pays_once(browser: Any, client: Any) -> None:
    visit = make_visit(client)
    form = fields(browser.get(paying(visit)).text) | {"way": "cash"}
    for _ in range(2):
        assert browser.post(paying(visit), data=form).status_code == 302
    assert len(db.session.scalars(select(Payment)).all()) == 1


@pytest.mark.parametrize(
    ("way", "kind"), [("cash", AccountKind.CASH), ("card", AccountKind.TERMINAL), ("debt", AccountKind.REVENUE)]
)
def test_money_at_the_desk_or_later(network: Any, browser: Any, client: Any, way: str, kind: AccountKind) -> None:
    visit = make_visit(client)
    answer = send(browser, paying(visit), way=way)
    assert answer.status_code == 302
    page = browser.get(answer.location).text
    assert ("Записано в долг: 700,00" in plain(page)) is (way == "debt")
    assert ("Визит оплачен." in page) is (way != "debt")
    assert ("В долг" if way == "debt" else "Оплачен") in plain(block(page, "Оплата"))
    base = base_account(client.id, client.branch_id)
    assert base.balance == (-700 if way == "debt" else 0)
    assert abs(house_balance(kind, network.lesnoy)) == 700
    assert len(db.session.scalars(select(Payment)).all()) == (0 if way == "debt" else 1)


def test_cash_pays_for_the_visit_of_a_debtor_too(browser: Any, client: Any) -> None:
    send(browser, paying(make_visit(client)), way="debt")
    answer = send(browser, paying(visit := make_visit(client)), way="cash")
    page = browser.get(answer.location).text
    assert "Визит оплачен." in page
    assert "Оплачен" in plain(block(page, "Оплата"))
    assert visit.paid_at is not None


def test_what_the_account_holds_is_not_a_debt(browser: Any, client: Any) -> None:
    with transaction():
        base = base_account(client.id, client.branch_id)
    make_payment(base, 600)
    page = browser.get(send(browser, paying(make_visit(client)), way="debt").location).text
    assert "Записано в долг: 100,00" in plain(page)


def test_the_till_is_chosen_where_there_are_several(network: Any, browser: Any, client: Any) -> None:
    visit = make_visit(client)
    assert 'name="till"' not in browser.get(paying(visit)).text
    with transaction():
        new_till(TillKind.CASH, network.lesnoy.id, name="Касса у входа")
        second = new_till(TillKind.CASH, network.lesnoy.id, name="Касса бара")
        new_till(TillKind.TERMINAL, network.lesnoy.id)
        elsewhere = new_till(TillKind.CASH, network.mira.id, name="Чужая касса")
    page = browser.get(paying(visit)).text
    assert "Касса бара" in page
    assert "Чужая касса" not in page
    answer = send(browser, paying(visit), way="cash", till=str(elsewhere.id))
    assert list(errors(answer.text)) == ["till"]
    answer = send(browser, paying(visit), way="card", till=str(second.id))  # a card does not go into a cash desk
    assert list(errors(answer.text)) == ["till"]
    assert db.session.scalars(select(Payment)).all() == []
    assert send(browser, paying(visit), way="cash", till=str(second.id)).status_code == 302
    taken = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.TOP_UP)).one()
    assert db.session.get_one(Till, second.id).account_id in {entry.account_id for entry in taken.entries}


def test_strangers_accounts_do_not_pay(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=1000)
    theirs = make_account(make_client(network.lesnoy), balance=1000)
    visit = make_visit(client)
    answer = send(browser, paying(visit), way="account", account=str(theirs.id))
    assert errors(answer.text) == {"account": "Выберите один из вариантов."}
    answer = send(browser, paying(visit), way="account", account="")
    assert errors(answer.text) == {"account": "Выберите счет, с которого оплатить."}
    assert theirs.balance == 1000


def test_reversed_it_stands_unpaid_in_the_window_again(network: Any, web: Any, browser: Any, client: Any) -> None:
    visit = make_visit(client)
    send(browser, paying(visit), way="debt")
    assert "/operation/" not in block(browser.get(window(visit)).text, "Оплата")  # an administrator reverses nothing
    director = web(network.director, network.lesnoy)
    [reversal] = re.findall(
        r'href="(/admin/account/operation/[^"]+)"', block(director.get(window(visit)).text, "Оплата")
    )
    answer = send(director, reversal.replace("&amp;", "&"), comment="Ошибка")
    assert answer.location.endswith(window(visit))
    assert "не оплачен" in plain(block(browser.get(window(visit)).text, "Оплата"))
    assert base_account(client.id, client.branch_id).balance == 0
    assert send(browser, paying(visit), way="cash").status_code == 302


def test_who_came_is_marked_in_the_window(network: Any, browser: Any, client: Any) -> None:
    visit = make_visit(client)
    page = browser.get(window(visit)).text
    assert re.findall(r'name="to" value="(\w+)"', page) == ["came", "missed", "canceled"]
    path = f"/admin/visit/mark/?id={visit.id}"
    assert browser.post(path, data={"to": "came"}).location.endswith(window(visit))
    assert visit.status is VisitStatus.CAME
    assert browser.post(path, data={"to": "canceled"}).status_code in {409, 422}
    assert browser.post(path, data={"to": "flown"}).status_code == 404
    assert "Пришёл" in plain(browser.get(window(visit)).text)


def test_a_paid_visits_price_stays(network: Any, browser: Any, client: Any) -> None:
    visit = make_visit(client)
    with transaction():
        pay_visit(visit, WayToPay.CASH, by=network.administrator)
    path = f"/admin/visit/edit/?id={visit.id}"
    answer = send(browser, path, price="1")
    assert list(errors(answer.text)) == ["price"]
    assert send(browser, path, service="Укладка").status_code == 302
    assert (visit.service, visit.price) == ("Укладка", Decimal(700))


def test_a_cell_of_the_grid_is_changed_by_the_rules_of_the_form(browser: Any, client: Any) -> None:
    visit = make_visit(client)
    cell = {"id": str(visit.id), "column": "starts_at", "version": str(visit.version)}
    answer = browser.post("/admin/visit/cell/", data=cell | {"starts_at": "2026-12-01T12:00"})
    assert answer.status_code == 200, answer.text
    assert visit.starts_at == datetime(2026, 12, 1, 9, tzinfo=UTC)


@pytest.mark.spec("A17")
def test_the_cards_tab_shows_the_visits_of_the_family(browser: Any, client: Any) -> None:
    child = make_child(client, name="Берёзкин Петя")
    make_visit(client, service="Йога")
    visit = make_visit(child, service="Плавание")
    page = browser.get(f"/admin/client/card/{client.id}/?tab=visits").text
    for text in ("Визиты", "Йога", "Плавание", "Берёзкин Петя", "не оплачен"):
        assert text in plain(page), text
    assert window(visit) in page
    assert f"{NEW}?client={client.id}" in page
    of_child = plain(browser.get(f"/admin/client/card/{child.id}/?tab=visits").text)
    assert "Йога" not in of_child
    assert "Плавание" in of_child


def test_hidden_fields_are_not_in_the_window_nor_on_the_tab(network: Any, browser: Any, client: Any) -> None:
    make_account(client, balance=Decimal("1234.56"))
    visit = make_visit(client, price=Decimal("765.43"))
    pages = (window(visit), f"/admin/client/card/{client.id}/?tab=visits", "/admin/visit/")
    assert "765,43" in plain(browser.get(window(visit)).text)
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    hidden = dict.fromkeys(("visit.price", "account.balance", "client.phone"), FieldRule.HIDE)
    with transaction():
        change_role(settings, permissions={}, fields=hidden, by=network.owner)
    for path in pages:
        text = plain(browser.get(path).text)
        for secret in ("765,43", "1 234,56", "123-45-67"):
            assert secret not in text, (path, secret)


def test_a_manager_reads_and_takes_nothing(network: Any, web: Any, client: Any) -> None:
    visit, manager = make_visit(client), web(network.manager, network.lesnoy)
    shown = manager.get(window(visit)).text
    assert paying(visit).replace("&", "&amp;") not in shown
    assert "Открыть новый счет" not in shown
    for path in (NEW, paying(visit), f"/admin/visit/mark/?id={visit.id}", f"/admin/visit/edit/?id={visit.id}"):
        assert manager.get(path).status_code == 403, path
        assert manager.post(path, data={"to": "came", "way": "debt"}).status_code == 403, path


def test_a_price_changed_meanwhile_is_shown_before_it_is_taken(network: Any, browser: Any, client: Any) -> None:
    visit = make_visit(client, price=Decimal(700))
    form = fields(browser.get(f"{paying(visit)}&way=cash").text)
    with transaction():
        edit_visit(visit, price=Decimal(1700), by=network.owner)
    answer = browser.post(paying(visit), data=form)
    assert answer.status_code == 422
    text = answer.text.replace("\xa0", " ")
    assert "700,00" in text
    assert text.count("1 700,00") == 2  # what is wrong, and the sum that is taken now
    assert db.session.scalar(select(Payment)) is None
    assert browser.post(paying(visit), data=fields(answer.text)).status_code == 302
    assert db.session.scalars(select(Payment)).one().amount == 1700


@pytest.mark.parametrize("price", ["NaN", "-Infinity", "1e999999", "сто", ""])
def test_a_shown_price_that_is_none_breaks_nothing(browser: Any, client: Any, price: str) -> None:
    visit = make_visit(client)
    form = {**fields(browser.get(f"{paying(visit)}&way=cash").text), "price": price}
    assert browser.post(paying(visit), data=form).status_code == 302
