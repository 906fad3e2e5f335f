"""Kept sums of client accounts by day, and marks of how far the ledger has got with what.

The sums are made by the scheduler (ledger/turnover.py): until then totals are read from the entries. Transactions there
are by now were posted before branches settled with each other; the ledger check expects that of later ones only.

On SQLite posted rows are kept from REPLACE too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

APPEND_ONLY = ("ledger_transaction", "ledger_entry", "audit_entry")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ledger_turnover",
        sa.Column("branch_id", BIG, nullable=False),
        sa.Column("account_type_id", BIG, autoincrement=False, nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("credited", sa.BigInteger(), nullable=False),
        sa.Column("debited", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["branch_id"], ["branch.id"], name=op.f("fk_ledger_turnover_branch_id_branch")),
        sa.PrimaryKeyConstraint(
            *("branch_id", "account_type_id", "time_zone", "day"), name=op.f("pk_ledger_turnover")
        ),
    )
    op.create_table(
        "ledger_mark",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ledger_mark")),
    )
    op.execute("INSERT INTO ledger_mark (name, at) VALUES ('summed', 0)")
    op.execute("INSERT INTO ledger_mark (name, at) SELECT 'settled', coalesce(max(id), 0) FROM ledger_transaction")
    if op.get_bind().dialect.name == "sqlite":
        # REPLACE deletes without the triggers of DELETE.
        for table in APPEND_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
                f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    if op.get_bind().dialect.name == "postgresql":
        # Its plan suits every transaction; connections are told to plan anew each time, for the sake of searches.
        op.execute("ALTER FUNCTION kontora_check_zero_sum() SET plan_cache_mode = auto")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            op.execute(f"DROP TRIGGER {table}_no_replace")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER FUNCTION kontora_check_zero_sum() RESET plan_cache_mode")
    op.drop_table("ledger_mark")
    op.drop_table("ledger_turnover")
