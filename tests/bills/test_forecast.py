"""The payment forecast: what is to be paid for the lessons planned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import Scope, scoped_to
from crm.bills.forecast import Forecast, forecast_of
from crm.bills.models import BillLineKind
from crm.clients.models import Client
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post
from crm.payments.models import PaymentMethod
from crm.schedule.enrolment import enrol
from crm.schedule.lessons import cancel_lesson
from crm.schedule.models import Attendance, Lesson, Mark
from crm.schedule.trials import plan_trial
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import ChargeMoment, PlanAccount, Subscription
from crm.subscriptions.operations import account_of
from tests.factories import (
    make_account,
    make_child,
    make_client,
    make_group,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 1, 20, 9, tzinfo=UTC)  # noon in Moscow
TODAY = date(2027, 1, 20)
UNTIL = date(2027, 1, 31)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


@pytest.fixture
def kind(network: Any) -> Any:
    return make_lesson_type(name="Танцы", single_price=Decimal(500))


def base_of(client: Client) -> Account:
    with transaction():
        return base_account(client.id, client.branch_id)


def foreseen(account: Account, until: date = UNTIL) -> Forecast:
    return forecast_of([account], period_to=until)[account.id]


def lessons(
    branch: Branch, kind: Any, *students: Client, days: tuple[int, ...] = (0, 1, 2, 3), **changes: Any
) -> list[Lesson]:
    """A lesson an hour from now, so many days ahead."""
    return [
        make_lesson(branch, *students, lesson_type=kind, starts_at=NOON + timedelta(days=n, hours=1), **changes)
        for n in days
    ]


def charge(account: Account, amount: int) -> None:
    """A debt, as of something taken before."""
    revenue = house_account(AccountKind.REVENUE, account.branch_id)
    with transaction():
        lines = [Line(account, Decimal(-amount)), Line(revenue, Decimal(amount))]
        post(TransactionKind.DEBT, lines, branch_id=account.branch_id, by=SYSTEM)


def amounts(found: Forecast) -> list[Decimal]:
    return [line.amount for line in found.lines]


# --- W1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("W1", "B13")
def test_the_bill_is_what_the_lessons_take_less_the_balance(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client)
    make_payment(base_of(client), 50)
    found = foreseen(base_of(client))
    assert found.total == Decimal("1950.00")
    assert amounts(found) == [500, 500, 500, 500, -50]
    assert found.lines[-1].kind is BillLineKind.BALANCE
    assert sum(amounts(found)) == found.total
    assert [line.day for line in found.lines[:-1]] == [TODAY + timedelta(days=n) for n in range(4)]


@pytest.mark.spec("W1")
def test_a_debt_is_asked_for_too(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client)
    charge(base_of(client), 300)
    found = foreseen(base_of(client))
    assert found.total == Decimal("2300.00")
    assert amounts(found)[-1] == 300


@pytest.mark.spec("W1")
def test_a_balance_that_covers_it_leaves_nothing_to_pay_and_says_why(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client)
    make_payment(base_of(client), 2500)
    found = foreseen(base_of(client))
    assert found.total == 0
    told = found.reason.replace("\xa0", "")
    assert ["31.01.2027" in told, "2500" in told, "2000" in told] == [True, False, False]


def test_nothing_planned_is_nothing_to_pay(network: Any) -> None:
    found = foreseen(base_of(make_client(network.lesnoy)))
    assert (found.total, found.lines) == (0, ())
    assert "31.01.2027" in found.reason


def test_without_lessons_a_debt_is_still_to_be_paid(network: Any) -> None:
    account = base_of(make_client(network.lesnoy))
    charge(account, 300)
    assert (foreseen(account).total, foreseen(account).reason) == (300, "")


# --- which lessons ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("B13")
def test_only_lessons_still_to_be_marked_count(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    _planned, canceled, off = lessons(network.lesnoy, kind, client, days=(1, 2, 3))
    with transaction():
        cancel_lesson(canceled, by=SYSTEM)
        off.attendances[0].mark = Mark.EXCUSED
    assert amounts(foreseen(base_of(client))) == [500]


@pytest.mark.spec("B22")
def test_from_today_until_the_last_day_both_included(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client, days=(-1, 11, 12))
    # Half past midnight in Moscow is still the day before in UTC.
    make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=datetime(2027, 1, 19, 21, 30, tzinfo=UTC))
    make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=datetime(2027, 1, 19, 20, 30, tzinfo=UTC))
    make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=datetime(2027, 1, 31, 20, 30, tzinfo=UTC))
    make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=datetime(2027, 1, 31, 21, 30, tzinfo=UTC))
    assert [line.day for line in foreseen(base_of(client)).lines] == [TODAY, UNTIL, UNTIL]


@pytest.mark.spec("B22")
def test_today_is_the_day_of_the_branch(network: Any, kind: Any) -> None:
    moscow, samara = make_client(network.lesnoy), make_client(network.mira)
    # 23:30 of the 20th in Moscow, half past midnight of the 21st in Samara.
    at = datetime(2027, 1, 20, 20, 30, tzinfo=UTC)
    for client in (moscow, samara):
        for moment in (at - timedelta(hours=1), at):
            branch = db.session.get_one(Branch, client.branch_id)
            make_lesson(branch, client, lesson_type=kind, starts_at=moment)
    accounts = [base_of(moscow), base_of(samara)]
    with clock.frozen(at):
        found = forecast_of(accounts, period_to=UNTIL)
    assert [[line.day for line in found[one.id].lines] for one in accounts] == [
        [TODAY, TODAY],
        [TODAY + timedelta(days=1)],
    ]


# --- what covers them -------------------------------------------------------------------------------------------------


@pytest.mark.spec("X19")
def test_lessons_left_of_what_was_paid_at_the_sale_cost_nothing(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(name="Две встречи", price=Decimal(900), lessons=2)
    make_payment(base_of(client), 900)
    make_subscription(client, plan)
    lessons(network.lesnoy, kind, client)
    found = foreseen(base_of(client))
    assert amounts(found) == [0, 0, 500, 500]
    assert "Две встречи" in found.lines[0].note
    assert found.total == 1000


@pytest.mark.spec("X19", "B13")
def test_lesson_by_lesson_each_takes_its_part_to_the_kopeck(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(price=Decimal(1000), lessons=3, charge=ChargeMoment.PER_LESSON)
    make_subscription(client, plan)
    lessons(network.lesnoy, kind, client)
    found = foreseen(base_of(client))
    assert amounts(found) == [Decimal("333.33"), Decimal("333.34"), Decimal("333.33"), 500]


@pytest.mark.spec("B13")
def test_the_discount_is_off_each_part(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(price=Decimal(264), lessons=8, charge=ChargeMoment.PER_LESSON)
    make_subscription(client, plan, discount=Decimal(24))
    lessons(network.lesnoy, kind, client, days=(0, 1))
    assert amounts(foreseen(base_of(client))) == [30, 30]


@pytest.mark.spec("B13", "B18")
def test_a_subscription_with_its_own_account_takes_from_that(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(price=Decimal(264), lessons=2, charge=ChargeMoment.PER_LESSON, account=PlanAccount.SEPARATE)
    subscription = make_subscription(client, plan)
    lessons(network.lesnoy, kind, client)
    with transaction():
        own = account_of(subscription, client)
    found = forecast_of([own, base_of(client)], period_to=UNTIL)
    assert amounts(found[own.id]) == [132, 132]
    assert amounts(found[base_of(client).id]) == [500, 500]


def test_a_subscription_that_ends_amid_the_period_covers_its_days(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    make_payment(base_of(client), 4000)
    make_subscription(client, make_plan(duration_days=2))
    lessons(network.lesnoy, kind, client)
    assert amounts(foreseen(base_of(client))) == [0, 0, 500, 500]


@pytest.mark.spec("B13")
def test_a_freeze_amid_the_period_moves_the_end(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    make_payment(base_of(client), 4000)
    subscription = make_subscription(client, make_plan(duration_days=3))  # until the 22nd
    day = timedelta(days=1)
    with transaction():
        freeze_subscription(subscription, from_on=TODAY + day, until_on=TODAY + 2 * day, by=SYSTEM)
    lessons(network.lesnoy, kind, client, days=(0, 1, 2, 3, 4, 5))
    # Rests on the 21st and 22nd, and so is good until the 24th.
    assert amounts(foreseen(base_of(client))) == [0, 500, 500, 0, 0, 500]


def test_a_freeze_without_an_end_covers_nothing(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    make_payment(base_of(client), 4000)
    subscription = make_subscription(client)
    with transaction():
        freeze_subscription(subscription, from_on=TODAY, by=SYSTEM)
    lessons(network.lesnoy, kind, client)
    assert amounts(foreseen(base_of(client))) == [500] * 4


def test_lessons_added_apart_come_after_subscriptions(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    make_payment(base_of(client), 900)
    make_subscription(client, make_plan(price=Decimal(900), lessons=1))
    with transaction():
        extra = lessons_account(client.id, client.branch_id, kind.id)
        granted = house_account(AccountKind.SERVICE, client.branch_id, Unit.LESSON)
        lines = [Line(extra, Decimal(1)), Line(granted, Decimal(-1))]
        post(TransactionKind.GRANT, lines, branch_id=client.branch_id, by=SYSTEM)
    lessons(network.lesnoy, kind, client)
    found = foreseen(base_of(client))
    assert amounts(found) == [0, 0, 500, 500]
    assert found.lines[0].note != found.lines[1].note


@pytest.mark.spec("B13")
def test_all_whom_the_payer_pays_for_are_on_his_bill(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy, name="Анна Ёлкина")
    children = [make_child(payer, name=name) for name in ("Пётр", "Фёкла")]
    lessons(network.lesnoy, kind, *children, days=(1, 2))
    found = foreseen(base_of(payer))
    assert found.total == 2000
    assert [line.student for line in found.lines] == ["Пётр", "Фёкла", "Пётр", "Фёкла"]
    assert {line.title for line in found.lines} == {"Танцы"}


def test_lessons_in_another_branch_are_on_the_account_there(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    with transaction():
        child.branch_id = network.rechnoy.id
        there = base_account(payer.id, network.rechnoy.id)
    lessons(network.lesnoy, kind, payer, days=(1,))
    lessons(network.rechnoy, kind, child, days=(1, 2))
    found = forecast_of([base_of(payer), there], period_to=UNTIL)
    assert (found[base_of(payer).id].total, found[there.id].total) == (500, 1000)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert foreseen(base_of(payer)).total == 500


def test_the_trial_lesson_is_free(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    trial, other = lessons(network.lesnoy, kind, days=(1, 2))
    with transaction():
        plan_trial(child, trial, by=SYSTEM)
        enrol(other, child, by=SYSTEM)
    assert amounts(foreseen(base_of(payer))) == [0, 500]


def test_the_first_visit_of_a_new_member_is_free(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    children = [make_child(payer) for _ in range(2)]
    group = make_group(network.lesnoy, lesson_type=kind)
    for lesson in lessons(network.lesnoy, kind, days=(1, 2), group_id=group.id):
        with transaction():
            for child in children:
                enrol(lesson, child, by=SYSTEM, by_group=True)
    assert amounts(foreseen(base_of(payer))) == [0, 500, 500, 500]


def test_a_deposit_has_no_forecast(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client)
    deposit = make_account(client, balance=100, method=PaymentMethod.CASH)
    found = foreseen(deposit)
    assert (found.total, bool(found.reason)) == (0, True)


def test_as_many_statements_for_many_accounts_as_for_one(network: Any, kind: Any, statements: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(6)]
    for client in clients:
        make_subscription(client, make_plan(lessons=2, charge=ChargeMoment.PER_LESSON))
    lessons(network.lesnoy, kind, *clients)
    ids = [base_of(client).id for client in clients]
    counts = []
    for few in (ids[:1], ids):
        asked = list(db.session.scalars(select(Account).where(Account.id.in_(few))))
        with statements() as sent:
            found = forecast_of(asked, period_to=UNTIL)
        assert {one.total for one in found.values()} == {Decimal(5000)}
        counts.append(len(sent))
    assert counts[0] == counts[1]


def test_looking_changes_nothing(network: Any, kind: Any, statements: Any) -> None:
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client)
    account = base_of(client)
    with statements() as sent:
        foreseen(account)
    assert not [one for one in sent if one.split()[0] in {"INSERT", "UPDATE", "DELETE"}]


def test_rows_used_here_are_those_of_the_database(network: Any, kind: Any) -> None:
    """What the session holds of a balance is not believed."""
    client = make_client(network.lesnoy)
    lessons(network.lesnoy, kind, client, days=(1,))
    account = base_of(client)
    assert account.balance == 0
    make_payment(account, 100)
    assert foreseen(account).total == 400
    assert db.session.query(Attendance).count() == 1
    assert db.session.query(Subscription).count() == 0
