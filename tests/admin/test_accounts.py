"""Opening a client's account and topping it up, as an administrator does it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind
from crm.payments.models import Payment, PaymentMethod
from tests.admin.test_grids import plain, table
from tests.admin.world import errors, fields, send
from tests.factories import (
    house_balance,
    make_account,
    make_account_type,
    make_child,
    make_client,
    make_employee,
    make_subscription,
)


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Берёзкина Анна")


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def opening(client: Any) -> str:
    return f"/admin/client/card/{client.id}/account/new/"


def accounts() -> list[Account]:
    return list(db.session.scalars(select(Account).where(Account.client_id.is_not(None)).order_by(Account.id)))


def history(page: str) -> list[list[str]]:
    """Rows of the first table of the tab."""
    return table(page)


@pytest.mark.spec("A17", "A18", "A19", "A20", "A25")
def test_the_form_is_on_the_clients_card(network: Any, browser: Any, client: Any) -> None:
    card = browser.get(f"/admin/client/card/{client.id}/?tab=accounts").text
    assert "Счета клиента" in plain(card)
    assert re.search(rf'href="{opening(client)}"[^>]*>.*?Открыть новый счет', card)
    page = plain(browser.get(opening(client)).text)
    for label in ("Тип счета", "Первоначальный баланс", "Оплата", "Наличными", "Сотрудник, который открыл счет"):
        assert label in page
    assert "Вера Тренер" in page
    assert "Открыть новый счет" in page


@pytest.mark.spec("A19", "A20", "A21", "A29", "A30")
def test_without_an_initial_balance_it_is_open_at_once(network: Any, browser: Any, client: Any) -> None:
    answer = send(browser, opening(client))
    assert answer.status_code == 302
    [account] = accounts()
    assert (account.client_id, account.balance, account.employee_id) == (client.id, Decimal(0), None)
    assert account.author_id == network.administrator.id
    assert db.session.scalar(select(func.count()).select_from(Payment)) == 0
    page = plain(browser.get(answer.location).text)
    assert "Депозиты" in page
    assert "0,00" in page
    assert "Счет открыт." in page


@pytest.mark.spec("A22", "A23", "A24", "A27", "A28", "A30", "A32")
@pytest.mark.parametrize(
    ("method", "desk"), [(PaymentMethod.CASH, AccountKind.CASH), (PaymentMethod.CARD, AccountKind.TERMINAL)]
)
def test_with_an_initial_balance_it_is_paid_at_once(
    network: Any, browser: Any, client: Any, method: PaymentMethod, desk: AccountKind
) -> None:
    answer = send(browser, opening(client), initial_balance="1 234,50", method=method.value)
    assert answer.status_code == 302
    [account] = accounts()
    assert account.balance == Decimal("1234.50")
    payment = db.session.scalars(select(Payment)).one()
    assert (payment.method, payment.amount) == (method, Decimal("1234.50"))
    assert house_balance(desk, network.lesnoy) == Decimal("1234.50")
    page = browser.get(answer.location).text
    assert "1 234,50" in plain(page)
    [line] = history(page)
    assert line[2:5] == ["Пополнение", "+1 234,50", "1 234,50"]
    # Nobody is chosen as the employee; the author is there all the same.
    assert line[5:7] == [network.administrator.name, "—"]


@pytest.mark.spec("A20", "A23", "A24")
def test_the_employee_is_one_thing_and_the_author_another(network: Any, browser: Any, client: Any) -> None:
    answer = send(
        browser,
        opening(client),
        initial_balance="100",
        method="cash",
        employee=str(network.employee.id),
        author_id="999",
    )
    [account] = accounts()
    assert (account.employee_id, account.author_id) == (network.employee.id, network.administrator.id)
    [line] = history(browser.get(answer.location).text)
    assert line[5:7] == [network.administrator.name, "Вера Тренер"]


@pytest.mark.spec("A27", "A28")
def test_with_an_initial_balance_the_way_of_payment_must_be_chosen(network: Any, browser: Any, client: Any) -> None:
    for method in ("", "online", "bank", "zzz"):
        answer = send(browser, opening(client), initial_balance="100", method=method)
        assert answer.status_code == 422, method
        assert "method" in errors(answer.text)
    answer = send(browser, opening(client), initial_balance="100", method="")
    assert errors(answer.text) == {"method": "Выберите способ оплаты: наличными или картой."}
    assert fields(answer.text)["initial_balance"] == "100"
    assert accounts() == []
    page = browser.get(opening(client)).text
    assert re.findall(
        r'<option[^>]*value="(\w+)"[^>]*>([^<]+)', page.split('name="method"')[1].split("</select>")[0]
    ) == [
        ("cash", "Наличными"),
        ("card", "Картой"),
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("abc", "Введите сумму цифрами, например 1500 или 99,90."),
        ("0,001", "После запятой в сумме не больше двух цифр."),
        ("-5", "Укажите сумму больше нуля и не больше 100 000 000."),
        ("100000000,01", "Укажите сумму больше нуля и не больше 100 000 000."),
        ("1e30", "Введите сумму цифрами, например 1500 или 99,90."),
        ("NaN", "Введите сумму цифрами, например 1500 или 99,90."),
        ("9" * 400, "Введите сумму цифрами, например 1500 или 99,90."),
    ],
)
def test_a_sum_that_is_none_is_refused_beside_its_field(browser: Any, client: Any, typed: str, said: str) -> None:
    answer = send(browser, opening(client), initial_balance=typed, method="cash")
    assert answer.status_code == 422
    assert errors(answer.text) == {"initial_balance": said}
    assert fields(answer.text)["initial_balance"] == typed
    assert accounts() == []


@pytest.mark.parametrize(
    "typed", ["1 234,50", "1234.5", "1 234,50 ₽", "1,234.50", "1.234,50", "+".replace("+", "1234,5")]
)
def test_sums_as_people_type_them(browser: Any, client: Any, typed: str) -> None:
    send(browser, opening(client), initial_balance=typed, method="cash")
    assert [account.balance for account in accounts()] == [Decimal("1234.50")]


@pytest.mark.spec("A11")
def test_not_in_the_network_interface(network: Any, web: Any, client: Any) -> None:
    browser = web(network.owner)
    card = browser.get(f"/admin/client/card/{client.id}/?tab=accounts").text
    assert opening(client) not in card
    assert "Открыть счет клиенту можно только в филиале. Сначала выберите филиал." in plain(card)
    page = browser.get(opening(client))
    assert "Открыть счет клиенту можно только в филиале" in plain(page.text)
    answer = browser.post(opening(client), data={"account_type": str(network.account_type.id)})
    assert answer.status_code == 422
    answer = browser.post(opening(client), data={"account_type": str(network.account_type.id), "branch": "1"})
    assert answer.status_code == 422
    assert accounts() == []


@pytest.mark.spec("A16")
def test_with_no_types_it_says_where_they_are_made(network: Any, browser: Any, client: Any) -> None:
    with transaction():
        network.account_type.branches = []
    page = browser.get(opening(client)).text
    assert "В этом филиале пока нет ни одного типа счета." in plain(page)
    assert 'href="/admin/accounttype/"' in page.split("<main")[1]


@pytest.mark.spec("A26")
def test_several_accounts_with_balances_of_their_own(network: Any, browser: Any, client: Any) -> None:
    gifts = make_account_type(network.lesnoy, name="Подарочные")
    send(browser, opening(client), account_type=str(network.account_type.id), initial_balance="100", method="cash")
    send(browser, opening(client), account_type=str(gifts.id), initial_balance="200", method="card")
    assert [(a.title, a.balance) for a in accounts()] == [("Депозиты", Decimal(100)), ("Подарочные", Decimal(200))]
    page = plain(browser.get(f"/admin/client/card/{client.id}/?tab=accounts").text)
    assert "Депозиты" in page
    assert "Подарочные" in page


def test_the_same_form_sent_twice_opens_one_account(network: Any, browser: Any, client: Any) -> None:
    form = fields(browser.get(opening(client)).text) | {"initial_balance": "100", "method": "cash"}
    first = browser.post(opening(client), data=form)
    second = browser.post(opening(client), data=form)
    assert (first.status_code, second.status_code) == (302, 302)
    assert first.location == second.location
    assert [account.balance for account in accounts()] == [Decimal(100)]
    # A form that was refused may be sent again: it has not been carried out.
    form = fields(browser.get(opening(client)).text) | {"initial_balance": "abc", "method": "cash"}
    assert browser.post(opening(client), data=form).status_code == 422
    assert browser.post(opening(client), data=form | {"initial_balance": "7"}).status_code == 302
    assert len(accounts()) == 2


def test_the_same_form_sent_at_the_same_moment(network: Any, web: Any, client: Any, in_parallel: Any) -> None:
    browsers = [web(network.administrator, network.lesnoy) for _ in range(4)]
    form = fields(browsers[0].get(opening(client)).text) | {"initial_balance": "100", "method": "cash"}
    path = opening(client)  # read here: threads must not share the test's session
    answers = in_parallel(lambda index: browsers[index].post(path, data=form).status_code, times=4)
    assert answers == [302] * 4
    db.session.expire_all()
    assert [account.balance for account in accounts()] == [Decimal(100)]


@pytest.mark.spec("A21", "A31", "A32")
def test_topping_up(network: Any, browser: Any, client: Any) -> None:
    account = make_account(client)
    page = browser.get(f"/admin/client/card/{client.id}/?tab=accounts").text
    path = f"/admin/account/{account.id}/top-up/"
    assert re.search(rf'href="{path}"[^>]*>.*?Пополнить', page)
    answer = send(browser, path, amount="500", method="card", comment="За март")
    assert answer.status_code == 302
    page = browser.get(answer.location).text
    assert "История изменений" in plain(page)
    [line] = history(page)
    assert line[1:-1] == [
        *("Депозиты", "Пополнение", "+500,00", "500,00", network.administrator.name, "—", "Лесной", "За март", "—"),
        "Картой",
    ]
    for amount in ("0", "-5", " ", "", "abc", "0,001"):
        answer = send(browser, path, amount=amount)
        assert answer.status_code == 422, amount
        assert list(errors(answer.text)) == ["amount"], amount
    assert db.session.scalar(select(Account.balance).where(Account.id == account.id)) == 500


def test_a_childs_account_is_the_payers(network: Any, browser: Any, client: Any) -> None:
    child = make_child(client)
    send(browser, opening(child))
    assert [account.client_id for account in accounts()] == [client.id]


def test_foreign_things_in_the_form(network: Any, browser: Any, client: Any) -> None:
    stranger = make_client(network.mira)
    theirs = make_account(stranger, balance=10)
    worker = make_employee(network.rechnoy)
    answer = send(browser, opening(client), employee=str(worker.id))
    assert errors(answer.text) == {"employee": "Выберите один из вариантов."}
    for path in (opening(stranger), f"/admin/account/{theirs.id}/top-up/"):
        assert browser.get(path).status_code == 404
        assert browser.post(path, data={"amount": "5", "method": "cash"}).status_code == 404
    assert [account.client_id for account in accounts()] == [stranger.id]


def test_only_money_is_topped_up(network: Any, browser: Any, client: Any) -> None:
    make_subscription(client)
    counted = db.session.scalars(select(Account).where(Account.kind == AccountKind.LESSONS)).one()
    house = db.session.scalars(select(Account).where(Account.kind == AccountKind.REVENUE)).one()
    for account in (counted, house):
        path = f"/admin/account/{account.id}/top-up/"
        assert browser.get(path).status_code == 404
        assert browser.post(path, data={"amount": "5", "method": "cash"}).status_code == 404
        assert browser.get(f"/admin/account/details/?id={account.id}").status_code == 404


def test_who_may_not_see_accounts_sees_none_on_the_card(network: Any, web: Any, client: Any) -> None:
    make_account(client, balance=Decimal("777.31"))
    page = plain(web(network.instructor).get(f"/admin/client/card/{client.id}/?tab=accounts").text)
    assert "777,31" not in page
    assert "Счета клиента" not in page
    assert "Счетов пока нет." not in page
