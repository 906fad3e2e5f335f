"""Forms of mailings in Chromium: fields come and go with what is chosen, and nothing typed is lost."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_main_job import choose_branch, sign_in


@pytest.mark.spec("X2", "B91", "B92", "B93", "B102")
def test_fields_of_a_rule_come_and_go(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "owner")
    page.goto(f"{demo_url}/admin/mailingrule/new/")
    expect(page.get_by_role("button", name="Обновить поля")).to_be_hidden()
    page.get_by_label("Название").fill("Счета в пятницу")
    subject, lessons = page.locator("[name=subject]"), page.locator("[name=lessons_from]")
    expect(subject).to_be_hidden()
    page.get_by_label("Тип расчётов").select_option("По абонементу")
    expect(subject).to_be_visible()
    expect(page.get_by_label("Тип урока")).to_be_visible()
    expect(lessons).to_be_hidden()
    page.get_by_label("Метод расчёта").select_option("По стоимости абонементов")
    expect(lessons).to_be_visible()
    page.get_by_label("Периодичность").select_option("Еженедельная")
    expect(page.get_by_label("День недели")).to_be_visible()
    page.get_by_label("Тип рассылки").select_option("Поздравление с днём рождения")
    expect(lessons).to_be_hidden()
    expect(page.get_by_label("Название")).to_have_value("Счета в пятницу")


def test_a_message_to_clients_ticked_in_the_grid(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "owner")
    choose_branch(page, "Центр «Лесной»")
    page.goto(f"{demo_url}/admin/client/")
    ticks = page.locator("tbody input[name=id]")
    for place in (0, 1):
        ticks.nth(place).check()
    page.locator("summary", has_text="Править").click()
    page.get_by_role("button", name="Разослать сообщение…").click()
    expect(page.get_by_text("2 клиента · Клиенты")).to_be_visible()
    text, subject = page.locator("[name=text]"), page.locator("[name=subject]")
    text.fill("Здравствуйте, !")
    text.press("End")
    text.press("ArrowLeft")
    page.get_by_role("button", name="{customer.name}", exact=True).click()
    expect(text).to_have_value("Здравствуйте, {customer.name}!")
    subject.fill("Каникулы")
    page.get_by_label("Способ рассылки").select_option("SMS")
    expect(subject).to_be_hidden()
    expect(text).to_have_value("Здравствуйте, {customer.name}!")
    page.get_by_label("Способ рассылки").select_option("Email")
    expect(subject).to_have_value("Каникулы")
    page.get_by_role("button", name="Посмотреть, кто получит").click()
    expect(page.get_by_role("heading", name=re.compile("^Что получит"))).to_be_visible()
    page.get_by_role("button", name="Назад").click()
    expect(text).to_have_value("Здравствуйте, {customer.name}!")
    page.get_by_role("button", name="Посмотреть, кто получит").click()
    page.get_by_role("button", name="Отправить сейчас").click()
    expect(page.get_by_text("Сообщение рассылается 2 клиентам.")).to_be_visible()
