"""What a subscription comes to: lessons granted and left, money paid and unpaid, and the account it was charged to."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor
from crm.audit.operations import transition
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import amount as to_amount
from crm.db import db
from crm.debts.queries import debts_of_subscriptions, forgiven_of_subscription
from crm.errors import Conflict, NotFound
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, heir_of, house_account, post
from crm.payments.operations import account_to_credit
from crm.schedule.models import Attendance, Mark
from crm.subscriptions.freezing import lift_freeze, open_freeze_of
from crm.subscriptions.models import SUBSCRIPTION_MOVES, ChargeMoment, Subscription, SubscriptionStatus
from crm.subscriptions.operations import account_of, lessons_of

ZERO = Decimal(0)
# What can still be recalculated, returned or canceled, and be given lessons.
LIVING = frozenset({SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN})
WRITTEN_OFF = [mark for mark in Mark if mark.is_written_off]


@dataclass(frozen=True)
class Worth:
    """A subscription in lessons and money.

    lessons: granted at the sale and added since, None without a limit; left: of them. used: what is gone of them; of an
    unlimited one, the lessons attended. cost: what was charged for it at the sale, discounts deducted: nothing of one
    that is charged lesson by lesson. unpaid of it is a debt; forgiven: was a debt that has been written off, no money
    came for it; paid: the rest.
    """

    lessons: int | None
    left: int
    used: int
    cost: Decimal
    unpaid: Decimal
    forgiven: Decimal = ZERO

    @property
    def paid(self) -> Decimal:
        return self.cost - self.unpaid - self.forgiven

    @property
    def counted(self) -> Decimal:
        """What of the cost may be counted towards something else: paid, or still owed."""
        return self.cost - self.forgiven

    @property
    def value_of_left(self) -> Decimal:
        """counted / lessons × left, half up to the kopeck; multiplied first, or thirds would lose one."""
        return value_of(self.counted, self.lessons, self.left) if self.lessons else ZERO


def value_of(cost: Decimal, lessons: int, left: int) -> Decimal:
    """What `left` of `lessons` are worth that cost `cost` together."""
    return to_amount(cost * left / lessons)


def worth_of(subscription: Subscription) -> Worth:
    """As it is now; for good only while it is locked."""
    is_prepaid = subscription.charge is ChargeMoment.AT_SALE
    left = int(subscription.lessons_left)
    if subscription.lessons is None:
        lessons, used = None, attended(subscription)
    else:
        lessons = subscription.lessons + _added(subscription)
        used = max(lessons - left, 0)
    return Worth(
        lessons=lessons,
        left=left,
        used=used,
        cost=subscription.cost if is_prepaid else ZERO,
        unpaid=debts_of_subscriptions([subscription.id]).get(subscription.id, ZERO) if is_prepaid else ZERO,
        forgiven=forgiven_of_subscription(subscription.id) if is_prepaid and subscription.cost else ZERO,
    )


def attended(subscription: Subscription) -> int:
    """How many marked lessons rest on the subscription."""
    query = select(func.count()).where(Attendance.subscription_id == subscription.id, Attendance.mark.in_(WRITTEN_OFF))
    return db.session.scalar(query) or 0


def _added(subscription: Subscription) -> int:
    """Lessons added by hand, without what was taken back of them."""
    undone = aliased(Transaction)
    query = (
        select(func.coalesce(func.sum(Entry.amount), 0))
        .join(Entry.transaction)
        .join(Entry.account)
        .outerjoin(undone, undone.reverses_id == Transaction.id)
        .where(
            Account.subscription_id == subscription.id,
            Account.kind == AccountKind.LESSONS,
            Transaction.kind == TransactionKind.GRANT,
            undone.id.is_(None),
        )
    )
    return int(Decimal(db.session.scalar(query) or 0))


def client_of(subscription: Subscription) -> Client:
    """Whose subscription it is. Raises NotFound when the card is out of sight (merged into one of another branch)."""
    if subscription.client is None:
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    return subscription.client


def check_living(subscription: Subscription) -> None:
    """Raise Conflict "not_living" when it has been returned, canceled or archived."""
    if subscription.status not in LIVING:
        raise Conflict(
            "not_living",
            _(
                "The status is now “%(status)s”; this action is no longer possible.",
                status=subscription.status.label,
            ),
        )


def check_unchanged(subscription: Subscription, worth: Worth) -> None:
    """Raise Conflict "figures_changed" when it is worth something else by now. Once the accounts are locked too: until
    then its debt may be paid or written off.
    """
    if worth_of(subscription) != worth:
        raise figures_changed()


def figures_changed() -> Conflict:
    return Conflict("figures_changed", _("The figures have changed meanwhile. Check them and send again."))


def end_as(subscription: Subscription, status: SubscriptionStatus, *, by: Actor) -> None:
    """Move a living, locked subscription to its last status; a freeze that lasts, or was to come, ends before."""
    if open_freeze_of(subscription) is not None:
        lift_freeze(subscription, on=clock.today(subscription.branch), by=by)
    transition(subscription, SUBSCRIPTION_MOVES, status, by=by)


def account_charged(subscription: Subscription) -> Account:
    """Where the subscription was charged at the sale, and what is given back for it is credited: the account itself, or
    what has taken its place since; the one it would be charged to when nothing has been charged.
    """
    query = (
        select(Account)
        .join(Entry, Entry.account_id == Account.id)
        .join(Entry.transaction)
        .where(
            Transaction.subscription_id == subscription.id,
            Transaction.kind == TransactionKind.SALE,
            Account.client_id.is_not(None),
            Account.unit == Unit.MONEY,
        )
        .order_by(Entry.id)
        .limit(1)
    )
    if found := db.session.scalar(query):
        return account_to_credit(heir_of(found))
    return account_of(subscription, payer_of(client_of(subscription)))


def take_back(
    subscription: Subscription, account: Account, credit: Decimal, *, by: Actor, comment: str = ""
) -> Transaction | None:
    """Post the return: the lessons that are left go back, `credit` is taken back from the revenue onto `account`. The
    subscription is locked, and so are the accounts. None when there is neither.
    """
    lines, branch_id = list[Line](), subscription.branch_id
    if credit:
        lines += [Line(account, credit), Line(house_account(AccountKind.REVENUE, branch_id), -credit)]
    if left := subscription.lessons_left:
        granted = house_account(AccountKind.SERVICE, branch_id, Unit.LESSON)
        lines += [Line(lessons_of(subscription), -left), Line(granted, left)]
    if not lines:
        return None
    returned = post(
        TransactionKind.RETURN,
        lines,
        branch_id=branch_id,
        by=by,
        key=f"subscription:{subscription.id}:return",
        cause=Cause(client_id=subscription.client_id, subscription_id=subscription.id),
        comment=comment,
    )
    db.session.refresh(subscription)
    return returned


def move_credit(subscription: Subscription, source: Account, target: Account, credit: Decimal, *, by: Actor) -> None:
    """Move what was given back for a subscription, `credit` at most, on to another account of the payer; of its own
    account, all that is there. What covers a debt on `source` stays. Both accounts are locked.
    """
    spare = source.balance if source.kind is AccountKind.SUBSCRIPTION else min(credit, source.balance)
    if source.id == target.id or spare <= 0:
        return
    post(
        TransactionKind.TRANSFER,
        [Line(source, -spare), Line(target, spare)],
        branch_id=source.branch_id,
        by=by,
        cause=Cause(client_id=source.client_id),  # of the subscription too it would look like a charge of it
        comment=str(subscription),
    )


def place_of_rest(account: Account) -> Account:
    """Where what was given back is left: nobody looks for it on the account of a subscription that is no more."""
    if account.kind is not AccountKind.SUBSCRIPTION:
        return account
    assert account.client_id is not None
    return base_account(account.client_id, account.branch_id)
