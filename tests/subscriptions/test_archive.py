"""Putting away subscriptions: only what is over, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.protocol import Outcome
from crm.subscriptions.models import Subscription, SubscriptionStatus
from crm.subscriptions.operations import archive_subscription, archive_subscriptions
from tests.factories import Network, make_client, make_plan, make_subscription


def expired(network: Network, branch: Any = None) -> Subscription:
    branch = branch or network.lesnoy
    starts_on = clock.today(branch) - timedelta(days=30)
    return make_subscription(make_client(branch), make_plan(), starts_on=starts_on)


def test_one_that_ended_yesterday_is_put_away(network: Network) -> None:
    subscription = expired(network)
    with transaction():
        archive_subscription(subscription, by=network.administrator)
    assert subscription.status is SubscriptionStatus.ARCHIVED


@pytest.mark.parametrize("status", [SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED])
def test_so_is_what_was_given_up(network: Network, status: SubscriptionStatus) -> None:
    subscription = make_subscription(make_client(network.lesnoy))
    with transaction():
        subscription.status = status
    with transaction():
        archive_subscription(subscription, by=SYSTEM)
    assert subscription.status is SubscriptionStatus.ARCHIVED


@pytest.mark.parametrize("days", [0, 1])
def test_what_is_good_or_will_be_is_not(network: Network, days: int) -> None:
    starts_on = clock.today(network.lesnoy) + timedelta(days=days)
    subscription = make_subscription(make_client(network.lesnoy), starts_on=starts_on)
    with pytest.raises(DomainError) as refused, transaction():
        archive_subscription(subscription, by=SYSTEM)
    assert refused.value.code == "subscription_not_over"


def test_of_two_at_once_one_is_told_it_is_done(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    number = expired(network).id

    def one(_index: int) -> str:
        with transaction():
            return archive_subscription(db.session.get_one(Subscription, number), by=SYSTEM).status.value

    results = in_parallel(one, 3)
    told = sorted(result.code if isinstance(result, DomainError) else result for result in results)
    assert told == ["archived", "archived_already", "archived_already"]


def test_many_have_a_line_each_in_the_order_given(network: Network) -> None:
    over, active, foreign = (
        expired(network),
        make_subscription(make_client(network.lesnoy)),
        expired(network, network.mira),
    )
    put_away = expired(network)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), transaction():
        archive_subscription(put_away, by=network.administrator)
        ids = [foreign.id, active.id, over.id, put_away.id]
        lines = archive_subscriptions(ids, by=network.administrator)
    assert [line.id for line in lines] == ids
    assert [line.outcome for line in lines] == [Outcome.FAILED, Outcome.FAILED, Outcome.DONE, Outcome.SKIPPED]
    assert lines[2].label == str(over)
    assert (over.status, foreign.status) == (SubscriptionStatus.ARCHIVED, SubscriptionStatus.ACTIVE)


def test_only_who_may(network: Network) -> None:
    with pytest.raises(Forbidden), transaction():
        archive_subscriptions([], by=network.manager)
