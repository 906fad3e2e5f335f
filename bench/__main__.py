"""The run: databases, then part by part on each of them; see docs/benchmarks.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.bulk import bulk
from bench.databases import Ground, grounds
from bench.exports import exports
from bench.grids import grids
from bench.imports import imports
from bench.pages import bill_page
from bench.sizes import parts, sizes
from bench.weight import weights

# In this order: what changes rows comes last.
PARTS: dict[str, Callable[[Ground], Iterator[str]]] = {
    "grids": grids,
    "weight": weights,
    "pay": bill_page,
    "export": exports,
    "import": imports,
    "bulk": bulk,
}


def main() -> None:
    began = time.perf_counter()
    chosen = parts()
    with grounds(sizes()) as both:
        for ground in both:
            for name, part in PARTS.items():
                if name not in chosen:
                    continue
                started = time.perf_counter()
                for line in part(ground):
                    print(line, flush=True)
                print(f"({ground.name}, {name}: {time.perf_counter() - started:.0f} s)", flush=True)
    print("\nspeed, faster: the peer's time / ours, so ×2 is twice as fast as the peer")
    print("flat: the page among all rows / the same page among few")
    print(f"the whole run: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
