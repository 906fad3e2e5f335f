"""Operations on a client's account, on the screen."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import close_account
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.tills.models import TillKind
from crm.tills.operations import new_till
from tests.admin.world import errors, fields, send
from tests.factories import house_balance, make_account, make_child, make_client, make_subscription


@pytest.fixture
def account(network: Any) -> Account:
    """A deposit with 1000 on it."""
    return make_account(make_client(network.lesnoy, name="Анна Лесная"), balance=1000)


@pytest.fixture
def director(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def path(account: Account, verb: str) -> str:
    return f"/admin/account/{account.id}/{verb}/"


def balance(account: Account) -> Decimal:
    db.session.expire_all()
    return account.balance


def said(client: Any, answer: Any) -> str:
    """The message on the page a done form leads to."""
    assert answer.status_code == 302, errors(answer.text)
    page = client.get(answer.location).text
    [message] = re.findall(r'<div class="alert alert-(?:success|info) py-2" role="status">(.*?)</div>', page)
    return re.sub(r"<[^>]+>|\s+", " ", message).replace("\xa0", " ").replace("  ", " ").strip()


@pytest.mark.spec("A31")
def test_each_form_shows_whose_which_and_the_balance(director: Any, account: Account) -> None:
    for verb in ("top-up", "write-off", "refund", "transfer", "close"):
        page = director.get(path(account, verb)).text.replace("\xa0", " ")
        assert "Анна Лесная" in page, verb
        assert account.title in page, verb
        assert re.search(r"Баланс до</dt><dd[^>]*>1 000,00<", page), verb


def test_the_answer_says_before_and_after_and_leads_to_the_slip(director: Any, account: Account) -> None:
    answer = send(director, path(account, "top-up"), amount="0,50", method="card", comment="Доплата")
    assert said(director, answer) == "Счет пополнен. Баланс: 1 000,00 → 1 000,50. Напечатать квитанцию"
    answer = send(director, path(account, "write-off"), amount="100", reason="Утеряна карта")
    assert said(director, answer) == "Сумма списана. Баланс: 1 000,50 → 900,50. Напечатать квитанцию"
    answer = send(director, path(account, "refund"), amount="900,50", method="cash")
    assert said(director, answer) == "Деньги возвращены. Баланс: 900,50 → 0,00. Напечатать квитанцию"
    last = db.session.scalars(select(Transaction).order_by(Transaction.id.desc())).first()
    assert last is not None
    assert director.get(f"/admin/entry/receipt/{last.id}/").status_code == 200
    assert balance(account) == 0


def test_a_broken_rule_is_told_beside_its_field(director: Any, account: Account) -> None:
    cases = [
        ("write-off", {"amount": "1000,01", "reason": "Сбор"}, "amount", "не хватает денег"),
        ("write-off", {"amount": "5", "reason": " "}, "reason", "Заполните"),
        ("refund", {"amount": "-5", "method": "cash"}, "amount", ""),
        ("refund", {"amount": "5", "method": "online"}, "method", "Выберите"),
        ("top-up", {"amount": "5", "method": "account"}, "method", "Выберите"),
    ]
    for verb, values, field, text in cases:
        answer = send(director, path(account, verb), **values)
        assert answer.status_code == 422, verb
        [found] = errors(answer.text).items()
        assert (found[0], text in found[1]) == (field, True), (verb, found)
    assert balance(account) == 1000


def test_a_double_click_is_one_write_off(director: Any, account: Account) -> None:
    form = fields(director.get(path(account, "write-off")).text) | {"amount": "10", "reason": "Сбор"}
    first, second = (director.post(path(account, "write-off"), data=form) for _ in range(2))
    assert (first.status_code, second.status_code, first.location) == (302, 302, second.location)
    assert balance(account) == 990


@pytest.mark.spec("A28")
def test_how_money_is_taken_and_given_back(network: Any, web: Any, director: Any, account: Account) -> None:
    def methods(client: Any, verb: str) -> list[str]:
        [select] = re.findall(r'<select[^>]*name="method".*?</select>', client.get(path(account, verb)).text, re.DOTALL)
        return re.findall(r'value="(\w+)"', select)

    clerk = web(network.administrator, network.lesnoy)
    assert methods(clerk, "top-up") == ["cash", "card"]
    assert methods(director, "top-up") == ["cash", "card", "bank"]
    assert methods(director, "refund") == ["cash", "card", "bank"]


def test_a_till_is_chosen_where_there_is_a_choice(network: Any, director: Any, account: Account) -> None:
    assert 'name="till"' not in director.get(path(account, "top-up")).text
    with transaction():
        bar = new_till(TillKind.CASH, network.lesnoy.id, name="Бар")
        new_till(TillKind.CASH, network.rechnoy.id, name="Чужая")
    page = director.get(path(account, "top-up")).text
    assert "Касса: Бар" in page
    assert "Чужая" not in page
    assert send(director, path(account, "top-up"), amount="7", method="cash", till=str(bar.id)).status_code == 302
    answer = send(director, path(account, "top-up"), amount="7", method="card", till=str(bar.id))
    assert list(errors(answer.text)) == ["till"]
    answer = send(director, path(account, "refund"), amount="8", method="cash", till=str(bar.id))
    assert errors(answer.text) == {"till": "В кассе «Бар» не хватает наличных."}


def test_within_the_family_the_accounts_are_a_list(network: Any, web: Any, account: Account) -> None:
    client = account.client
    other, closed = make_account(client, balance=5), make_account(client)
    stranger = make_account(make_client(network.lesnoy))
    with transaction():
        close_account(closed, by=SYSTEM)
    clerk = web(network.administrator, network.lesnoy)
    page = clerk.get(path(account, "transfer")).text
    [select] = re.findall(r'<select[^>]*name="target".*?</select>', page, re.DOTALL)
    assert re.findall(r'value="(\d+)"', select) == [str(other.id)]
    assert "Другому клиенту" not in page
    answer = send(clerk, path(account, "transfer"), target=str(stranger.id), amount="1")
    assert list(errors(answer.text)) == ["target"]
    assert clerk.get(f"{path(account, 'transfer')}?to={stranger.client_id}").status_code == 403
    answer = send(clerk, path(account, "transfer"), target=str(other.id), amount="100", comment="Просил")
    assert said(clerk, answer).startswith("Деньги переведены. Баланс: 1 000,00 → 900,00.")
    assert balance(other) == 105


def test_another_client_is_found_and_gets_it_on_his_base_account(network: Any, director: Any, account: Account) -> None:
    payer = make_client(network.lesnoy, name="Пётр Береговой")
    child = make_child(payer, name="Маша Береговая")
    assert f"to={account.client_id}" not in director.get(f"{path(account, 'transfer')}?q=лесная").text
    page = director.get(f"{path(account, 'transfer')}?q=берегов").text
    links = re.findall(r'href="([^"]*transfer/\?to=\d+)"', page)
    assert sorted(links) == sorted(f"{path(account, 'transfer')}?to={one.id}" for one in (payer, child))
    there = f"{path(account, 'transfer')}?to={child.id}"
    page = director.get(there).text
    assert "Пётр Береговой" in page
    assert db.session.scalar(select(func.count()).where(Account.client_id == payer.id)) == 0  # nothing made by looking
    assert send(director, there, amount="300").status_code == 302
    with transaction():
        base = base_account(payer.id, payer.branch_id)
    assert (balance(account), balance(base)) == (700, 300)


@pytest.mark.spec("C141")
def test_a_client_of_another_city_is_shown_with_the_reason(network: Any, web: Any, account: Account) -> None:
    far = make_client(network.mira, name="Самарский Клиент")
    owner = web(network.owner)
    page = owner.get(f"{path(account, 'transfer')}?q=самарский").text
    assert "Самарский Клиент" in page
    assert "Другой город: Самара" in page
    assert f"to={far.id}" not in page
    answer = send(owner, f"{path(account, 'transfer')}?to={far.id}", amount="5")
    assert list(errors(answer.text)) == ["target"]
    assert balance(account) == 1000
    assert db.session.scalar(select(func.count()).where(Account.client_id == far.id)) == 0


def test_closing_and_opening_again(director: Any, account: Account) -> None:
    other = make_account(account.client)
    answer = send(director, path(account, "close"), target=str(other.id), comment="Объединили")
    assert said(director, answer) == (
        f"Счет закрыт; остаток перенесён на счет «{other.title}». Баланс: 1 000,00 → 0,00. Напечатать квитанцию"
    )
    assert (balance(account), balance(other), account.is_closed) == (0, 1000, True)
    assert "закрыт" in errors(director.get(path(account, "top-up")).text)[""]
    answer = send(director, path(account, "top-up"), amount="5", method="cash")
    assert "закрыт" in " ".join(errors(answer.text).values())
    page = director.get(f"/admin/account/details/?id={account.id}").text
    assert path(account, "reopen") in page
    assert path(account, "top-up") not in page
    assert said(director, send(director, path(account, "reopen"))) == "Счет снова открыт."
    assert not db.session.get_one(Account, account.id, populate_existing=True).is_closed


def test_where_there_is_no_base_account_it_is_made_for_the_money(director: Any, account: Account) -> None:
    assert "Базовый счёт" in director.get(path(account, "transfer")).text
    assert db.session.scalars(select(Account.kind).where(Account.client_id.is_not(None))).all() == [AccountKind.DEPOSIT]
    assert send(director, path(account, "transfer"), amount="300").status_code == 302
    with transaction():
        base = base_account(account.client_id, account.branch_id)  # type: ignore[arg-type]
    assert (balance(account), balance(base)) == (700, 300)
    # Now it is one of the accounts to choose from.
    assert send(director, path(account, "close")).status_code == 422
    assert send(director, path(account, "close"), target=str(base.id)).status_code == 302
    assert (balance(account), balance(base), account.is_closed) == (0, 1000, True)
    gift = make_account(make_client(db.session.get_one(Branch, account.branch_id)), balance=5)
    assert send(director, path(gift, "close")).status_code == 302
    assert (balance(gift), gift.is_closed) == (0, True)


def test_from_the_only_account_there_is_nowhere_to_go_but_to_others(director: Any, account: Account) -> None:
    with transaction():
        base = base_account(account.client_id, account.branch_id)  # type: ignore[arg-type]
        close_account(account, transfer_to=base, by=SYSTEM)
    page = director.get(path(base, "transfer")).text
    assert "Других открытых счетов у семьи нет." in page
    assert "Другому клиенту" in page


def test_an_operation_is_reversed(director: Any, account: Account) -> None:
    operation = db.session.scalars(select(Transaction)).one()
    address = f"/admin/account/operation/{operation.id}/reverse/"
    page = director.get(address).text.replace("\xa0", " ")
    assert re.search(r"Баланс до</dt><dd[^>]*>1 000,00<", page)
    assert re.search(r"Баланс после</dt><dd[^>]*>0,00<", page)
    assert "Отменить операцию</button>" in page
    assert list(errors(send(director, address).text)) == ["comment"]
    answer = send(director, address, comment="Ошиблись клиентом")
    assert said(director, answer).startswith("Операция отменена. Баланс: 1 000,00 → 0,00.")
    assert db.session.scalars(select(Payment.status)).all() == [PaymentStatus.REVERSED]
    page = director.get(address).text
    assert "Эта операция уже отменена." in page
    assert "form_key" not in page  # nothing to press
    assert "Баланс после" not in page
    answer = send(director, address, comment="Ещё раз")
    assert answer.status_code == 422
    assert balance(account) == 0


def test_a_sale_says_why_it_is_not_reversed(network: Any, director: Any) -> None:
    make_subscription(make_client(network.lesnoy))
    sale = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.SALE)).one()
    page = director.get(f"/admin/account/operation/{sale.id}/reverse/").text
    assert "возвратом абонемента" in page
    assert "form_key" not in page


def test_no_such_operation(director: Any) -> None:
    for number in ("0", "999999", "9" * 30, "x", "-1"):
        assert director.get(f"/admin/account/operation/{number}/reverse/").status_code == 404, number


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_hidden_balances_stay_hidden(network: Any, web: Any, director: Any, account: Account) -> None:
    make_account(account.client, balance=Decimal("777.31"))
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.DIRECTOR)).one()
    with transaction():
        change_role(settings, permissions={}, fields={"account.balance": FieldRule.HIDE}, by=network.owner)
    operation = db.session.scalars(select(Transaction).order_by(Transaction.id)).first()
    assert operation is not None
    addresses = [path(account, verb) for verb in ("top-up", "write-off", "refund", "transfer", "close")]
    for address in [*addresses, f"/admin/account/operation/{operation.id}/reverse/"]:
        page = director.get(address).text.replace("\xa0", " ")
        assert "1 000,00" not in page, address
        assert "1000.00" not in page, address
        assert "777,31" not in page, address
        assert "777.31" not in page, address
    answer = send(director, path(account, "write-off"), amount="5", reason="Сбор")
    assert said(director, answer) == "Сумма списана. Напечатать квитанцию"


def test_what_cannot_be_done_is_not_offered(network: Any, web: Any, account: Account) -> None:
    page = web(network.administrator, network.lesnoy).get(f"/admin/client/card/{account.client_id}/?tab=accounts").text
    offered = set(re.findall(rf'href="/admin/account/{account.id}/([a-z-]+)/"', page))
    assert offered == {"top-up", "write-off", "transfer"}
    page = web(network.director, network.lesnoy).get(f"/admin/client/card/{account.client_id}/?tab=accounts").text
    offered = set(re.findall(rf'href="/admin/account/{account.id}/([a-z-]+)/"', page))
    assert offered == {"top-up", "write-off", "refund", "transfer", "close"}


def test_money_given_back_left_the_cash_desk(network: Any, director: Any, account: Account) -> None:
    send(director, path(account, "refund"), amount="250", method=PaymentMethod.CASH.value)
    assert house_balance(AccountKind.CASH, network.lesnoy) == 750
