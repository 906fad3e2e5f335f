"""Selling subscriptions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.audit.bulk import Change
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import amount as to_amount
from crm.db import db
from crm.errors import DomainError
from crm.fields.operations import custom_change, set_custom
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, house_account, lock_accounts, post, subscription_account
from crm.ledger.reach import check_within_reach
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription


def sell_subscription(
    client: Client,
    plan: Plan,
    *,
    starts_on: date,
    by: Actor,
    discount: Decimal | None = None,
    account: Account | None = None,
    is_trial: bool | None = None,
    replaces: Subscription | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Subscription:
    """Sell `plan` to `client`: the client is granted its lessons and the payer is charged its price, in one
    transaction; the discount is another, of its own kind, beside it. A plan charged lesson by lesson takes nothing now.
    The caller commits.

    discount: off the price, in money, besides the client's own; none by default. account: which of the payer's accounts
    pays; his base account by default, into debt if need be, while a deposit must hold what is left of the price. Plans
    kept on a separate account are charged there, and nowhere else. is_trial: as the plan says by default. replaces: the
    one it is recalculated from. custom: values of the company's own fields, by key. Raises DomainError beside the
    field: "plan_archived", "plan_elsewhere", "discount_invalid", "account_foreign", "account_separate", "city_differs",
    "company_differs", "not_enough", "account_closed".
    """
    require(by, "subscription.sell", client)
    check_sold_here(plan, client.branch)
    discount, own_discount = to_amount(discount or 0), min(client.discount, plan.price)
    if not 0 <= discount <= plan.price - own_discount:
        raise DomainError("discount_invalid", _("The discount is not below zero and not above the price."), "discount")
    payer = payer_of(client)
    if account is not None:
        require(by, "account.spend", account)
        if account.client_id != payer.id or account.unit is not Unit.MONEY:
            raise DomainError("account_foreign", _("This account belongs to another client."), "account")
        check_within_reach(client.branch, account.branch, field="account")
        if plan.account is PlanAccount.SEPARATE or plan.charge is ChargeMoment.PER_LESSON:
            raise DomainError(
                "account_separate", _("This plan takes its money elsewhere: leave the base account chosen."), "account"
            )
    subscription = Subscription(
        branch_id=client.branch_id,
        client_id=client.id,
        plan=plan,
        price=plan.price,
        discount=discount + own_discount,
        client_discount=own_discount,
        lessons=plan.lessons,
        charge=plan.charge,
        account=plan.account,
        is_trial=plan.is_trial if is_trial is None else is_trial,
        replaces_id=replaces.id if replaces is not None else None,
        starts_on=starts_on,
        ends_on=starts_on + timedelta(days=plan.duration_days - 1),
        sold_at=clock.now(),
        author_id=by.id,
    )
    set_custom(subscription, custom or {})
    db.session.add(subscription)
    db.session.flush()
    _charge(subscription, account or account_of(subscription, payer), by=by)
    db.session.refresh(subscription)  # its lessons
    return subscription


def check_sold_here(plan: Plan, branch: Branch) -> None:
    """Raise DomainError beside `plan` when it is not sold in the branch (any more)."""
    if plan.is_archived:
        raise DomainError("plan_archived", _("This plan is no longer sold."), "plan")
    if plan.branches and branch not in plan.branches:
        raise DomainError("plan_elsewhere", _("This plan is not sold in this branch."), "plan")


def account_of(subscription: Subscription, payer: Client) -> Account:
    """Where a subscription is charged when nothing else was chosen: the payer's base account in its branch, or its own.
    Made at its first use.
    """
    if subscription.account is PlanAccount.SEPARATE:
        return subscription_account(AccountKind.SUBSCRIPTION, subscription.id, payer.id, subscription.branch_id)
    return base_account(payer.id, subscription.branch_id)


def lessons_of(subscription: Subscription) -> Account:
    """The lessons left of a subscription. Made at its first use."""
    return subscription_account(AccountKind.LESSONS, subscription.id, subscription.client_id, subscription.branch_id)


def _charge(subscription: Subscription, account: Account, *, by: Actor) -> None:
    """Post the sale; what costs nothing and grants nothing needs no transaction."""
    branch_id = subscription.branch_id
    sale: list[Line] = []
    discount: list[Line] = []
    is_charged = subscription.charge is ChargeMoment.AT_SALE
    if subscription.price and is_charged:
        revenue = house_account(AccountKind.REVENUE, branch_id)
        sale += [Line(account, -subscription.price), Line(revenue, subscription.price)]
    if subscription.discount and is_charged:
        given = house_account(AccountKind.DISCOUNTS, branch_id)
        discount += [Line(account, subscription.discount), Line(given, -subscription.discount)]
    if subscription.lessons:
        count = Decimal(subscription.lessons)
        granted = house_account(AccountKind.SERVICE, branch_id, Unit.LESSON)
        sale += [Line(lessons_of(subscription), count), Line(granted, -count)]
    # All at once, in id order, before the discount locks one alone.
    balances = lock_accounts([line.account for line in (*discount, *sale)])
    is_in_full = is_charged and subscription.price and not account.kind.may_be_negative
    if is_in_full and balances[account.id] < subscription.cost:
        raise DomainError(
            "not_enough", _("Not enough money on the account “%(account)s”.", account=account.title), "account"
        )
    # The discount first: a deposit that holds the cost alone never falls below zero.
    for kind, lines in ((TransactionKind.DISCOUNT, discount), (TransactionKind.SALE, sale)):
        if lines:
            post(
                kind,
                lines,
                branch_id=branch_id,
                by=by,
                key=f"subscription:{subscription.id}:{kind.value}",
                cause=Cause(client_id=subscription.client_id, subscription_id=subscription.id),
                happened_at=subscription.sold_at,
            )


def changing_subscriptions(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many subscriptions' `custom.<key>`: all of a subscription that is ever changed by hand."""
    require(by, "subscription.edit")
    own, refusals = custom_change(Subscription, values)
    if foreign := set(values) - set(own):
        raise ValueError(f"subscriptions are not changed in {', '.join(sorted(foreign))}")
    names = {plan.id: plan.name for plan in db.session.scalars(select(Plan))}
    label = ((Subscription.plan_id, Subscription.id), lambda plan_id, id: f"{names[plan_id]} #{id}")
    return Change(Subscription, own, refusals, label)
