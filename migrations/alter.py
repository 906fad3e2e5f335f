"""Changes of big tables that neither database needs to copy them for.

SQLite has no ALTER for constraints, and Alembic's batch mode copies the table: minutes for millions of entries, and its
triggers are lost. A CHECK stands only in the stored text of the table; rewriting that text is what SQLite's own manual
describes for it (ALTER TABLE, "Making Other Kinds Of Table Schema Changes").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from alembic import op


def set_enum(table: str, column: str, name: str, values: Sequence[str]) -> None:
    """Let the CHECK `name` of an enumerated column allow `values`, those there were among them."""
    check = f"{column} IN ({quoted(values)})"
    if op.get_bind().dialect.name == "sqlite":
        pattern = re.compile(rf"CONSTRAINT {name} CHECK \({column} IN \([^)]*\)\)")

        def rewrite(sql: str) -> str:
            new, count = pattern.subn(f"CONSTRAINT {name} CHECK ({check})", sql)
            if count != 1:
                raise RuntimeError(f"{table} has {count} constraints {name}")
            return new

        _rewrite_table(table, rewrite)
    else:
        op.drop_constraint(op.f(name), table, type_="check")
        op.create_check_constraint(op.f(name), table, check)


def quoted(values: Sequence[str]) -> str:
    """The values as a list of SQL texts."""
    return ", ".join(f"'{value}'" for value in values)


def add_check(table: str, name: str, condition: str) -> None:
    """Add a CHECK that all rows fulfil already."""
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_table(
            table,
            lambda sql: f"{sql.rstrip().removesuffix(')').rstrip()}, \n\tCONSTRAINT {name} CHECK ({condition})\n)",
        )
    else:
        op.create_check_constraint(op.f(name), table, condition)


def set_check(table: str, name: str, condition: str) -> None:
    """Put another condition into a CHECK of one line; all rows fulfil it already."""
    if op.get_bind().dialect.name == "sqlite":
        pattern = re.compile(rf"CONSTRAINT {name} CHECK \([^\n]*\)(?=,|\s*\n)")

        def rewrite(sql: str) -> str:
            new, count = pattern.subn(lambda _found: f"CONSTRAINT {name} CHECK ({condition})", sql)
            if count != 1:
                raise RuntimeError(f"{table} has {count} constraints {name}")
            return new

        _rewrite_table(table, rewrite)
    else:
        op.drop_constraint(op.f(name), table, type_="check")
        op.create_check_constraint(op.f(name), table, condition)


def let_be_null(table: str, column: str) -> None:
    """Take NOT NULL from a column of whole numbers."""
    _set_null(table, column, "INTEGER NOT NULL", "INTEGER", is_nullable=True)


def refuse_null(table: str, column: str) -> None:
    """Give it back; no row has NULL there."""
    _set_null(table, column, "INTEGER", "INTEGER NOT NULL", is_nullable=False)


def _set_null(table: str, column: str, old: str, new: str, *, is_nullable: bool) -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_table(table, lambda sql: re.sub(rf"\b{column} {old}(?=,)", f"{column} {new}", sql, count=1))
    else:
        op.alter_column(table, column, existing_type=sa.Integer(), nullable=is_nullable)


def add_reference(table: str, column: str, target: str) -> None:
    """Add an empty column that points at the id of `target`."""
    key = f"CONSTRAINT fk_{table}_{column}_{target} REFERENCES {target} (id)"
    kind = "INTEGER" if op.get_bind().dialect.name == "sqlite" else "BIGINT"
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind} {key}")


def drop_check(table: str, name: str) -> None:
    """Take away what add_check() added."""
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_table(table, lambda sql: re.sub(rf",\s*CONSTRAINT {name} CHECK \([^\n]*\)\n\)$", "\n)", sql))
    else:
        op.drop_constraint(op.f(name), table, type_="check")


def drop_reference(table: str, column: str, target: str) -> None:
    """Take away what add_reference() added."""
    key = f" CONSTRAINT fk_{table}_{column}_{target} REFERENCES {target} (id)"
    if op.get_bind().dialect.name == "sqlite":  # it drops no column that is part of a key
        _rewrite_table(table, lambda sql: sql.replace(key, ""))
    op.drop_column(table, column)


def drop_constraint(table: str, name: str, kind: str) -> None:
    """Take away a constraint the table was created with. kind: as Alembic calls it (`check`, `foreignkey`)."""
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_table(
            table, lambda sql: re.sub(rf",\s*CONSTRAINT {name} (?:[^\n]*[^\s,])(?=,?\s*\n)", "", sql, count=1)
        )
    else:
        op.drop_constraint(op.f(name), table, type_=kind)


def _rewrite_table(table: str, rewrite: Callable[[str], str]) -> None:
    run = op.get_bind().exec_driver_sql
    sql = run("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).scalar_one()
    version = run("PRAGMA schema_version").scalar_one()
    run("PRAGMA writable_schema = ON")
    run("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", (rewrite(sql), table))
    run(f"PRAGMA schema_version = {version + 1}")
    run("PRAGMA writable_schema = RESET")
