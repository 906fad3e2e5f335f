"""Reads of the ledger: histories, and the proof that nothing drifted."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import joinedload

from crm.db import db
from crm.ledger.models import Account, AccountKind, Entry, Transaction, Unit
from crm.ledger.turnover import wrong_sums


def accounts_of(*client_ids: int) -> list[Account]:
    """Money accounts of clients, in their order: of each the base account first, then deposits as opened."""
    query = (
        select(Account)
        .where(Account.client_id.in_(client_ids), Account.unit == Unit.MONEY)
        .order_by((Account.kind != AccountKind.BASE), Account.id)
    )
    return sorted(db.session.scalars(query), key=lambda account: client_ids.index(account.client_id or 0))


def open_accounts_of(client_id: int) -> list[Account]:
    """Those of them money can still be put on or taken from."""
    return [account for account in accounts_of(client_id) if not account.is_closed]


def lessons_left(client_id: int) -> Decimal:
    query = select(func.coalesce(func.sum(Account.balance), 0)).where(
        Account.client_id == client_id, Account.unit == Unit.LESSON
    )
    return Decimal(db.session.scalar(query) or 0)


def entries_of(account: Account) -> Select[Entry]:
    """The account's history, newest first."""
    return (
        select(Entry)
        .join(Entry.transaction)
        .where(Entry.account_id == account.id)
        .options(joinedload(Entry.transaction).joinedload(Transaction.employee))
        .order_by(Entry.id.desc())
    )


@dataclass(frozen=True)
class Problem:
    """One thing the ledger check found wrong."""

    what: str
    id: int
    detail: str


# Each finds rows (what, id, detail). A transaction balances when it does in each branch, so only those that do not are
# looked at again. Transactions between branches from before these settled with each other stay as they were posted:
# what is written is never changed.
_CHECKS = (
    """
        WITH off AS MATERIALIZED (
          SELECT e.transaction_id, a.unit, a.branch_id, sum(e.amount) AS total
          FROM ledger_entry e JOIN account a ON a.id = e.account_id
          GROUP BY e.transaction_id, a.unit, a.branch_id HAVING sum(e.amount) <> 0)
        SELECT 'unbalanced transaction' AS what, transaction_id AS id, unit || ' off by ' || sum(total) AS detail
        FROM off GROUP BY transaction_id, unit HAVING sum(total) <> 0
        UNION ALL
        SELECT 'branch out of balance', transaction_id, unit || ' in branch ' || branch_id || ' off by ' || total
        FROM off WHERE transaction_id > (SELECT at FROM ledger_mark WHERE name = 'settled')""",
    """
        SELECT 'transaction without entries' AS what, t.id AS id, t.kind AS detail FROM ledger_transaction t
        WHERE NOT EXISTS (SELECT 1 FROM ledger_entry e WHERE e.transaction_id = t.id)""",
    """
        SELECT 'cached balance differs from entries' AS what,
               a.id AS id, 'cached ' || a.balance || ', entries ' || coalesce(s.total, 0) AS detail
        FROM account a LEFT JOIN (
          SELECT account_id, sum(amount) AS total,
                 sum(CASE WHEN amount > 0 THEN amount ELSE 0 END) AS credited FROM ledger_entry GROUP BY account_id
        ) s ON s.account_id = a.id
        WHERE a.client_id IS NOT NULL
          AND (a.balance <> coalesce(s.total, 0) OR a.credited <> coalesce(s.credited, 0))""",
    """
        SELECT 'house account with a cached balance' AS what, a.id AS id, a.kind AS detail FROM account a
        WHERE a.client_id IS NULL AND (a.balance <> 0 OR a.credited <> 0)""",
    """
        SELECT 'last balance_after differs from the balance' AS what,
               a.id AS id, 'balance ' || a.balance || ', last entry says ' || e.balance_after AS detail
        FROM account a JOIN ledger_entry e ON e.id = (SELECT max(id) FROM ledger_entry WHERE account_id = a.id)
        WHERE a.client_id IS NOT NULL AND e.balance_after <> a.balance""",
    """
        SELECT 'account below its floor' AS what, a.id AS id, a.kind || ' ' || a.balance AS detail FROM account a
        WHERE a.kind IN ('deposit', 'lessons') AND a.balance < 0""",
    """
        SELECT 'closed account not at zero' AS what, a.id AS id, 'balance ' || a.balance AS detail FROM account a
        WHERE a.closed_at IS NOT NULL AND a.balance <> 0""",
    """
        SELECT 'till without an account of its kind' AS what,
               t.id AS id, t.kind || ' on account ' || a.id AS detail
        FROM till t JOIN account a ON a.id = t.account_id
        WHERE a.kind <> t.kind OR a.branch_id <> t.branch_id OR a.unit <> 'money' OR a.client_id IS NOT NULL""",
    """
        SELECT 'reversed payment that stands' AS what, p.id AS id, 'transaction ' || t.id AS detail
        FROM payment p JOIN ledger_transaction t ON t.payment_id = p.id AND t.reverses_id IS NULL
        WHERE p.status = 'reversed'
          AND NOT EXISTS (SELECT 1 FROM ledger_transaction r WHERE r.reverses_id = t.id)""",
    """
        SELECT 'succeeded payment without its transaction' AS what,
               p.id AS id, 'amount ' || p.amount AS detail FROM payment p WHERE p.status = 'succeeded'
          AND NOT EXISTS (SELECT 1 FROM ledger_transaction t WHERE t.payment_id = p.id)""",
    """
        SELECT 'entry without its transaction or account' AS what, e.id AS id, 'orphan' AS detail FROM ledger_entry e
        LEFT JOIN ledger_transaction t ON t.id = e.transaction_id LEFT JOIN account a ON a.id = e.account_id
        WHERE t.id IS NULL OR a.id IS NULL""",
)


def check_ledger() -> list[Problem]:
    """Prove the ledger over all branches with plain SQL; an empty list means every figure agrees."""
    found: list[Problem] = []
    for sql in _CHECKS:
        rows: Any = db.session.execute(text(sql))
        found += [Problem(row.what, row.id, str(row.detail)) for row in rows]
    for row in wrong_sums():
        detail = f"type {row.account_type_id}, {row.day}: off by +{row.credited} -{row.debited}"
        found.append(Problem("turnover differs from its entries", row.branch_id, detail))
    return found
