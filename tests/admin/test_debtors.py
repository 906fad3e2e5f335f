"""«Должники», the debts on a card, and the forms that accrue them and write them off."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from sqlalchemy import event, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.clients.models import Client
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.debts.operations import accrue_debt
from crm.ledger.models import Account, Transaction, TransactionKind
from crm.ledger.operations import base_account
from tests.admin.test_grids import first_column, plain
from tests.admin.world import errors, fields, send
from tests.debts.test_debts import move
from tests.factories import (
    Network,
    make_account,
    make_child,
    make_client,
    make_payment,
    make_plan,
    make_subscription,
    make_user,
)

NOON = datetime(2026, 11, 22, 9, tzinfo=UTC)
LIST = "/admin/debtor/"


@pytest.fixture
def browser(network: Network, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def owing(client: Client, *charges: tuple[int, int]) -> Account:
    """The client's base account with charges of (sum, days ago)."""
    with transaction():
        account = base_account(client.id, client.branch_id)
    for amount, days in charges:
        move(account, -amount, at=NOON - timedelta(days=days))
    return account


@pytest.fixture
def debtors(network: Network) -> list[Account]:
    """Three in debt (of all ages, of this week, of last year and partly paid), and one who is ahead."""
    first = owing(make_client(network.lesnoy, name="Анна"), (100, 1), (200, 45), (300, 75), (400, 100))
    second = owing(make_client(network.lesnoy, name="Борис"), (50, 2))
    third = owing(make_client(network.lesnoy, name="Вера"), (1000, 400))
    move(third, 300, at=NOON - timedelta(days=3))
    move(owing(make_client(network.lesnoy, name="Глеб")), 500)
    return [first, second, third]


def cells(text: str) -> list[list[str]]:
    """The table's body and totals, as text."""
    rows = re.findall(r"<tr[ >].*?</tr>", text, re.S)
    return [[plain(cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)] for row in rows]


def test_debtors_with_the_ages_of_their_debts(network: Network, browser: Any, debtors: list[Account]) -> None:
    with clock.frozen(NOON):
        page = browser.get(LIST).text
    text = plain(page)
    for label in ("Должники", "Долг", "0–30 дней", "31–60 дней", "61–90 дней", "Более 90 дней", "Последняя оплата"):
        assert label in text
    assert first_column(page) == ["Анна", "Вера", "Борис"]  # who owes most, first
    assert "Глеб" not in text
    [total] = [row for row in cells(page) if "1 750,00" in row]
    assert [cell for cell in total if cell and cell != "Итого"] == [
        "1 750,00",
        "150,00",
        "200,00",
        "300,00",
        "1 100,00",
    ]
    [anna] = [row for row in cells(page) if "1 000,00" in row]
    assert [cell for cell in anna if cell.endswith(",00")] == ["1 000,00", "100,00", "200,00", "300,00", "400,00"]


def test_totals_are_the_sums_of_the_rows_in_the_file_too(
    network: Network, browser: Any, debtors: list[Account]
) -> None:
    with clock.frozen(NOON):
        answer = browser.get(f"{LIST}export/xlsx/", buffered=True)
    header, *rows, total = openpyxl.load_workbook(io.BytesIO(answer.data)).active.values
    for label in ("Долг", "0–30 дней", "31–60 дней", "61–90 дней", "Более 90 дней"):
        place = header.index(label)
        assert total[place] == sum(row[place] or 0 for row in rows) > 0
    assert len(rows) == 3
    ages = [header.index(label) for label in ("0–30 дней", "31–60 дней", "61–90 дней", "Более 90 дней")]
    assert all(row[header.index("Долг")] == sum(row[place] for place in ages) for row in rows)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("f.ageing.is=older", ["Анна", "Вера"]),
        ("f.ageing.is=days_30", ["Анна", "Борис"]),
        ("f.ageing.is=days_60&f.ageing.is=days_90", ["Анна"]),
        ("f.debt.from=700", ["Анна", "Вера"]),
        ("f.debt.to=50", ["Борис"]),
        ("q=вер", ["Вера"]),
        ("sort=client", ["Анна", "Борис", "Вера"]),
    ],
)
def test_debtors_are_filtered_and_sorted(browser: Any, debtors: list[Account], query: str, names: list[str]) -> None:
    with clock.frozen(NOON):
        assert first_column(browser.get(f"{LIST}?{query}").text) == names


def test_the_filter_by_age_sums_what_it_shows(browser: Any, debtors: list[Account]) -> None:
    with clock.frozen(NOON):
        page = browser.get(f"{LIST}?f.ageing.is=older").text
    [total] = [row for row in cells(page) if "1 700,00" in row]
    assert [cell for cell in total if cell and cell != "Итого"] == [
        "1 700,00",
        "100,00",
        "200,00",
        "300,00",
        "1 100,00",
    ]


def test_debtors_by_city_and_branch(network: Network, web: Any, debtors: list[Account]) -> None:
    owing(make_client(network.mira, name="Самарский"), (10, 1))
    owner = web(network.owner)
    assert first_column(owner.get(f"{LIST}?f.city.is={network.samara.id}").text) == ["Самарский"]
    assert "Самарский" not in owner.get(f"{LIST}?f.branch.is={network.lesnoy.id}").text
    assert "Самарский" not in web(network.regional).get(LIST).text


def test_a_page_of_debtors_costs_the_same_however_many(network: Network, browser: Any, debtors: list[Account]) -> None:
    seen: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    browser.get(LIST)
    few, _nothing = len(seen), seen.clear()
    for _ in range(10):
        owing(make_client(network.lesnoy), (10, 1))
    seen.clear()
    browser.get(LIST)
    assert len(seen) == few


def test_a_debtor_s_page_tells_what_the_debt_is_made_of(network: Network, browser: Any, debtors: list[Account]) -> None:
    make_payment(debtors[0], 450)
    page = plain(browser.get(f"{LIST}details/?id={debtors[0].id}").text)
    for text in (
        "Из чего складывается долг",
        "300,00",
        "250,00",
        "Списать долг",
        "Списать невозвратный долг",
        "Пополнить",
    ):
        assert text in page
    for path in ("bad-debt", "write-off"):
        form = plain(browser.get(f"{LIST}{path}/{debtors[0].id}/").text)
        assert "Баланс до -550,00" in " ".join(form.replace("−", "-").split())


def test_who_does_not_see_balances_does_not_see_who_owes(
    network: Network, browser: Any, debtors: list[Account]
) -> None:
    with transaction():
        hidden = {"account.balance": FieldRule.HIDE}
        change_role(network.director.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    assert browser.get(LIST).status_code == 403
    assert browser.get(f"{LIST}export/xlsx/").status_code == 403
    card = browser.get(f"/admin/client/card/{debtors[0].client_id}/").text
    assert "1 000,00" not in plain(card)
    assert LIST not in card.replace(f"{LIST}client", "").replace(f"{LIST}write-off", "").replace(f"{LIST}bad-debt", "")
    assert fields(browser.get(f"{LIST}bad-debt/{debtors[0].id}/").text)["amount"] == ""


def test_a_hidden_phone_is_hidden_here_too(network: Network, browser: Any, debtors: list[Account]) -> None:
    assert "+7 918" in plain(browser.get(LIST).text)
    with transaction():
        hidden = {"client.phone": FieldRule.HIDE}
        change_role(network.director.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    assert "+7 918" not in plain(browser.get(LIST).text)


# --- many at once ---------------------------------------------------------------------------------------------------


def test_bad_debts_of_a_selection_are_written_off_with_a_protocol(
    network: Network, browser: Any, debtors: list[Account]
) -> None:
    ticked = {"action": "bad_debt", "id": [str(account.id) for account in debtors[:2]]}
    asked = browser.post(f"{LIST}action/", data=ticked)
    assert "Причина" in plain(asked.text)
    filled = {**ticked, "filled": "1", "set.comment": "Не вернут"}
    assert "Списать невозвратный долг" in plain(browser.post(f"{LIST}action/", data=filled).text)
    done = browser.post(f"{LIST}action/", data={**filled, "confirmed": "1", "count": "2"})
    assert done.status_code == 302
    protocol = plain(browser.get(done.location).text)
    assert "Анна: 1 000,00" in protocol
    assert "Борис: 50,00" in protocol
    db.session.expire_all()
    assert [account.balance for account in debtors] == [0, 0, -700]
    kinds = select(Transaction.comment).where(Transaction.kind == TransactionKind.BAD_DEBT)
    assert db.session.scalars(kinds).all() == ["Не вернут"] * 2


def test_who_may_not_write_off_is_not_offered_it(network: Network, web: Any, debtors: list[Account]) -> None:
    desk = web(network.administrator, network.lesnoy)
    assert "Списать невозвратный долг" not in plain(desk.get(LIST).text)
    answer = desk.post(f"{LIST}action/", data={"action": "bad_debt", "id": str(debtors[0].id), "confirmed": "1"})
    assert answer.status_code == 403


# --- the card -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C20")
def test_the_card_tells_a_debt_in_red_and_an_advance_in_green(network: Network, browser: Any) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=300)
    owing(client, (120, 1))
    page = browser.get(f"/admin/client/card/{client.id}/").text
    assert '<strong class="tabular debt">120,00' in page.replace("\xa0", " ")
    assert '<strong class="tabular prepaid">300,00' in page.replace("\xa0", " ")
    block = plain(page[page.index('aria-labelledby="debts-title"') :])
    assert "120,00 ₽ долг" in block
    assert "300,00 ₽ аванс" in block


@pytest.mark.spec("C80")
def test_the_card_tells_to_which_city(network: Network, browser: Any) -> None:
    client = make_client(network.lesnoy)
    owing(client, (120, 1))
    assert "Город" not in plain(browser.get(f"/admin/client/card/{client.id}/").text)
    with transaction():
        there = base_account(client.id, network.mira.id)  # as merging cards leaves it
    move(there, -77)
    page = plain(browser.get(f"/admin/client/card/{client.id}/").text)
    assert "Город Москва 120,00 ₽ долг" in page
    assert "Город Самара 77,00 ₽ долг" in page
    assert f"/admin/debtor/bad-debt/{there.id}/" not in browser.get(f"/admin/client/card/{client.id}/").text


def test_the_cities_are_hidden_with_the_balances(network: Network, browser: Any) -> None:
    client = make_client(network.lesnoy)
    move(base_account(client.id, network.mira.id), -77)
    with transaction():
        hidden = {"account.balance": FieldRule.HIDE}
        change_role(network.director.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    page = plain(browser.get(f"/admin/client/card/{client.id}/").text)
    assert "77,00" not in page
    assert "Самара" not in page


@pytest.mark.spec("C153")
def test_the_subscription_tells_its_debt(network: Network, browser: Any) -> None:
    client = make_client(network.lesnoy)
    sold = make_subscription(client, make_plan(price=Decimal("999.50")), discount=Decimal("100.25"))
    for path in (f"/admin/client/card/{client.id}/?tab=subscriptions", f"/admin/subscription/details/?id={sold.id}"):
        page = plain(browser.get(path).text)
        assert "Долг" in page
        assert "899,25" in page
        assert "100,25" in page
    assert "Долг 899,25" in page
    make_payment(base_account(client.id, network.lesnoy.id), Decimal("899.25"))
    paid = plain(browser.get(f"/admin/subscription/details/?id={sold.id}").text)
    assert "Долг оплачен" in paid
    assert "Долг 899,25" not in paid


# --- forms ----------------------------------------------------------------------------------------------------------


def test_a_debt_is_accrued_from_a_child_s_card_to_the_payer(network: Network, browser: Any) -> None:
    parent = make_client(network.lesnoy)
    child = make_child(parent)
    path = f"/admin/debtor/client/{child.id}/accrue/"
    assert errors(send(browser, path, amount="0", reason="").text).keys() == {"reason"}
    assert errors(send(browser, path, amount="0", reason="Окно").text).keys() == {"amount"}
    answer = send(browser, path, amount="12,50", reason="Окно")
    assert answer.location == f"/admin/client/card/{parent.id}/"
    assert base_account(parent.id, network.lesnoy.id).balance == Decimal("-12.50")


@pytest.mark.spec("C113", "C114")
def test_a_bad_debt_is_written_off_from_the_card(network: Network, browser: Any) -> None:
    client = make_client(network.lesnoy)
    sold = make_subscription(client, network.plan)
    account = base_account(client.id, network.lesnoy.id)
    with transaction():
        archive_client(client, by=SYSTEM)
    assert "Списать невозвратный долг" in plain(browser.get(f"/admin/client/card/{client.id}/").text)
    path = f"/admin/debtor/bad-debt/{account.id}/"
    assert fields(browser.get(path).text)["amount"] == "4000,00"
    assert list(errors(send(browser, path).text)) == ["comment"]  # a loss has a reason
    assert errors(send(browser, path, amount="4000,01", comment="Не вернут").text) == {"amount": "Сумма больше долга."}
    assert send(browser, path, comment="Не вернут").status_code == 302
    db.session.expire_all()
    assert account.balance == 0
    assert (
        "4 000,00"
        not in plain(browser.get(f"/admin/subscription/details/?id={sold.id}").text).partition("Долг")[2][:20]
    )


def test_a_form_sent_twice_writes_off_once(network: Network, browser: Any) -> None:
    account = owing(make_client(network.lesnoy), (500, 1))
    path = f"/admin/debtor/write-off/{account.id}/"
    data = {**fields(browser.get(path).text), "amount": "100", "reason": "Ошибка"}
    first, second = browser.post(path, data=data), browser.post(path, data=data)
    assert (first.status_code, second.location) == (302, first.location)
    db.session.expire_all()
    assert account.balance == -400


FORGED = {"amount": "1", "reason": "Подделка", "comment": "Подделка"}


@pytest.mark.spec("C81", "C141")
@pytest.mark.parametrize("role", list(Role))
def test_a_forged_form_of_another_city_is_refused_in_words(network: Network, web: Any, role: Role) -> None:
    """Whoever works in Moscow now, in whatever role, with the account a merged card has in Samara."""
    client = make_client(network.lesnoy)
    with transaction():
        there = base_account(client.id, network.mira.id)
        accrue_debt(there, amount=Decimal(500), reason="Долг", by=SYSTEM)
    user = next(user for user in network.users if user.role is role)
    browser = web(user, network.lesnoy)
    paths = (
        f"/admin/debtor/client/{client.id}/accrue/?account={there.id}",
        f"/admin/debtor/write-off/{there.id}/",
        f"/admin/debtor/bad-debt/{there.id}/",
    )
    for path in paths:
        answer = browser.post(path, data=FORGED)
        assert answer.status_code == 403
        if role in {Role.OWNER, Role.REGIONAL_DIRECTOR, Role.DIRECTOR}:
            assert "только в своём городе" in plain(answer.text)
    db.session.expire_all()
    assert there.balance == -500


@pytest.mark.spec("C81")
def test_people_of_another_city_do_not_reach_the_debts_of_this_one(network: Network, web: Any) -> None:
    account = owing(make_client(network.lesnoy), (500, 1))
    for user in (
        make_user(Role.DIRECTOR, branches=[network.mira]),
        make_user(Role.REGIONAL_DIRECTOR, cities=[network.samara]),
    ):
        browser = web(user)
        for path in (
            f"/admin/debtor/client/{account.client_id}/accrue/",
            f"/admin/debtor/write-off/{account.id}/",
            f"/admin/debtor/bad-debt/{account.id}/",
        ):
            assert browser.post(path, data=FORGED).status_code == 404
    db.session.expire_all()
    assert account.balance == -500


def test_an_account_here_of_a_card_elsewhere_is_written_off_too(network: Network, browser: Any) -> None:
    """As merging leaves it: the card is kept in another branch, which this director does not see."""
    client = make_client(network.mira, name="Самарский")
    with transaction():
        account = base_account(client.id, network.lesnoy.id)
    move(account, -500)
    for path in ("", f"details/?id={account.id}", f"write-off/{account.id}/"):
        page = browser.get(f"{LIST}{path}")
        assert page.status_code == 200
        assert "500,00" in plain(page.text)
        assert "Самарский" not in plain(page.text)
    answer = send(browser, f"{LIST}bad-debt/{account.id}/", comment="Не вернут")
    assert (answer.status_code, answer.location) == (302, LIST)
    db.session.expire_all()
    assert account.balance == 0
