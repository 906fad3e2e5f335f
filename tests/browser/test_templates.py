"""The tags beside a template in Chromium: a click puts one at the cursor."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_main_job import sign_in


@pytest.mark.spec("B107")
def test_a_click_puts_the_tag_at_the_cursor(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "owner")
    page.goto(f"{demo_url}/admin/template/new/")
    body, subject = page.locator("textarea[name=body]"), page.locator("input[name=subject]")
    body.fill("Здравствуйте, !")
    body.press("End")
    body.press("ArrowLeft")
    page.get_by_role("button", name="{customer.name}", exact=True).click()
    expect(body).to_have_value("Здравствуйте, {customer.name}!")
    expect(body).to_be_focused()
    page.keyboard.type("*")  # the cursor stands behind it
    expect(body).to_have_value("Здравствуйте, {customer.name}*!")
    subject.fill("Счёт на ")
    page.get_by_role("button", name="{bill.amount}", exact=True).click()
    expect(subject).to_have_value("Счёт на {bill.amount}")
    expect(page.locator("[data-tags] .tag").first).to_have_css("color", "rgb(192, 38, 26)")
