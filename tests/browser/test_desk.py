"""An operation at the desk in Chromium: the balance after it is told while the sum is typed, and once it is done."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.test_main_job import choose_branch, sign_in


def open_rich_account(page: Page, url: str) -> None:
    """The page of a deposit with money on it."""
    page.goto(f"{url}/admin/account/?f.balance.from=100&sort=-balance")
    page.locator("tbody tr[data-row] a").first.click()


def number(text: str | None) -> float:
    return float(re.sub(r"[^\d,-]", "", (text or "").replace("−", "-")).replace(",", "."))


def test_the_balance_after_follows_the_sum(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "director")
    choose_branch(page, "Центр «Лесной»")
    open_rich_account(page, demo_url)
    page.get_by_text("Ещё", exact=False).locator("visible=true").first.click()
    page.get_by_role("link", name="Списать").click()
    before = number(page.locator(".balances dd").first.text_content())
    after = page.locator(".balances output")
    expect(after).to_have_text("—")
    page.get_by_label("Сумма").fill("0,5")
    assert number(after.text_content()) == before - 0.5
    page.get_by_label("Сумма").fill(f"{before + 1:.2f}".replace(".", ","))
    expect(after).to_have_class(re.compile("debt"))
    assert number(after.text_content()) == -1
    page.get_by_label("Сумма").fill("12 руб")
    expect(after).to_have_text("—")
    page.get_by_label("Сумма").fill("0,5")
    page.get_by_label("Причина").fill("Утеряна карта")
    page.get_by_role("button", name="Списать").click()
    said = page.get_by_role("status").first
    expect(said).to_contain_text("Сумма списана.")
    expect(said.get_by_role("link", name="Напечатать квитанцию")).to_be_visible()


def test_without_script_the_page_says_the_balance_before(demo_url: str, browser: Any) -> None:
    context = browser.new_context(locale="ru-RU", java_script_enabled=False)
    try:
        page = context.new_page()
        sign_in(page, demo_url, "owner")
        open_rich_account(page, demo_url)
        page.get_by_role("link", name="Пополнить").first.click()
        expect(page.get_by_text("Баланс до")).to_be_visible()
        expect(page.get_by_text("Баланс после")).to_be_hidden()
        page.get_by_label("Сумма").fill("10")
        page.get_by_role("button", name="Пополнить").click()
        expect(page.get_by_role("status").first).to_contain_text("→")
    finally:
        context.close()
