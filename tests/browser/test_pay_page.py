"""The page of a bill in Chromium as a payer meets it: without scripts, by the keyboard, on a phone, light and dark."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.test_every_page import PHONE, WIDE, axe_faults
from tests.browser.test_main_job import sign_in


@pytest.fixture
def bill_address(page: Any, demo_url: str) -> str:
    """A bill of the demo that awaits payment."""
    sign_in(page, demo_url, "owner")
    page.goto(f"{demo_url}/admin/bill/?f.status.is=pending&f.payable_until.empty=1")
    page.locator("[data-open]").first.click()
    return page.get_by_label("Ссылка для клиента").input_value()


@pytest.mark.spec("B43", "B44")
def test_a_bill_is_paid_by_the_keyboard_without_scripts_in_one_request(browser: Any, bill_address: str) -> None:
    context = browser.new_context(locale="ru-RU", viewport=PHONE, java_script_enabled=False)
    visitor = context.new_page()
    asked: list[str] = []
    visitor.on("request", lambda request: asked.append(request.url))
    visitor.goto(bill_address)
    assert [url for url in asked if not url.startswith("data:")] == [bill_address]
    for _ in range(10):
        visitor.keyboard.press("Tab")
        if visitor.locator("button:focus").count():
            break
    visitor.keyboard.press("Enter")
    visitor.wait_for_url("**/demo-bank/*")
    visitor.get_by_role("button", name="Оплатить").click()
    visitor.get_by_text("Оплата получена. Спасибо!").wait_for()
    context.close()


def test_it_is_fit_to_be_read_by_anybody(browser: Any, bill_address: str) -> None:
    complaints: list[str] = []
    for theme in ("light", "dark"):
        for size in (WIDE, PHONE):
            # axe is run by the tests, past the policy that lets no foreign script in.
            context = browser.new_context(locale="ru-RU", viewport=size, color_scheme=theme, bypass_csp=True)
            visitor = context.new_page()
            visitor.on("console", lambda message: complaints.append(message.text))
            visitor.goto(bill_address)
            assert axe_faults(visitor) == []
            assert visitor.evaluate("document.documentElement.scrollWidth") <= size["width"]
            context.close()
    assert complaints == []


def test_its_style_is_let_in_by_the_policy(page: Any, bill_address: str) -> None:
    page.goto(bill_address)
    assert page.locator(".card").first.evaluate("card => getComputedStyle(card).borderRadius") == "16px"
