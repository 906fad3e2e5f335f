"""«Перерасчёт»: what is left of a subscription becomes a part of the price of a new one."""

from __future__ import annotations

import re
import threading
import time
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Company
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.debts.operations import write_off_bad_debt
from crm.debts.queries import debts_of_subscriptions
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import base_account
from crm.payments.desk import transfer
from crm.payments.models import PaymentMethod
from crm.sales import recalculation
from crm.sales.recalculation import (
    Recalculated,
    check_recalculable,
    plans_to_recalculate_to,
    recalculate,
    recalculation_of,
)
from crm.sales.worth import value_of, worth_of
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.queries import operations_on, sum_to_ask, without_paid
from tests.admin.world import errors, fields, send
from tests.factories import house_balance, make_account, make_client, make_payment, make_plan, make_subscription
from tests.sales.conftest import attend, base_of, lessons_agree, used_subscription


@pytest.mark.spec("C65", "W4")
@pytest.mark.parametrize(
    ("cost", "lessons", "left", "value"),
    [
        ("4000", 8, 3, "1500.00"),
        ("1000", 3, 2, "666.67"),  # 333.33 × 2 would be 666.66
        ("0.01", 2, 1, "0.01"),  # half up
        ("100000000", 7, 7, "100000000.00"),
    ],
)
def test_value_is_multiplied_first_and_rounded_half_up(cost: str, lessons: int, left: int, value: str) -> None:
    assert value_of(Decimal(cost), lessons, left) == Decimal(value)


@pytest.fixture
def old(client: Any, plan: Any, group_type: Any) -> Subscription:
    """3 of 8 lessons left, worth 1 500, all paid."""
    return used_subscription(client, plan, group_type, used=5)


@pytest.fixture
def individual(network: Any) -> Plan:
    return make_plan(name="Индивидуальный", price=Decimal(6000), lessons=4)


def do(network: Any, old: Subscription, plan: Plan, **changes: Any) -> Recalculated:
    with transaction():
        return recalculate(old, plan, by=network.administrator, **changes)


@pytest.mark.spec("C59", "C61", "C62", "C64", "W4")
def test_old_is_returned_new_is_sold_and_the_rest_is_a_debt(
    network: Any, client: Any, old: Subscription, individual: Plan
) -> None:
    revenue = -house_balance(AccountKind.REVENUE, network.lesnoy)
    figures = recalculation_of(old, individual)
    assert (figures.value, figures.difference) == (Decimal(1500), Decimal(4500))
    done = do(network, old, individual)
    assert done.returned is not None
    assert (old.status, old.lessons_left) == (SubscriptionStatus.RETURNED, 0)
    assert (done.sold.replaces_id, done.sold.lessons_left, done.sold.price) == (old.id, 4, 6000)
    assert done.sold.starts_on == clock.today(network.lesnoy)
    assert base_of(client) == -4500
    assert debts_of_subscriptions([old.id, done.sold.id]) == {done.sold.id: Decimal(4500)}
    kinds = db.session.scalars(
        select(Transaction.kind).where(Transaction.id >= done.returned.id).order_by(Transaction.id)
    ).all()
    assert kinds == [TransactionKind.RETURN, TransactionKind.SALE]
    assert -house_balance(AccountKind.REVENUE, network.lesnoy) == revenue - 1500 + 6000
    assert lessons_agree()


@pytest.mark.spec("C64")
def test_what_the_client_gives_is_taken_at_once(network: Any, client: Any, old: Any, individual: Plan) -> None:
    done = do(network, old, individual, received=Decimal("4000.50"), method=PaymentMethod.CARD)
    assert done.payment is not None
    assert (done.payment.amount, done.payment.method) == (Decimal("4000.50"), PaymentMethod.CARD)
    assert base_of(client) == Decimal("-499.50")
    assert house_balance(AccountKind.TERMINAL, network.lesnoy) == Decimal("4000.50")


@pytest.mark.spec("C64")
def test_nothing_is_done_when_a_part_of_it_fails(network: Any, client: Any, old: Any, individual: Plan) -> None:
    count = select(func.count()).select_from(Transaction)
    before = db.session.scalar(count)
    with pytest.raises(DomainError, match="наличными или картой"):
        do(network, old, individual, received=Decimal(100), method=PaymentMethod.ONLINE)
    assert old.status is SubscriptionStatus.ACTIVE
    assert db.session.scalar(count) == before
    assert db.session.scalars(select(Subscription).where(Subscription.replaces_id == old.id)).all() == []


@pytest.mark.spec("C63")
@pytest.mark.parametrize(("amount", "balance"), [("4000", -4000), ("6000", -6000), ("2000", -2000), ("4500.01", None)])
def test_the_sum_is_changed_by_hand(
    network: Any, client: Any, old: Any, individual: Plan, amount: str, balance: int | None
) -> None:
    do(network, old, individual, amount=Decimal(amount))
    assert base_of(client) == (Decimal("-4500.01") if balance is None else balance)


@pytest.mark.spec("C63")
@pytest.mark.parametrize("amount", ["6000.01", "1999.99"])
def test_the_old_one_never_counts_for_less_than_nothing_or_more_than_it_cost(
    network: Any, old: Any, individual: Plan, amount: str
) -> None:
    with pytest.raises(DomainError) as refused:
        do(network, old, individual, amount=Decimal(amount))
    assert (refused.value.code, refused.value.field) == ("amount_invalid", "amount")


@pytest.mark.spec("C60", "W4")
def test_only_plans_that_cost_no_less_are_offered(network: Any, old: Any) -> None:
    equal = make_plan(name="Ровно", price=Decimal("1500.00"))
    cheaper = make_plan(name="Дешевле", price=Decimal("1499.99"))
    make_plan(name="По занятиям", price=Decimal(9000), charge=ChargeMoment.PER_LESSON)
    make_plan(name="Пробный", price=Decimal(9000), is_trial=True)
    make_plan(name="В архиве", price=Decimal(9000), is_archived=True)
    offered = {plan.name for plan in plans_to_recalculate_to(old, worth_of(old))}
    assert "Ровно" in offered
    assert not offered & {"Дешевле", "По занятиям", "Пробный", "В архиве"}
    with pytest.raises(DomainError) as refused:
        do(network, old, cheaper)
    assert (refused.value.code, refused.value.field) == ("plan_cheaper", "plan")
    assert do(network, old, equal).sold.cost == 1500


@pytest.mark.spec("C67")
def test_the_clients_own_discount_counts(network: Any, client: Any, old: Any, individual: Plan) -> None:
    client.discount = Decimal(500)
    near = make_plan(name="Почти", price=Decimal(1999))  # 1 499 for him
    db.session.commit()
    figures = recalculation_of(old, individual)
    assert (figures.discount, figures.cost, figures.difference) == (500, 5500, 4000)
    assert near not in plans_to_recalculate_to(old, worth_of(old))
    done = do(network, old, individual)
    assert (done.sold.client_discount, done.sold.cost) == (500, 5500)
    assert base_of(client) == -4000


@pytest.mark.spec("C65")
def test_what_was_let_off_the_old_one_is_not_given_back(network: Any, client: Any, plan: Any, group_type: Any) -> None:
    old = used_subscription(client, plan, group_type, used=4, discount=Decimal(1000))
    assert worth_of(old).value_of_left == 1500  # of 3 000


def test_lessons_added_make_each_worth_less(network: Any, client: Any, old: Any) -> None:
    from crm.sales.lessons import add_lessons

    with transaction():
        add_lessons(client, subscription=old, count=2, by=network.director)
    worth = worth_of(old)
    assert (worth.lessons, worth.left, worth.used) == (10, 5, 5)
    assert worth.value_of_left == 2000


def test_a_debt_for_the_lessons_taken_remains(network: Any, client: Any, plan: Any, group_type: Any) -> None:
    old = used_subscription(client, plan, group_type, used=5, paid=0)
    done = do(network, old, make_plan(price=Decimal(6000)), received=Decimal(4500), method=PaymentMethod.CASH)
    assert base_of(client) == -4000  # as before: the difference alone was to be added
    assert debts_of_subscriptions([old.id, done.sold.id]) == {done.sold.id: Decimal(4000)}  # payments cover the oldest


@pytest.mark.parametrize(("paid", "value", "least"), [(0, 0, 1500), (1000, 375, 500)])
def test_a_debt_that_was_written_off_counts_for_nothing(
    network: Any, client: Any, plan: Any, group_type: Any, paid: int, value: int, least: int
) -> None:
    old = used_subscription(client, plan, group_type, used=5, paid=paid)
    with transaction():
        write_off_bad_debt(base_account(client.id, client.branch_id), by=network.director)
    near = make_plan(name="Дешёвый", price=Decimal(1500))
    figures = recalculation_of(old, near)
    assert (figures.value, figures.difference, figures.least) == (value, 1500 - value, least)
    with pytest.raises(DomainError) as refused:
        do(network, old, near, amount=Decimal(least) - Decimal("0.01"))
    assert refused.value.field == "amount"
    do(network, old, near)
    assert base_of(client) == value - 1500


def test_a_debt_that_was_written_off_is_in_the_arithmetic(
    network: Any, web: Any, client: Any, plan: Any, group_type: Any, individual: Plan
) -> None:
    old = used_subscription(client, plan, group_type, used=5, paid=1000)
    with transaction():
        write_off_bad_debt(base_account(client.id, client.branch_id), by=network.director)
    page = web(network.director, network.lesnoy)
    path = f"/admin/subscription/{old.id}"
    for shown in (page.get(f"{path}/recalculate/?plan={individual.id}"), page.get(f"{path}/return/")):
        plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", shown.text.replace("\xa0", " ")))
        assert "(4 000,00 − 3 000,00) / 8 × 3 = 375,00" in plain
    assert "4 000,00 − 3 000,00 = 1 000,00" in plain


def test_what_a_deposit_had_paid_goes_to_the_new_one(
    network: Any, client: Any, plan: Any, group_type: Any, individual: Plan
) -> None:
    deposit = make_account(client, balance=5000)
    old = used_subscription(client, plan, group_type, used=5, account=deposit)
    do(network, old, individual)
    assert (deposit.balance, base_of(client)) == (Decimal(1000), Decimal(-4500))


def test_accounts_of_their_own(network: Any, client: Any, group_type: Any) -> None:
    separate = make_plan(account=PlanAccount.SEPARATE, lesson_types=[group_type])
    old = make_subscription(client, separate)
    done = do(network, old, make_plan(price=Decimal(6000), account=PlanAccount.SEPARATE))
    query = select(Account).where(Account.kind == AccountKind.SUBSCRIPTION)
    balances = {account.subscription_id: account.balance for account in db.session.scalars(query)}
    # Nothing was paid: what is left of the old one clears its debt, the new one is owed whole.
    assert balances == {old.id: Decimal(0), done.sold.id: Decimal(-6000)}


@pytest.mark.spec("C66", "C141")
def test_a_subscription_of_another_city_is_refused(network: Any, client: Any, individual: Plan) -> None:
    other = make_client(network.mira)
    sold = make_subscription(other)
    with transaction():
        merge_clients(client, other, by=network.owner)
    db.session.refresh(sold)
    assert (sold.client_id, sold.branch_id) == (client.id, network.mira.id)
    with pytest.raises(DomainError, match="только в пределах одного города") as refused:
        do(network, sold, individual)
    assert refused.value.code == "city_differs"


def test_no_money_goes_to_another_company(network: Any, client: Any, individual: Plan) -> None:
    with transaction():
        other = Company(name="Другая", legal_name="ООО «Другая»", inn="7700000010")
        db.session.add(other)
        network.rechnoy.company = other
    gone = make_client(network.rechnoy)
    sold = make_subscription(gone)
    make_payment(base_account(gone.id, gone.branch_id), 4000)
    with transaction():
        merge_clients(client, gone, by=network.owner)
    db.session.refresh(sold)
    with pytest.raises(DomainError) as refused:
        do(network, sold, individual)
    assert (refused.value.code, refused.value.field) == ("company_differs", "plan")
    assert house_balance(AccountKind.SETTLEMENT, network.lesnoy) == 0


@pytest.mark.spec("C66")
def test_a_plan_of_another_city_is_neither_offered_nor_sold(network: Any, old: Any) -> None:
    theirs = make_plan(price=Decimal(9000), branches=[network.mira])
    assert theirs not in plans_to_recalculate_to(old, worth_of(old))
    with pytest.raises(DomainError) as refused:
        do(network, old, theirs)
    assert refused.value.code == "plan_elsewhere"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"lessons": None}, "unlimited"), ({"charge": ChargeMoment.PER_LESSON}, "per_lesson")],
)
def test_what_has_no_rest_is_not_recalculated(network: Any, client: Any, changes: Any, code: str) -> None:
    with pytest.raises(DomainError) as refused:
        check_recalculable(make_subscription(client, make_plan(**changes)))
    assert refused.value.code == code


def test_nothing_left_and_twice(network: Any, client: Any, old: Any, individual: Plan, group_type: Any) -> None:
    attend(client, group_type, 3)
    with pytest.raises(DomainError) as refused:
        do(network, old, individual)
    assert refused.value.code == "nothing_left"
    fresh = make_subscription(client)
    do(network, fresh, individual)
    with pytest.raises(Conflict):
        do(network, fresh, individual)


def test_a_frozen_one_is_recalculated_too(network: Any, client: Any, plan: Any, individual: Plan) -> None:
    old = make_subscription(client, plan)
    with transaction():
        freeze_subscription(old, from_on=clock.today(network.lesnoy), by=network.administrator)
    do(network, old, individual)
    assert (old.status, old.frozen_on) == (SubscriptionStatus.RETURNED, None)


@pytest.mark.parametrize(("received", "asked"), [("4500", None), ("4000.50", "499.50"), (None, "4500")])
def test_no_bill_asks_again_for_what_the_old_one_paid(
    network: Any, old: Any, individual: Plan, received: str | None, asked: str | None
) -> None:
    method = PaymentMethod.CARD if received else None
    done = do(network, old, individual, received=Decimal(received) if received else None, method=method)
    assert without_paid([done.sold]) == ([done.sold] if asked else [])
    assert sum_to_ask([done.sold]) == Decimal(asked or 0)


def test_what_was_received_is_told_with_the_new_subscription(network: Any, old: Any, individual: Plan) -> None:
    done = do(network, old, individual, received=Decimal(4500), method=PaymentMethod.CASH)
    kinds = [operation.transaction.kind for operation in operations_on(done.sold)]
    assert kinds == [TransactionKind.TOP_UP, TransactionKind.SALE]


def test_from_the_last_of_january(network: Any, old: Any) -> None:
    done = do(network, old, make_plan(price=Decimal(6000), duration_days=30), starts_on=date(2027, 1, 31))
    assert (done.sold.starts_on, done.sold.ends_on) == (date(2027, 1, 31), date(2027, 3, 1))


def test_figures_a_person_saw_must_still_be_true(
    network: Any, client: Any, old: Any, individual: Plan, group_type: Any
) -> None:
    seen = recalculation_of(old, individual).seen
    attend(client, group_type, 1)
    with pytest.raises(Conflict) as refused:
        do(network, old, individual, amount=Decimal(4500), seen=seen)
    assert refused.value.code == "figures_changed"


def test_of_two_at_once_one_wins(network: Any, client: Any, old: Any, individual: Plan, in_parallel: Any) -> None:
    old_id, plan_id = old.id, individual.id

    def one(_number: int) -> None:
        with transaction():
            recalculate(
                db.session.get_one(Subscription, old_id),
                db.session.get_one(Plan, plan_id),
                received=Decimal(4500),
                method=PaymentMethod.CASH,
                by=SYSTEM,
            )

    results = in_parallel(one, 4)
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, Conflict) for result in results)
    db.session.expire_all()
    assert base_of(client) == 0


# On SQLite one writes at a time.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_money_received_and_a_transfer_do_not_wait_in_a_circle(
    network: Any, client: Any, in_parallel: Any, monkeypatch: Any, dialect: str
) -> None:
    base = base_account(client.id, client.branch_id)
    make_payment(base, 1000)
    deposit = make_account(client, balance=4000)
    sold = make_subscription(client, account=deposit)
    plan = make_plan(price=Decimal(5000), lessons=10, account=PlanAccount.SEPARATE)
    ids = base.id, deposit.id, sold.id, plan.id
    held, charge = threading.Event(), recalculation.charge_sale

    def slowly(*args: Any, **kwargs: Any) -> Any:
        held.set()
        time.sleep(1)
        return charge(*args, **kwargs)

    monkeypatch.setattr(recalculation, "charge_sale", slowly)

    def work(index: int) -> None:
        with transaction():
            if index == 0:
                recalculate(
                    db.session.get_one(Subscription, ids[2]),
                    db.session.get_one(Plan, ids[3]),
                    received=Decimal(1000),
                    method=PaymentMethod.CASH,
                    by=SYSTEM,
                )
            else:
                held.wait(10)
                source, target = (db.session.get_one(Account, id) for id in ids[:2])
                transfer(source, target, amount=Decimal(10), by=SYSTEM)

    assert in_parallel(work, 2) == [None, None]
    db.session.expire_all()
    assert (base.balance, deposit.balance) == (990, 10)


@pytest.mark.spec("C58", "C135", "C136")
@pytest.mark.parametrize("role", ["manager", "instructor"])
def test_others_than_director_and_administrator_are_refused(
    network: Any, web: Any, old: Any, individual: Plan, role: str
) -> None:
    with pytest.raises(Forbidden):
        recalculate(old, individual, by=getattr(network, role))
    page = web(getattr(network, role), network.lesnoy)
    assert page.get(f"/admin/subscription/{old.id}/recalculate/").status_code == 403
    assert "Перерасчёт" not in page.get(f"/admin/subscription/details/?id={old.id}").text


@pytest.mark.spec("C57", "C58", "C59", "C60", "C62", "C68", "C135", "C136")
@pytest.mark.parametrize("role", ["administrator", "director"])
def test_on_the_screen(network: Any, web: Any, client: Any, old: Any, individual: Plan, role: str) -> None:
    make_plan(name="Слишком дешёвый", price=Decimal("1499.99"))
    page = web(getattr(network, role), network.lesnoy)
    card = page.get(f"/admin/subscription/details/?id={old.id}").text
    path = f"/admin/subscription/{old.id}/recalculate/"
    assert re.search(rf'href="{path}"[^>]*>[^<]*(<i[^>]*></i>)?\s*Перерасчёт', card)
    first = page.get(path).text
    assert "Пересчитать" in first
    assert "Индивидуальный" in first
    assert "Слишком дешёвый" not in first
    path += f"?plan={individual.id}"
    second = page.get(path).text
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", second.replace("\xa0", " ")))
    assert "4 000,00 / 8 × 3 = 1 500,00" in plain
    assert "6 000,00 − 1 500,00 = 4 500,00" in plain
    assert "Клиент должен доплатить" in plain
    assert "Получено от клиента" in plain
    # Without script: the sum is a button that puts it into the field.
    filled = page.post(path, data={**fields(second), "fill": "1"})
    assert filled.status_code == 200
    assert fields(filled.text)["received"] == "4500,00"
    assert base_of(client) == 0  # nothing done yet
    answer = page.post(path, data={**fields(filled.text), "method": "cash"})
    assert answer.status_code == 302
    db.session.expire_all()
    assert (base_of(client), old.status) == (0, SubscriptionStatus.RETURNED)


def test_a_sum_beyond_reason_is_refused_beside_its_field(network: Any, web: Any, old: Any, individual: Plan) -> None:
    page = web(network.administrator, network.lesnoy)
    answer = send(page, f"/admin/subscription/{old.id}/recalculate/?plan={individual.id}", amount="7000")
    assert answer.status_code == 422
    assert "от 2 000,00 до 6 000,00" in errors(answer.text)["amount"].replace("\xa0", " ")


def test_of_a_foreign_branch_it_is_not_found(network: Any, web: Any) -> None:
    sold = make_subscription(make_client(network.mira))
    page = web(network.director, network.lesnoy)
    assert page.get(f"/admin/subscription/{sold.id}/recalculate/").status_code == 404
    assert base_account(sold.client_id, network.mira.id).balance == -4000
