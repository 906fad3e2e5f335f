"""The form of a bill in Chromium: what is typed is neither lost nor interrupted by what is calculated meanwhile."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.test_main_job import add_client, choose_branch, sign_in

CALCULATION = "По прогнозу оплаты"
_numbers = itertools.count(10)


@pytest.fixture
def form(demo_url: str, page: Page) -> Page:
    """A new bill of a new client."""
    sign_in(page, demo_url)
    choose_branch(page, "Центр «Лесной»")
    number = next(_numbers)
    add_client(page, demo_url, f"Клавдия Счётова {number}", f"8 (999) 765-43-{number}")
    card = page.url.split("?")[0].rstrip("/")
    page.goto(f"{card}/bill/new/")
    return page


class Held:
    """Answers of the server to the form, until they are let go."""

    def __init__(self, page: Page) -> None:
        self.routes: list[Route] = []
        self.is_over = False
        page.route("**/bill/new/", self._hold)

    def _hold(self, route: Route) -> None:
        if route.request.resource_type == "fetch" and not self.is_over:
            self.routes.append(route)
        else:
            route.continue_()

    def let_go(self, page: Page) -> None:
        self.is_over = True  # what is asked for a moment later waits for nobody
        for route in self.routes:
            route.continue_()
        self.routes.clear()
        expect(page.locator("[data-issue]")).not_to_have_attribute("aria-busy", "true")


def calculated(page: Page) -> Any:
    return page.expect_response(lambda answer: answer.request.resource_type == "fetch")


def test_a_date_is_typed_by_keys_to_its_end(form: Page) -> None:
    asked: list[str] = []
    form.on("request", lambda one: asked.append(one.url) if one.resource_type == "fetch" else None)
    for name in ("payable_from", "payable_until", "period_to"):
        form.locator(f"[name={name}]").focus()
        form.keyboard.type("12122027")  # whichever comes first, the day or the month
        expect(form.locator(f"[name={name}]")).to_have_value("2027-12-12")
        assert asked == []
        expect(form.locator(f"[name={name}]")).to_be_focused()
        with calculated(form):
            form.locator("[name=purpose]").focus()
        asked.clear()
        expect(form.locator("[data-issue]")).not_to_have_attribute("aria-busy", "true")
        expect(form.locator("[name=purpose]")).to_be_focused()
        expect(form.locator(f"[name={name}]")).to_have_value("2027-12-12")


def test_what_is_typed_while_it_is_calculated_stays(form: Page) -> None:
    held = Held(form)
    form.get_by_label("Тип расчета").select_option(label=CALCULATION)
    form.locator("[name=payable_until]").fill("2027-12-20")
    form.locator("[name=purpose]").press_sequentially("За янв")
    held.let_go(form)
    form.locator("[name=purpose]").press_sequentially("арь")
    expect(form.locator("[name=purpose]")).to_have_value("За январь")
    expect(form.locator("[name=purpose]")).to_be_focused()
    expect(form.locator("[name=payable_until]")).to_have_value("2027-12-20")
    expect(form.locator("[name=amount]")).to_have_attribute("readonly", "")


def test_a_period_typed_while_the_method_changes_is_calculated(form: Page) -> None:
    held = Held(form)
    form.get_by_label("Тип расчета").select_option(label=CALCULATION)
    last = form.evaluate("new Date(Date.now() + 40 * 864e5).toISOString().slice(0, 10)")
    form.locator("[name=period_to]").fill(last)
    form.locator("[name=purpose]").focus()
    held.let_go(form)
    expect(form.locator("[name=period_to]")).to_have_value(last)
    expect(form.locator("[name=amount]")).to_have_attribute("readonly", "")


def test_the_sum_typed_during_a_calculation_is_saved(form: Page) -> None:
    held = Held(form)
    form.locator("[name=term]").select_option("week")
    form.locator("[name=amount]").fill("777")
    form.get_by_role("button", name="Сохранить").click()
    expect(form.locator("main")).to_contain_text("777,00")
    assert "/bill/details/" in form.url
    held.routes.clear()
