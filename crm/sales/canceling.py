"""«Возврат абонемента из-за ошибочной продажи»: a sale that should not have been is undone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import exists, func, select
from sqlalchemy.orm import aliased, joinedload, selectinload

from crm.access.actors import Actor, require
from crm.bills.operations import archive_bills_for
from crm.clients.models import Client
from crm.db import db
from crm.debts.queries import FORGIVING
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import heir_of, lock_accounts, reverse
from crm.sales.worth import (
    LIVING,
    WRITTEN_OFF,
    account_charged,
    attended,
    check_living,
    end_as,
    move_credit,
    place_of_rest,
    worth_of,
)
from crm.schedule.models import Attendance
from crm.subscriptions.models import Subscription, SubscriptionStatus
from crm.subscriptions.operations import lock_subscription

_DONE: Any = Transaction.__table__
_MOVED: Any = Entry.__table__


def check_cancelable(subscription: Subscription) -> None:
    """Raise DomainError when the sale cannot be undone: "not_living", "used_already", "lessons_given", "lessons_added",
    "account_closed", "forgiven"; Forbidden "foreign_branch" when an account it moved is out of sight.
    """
    check_living(subscription)
    if attended(subscription):
        raise _used_already()
    if (obstacle := _obstacles([subscription]).get(subscription.id)) is not None:
        raise obstacle
    if subscription.lessons_left != (subscription.lessons or 0):
        raise _used_already()


def _used_already() -> DomainError:
    return DomainError("used_already", _("Lessons of this subscription have been used: return it instead."))


def _obstacles(subscriptions: Sequence[Subscription]) -> dict[int, DomainError]:
    """Why sales cannot be undone though nothing was used, by subscription: the first reason of each."""
    ids = [subscription.id for subscription in subscriptions]
    found = {id: _said_of_moved(kinds) for id, kinds in _moved_by_hand(ids).items()}
    postings = _postings_of(ids)
    for posting in postings:
        for entry in posting.entries:
            if posting.subscription_id is not None and (error := _objection_to(entry)) is not None:
                found.setdefault(posting.subscription_id, error)
    accounts = {entry.account for posting in postings for entry in posting.entries} - {None}
    owners = {account.client_id for account in accounts} - {None}
    if owners and _was_forgiven_anything(owners):
        for subscription in subscriptions:
            if subscription.id not in found and worth_of(subscription).forgiven:
                found[subscription.id] = _forgiven()
    return found


def _moved_by_hand(ids: Sequence[int]) -> dict[int, set[TransactionKind]]:
    """What stands of lessons added to subscriptions and transferred from them, whichever branch has done that."""
    done, undone, moved = (table.alias() for table in (_DONE, _DONE, _MOVED))
    query = (
        select(Account.subscription_id, done.c.kind)
        .join(moved, moved.c.account_id == Account.id)
        .join(done, done.c.id == moved.c.transaction_id)
        .outerjoin(undone, undone.c.reverses_id == done.c.id)
        .where(
            Account.subscription_id.in_(ids),
            Account.kind == AccountKind.LESSONS,
            done.c.kind.in_([TransactionKind.GRANT, TransactionKind.LESSONS_TRANSFER]),
            undone.c.id.is_(None),
        )
    )
    found: dict[int, set[TransactionKind]] = defaultdict(set)
    for id, kind in db.session.execute(query):
        found[id].add(kind)
    return found


def _said_of_moved(kinds: set[TransactionKind]) -> DomainError:
    if TransactionKind.LESSONS_TRANSFER in kinds:
        return DomainError(
            "lessons_given",
            _("Lessons of this subscription were transferred to another client: reverse that, or return it instead."),
        )
    return DomainError(
        "lessons_added", _("Lessons have been added to this subscription: reverse that, or return it instead.")
    )


def _objection_to(entry: Entry) -> DomainError | None:
    """What the sale took goes back to where it was taken from."""
    if entry.account is None:
        return Forbidden("foreign_branch", _("An account of another branch takes part in this operation."))
    if (account := heir_of(entry.account)).is_closed:
        return DomainError(
            "account_closed",
            _(
                "The account “%(account)s”, which it was paid from, is closed: open it again, or return the"
                " subscription instead.",
                account=account.title,
            ),
        )
    return None


def _was_forgiven_anything(client_ids: Collection[int | None]) -> bool:
    """Whether a debt of these clients was ever written off; seldom, and worth_of() looks closer then."""
    query = (
        select(Entry.id)
        .join(Entry.account)
        .join(Entry.transaction)
        .where(Account.client_id.in_(client_ids), Transaction.kind.in_(FORGIVING))
        .limit(1)
    )
    return db.session.scalar(query) is not None


def _forgiven() -> DomainError:
    return DomainError("forgiven", _("A debt for this subscription has been written off: return it instead."))


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
    found = db.session.scalars(query).all()
    obstacles = _obstacles(found) if found else {}
    return [subscription for subscription in found if subscription.id not in obstacles]


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
    postings = _postings_of([subscription.id])
    charged = account_charged(subscription)
    rest = place_of_rest(charged)
    lock_accounts([charged, rest, *_accounts_of(postings)])
    if worth_of(subscription).forgiven:  # its debt may have been written off meanwhile
        raise _forgiven()
    end_as(subscription, SubscriptionStatus.CANCELED, by=by)
    comment = comment.strip() or str(SubscriptionStatus.CANCELED.label)
    for posting in postings:
        reverse(posting, by=by, comment=comment)
    move_credit(subscription, charged, rest, subscription.cost, by=by)
    db.session.refresh(subscription)
    return subscription


def _postings_of(ids: Sequence[int]) -> list[Transaction]:
    """The sales of subscriptions and their discounts as they stand; the sales first: their mirrors bring what those of
    the discounts take.
    """
    undone = aliased(Transaction)
    query = (
        select(Transaction)
        .outerjoin(undone, undone.reverses_id == Transaction.id)
        .where(
            Transaction.subscription_id.in_(ids),
            Transaction.kind.in_([TransactionKind.SALE, TransactionKind.DISCOUNT]),
            undone.id.is_(None),
        )
        .options(selectinload(Transaction.entries).joinedload(Entry.account))
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
