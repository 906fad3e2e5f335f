"""Alembic environment: the application's own engine and metadata; batch mode for SQLite."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app

from crm.db import Money, Phone, UtcDateTime, db, is_modelled

# Migrations keep plain types: what the code calls them later must not change what was done.
_PLAIN = {Money: "sa.BigInteger()", UtcDateTime: "sa.DateTime(timezone=True)", Phone: "sa.String(length=20)"}


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | bool:
    if kind == "type" and type(item) in _PLAIN:
        return _PLAIN[type(item)]
    return False


def run() -> None:
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=engine.dialect.name == "sqlite",
            render_item=render_item,
            compare_type=True,
            include_name=is_modelled,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
