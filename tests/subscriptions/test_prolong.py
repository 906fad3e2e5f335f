"""Prolonging: the last day is moved on, over the ends of months too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.subscriptions.freezing import freeze_subscription, resume_subscription
from crm.subscriptions.models import Subscription, SubscriptionState, SubscriptionStatus
from crm.subscriptions.operations import prolong_subscription, prolong_subscriptions
from tests.admin.world import send
from tests.factories import Network, make_client, make_plan, make_subscription


def sold(network: Network) -> Subscription:
    """Good from 2 to 31 January 2027."""
    return make_subscription(make_client(network.lesnoy), make_plan(), starts_on=date(2027, 1, 2))


def prolong(subscription: Subscription, **facts: Any) -> Subscription:
    with transaction():
        return prolong_subscription(subscription, **{"by": SYSTEM, **facts})


@pytest.mark.parametrize(
    ("facts", "ends_on"),
    [
        ({"days": 1}, date(2027, 2, 1)),
        ({"days": 28}, date(2027, 2, 28)),
        ({"days": 29}, date(2027, 3, 1)),
        ({"until": date(2028, 2, 29)}, date(2028, 2, 29)),
    ],
)
def test_from_the_last_of_january_on(network: Network, facts: Any, ends_on: date) -> None:
    assert prolong(sold(network), by=network.administrator, **facts).ends_on == ends_on


def test_what_has_expired_is_good_again(network: Network) -> None:
    subscription = sold(network)
    assert subscription.state(date(2027, 2, 1)) is SubscriptionState.EXPIRED
    prolong(subscription, days=1)
    assert subscription.state(date(2027, 2, 1)) is SubscriptionState.ACTIVE


@pytest.mark.parametrize(
    ("facts", "code", "field"),
    [
        ({}, "prolong_required", "days"),
        ({"days": 1, "until": date(2027, 2, 1)}, "prolong_twice", "until"),
        ({"days": 0}, "days_invalid", "days"),
        ({"days": 3661}, "days_invalid", "days"),
        ({"until": date(2027, 1, 31)}, "good_already", "until"),
        ({"until": date(2027, 1, 30)}, "good_already", "until"),
        ({"until": date(2099, 1, 1)}, "until_invalid", "until"),
    ],
)
def test_it_is_moved_on_and_not_back(network: Network, facts: Any, code: str, field: str) -> None:
    with pytest.raises(DomainError) as refused:
        prolong(sold(network), **facts)
    assert (refused.value.code, refused.value.field) == (code, field)


@pytest.mark.parametrize(
    "status", [SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED, SubscriptionStatus.ARCHIVED]
)
def test_what_was_given_up_stays_so(network: Network, status: SubscriptionStatus) -> None:
    subscription = sold(network)
    with transaction():
        subscription.status = status
    with pytest.raises(DomainError) as refused:
        prolong(subscription, days=1)
    assert refused.value.code == "subscription_over"


def test_the_calendar_has_an_end(network: Network, web: Any) -> None:
    subscription = sold(network)
    with transaction():
        subscription.ends_on = date(9999, 12, 1)
    for facts, field in (({"days": 31}, "days"), ({"until": date(9999, 11, 30)}, "until")):
        with pytest.raises(DomainError) as refused:
            prolong(subscription, **facts)
        assert refused.value.field == field
    browser = web(network.administrator, network.lesnoy)
    assert send(browser, f"/admin/subscription/{subscription.id}/prolong/", days="60").status_code == 422
    assert prolong(subscription, days=30).ends_on == date.max
    assert browser.get(f"/admin/subscription/details/?id={subscription.id}").status_code == 200
    with clock.frozen(datetime(2027, 3, 1, 9, tzinfo=UTC)), transaction():
        freeze_subscription(subscription, from_on=date(2027, 1, 5), until_on=date(2027, 1, 9), by=SYSTEM)
        freeze_subscription(subscription, from_on=date(9999, 12, 1), until_on=date.max, by=SYSTEM)
        resume_subscription(subscription, on=date(9999, 12, 20), by=SYSTEM)
    assert subscription.ends_on == date.max


def test_two_at_once_both_count(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    subscription = sold(network)
    number = subscription.id
    results = in_parallel(lambda _index: prolong(db.session.get_one(Subscription, number), days=1).id, 3)
    assert results == [number] * 3
    db.session.expire_all()
    assert subscription.ends_on == date(2027, 2, 3)


def test_only_who_may(network: Network) -> None:
    with pytest.raises(Forbidden):
        prolong(sold(network), days=1, by=network.manager)
    with pytest.raises(Forbidden), transaction():
        prolong_subscriptions([], days=1, by=network.manager)
