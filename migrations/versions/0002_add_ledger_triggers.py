"""Posted money, and what the audit wrote down, cannot be changed in either database."""

from __future__ import annotations

from alembic import op

from crm.ledger.triggers import drop_statements, install_statements

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in install_statements(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in drop_statements(op.get_bind().dialect.name):
        op.execute(statement)
