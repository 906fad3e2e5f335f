"""The tests' own tools: the network guard, the acceptance report, the fresh database, the signed-in client."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from crm.access.models import City
from crm.db import db, transaction
from tests import acceptance
from tests.conftest import _escapes
from tests.factories import Network


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.test"])
def test_nothing_leaves_the_machine(address: str) -> None:
    with pytest.raises(OSError, match="stay on this machine"):
        socket.create_connection((address, 80), timeout=1)
    assert _escapes
    _escapes.clear()


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=1):
        pass
    assert not _escapes


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_a_database_of_its_own(app: Flask, round_: int) -> None:
    assert db.session.scalars(select(City)).all() == []
    with transaction():
        db.session.add(City(name="Москва"))


def test_requests_carry_a_valid_token_unless_told(network: Network, web: Callable[..., Any]) -> None:
    client = web(network.owner)
    assert client.post("/no-such-page").status_code == 404
    client.with_csrf = False
    assert client.post("/login").status_code == 400


def test_acceptance_table_is_whole() -> None:
    counts = {seed: sum(row[0] == seed for row in acceptance.rows()) for seed in acceptance.SEEDS}
    assert counts == {"A": 37, "B": 118, "C": 158, "D": 92, "E": 31, "X": 22, "W": 8}
    for seed, count in counts.items():
        assert all(f"{seed}{number}" in acceptance.rows() for number in range(1, count + 1))


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], "unproved"),
        (["skipped"], "unproved"),
        (["passed", "skipped"], "holds"),
        (["passed", "failed"], "broken"),
    ],
)
def test_verdict_of_a_row(outcomes: list[str], verdict: str) -> None:
    assert acceptance.verdict(outcomes) == verdict


def test_report_counts_rows_per_seed() -> None:
    results = {
        "test_one": {"rows": ["A1", "A2"], "outcome": "passed"},
        "test_two": {"rows": ["A2"], "outcome": "failed"},
    }
    lines, is_whole = acceptance.report(results)
    assert not is_whole
    assert [" ".join(line.split()) for line in lines if line.startswith(("A client", "all"))] == [
        "A client accounts 1 of 37 hold, 1 broken",
        "all 1 of 466 hold, 1 broken",
    ]


def test_an_unknown_row_stops_the_run(pytester_run: Callable[[str], tuple[int, str, Path]]) -> None:
    code, output, _ = pytester_run('@pytest.mark.spec("A99")\ndef test_it(): pass')
    assert code != 0
    assert "no such rows in the acceptance table: A99" in output


def test_outcomes_are_noted_by_row(pytester_run: Callable[[str], tuple[int, str, Path]]) -> None:
    _, _, results = pytester_run(
        '@pytest.mark.spec("A1", "B57")\ndef test_good(): pass\n@pytest.mark.spec("A2")\ndef test_bad(): assert False\n'
    )
    noted = {name.split("::")[-1]: result for name, result in json.loads(results.read_text()).items()}
    assert noted == {
        "test_good": {"rows": ["A1", "B57"], "outcome": "passed"},
        "test_bad": {"rows": ["A2"], "outcome": "failed"},
    }


@pytest.fixture
def pytester_run(tmp_path: Path) -> Callable[[str], tuple[int, str, Path]]:
    """Run a small test file with the acceptance plugin in a process of its own: (exit code, output, results file)."""
    import os
    import subprocess
    import sys

    from crm.config import ROOT

    def run(body: str) -> tuple[int, str, Path]:
        (tmp_path / "test_sample.py").write_text(f"import pytest\n{body}\n")
        results = tmp_path / "acceptance.json"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.acceptance", "-p", "no:cacheprovider", str(tmp_path)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ACCEPTANCE_RESULTS": str(results)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr, results

    return run
