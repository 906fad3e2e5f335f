"""Indexes the histories of accounts and tills are read by, latest first."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

COLUMNS = ("kind", "employee_id")


def upgrade() -> None:
    for column in COLUMNS:
        name = op.f(f"ix_ledger_transaction_{column}_happened_at")
        op.create_index(name, "ledger_transaction", [column, "happened_at"])


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_index(op.f(f"ix_ledger_transaction_{column}_happened_at"), "ledger_transaction")
