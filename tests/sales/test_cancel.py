"""«Возврат абонемента из-за ошибочной продажи»: a sale that should not have been is undone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillStatus
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.debts.operations import write_off_bad_debt
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import close_account, reopen_account, reverse_operation
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from crm.sales.canceling import cancel_sale, cancelable_of
from crm.sales.lessons import add_lessons, transfer_lessons
from crm.sales.recalculation import recalculate
from crm.sales.returning import ReturnWay, return_subscription
from crm.subscriptions.models import ChargeMoment, PlanAccount, Subscription, SubscriptionStatus
from tests.admin.world import send
from tests.factories import (
    house_balance,
    make_account,
    make_bill,
    make_client,
    make_payment,
    make_plan,
    make_subscription,
)
from tests.sales.conftest import base_of, lessons_agree, used_subscription


def undo(network: Any, sold: Subscription) -> Subscription:
    with transaction():
        return cancel_sale(sold, by=network.director)


@pytest.mark.spec("C112")
def test_sale_and_discount_are_reversed_and_the_money_stays(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan, discount=Decimal("500.50"))
    make_payment(base_account(client.id, client.branch_id), Decimal("3499.50"))
    undo(network, sold)
    assert (sold.status, sold.lessons_left) == (SubscriptionStatus.CANCELED, 0)
    assert base_of(client) == Decimal("3499.50")
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == house_balance(AccountKind.DISCOUNTS, network.lesnoy)
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == 0
    mirrors = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.REVERSAL)).all()
    assert {mirror.subscription_id for mirror in mirrors} == {sold.id}
    assert len(mirrors) == 2
    assert lessons_agree()


def test_a_deposit_gets_its_money_back(network: Any, client: Any, plan: Any) -> None:
    deposit = make_account(client, balance=3600)
    undo(network, make_subscription(client, plan, discount=Decimal(400), account=deposit))
    assert deposit.balance == 3600


def test_money_on_an_account_of_its_own_goes_to_the_base_account(network: Any, client: Any) -> None:
    sold = make_subscription(client, make_plan(account=PlanAccount.SEPARATE))
    own = db.session.scalars(select(Account).where(Account.kind == AccountKind.SUBSCRIPTION)).one()
    make_payment(own, 4000)
    undo(network, sold)
    assert (own.balance, base_of(client)) == (0, 4000)


@pytest.mark.parametrize("changes", [{"lessons": None}, {"charge": ChargeMoment.PER_LESSON}, {"price": Decimal(0)}])
def test_other_sorts_of_subscriptions(network: Any, client: Any, changes: Any) -> None:
    sold = make_subscription(client, make_plan(**changes))
    assert list(cancelable_of(client)) == [sold]
    undo(network, sold)
    assert (sold.status, base_of(client), sold.lessons_left) == (SubscriptionStatus.CANCELED, 0, 0)


@pytest.mark.spec("C112")
@pytest.mark.parametrize("lessons", [8, None])
def test_only_while_nothing_was_used(network: Any, client: Any, group_type: Any, lessons: int | None) -> None:
    sold = used_subscription(client, make_plan(lessons=lessons, lesson_types=[group_type]), group_type, used=1)
    assert list(cancelable_of(client)) == []
    with pytest.raises(DomainError, match="оформите возврат") as refused:
        undo(network, sold)
    assert refused.value.code == "used_already"


def test_lessons_added_are_taken_back_first(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    with transaction():
        add_lessons(client, subscription=sold, count=1, by=network.director)
    with pytest.raises(DomainError) as refused:
        undo(network, sold)
    assert refused.value.code == "lessons_added"


def refused_to_undo(network: Any, sold: Subscription) -> str:
    """The code it is refused with; nor is it offered on the card."""
    assert sold.client is not None
    assert list(cancelable_of(sold.client)) == []
    with pytest.raises(DomainError) as refused:
        undo(network, sold)
    assert sold.status is SubscriptionStatus.ACTIVE
    return refused.value.code


def test_lessons_given_away_and_added_anew_are_not_as_if_nothing_was_done(
    network: Any, client: Any, plan: Any, group_type: Any
) -> None:
    sold, other = make_subscription(client, plan), make_client(network.lesnoy)
    with transaction():
        given = transfer_lessons(client, other, lesson_type=group_type, count=8, by=network.regional)
        added = add_lessons(client, count=8, subscription=sold, by=network.director)
    db.session.refresh(sold)
    assert refused_to_undo(network, sold) == "lessons_given"
    with transaction():
        reverse_operation(given, comment="Не тому", by=network.regional)
    db.session.refresh(sold)
    assert refused_to_undo(network, sold) == "lessons_added"
    with transaction():
        reverse_operation(added, comment="Не тому", by=network.regional)
    undo(network, sold)
    assert lessons_agree()


def test_what_was_forgiven_is_not_paid_back(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    with transaction():
        forgiven = write_off_bad_debt(base_account(client.id, client.branch_id), amount=Decimal(1), by=SYSTEM)
    assert refused_to_undo(network, sold) == "forgiven"
    with transaction():
        reverse_operation(forgiven, comment="Заплатит", by=network.director)
    undo(network, sold)
    assert base_of(client) == 0


def test_paid_from_a_deposit_that_was_closed_since(network: Any, client: Any, plan: Any) -> None:
    deposit = make_account(client, balance=4000)
    sold = make_subscription(client, plan, account=deposit)
    with transaction():
        close_account(deposit, by=network.director)
    assert refused_to_undo(network, sold) == "account_closed"
    with transaction():
        reopen_account(deposit, by=network.director)
    undo(network, sold)
    assert deposit.balance == 4000


def test_paid_from_a_deposit_out_of_sight(network: Any, web: Any, client: Any, plan: Any) -> None:
    gone = make_client(network.rechnoy)
    deposit = make_account(gone, balance=5000)
    with transaction():
        merge_clients(client, gone, by=SYSTEM)
    db.session.refresh(deposit)
    sold = make_subscription(client, plan, account=deposit, by=network.regional)
    page, path = web(network.director, network.lesnoy), f"/admin/subscription/{sold.id}/mistaken-sale/"
    assert path not in page.get(f"/admin/client/card/{client.id}/?tab=options").text
    assert path not in page.get(f"/admin/subscription/details/?id={sold.id}").text
    assert page.get(path).status_code == 200
    assert send(page, path).status_code in {403, 422}
    db.session.expire_all()
    assert (sold.status, deposit.balance) == (SubscriptionStatus.ACTIVE, 1000)


def bill_for(client: Any, *sold: Subscription) -> Bill:
    return make_bill(client, amount=Decimal(4000), subscriptions=sold)


@pytest.mark.parametrize("verb", [cancel_sale, return_subscription, recalculate])
def test_bills_for_it_alone_are_archived(network: Any, client: Any, plan: Any, verb: Any) -> None:
    sold, other, gone = (make_subscription(client, plan) for _number in range(3))
    undo(network, gone)
    bills = [
        bill_for(client, sold),
        bill_for(client, sold, gone),
        bill_for(client, sold, other),
        bill_for(client, other),
    ]
    paid = bill_for(client, sold)
    with transaction():
        pay_bill_at_desk(paid, method=PaymentMethod.CASH, by=SYSTEM)
    facts = {return_subscription: {"way": ReturnWay.KEEP}, recalculate: {"plan": plan}}
    with transaction():
        verb(sold, by=network.director, **facts.get(verb, {}))
    kept = BillStatus.PENDING
    assert [bill.status for bill in bills] == [BillStatus.ARCHIVED, BillStatus.ARCHIVED, kept, kept]
    assert paid.status is BillStatus.PAID


def test_the_bill_is_told_before(network: Any, web: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    bill = bill_for(client, sold)
    page = web(network.director, network.lesnoy)
    for path in ("mistaken-sale/", "return/", f"recalculate/?plan={plan.id}"):
        text = page.get(f"/admin/subscription/{sold.id}/{path}").text
        assert f"Неоплаченные счета только за этот абонемент уйдут в архив: {bill.title}." in text


def test_once(network: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    undo(network, sold)
    with pytest.raises(Conflict):
        undo(network, sold)


@pytest.mark.spec("C112")
def test_on_the_screen(network: Any, web: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    page = web(network.director, network.lesnoy)
    path = f"/admin/subscription/{sold.id}/mistaken-sale/"
    options = page.get(f"/admin/client/card/{client.id}/?tab=options").text
    assert "Возврат абонемента из-за ошибочной продажи" in options
    assert f'href="{path}"' in options
    assert "остаётся на счёте плательщика" in page.get(path).text
    assert send(page, path).status_code == 302
    db.session.expire_all()
    assert (sold.status, base_of(client)) == (SubscriptionStatus.CANCELED, 0)


def test_an_administrator_may_not(network: Any, web: Any, client: Any, plan: Any) -> None:
    sold = make_subscription(client, plan)
    with pytest.raises(Forbidden):
        cancel_sale(sold, by=network.administrator)
    page = web(network.administrator, network.lesnoy)
    assert page.get(f"/admin/subscription/{sold.id}/mistaken-sale/").status_code == 403
    assert "ошибочной продажи" not in page.get(f"/admin/client/card/{client.id}/?tab=options").text
