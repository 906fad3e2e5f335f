"""The acceptance table: `@pytest.mark.spec("B57", …)` names the rows a test would notice; this plugin checks the names
and notes the outcomes. `python -m tests.acceptance` prints every row with its tests' result (`make acceptance`).
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROWS = Path(__file__).with_name("acceptance_rows.txt")
RESULTS = Path(
    os.environ.get("ACCEPTANCE_RESULTS") or Path(__file__).resolve().parent.parent / "var" / "acceptance.json"
)

SEEDS = {
    "A": "client accounts",
    "B": "bills",
    "C": "children's centre card",
    "D": "service client card",
    "E": "education",
    "X": "decisions",
    "W": "worked numbers",
}


@cache
def rows() -> dict[str, str]:
    """Kind of each row by its ID, in the table's order."""
    lines = ROWS.read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def row_order(row: str) -> tuple[str, int]:
    return row[0], int(row[1:])


# --- while the tests run --------------------------------------------------------------------------------------------

_outcomes: dict[str, str] = {}
_marks: dict[str, list[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "spec(*rows): rows of the acceptance table this test would notice breaking")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        named = [row for mark in item.iter_markers("spec") for row in mark.args]
        unknown = [row for row in named if row not in rows()]
        if unknown:
            raise pytest.UsageError(
                f"{item.nodeid}: no such rows in the acceptance table: {', '.join(map(str, unknown))}"
            )
        if named:
            # Travels with the report from an xdist worker to the controller.
            item.user_properties.append(("spec", named))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    named = dict(report.user_properties).get("spec")
    if not named:
        return
    _marks[report.nodeid] = list(named)
    if report.failed:
        _outcomes[report.nodeid] = "failed"
    elif report.skipped:
        _outcomes.setdefault(report.nodeid, "skipped")
    elif report.when == "call":
        _outcomes.setdefault(report.nodeid, "passed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput") or session.config.option.collectonly or not _outcomes:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    found = {test: {"rows": _marks[test], "outcome": outcome} for test, outcome in _outcomes.items()}
    if not _is_whole(session.config) and RESULTS.exists():
        found = json.loads(RESULTS.read_text()) | found
    RESULTS.write_text(json.dumps(dict(sorted(found.items())), ensure_ascii=False, indent=1))


def _is_whole(config: pytest.Config) -> bool:
    """A run of everything replaces the results; a narrowed one only adds its own."""
    is_narrowed = config.option.keyword or config.option.markexpr or config.option.maxfail
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not is_narrowed


# --- the report -----------------------------------------------------------------------------------------------------


def verdict(outcomes: list[str]) -> str:
    """holds: all its tests passed; broken: one failed; unproved: none, or skipped ones only."""
    if "failed" in outcomes:
        return "broken"
    return "holds" if "passed" in outcomes else "unproved"


def report(results: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Lines to print, and whether no row is broken."""
    by_row: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for test, result in results.items():
        for row in result["rows"]:
            by_row[row].append((test, result["outcome"]))
    lines, counts = [], {seed: dict.fromkeys(("holds", "broken", "unproved"), 0) for seed in SEEDS}
    for row in sorted(rows(), key=row_order):
        tests = by_row.get(row, [])
        said = verdict([outcome for _, outcome in tests])
        counts[row[0]][said] += 1
        lines.append(f"{row:5} {rows()[row]:8} {said}")
        lines += [f"      {outcome:8} {test}" for test, outcome in tests]
    lines.append("")
    for seed, count in counts.items():
        total = sum(count.values())
        lines.append(f"{seed} {SEEDS[seed]:24} {count['holds']:3} of {total} hold, {count['broken']} broken")
    held = sum(count["holds"] for count in counts.values())
    broken = sum(count["broken"] for count in counts.values())
    lines.append(f"all {'':22} {held:3} of {len(rows())} hold, {broken} broken")
    return lines, broken == 0


def main() -> int:
    if not RESULTS.exists():
        print("no results yet: run `make test` first", file=sys.stderr)
        return 2
    lines, is_whole = report(json.loads(RESULTS.read_text()))
    print("\n".join(lines))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
