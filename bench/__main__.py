"""The run: databases, then part by part on each of them; see docs/benchmarks.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.accounts import accounts
from bench.bills import bills
from bench.bulk import bulk
from bench.databases import Ground, Place, grounds, place
from bench.exports import exports
from bench.grids import grids
from bench.imports import imports
from bench.lessons import lessons
from bench.mailings import mailings
from bench.mailings_select import recipients
from bench.notices import notices
from bench.pages import bill_page
from bench.posts import posts
from bench.public import under_load
from bench.sizes import parts, sizes
from bench.weight import weights

# Parts that make databases of their own.
OWN_PARTS: dict[str, Callable[[Place], Iterator[str]]] = {
    "posts": posts,
    "accounts": accounts,
    "lessons": lessons,
    "notices": notices,
    "bills": bills,
    "mailings": mailings,
    "recipients": recipients,
}
# Parts over the databases of the grids. In this order: what changes rows comes last.
PARTS: dict[str, Callable[[Ground], Iterator[str]]] = {
    "grids": grids,
    "weight": weights,
    "pay": bill_page,
    "public": under_load,
    "export": exports,
    "import": imports,
    "bulk": bulk,
}


def main() -> None:
    began = time.perf_counter()
    chosen = parts([*OWN_PARTS, *PARTS])
    with place() as here:
        for name, own_part in OWN_PARTS.items():
            if name in chosen:
                _run(name, own_part(here))
        if chosen & PARTS.keys():
            with grounds(here, sizes()) as both:
                for ground in both:
                    for name, part in PARTS.items():
                        if name in chosen:
                            _run(f"{ground.name}, {name}", part(ground))
    print("\nspeed, faster: the peer's time / ours, so ×2 is twice as fast as the peer")
    print("flat: the page among all rows / the same page among few")
    print(f"the whole run: {time.perf_counter() - began:.0f} s")


def _run(name: str, lines: Iterator[str]) -> None:
    began = time.perf_counter()
    for line in lines:
        print(line, flush=True)
    print(f"({name}: {time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
