"""«Возврат абонемента из-за ошибочной продажи»: a sale that should not have been is undone."""

from __future__ import annotations

from collections.abc import Sequence

from flask_babel import gettext as _
from sqlalchemy import exists, func, select
from sqlalchemy.orm import aliased, joinedload

from crm.access.actors import Actor, require
from crm.bills.operations import archive_bills_for
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.ledger.models import Account, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import lock_accounts, reverse
from crm.sales.worth import (
    LIVING,
    WRITTEN_OFF,
    account_charged,
    attended,
    check_living,
    end_as,
    move_credit,
    place_of_rest,
)
from crm.schedule.models import Attendance
from crm.subscriptions.models import Subscription, SubscriptionStatus
from crm.subscriptions.operations import lock_subscription


def check_cancelable(subscription: Subscription) -> None:
    """Raise DomainError when the sale cannot be undone: "not_living", "used_already", "lessons_added"."""
    check_living(subscription)
    left = int(subscription.lessons_left)
    if attended(subscription) or (subscription.lessons or 0) > left:
        raise DomainError("used_already", _("Lessons of this subscription have been used: return it instead."))
    if (subscription.lessons or 0) < left:
        raise DomainError(
            "lessons_added", _("Lessons have been added to this subscription: reverse that, or return it instead.")
        )


def cancelable_of(client: Client) -> Sequence[Subscription]:
    """A client's subscriptions the sale of which can be undone, newest first: check_cancelable() of many at once."""
    is_used = exists().where(Attendance.subscription_id == Subscription.id, Attendance.mark.in_(WRITTEN_OFF))
    query = (
        select(Subscription)
        .where(
            Subscription.client_id == client.id,
            Subscription.status.in_(LIVING),
            Subscription.lessons_left == func.coalesce(Subscription.lessons, 0) * 100,  # kept in hundredths
            ~is_used,
        )
        .options(joinedload(Subscription.plan))
        .order_by(Subscription.id.desc())
    )
    return db.session.scalars(query).all()


def cancel_sale(subscription: Subscription, *, by: Actor, comment: str = "") -> Subscription:
    """Undo a sale made by mistake, while nothing has been used of it: the sale and its discounts are reversed. What was
    paid stays on the payer's account, the base one if the subscription had one of its own; bills for it alone are
    archived. The caller commits.

    Raises DomainError as check_cancelable() does.
    """
    require(by, "subscription.cancel", subscription)
    lock_subscription(subscription)
    check_cancelable(subscription)
    archive_bills_for(subscription, by=by)
    postings = _postings_of(subscription)
    charged = account_charged(subscription)
    rest = place_of_rest(charged)
    lock_accounts([charged, rest, *_accounts_of(postings)])
    end_as(subscription, SubscriptionStatus.CANCELED, by=by)
    comment = comment.strip() or str(SubscriptionStatus.CANCELED.label)
    for posting in postings:
        reverse(posting, by=by, comment=comment)
    move_credit(subscription, charged, rest, subscription.cost, by=by)
    db.session.refresh(subscription)
    return subscription


def _postings_of(subscription: Subscription) -> list[Transaction]:
    """The sale and its discounts as they stand; the sale first: its mirror brings what theirs takes."""
    undone = aliased(Transaction)
    query = (
        select(Transaction)
        .outerjoin(undone, undone.reverses_id == Transaction.id)
        .where(
            Transaction.subscription_id == subscription.id,
            Transaction.kind.in_([TransactionKind.SALE, TransactionKind.DISCOUNT]),
            undone.id.is_(None),
        )
        .order_by((Transaction.kind != TransactionKind.SALE), Transaction.id)
    )
    return list(db.session.scalars(query))


def _accounts_of(postings: list[Transaction]) -> list[Account]:
    query = (
        select(Account)
        .join(Entry, Entry.account_id == Account.id)
        .where(
            Entry.transaction_id.in_([posting.id for posting in postings]),
            Account.client_id.is_not(None),
            Account.closed_at.is_(None),
            Account.unit.in_([Unit.MONEY, Unit.LESSON]),
        )
        .distinct()
    )
    return list(db.session.scalars(query))
