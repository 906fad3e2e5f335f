"""The palette: what a person finds and can do from anywhere, by his rights and in his branches."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from typing import Any

import pytest

from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.db import transaction
from tests.access.test_roles import settings_of
from tests.factories import make_account, make_bill, make_child, make_client

PATH = "/admin/palette/"


def ask(client: Any, text: str = "") -> dict[str, list[str]]:
    """What the palette shows: titles by group."""
    answer = client.get(PATH, query_string={"q": text})
    assert answer.status_code == 200
    groups = re.findall(r'<div role="group" aria-label="([^"]+)">(.*?)</div>', answer.text, re.DOTALL)
    return {
        html.unescape(title): [html.unescape(line) for line in re.findall(r"<span>([^<]+)</span>", inside)]
        for title, inside in groups
    }


def test_records_of_several_kinds_are_found_each_in_its_group(network: Any, web: Any) -> None:
    anna = make_client(network.lesnoy, name="Ёлкина Анна", phone="+79181590830")
    make_account(anna, network.account_type)
    bill = make_bill(anna, amount=700)
    found = ask(web(network.administrator), "елкина")
    assert found["Клиенты"] == ["Ёлкина Анна"]
    assert found["Счета"] == [bill.title]
    assert len(found["Список счетов"]) == 2  # the basic one and «Депозиты»
    assert ask(web(network.administrator), "159-08-30")["Клиенты"] == ["Ёлкина Анна"]


def test_a_line_leads_to_its_record(network: Any, web: Any) -> None:
    anna = make_client(network.lesnoy, name="Ёлкина Анна")
    client = web(network.administrator)
    (address,) = re.findall(rf'href="(/admin/client/[^"]*{anna.id}[^"]*)"', client.get(f"{PATH}?q=ёлкина").text)
    assert client.get(address).status_code == 200


def test_the_rest_is_a_click_away(network: Any, web: Any) -> None:
    for number in range(8):
        make_client(network.lesnoy, name=f"Однофамилец {number}")
    client = web(network.administrator)
    lines = ask(client, "однофамилец")["Клиенты"]
    assert len(lines) == 7
    assert lines[-1] == "Все подходящие"
    address = re.search(r'href="(/admin/client/\?[^"]+)"', client.get(f"{PATH}?q=однофамилец").text)
    assert address is not None
    page = client.get(html.unescape(address[1])).text
    assert page.count("data-open") == 8


def test_nobody_finds_what_is_not_in_his_branches(network: Any, web: Any) -> None:
    make_client(network.mira, name="Чужой Клиент")
    assert "Клиенты" not in ask(web(network.administrator), "Чужой")
    assert "Клиенты" in ask(web(network.owner), "Чужой")
    # Within one branch the owner as well sees that one only.
    assert "Клиенты" not in ask(web(network.owner, network.lesnoy), "Чужой")


def test_nobody_finds_what_his_role_does_not_see(network: Any, web: Any) -> None:
    anna = make_client(network.lesnoy, name="Анна Видимая")
    make_account(anna, network.account_type)
    make_bill(anna)
    found = ask(web(network.instructor), "Видимая")
    assert found == {"Клиенты": ["Анна Видимая"]}


def test_one_letter_finds_no_records_but_commands(network: Any, web: Any) -> None:
    make_client(network.lesnoy, name="Яна")
    found = ask(web(network.administrator), "я")
    assert set(found) == {"Команды"}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("задания", "Мои задания"),
        ("отчет действия", "Отчёт о действиях сотрудников"),
        ("АРХИВНЫЕ КЛИЕНТЫ", "Архивные клиенты"),
        ("добавить клиента", "Добавить клиента"),
        ("центральная", "Центральная страница"),
        ("темн", "Светлая или тёмная тема"),
        ("мира", "Мира"),
        ("лицензир", "Лицензирование"),
    ],
)
def test_commands_are_found_by_any_of_their_words(network: Any, web: Any, text: str, title: str) -> None:
    assert title in ask(web(network.owner), text)["Команды"]


def test_commands_are_those_of_the_person(network: Any, web: Any) -> None:
    instructor = web(network.instructor)
    assert ask(instructor, "задания") == {"Команды": ["Мои задания"]}
    for text in ("отчет о действиях", "добавить клиента", "лицензирование", "мира", "роли"):
        assert ask(instructor, text) == {}, text


def test_every_command_that_is_an_address_opens(network: Any, web: Any) -> None:
    for person in (network.owner, network.instructor, network.support):
        client = web(person)
        addresses = re.findall(r'<li><a href="([^"]+)"', client.get("/admin/search/").text)
        assert len(addresses) >= 3
        for address in addresses:
            assert client.get(html.unescape(address)).status_code in {200, 302}, address


def test_another_branch_is_a_command_that_keeps_the_page(network: Any, web: Any) -> None:
    client = web(network.owner)
    page = client.get(f"{PATH}?q=мира&next=/admin/bill/%3Fsort=-amount").text
    assert f'name="branch_id" value="{network.mira.id}"' in page
    assert 'name="next" value="/admin/bill/?sort=-amount"' in page
    assert "Сеть: все филиалы" in ask(web(network.owner, network.mira), "сеть")["Команды"]
    assert "Команды" not in ask(client, "сеть: все")


@pytest.mark.parametrize("text", ["%", "__", "\x00\x00", "'; drop table", "<script>", "9" * 300, "ё" * 300, "\\", "  "])
def test_odd_texts_are_answered(network: Any, web: Any, text: str) -> None:
    make_client(network.lesnoy, name="Анна")
    client = web(network.administrator)
    assert "Клиенты" not in ask(client, text)
    assert "<script>" not in client.get(PATH, query_string={"q": text}).text
    assert client.get("/admin/search/", query_string={"q": text}).status_code == 200


def test_a_name_with_markup_stays_text(network: Any, web: Any) -> None:
    make_client(network.lesnoy, name="<b>Жирный</b> & Ко")
    client = web(network.administrator)
    assert ask(client, "жирный")["Клиенты"] == ["<b>Жирный</b> & Ко"]


def test_who_is_not_signed_in_is_sent_to_sign_in(network: Any, web: Any) -> None:
    assert web().get(PATH).status_code == 302


def test_a_child_is_found_as_well(network: Any, web: Any) -> None:
    make_child(make_client(network.lesnoy), name="Малышева Зоя")
    assert ask(web(network.administrator), "малышева")["Клиенты"] == ["Малышева Зоя"]


def test_accounts_are_found_by_who_does_not_see_their_balances(network: Any, web: Any) -> None:
    for _ in range(2):  # one alone is gone to at once
        make_account(make_client(network.lesnoy, name="Вера Счётова"), balance=Decimal("4321.09"))
    with transaction():
        hidden = dict.fromkeys(("account.balance", "account.credited"), FieldRule.HIDE)
        change_role(settings_of(Role.DIRECTOR), permissions={}, fields=hidden, by=network.owner)
    desk = web(network.director, network.lesnoy)
    for path in ("/admin/search/?q=Счётова", "/admin/palette/?q=Счётова"):
        page = desk.get(path)
        assert page.status_code == 200, path
        assert "Вера Счётова" in page.text
        assert "321,09" not in page.text
