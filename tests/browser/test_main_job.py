"""The main job in Chromium, as a person does it: from signing in to a paid bill and a credited account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect


def sign_in(page: Page, url: str, who: str = "administrator") -> None:
    page.goto(f"{url}/login")
    page.get_by_label("Эл. почта").fill(f"{who}@demo.test")
    page.get_by_label("Пароль").fill("demo")
    page.get_by_role("button", name="Войти").click()
    expect(page).to_have_url(f"{url}/admin/")


def choose_branch(page: Page, name: str) -> None:
    page.get_by_label("Сеть или филиал").click()
    page.locator(".place").get_by_role("button", name=name).click()
    expect(page.get_by_label("Сеть или филиал")).to_contain_text(name)


def add_client(page: Page, url: str, name: str, phone: str, email: str = "") -> None:
    page.goto(f"{url}/admin/")
    page.get_by_role("link", name="Добавить клиента").click()
    page.get_by_label("ФИО").fill(name)
    page.get_by_label("Телефон", exact=True).fill(phone)
    page.get_by_label("Эл. почта").fill(email)
    page.get_by_role("button", name="Сохранить").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


@pytest.fixture
def phone_page(browser: Any) -> Iterator[Page]:
    """A private window on a phone."""
    context = browser.new_context(
        locale="ru-RU", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.mark.spec("B2", "B7", "B31", "B32", "B33", "B40", "B41", "B43", "B44", "C1", "C2", "A27", "A30")
def test_from_sign_in_to_a_paid_bill(demo_url: str, page: Page, phone_page: Page) -> None:
    sign_in(page, demo_url)
    choose_branch(page, "Центр «Лесной»")

    add_client(page, demo_url, "Алёна Ёжикова Браузерная", "8 (999) 123-45-67", "alyona@example.org")
    for text in ("ежикова брауз", "+7 999 123 45 67", "99912345", "123-45", "alyona@"):
        page.goto(f"{demo_url}/admin/")
        search = page.get_by_role("searchbox", name="Найти клиента").last
        search.fill(text)
        search.press("Enter")
        page.get_by_text("Алёна Ёжикова Браузерная").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Алёна Ёжикова Браузерная")

    page.get_by_role("link", name="Счета клиента").click()
    page.get_by_role("link", name="Открыть новый счет").click()
    page.get_by_label("Тип счета").select_option(label="Депозиты")
    page.get_by_label("Первоначальный баланс").fill("1 500,50")
    page.get_by_label("Оплата").select_option(label="Наличными")
    page.get_by_role("button", name="Открыть новый счет").click()
    account = page.locator(".account", has_text="Депозиты")
    expect(account.locator(".balance")).to_contain_text(re.compile(r"1\s500,50"))
    expect(page.get_by_role("row", name=re.compile("Депозиты Пополнение"))).to_be_visible()

    page.get_by_role("link", name="Счета на оплату").click()
    page.get_by_role("link", name="Добавить счет").click()
    deposit = page.locator("#account option", has_text="Депозиты").get_attribute("value")
    page.get_by_label("Клиентский счет").select_option(deposit)
    page.get_by_label("Сумма").fill("4000")
    page.get_by_role("button", name="Сохранить").click()
    expect(page.locator(".status", has_text="Ожидает оплаты")).to_be_visible()
    page.get_by_role("button", name="Скопировать ссылку").click()
    expect(page.get_by_role("button", name="Скопировано")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(rf"{re.escape(demo_url)}/pay/[\w-]{{22,}}", link)
    bill_address = page.url

    phone_page.goto(link)
    body = phone_page.locator("body")
    expect(body).to_contain_text(re.compile(r"4\s000,00"))
    for text in ("ИНН", "БИК", "Срок оплаты", "не задан", "За период"):
        expect(body).to_contain_text(text)
    expect(phone_page.get_by_role("link", name=re.compile("оферт", re.I)).first).to_be_visible()
    assert phone_page.evaluate("document.documentElement.scrollWidth") <= 390
    phone_page.get_by_role("button", name="Перейти к оплате").click()
    expect(phone_page).to_have_url(re.compile("/demo-bank/"))
    phone_page.get_by_role("button", name=re.compile("Оплатить")).click()
    expect(phone_page.locator("body")).to_contain_text("Оплачен")
    expect(phone_page.get_by_role("button", name="Перейти к оплате")).to_have_count(0)

    page.goto(bill_address)
    expect(page.locator(".status", has_text="Оплачен").first).to_be_visible()
    page.get_by_role("link", name="Алёна Ёжикова Браузерная").first.click()
    page.get_by_role("link", name="Счета клиента").click()
    expect(page.locator(".account", has_text="Депозиты").locator(".balance")).to_contain_text(re.compile(r"5\s500,50"))
    page.get_by_role("navigation", name="Разделы карточки").get_by_role("link", name="Платежи").click()
    expect(page.get_by_role("row", name=re.compile(r"4\s000,00.*Онлайн"))).to_be_visible()


@pytest.mark.spec("B51", "B52", "B53", "B54", "B56", "B57", "B58", "B59")
def test_bills_are_archived_in_bulk_with_the_keyboard_and_the_mouse(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url)
    choose_branch(page, "Центр «Лесной»")
    add_client(page, demo_url, "Пакетов Архив", "+7 999 222-33-44")
    card = page.url
    for amount in ("100", "200", "300"):
        page.goto(f"{card}bill/new/")
        page.get_by_label("Сумма").fill(amount)
        page.get_by_role("button", name="Сохранить").click()
        expect(page.locator(".status", has_text="Ожидает оплаты")).to_be_visible()
    page.get_by_role("link", name="Отправить в архив").click()
    page.get_by_role("button", name="Отправить в архив").click()

    page.goto(f"{demo_url}/admin/bill/")
    page.keyboard.press("/")
    page.keyboard.type("Пакетов")
    page.keyboard.press("Enter")
    expect(page.locator("[data-row]")).to_have_count(3)
    page.get_by_role("checkbox", name="Все подходящие: 3").check()
    page.locator("summary", has_text="Править").click()
    page.get_by_role("button", name="Отправить в архив").click()
    expect(page.get_by_role("heading", name="Подтвердите действие")).to_be_visible()
    expect(page.locator("main")).to_contain_text("Данное действие необратимо")
    page.get_by_role("button", name="Отправить в архив").click()
    protocol = page.get_by_role("table")
    expect(page.get_by_role("heading", name="Протокол выполненных операций")).to_be_visible()
    expect(protocol.get_by_text("Статус: Уже в архиве")).to_have_count(1)
    expect(protocol.get_by_text("Выполнено", exact=True)).to_have_count(2)


@pytest.mark.spec("B3", "B62", "B66", "B103", "B110")
def test_a_mailing_run_now_issues_bills_and_its_letters_link_to_them(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "director")
    choose_branch(page, "Центр «Лесной»")
    add_client(page, demo_url, "Рассылкин Пётр", "+7 999 333-44-55", "rassylkin@example.org")
    page.get_by_role("navigation", name="Разделы карточки").get_by_role("link", name="Абонементы").click()
    page.get_by_role("link", name="Продать абонемент").click()
    page.get_by_label("Абонемент").select_option(index=1)
    page.get_by_role("button", name="Продать").click()

    page.goto(f"{demo_url}/admin/mailingrule/")
    page.locator("[data-open]").first.click()
    page.get_by_role("button", name="Запустить сейчас").click()
    expect(page.locator("main")).to_contain_text("Выполнен", timeout=30_000)
    row = page.get_by_role("row", name=re.compile("Рассылкин Пётр"))
    expect(row.get_by_role("link", name=re.compile(r"^\d{4}-\d+$"))).to_be_visible()  # the bill

    letter = page.get_by_role("listitem").filter(has_text="rassylkin@example.org").get_by_role("link")
    for _attempt in range(60):  # the letter leaves by a worker, over SMTP
        page.goto(f"{demo_url}/demo-mail/")
        if letter.count():
            break
        page.wait_for_timeout(500)
    letter.first.click()
    page.locator("a[href*='/pay/']").first.click()
    expect(page.context.pages[-1].get_by_role("button", name="Перейти к оплате")).to_be_visible()
