"""The little world clerks work in, and the proof of what they were told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from flask import Flask
from sqlalchemy import select

from crm import create_app
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.config import Settings
from crm.db import db, reading, transaction
from crm.ledger.models import Account, Entry, Transaction
from crm.ledger.operations import base_account
from tests.chaos.clerks import Acknowledged, Work, journals, write_work
from tests.factories import Network, make_account, make_bill, make_client, make_plan
from tests.servers import ROOT

# `make chaos` sets it: thirty seconds and thirty kills instead of a few.
IS_LONG = os.environ.get("CHAOS") == "1"


@contextmanager
def _fresh() -> Iterator[None]:
    """Read what is there now, and let others write afterwards."""
    db.session.rollback()
    with reading():
        yield
        db.session.rollback()


@dataclass
class Chaos:
    """Clerks over one database. settings: the application's; folder: their journals; before: balances at first."""

    settings: Settings
    folder: Path
    work: Work
    before: dict[int, Decimal]

    @contextmanager
    def clerks(self, **changes: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A running program of clerks, a process group of its own; another seed each time."""
        self.work = replace(self.work, seed=self.work.seed + 1000, **changes)
        write_work(self.folder, self.work)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.clerks", str(self.folder)],
            cwd=ROOT,
            env=self._environment(),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()

    def check(self) -> None:
        """`flask ledger check` in a fresh process, as an operator runs it after a restart."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "ledger", "check"],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, "ledger: clean\n"), done.stdout + done.stderr

    def acknowledged(self) -> list[Acknowledged]:
        return list(journals(self.folder))

    def errors(self) -> str:
        path = self.folder / "errors"
        return path.read_text() if path.exists() else ""

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "DATABASE_URL": self.settings.database_url,
            "REDIS_URL": self.settings.redis_url,
            "DATA_DIR": str(self.settings.data_dir),
        }

    # What the database says; needs an app context and a scope.

    def balances(self) -> dict[int, Decimal]:
        query = select(Account.id, Account.balance).where(Account.id.in_(self.work.accounts))
        with _fresh():
            return {row.id: row.balance for row in db.session.execute(query)}

    def posted(self) -> dict[str, dict[int, Decimal]]:
        """What each transaction did to client accounts, by its key."""
        found: dict[str, dict[int, Decimal]] = {}
        query = select(Transaction.idempotency_key, Entry.account_id, Entry.amount).join(Entry.transaction)
        with _fresh():
            for key, account_id, amount in db.session.execute(query):
                moves = found.setdefault(key, {})
                if account_id in self.before:
                    moves[account_id] = moves.get(account_id, Decimal(0)) + amount
        return found


def make_chaos(settings: Settings, network: Network, folder: Path) -> Chaos:
    """Five accounts with a thousand each: of one client two deposits and the base account, of another, in the next
    branch, a deposit and the base account. Each has a bill that may be paid any number of times.
    """
    accounts, bills = [], []
    for branch, deposits in ((network.lesnoy, 2), (network.rechnoy, 1)):
        client = make_client(branch)
        accounts += [make_account(client, network.account_type, balance=1000) for _ in range(deposits)]
        with transaction():
            accounts.append(base_account(client.id, branch.id))
        bills.append(make_bill(client, amount=Decimal("70.07"), is_repeatable=True))
    work = Work(
        accounts=[account.id for account in accounts],
        bills=[bill.id for bill in bills],
        plans=[make_plan(price=Decimal("33.33"), lessons=1).id],
        processes=1,
        threads=1,
        seconds=1,
        seed=0,
    )
    before = {account.id: account.balance for account in accounts}
    db.session.commit()
    return Chaos(settings, folder, work, before)


@contextmanager
def application_on(settings: Settings) -> Iterator[None]:
    """An application of one's own on an empty database, migrated, its context pushed."""
    with create_app(settings).app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "cli"):
        flask_migrate.upgrade()
        try:
            yield
        finally:
            db.session.remove()
            db.engine.dispose()


@pytest.fixture
def chaos(app: Flask, network: Network, tmp_path: Path) -> Chaos:
    return make_chaos(app.config["SETTINGS"], network, tmp_path)
