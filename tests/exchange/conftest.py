"""What the tests of the exchange share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from crm.access.actors import SYSTEM, Actor
from crm.db import db, transaction
from crm.exchange.importers import IMPORTERS
from crm.exchange.importing import Report, apply_import, dry_run

TABLES = (
    "client", "account", "ledger_transaction", "ledger_entry", "imported_row", "import_run", "audit_entry"
)  # fmt: skip


@pytest.fixture
def try_import(app: object) -> Callable[..., Report]:
    """try_import(entity, content, by=) -> the report of a dry run."""

    def run(entity: str, content: bytes, *, by: Actor = SYSTEM) -> Report:
        with transaction():
            return dry_run(IMPORTERS[entity](), content, by=by)

    return run


@pytest.fixture
def do_import(app: object) -> Callable[..., Report]:
    """do_import(entity, content, by=) -> the report of an applied import, committed."""

    def run(entity: str, content: bytes, *, by: Actor = SYSTEM, file_name: str = "file.xlsx") -> Report:
        with transaction():
            return apply_import(IMPORTERS[entity](), content, file_name=file_name, by=by)

    return run


@pytest.fixture
def row_counts(app: object) -> Callable[[], dict[str, int]]:
    """How many rows each table an import writes has."""

    def count() -> dict[str, int]:
        return {table: db.session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in TABLES}

    return count


def shared_data() -> Path | None:
    """The files every installation must be able to read, when they lie beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if (folder / "truth.json").exists() else None
