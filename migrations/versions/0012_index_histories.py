"""Indexes the histories of accounts and tills are read by, latest first; sums of an account's entries without the
entries themselves: a terminal may have millions.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

COLUMNS = ("kind", "employee_id")


def upgrade() -> None:
    for column in COLUMNS:
        name = op.f(f"ix_ledger_transaction_{column}_happened_at")
        op.create_index(name, "ledger_transaction", [column, "happened_at"])
    _renew_sums(postgresql_include=["amount"])


def downgrade() -> None:
    _renew_sums()
    for column in COLUMNS:
        op.drop_index(op.f(f"ix_ledger_transaction_{column}_happened_at"), "ledger_transaction")


def _renew_sums(**options: list[str]) -> None:
    """Only PostgreSQL keeps columns beside an index's keys."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_ledger_entry_account_id_id", "ledger_entry")
        op.create_index("ix_ledger_entry_account_id_id", "ledger_entry", ["account_id", "id"], **options)
