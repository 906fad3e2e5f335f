"""Posted money, and what the audit wrote down, cannot be changed in either database. On PostgreSQL no transaction is
committed whose entries do not sum to zero per unit.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("ledger_transaction", "ledger_entry", "audit_entry")


def install_statements(dialect: str) -> list[str]:
    """SQL that installs the triggers, statement by statement, for 'sqlite' or 'postgresql'."""
    return _postgresql() if dialect == "postgresql" else _sqlite()


def drop_statements(dialect: str) -> list[str]:
    """SQL that removes what install_statements() made."""
    if dialect == "sqlite":
        return [f"DROP TRIGGER {table}_no_{verb}" for table in APPEND_ONLY for verb in ("update", "delete")]
    drops = [f"DROP TRIGGER {table}_append_only ON {table}" for table in APPEND_ONLY]
    drops += [f"DROP TRIGGER {table}_no_truncate ON {table}" for table in APPEND_ONLY]
    drops += ["DROP TRIGGER ledger_entry_zero_sum ON ledger_entry"]
    return [*drops, "DROP FUNCTION kontora_refuse_change()", "DROP FUNCTION kontora_check_zero_sum()"]


def _sqlite() -> list[str]:
    return [
        f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for table in APPEND_ONLY
        for verb in ("update", "delete")
    ]


def _postgresql() -> list[str]:
    statements = [
        """
        CREATE FUNCTION kontora_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
        """,
        """
        CREATE FUNCTION kontora_check_zero_sum() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF EXISTS (
            SELECT 1 FROM ledger_entry e JOIN account a ON a.id = e.account_id
            WHERE e.transaction_id = NEW.transaction_id GROUP BY a.unit HAVING sum(e.amount) <> 0
          ) THEN RAISE EXCEPTION 'entries of transaction % do not sum to zero', NEW.transaction_id; END IF;
          RETURN NULL;
        END $$
        """,
        "CREATE CONSTRAINT TRIGGER ledger_entry_zero_sum AFTER INSERT ON ledger_entry DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION kontora_check_zero_sum()",
    ]
    for table in APPEND_ONLY:
        statements += [
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION kontora_refuse_change()",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION kontora_refuse_change()",
        ]
    return statements


def upgrade() -> None:
    for statement in install_statements(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in drop_statements(op.get_bind().dialect.name):
        op.execute(statement)
