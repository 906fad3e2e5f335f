"""Migrations as modules, for tests of what stands in them."""

from __future__ import annotations

from typing import Any

from alembic.script import ScriptDirectory

from crm.config import ROOT


def triggers() -> Any:
    """The migration whose SQL makes the ledger and the audit append-only; it is frozen there."""
    return ScriptDirectory(str(ROOT / "migrations")).get_revision("0002").module
