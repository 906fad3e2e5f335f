"""The grid in Chromium as staff use it all day: cells by keyboard, columns, filters, order, the palette."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.test_main_job import sign_in


def cell(page: Page, row: int, column: str) -> Locator:
    """A cell of the body, by the number of its row and the column's name."""
    place = page.locator("thead th").evaluate_all(
        "(heads, name) => heads.findIndex(h => h.dataset.col === name)", column
    )
    return page.locator("tbody tr").nth(row).locator("> *").nth(place)


def heads(page: Page) -> list[str]:
    return page.locator("th[data-col]").evaluate_all("heads => heads.map(head => head.dataset.col)")


def fetched(page: Page) -> list[str]:
    """What the page took from the network for itself, itself included."""
    return page.evaluate(
        "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".filter(entry => entry.transferSize > 0).map(entry => entry.name)"
    )


def test_cells_are_edited_by_keyboard_and_nothing_typed_is_lost(demo_url: str, page: Page, browser: Any) -> None:
    complaints: list[str] = []
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status == 404 else None)
    sign_in(page, demo_url, "owner")
    page.goto(f"{demo_url}/admin/client/")
    row = page.locator("tbody tr").first.get_attribute("data-row")
    email = cell(page, 0, "email")
    was = email.inner_text()

    email.click()
    page.keyboard.press("F2")
    box = email.get_by_role("textbox")
    expect(box).to_be_focused()
    page.keyboard.type("wrong@example.org")
    page.keyboard.press("Escape")
    expect(email).to_have_text(was)
    page.reload()
    expect(cell(page, 0, "email")).to_have_text(was)

    phone = cell(page, 0, "phone")
    phone.click()
    page.keyboard.press("F2")
    expect(phone.get_by_role("textbox")).to_be_focused()
    phone.get_by_role("textbox").fill("12")
    page.keyboard.press("Enter")
    expect(phone.get_by_role("alert")).not_to_be_empty()
    expect(phone.get_by_role("textbox")).to_have_value("12")
    phone.get_by_role("textbox").fill("8 (999) 555-44-33")
    page.keyboard.press("Enter")
    expect(phone).to_have_text("+7 999 555-44-33")
    expect(page.locator("td.here, th.here")).to_have_count(1)  # the cursor has gone on

    # Two people at one cell: the later one is told, keeps what he typed, and may insist.
    other = browser.new_context(locale="ru-RU")
    try:
        second = other.new_page()
        sign_in(second, demo_url, "owner")
        second.goto(f"{demo_url}/admin/client/?q=9995554433")
        theirs = cell(second, 0, "email")
        expect(second.locator(f"[data-row='{row}']")).to_have_count(1)
        for where, target in ((second, theirs), (page, cell(page, 0, "email"))):
            target.click()
            where.keyboard.press("F2")
            expect(target.get_by_role("textbox")).to_be_focused()
        theirs.get_by_role("textbox").fill("first@example.org")
        second.keyboard.press("Enter")
        expect(theirs).to_have_text("first@example.org")
        mine = cell(page, 0, "email")
        mine.get_by_role("textbox").fill("second@example.org")
        page.keyboard.press("Enter")
        expect(mine.get_by_role("alert")).to_contain_text("first@example.org")
        expect(mine.get_by_role("textbox")).to_have_value("second@example.org")
        page.keyboard.press("Enter")
        expect(mine).to_have_text("second@example.org")
        second.reload()
        expect(cell(second, 0, "email")).to_have_text("second@example.org")
    finally:
        other.close()
    assert not complaints


def test_what_is_typed_into_a_filter_while_its_line_is_renewed_stays(demo_url: str, page: Page) -> None:
    sign_in(page, demo_url, "director")
    page.goto(f"{demo_url}/admin/bill/")
    page.get_by_role("link", name="Фильтры").click()
    panel = page.get_by_role("dialog")
    panel.locator("#builder-new").select_option("amount")
    panel.locator("[name=g0]").select_option("any1")
    expect(panel.locator("[name=o0] option[value=range]")).to_have_count(0)
    held: list[Route] = []
    page.route("**/bill/filters/**", lambda route: held.append(route))
    panel.locator("[data-builder]").evaluate("form => form.setAttribute('data-before', '')")
    panel.locator("[name=o0]").select_option("from")
    panel.locator("[name=v0]").fill("5000")
    while not held:
        page.wait_for_timeout(20)
    held.pop().continue_()
    expect(panel.locator("[data-before]")).to_have_count(0)
    page.unroute("**/bill/filters/**")
    expect(panel.locator("[name=v0]")).to_have_value("5000")
    panel.get_by_role("button", name="Применить").last.click()
    expect(page.locator(".chips .chip")).to_have_count(1)


def test_columns_filters_order_and_palette(demo_url: str, page: Page, browser: Any) -> None:
    sign_in(page, demo_url, "director")
    page.goto(f"{demo_url}/admin/bill/")
    cold = fetched(page)
    page.goto(f"{demo_url}/admin/bill/?sort=amount")
    warm = fetched(page)
    assert len(cold) <= 8, cold
    assert len(warm) == 1, warm

    # Columns: hide one, move one, pin one; they are there after another sign-in.
    page.get_by_role("link", name="Колонки").click()
    panel = page.get_by_role("dialog")
    panel.get_by_role("checkbox", name="Выставлен", exact=True).uncheck()
    panel.locator("button[value='up:status']").click()
    panel.locator("[name=pin][value=amount]").check()
    panel.get_by_role("button", name="Применить").last.click()
    expect(page.locator("th[data-col=issued_at]")).to_have_count(0)
    chosen = heads(page)
    assert chosen[0] == "amount"
    assert chosen.index("status") == chosen.index("client") + 1
    again = browser.new_context(locale="ru-RU")
    try:
        elsewhere = again.new_page()
        sign_in(elsewhere, demo_url, "director")
        elsewhere.goto(f"{demo_url}/admin/bill/")
        assert heads(elsewhere) == chosen
    finally:
        again.close()
    page.get_by_role("link", name="Колонки").click()
    panel.locator("[value=reset]").click()
    expect(page.locator("th[data-col=issued_at]")).to_have_count(1)

    # Filters: two alternatives, put together in the dialog.
    page.get_by_role("link", name="Фильтры").click()
    for number, (condition, value) in enumerate([("from", "5000"), ("to", "3000")]):
        page.locator("#builder-new").select_option("amount")
        expect(panel.locator(".builder-row")).to_have_count(number + 1)
        panel.locator(f"[name=g{number}]").select_option("any1")
        expect(panel.locator(f"[name=o{number}] option[value=range]")).to_have_count(0)
        panel.locator(f"[name=o{number}]").select_option(condition)
        expect(panel.locator(f"[name=o{number}]")).to_have_value(condition)
        panel.locator(f"[name=v{number}]").fill(value)
    panel.get_by_role("button", name="Применить").last.click()
    expect(page.locator(".chips .chip")).to_have_count(2)
    amounts = page.locator("tbody tr").count()
    assert amounts > 0
    page.locator(".chips .chip").first.click()
    expect(page.locator(".chips .chip")).to_have_count(1)
    assert page.locator("tbody tr").count() <= amounts

    # Order by several columns.
    page.goto(f"{demo_url}/admin/bill/")
    page.locator("th[data-col=status] a").click()
    page.locator("th[data-col=amount] a").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile(r"sort=status(%2C|,)amount"))
    expect(page.locator("th[aria-sort]")).to_have_count(2)

    # Help, and the palette by keyboard alone.
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Клавиатура")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("combobox")
    expect(palette).to_be_focused()
    page.keyboard.type("платежи")
    chosen_line = page.locator("dialog.palette [role=option][aria-selected=true]")
    expect(chosen_line).to_contain_text("Платежи")
    page.keyboard.press("Escape")
    expect(page.locator("dialog.palette")).to_be_hidden()
    page.goto(f"{demo_url}/admin/")
    page.get_by_role("link", name="Найти что угодно").click()
    page.keyboard.type("счета")
    lines = page.locator("dialog.palette [role=option]")
    expect(lines.first).to_have_attribute("aria-selected", "true")
    expect(lines.filter(has_text="Счета")).not_to_have_count(0)
    page.keyboard.press("ArrowDown")
    expect(lines.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowUp")
    expect(lines.first).to_have_attribute("aria-selected", "true")
    address = lines.first.get_attribute("href")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(re.escape(str(address))))
