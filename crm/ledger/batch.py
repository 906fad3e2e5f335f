"""Many accounts and transactions at once (imports): the same rules, locks and caches as post(), in a few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy import bindparam, insert, select, update

from crm import clock
from crm.access.actors import Actor
from crm.db import Money, db
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, _balances_after, _check_balanced, lock_accounts, settlements

NO_CAUSE = Cause()


@dataclass(frozen=True)
class Posting:
    """A transaction to be, as post() takes it; the idempotency key is not optional here.

    reverses_id: the transaction it is the mirror image of.
    """

    kind: TransactionKind
    lines: Sequence[Line]
    branch_id: int
    key: str
    cause: Cause = NO_CAUSE
    comment: str = ""
    happened_at: datetime | None = None
    reverses_id: int | None = None


def post_all(postings: Sequence[Posting], *, by: Actor) -> int:
    """Write the transactions in order, leaving out those whose key is posted already; how many were written.

    All or none: raises as post() does, and IntegrityError when a key was lost to a race. Meant for some hundreds at a
    time (one statement names every account). The caller commits.
    """
    for posting in postings:
        _check_balanced(posting.lines)
    locked = lock_accounts([line.account for posting in postings for line in posting.lines])
    postings = [replace(posting, lines=[*posting.lines, *settlements(posting.lines)]) for posting in postings]
    known = set(
        db.session.scalars(
            select(Transaction.idempotency_key).where(
                Transaction.idempotency_key.in_([posting.key for posting in postings])
            )
        )
    )
    fresh = [posting for posting in postings if posting.key not in known]
    if not fresh:
        return 0
    balances = _balances_after([line for posting in fresh for line in posting.lines], locked)
    ids = db.session.scalars(
        insert(Transaction).returning(Transaction.id, sort_by_parameter_order=True),
        [
            {
                "kind": posting.kind,
                "happened_at": posting.happened_at or clock.now(),
                "branch_id": posting.branch_id,
                "author_id": by.id,
                "author_name": str(by.name),
                "employee_id": posting.cause.employee_id,
                "client_id": posting.cause.client_id,
                "payment_id": posting.cause.payment_id,
                "bill_id": posting.cause.bill_id,
                "subscription_id": posting.cause.subscription_id,
                "visit_id": posting.cause.visit_id,
                "comment": posting.comment,
                "idempotency_key": posting.key,
                "reverses_id": posting.reverses_id,
            }
            for posting in fresh
        ],
    ).all()
    moved: dict[Account, list[Decimal]] = {}
    entries, after = [], iter(balances)
    for transaction_id, posting in zip(ids, fresh, strict=True):
        for line in posting.lines:
            left = next(after)
            if left is not None:
                moved.setdefault(line.account, []).append(line.amount)
            entries.append(
                {
                    "transaction_id": transaction_id,
                    "account_id": line.account.id,
                    "amount": line.amount,
                    "balance_after": left,
                }
            )
    db.session.execute(insert(Entry), entries)
    _move_caches(moved)
    return len(fresh)


def _move_caches(moved: Mapping[Account, Sequence[Decimal]]) -> None:
    """Add the changes to the cached balances of their (locked) client accounts."""
    if not moved:
        return
    table = Account.__table__
    values = [
        {
            "at": account.id,
            "credit": sum((change for change in changes if change > 0), Decimal(0)),
            "debit": sum((-change for change in changes if change < 0), Decimal(0)),
        }
        for account, changes in moved.items()
    ]
    credit, debit = bindparam("credit", type_=Money), bindparam("debit", type_=Money)
    db.session.connection().execute(
        update(table)  # type: ignore[arg-type]
        .where(table.c.id == bindparam("at"))
        .values(
            balance=table.c.balance + credit - debit,
            credited=table.c.credited + credit,
            debited=table.c.debited + debit,
        ),
        values,
    )
    for account in moved:
        db.session.expire(account, ["balance", "credited", "debited"])


def own_accounts(kind: AccountKind, owners: Mapping[int, int]) -> dict[int, Account]:
    """The base or the lessons accounts of many clients ({client id: branch id}), made where they are missing.

    By client id. The caller commits.
    """
    query = select(Account).where(Account.kind == kind, Account.client_id.in_(owners), Account.closed_at.is_(None))
    found = {
        account.client_id: account
        for account in db.session.scalars(query)
        if account.client_id is not None and account.branch_id == owners[account.client_id]
    }
    unit = Unit.LESSON if kind is AccountKind.LESSONS else Unit.MONEY
    made = [
        Account(kind=kind, unit=unit, branch_id=branch_id, client_id=client_id, opened_at=clock.now())
        for client_id, branch_id in owners.items()
        if client_id not in found
    ]
    db.session.add_all(made)
    db.session.flush()
    return {account.client_id: account for account in (*found.values(), *made) if account.client_id is not None}
