"""What a rule bills: periods, methods, accounts, ranges."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillMethod
from crm.db import db, transaction
from crm.mailings.billing import Planned, outlook
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    PeriodType,
    PeriodUnit,
    RunResult,
)
from crm.mailings.recipients import period_of
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.subscriptions.models import PlanAccount
from tests.factories import (
    make_bill,
    make_client,
    make_lesson,
    make_plan,
    make_rule,
    make_subject,
    make_subscription,
)

NOON = datetime(2027, 9, 1, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _september():
    with clock.frozen(NOON):
        yield


def run(rule):
    with transaction():
        planned = run_now(rule, by=SYSTEM)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    return {line.client_id: line for line in planned.lines}


def bills():
    return list(db.session.scalars(select(Bill).order_by(Bill.id)))


@pytest.mark.spec("B74", "B75", "B76", "W3", "X16")
@pytest.mark.parametrize(
    ("unit", "kind", "day", "period"),
    [
        (PeriodUnit.MONTH, PeriodType.CURRENT, (9, 1), ((9, 1), (9, 30))),
        (PeriodUnit.MONTH, PeriodType.NEXT, (9, 1), ((9, 1), (10, 31))),
        (PeriodUnit.WEEK, PeriodType.CURRENT, (9, 1), ((8, 30), (9, 5))),
        (PeriodUnit.WEEK, PeriodType.NEXT, (9, 5), ((8, 30), (9, 12))),
        (PeriodUnit.DAY, PeriodType.CURRENT, (9, 1), ((9, 1), (9, 1))),
        (PeriodUnit.DAY, PeriodType.NEXT, (9, 30), ((9, 30), (10, 1))),
    ],
)
def test_periods(network, unit, kind, day, period):
    rule = make_rule(network.lesnoy, period=unit, period_type=kind)
    assert period_of(rule, date(2027, *day)) == tuple(date(2027, *end) for end in period)


@pytest.mark.spec("B64", "B65")
@pytest.mark.parametrize(("kind", "total"), [(PeriodType.CURRENT, 700), (PeriodType.NEXT, 1400)])
def test_by_the_forecast_of_the_period(network, kind, total):
    payer = make_client(network.lesnoy)
    for days in (5, 40, 70):
        make_lesson(network.lesnoy, payer, starts_at=NOON + timedelta(days=days))
    run(make_rule(network.lesnoy, method=BillingMethod.FORECAST, accounts=BilledAccounts.BASE, period_type=kind))
    (bill,) = bills()
    assert (bill.amount, bill.method, bill.period_from) == (total, BillMethod.FORECAST, date(2027, 9, 1))


@pytest.mark.spec("B68", "B69", "B70")
@pytest.mark.parametrize(
    ("accounts", "sums"),
    [
        (BilledAccounts.BASE, [300]),
        (BilledAccounts.SUBSCRIPTION, [100, 200, 400]),
        (BilledAccounts.ALL, [300, 400]),
    ],
)
def test_accounts(network, accounts, sums):
    payer = make_client(network.lesnoy)
    for price, account in ((100, PlanAccount.BASE), (200, PlanAccount.BASE), (400, PlanAccount.SEPARATE)):
        make_subscription(payer, make_plan(price=Decimal(price), account=account))
    run(make_rule(network.lesnoy, accounts=accounts))
    assert [bill.amount for bill in bills()] == sums


@pytest.mark.spec("B91")
def test_of_one_subject(network):
    wanted, other = make_subject(), make_subject()
    payer = make_client(network.lesnoy)
    own = make_subscription(payer, make_plan(subjects=[wanted]))
    make_subscription(payer, make_plan(subjects=[other]))
    run(make_rule(network.lesnoy, accounts=BilledAccounts.SUBSCRIPTION, subject_id=wanted.id))
    assert [bill.subscriptions for bill in bills()] == [[own]]


@pytest.mark.spec("B93", "X9")
@pytest.mark.parametrize(("left", "is_billed"), [(1, True), (3, True), (4, False)])
def test_lessons_left_within_the_range(network, left, is_billed):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(lessons=left))
    line = run(make_rule(network.lesnoy, lessons_from=1, lessons_to=3))[payer.id]
    assert (line.result is RunResult.ISSUED) == is_billed


@pytest.mark.spec("B94", "B95")
@pytest.mark.parametrize(
    ("balance", "low", "high", "is_billed"),
    [
        ("99.99", 100, 500, False),
        ("100.00", 100, 500, True),
        ("500.00", 100, 500, True),
        ("500.01", 100, 500, False),
        ("500.01", 100, None, True),
        ("99.99", None, 500, True),
    ],
)
def test_money_left_within_the_range(network, balance, low, high, is_billed):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(1000)))
    from crm.ledger.operations import base_account
    from tests.factories import make_payment

    make_payment(base_account(payer.id, network.lesnoy.id), Decimal(balance) + 1000)
    line = run(make_rule(network.lesnoy, money_from=low, money_to=high))[payer.id]
    assert (line.result is RunResult.ISSUED) == is_billed


@pytest.mark.spec("B98", "B99", "W8")
@pytest.mark.parametrize("again", [False, True])
def test_an_earlier_unpaid_bill(network, again):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    earlier = make_bill(payer)
    line = run(make_rule(network.lesnoy, issues_again=again))[payer.id]
    assert line.result is (RunResult.ISSUED if again else RunResult.SKIPPED)
    assert (earlier.title in line.reason) is not again


def test_a_look_writes_nothing(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(500)))
    (view,) = outlook(Planned.at(make_rule(network.lesnoy), clock.now()), [payer.id])
    assert [(part.draft.amount, part.reason) for part in view.parts] == [(500, "")]
    assert bills() == []
