"""Issuing by the three methods: what is found, what is fixed, what is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.issuing import accounts_to_bill, draft_bill, issue_draft
from crm.bills.models import Bill, BillLineKind, BillMethod
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account, AccountKind
from crm.ledger.operations import base_account
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.sales.canceling import cancel_sale
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Attendance, Lesson, Mark
from crm.subscriptions.coverage import lock_coverage
from crm.subscriptions.models import ChargeMoment, PlanAccount
from tests.factories import (
    make_account,
    make_child,
    make_client,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 1, 31, 9, tzinfo=UTC)
TODAY = date(2027, 1, 31)
UNTIL = date(2027, 2, 28)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


@contextlib.contextmanager
def refused(code: str, field: str) -> Iterator[list[DomainError]]:
    caught: list[DomainError] = []
    with pytest.raises(DomainError) as error:
        yield caught
    caught.append(error.value)
    assert (error.value.code, error.value.field) == (code, field)


@pytest.fixture
def client(network: Any) -> Client:
    """Four lessons of 500 to come."""
    client = make_client(network.lesnoy, name="Анна Ёлкина")
    kind = make_lesson_type(single_price=Decimal(500))
    for n in range(4):
        make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=NOON + timedelta(days=n, hours=1))
    return client


def issued(client: Client, *, by: Any = SYSTEM, **facts: Any) -> Bill:
    with transaction():
        return issue_draft(client, by=by, **{"method": BillMethod.FORECAST, "period_to": UNTIL, **facts})


def bills() -> int:
    return db.session.scalar(select(func.count()).select_from(Bill)) or 0


# --- by the forecast --------------------------------------------------------------------------------------------------


@pytest.mark.spec("B10", "B13", "B22", "W1")
def test_the_bill_keeps_how_its_sum_was_found(network: Any, client: Client) -> None:
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 50)
    bill = issued(client)
    assert (bill.amount, bill.method) == (Decimal("1950.00"), BillMethod.FORECAST)
    assert (bill.period_from, bill.period_to) == (TODAY, UNTIL)
    assert [line.amount for line in bill.lines] == [500, 500, 500, 500, -50]
    assert [line.position for line in bill.lines] == [0, 1, 2, 3, 4]
    assert sum(line.amount for line in bill.lines) == bill.amount


@pytest.mark.spec("B14")
def test_the_sum_is_nobodys_to_choose(network: Any, client: Client) -> None:
    with refused("forecast_changed", "amount") as told:
        issued(client, amount=Decimal(1))
    assert "2000,00" in str(told[0]).replace("\xa0", "")
    assert bills() == 0
    assert issued(client, amount=Decimal(2000)).amount == 2000


@pytest.mark.spec("B21")
def test_neither_is_its_beginning(network: Any, client: Client) -> None:
    for day in (TODAY - timedelta(days=1), TODAY + timedelta(days=1)):
        with refused("period_from_fixed", "period_from"):
            issued(client, period_from=day)
    assert issued(client, period_from=TODAY).period_from == TODAY


@pytest.mark.spec("B14")
def test_a_form_left_open_issues_no_stale_sum(network: Any, client: Client) -> None:
    shown = draft_bill(client, branch=network.lesnoy, method=BillMethod.FORECAST, period_to=UNTIL)
    assert shown.amount == 2000
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 300)
    with refused("forecast_changed", "amount") as told:
        issued(client, amount=shown.amount, period_from=shown.period_from)
    assert "1700,00" in str(told[0]).replace("\xa0", "")


@pytest.mark.spec("B22")
def test_a_form_left_open_over_midnight_begins_no_earlier(network: Any, client: Client) -> None:
    with clock.frozen(datetime(2027, 1, 31, 20, 59, tzinfo=UTC)):
        shown = draft_bill(client, branch=network.lesnoy, method=BillMethod.FORECAST, period_to=UNTIL)
    assert shown.period_from == TODAY
    with clock.frozen(datetime(2027, 1, 31, 21, 1, tzinfo=UTC)), refused("period_from_fixed", "period_from"):
        issued(client, amount=shown.amount, period_from=shown.period_from)


@pytest.mark.spec("W1")
def test_nothing_to_pay_is_no_bill_and_the_reason(network: Any, client: Client) -> None:
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 2500)
    with refused("nothing_to_pay", "amount") as told:
        issued(client)
    assert "хватает на занятия до" in str(told[0])
    assert bills() == 0


def test_a_period_that_is_over_is_refused(network: Any, client: Client) -> None:
    with refused("period_invalid", "period_to"):
        issued(client, period_to=TODAY - timedelta(days=1))


def test_without_an_end_it_is_the_end_of_the_month(network: Any, client: Client) -> None:
    draft = draft_bill(client, branch=network.lesnoy, method=BillMethod.FORECAST)
    assert (draft.period_from, draft.period_to, draft.amount) == (TODAY, TODAY, 500)


@pytest.mark.spec("B17", "B18", "B19")
def test_for_the_account_of_a_subscription(network: Any, client: Client) -> None:
    plan = make_plan(price=Decimal(264), lessons=8, charge=ChargeMoment.PER_LESSON, account=PlanAccount.SEPARATE)
    make_subscription(client, plan)
    with transaction():
        base_account(client.id, client.branch_id)
    base, own = accounts_to_bill(client, network.lesnoy)
    bill = issued(client, account=own)
    assert (bill.account_id, bill.amount) == (own.id, 4 * 33)
    with transaction():
        top_up(bill.account, amount=bill.amount, method=PaymentMethod.CASH, bill=bill, by=SYSTEM)
    assert db.session.get_one(Account, own.id).balance == 132
    assert db.session.get_one(Account, base.id).balance == 0


def test_only_those_who_may_issue_bills(network: Any, client: Client) -> None:
    with pytest.raises(Forbidden):
        issued(client, by=network.manager)


def test_for_a_child_it_goes_to_the_payer(network: Any, client: Client) -> None:
    assert issued(make_child(client)).client_id == client.id


def test_looking_makes_no_account(network: Any, client: Client) -> None:
    draft = draft_bill(client, branch=network.lesnoy, method=BillMethod.FORECAST, period_to=UNTIL)
    db.session.commit()
    assert draft.amount == 2000
    assert db.session.scalar(select(func.count()).select_from(Account).where(Account.client_id == client.id)) == 0


def test_marking_and_issuing_at_the_same_moment_agree(network: Any, client: Client, in_parallel: Any) -> None:
    """Today's lesson is marked meanwhile: it is billed, or off the balance; never both, never neither."""
    attended = select(Attendance.lesson_id).where(Attendance.client_id == client.id).order_by(Attendance.lesson_id)
    lesson_id = db.session.scalars(attended).first()
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 100)
    client_id = client.id

    def act(index: int) -> Decimal | None:
        if index % 2:
            return issued(db.session.get_one(Client, client_id)).amount
        with transaction():
            lesson = db.session.get_one(Lesson, lesson_id)
            mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=SYSTEM)
        return None

    assert in_parallel(act, 4) == [None, Decimal(1900)] * 2


# On SQLite one writes at a time.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_marking_and_the_first_bill_do_not_wait_in_a_circle(
    network: Any, client: Client, app: Any, dialect: str
) -> None:
    """The payer has no base account yet: it is made by who holds what lessons are written off from."""
    make_subscription(client, make_plan(account=PlanAccount.SEPARATE, lesson_types=[make_lesson_type()]))
    attended = select(Attendance.lesson_id).where(Attendance.client_id == client.id).order_by(Attendance.lesson_id)
    lesson, client_id = db.session.get_one(Lesson, db.session.scalars(attended).first()), client.id
    found = list[Decimal | Exception]()

    def bill() -> None:
        with app.app_context(), scoped_to(EVERYWHERE), clock.frozen(NOON):
            try:
                found.append(issued(db.session.get_one(Client, client_id)).amount)
            except Exception as error:
                found.append(error)

    with transaction():
        lock_coverage({client_id: client_id})  # as marking begins
        billing = threading.Thread(target=bill)
        billing.start()
        billing.join(1)
        assert billing.is_alive()
        mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=SYSTEM)
    billing.join(30)
    assert found == [2000]


# --- by the cost of subscriptions -------------------------------------------------------------------------------------


@pytest.mark.spec("B11", "B15", "W2")
def test_the_cost_is_asked_for_whatever_the_balance(network: Any, client: Client) -> None:
    subscription = make_subscription(client, make_plan(name="8 встреч", price=Decimal(4000)))
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 9000)
    bill = issued(client, method=BillMethod.SUBSCRIPTION, period_to=None)
    assert bill.amount == Decimal("4000.00")
    assert bill.subscriptions == [subscription]
    assert (bill.period_from, bill.period_to) == (subscription.starts_on, subscription.ends_on)
    assert [(line.kind, line.title, line.amount) for line in bill.lines] == [
        (BillLineKind.SUBSCRIPTION, "8 встреч", Decimal(4000))
    ]


@pytest.mark.spec("B15")
def test_the_cost_is_less_the_discount(network: Any, client: Client) -> None:
    make_subscription(client, make_plan(price=Decimal(4000)), discount=Decimal("500.50"))
    draft = draft_bill(client, branch=network.lesnoy, method=BillMethod.SUBSCRIPTION)
    assert draft.amount == Decimal("3499.50")


@pytest.mark.spec("B17", "W2")
def test_which_subscriptions_may_be_chosen(network: Any, client: Client) -> None:
    child = make_child(client)
    first, second = make_subscription(client), make_subscription(child, make_plan(price=Decimal(700)))
    both = draft_bill(client, branch=network.lesnoy, method=BillMethod.SUBSCRIPTION)
    assert both.subscriptions == (first, second)
    assert both.amount == 4700
    bill = issued(client, method=BillMethod.SUBSCRIPTION, subscriptions=[second])
    assert (bill.amount, bill.subscriptions) == (700, [second])


def test_the_sum_by_subscriptions_may_be_typed_over(network: Any, client: Client) -> None:
    make_subscription(client)
    bill = issued(client, method=BillMethod.SUBSCRIPTION, amount=Decimal(1000))
    assert (bill.amount, bill.lines) == (1000, [])


def test_what_another_family_bought_is_not_asked_for(network: Any, client: Client) -> None:
    strangers = make_subscription(make_client(network.lesnoy))
    with refused("subscription_foreign", "subscriptions"):
        issued(client, method=BillMethod.SUBSCRIPTION, subscriptions=[strangers])


def test_neither_is_what_was_sold_by_mistake(network: Any, client: Client) -> None:
    sold = make_subscription(client)
    with transaction():
        cancel_sale(sold, comment="ошибка", by=SYSTEM)
    with refused("subscription_foreign", "subscriptions"):
        issued(client, method=BillMethod.SUBSCRIPTION, subscriptions=[sold])
    with refused("nothing_to_pay", "amount"):
        issued(client, method=BillMethod.SUBSCRIPTION)


def test_the_account_of_a_subscription_asks_for_that_one(network: Any, client: Client) -> None:
    make_subscription(client)
    apart = make_subscription(client, make_plan(price=Decimal(900), account=PlanAccount.SEPARATE))
    _base, own = accounts_to_bill(client, network.lesnoy)
    draft = draft_bill(client, branch=network.lesnoy, method=BillMethod.SUBSCRIPTION, account=own)
    assert (draft.subscriptions, draft.amount) == ((apart,), 900)


# --- by hand, and the accounts ----------------------------------------------------------------------------------------


@pytest.mark.spec("B9", "B12")
def test_by_hand_any_sum_and_any_period(network: Any, client: Client) -> None:
    days = {"period_from": date(2026, 5, 1), "period_to": date(2026, 5, 31)}
    bill = issued(client, method=BillMethod.MANUAL, amount=Decimal("12.34"), **days)
    assert (bill.amount, bill.period_from, bill.period_to, bill.lines) == (Decimal("12.34"), *days.values(), [])
    with refused("required", "amount"):
        issued(client, method=BillMethod.MANUAL)


@pytest.mark.spec("B17", "B18")
def test_the_accounts_a_bill_may_be_for(network: Any, client: Client) -> None:
    (base,) = accounts_to_bill(client, network.lesnoy)
    assert (base.kind, base.id) == (AccountKind.BASE, None)
    deposit = make_account(client)
    child = make_child(client)
    apart = make_subscription(child, make_plan(name="Рисование", account=PlanAccount.SEPARATE))
    make_subscription(client)
    found = accounts_to_bill(client, network.lesnoy)
    assert [one.kind for one in found] == [AccountKind.BASE, AccountKind.SUBSCRIPTION, AccountKind.DEPOSIT]
    assert (found[1].title, found[2]) == (str(apart), deposit)
    assert found[1].title.startswith("Рисование")
    assert [one.kind for one in accounts_to_bill(client, network.rechnoy)] == [AccountKind.BASE]


def test_another_clients_account_is_refused(network: Any, client: Client) -> None:
    with refused("account_foreign", "account"):
        issued(client, account=make_account(make_client(network.lesnoy)))
