"""A sale with its payment: at the desk, from a deposit, in debt; and through the form, once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.roles import change_role
from crm.clients.discount import set_discount
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.history import AccountOperation, Standing
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.ledger.queries import accounts_of, lessons_left
from crm.payments.desk import reverse_operation
from crm.payments.models import Payment
from crm.sales.selling import WayToPaySale, sell_paid
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription
from crm.subscriptions.queries import without_paid
from crm.tills.queries import money_in
from tests.admin.world import errors, fields, send
from tests.factories import (
    Network,
    house_balance,
    make_account,
    make_child,
    make_client,
    make_plan,
    make_till,
)


def sell(client: Any, plan: Plan, way: WayToPaySale | None, **facts: Any) -> Subscription:
    with transaction():
        return sell_paid(client, plan, way=way, **{"starts_on": date(2027, 1, 31), "by": SYSTEM, **facts})


@pytest.mark.spec("X18")
@pytest.mark.parametrize(("way", "kind"), [("CASH", AccountKind.CASH), ("CARD", AccountKind.TERMINAL)])
def test_money_given_at_the_desk_pays_at_once(network: Network, way: str, kind: AccountKind) -> None:
    """The child attends, the parent pays: two cards, one link."""
    parent = make_client(network.lesnoy)
    child = make_child(parent)
    sold = sell(child, network.plan, WayToPaySale[way], discount=Decimal("499.99"), by=network.administrator)
    base = base_account(parent.id, network.lesnoy.id)
    assert (base.balance, base.credited) == (0, Decimal("4000.00"))  # the cost, and the discount beside it
    assert house_balance(kind, network.lesnoy) == Decimal("3500.01")
    assert (lessons_left(child.id), lessons_left(parent.id)) == (8, 0)
    [taken] = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.TOP_UP))
    assert (taken.subscription_id, taken.author_id) == (sold.id, network.administrator.id)
    # Nowhere does it look as if the client had owed it.
    assert Standing.DEBT not in {row.standing for row in db.session.scalars(select(AccountOperation))}


@pytest.mark.parametrize("charge", ChargeMoment)
@pytest.mark.parametrize("account", PlanAccount)
def test_the_money_comes_to_where_the_plan_takes_it(
    network: Network, charge: ChargeMoment, account: PlanAccount
) -> None:
    client = make_client(network.lesnoy)
    sell(client, make_plan(charge=charge, account=account), WayToPaySale.CASH)
    left = {kept.kind: kept.balance for kept in accounts_of(client.id)}
    kind = AccountKind.BASE if account is PlanAccount.BASE else AccountKind.SUBSCRIPTION
    assert left.pop(kind) == (0 if charge is ChargeMoment.AT_SALE else 4000)
    assert set(left.values()) <= {0}


@pytest.mark.spec("X19")
def test_a_plan_says_whether_the_price_is_taken_at_the_sale_or_by_the_lesson(network: Network) -> None:
    at_once, by_lesson = make_client(network.lesnoy), make_client(network.lesnoy)
    sell(at_once, make_plan(charge=ChargeMoment.AT_SALE), WayToPaySale.DEBT)
    sell(by_lesson, make_plan(charge=ChargeMoment.PER_LESSON), WayToPaySale.DEBT)
    assert base_account(at_once.id, network.lesnoy.id).balance == -4000
    assert base_account(by_lesson.id, network.lesnoy.id).balance == 0
    assert lessons_left(at_once.id) == lessons_left(by_lesson.id) == 8


@pytest.mark.spec("E31")
def test_in_debt_nothing_is_paid(network: Network) -> None:
    client = make_client(network.lesnoy)
    sell(client, network.plan, WayToPaySale.DEBT, by=network.administrator)
    assert base_account(client.id, network.lesnoy.id).balance == -4000
    assert db.session.scalars(select(Payment)).all() == []


def test_a_deposit_pays_when_it_holds_enough(network: Network) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=4000)
    sell(client, network.plan, WayToPaySale.ACCOUNT, account=deposit, by=network.administrator)
    assert deposit.balance == 0


def test_what_is_free_takes_no_money(network: Network) -> None:
    client = make_client(network.lesnoy)
    sell(client, network.plan, WayToPaySale.CASH, discount=Decimal(4000))
    assert db.session.scalars(select(Payment)).all() == []


@pytest.mark.parametrize(
    ("way", "has_account", "code", "field"),
    [
        (None, False, "way_required", "way"),
        (WayToPaySale.ACCOUNT, False, "account_required", "account"),
        (WayToPaySale.DEBT, True, "way_differs", "way"),
        (WayToPaySale.CASH, True, "way_differs", "way"),
    ],
)
def test_the_way_must_be_clear(network: Network, way: Any, has_account: bool, code: str, field: str) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=4000) if has_account else None
    with pytest.raises(DomainError) as refused:
        sell(client, network.plan, way, account=deposit)
    assert (refused.value.code, refused.value.field) == (code, field)
    db.session.rollback()
    assert db.session.scalars(select(Subscription)).all() == []


def test_of_a_sale_that_fails_nothing_is_left(network: Network) -> None:
    client = make_client(network.lesnoy)
    foreign = make_till(network.rechnoy)
    with pytest.raises(DomainError) as refused:
        sell(client, network.plan, WayToPaySale.CASH, till=foreign)
    assert refused.value.code == "till_foreign"
    db.session.rollback()
    assert db.session.scalars(select(Subscription)).all() == []
    assert db.session.scalars(select(Transaction)).all() == []


def test_who_may_not_take_money_does_not_sell_for_it(network: Network) -> None:
    with transaction():
        change_role(network.administrator.role_settings, permissions={"account.top_up": False}, fields={}, by=SYSTEM)
    client = make_client(network.lesnoy)
    with pytest.raises(Forbidden):
        sell(client, network.plan, WayToPaySale.CASH, by=network.administrator)


def test_what_was_paid_at_the_desk_is_not_billed(network: Network) -> None:
    client = make_client(network.lesnoy)
    paid, owed = (sell(client, network.plan, way) for way in (WayToPaySale.CASH, WayToPaySale.DEBT))
    by_lesson = sell(client, make_plan(charge=ChargeMoment.PER_LESSON), WayToPaySale.CARD)
    assert without_paid([paid, owed, by_lesson]) == [owed]
    taken = select(Transaction).where(Transaction.subscription_id == paid.id)
    with transaction():
        top_up = db.session.scalars(taken.where(Transaction.kind == TransactionKind.TOP_UP)).one()
        reverse_operation(top_up, comment="Ошибка", by=network.owner)
    assert without_paid([paid, owed]) == [paid, owed]


# --- the form -------------------------------------------------------------------------------------------------------


def form_of(client: Any) -> str:
    return f"/admin/client/card/{client.id}/subscription/new/"


def test_the_form_sells_for_cash_at_once(network: Network, web: Any) -> None:
    parent = make_client(network.lesnoy, name="Анна Плательщица")
    child = make_child(parent)
    desk = web(network.administrator, network.lesnoy)
    page = desk.get(form_of(child)).text
    for text in ("Пробный", "В долг", "Наличными", "Картой", "Анна Плательщица"):
        assert text in page
    answer = send(desk, form_of(child), way="cash", discount="0,01", starts_on="2027-01-31")
    assert answer.status_code == 302
    sold = db.session.scalars(select(Subscription)).one()
    assert (sold.client_id, sold.cost, sold.starts_on, sold.is_trial) == (
        child.id,
        Decimal("3999.99"),
        date(2027, 1, 31),
        False,
    )
    assert house_balance(AccountKind.CASH, network.lesnoy) == Decimal("3999.99")
    assert base_account(parent.id, network.lesnoy.id).balance == 0


def test_a_double_click_sells_once(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    desk = web(network.administrator, network.lesnoy)
    form = {**fields(desk.get(form_of(client)).text), "way": "card"}
    first, second = (desk.post(form_of(client), data=form) for _time in range(2))
    assert first.status_code == second.status_code == 302
    assert first.location == second.location
    assert len(db.session.scalars(select(Subscription)).all()) == 1
    assert len(db.session.scalars(select(Payment)).all()) == 1


@pytest.mark.spec("E23")
def test_the_tick_says_it_is_a_trial(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    desk = web(network.administrator, network.lesnoy)
    card = f"/admin/client/card/{client.id}/"
    assert send(desk, form_of(client), is_trial="y").status_code == 302
    assert db.session.scalars(select(Subscription)).one().is_trial
    assert "не доступен" in desk.get(card).text
    assert send(desk, form_of(client)).status_code == 302
    assert "не доступен" not in desk.get(card).text


def test_only_the_branch_s_own_plans_are_offered(network: Network, web: Any) -> None:
    make_plan(name="Везде")
    make_plan(name="Только в Самаре", branches=[network.mira])
    make_plan(name="И в Лесном", branches=[network.mira, network.lesnoy])
    make_plan(name="Больше нигде", is_archived=True)
    page = web(network.owner).get(form_of(make_client(network.lesnoy))).text
    shown = [name for name in ("Везде", "Только в Самаре", "И в Лесном", "Больше нигде") if name in page]
    assert shown == ["Везде", "И в Лесном"]


def test_the_client_s_own_discount_is_shown_at_the_sale(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        set_discount(client, amount=Decimal("250.50"), reason="Многодетная семья", by=SYSTEM)
    page = web(network.administrator, network.lesnoy).get(form_of(client)).text.replace("\xa0", " ")
    assert "250,50" in page
    assert "Многодетная семья" in page


def test_what_is_wrong_is_said_beside_its_field(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=100)
    desk = web(network.administrator, network.lesnoy)
    assert set(errors(send(desk, form_of(client), way="account").text)) == {"account"}
    assert set(errors(send(desk, form_of(client), way="cash", account=str(deposit.id)).text)) == {"way"}
    assert set(errors(send(desk, form_of(client), way="account", account=str(deposit.id)).text)) == {"account"}
    assert set(errors(send(desk, form_of(client), way="cash", discount="5000").text)) == {"discount"}
    assert set(errors(send(desk, form_of(client), way="bank").text)) == {"way"}
    assert db.session.scalars(select(Subscription)).all() == []


def test_a_debt_that_arose_is_told(network: Network, web: Any) -> None:
    desk = web(network.administrator, network.lesnoy)
    client, plan = make_client(network.lesnoy), make_plan(price=Decimal("5000.50"))
    for way, is_told in (("debt", True), ("cash", False)):
        answer = send(desk, form_of(client), way=way, plan=str(plan.id))
        page = desk.get(answer.location).text.replace("\xa0", " ")
        assert "Абонемент продан за 5 000,50." in page
        assert ("В долг: 5 000,50." in page) is is_told


def test_a_start_of_more_than_a_year_ago_is_a_slip_unless_the_past_is_his(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    desk = web(network.administrator, network.lesnoy)
    with clock.frozen(datetime(2027, 3, 1, 9, tzinfo=UTC)):
        refused = send(desk, form_of(client), starts_on="2026-02-27")
        assert errors(refused.text) == {"starts_on": "Начало больше года назад: введите 28.02.2026 или позже."}
        assert send(desk, form_of(client), starts_on="2026-02-28").status_code == 302
        director = web(network.director, network.lesnoy)
        assert send(director, form_of(client), starts_on="2025-01-31").status_code == 302


def test_who_may_not_take_money_is_not_offered_to(network: Network, web: Any) -> None:
    with transaction():
        change_role(network.administrator.role_settings, permissions={"account.top_up": False}, fields={}, by=SYSTEM)
    client = make_client(network.lesnoy)
    desk = web(network.administrator, network.lesnoy)
    assert "Наличными" not in desk.get(form_of(client)).text
    assert set(errors(send(desk, form_of(client), way="cash").text)) == {"way"}


def test_the_till_that_was_chosen_gets_the_money(network: Network, web: Any) -> None:
    first, second = make_till(network.lesnoy), make_till(network.lesnoy)
    desk = web(network.administrator, network.lesnoy)
    assert send(desk, form_of(make_client(network.lesnoy)), way="cash", till=str(second.id)).status_code == 302
    db.session.expire_all()
    assert (money_in(first), money_in(second)) == (0, 4000)


@pytest.mark.parametrize("facts", [{"charge": ChargeMoment.PER_LESSON}, {"account": PlanAccount.SEPARATE}])
def test_a_deposit_does_not_pay_for_what_takes_its_money_elsewhere(network: Network, facts: Any) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=9000)
    with pytest.raises(DomainError) as refused:
        sell(client, make_plan(**facts), WayToPaySale.ACCOUNT, account=deposit)
    assert (refused.value.code, refused.value.field) == ("account_separate", "account")
    db.session.rollback()
    assert deposit.balance == 9000
