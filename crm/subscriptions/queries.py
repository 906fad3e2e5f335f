"""Reads about subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sqlalchemy import or_, select
from sqlalchemy.orm import aliased

from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind
from crm.subscriptions.models import Subscription, SubscriptionStatus


def subscriptions_paid_by(payer: Client, *, branch_id: int, period_from: date, period_to: date) -> list[Subscription]:
    """Active subscriptions in the branch, of the payer and of those he pays for, that overlap the period; oldest first.
    A payer whose cards were merged may have some in several branches.
    """
    query = (
        select(Subscription)
        .join(Subscription.client)
        .where(
            or_(Client.id == payer.id, Client.payer_id == payer.id),
            Subscription.branch_id == branch_id,
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.starts_on <= period_to,
            Subscription.ends_on >= period_from,
        )
        .order_by(Subscription.starts_on, Subscription.id)
    )
    return list(db.session.scalars(query))


def without_paid(subscriptions: Sequence[Subscription]) -> list[Subscription]:
    """Those of `subscriptions` no deposit paid for at the sale: a deposit pays at once and in full."""
    undone = aliased(Transaction)
    query = (
        select(Transaction.subscription_id)
        .join(Entry, Entry.transaction_id == Transaction.id)
        .join(Account, Account.id == Entry.account_id)
        .outerjoin(undone, undone.reverses_id == Transaction.id)
        .where(
            Transaction.subscription_id.in_([one.id for one in subscriptions]),
            Transaction.kind == TransactionKind.SALE,
            Account.kind == AccountKind.DEPOSIT,
            undone.id.is_(None),
        )
    )
    paid = set(db.session.scalars(query))
    return [one for one in subscriptions if one.id not in paid]


def subscriptions_of(client_id: int) -> list[Subscription]:
    """A client's own subscriptions, newest first."""
    query = select(Subscription).where(Subscription.client_id == client_id).order_by(Subscription.id.desc())
    return list(db.session.scalars(query))
