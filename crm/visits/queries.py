"""Reads about visits: whose they are, who pays, from what."""

from __future__ import annotations

from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.orm import aliased, joinedload, selectinload

from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.errors import NotFound
from crm.ledger.models import Account, Transaction, TransactionKind
from crm.ledger.queries import open_accounts_of
from crm.ledger.reach import is_within_reach
from crm.visits.models import Visit


def visits_of(client: Client, *, limit: int = 100) -> list[Visit]:
    """Visits of a client, of his family's too when he pays for it, the latest first."""
    query = (
        select(Visit)
        .join(Visit.client)
        .where(or_(Client.id == client.id, Client.payer_id == client.id))
        .options(joinedload(Visit.client), joinedload(Visit.employee), selectinload(Visit.branch))
        .order_by(Visit.starts_at.desc(), Visit.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))


def payer_of_visit(visit: Visit) -> Client:
    """Who pays for a visit: the payer of who comes. Raises NotFound when a card is out of sight (merged into one of
    another branch, say).
    """
    if visit.client is None:
        raise NotFound("payer_not_found", _("The payer's card was not found in this branch."))
    return payer_of(visit.client)


def accounts_to_pay_from(visit: Visit) -> list[Account]:
    """The payer's open accounts within reach that hold the price of the visit."""
    return [
        account
        for account in open_accounts_of(payer_of_visit(visit).id)
        if account.balance >= visit.price and is_within_reach(visit.branch, account.branch)
    ]


def debt_of(accounts: list[Account]) -> Decimal:
    """What is owed on accounts, as a positive sum; what others hold does not lessen it."""
    return -sum((account.balance for account in accounts if account.balance < 0), Decimal(0))


def debt_made_by(payment: Transaction) -> Decimal:
    """How much of a visit's payment is owed since: it was put off, and the account did not hold it; else zero. Money
    taken at the desk pays for the visit, whatever else is owed.
    """
    if ":debt:" not in payment.idempotency_key:  # as pay_visit() names it
        return Decimal(0)
    taken = (entry for entry in payment.entries if entry.account is not None and entry.account.client_id is not None)
    debts = (min(-entry.amount, -entry.balance_after) for entry in taken if entry.balance_after is not None)
    return max(Decimal(0), next(debts, Decimal(0)))


def payment_of(visit: Visit) -> Transaction | None:
    """The transaction that has paid for the visit and stands; None while it is unpaid."""
    reversal = aliased(Transaction)
    query = (
        select(Transaction)
        .where(
            Transaction.visit_id == visit.id,
            Transaction.kind == TransactionKind.VISIT,
            ~select(reversal.id).where(reversal.reverses_id == Transaction.id).exists(),
        )
        .options(selectinload(Transaction.entries))
    )
    return db.session.scalar(query)
