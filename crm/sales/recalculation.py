"""«Перерасчёт»: what is left of a subscription becomes a part of the price of a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from crm import clock
from crm.access.actors import Actor, require
from crm.bills.operations import archive_bills_for
from crm.clients.models import Client
from crm.db import amount as to_amount
from crm.db import db
from crm.errors import DomainError
from crm.i18n import money
from crm.ledger.models import Transaction
from crm.ledger.operations import check_amount, lock_accounts
from crm.ledger.reach import check_within_reach
from crm.payments.crediting import hold_destinations
from crm.payments.models import Payment, PaymentMethod, desk_methods
from crm.payments.operations import top_up
from crm.sales.worth import (
    Worth,
    account_charged,
    check_living,
    check_unchanged,
    client_of,
    end_as,
    figures_changed,
    move_credit,
    take_back,
    worth_of,
)
from crm.subscriptions.models import ChargeMoment, Plan, Subscription, SubscriptionStatus
from crm.subscriptions.operations import (
    charge_sale,
    check_sold_here,
    draw_up_sale,
    lessons_of,
    lock_subscription,
)
from crm.tills.models import Till
from crm.tills.operations import hold_till


@dataclass(frozen=True)
class Recalculation:
    """The arithmetic of one subscription and one plan. price: of the plan; discount: the client's own off it."""

    worth: Worth
    price: Decimal
    discount: Decimal

    @property
    def value(self) -> Decimal:
        """The actual cost of the current subscription: what its lessons left are worth."""
        return self.worth.value_of_left

    @property
    def cost(self) -> Decimal:
        """What the new one costs."""
        return self.price - self.discount

    @property
    def difference(self) -> Decimal:
        """What the client adds; below zero: what the centre returns."""
        return self.cost - self.value

    @property
    def least(self) -> Decimal:
        """The least sum it may be made by hand: the whole of the old one's cost that was not forgiven is counted."""
        return self.cost - self.worth.counted

    @property
    def seen(self) -> str:
        """What the figures rest on, to tell whether they are still those a person was shown."""
        return f"{self.worth.lessons}:{self.worth.left}:{self.worth.counted}:{self.cost}"


@dataclass(frozen=True)
class Recalculated:
    """What a recalculation did. payment: of the money received from the client, if any."""

    returned: Transaction | None
    sold: Subscription
    payment: Payment | None


def recalculation_of(subscription: Subscription, plan: Plan, worth: Worth | None = None) -> Recalculation:
    """The figures as they are now. worth: of the subscription, when it is known already."""
    own = min(client_of(subscription).discount, plan.price)
    return Recalculation(worth or worth_of(subscription), plan.price, own)


def check_recalculable(subscription: Subscription) -> Worth:
    """What it is worth. Raises DomainError when there is nothing to recalculate: "not_living", "city_differs",
    "company_differs", "unlimited", "per_lesson", "nothing_left".
    """
    check_living(subscription)
    here, there = client_of(subscription).branch, subscription.branch
    if here.city_id != there.city_id:
        raise DomainError(
            "city_differs",
            _(
                "Recalculation works only within one city: the subscription is of the city of %(there)s, "
                "the client of %(here)s.",
                there=there.city.name,
                here=here.city.name,
            ),
        )
    check_within_reach(here, there, field="plan")  # what is left would go over to the new one's company
    if subscription.lessons is None:
        raise DomainError("unlimited", _("The subscription has no limit of lessons: there is no rest to recalculate."))
    if subscription.charge is ChargeMoment.PER_LESSON:
        raise DomainError(
            "per_lesson", _("This subscription is paid lesson by lesson: nothing has been paid ahead to recalculate.")
        )
    worth = worth_of(subscription)
    if not worth.left:
        raise DomainError("nothing_left", _("No lessons are left: there is nothing to recalculate."))
    return worth


def plans_to_recalculate_to(subscription: Subscription, worth: Worth) -> list[Plan]:
    """The plans sold in the client's branch that cost him no less than what is left; those charged lesson by lesson and
    trial ones are not among them.
    """
    client = client_of(subscription)
    query = (
        select(Plan)
        .where(Plan.is_archived.is_(False), Plan.is_trial.is_(False), Plan.charge == ChargeMoment.AT_SALE)
        .options(selectinload(Plan.branches))
        .order_by(Plan.position, Plan.name)
    )
    return [
        plan
        for plan in db.session.scalars(query)
        if _is_sold_to(client, plan) and recalculation_of(subscription, plan, worth).difference >= 0
    ]


def _is_sold_to(client: Client, plan: Plan) -> bool:
    return not plan.branches or client.branch in plan.branches


def recalculate(
    subscription: Subscription,
    plan: Plan,
    *,
    by: Actor,
    amount: Decimal | None = None,
    received: Decimal | None = None,
    method: PaymentMethod | None = None,
    till: Till | None = None,
    starts_on: date | None = None,
    comment: str = "",
    seen: str | None = None,
) -> Recalculated:
    """Return the subscription for what is left of it, sell `plan` in its place, take what the client gives; the rest is
    his debt; bills for the old one alone are archived. One transaction; the caller commits.

    amount: what the client is to add, as calculated by default; another sum changes what the old one is counted at,
    between nothing and the whole of its cost. received: taken at the desk now, by `method`, into `till`. seen: what the
    person's figures rested on. Raises DomainError as check_recalculable() and the sale do, or beside `plan`, `amount`,
    `received`, `method`, `till`; Conflict "figures_changed".
    """
    require(by, "subscription.recalculate", subscription)
    lock_subscription(subscription)
    worth = check_recalculable(subscription)
    client = client_of(subscription)
    check_sold_here(plan, client.branch)
    figures = recalculation_of(subscription, plan, worth)
    if seen and seen != figures.seen:
        raise figures_changed()
    credit = figures.cost - _amount_to_add(figures, plan, amount)
    archive_bills_for(subscription, by=by)
    if received:
        received = check_amount(received, field="received")
        if method not in desk_methods(by):
            raise DomainError("method_required", _("Choose how it was paid: in cash or by card."), "method")
        hold_till(method.till_kind, client.branch_id, till)  # before the accounts
    sold, paying = draw_up_sale(
        client, plan, starts_on=starts_on or clock.today(client.branch), replaces=subscription, by=by
    )
    charged = account_charged(subscription)
    accounts = [charged, paying, lessons_of(subscription)]
    if received:
        hold_destinations(accounts)  # those it may come to among them, in one order
    lock_accounts(accounts)
    check_unchanged(subscription, worth)
    end_as(subscription, SubscriptionStatus.RETURNED, by=by)
    returned = take_back(subscription, charged, credit, by=by, comment=comment)
    charge_sale(sold, paying, by=by)
    move_credit(subscription, charged, paying, credit, by=by)
    payment = None
    if received:
        payment = top_up(
            paying, amount=received, method=method, till=till, subscription_id=sold.id, comment=comment, by=by
        )
    return Recalculated(returned, sold, payment)


def _amount_to_add(figures: Recalculation, plan: Plan, amount: Decimal | None) -> Decimal:
    if plan.charge is ChargeMoment.PER_LESSON:
        raise DomainError("plan_per_lesson", _("A plan that is paid lesson by lesson is not recalculated to."), "plan")
    if figures.difference < 0:
        raise DomainError(
            "plan_cheaper",
            _(
                "The new subscription costs less than what is left of the current one: %(sum)s.",
                sum=money(figures.value),
            ),
            "plan",
        )
    if amount is None:
        return figures.difference
    amount = to_amount(amount)
    if not figures.least <= amount <= figures.cost:
        raise DomainError(
            "amount_invalid",
            _(
                "Enter a sum from %(least)s to %(most)s: the current subscription counts for no more than it cost.",
                least=money(figures.least),
                most=money(figures.cost),
            ),
            "amount",
        )
    return amount
