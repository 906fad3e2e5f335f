"""`flask import`: figures under stable names, refused lines with reasons, one clear line for an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import text

from crm.db import db
from tests.exchange.conftest import shared_data
from tests.exchange.messy import make_messy_clients
from tests.factories import Network, make_account_type


@pytest.fixture
def run(app: Flask) -> Callable[..., Result]:
    def invoke(*arguments: object) -> Result:
        db.session.commit()
        return app.test_cli_runner().invoke(args=["import", *map(str, arguments)])

    return invoke


def test_a_dry_run_prints_figures_then_refused_lines(
    network: Network, run: Callable[..., Result], tmp_path: Path
) -> None:
    messy = make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name], rounds=1)
    path = tmp_path / "clients.xlsx"
    path.write_bytes(messy.content)
    result = run(path, "--entity", "client")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    order = (
        *("rows", "good", "bad_phone", "bad_email", "bad_date", "bad_balance", "unknown_branch", "duplicate_phone"),
        *("empty", "payers", "students", "balance_good", "lessons_good"),
    )
    assert lines[: len(order)] == [f"{name} {messy.expected[name]}" for name in order]
    for number in messy.refused:
        assert sum(f" {number}, " in line.split("«")[0] + "," for line in lines) >= 1, number


def test_applied_twice(network: Network, run: Callable[..., Result], tmp_path: Path) -> None:
    messy = make_messy_clients([network.lesnoy.name, network.rechnoy.name, network.mira.name], rounds=1)
    path = tmp_path / "clients.xlsx"
    path.write_bytes(messy.content)
    good = messy.expected["good"]
    assert f"created {good}" in run(path, "--entity", "client", "--apply").output.splitlines()
    again = run(path, "--entity", "client", "--apply").output.splitlines()
    assert f"applied_before {good}" in again
    assert "created 0" in again


def test_figures_as_json(network: Network, run: Callable[..., Result], tmp_path: Path) -> None:
    messy = make_messy_clients([network.lesnoy.name], rounds=1)
    path = tmp_path / "clients.xlsx"
    path.write_bytes(messy.content)
    assert json.loads(run(path, "--entity", "client", "--json").output) == messy.expected


@pytest.mark.parametrize("content", [b"\x89PNG\x00", b"a;b;c\n1;2;3\n", b"PK\x03\x04"])
def test_an_unusable_file_is_one_line(app: Flask, run: Callable[..., Result], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.xlsx"
    path.write_bytes(content)
    result = run(path, "--entity", "client")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["missing.xlsx", "."])
def test_a_file_that_cannot_be_opened_is_one_line(
    app: Flask, run: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    result = run(tmp_path / name, "--entity", "client")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1


def test_the_shared_files_come_to_their_figures(network: Network, run: Callable[..., Result]) -> None:
    folder = shared_data()
    if folder is None:  # only where they lie beside the checkout; made-up files stand in for them above
        return
    truth = json.loads((folder / "truth.json").read_text())
    network.lesnoy.name, network.rechnoy.name, network.mira.name = "Центр «Лесной»", "Центр «Речной»", "Студия на Мира"
    make_account_type(network.lesnoy)
    clients = json.loads(run(folder / "clients.xlsx", "--entity", "client", "--json").output)
    accounts = json.loads(run(folder / "accounts.csv", "--entity", "account", "--json").output)
    assert clients == {name: value for name, value in truth.items() if not name.startswith("accounts")}
    assert (accounts["accounts"], accounts["accounts_total"]) == (truth["accounts"], truth["accounts_total"])
    run(folder / "clients.xlsx", "--entity", "client", "--apply")
    for _ in range(2):
        done = run(folder / "accounts.csv", "--entity", "account", "--apply")
        assert f"balance_good {truth['accounts_total']}" in done.output.splitlines()
    query = "SELECT kind, sum(balance) FROM account WHERE client_id IS NOT NULL GROUP BY kind"
    sums = {kind: total for kind, total in db.session.execute(text(query))}  # noqa: C416 - rows are no pairs to dict()
    assert f"{int(sums['base']) / 100:.2f}" == truth["balance_good"]
    assert f"{int(sums['deposit']) / 100:.2f}" == truth["accounts_total"]
    assert int(sums["lessons"]) / 100 == truth["lessons_good"]
