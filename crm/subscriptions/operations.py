"""Verbs on subscriptions: sell, prolong, archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.audit.bulk import Change
from crm.audit.operations import transition
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import payer_of
from crm.db import amount as to_amount
from crm.db import db
from crm.errors import DomainError, NotFound, NothingToDo
from crm.fields.operations import custom_change, set_custom
from crm.i18n import day
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, house_account, lock_accounts, post, subscription_account
from crm.ledger.reach import check_within_reach
from crm.protocol import ProtocolLine
from crm.subscriptions.models import (
    SUBSCRIPTION_MOVES,
    ChargeMoment,
    Plan,
    PlanAccount,
    Subscription,
    SubscriptionState,
    SubscriptionStatus,
)

LONGEST_DAYS = 3660  # a subscription is moved on by at once


class Sale(NamedTuple):
    """A subscription, and the account that pays for it."""

    subscription: Subscription
    account: Account


def lock_subscription(subscription: Subscription) -> None:
    """Hold the subscription until the transaction ends, and know it as it is now; before tills and accounts."""
    query = select(Subscription.id).where(Subscription.id == subscription.id)
    db.session.execute(query.with_for_update(key_share=True))
    db.session.refresh(subscription)


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
    "company_differs", "not_enough", "account_closed"; "client_archived".
    """
    subscription, account = draw_up_sale(
        client,
        plan,
        starts_on=starts_on,
        discount=discount,
        account=account,
        is_trial=is_trial,
        replaces=replaces,
        custom=custom,
        by=by,
    )
    return charge_sale(subscription, account, by=by)


def draw_up_sale(
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
) -> Sale:
    """The first half of sell_subscription(): the subscription and the account that will pay, nothing charged or granted
    yet, so that money can be taken onto that account before charge_sale() takes it off.
    """
    require(by, "subscription.sell", client)
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
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
                "account_separate", _("This plan takes its money elsewhere: choose another way of payment."), "account"
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
    return Sale(subscription, account or account_of(subscription, payer))


def charge_sale(subscription: Subscription, account: Account, *, by: Actor) -> Subscription:
    """The second half: post what draw_up_sale() has written down, on the account it gave."""
    _charge(subscription, account, by=by)
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


# --- its life -------------------------------------------------------------------------------------------------------

OVER = frozenset(
    {
        *(SubscriptionState.USED_UP, SubscriptionState.EXPIRED),
        *(SubscriptionState.RETURNED, SubscriptionState.CANCELED),
    }
)


def prolong_subscription(
    subscription: Subscription, *, by: Actor, days: int | None = None, until: date | None = None
) -> Subscription:
    """Move the last day on, by `days` or to the day `until`: one that has expired is good again. The caller commits.

    Raises DomainError beside `days` or `until`: "prolong_required", "prolong_twice", "days_invalid", "until_invalid";
    "subscription_over" when it was returned, sold by mistake or archived; NothingToDo "good_already" when it is good
    until that day anyway.
    """
    require(by, "subscription.prolong", subscription)
    if days is None and until is None:
        raise DomainError("prolong_required", _("Enter by how many days, or until which day."), "days")
    if days is not None and until is not None:
        raise DomainError("prolong_twice", _("Enter either the days or the day, not both."), "until")
    lock_subscription(subscription)
    check_still_good(subscription)
    most = min(LONGEST_DAYS, (date.max - subscription.ends_on).days)
    if days is not None:
        if not 1 <= days <= most:
            raise DomainError("days_invalid", _("Enter from 1 to %(most)s days.", most=most), "days")
        until = subscription.ends_on + timedelta(days=days)
    assert until is not None
    if until <= subscription.ends_on:
        raise NothingToDo(
            "good_already", _("The subscription is good until %(end)s already.", end=day(subscription.ends_on)), "until"
        )
    last = subscription.ends_on + timedelta(days=most)
    if until > last:
        raise DomainError("until_invalid", _("Enter a day no later than %(day)s.", day=day(last)), "until")
    subscription.ends_on = until
    db.session.flush()
    return subscription


def check_still_good(subscription: Subscription) -> None:
    """Raise DomainError "subscription_over" when it was returned, sold by mistake or archived."""
    if subscription.status not in {SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN}:
        raise DomainError(
            "subscription_over",
            _("The subscription is “%(status)s”: nothing changes in it any more.", status=subscription.status.label),
        )


def archive_subscription(subscription: Subscription, *, by: Actor) -> Subscription:
    """Put away a subscription that is over: used up, expired, returned or sold by mistake. The caller commits.

    Raises DomainError "subscription_not_over", NothingToDo when it is in the archive already.
    """
    require(by, "subscription.archive", subscription)
    lock_subscription(subscription)
    state = subscription.state(clock.today(subscription.branch))
    if state is SubscriptionState.ARCHIVED:
        raise NothingToDo("archived_already", _("The subscription is in the archive already."))
    if state not in OVER:
        raise DomainError(
            "subscription_not_over",
            _("The subscription is “%(state)s”: only what is over goes to the archive.", state=state.label),
        )
    return transition(subscription, SUBSCRIPTION_MOVES, SubscriptionStatus.ARCHIVED, by=by)


def archive_subscriptions(ids: Sequence[int], *, by: Actor) -> list[ProtocolLine]:
    """archive_subscription() for many; one line per id, in the order given. The caller commits."""
    require(by, "subscription.archive")
    return each_of(ids, lambda subscription: archive_subscription(subscription, by=by))


def prolong_subscriptions(
    ids: Sequence[int], *, by: Actor, days: int | None = None, until: date | None = None
) -> list[ProtocolLine]:
    """prolong_subscription() for many; one line per id, in the order given. The caller commits."""
    require(by, "subscription.prolong")
    return each_of(ids, lambda subscription: prolong_subscription(subscription, days=days, until=until, by=by))


def each_of(ids: Sequence[int], change: Callable[[Subscription], Any]) -> list[ProtocolLine]:
    """Change subscription after subscription, in the order of their ids; a broken rule is told in its line, one with
    nothing to do is skipped, and what is out of sight was not found.
    """
    query = select(Subscription).where(Subscription.id.in_(ids)).options(joinedload(Subscription.plan))
    lines = {}
    for subscription in db.session.scalars(query.order_by(Subscription.id)).all():
        error = None
        try:
            change(subscription)
        except DomainError as refused:
            error = refused
        lines[subscription.id] = ProtocolLine.after(subscription.id, str(subscription), error)
    not_found = NotFound("not_found", _("Not found"))
    return [lines.get(row_id) or ProtocolLine.after(row_id, f"#{row_id}", not_found) for row_id in ids]


def changing_subscriptions(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many subscriptions' `custom.<key>`: all of a subscription that is ever changed by hand."""
    require(by, "subscription.edit")
    own, refusals = custom_change(Subscription, values)
    if foreign := set(values) - set(own):
        raise ValueError(f"subscriptions are not changed in {', '.join(sorted(foreign))}")
    names = {plan.id: plan.name for plan in db.session.scalars(select(Plan))}
    label = ((Subscription.plan_id, Subscription.id), lambda plan_id, id: f"{names[plan_id]} #{id}")
    return Change(Subscription, own, refusals, label)
