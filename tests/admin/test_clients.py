"""The client's card and form: created, changed, archived; by one person or by two at the same time."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule
from crm.access.roles import change_role
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.models import Bill
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.subscriptions.models import Subscription
from tests.admin.test_grids import first_column, plain
from tests.admin.world import errors, fields, row_counts, send
from tests.factories import make_account, make_bill, make_child, make_client

NEW = "/admin/client/new/"


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def clients() -> list[Client]:
    return list(db.session.scalars(select(Client).order_by(Client.id)))


def test_a_client_is_created(network: Any, browser: Any) -> None:
    page = plain(browser.get(NEW).text)
    for label in ("ФИО", "Телефон", "Эл. почта", "Дата рождения", "Комментарий", "Филиал"):
        assert label in page
    typed = {"name": "  Берёзкина   Анна ", "phone": "8 (918) 159-08-30", "email": "Anna@Demo.Test"}
    answer = send(browser, NEW, **typed, birth_date="1990-05-01", comment="Звонить\r\nвечером")
    assert answer.status_code == 302
    [client] = clients()
    assert (client.name, client.phone, client.email) == ("Берёзкина Анна", "+79181590830", "anna@demo.test")
    assert (client.birth_date, client.branch_id) == (date(1990, 5, 1), network.lesnoy.id)
    card = plain(browser.get(answer.location).text)
    for text in ("Берёзкина Анна", "+7 918 159-08-30", "01.05.1990", "Сохранено.", "Москва / Лесной"):
        assert text in card


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"name": ""}, {"name": "Заполните это поле."}),
        ({"name": " \t "}, {"name": "Заполните это поле."}),
        ({"name": "я" * 201}, {"name": "Значение не должно содержать более 200 символов."}),
        ({"phone": "12"}, {"phone": "Это не похоже на номер телефона."}),
        ({"email": "anna@"}, {"email": "Это не похоже на адрес электронной почты."}),
        ({"birth_date": "31.02.2000"}, {"birth_date": "Неверное значение даты."}),
        ({"birth_date": "0001-01-01"}, {"birth_date": "Введите год от 1900 до 2199."}),
        ({"branch": "999"}, {"branch": "Выберите один из вариантов."}),
        ({"branch": None}, {"branch": "Выберите один из вариантов."}),
    ],
)
def test_what_is_wrong_is_told_beside_its_field_and_nothing_is_lost(
    browser: Any, typed: dict[str, Any], said: dict[str, str]
) -> None:
    good = {"name": "Анна", "phone": "+79181590830", "email": "anna@demo.test", "comment": "Не <терять> & «это»"}
    answer = send(browser, NEW, **{**good, **typed})
    assert answer.status_code == 422
    assert errors(answer.text) == said
    kept = fields(answer.text)
    for name, text in {**good, **typed}.items():
        if name not in {"branch", "birth_date"}:
            assert kept[name].strip() == text.strip(), name
    assert clients() == []


def test_odd_and_incomplete_forms_do_not_break(network: Any, browser: Any) -> None:
    assert browser.post(NEW, data={}).status_code == 422
    assert browser.post(NEW, data={"name": "Анна", "branch": str(network.lesnoy.id)}).status_code == 302
    answer = browser.post(NEW, data={"name": "Оль\x00га", "branch": str(network.lesnoy.id), "comment": "a\x00b"})
    assert answer.status_code == 302
    assert [(client.name, client.comment) for client in clients()] == [("Анна", ""), ("Ольга", "ab")]
    answer = browser.post(NEW, data={"name": "Чужой", "branch": str(network.mira.id)})
    assert answer.status_code == 422
    assert len(clients()) == 2


def test_a_taken_phone_names_whose_it_is(network: Any, browser: Any) -> None:
    make_client(network.lesnoy, name="Соснин Павел", phone="+79265550102")
    answer = send(browser, NEW, name="Другой", phone="8 926 555-01-02")
    assert errors(answer.text) == {"phone": "Номер +7 926 555-01-02 уже указан у клиента Соснин Павел."}


@pytest.mark.spec("E2", "E5")
def test_a_family_is_several_cards_of_one_payer(network: Any, browser: Any) -> None:
    payer = make_client(network.lesnoy, name="Берёзкина Анна")
    assert f"{NEW}?payer={payer.id}" in browser.get(f"/admin/client/card/{payer.id}/").text
    for name in ("Маша", "Миша"):
        assert send(browser, f"{NEW}?payer={payer.id}", name=name, phone="").status_code == 302
    assert [child.payer_id for child in clients()[1:]] == [payer.id, payer.id]
    card = plain(browser.get(f"/admin/client/card/{payer.id}/").text)
    assert "Маша" in card
    assert "Миша" in card
    stranger = make_client(network.mira)
    assert browser.get(f"{NEW}?payer={stranger.id}").status_code in {200, 404}
    assert browser.post(f"{NEW}?payer={stranger.id}", data={"name": "А", "branch": "1"}).status_code == 404
    assert len(clients()) == 4


def test_two_people_edit_one_card_and_neither_loses_a_word(network: Any, web: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="+79181590830", comment="")
    path = f"/admin/client/edit/?id={client.id}"
    director = web(network.director)
    first, second = fields(browser.get(path).text), fields(director.get(path).text)
    assert first["version"] == second["version"]

    assert director.post(path, data=second | {"phone": "+79990001122"}).status_code == 302
    answer = browser.post(path, data=first | {"comment": "Мой комментарий"})
    assert answer.status_code == 409
    page = plain(answer.text)
    assert "Пока вы редактировали запись, её изменил кто-то другой." in page
    assert network.director.name in page
    assert "Телефон: +7 918 159-08-30 → +7 999 000-11-22" in page
    again = fields(answer.text)
    assert again["comment"] == "Мой комментарий"
    db.session.expire_all()
    assert (client.phone, client.comment) == ("+79990001122", "")

    assert browser.post(path, data=again | {"phone": "+79990001122"}).status_code == 302
    db.session.expire_all()
    assert (client.phone, client.comment) == ("+79990001122", "Мой комментарий")
    # The very form that was saved leads where it led.
    assert director.post(path, data=second | {"phone": "+79990001122"}).status_code == 302
    # A version left out is no way round.
    assert browser.post(path, data={"name": "Без версии"}).status_code == 409
    assert browser.post(path, data=again | {"version": "zzz", "form_key": ""}).status_code == 409


def test_saving_twice_and_at_the_same_moment(network: Any, web: Any, browser: Any, in_parallel: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    path = f"/admin/client/edit/?id={client.id}"
    browsers = [web(network.director) for _ in range(4)]
    forms = [fields(other.get(path).text) | {"comment": str(index)} for index, other in enumerate(browsers)]
    answers = in_parallel(lambda index: browsers[index].post(path, data=forms[index]).status_code, times=4)
    assert sorted(answers).count(302) == 1, answers
    assert set(answers) <= {302, 409}, answers
    edits = db.session.scalars(
        select(AuditEntry).where(AuditEntry.entity == "client", AuditEntry.action == AuditAction.UPDATE)
    ).all()
    assert len(edits) == 1


def test_the_history_says_who_changed_what(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна", birth_date=date(1990, 5, 1))
    send(browser, f"/admin/client/edit/?id={client.id}", birth_date="1991-06-02", email="")
    card = plain(browser.get(f"/admin/client/card/{client.id}/").text)
    assert f"{network.administrator.name} · Изменено" in card
    assert "Дата рождения: 01.05.1990 → 02.06.1991" in card


def test_archiving_and_bringing_back(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Анна")
    path = f"/admin/client/card/{client.id}/archive/"
    assert "Отправить в архив: Анна?" in plain(browser.get(path).text)
    db.session.expire_all()
    assert client.status is ClientStatus.ACTIVE
    assert send(browser, path).status_code == 302
    db.session.expire_all()
    assert client.status is ClientStatus.ARCHIVED
    assert send(browser, path).status_code == 302
    db.session.expire_all()
    assert client.status is ClientStatus.ACTIVE


def test_many_clients_are_archived_at_once(network: Any, web: Any, browser: Any) -> None:
    kept = [make_client(network.lesnoy, name=f"Клиент {index:03d}") for index in range(30)]
    foreign = make_client(network.mira, name="Чужой")
    chosen = {"action": "archive", "all": "1", "q": "клиент"}
    page = browser.post("/admin/client/action/", data=chosen)
    assert "30 записей" in plain(page.text)
    answer = browser.post("/admin/client/action/", data=fields(page.text) | {"id": str(foreign.id)})
    assert row_counts(done=30) in plain(browser.get(answer.location).text)
    db.session.expire_all()
    assert {client.status for client in kept} == {ClientStatus.ARCHIVED}
    assert foreign.status is ClientStatus.ACTIVE
    assert first_column(browser.get("/admin/client/").text) == []


def test_of_many_restored_those_at_work_already_are_skipped(network: Any, browser: Any) -> None:
    gone, active = (make_client(network.lesnoy) for _ in range(2))
    with transaction():
        archive_client(gone, by=SYSTEM)
    chosen = {"action": "restore", "id": [str(gone.id), str(active.id)], "f.status.is": ["active", "archived"]}
    answer = browser.post("/admin/client/action/", data=chosen | {"confirmed": "1"})
    assert row_counts(done=1, skipped=1) in plain(browser.get(answer.location).text)
    db.session.expire_all()
    assert {gone.status, active.status} == {ClientStatus.ACTIVE}


@pytest.mark.spec("B7", "B33")
def test_the_bill_in_the_card_has_its_link(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    card = browser.get(f"/admin/client/card/{client.id}/").text
    assert f'href="/admin/client/card/{client.id}/bill/new/"' in card
    assert "Добавить счет" in plain(card)
    bill = make_bill(client)
    link = f'data-copy="https://kontora.test/pay/{bill.token}"'
    for path in (f"/admin/client/card/{client.id}/?tab=bills", f"/admin/bill/details/?id={bill.id}"):
        page = browser.get(path).text
        assert link in page
        assert "Скопировать ссылку" in plain(page)


def test_a_bill_goes_to_the_base_account_though_the_client_has_but_a_deposit(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client)
    path = f"/admin/client/card/{client.id}/bill/new/"
    assert "Базовый счёт" in plain(browser.get(path).text)
    assert send(browser, path, amount="100").status_code == 302
    bill = db.session.scalars(select(Bill)).one()
    assert bill.account_id != deposit.id
    assert bill.account.title == "Базовый счёт"
    stranger = make_account(make_client(network.lesnoy))
    answer = send(browser, path, amount="100", account=str(stranger.id))
    assert errors(answer.text) == {"account": "Выберите один из вариантов."}


@pytest.mark.spec("A3")
def test_a_child_s_subscription_is_sold_from_the_parent_s_deposit_with_a_discount(network: Any, browser: Any) -> None:
    parent = make_client(network.lesnoy)
    child, deposit, closed = make_child(parent), make_account(parent, balance=3600), make_account(parent)
    with transaction():
        closed.closed_at = closed.opened_at
    path = f"/admin/client/card/{child.id}/subscription/new/"
    page = plain(browser.get(path).text)
    for text in ("Скидка при продаже", "С какого счета оплатить", "Депозиты: 3 600,00"):
        assert text in page
    assert f'value="{closed.id}"' not in browser.get(path).text
    assert f"{network.plan} · 4 000,00" in page  # what it costs stands in the choice
    for discount, said in (("4000,01", "Скидка не меньше нуля и не больше цены."), ("-1", None), ("0,001", None)):
        answer = send(browser, path, discount=discount, way="account", account=str(deposit.id))
        assert list(errors(answer.text)) == ["discount"]
        assert said is None or errors(answer.text)["discount"] == said
    answer = send(browser, path, discount="100", way="account", account=str(deposit.id))
    assert errors(answer.text) == {"account": "На счете «Депозиты» не хватает денег."}
    assert send(browser, path, discount="400", way="account", account=str(deposit.id)).status_code == 302
    sold = db.session.scalars(select(Subscription)).one()
    assert (sold.client_id, sold.price, sold.discount, deposit.balance) == (child.id, 4000, 400, 0)
    assert "account" not in fields(browser.get(path).text)  # there is nothing left to pay from


def test_a_hidden_balance_is_not_told_by_the_choice_of_accounts(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=3600)
    with transaction():
        hidden = {"account.balance": FieldRule.HIDE}
        change_role(network.administrator.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    page = plain(browser.get(f"/admin/client/card/{client.id}/subscription/new/").text)
    assert "Депозиты" in page
    assert "3 600" not in page


def test_days_that_cannot_be_meant_are_refused(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    answer = send(browser, f"/admin/client/card/{client.id}/subscription/new/", starts_on="9999-12-31")
    assert errors(answer.text) == {"starts_on": "Введите год от 1900 до 2199."}
    answer = send(browser, f"/admin/client/card/{client.id}/bill/new/", amount="5", payable_until="9999-12-31")
    assert errors(answer.text) == {"payable_until": "Введите год от 1900 до 2199."}


def test_a_letter_is_written_from_the_card(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, email="anna@demo.test")
    bill = make_bill(client)
    other = make_bill(make_client(network.lesnoy))
    path = f"/admin/client/card/{client.id}/message/new/"
    assert bill.token in browser.get(f"{path}?bill={bill.id}").text
    assert browser.get(f"{path}?bill={other.id}").status_code == 404
    answer = send(browser, path, subject="", text="Здравствуйте")
    assert errors(answer.text) == {"subject": "Заполните это поле."}
    answer = send(browser, path, subject="Привет", text="Ссылка: {bill.url}")
    assert list(errors(answer.text)) == ["text"]
    assert send(browser, path, subject="Привет", text="Здравствуйте, {customer.name}").status_code == 302
    assert "Привет" in plain(browser.get(f"/admin/client/card/{client.id}/?tab=messages").text)


def test_every_tab_of_a_card_of_a_child_and_of_a_payer(network: Any, web: Any, browser: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    make_bill(payer)
    for user in network.users:
        other = web(user)
        for client in (payer, child):
            for tab in ("main", "accounts", "bills", "subscriptions", "payments", "messages", "unknown", "%00"):
                assert other.get(f"/admin/client/card/{client.id}/?tab={tab}").status_code == 200
    for path in ("card/0/", "card/abc/", "card/-1/", f"card/{10**30}/", "details/", "details/?id=²", "edit/?id=%00"):
        assert browser.get(f"/admin/client/{path}").status_code == 404, path
