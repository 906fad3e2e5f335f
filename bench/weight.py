"""What a browser loads for a page: its HTML and the styles, scripts and pictures it names."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

from bench.contestants import Contestant


@dataclass(frozen=True)
class Weight:
    """html, assets: bytes as sent, not compressed; count: how many assets."""

    html: int
    count: int
    assets: int


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
