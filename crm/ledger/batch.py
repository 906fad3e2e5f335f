"""Many accounts and transactions at once (imports), in a few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor
from crm.db import db
from crm.ledger.models import Account, AccountKind, Transaction, Unit
from crm.ledger.operations import Posting, write


def post_all(postings: Sequence[Posting], *, by: Actor) -> int:
    """Write the transactions in order, leaving out those whose key is posted already; how many were written.

    All or none: raises as write() does, also when a key was lost to a race. Meant for some hundreds at a time (one
    statement names every account). The caller commits.
    """
    keys = [posting.key for posting in postings]
    known = set(db.session.scalars(select(Transaction.idempotency_key).where(Transaction.idempotency_key.in_(keys))))
    fresh = [posting for posting in postings if posting.key not in known]
    return len(write(fresh, by=by)) if fresh else 0


def own_accounts(kind: AccountKind, owners: Mapping[int, int]) -> dict[int, Account]:
    """The base or the lessons accounts of many clients ({client id: branch id}), made where they are missing.

    By client id. The caller commits.
    """
    query = select(Account).where(
        Account.kind == kind,
        Account.client_id.in_(owners),
        Account.subscription_id.is_(None),
        Account.lesson_type_id.is_(None),
        Account.closed_at.is_(None),
    )

    def found() -> dict[int, Account]:
        return {
            account.client_id: account
            for account in db.session.scalars(query)
            if account.client_id is not None and account.branch_id == owners[account.client_id]
        }

    known = found()
    try:
        return known | _made(kind, {id: branch_id for id, branch_id in owners.items() if id not in known})
    except IntegrityError:  # somebody has made one just now: it is there
        known = found()
        return known | _made(kind, {id: branch_id for id, branch_id in owners.items() if id not in known})


def _made(kind: AccountKind, owners: Mapping[int, int]) -> dict[int, Account]:
    """New accounts of clients, by client id: all or none."""
    unit = Unit.LESSON if kind is AccountKind.LESSONS else Unit.MONEY
    made = {
        client_id: Account(kind=kind, unit=unit, branch_id=branch_id, client_id=client_id, opened_at=clock.now())
        for client_id, branch_id in owners.items()
    }
    if made:
        with db.session.begin_nested():
            db.session.add_all(made.values())
            db.session.flush()
    return made
