"""Every page that links lead to, in Chromium, as the owner sees it: no error, nothing axe calls serious, no sideways
scroll on a phone, the right language. One browser walks them all and tells all the faults at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from babel.messages.pofile import read_po
from playwright.sync_api import Error, Page, Response

from tests.browser.test_main_job import sign_in

CATALOGUE = Path(__file__).resolve().parents[2] / "crm/translations/ru/LC_MESSAGES/messages.po"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Pages that differ in nothing but the rows they choose are one page.
_OF_SELECTION = re.compile(
    r"f\..*|any\d\..*|columns|view|in|sort|page|size|after|before|count|q|url|next|ids?|client|account|bill|payer|company|day|time"
)
_PANELS = re.compile(r"/admin/\w+/(?=(layout|views|filters|history)/)")  # the same for every grid
_NAMES_IN_THE_DEMO = {"Счёт на оплату", "Счета на оплату клиентам"}  # a template's and a mailing's, as staff wrote them
_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def shape(address: str) -> str:
    """An address without what tells one row or one selection from another: `/admin/client/details/#?tab`."""
    parts = urlsplit(address)
    path = re.sub(r"(?<=/)(\d+|[\w-]{22,})(?=/|$)", "#", parts.path)
    path = _PANELS.sub("/admin/*/", path)
    kept = sorted({(name, "" if value.isdigit() else value) for name, value in parse_qsl(parts.query)})
    return f"{path}?{urlencode([(name, value) for name, value in kept if not _OF_SELECTION.fullmatch(name)])}"


def links_of(page: Page, url: str) -> list[str]:
    """Addresses the page leads to by GET, ours only, in order."""
    found = page.evaluate(
        "[...document.querySelectorAll('a[href]:not([download])')].map(a => a.href)"
        ".concat([...document.querySelectorAll('input[readonly]')].map(i => i.value))"
    )
    return [address.partition("#")[0] for address in found if address.startswith((f"{url}/admin", f"{url}/pay/"))]


def open_page(page: Page, address: str) -> Response | None:
    """Go there; None when it is a file and not a page."""
    try:
        return page.goto(address, wait_until="load")
    except Error as error:
        if "Download is starting" in error.message or "ERR_ABORTED" in error.message:
            return None
        raise


def walk(page: Page, url: str) -> Iterator[tuple[str, Response]]:
    """One page of each shape, breadth first from the home page; the browser stands on it while it is yielded."""
    seen: set[str] = set()
    waiting = [f"{url}/admin/"]
    while waiting:
        address = waiting.pop(0)
        if shape(address) in seen:
            continue
        seen.add(shape(address))
        response = open_page(page, address)
        if response is None or "html" not in response.headers.get("content-type", ""):
            continue
        waiting += [link for link in links_of(page, url) if shape(link) not in seen]
        yield address.removeprefix(url), response


def axe_faults(page: Page, *rules: str) -> list[str]:
    """What axe finds serious or critical, of all its rules or of these.

    Sticky parts stand where they belong meanwhile: a link half under the line of totals is no small target, one
    scrolls; which link that is changes with the data of the day.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": _AXE_TAGS}
    found = page.evaluate(
        """async only => {
            const sticky = [...document.querySelectorAll("*")].filter(e => getComputedStyle(e).position === "sticky");
            const styles = sticky.map(e => e.getAttribute("style"));
            for (const e of sticky) e.style.cssText += "; position: relative !important; inset: auto !important";
            try { return await axe.run({runOnly: only, resultTypes: ["violations"]}); }
            finally {
                sticky.forEach((e, i) => styles[i] === null ? e.removeAttribute("style")
                                                            : e.setAttribute("style", styles[i]));
            }
        }""",
        only,
    )
    return [
        f"axe {one['impact']} {one['id']}, {len(one['nodes'])} times: {one['nodes'][0]['target']} "
        f"{one['nodes'][0]['html'][:120]} {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


def labels_of(page: Page) -> set[str]:
    """The texts of the page that the program says, not its data: menu, headings of columns, labels, buttons, hints."""
    texts = page.evaluate(
        """[...document.querySelectorAll('nav a, th, label, legend, button, summary, h1, h2, h3, dt, a.btn, option, '
            + '.alert, .empty, .form-text, caption')].map(e => e.innerText)
        .concat([...document.querySelectorAll('[aria-label], [title], [placeholder]')].flatMap(
            e => ['aria-label', 'title', 'placeholder'].map(name => e.getAttribute(name))))"""
    )
    return {line.strip() for text in texts if text for line in text.splitlines() if line.strip()}


def catalogue() -> tuple[set[str], set[str]]:
    """English texts that read otherwise in Russian, and those Russian ones."""
    with CATALOGUE.open("rb") as file:
        known = [message for message in read_po(file, locale="ru") if message.id]
    english: set[str] = set()
    russian: set[str] = set()
    for message in known:
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        english |= {text for text in ids if text not in strings}
        russian |= {text for text in strings if text not in ids}
    return english, russian


@pytest.fixture
def watched(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """new_page(locale), and what the consoles of such pages complained of since it was last emptied."""
    complaints: list[str] = []
    contexts = []

    def new_page(locale: str) -> Page:
        context = browser.new_context(locale=locale, viewport=WIDE, reduced_motion="reduce")
        context.set_default_timeout(30_000)
        context.on("weberror", lambda error: complaints.append(f"script: {error.error}"))
        context.on(
            "console",
            lambda line: complaints.append(f"console: {line.text}") if line.type in {"error", "warning"} else None,
        )
        contexts.append(context)
        return context.new_page()

    yield new_page, complaints
    for context in contexts:
        context.close()


def test_every_page_stands_in_russian(demo_url: str, watched: tuple[Any, list[str]]) -> None:
    new_page, complaints = watched
    english, _russian = catalogue()
    page = new_page("ru-RU")
    page.goto(f"{demo_url}/login")
    faults = [f"/login: {fault}" for fault in axe_faults(page)]
    sign_in(page, demo_url, "owner")
    visited = []
    for path, response in walk(page, demo_url):
        visited.append(path)
        page.wait_for_function("width => innerWidth === width", arg=WIDE["width"])  # the phone before is put away
        found = [] if response.ok else [f"status {response.status}"]
        if (language := page.evaluate("document.documentElement.lang")) != "ru":
            found.append(f"lang is {language!r}")
        if (count := page.locator("h1").count()) != 1:
            found.append(f"{count} h1")
        found += [f"not translated: {text!r}" for text in sorted(labels_of(page) & english)]
        found += axe_faults(page)
        page.emulate_media(color_scheme="dark")
        page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
        found += [f"dark: {fault}" for fault in axe_faults(page, "color-contrast")]
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(PHONE)
        if (width := page.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
            found.append(f"{width} px wide on a phone")
        page.set_viewport_size(WIDE)
        faults += [f"{path}: {fault}" for fault in [*found, *complaints]]
        complaints.clear()
    assert len(visited) >= 40, visited
    assert not faults, "\n" + "\n".join(faults)


def test_every_page_stands_in_english(demo_url: str, watched: tuple[Any, list[str]]) -> None:
    new_page, complaints = watched
    _english, russian = catalogue()
    page = new_page("en-US")
    page.goto(f"{demo_url}/login")
    page.get_by_label("E-mail").fill("owner@demo.test")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()
    faults = []
    visited = 0
    for path, response in walk(page, demo_url):
        visited += 1
        found = [] if response.ok else [f"status {response.status}"]
        if (language := page.evaluate("document.documentElement.lang")) != "en":
            found.append(f"lang is {language!r}")
        found += [f"still Russian: {text!r}" for text in sorted(labels_of(page) & russian - _NAMES_IN_THE_DEMO)]
        faults += [f"{path}: {fault}" for fault in [*found, *complaints]]
        complaints.clear()
    assert visited >= 40
    assert not faults, "\n" + "\n".join(faults)
