"""The dry run of a file of a hundred thousand lines, every spelling and every fault among them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bench import kontora
from bench.contestants import Contestant
from bench.databases import Ground
from bench.report import figure_line, megabytes, within
from bench.sizes import IMPORT_MEMORY, IMPORT_SECONDS, sizes
from tests.exchange.messy import make_messy_clients

LINES_OF_A_ROUND = 112  # of the generator, about


def imports(ground: Ground) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where the dry run comes to other figures than the generator."""
    file = ground.home / "messy.xlsx"
    messy = make_messy_clients(ground.full.branches, rounds=max(1, sizes().imported // LINES_OF_A_ROUND))
    file.write_bytes(messy.content)
    with Contestant(kontora.worker, ground.full_url, ground.home, ground.full.session_user) as worker:
        outcome = worker.run("check", file)
        figures = json.loads(outcome.content)
        differ = {
            name: (value, figures.get(name)) for name, value in messy.expected.items() if figures.get(name) != value
        }
        if differ:
            raise SystemExit(f"import: expected and found differ: {differ}")
        lines, peak = int(messy.expected["rows"]), worker.peak_memory()
        yield f"\n{ground.name}, import of clients"
        yield figure_line(
            f"dry run of {lines:,} lines, {len(messy.content) / 1e6:.1f} MB",
            f"{outcome.seconds:.1f} s, {megabytes(peak)}",
            within("s", outcome.seconds, at_most=IMPORT_SECONDS),
            within("MB", peak / 1e6, at_most=IMPORT_MEMORY / 1e6),
        )
    file.unlink()
