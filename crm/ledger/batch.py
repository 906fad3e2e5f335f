"""Many accounts and transactions at once (imports), in a few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor
from crm.access.scope import current_scope
from crm.audit.models import AuditAction
from crm.audit.operations import plain, record_all
from crm.audit.origin import current_origin
from crm.db import db, insert_rows
from crm.errors import NotFound
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
    wanted = {id: branch_id for id, branch_id in owners.items() if id not in known}
    if not wanted:
        return known
    try:
        _make(kind, wanted)
    except IntegrityError:  # somebody has made one just now: it is there
        known = found()
        wanted = {id: branch_id for id, branch_id in owners.items() if id not in known}
        _make(kind, wanted)
    known = found()
    record_all(AuditAction.CREATE, {known[id]: _as_new(known[id]) for id in wanted}, by=current_origin().actor)
    return known


def _make(kind: AccountKind, owners: Mapping[int, int]) -> None:
    """New accounts of clients: all or none. Raises as the session does for rows outside the scope."""
    if not all(current_scope().covers(branch_id) for branch_id in owners.values()):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    facts = {
        "kind": kind,
        "unit": Unit.LESSON if kind is AccountKind.LESSONS else Unit.MONEY,
        "opened_at": clock.now(),
        "balance": Decimal(0),
        "credited": Decimal(0),
        "debited": Decimal(0),
    }
    db.session.flush()
    with db.session.begin_nested():
        insert_rows(Account, [facts | {"client_id": id, "branch_id": branch_id} for id, branch_id in owners.items()])


def _as_new(account: Account) -> dict[str, list[Any]]:
    names = ("id", "kind", "unit", "branch_id", "client_id", "opened_at")
    return {name: [None, plain(getattr(account, name))] for name in names}
