"""«Возврат»: a subscription is given back; what was not used of it is paid back."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.bills.operations import archive_bills_for
from crm.catalogue.models import LessonType
from crm.db import MAX_AMOUNT, LabelEnum, db
from crm.db import amount as to_amount
from crm.errors import DomainError
from crm.i18n import money
from crm.ledger.models import Transaction
from crm.ledger.operations import lock_accounts
from crm.payments.desk import refund
from crm.payments.models import PaymentMethod
from crm.sales.worth import (
    WRITTEN_OFF,
    ZERO,
    Worth,
    account_charged,
    check_living,
    check_unchanged,
    end_as,
    figures_changed,
    move_credit,
    place_of_rest,
    take_back,
    worth_of,
)
from crm.schedule.models import Attendance, Lesson
from crm.subscriptions.models import Subscription, SubscriptionStatus
from crm.subscriptions.operations import lessons_of, lock_subscription
from crm.tills.models import Till
from crm.tills.operations import hold_till
from crm.tills.queries import tills_in


class ReturnWay(LabelEnum):
    """Where the money goes: handed out in cash, given back by card or bank, or left on the client's account."""

    CASH = "cash", _lp("return", "Cash")
    CARD = "card", _l("Cashless, through the terminal")
    BANK = "bank", _l("Cashless, from the bank account")
    KEEP = "keep", _l("Leave it on the client's account")

    @property
    def method(self) -> PaymentMethod | None:
        """How the money leaves; None when it stays."""
        return {
            ReturnWay.CASH: PaymentMethod.CASH,
            ReturnWay.CARD: PaymentMethod.CARD,
            ReturnWay.BANK: PaymentMethod.BANK,
        }.get(self)


@dataclass(frozen=True)
class ReturnFigures:
    """The arithmetic of a return. lesson_type: whose price of a single visit the lessons used are counted at."""

    worth: Worth
    lesson_type: LessonType | None

    @property
    def single_price(self) -> Decimal:
        return self.lesson_type.single_price if self.lesson_type is not None else ZERO

    @property
    def used_value(self) -> Decimal:
        """The actual cost: (lessons − left) × the price of a single visit; nothing where nothing was paid ahead."""
        return to_amount(self.worth.used * self.single_price) if self.worth.cost else ZERO

    @property
    def refund(self) -> Decimal:
        return refund_for(self.worth, self.used_value)

    @property
    def seen(self) -> str:
        """As Recalculation.seen."""
        return f"{self.worth.lessons}:{self.worth.left}:{self.worth.cost}:{self.worth.paid}"


@dataclass(frozen=True)
class Returned:
    """What a return did. returned: None when there was neither money nor a lesson to give back; paid_back: None when
    nothing was handed out.
    """

    subscription: Subscription
    returned: Transaction | None
    paid_back: Transaction | None


def refund_for(worth: Worth, used_value: Decimal) -> Decimal:
    """What is given back of what was paid: never below zero."""
    return max(ZERO, worth.paid - used_value)


def ways_of_return(branch_id: int) -> list[ReturnWay]:
    """How money can be given back in the branch: cashless where it has a till of the kind."""
    return [
        way
        for way in ReturnWay
        if way in {ReturnWay.CASH, ReturnWay.KEEP} or (way.method and tills_in(branch_id, way.method.till_kind))
    ]


def check_returnable(subscription: Subscription) -> ReturnFigures:
    """The figures as they are now. Raises DomainError "not_living" or "nothing_left"."""
    check_living(subscription)
    worth = worth_of(subscription)
    if worth.lessons is not None and not worth.left:
        raise DomainError("nothing_left", _("No lessons are left: there is nothing to return."))
    return ReturnFigures(worth, priced_by(subscription))


def priced_by(subscription: Subscription) -> LessonType | None:
    """The lesson type of the subscription; of several the dearest. Where the plan is good for any type, the dearest of
    those attended by it.
    """
    types = list(subscription.plan.lesson_types)
    if not types:
        attended = (
            select(Lesson.lesson_type_id)
            .join(Attendance, Attendance.lesson_id == Lesson.id)
            .where(Attendance.subscription_id == subscription.id, Attendance.mark.in_(WRITTEN_OFF))
        )
        types = list(db.session.scalars(select(LessonType).where(LessonType.id.in_(attended))))
    return max(types, key=lambda one: (one.single_price, -one.id), default=None)


def return_subscription(
    subscription: Subscription,
    *,
    by: Actor,
    used_value: Decimal | None = None,
    amount: Decimal | None = None,
    way: ReturnWay | None = None,
    till: Till | None = None,
    comment: str = "",
    seen: str | None = None,
) -> Returned:
    """Give a subscription back: the lessons left go, what they were not used for is taken off the price, `amount` is
    paid back by `way`, from `till`. What was used beyond what was paid remains a debt. One transaction; the caller
    commits. Planned lessons stay planned; bills for the subscription alone are archived.

    used_value, amount: as calculated by default. seen: what the person's figures rested on. Raises DomainError as
    check_returnable() does, or beside `used_value`, `amount`, `way`, `till`; Conflict "figures_changed".
    """
    require(by, "subscription.return", subscription)
    lock_subscription(subscription)
    figures = check_returnable(subscription)
    if seen and seen != figures.seen:
        raise figures_changed()
    used_value = _checked_value(figures, used_value)
    amount = _checked_refund(figures, used_value, amount)
    method = _method_of(way, subscription) if amount else None
    archive_bills_for(subscription, by=by)
    charged = account_charged(subscription)
    if method is not None:
        hold_till(method.till_kind, charged.branch_id, till, pays_out=amount)  # before the accounts
    worth, rest = figures.worth, place_of_rest(charged)
    credit = amount + worth.unpaid - max(ZERO, min(used_value, worth.cost) - worth.paid - worth.forgiven)
    lessons = [lessons_of(subscription)] if worth.left else []
    balance = lock_accounts([charged, rest, *lessons])[charged.id]
    check_unchanged(subscription, worth)
    if method is not None and balance + credit < amount:
        raise DomainError(
            "account_in_debt",
            _(
                "The account owes for other things too: %(sum)s can be handed out at most. Leave it on the account.",
                sum=money(max(ZERO, balance + credit)),
            ),
            "amount",
        )
    end_as(subscription, SubscriptionStatus.RETURNED, by=by)
    returned, paid_back = take_back(subscription, charged, credit, by=by, comment=comment), None
    if method is not None:
        paid_back = refund(charged, amount=amount, method=method, till=till, comment=comment, by=by)
    move_credit(subscription, charged, rest, amount, by=by)
    return Returned(subscription, returned, paid_back)


def _checked_value(figures: ReturnFigures, used_value: Decimal | None) -> Decimal:
    used_value = figures.used_value if used_value is None else to_amount(used_value)
    if not 0 <= used_value <= MAX_AMOUNT:
        raise DomainError("value_invalid", _("Enter a sum not below zero and not above 100 000 000."), "used_value")
    return used_value


def _checked_refund(figures: ReturnFigures, used_value: Decimal, amount: Decimal | None) -> Decimal:
    amount = refund_for(figures.worth, used_value) if amount is None else to_amount(amount)
    if not 0 <= amount <= figures.worth.paid:
        raise DomainError(
            "amount_invalid",
            _("No more is given back than was paid: %(sum)s at most.", sum=money(figures.worth.paid)),
            "amount",
        )
    return amount


def _method_of(way: ReturnWay | None, subscription: Subscription) -> PaymentMethod | None:
    """How the money leaves; None when it stays on the account."""
    if way is None or way not in ways_of_return(subscription.branch_id):
        raise DomainError("way_required", _("Choose how the money is given back."), "way")
    return way.method
