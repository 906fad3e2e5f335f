"""Screenshots of the main screens for the documentation: `make screens` writes docs/screens/."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests import chromium, servers

TARGET = Path(__file__).resolve().parent.parent / "docs" / "screens"
SIZES = {"wide": (1440, 900), "phone": (390, 844)}


def _shots(page: Page, url: str, suffix: str) -> None:
    def shot(name: str) -> None:
        page.screenshot(path=TARGET / f"{name}-{suffix}.png")

    page.goto(f"{url}/login")
    page.get_by_label("Эл. почта").fill("director@demo.test")
    page.get_by_label("Пароль").fill("demo")
    page.get_by_role("button", name="Войти").click()
    page.get_by_label("Сеть или филиал").click()
    with page.expect_navigation():  # Chromium takes no picture of a page that is being left
        page.locator(".place").get_by_role("button", name="Центр «Лесной»").click()
    shot("home")
    page.goto(f"{url}/admin/bill/?f.status.is=pending&f.status.is=paid")
    shot("bills")
    page.locator("[data-row] td a").first.click()
    shot("card")
    page.get_by_role("link", name="Счета клиента").click()
    shot("accounts")
    page.goto(f"{url}/admin/bill/?f.status.is=pending")
    page.locator("[data-open]").first.click()
    shot("bill")
    page.goto(page.get_by_label("Ссылка для клиента").input_value())
    shot("pay")
    for name, address in {
        "visits": "/admin/visit/",
        "debtors": "/admin/debtor/",
        "tills": "/admin/till/",
        "cash-flow": "/admin/cashflow/",
    }.items():
        page.goto(url + address)
        shot(name)
    _shots_of_lessons(page, url, shot)
    _shots_of_mailings(page, url, shot)
    page.goto(f"{url}/admin/visit/?f.paid_at.empty=1&f.price.from=1&f.status.is=planned")
    page.locator("[data-open]").first.click()
    shot("visit")
    page.goto(f"{url}/admin/shift/?sort=opened_at")
    page.locator("[data-open]").first.click()
    shot("shift")
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    page.goto(f"{url}/admin/account/?as_of={yesterday}")
    shot("accounts-as-of")


def _shots_of_lessons(page: Page, url: str, shot: Callable[[str], None]) -> None:
    """The schedule, a lesson marked, a subscription and what becomes of it, reports."""
    for name, address in {
        "calendar": "/admin/lesson/calendar/",
        "calendar-day": "/admin/lesson/calendar/?span=day",
        "groups": "/admin/clientgroup/",
        "tasks": "/admin/task/",
        "attendance-report": "/admin/attendancereport/",
        "room-load": "/admin/roomload/?period=last_week",
    }.items():
        page.goto(url + address)
        shot(name)
    page.goto(f"{url}/admin/lesson/?f.status.is=held&f.group.empty=0")
    lesson = page.locator("[data-row]").first.get_attribute("data-row")
    page.goto(f"{url}/admin/lesson/{lesson}/marks/")
    shot("marking")
    page.goto(f"{url}/admin/subscription/?f.state.is=active&f.lessons_left.from=1&sort=-price")
    sold = page.locator("[data-row]").first.get_attribute("data-row")
    for name, address in {
        "subscription": f"/admin/subscription/details/?id={sold}",
        "recalculation": f"/admin/subscription/{sold}/recalculate/",
        "return": f"/admin/subscription/{sold}/return/",
    }.items():
        page.goto(url + address)
        shot(name)


def _shots_of_mailings(page: Page, url: str, shot: Callable[[str], None]) -> None:
    """Rules, whom they concern, a run, messages, a message to many, the client's own page."""
    page.goto(f"{url}/admin/mailingrule/?q=Счета")
    rule = page.locator("[data-row]").first.get_attribute("data-row")
    page.goto(f"{url}/admin/mailingrun/")
    run = page.locator("[data-row]", has_text="День открытых дверей").first.get_attribute("data-row")
    page.goto(f"{url}/admin/client/")
    client = page.locator("[data-row]").first.get_attribute("data-row")
    for name, address in {
        "mailings": "/admin/mailingrule/",
        "mailing": f"/admin/mailingrule/edit/?id={rule}",
        "mailing-preview": f"/admin/mailingrule/preview/?id={rule}",
        "mailing-run": f"/admin/mailingrun/details/?id={run}",
        "messages": "/admin/message/",
        "mailing-of-selection": "/admin/mailingrule/selection/?of=client",
    }.items():
        page.goto(url + address)
        shot(name)
    page.goto(f"{url}/admin/client/card/{client}/")
    page.locator("button[value=link]").first.evaluate("button => button.click()")
    page.goto(page.locator("a[href*='/messages/']").first.evaluate("link => link.href"))
    shot("messages-of-client")


def _shots_of_the_head(page: Page, url: str, suffix: str) -> None:
    """What the head of the network shapes: grids, imports, fields, roles, reports."""
    page.goto(f"{url}/login")
    page.get_by_label("Эл. почта").fill("owner@demo.test")
    page.get_by_label("Пароль").fill("demo")
    page.get_by_role("button", name="Войти").click()
    wanted = "f.status.is=pending&any1.f.amount.from=1000&any1.f.payable_until.period=this_month"
    for name, address in {
        "filters": f"/admin/bill/filters/?{wanted}",
        "columns": "/admin/bill/layout/",
        "import": "/admin/client/import/",
        "fields": "/admin/field/",
        "role": "/admin/role/edit/?id=4",
        "staff-actions": "/admin/staffactions/",
        "template": "/admin/template/edit/?id=1",
        "providers": "/admin/provider/",
        "message-costs": "/admin/messagecharge/",
    }.items():
        page.goto(url + address)
        page.screenshot(path=TARGET / f"{name}-{suffix}.png")


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    path = chromium.find()
    if path is None:
        raise SystemExit(chromium.MISSING)
    args = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with servers.kontora(demo=True) as running, sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=args)
        for suffix, (width, height) in SIZES.items():
            for theme in ("light", "dark"):
                context = started.new_context(
                    locale="ru-RU", viewport={"width": width, "height": height}, color_scheme=theme
                )
                name = suffix if theme == "light" else f"{suffix}-dark"
                _shots(context.new_page(), running.url, name)
                if suffix == "wide":
                    context.clear_cookies()
                    _shots_of_the_head(context.new_page(), running.url, name)
                context.close()
        started.close()
    print(f"{len(list(TARGET.glob('*.png')))} pictures in docs/screens/")


if __name__ == "__main__":
    main()
