"""A ledger of any size, by a few INSERT … SELECT: two years of top-ups and spendings on every client account."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import Connection, sql
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from bench import kontora
from crm.access.models import Branch, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Entry
from crm.ledger.operations import house_account
from crm.ledger.queries import check_ledger
from crm.ledger.turnover import keep_turnover
from crm.tills.models import TillKind
from crm.tills.operations import new_till
from crm.tills.queries import tills_in

TABLES = ("client", "account", "ledger_transaction", "ledger_entry")

# Where an account's movements lie, and how big they are, follows from its number `n` and the movement's number `k`:
# a top-up of `credit` at even k, a spending of `debit` at odd k. Spendings of every third base account are bigger than
# its top-ups: it is in debt. A deposit never is.
PLAN = """
CREATE TEMPORARY TABLE plan ON COMMIT DROP AS
SELECT n,
       n %% 2 = 1 AS is_deposit,
       (SELECT coalesce(max(id), 0) FROM account) + n AS account_id,
       (SELECT coalesce(max(id), 0) FROM client) + (n + 1) / 2 AS client_id,
       branches[(n + 1) / 2 %% cardinality(branches) + 1] AS branch_id,
       types[n / 2 %% cardinality(types) + 1] AS account_type_id,
       (10 + n * 7919::bigint %% 90) * 10000 AS credit,
       (10 + n * 7919::bigint %% 90) * CASE WHEN n %% 6 = 0 THEN 12000 ELSE 7000 END AS debit,
       now() - interval '730 days' * (1 - 0.7 * (n * 104729::bigint %% 1000) / 1000) AS opened_at
FROM generate_series(1, %(accounts)s) AS n,
     (SELECT array_agg(id ORDER BY id) AS branches FROM branch) AS b,
     (SELECT array_agg(id ORDER BY id) AS types FROM account_type) AS t
"""
# Ids grow with time, as they do where people work.
MOVES = """
CREATE TEMPORARY TABLE move ON COMMIT DROP AS
SELECT (SELECT coalesce(max(id), 0) FROM ledger_transaction) + row_number() OVER (ORDER BY happened_at) AS id,
       happened_at, n, k
FROM (
    SELECT n, k, opened_at + (now() - opened_at) * ((k + (n * 31 + k * 17) %% 97 / 100.0) / %(moves)s) AS happened_at
    FROM plan, generate_series(0, %(moves)s - 1) AS k
) AS moments
"""
CLIENTS = """
INSERT INTO client (id, branch_id, status, name, phone, comment, search, created_at, version)
SELECT client_id, branch_id, 'active', 'Клиент ' || client_id, '+79' || lpad(client_id::text, 9, '0'), '',
       ' клиент ' || client_id || ' 79' || lpad(client_id::text, 9, '0'), now() - interval '730 days', 1
FROM plan WHERE is_deposit
"""
ACCOUNTS = """
INSERT INTO account (id, branch_id, kind, unit, client_id, account_type_id, opened_at, balance, credited, debited)
SELECT account_id, branch_id, CASE WHEN is_deposit THEN 'deposit' ELSE 'base' END, 'money', client_id,
       CASE WHEN is_deposit THEN account_type_id END, opened_at,
       credit * ((%(moves)s + 1) / 2) - debit * (%(moves)s / 2), credit * ((%(moves)s + 1) / 2),
       debit * (%(moves)s / 2)
FROM plan
"""
TRANSACTIONS = """
INSERT INTO ledger_transaction (id, kind, happened_at, branch_id, author_name, client_id, comment, idempotency_key)
SELECT move.id, CASE WHEN k %% 2 = 0 THEN 'top_up' ELSE 'visit' END, happened_at, branch_id, 'bench', client_id, '',
       'bench:' || move.id
FROM move JOIN plan USING (n) ORDER BY move.id
"""
ENTRIES = """
INSERT INTO ledger_entry (id, transaction_id, account_id, amount, balance_after)
SELECT (SELECT coalesce(max(id), 0) FROM ledger_entry) + 2 * (move.id - (SELECT min(id) FROM move)) + side,
       move.id,
       CASE WHEN side = 1 THEN account_id WHEN k %% 2 = 0 THEN tills[n %% cardinality(tills) + 1] ELSE revenue END,
       CASE WHEN k %% 2 = 0 THEN credit ELSE -debit END * CASE WHEN side = 1 THEN 1 ELSE -1 END,
       CASE WHEN side = 1 THEN credit * (k / 2 + 1) - debit * ((k + 1) / 2) END
FROM move JOIN plan USING (n)
JOIN (
    SELECT branch_id, array_agg(id ORDER BY id) FILTER (WHERE kind IN ('cash', 'terminal', 'bank')) AS tills,
           min(id) FILTER (WHERE kind = 'revenue' AND unit = 'money') AS revenue
    FROM account WHERE client_id IS NULL GROUP BY branch_id
) AS house USING (branch_id)
CROSS JOIN generate_series(1, 2) AS side
ORDER BY move.id, side
"""


@dataclass(frozen=True)
class Books:
    """What there is. session_user: the owner, as User.get_id() writes it; client: one of those with two accounts."""

    session_user: str
    client: int
    accounts: int
    entries: int


def write_books(database_url: str, home: Path, accounts: int, entries: int) -> Books:
    """Migrate the PostgreSQL database; unless they are there, give it so many client accounts and entries, all or none,
    and prove them. Half of the entries are the branches' own. Needs a superuser: triggers and references are off
    meanwhile, and every statement writes rows that agree with the others.
    """
    kontora.prepare_ledger(database_url, home)
    app = kontora.application(database_url, home)
    with app.app_context(), scoped_to(EVERYWHERE):
        is_written = (db.session.scalar(select(func.count()).select_from(Account)) or 0) >= accounts
        db.session.commit()
        if not is_written:
            _make_house_accounts()
            _fill(database_url, {"accounts": accounts, "moves": max(1, entries // accounts // 2)})
        while keep_turnover(tail=0):
            pass
        if not is_written and (problems := check_ledger()):
            raise SystemExit(f"the ledger check found {problems[:3]}")
        owner = db.session.scalars(select(User).where(User.email == "owner@demo.test")).one()
        return Books(
            session_user=owner.get_id(),
            client=db.session.scalar(select(func.max(Account.client_id))) or 0,
            accounts=db.session.scalar(select(func.count(Account.client_id))) or 0,
            entries=db.session.scalar(select(func.count()).select_from(Entry)) or 0,
        )


def _make_house_accounts() -> None:
    """Each branch has its revenue and somewhere to put money."""
    with transaction():
        for branch_id in db.session.scalars(select(Branch.id).order_by(Branch.id)).all():
            house_account(AccountKind.REVENUE, branch_id)
            for kind in (TillKind.CASH, TillKind.TERMINAL, TillKind.BANK):
                if not tills_in(branch_id, kind):
                    new_till(kind, branch_id)


def _fill(database_url: str, numbers: dict[str, int]) -> None:
    address = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, cursor_factory=psycopg.ClientCursor) as connection:
        for setting in ("session_replication_role = replica", "work_mem = '256MB'", "maintenance_work_mem = '1GB'"):
            connection.execute(f"SET LOCAL {setting}")
        with _without_indexes(connection):
            for statement in (PLAN, "ANALYZE plan", MOVES, "ANALYZE move", CLIENTS, ACCOUNTS, TRANSACTIONS, ENTRIES):
                connection.execute(statement, numbers)
        for table in TABLES:
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """Indexes that are no constraints are made once the rows are there: much sooner than row by row."""
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(%s)"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)",
        (list(TABLES),),
    ).fetchall()
    for name, _ in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for _, definition in indexes:
        connection.execute(definition)
