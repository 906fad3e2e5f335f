"""«Обзор > Сводка»: whom to ask, what waits, today's money of the branch; nothing a person may not see."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.operations import transaction_by_key
from crm.payments.desk import refund, reverse_operation
from crm.payments.models import PaymentMethod
from crm.schedule.models import LessonStatus
from crm.subscriptions.models import PlanAccount
from tests.admin.test_grids import plain
from tests.factories import (
    make_account,
    make_client,
    make_employee,
    make_lesson,
    make_payment,
    make_plan,
    make_subscription,
    make_user,
    make_visit,
)


def tiles(page: str) -> dict[str, str]:
    found = re.findall(r'class="tile"[^>]*><strong[^>]*>(.*?)</strong><span>(.*?)</span>', page, re.DOTALL)
    return {label: value.replace("\xa0", " ") for value, label in found}


@pytest.mark.spec("A15")
def test_the_managers_contacts_stand_in_the_summary_of_a_branch(network: Any, web: Any) -> None:
    with transaction():
        network.support.name = "Семён Тропов"
    gone = make_user(Role.SUPPORT, name="Бывший Менеджер", is_active=False)
    browser = web(network.administrator, network.lesnoy)
    page = browser.get("/admin/").text
    menu = page.split("<main")[0]
    assert "Обзор" in plain(menu)
    assert re.search(r'href="/admin/" aria-current="page"[^>]*>.*?Сводка', menu)
    shown = plain(page.split("<main")[1])
    assert "Семён Тропов" in shown
    assert f"mailto:{network.support.email}" in page
    assert gone.name not in shown
    assert "Лесной" in shown


def test_todays_money_by_the_way_it_came(network: Any, web: Any) -> None:
    """From midnight to midnight of Samara, an hour before Moscow's; a mistake that was reversed is not counted."""
    midnight = datetime(2026, 11, 21, 20, tzinfo=UTC)
    with clock.frozen(midnight - timedelta(minutes=1)):
        account = make_account(make_client(network.mira), balance=5000)
        elsewhere = make_account(make_client(network.lesnoy))
    with clock.frozen(midnight):
        make_payment(account, 100)
        make_payment(account, Decimal("20.50"), method=PaymentMethod.CARD)
        wrong = make_payment(account, 999)
        make_payment(elsewhere, 777)
    with clock.frozen(midnight + timedelta(hours=23, minutes=59)):
        make_payment(account, 11)
        with transaction():
            refund(account, amount=Decimal(30), method=PaymentMethod.CASH, by=SYSTEM)
            operation = transaction_by_key(f"payment:{wrong.id}")
            assert operation is not None
            reverse_operation(operation, by=SYSTEM, comment="Ошибка")
        page = web(network.owner, network.mira).get("/admin/").text
        shown = tiles(page)
        assert (shown["Наличными"], shown["Картой"], shown["Возвраты"]) == ("111,00", "20,50", "30,00")
        [url] = re.findall(r'href="([^"]+f.method.is=cash[^"]+)"', page)
        grid = plain(web(network.owner, network.mira).get(url.replace("&amp;", "&")).text)
        assert "111,00" in grid
    with clock.frozen(midnight + timedelta(hours=24)):
        assert "Наличными" not in tiles(web(network.owner, network.mira).get("/admin/").text)


def test_what_waits_in_the_branch(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client)
    make_visit(client, starts_at=clock.now())
    make_visit(client, starts_at=clock.now() + timedelta(days=2))
    make_subscription(make_client(network.mira))
    page = web(network.administrator, network.lesnoy).get("/admin/").text
    shown = tiles(page)
    assert (shown["Визиты сегодня"], shown["Долги клиентов"]) == ("1", "4 000,00")
    assert tiles(web(network.owner).get("/admin/").text)["Долги клиентов"] == "8 000,00"


def test_an_instructor_sees_how_many_lessons_he_has_today(network: Any, web: Any) -> None:
    """Of the branch's day: an hour before midnight in Samara the lesson of one o'clock is tomorrow's."""
    own = make_employee(network.lesnoy, user_id=network.instructor.id)
    with clock.frozen(datetime(2026, 11, 21, 19, tzinfo=UTC)):  # 23:00 in Samara, 22:00 in Moscow
        make_lesson(network.lesnoy, instructor_id=own.id)
        make_lesson(network.lesnoy)
        make_lesson(network.lesnoy, status=LessonStatus.CANCELED)
        make_lesson(network.mira, starts_at=clock.now() + timedelta(hours=2))
        seen = tiles(web(network.instructor, network.lesnoy).get("/admin/").text)
        assert seen["Мои занятия сегодня"] == "1"
        assert tiles(web(network.administrator, network.lesnoy).get("/admin/").text)["Занятия сегодня"] == "2"
        assert tiles(web(network.owner, network.mira).get("/admin/").text)["Занятия сегодня"] == "0"


def test_debts_on_the_accounts_of_subscriptions_are_added_up_too(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client)
    make_subscription(client, make_plan(account=PlanAccount.SEPARATE))
    shown = tiles(web(network.administrator, network.lesnoy).get("/admin/").text)
    assert (shown["Клиенты с долгом"], shown["Долги клиентов"]) == ("1", "8 000,00")
    options = web(network.director, network.lesnoy).get(f"/admin/client/card/{client.id}/?tab=options").text
    assert len(set(re.findall(r"/admin/debtor/bad-debt/\d+/", options))) == 2


def test_what_is_hidden_is_not_added_up(network: Any, web: Any) -> None:
    make_subscription(make_client(network.lesnoy))
    make_account(make_client(network.lesnoy), balance=1234)
    browser = web(network.administrator, network.lesnoy)
    assert "1 234,00" in plain(browser.get("/admin/").text)
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    hidden = dict.fromkeys(("account.balance", "payment.amount"), FieldRule.HIDE)
    with transaction():
        change_role(settings, permissions={}, fields=hidden, by=network.owner)
    text = plain(browser.get("/admin/").text)
    for secret in ("1 234,00", "4 000,00"):
        assert secret not in text
    seen = tiles(web(network.instructor, network.lesnoy).get("/admin/").text)
    assert not {"Долги клиентов", "Наличными", "Визиты сегодня"} & set(seen)
