"""What a rule bills: periods, methods, accounts, ranges."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.bills.models import Bill, BillMethod
from crm.bills.operations import archive_bill, check_payable
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.operations import base_account
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
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Mark
from crm.subscriptions.models import PlanAccount
from tests.bank import bank  # noqa: F401
from tests.factories import (
    make_bill,
    make_client,
    make_lesson,
    make_lesson_type,
    make_payment,
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


@pytest.mark.spec("B72", "B73", "B74", "B75", "B76", "W3", "X16")
@pytest.mark.parametrize(
    ("unit", "kind", "day", "period"),
    [
        (PeriodUnit.MONTH, PeriodType.CURRENT, (9, 1), ((9, 1), (9, 30))),
        (PeriodUnit.MONTH, PeriodType.NEXT, (9, 1), ((9, 1), (10, 31))),
        (PeriodUnit.WEEK, PeriodType.CURRENT, (9, 1), ((8, 30), (9, 5))),
        (PeriodUnit.WEEK, PeriodType.NEXT, (9, 5), ((8, 30), (9, 12))),
        (PeriodUnit.DAY, PeriodType.CURRENT, (9, 1), ((9, 1), (9, 1))),
        (PeriodUnit.DAY, PeriodType.NEXT, (9, 30), ((9, 30), (10, 1))),
        (PeriodUnit.MONTH, PeriodType.CURRENT, (2, 28), ((2, 1), (2, 28))),
        (PeriodUnit.MONTH, PeriodType.NEXT, (1, 31), ((1, 1), (2, 28))),
    ],
)
def test_periods(network, unit, kind, day, period):
    rule = make_rule(network.lesnoy, period=unit, period_type=kind)
    assert period_of(rule, date(2027, *day)) == tuple(date(2027, *end) for end in period)


@pytest.mark.parametrize(
    ("kind", "day", "last"),
    [
        (PeriodType.CURRENT, date(2028, 2, 1), date(2028, 2, 29)),
        (PeriodType.NEXT, date(2028, 1, 31), date(2028, 2, 29)),
        (PeriodType.NEXT, date(2027, 12, 31), date(2028, 1, 31)),
    ],
)
def test_months_of_leap_years_and_over_the_new_year(network, kind, day, last):
    rule = make_rule(network.lesnoy, period=PeriodUnit.MONTH, period_type=kind)
    assert period_of(rule, day) == (day.replace(day=1), last)


@pytest.mark.spec("B72", "B73", "B74", "B75", "W3")
@pytest.mark.parametrize(
    ("unit", "kind", "last", "billed"),
    [
        (PeriodUnit.MONTH, PeriodType.CURRENT, (9, 30), [1, 2]),
        (PeriodUnit.MONTH, PeriodType.NEXT, (10, 31), [1, 2, 4]),
        (PeriodUnit.WEEK, PeriodType.CURRENT, (9, 5), [1]),
        (PeriodUnit.WEEK, PeriodType.NEXT, (9, 12), [1, 2]),
        (PeriodUnit.DAY, PeriodType.CURRENT, (9, 1), [1]),
    ],
)
def test_what_begins_in_the_period_is_billed_for_it(network, unit, kind, last, billed):
    """Subscriptions from 1.09, 10.09, 1.10 and 1.11, of 1, 2, 4 and 8 roubles."""
    payer = make_client(network.lesnoy)
    for price, day in ((1, (9, 1)), (2, (9, 10)), (4, (10, 1)), (8, (11, 1))):
        make_subscription(payer, make_plan(price=Decimal(price)), starts_on=date(2027, *day))
    run(make_rule(network.lesnoy, period=unit, period_type=kind, accounts=BilledAccounts.BASE))
    (bill,) = bills()
    assert (bill.amount, bill.period_to) == (sum(billed), date(2027, *last))


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


@pytest.mark.spec("B92")
def test_of_one_type_of_lessons(network):
    """One that is good for any type of lessons is good for that of the rule."""
    wanted, other = make_lesson_type(), make_lesson_type()
    payer = make_client(network.lesnoy)
    own, any_type = (
        make_subscription(payer, make_plan(lesson_types=[wanted])),
        make_subscription(payer, make_plan()),
    )
    make_subscription(payer, make_plan(lesson_types=[other]))
    run(make_rule(network.lesnoy, accounts=BilledAccounts.SUBSCRIPTION, lesson_type_id=wanted.id))
    assert [bill.subscriptions for bill in bills()] == [[own], [any_type]]


def attend(client, times):
    """The client has been to so many lessons of an hour ago."""
    for _ in range(times):
        lesson = make_lesson(branch_of(client), client, starts_at=NOON - timedelta(hours=1))
        with transaction():
            mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=SYSTEM)


def branch_of(client):
    return db.session.get_one(Branch, client.branch_id)


@pytest.mark.spec("B93", "B95")
@pytest.mark.parametrize(
    ("left", "low", "high", "is_billed"),
    [
        (0, 1, 3, False),
        (1, 1, 3, True),
        (2, 1, 3, True),
        (3, 1, 3, True),
        (4, 1, 3, False),
        (4, 1, None, True),
        (0, None, 3, True),
        (4, None, 3, False),
    ],
)
def test_lessons_left_within_the_range(network, left, low, high, is_billed):
    """0 of 2: used up."""
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(lessons=left or 2))
    attend(payer, 0 if left else 2)
    line = run(make_rule(network.lesnoy, lessons_from=low, lessons_to=high))[payer.id]
    assert (line.result is RunResult.ISSUED) == is_billed
    assert bool(line.reason) is not is_billed
    assert not any(letter.isdigit() for letter in line.reason), "not everybody sees how many are left"


@pytest.mark.spec("B93", "X9")
def test_lessons_are_counted_for_each_account_billed(network):
    """On the base account 2 and 2 together, each of its own on the others: 1 and 5 of 1 to 4."""
    payer = make_client(network.lesnoy)
    on_base = [make_subscription(payer, make_plan(lessons=2)) for _ in range(2)]
    own, _too_many = (
        make_subscription(payer, make_plan(lessons=count, account=PlanAccount.SEPARATE)) for count in (1, 5)
    )
    run(make_rule(network.lesnoy, accounts=BilledAccounts.ALL, lessons_from=1, lessons_to=4))
    assert [bill.subscriptions for bill in bills()] == [on_base, [own]]
    by_subscription = make_rule(network.lesnoy, accounts=BilledAccounts.SUBSCRIPTION, issues_again=True, lessons_to=2)
    with clock.frozen(NOON + timedelta(minutes=1)):
        run(by_subscription)
    assert [bill.subscriptions for bill in bills()[2:]] == [[one] for one in (*on_base, own)]


@pytest.mark.spec("B94", "X9")
def test_money_is_that_of_the_account_billed(network):
    """The base account holds 50, that of the subscription owes its 700."""
    payer = make_client(network.lesnoy)
    make_payment(base_account(payer.id, network.lesnoy.id), 350)
    make_subscription(payer, make_plan(price=Decimal(300)))
    own = make_subscription(payer, make_plan(price=Decimal(700), account=PlanAccount.SEPARATE))
    line = run(make_rule(network.lesnoy, money_to=-1))[payer.id]
    assert [bill.subscriptions for bill in bills()] == [[own]]
    assert line.reason
    assert not any(letter.isdigit() for letter in line.reason), "not everybody sees balances"


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
    make_payment(base_account(payer.id, network.lesnoy.id), Decimal(balance) + 1000)
    line = run(make_rule(network.lesnoy, money_from=low, money_to=high))[payer.id]
    assert (line.result is RunResult.ISSUED) == is_billed


@pytest.mark.spec("B98", "B99", "W8")
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("earlier", ["none", "unpaid", "paid", "archived", "expired"])
def test_an_earlier_unpaid_bill(network, earlier, again):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    before = None
    if earlier != "none":
        with clock.frozen(NOON - timedelta(days=2)):
            before = make_bill(payer, payable_until=date(2027, 8, 31) if earlier == "expired" else None)
    if earlier == "paid":
        make_payment(base_account(payer.id, network.lesnoy.id), 1500, bill=before)
    if earlier == "archived":
        with transaction():
            archive_bill(before, by=SYSTEM)
    line = run(make_rule(network.lesnoy, issues_again=again))[payer.id]
    is_blocked = earlier == "unpaid" and not again
    assert line.result is (RunResult.SKIPPED if is_blocked else RunResult.ISSUED)
    assert len(bills()) == (0 if earlier == "none" else 1) + (not is_blocked)
    if is_blocked:
        assert before.title in line.reason


@pytest.mark.spec("B64", "B65")
@pytest.mark.parametrize(
    ("balance", "amount"), [(Decimal(50), "1950.00"), (Decimal(-300), "2300.00"), (Decimal(2500), None)]
)
def test_the_worked_numbers_of_the_forecast(network, balance, amount):
    """W1: 4 lessons to come of 500 each, less what is on the account; where nothing is left to pay, no bill."""
    payer = make_client(network.lesnoy)
    lesson_type = make_lesson_type(single_price=Decimal(500))
    if balance < 0:
        late = make_lesson(
            network.lesnoy,
            payer,
            starts_at=NOON - timedelta(hours=2),
            lesson_type=make_lesson_type(single_price=-balance),
        )
        with transaction():
            mark_attendance(late, {one.id: Mark.PRESENT for one in late.attendances}, by=SYSTEM)
    else:
        make_payment(base_account(payer.id, network.lesnoy.id), balance)
    for days in range(1, 5):
        make_lesson(network.lesnoy, payer, starts_at=NOON + timedelta(days=days), lesson_type=lesson_type)
    line = run(make_rule(network.lesnoy, method=BillingMethod.FORECAST, accounts=BilledAccounts.BASE))[payer.id]
    assert [bill.amount for bill in bills()] == ([Decimal(amount)] if amount else [])
    assert bool(line.reason) is not bool(amount)


@pytest.mark.spec("B89")
@pytest.mark.parametrize("is_repeatable", [False, True])
def test_bills_may_be_paid_again_where_the_rule_says_so(network, is_repeatable):
    payer = make_client(network.lesnoy)
    make_subscription(payer)
    run(make_rule(network.lesnoy, is_repeatable=is_repeatable))
    (bill,) = bills()
    assert bill.is_repeatable is is_repeatable
    make_payment(base_account(payer.id, network.lesnoy.id), 4000, bill=bill)
    assert (refusal(bill) is None) is is_repeatable


@pytest.mark.spec("B90")
@pytest.mark.parametrize("is_repeatable", [False, True])
def test_a_bill_in_the_archive_is_not_paid_by_a_link_that_was_kept(network, web, bank, is_repeatable):  # noqa: F811
    make_subscription(make_client(network.lesnoy))
    run(make_rule(network.lesnoy, is_repeatable=is_repeatable))
    (bill,) = bills()
    assert "<form" in web().get(f"/pay/{bill.token}").text
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert refusal(bill) == "archived"
    page = web().get(f"/pay/{bill.token}").text
    assert "В архиве" in page
    assert "<form" not in page


def refusal(bill):
    try:
        check_payable(bill)
    except DomainError as error:
        return error.code
    return None


def test_a_look_writes_nothing(network):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(500)))
    (view,) = outlook(Planned.at(make_rule(network.lesnoy), clock.now()), [payer.id])
    assert [(part.draft.amount, part.reason) for part in view.parts] == [(500, "")]
    assert bills() == []
