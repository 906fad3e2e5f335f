"""Selling a subscription: the payer is charged, the one who attends gets the lessons, at once or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.roles import change_role
from crm.clients.models import Client
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account, reverse, transaction_by_key
from crm.ledger.queries import lessons_left
from crm.subscriptions.models import Plan, Subscription
from crm.subscriptions.operations import sell_subscription
from crm.subscriptions.queries import subscriptions_paid_by, without_paid
from tests.factories import Network, house_balance, make_account, make_child, make_client, make_plan, make_subscription


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


def test_nothing_is_sold_to_an_archived_card(network: Network) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        archive_client(client, by=SYSTEM)
    with pytest.raises(DomainError) as caught, transaction():
        sell_subscription(client, network.plan, starts_on=date(2026, 9, 1), by=network.administrator)
    assert caught.value.code == "client_archived"
    assert base_account(client.id, network.lesnoy.id).balance == 0


def test_what_a_payer_pays_for_in_a_period(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child, stranger = make_child(parent), make_client(network.lesnoy)
    own = make_subscription(parent, network.plan, starts_on=date(2026, 9, 1))
    childs = make_subscription(child, network.plan, starts_on=date(2026, 9, 30))
    make_subscription(child, network.plan, starts_on=date(2026, 10, 1))
    make_subscription(stranger, network.plan, starts_on=date(2026, 9, 1))
    september = {"period_from": date(2026, 9, 30), "period_to": date(2026, 9, 30)}
    assert subscriptions_paid_by(parent, branch_id=network.lesnoy.id, **september) == [own, childs]


def sell(client: Client, plan: Plan, **more: Any) -> Subscription:
    with transaction():
        return sell_subscription(client, plan, starts_on=date(2026, 9, 1), **{"by": SYSTEM, **more})


def test_a_discount_is_a_transaction_of_its_own_beside_the_sale(network: Network) -> None:
    client = make_client(network.lesnoy)
    sold = sell(client, network.plan, discount=Decimal("499.99"), by=network.administrator)
    posted = db.session.scalars(select(Transaction).order_by(Transaction.id)).all()
    account = base_account(client.id, network.lesnoy.id)
    changes = {done.kind: [entry.amount for entry in done.entries if entry.account_id == account.id] for done in posted}
    assert changes == {TransactionKind.DISCOUNT: [Decimal("499.99")], TransactionKind.SALE: [-4000]}
    assert {(done.subscription_id, done.author_id) for done in posted} == {(sold.id, network.administrator.id)}
    assert {done.idempotency_key for done in posted} == {
        f"subscription:{sold.id}:{kind}" for kind in ("discount", "sale")
    }
    assert (sold.price, sold.discount, sold.cost) == (4000, Decimal("499.99"), Decimal("3500.01"))
    assert account.balance == Decimal("-3500.01")
    assert house_balance(AccountKind.DISCOUNTS, network.lesnoy) == Decimal("499.99")


@pytest.mark.parametrize("discount", [Decimal("-0.01"), Decimal("4000.01"), Decimal(100000000)])
def test_a_discount_is_between_nothing_and_the_price(network: Network, discount: Decimal) -> None:
    with pytest.raises(DomainError) as refused:
        sell(make_client(network.lesnoy), network.plan, discount=discount)
    assert (refused.value.code, refused.value.field) == ("discount_invalid", "discount")
    assert db.session.scalar(select(func.count()).select_from(Subscription)) == 0


@pytest.mark.parametrize("discount", [None, Decimal(0)])
def test_without_a_discount_there_is_only_the_sale(network: Network, discount: Decimal | None) -> None:
    sold = sell(make_client(network.lesnoy), network.plan, discount=discount)
    assert db.session.scalars(select(Transaction.kind)).all() == [TransactionKind.SALE]
    assert sold.discount == 0


def test_the_whole_price_may_be_let_off(network: Network) -> None:
    client = make_client(network.lesnoy)
    sell(client, network.plan, discount=Decimal(4000))
    assert base_account(client.id, network.lesnoy.id).balance == 0
    assert lessons_left(client.id) == 8


@pytest.mark.spec("A3", "D63")
def test_a_child_s_subscription_is_paid_from_the_parent_s_deposit(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child, deposit = make_child(parent), make_account(parent, balance=5000)
    sell(child, network.plan, account=deposit, by=network.administrator)
    assert deposit.balance == 1000
    assert base_account(parent.id, network.lesnoy.id).balance == 0
    assert (lessons_left(child.id), lessons_left(parent.id)) == (8, 0)


@pytest.mark.spec("A2")
def test_what_was_credited_pays_for_a_later_sale(network: Network) -> None:
    parent = make_client(network.lesnoy)
    deposit = make_account(parent, balance=4000)
    sell(parent, network.plan, account=deposit)
    assert deposit.balance == 0


def test_a_deposit_that_holds_the_price_less_the_discount_is_enough(network: Network) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=Decimal("3500.01"))
    sell(client, network.plan, account=deposit, discount=Decimal("499.99"))
    assert deposit.balance == 0


def test_a_deposit_never_goes_into_debt(network: Network) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=Decimal("3500.00"))
    with pytest.raises(DomainError) as refused:
        sell(client, network.plan, account=deposit, discount=Decimal("499.99"))
    assert (refused.value.code, refused.value.field) == ("not_enough", "account")
    db.session.rollback()
    assert deposit.balance == 3500
    assert db.session.scalar(select(func.count()).select_from(Subscription)) == 0


def test_of_two_sales_from_one_deposit_at_once_one_is_refused(
    network: Network, in_parallel: Callable[..., list[Any]]
) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=4000)
    ids = client.id, network.plan.id, deposit.id

    def one(_index: int) -> str:
        one_client, plan, account = (
            db.session.get_one(model, key) for model, key in zip((Client, Plan, Account), ids, strict=True)
        )
        return str(sell(one_client, plan, account=account).price)

    results = in_parallel(one, 4)
    assert sorted(r.code if isinstance(r, DomainError) else r for r in results) == ["4000.00", *["not_enough"] * 3]
    db.session.expire_all()
    assert (deposit.balance, lessons_left(client.id)) == (0, 8)


def test_a_stranger_s_account_pays_for_nobody(network: Network) -> None:
    deposit = make_account(make_client(network.lesnoy), balance=9000)
    with pytest.raises(DomainError) as refused:
        sell(make_client(network.lesnoy), network.plan, account=deposit)
    assert (refused.value.code, refused.value.field) == ("account_foreign", "account")


def test_a_closed_account_pays_for_nothing(network: Network) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client)
    with transaction():
        deposit.closed_at = deposit.opened_at
    with pytest.raises(DomainError) as refused:
        sell(client, network.plan, account=deposit)
    assert refused.value.code == "account_closed"


def test_who_may_not_spend_clients_money_sells_into_debt_only(network: Network) -> None:
    """A role that sells but was denied paying from accounts."""
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=9000)
    with transaction():
        change_role(network.administrator.role_settings, permissions={"account.spend": False}, fields={}, by=SYSTEM)
    with pytest.raises(Forbidden):
        sell(client, network.plan, account=deposit, by=network.administrator)
    db.session.rollback()
    sell(client, network.plan, by=network.administrator)
    assert deposit.balance == 9000


def test_what_a_deposit_paid_for_is_told_from_what_is_owed(network: Network) -> None:
    parent = make_client(network.lesnoy)
    child, deposit = make_child(parent), make_account(parent, balance=5000)
    paid, owed = sell(child, network.plan, account=deposit), sell(child, network.plan)
    assert without_paid([paid, owed]) == [owed]
    with transaction():
        reverse(transaction_by_key(f"subscription:{paid.id}:sale"), by=SYSTEM, comment="Ошибка")
    assert without_paid([paid, owed]) == [paid, owed]
