"""Indexes that keep every grid page flat: any part of a client's search text, and each order a grid can have.

On PostgreSQL the extension pg_trgm (a trusted one: the owner of a database may create it), on SQLite an FTS5 table over
the search texts, kept by triggers. A later migration that copies the table `client` (batch mode) must make the triggers
again.
"""

from __future__ import annotations

import re
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# (table, columns), each followed by `id`, which breaks ties. Those of one column stand in for the index it had alone.
ORDERS = (
    ("client", "name phone email created_at branch_id payer_id"),
    ("bill", "year,number client_id branch_id amount period_from period_to payable_until issued_at paid_at"),
    ("account", "account_type_id,kind,unit client_id branch_id balance credited debited opened_at"),
    (
        "payment",
        "client_id account_id bill_id branch_id method status amount created_at received_at author_name",
    ),
    ("subscription", "client_id plan_id branch_id status price lessons starts_on ends_on sold_at"),
    ("message", "client_id branch_id status recipient created_at sent_at author_name"),
    ("audit_entry", "at actor_id actor_name branch_id"),
)
REPLACED = (
    ("client", "name phone email created_at branch_id payer_id"),
    ("bill", "client_id branch_id issued_at"),
    ("account", "account_type_id client_id branch_id opened_at"),
    ("payment", "client_id account_id bill_id branch_id created_at received_at"),
    ("subscription", "client_id plan_id branch_id starts_on ends_on"),
    ("message", "client_id branch_id created_at"),
    ("audit_entry", "at actor_id branch_id"),
)

TRIGGERS = (
    """
    CREATE TRIGGER client_search_insert AFTER INSERT ON client BEGIN
      INSERT INTO client_search (rowid, search) VALUES (new.id, new.search);
    END
    """,
    """
    CREATE TRIGGER client_search_delete AFTER DELETE ON client BEGIN
      INSERT INTO client_search (client_search, rowid, search) VALUES ('delete', old.id, old.search);
    END
    """,
    """
    CREATE TRIGGER client_search_update AFTER UPDATE OF search ON client WHEN old.search IS NOT new.search BEGIN
      INSERT INTO client_search (client_search, rowid, search) VALUES ('delete', old.id, old.search);
      INSERT INTO client_search (rowid, search) VALUES (new.id, new.search);
    END
    """,
)

_client = sa.table(
    "client",
    *(sa.column(name) for name in ("id", "name", "email", "phone", "extra_phone", "search")),
)
BATCH = 5000


def upgrade() -> None:
    bind = op.get_bind()
    is_sqlite = bind.dialect.name == "sqlite"
    if not is_sqlite:
        _create_extension(bind)
    _fill_search(bind, lambda row: " " + " ".join(_fold(text) for text in _texts(row) if text))
    for table, names in REPLACED:
        for name in names.split():
            op.drop_index(f"ix_{table}_{name}", table)
    for table, orders in ORDERS:
        for columns in (order.split(",") for order in orders.split()):
            op.create_index(f"ix_{table}_{'_'.join(columns)}_id", table, [*columns, "id"])
    if is_sqlite:
        op.execute(
            "CREATE VIRTUAL TABLE client_search USING fts5"
            "(search, content='client', content_rowid='id', columnsize=0, tokenize='trigram case_sensitive 1')"
        )
        op.execute("INSERT INTO client_search (client_search) VALUES ('rebuild')")
        for trigger in TRIGGERS:
            op.execute(trigger)
        op.execute("ANALYZE")
    else:
        op.execute("CREATE INDEX ix_client_search ON client USING gin (search gin_trgm_ops)")


def downgrade() -> None:
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        for verb in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER IF EXISTS client_search_{verb}")
        op.execute("DROP TABLE client_search")
    else:
        op.drop_index("ix_client_search", "client")  # the extension may serve others by now
    for table, orders in ORDERS:
        for columns in (order.split(",") for order in orders.split()):
            op.drop_index(f"ix_{table}_{'_'.join(columns)}_id", table)
    for table, names in REPLACED:
        for name in names.split():
            op.create_index(f"ix_{table}_{name}", table, [name])
    _fill_search(bind, lambda row: row.search.strip())


def _create_extension(bind: sa.Connection) -> None:
    if bind.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'")):
        return
    try:
        with bind.begin_nested():
            bind.execute(sa.text("CREATE EXTENSION pg_trgm"))
    except sa.exc.DBAPIError as error:
        user, database = bind.execute(sa.text("SELECT current_user, current_database()")).one()
        raise RuntimeError(
            f"The search needs the PostgreSQL extension pg_trgm, and the role {user!r} cannot create it: "
            f"{str(error.orig).strip()}. As a superuser, in the database {database!r}, run CREATE EXTENSION pg_trgm; "
            "(on Debian it comes with the package postgresql-contrib), then upgrade again."
        ) from error


def _fill_search(bind: sa.Connection, made) -> None:
    last = 0
    while True:
        rows = bind.execute(sa.select(_client).where(_client.c.id > last).order_by(_client.c.id).limit(BATCH)).all()
        if not rows:
            return
        changed = [{"key": row.id, "made": text} for row in rows if (text := made(row)) != row.search]
        if changed:
            bind.execute(
                sa.update(_client).where(_client.c.id == sa.bindparam("key")).values(search=sa.bindparam("made")),
                changed,
            )
        last = rows[-1].id


def _texts(row: sa.Row) -> tuple[str | None, ...]:
    return (row.name, row.email, *(phone.lstrip("+") if phone else None for phone in (row.phone, row.extra_phone)))


def _fold(text: str) -> str:
    """As crm/search.py folded on the day of this migration."""
    plain = unicodedata.normalize("NFC", text).lower().replace("ё", "е")
    return re.sub(r"\s+", " ", plain).strip()
