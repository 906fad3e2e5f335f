"""What a browser loads for a grid page: the bytes of its HTML, and its requests the first time and the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright

from bench import kontora, stock
from bench.contestants import Contestant
from bench.databases import Ground
from bench.report import figure_line, kilobytes, within
from bench.sizes import COLD_REQUESTS, PAGE_BYTES, WARM_REQUESTS
from tests import chromium, servers

PATHS = ("/admin/bill/", "/admin/client/")
# What the last page asked the network for: itself, and what no cache had.
ASKED = "1 + performance.getEntriesByType('resource').filter(e => e.transferSize > 0).length"


@dataclass(frozen=True)
class Weight:
    """html: bytes as sent, not compressed; assets: how many styles, scripts and pictures it names; bytes: theirs."""

    html: int
    assets: int
    bytes: int


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.paths: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        rel = (values.get("rel") or "").split()
        if tag in {"script", "img"}:
            self._add(values.get("src"))
        elif tag == "link" and {"stylesheet", "icon", "modulepreload"} & set(rel):
            self._add(values.get("href"))
        elif tag == "use":  # a symbol of an SVG sprite
            self._add(values.get("href") or values.get("xlink:href"))

    def _add(self, address: str | None) -> None:
        if address and address.startswith("/"):
            self.paths.add(address.partition("#")[0])


def weigh(site: Contestant, path: str) -> Weight:
    """Load a page and what it names from the same site; fonts and scripts named by those are not followed."""
    html = site.run("get", path).content
    page = _Assets()
    page.feed(html.decode())
    sizes = [len(site.run("get", asset).content) for asset in sorted(page.paths)]
    return Weight(len(html), len(sizes), sum(sizes))


def weights(ground: Ground) -> Iterator[str]:
    """Lines of the report; the requests are counted by a Chromium where there is one."""
    yield f"\n{ground.name}, what a page of fifty rows weighs"
    with (
        Contestant(kontora.site, ground.full_url, ground.home, ground.full.session_user) as ours,
        Contestant(stock.site, ground.full_url) as theirs,
    ):
        for path in PATHS:
            our, their = weigh(ours, path), weigh(theirs, path)
            kept = within("bytes", our.html, at_most=PAGE_BYTES)
            yield figure_line(f"{path}, HTML", f"{kilobytes(our.html)} (stock {kilobytes(their.html)})", kept)
            figures = f"{our.assets}, {kilobytes(our.bytes)} (stock {their.assets}, {kilobytes(their.bytes)})"
            yield figure_line("  styles, scripts, pictures named", figures)
    if (program := chromium.find()) is None:
        yield "  requests: no Chromium here to count them"
        return
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with servers.kontora(demo=False, database_url=ground.small_url) as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        for path in PATHS:
            context = browser.new_context(locale="ru-RU")
            _sign_in(context.new_page(), running.url)
            cookies = context.cookies()
            context.close()
            cold, warm = _requests(browser.new_context(locale="ru-RU"), cookies, running.url + path)
            yield figure_line(
                f"{path}, requests cold, warm",
                f"{cold}, {warm}",
                within("cold", cold, at_most=COLD_REQUESTS),
                within("warm", warm, at_most=WARM_REQUESTS),
            )
        browser.close()


def _sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/login")
    page.get_by_label("Эл. почта").fill("owner@demo.test")
    page.get_by_label("Пароль").fill("demo")
    page.get_by_role("button", name="Войти").click()
    page.wait_for_url(f"{url}/admin/")


def _requests(context: BrowserContext, cookies: Any, address: str) -> tuple[int, int]:
    """How many requests the page makes with an empty cache, and when it is opened once more."""
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto(address, wait_until="networkidle")
    icon = page.locator("link[rel~=icon]").first.get_attribute("href") or "/favicon.ico"
    cold = page.evaluate(ASKED) + (not icon.startswith("data:"))
    page.goto(f"{address}?page=2", wait_until="networkidle")
    warm = page.evaluate(ASKED)
    context.close()
    return cold, warm
