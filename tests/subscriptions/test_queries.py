"""Reads about subscriptions: what they are on a day, in Python and in SQL; what is unpaid; whose the cabinet is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.ledger.models import AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, house_account, post, reverse, transaction_by_key
from crm.subscriptions.models import (
    ChargeMoment,
    PlanAccount,
    Subscription,
    SubscriptionState,
    SubscriptionStatus,
)
from crm.subscriptions.operations import lessons_of
from crm.subscriptions.queries import (
    CabinetAccess,
    cabinet_access,
    counted_lessons_left,
    has_cabinet_access,
    is_unpaid,
    state_of,
    subscriptions_paid_by,
    today_there,
)
from tests.factories import (
    Network,
    make_account,
    make_child,
    make_client,
    make_payment,
    make_plan,
    make_subscription,
)

TODAY = date(2027, 1, 31)


def attend(subscription: Subscription, times: int = 1) -> None:
    """So many lessons are written off."""
    with transaction():
        attended = house_account(AccountKind.ATTENDED, subscription.branch_id, Unit.LESSON)
        post(
            TransactionKind.LESSON,
            [Line(lessons_of(subscription), Decimal(-times)), Line(attended, Decimal(times))],
            branch_id=subscription.branch_id,
            by=SYSTEM,
            cause=Cause(client_id=subscription.client_id, subscription_id=subscription.id),
        )
    db.session.expire_all()


def test_the_state_is_the_same_in_python_and_in_sql(network: Network) -> None:
    """Every status, with every number of lessons, begun and not, over and not: on the days about its own."""
    client = make_client(network.lesnoy)
    plans = [make_plan(lessons=lessons, duration_days=3) for lessons in (None, 0, 1, 2)]
    for plan, status, used in product(plans, SubscriptionStatus, (0, 1, 2)):
        if used > (plan.lessons or 0):
            continue
        subscription = make_subscription(client, plan, starts_on=TODAY - timedelta(days=1))
        if used:
            attend(subscription, used)
        with transaction():
            subscription.status = status
    seen = set()
    for days in range(-3, 4):
        day = TODAY + timedelta(days=days)
        rows = db.session.execute(select(Subscription, state_of(day)).order_by(Subscription.id)).all()
        assert len(rows) == len(SubscriptionStatus) * 7
        for subscription, state in rows:
            assert state is subscription.state(day), (subscription.id, day)
            seen.add(state)
    assert seen == set(SubscriptionState)


def test_today_is_that_of_the_branch(network: Network) -> None:
    """At half past eleven in Moscow it is tomorrow in Samara."""
    plan = make_plan(duration_days=1)
    with clock.frozen(datetime(2027, 1, 31, 9, tzinfo=UTC)):
        moscow, samara = (
            make_subscription(make_client(branch), plan, starts_on=TODAY) for branch in (network.lesnoy, network.mira)
        )
        found = dict(db.session.execute(select(Subscription.id, state_of(today_there()))).all())
        assert set(found.values()) == {SubscriptionState.ACTIVE}
    with clock.frozen(datetime(2027, 1, 31, 20, 30, tzinfo=UTC)):
        found = dict(db.session.execute(select(Subscription.id, state_of(today_there()))).all())
    assert found == {moscow.id: SubscriptionState.ACTIVE, samara.id: SubscriptionState.EXPIRED}


def test_lessons_left_are_known_where_they_are_counted(network: Network) -> None:
    client = make_client(network.lesnoy)
    counted = make_subscription(client, make_plan(lessons=8))
    unlimited = make_subscription(client, make_plan(lessons=None))
    attend(counted, 3)
    found = dict(db.session.execute(select(Subscription.id, counted_lessons_left())).all())
    assert found == {counted.id: 5, unlimited.id: None}


@pytest.mark.spec("C153")
def test_a_debt_is_told_of_the_subscription_it_is_for_on_either_account(network: Network) -> None:
    client = make_client(network.lesnoy)
    on_base = make_subscription(client, make_plan(price=Decimal("1000.01")))
    separate = make_subscription(client, make_plan(price=Decimal(2000), account=PlanAccount.SEPARATE))
    paid = make_subscription(client, account=make_account(client, balance=4000))
    unpaid = select(Subscription.id).where(is_unpaid()).order_by(Subscription.id)
    assert list(db.session.scalars(unpaid)) == [on_base.id, separate.id]
    # One debt is the client's, the other sits on the subscription itself; neither pays for the other.
    base = base_account(client.id, network.lesnoy.id)
    own = next(a for a in client_accounts(client.id) if a.subscription_id == separate.id)
    assert (base.balance, own.balance, own.kind) == (Decimal("-1000.01"), -2000, AccountKind.SUBSCRIPTION)
    make_payment(own, 2000)
    assert list(db.session.scalars(unpaid)) == [on_base.id]
    assert paid.id not in set(db.session.scalars(unpaid))


def client_accounts(client_id: int) -> list[Any]:
    from crm.ledger.queries import accounts_of

    return accounts_of(client_id)


@pytest.mark.parametrize("status", [status for status in SubscriptionStatus if status is not SubscriptionStatus.ACTIVE])
def test_only_active_ones_are_asked_for(network: Network, status: SubscriptionStatus) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client, starts_on=TODAY)
    period: Any = {"branch_id": network.lesnoy.id, "period_from": TODAY, "period_to": TODAY}
    assert subscriptions_paid_by(client, **period) == [subscription]
    with transaction():
        subscription.status = status
    assert subscriptions_paid_by(client, **period) == []


@pytest.mark.spec("E21", "E22")
def test_a_subscription_sold_opens_the_cabinet_even_in_debt(network: Network) -> None:
    parent, stranger = make_client(network.lesnoy), make_client(network.lesnoy)
    child = make_child(parent)
    assert not has_cabinet_access(parent)
    make_subscription(child)
    assert base_account(parent.id, network.lesnoy.id).balance < 0
    assert has_cabinet_access(parent)
    assert not has_cabinet_access(stranger)


@pytest.mark.spec("E23")
def test_a_trial_subscription_does_not(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child = make_child(parent)
    assert cabinet_access(parent) is CabinetAccess.NOTHING
    make_subscription(child, is_trial=True)
    assert cabinet_access(parent) is CabinetAccess.TRIAL
    assert not has_cabinet_access(parent)
    make_subscription(child)
    assert cabinet_access(parent) is CabinetAccess.OPEN


def test_what_was_sold_by_mistake_opens_nothing_in_the_archive_either(network: Network) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client, make_plan(charge=ChargeMoment.AT_SALE))
    with transaction():
        subscription.status = SubscriptionStatus.CANCELED
    assert not has_cabinet_access(client)
    with transaction():
        reverse(transaction_by_key(f"subscription:{subscription.id}:sale"), by=SYSTEM, comment="Ошибка")
        subscription.status = SubscriptionStatus.ARCHIVED
    assert not has_cabinet_access(client)
