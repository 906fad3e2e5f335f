"""The calendar by keys: arrows move between lessons and to other days, Enter opens, t leads to today."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.test_main_job import sign_in


def test_keys_move_between_lessons_and_days(page: Any, demo_url: str) -> None:
    sign_in(page, demo_url)
    page.goto(f"{demo_url}/admin/lesson/calendar/")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**span=week**")
    later = re.findall(r"day=([\d-]+)", page.url)[0]
    page.keyboard.press("t")
    page.wait_for_url(lambda url: re.findall(r"day=([\d-]+)", url)[0] < later)
    shown = page.locator(".les:visible")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.className").startswith("les")
    if shown.count() > 1:
        first = page.evaluate("document.activeElement.href")
        for key in ("ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        assert page.evaluate("document.activeElement.href") != first
    page.keyboard.press("Enter")
    page.wait_for_url("**/details/**")


def test_a_narrow_screen_shows_the_day_as_a_list(page: Any, demo_url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, demo_url)
    page.goto(f"{demo_url}/admin/lesson/calendar/")
    assert page.locator(".agenda").is_visible()
    assert not page.locator(".cal-week").is_visible()
    assert page.locator(".agenda-days a").count() == 7
    page.locator(".agenda-days a").nth(2).click()
    page.wait_for_url("**day=**")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
