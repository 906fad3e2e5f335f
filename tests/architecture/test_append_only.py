"""What was posted or audited cannot be changed, whoever writes the SQL."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, IntegrityError

from crm import clock
from crm.db import db
from crm.ledger.models import AccountKind
from crm.ledger.operations import house_account
from tests.factories import Network, make_account, make_client
from tests.migrations import triggers

CHANGES = {
    "ledger_transaction": "comment = 'x'",
    "ledger_entry": "amount = amount + 1",
    "audit_entry": "actor_name = 'somebody else'",
}


def test_the_tables_are_the_three() -> None:
    assert set(triggers().APPEND_ONLY) == set(CHANGES)


@pytest.mark.parametrize("table", CHANGES)
@pytest.mark.parametrize("verb", ["UPDATE {table} SET {change}", "DELETE FROM {table}"])
def test_rows_are_never_changed_or_deleted(network: Network, table: str, verb: str) -> None:
    make_account(make_client(network.lesnoy), balance=100)
    db.session.commit()
    with pytest.raises(DatabaseError, match=f"{table} is append-only"), db.engine.begin() as connection:
        connection.execute(text(verb.format(table=table, change=CHANGES[table])))


@pytest.mark.parametrize("table", CHANGES)
def test_rows_are_not_changed_by_inserting_them_again(network: Network, table: str) -> None:
    make_account(make_client(network.lesnoy), balance=100)
    db.session.commit()
    again = f"INSERT INTO {table} SELECT * FROM {table} WHERE true ON CONFLICT (id) DO UPDATE SET {CHANGES[table]}"
    again = again.replace("amount = amount", f"amount = {table}.amount")
    with pytest.raises(DatabaseError, match=f"{table} is append-only"), db.engine.begin() as connection:
        connection.execute(text(again))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("table", CHANGES)
def test_rows_are_not_replaced(network: Network, table: str) -> None:
    """SQLite's REPLACE deletes without the triggers of DELETE."""
    make_account(make_client(network.lesnoy), balance=100)
    db.session.commit()
    with pytest.raises(DatabaseError, match=f"{table} is append-only"), db.engine.begin() as connection:
        connection.execute(text(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"))


@pytest.mark.parametrize("table", ["account", "client", "branch"])
def test_what_entries_belong_to_does_not_take_them_along(network: Network, table: str) -> None:
    make_account(make_client(network.lesnoy), balance=100)
    db.session.commit()
    with pytest.raises(IntegrityError), db.engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {table}"))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", [*CHANGES, "account", "client", "branch"])
def test_tables_are_never_truncated(network: Network, table: str) -> None:
    with pytest.raises(DatabaseError, match="is append-only"), db.engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {table} CASCADE"))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("second", "is_refused"), [(-100, False), (-99, True)])
def test_unbalanced_entries_do_not_commit(network: Network, second: int, is_refused: bool) -> None:
    """The trigger is deferred: it looks when the transaction commits, after all its entries are there."""
    one = house_account(AccountKind.CASH, network.lesnoy.id).id
    other = house_account(AccountKind.REVENUE, network.lesnoy.id).id
    branch_id = network.lesnoy.id
    db.session.commit()

    def insert() -> None:
        with db.engine.begin() as connection:
            transaction_id = connection.scalar(
                text(
                    "INSERT INTO ledger_transaction"
                    " (kind, happened_at, author_name, comment, idempotency_key, branch_id)"
                    " VALUES ('top_up', :now, 'sql', '', 'sql:1', :branch) RETURNING id"
                ),
                {"now": clock.now(), "branch": branch_id},
            )
            for account_id, amount in ((one, 100), (other, second)):
                connection.execute(
                    text("INSERT INTO ledger_entry (transaction_id, account_id, amount) VALUES (:t, :a, :m)"),
                    {"t": transaction_id, "a": account_id, "m": amount},
                )

    if is_refused:
        with pytest.raises(DatabaseError, match="do not sum to zero"):
            insert()
    else:
        insert()


def test_a_deposit_below_zero_is_refused(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    account_id = account.id
    db.session.commit()
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(
            text("UPDATE account SET balance = -1, debited = credited + 1 WHERE id = :id"), {"id": account_id}
        )
    assert account.balance == Decimal(100)


def test_a_cache_that_contradicts_itself_is_refused(app: Any, network: Network) -> None:
    account_id = make_account(make_client(network.lesnoy), balance=100).id
    db.session.commit()
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(text("UPDATE account SET balance = balance + 1 WHERE id = :id"), {"id": account_id})
