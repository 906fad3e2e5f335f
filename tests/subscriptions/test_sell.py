"""Selling a subscription: the payer is charged, the one who attends gets the lessons, at once or not at all."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.ledger.queries import lessons_left
from crm.subscriptions.models import Subscription
from crm.subscriptions.operations import sell_subscription
from crm.subscriptions.queries import subscriptions_paid_by
from tests.factories import Network, house_balance, make_child, make_client, make_plan, make_subscription


@pytest.mark.spec("E31")
def test_the_payer_is_charged_into_debt_and_the_child_gets_the_lessons(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child = make_child(parent)
    with transaction():
        sold = sell_subscription(child, network.plan, starts_on=date(2026, 9, 1), by=network.administrator)
    assert base_account(parent.id, network.lesnoy.id).balance == Decimal("-4000.00")
    assert (lessons_left(child.id), lessons_left(parent.id)) == (8, 0)
    # The house gave out what the child got: its own count goes the other way.
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == Decimal("-4000.00")
    assert (sold.starts_on, sold.ends_on) == (date(2026, 9, 1), date(2026, 9, 30))
    posted = db.session.scalars(select(Transaction)).one()
    assert (posted.kind, posted.subscription_id, posted.author_id) == (
        TransactionKind.SALE,
        sold.id,
        network.administrator.id,
    )


def test_price_and_lessons_are_those_of_the_day(network: Network) -> None:
    sold = make_subscription(make_client(network.lesnoy), network.plan)
    with transaction():
        network.plan.price, network.plan.lessons = Decimal(5000), 10
    assert (sold.price, sold.lessons) == (4000, 8)


def test_a_free_plan_charges_nothing(network: Network) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(price=Decimal(0), lessons=1))
    assert base_account(client.id, network.lesnoy.id).balance == 0
    assert lessons_left(client.id) == 1


def test_a_plan_without_lessons_only_charges(network: Network) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(price=Decimal(700), lessons=0))
    assert base_account(client.id, network.lesnoy.id).balance == -700
    assert lessons_left(client.id) == 0


def test_an_archived_plan_is_not_sold(network: Network) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(is_archived=True)
    with pytest.raises(DomainError) as caught, transaction():
        sell_subscription(client, plan, starts_on=date(2026, 9, 1), by=SYSTEM)
    assert (caught.value.code, caught.value.field) == ("plan_archived", "plan")
    assert db.session.scalar(select(func.count()).select_from(Subscription)) == 0


def test_what_a_payer_pays_for_in_a_period(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child, stranger = make_child(parent), make_client(network.lesnoy)
    own = make_subscription(parent, network.plan, starts_on=date(2026, 9, 1))
    childs = make_subscription(child, network.plan, starts_on=date(2026, 9, 30))
    make_subscription(child, network.plan, starts_on=date(2026, 10, 1))
    make_subscription(stranger, network.plan, starts_on=date(2026, 9, 1))
    september = {"period_from": date(2026, 9, 30), "period_to": date(2026, 9, 30)}
    assert subscriptions_paid_by(parent, **september) == [own, childs]
