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
from crm.audit.bulk import Change
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.errors import DomainError
from crm.fields.operations import custom_change, set_custom
from crm.ledger.models import AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, house_account, lessons_account, post
from crm.subscriptions.models import Plan, Subscription


def sell_subscription(
    client: Client, plan: Plan, *, starts_on: date, by: Actor, custom: Mapping[str, Any] | None = None
) -> Subscription:
    """Sell `plan` to `client`: the payer's base account is charged its price (into debt if need be) and the client is
    granted its lessons, in one transaction. custom: values of the company's own fields, by key. The caller commits.
    """
    require(by, "subscription.sell", client)
    if plan.is_archived:
        raise DomainError("plan_archived", _("This plan is no longer sold."), "plan")
    subscription = Subscription(
        branch_id=client.branch_id,
        client_id=client.id,
        plan=plan,
        price=plan.price,
        lessons=plan.lessons,
        starts_on=starts_on,
        ends_on=starts_on + timedelta(days=plan.duration_days - 1),
        sold_at=clock.now(),
        author_id=by.id,
    )
    set_custom(subscription, custom or {})
    db.session.add(subscription)
    db.session.flush()
    lines: list[Line] = []
    if plan.price:
        payer_account = base_account(payer_of(client).id, client.branch_id)
        lines += [
            Line(payer_account, -plan.price),
            Line(house_account(AccountKind.REVENUE, client.branch_id), plan.price),
        ]
    if plan.lessons:
        count = Decimal(plan.lessons)
        granted = house_account(AccountKind.SERVICE, client.branch_id, Unit.LESSON)
        lines += [Line(lessons_account(client.id, client.branch_id), count), Line(granted, -count)]
    if lines:
        post(
            TransactionKind.SALE,
            lines,
            branch_id=client.branch_id,
            by=by,
            key=f"subscription:{subscription.id}:sale",
            cause=Cause(client_id=client.id, subscription_id=subscription.id),
        )
    return subscription


def changing_subscriptions(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many subscriptions' `custom.<key>`: all of a subscription that is ever changed by hand."""
    require(by, "subscription.edit")
    own, refusals = custom_change(Subscription, values)
    if foreign := set(values) - set(own):
        raise ValueError(f"subscriptions are not changed in {', '.join(sorted(foreign))}")
    names = {plan.id: plan.name for plan in db.session.scalars(select(Plan))}
    label = ((Subscription.plan_id, Subscription.id), lambda plan_id, id: f"{names[plan_id]} #{id}")
    return Change(Subscription, own, refusals, label)
