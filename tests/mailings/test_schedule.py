from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.bills.models import Bill
from crm.bills.operations import check_payable
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.models import MailingRule, MailingRun, MailingRunLine, Message, Periodicity, RunStatus, Term
from crm.mailings.running import execute_run
from crm.mailings.runs import plan_due_runs, run_now
from crm.mailings.schedule import falls_on, last_payable_day, latest_planned
from tests.factories import make_client, make_rule, make_subscription


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def rule(periodicity=Periodicity.DAILY, send_time=time(10), zone="Europe/Moscow", **days):
    return MailingRule(periodicity=periodicity, send_time=send_time, branch=Branch(time_zone=zone), **days)


@pytest.mark.spec("B101")
def test_daily_is_the_time_on_the_clock_of_the_branch():
    assert latest_planned(rule(), now=utc(2027, 3, 10, 7, 0)) == utc(2027, 3, 10, 7, 0)
    assert latest_planned(rule(), now=utc(2027, 3, 10, 6, 59, 59)) == utc(2027, 3, 9, 7, 0)
    assert latest_planned(rule(zone="Asia/Vladivostok"), now=utc(2027, 3, 10, 6)) == utc(2027, 3, 10, 0, 0)


def test_midnight_belongs_to_the_day_it_begins():
    midnight = rule(send_time=time(0), periodicity=Periodicity.MONTHLY, month_day=1)
    assert latest_planned(midnight, now=utc(2027, 2, 28, 21, 0)) == utc(2027, 2, 28, 21, 0)
    assert latest_planned(midnight, now=utc(2027, 2, 28, 20, 59)) == utc(2027, 1, 31, 21, 0)


@pytest.mark.spec("B100")
def test_weekly_is_its_weekday_at_the_branch():
    monday = rule(Periodicity.WEEKLY, time(1), weekday=0)
    # Monday 1:00 in Moscow is still Sunday in UTC.
    assert latest_planned(monday, now=utc(2027, 3, 14, 22)) == utc(2027, 3, 14, 22)
    assert latest_planned(monday, now=utc(2027, 3, 14, 21, 59)) == utc(2027, 3, 7, 22)


@pytest.mark.spec("B100", "B102", "X12")
@pytest.mark.parametrize(
    ("today", "planned"),
    [
        (date(2027, 1, 31), date(2027, 1, 31)),
        (date(2027, 2, 27), date(2027, 1, 31)),
        (date(2027, 2, 28), date(2027, 2, 28)),
        (date(2028, 2, 28), date(2028, 1, 31)),
        (date(2028, 2, 29), date(2028, 2, 29)),
        (date(2027, 4, 30), date(2027, 4, 30)),
        (date(2027, 5, 30), date(2027, 4, 30)),
    ],
)
def test_day_31_is_the_last_day_of_a_shorter_month(today, planned):
    monthly = rule(Periodicity.MONTHLY, month_day=31)
    now = datetime.combine(today, time(12), UTC)
    assert latest_planned(monthly, now=now) == datetime.combine(planned, time(7), UTC)


@pytest.mark.spec("X12")
@pytest.mark.parametrize("day", [29, 30, 31])
def test_days_29_to_31_come_once_in_every_month(day):
    monthly = rule(Periodicity.MONTHLY, month_day=day)
    days = [date(2027, 1, 1) + timedelta(days=ahead) for ahead in range(2 * 365 + 1)]
    planned = [one for one in days if falls_on(monthly, one)]
    assert [(one.year, one.month) for one in planned] == [
        (year, month) for year in (2027, 2028) for month in range(1, 13)
    ]
    assert [one.day for one in planned if one.month == 2] == [28, 29]
    assert {one.day for one in planned if one.month == 3} == {day}


@pytest.mark.parametrize(
    ("periodicity", "days", "before", "after"),
    [
        (Periodicity.DAILY, {}, utc(2027, 3, 27, 9), utc(2027, 3, 28, 8)),
        (Periodicity.WEEKLY, {"weekday": 6}, utc(2027, 3, 21, 9), utc(2027, 3, 28, 8)),
        (Periodicity.MONTHLY, {"month_day": 28}, utc(2027, 2, 28, 9), utc(2027, 3, 28, 8)),
    ],
)
def test_ten_o_clock_stays_ten_when_the_clock_changes(periodicity, days, before, after):
    at_ten = rule(periodicity, zone="Europe/Berlin", **days)
    assert latest_planned(at_ten, now=after - timedelta(minutes=1)) == before
    assert latest_planned(at_ten, now=after) == after


def test_a_rule_of_one_day_is_planned_on_that_day_alone():
    once = rule(once_on=date(2027, 3, 28), zone="Europe/Berlin")
    assert latest_planned(once, now=utc(2027, 3, 28, 7, 59)) is None
    for now in (utc(2027, 3, 28, 8), utc(2028, 1, 1)):
        assert latest_planned(once, now=now) == utc(2027, 3, 28, 8)


def test_a_moment_the_clocks_skip_or_repeat_is_planned_once():
    at_half_past_two = rule(send_time=time(2, 30), zone="Europe/Berlin")

    def planned_from(start):
        return {latest_planned(at_half_past_two, now=start + timedelta(minutes=m)) for m in range(0, 600, 5)}

    # On 28 March 2:30 does not exist: the clock stands at 3:30 then.
    assert planned_from(utc(2027, 3, 27, 23)) == {utc(2027, 3, 27, 1, 30), utc(2027, 3, 28, 1, 30)}
    # On 31 October 2:30 comes twice: the first one counts.
    assert planned_from(utc(2027, 10, 30, 22)) == {utc(2027, 10, 30, 0, 30), utc(2027, 10, 31, 0, 30)}


# --- terms -----------------------------------------------------------------------------------------------------------

TERMS = [
    (Term.UNLIMITED, (2027, 1, 31), None),
    (Term.DAYS_3, (2027, 1, 30), (2027, 2, 2)),
    (Term.DAYS_5, (2028, 2, 26), (2028, 3, 2)),
    (Term.DAYS_6, (2026, 12, 28), (2027, 1, 3)),
    (Term.WEEK_1, (2027, 12, 28), (2028, 1, 4)),
    (Term.WEEKS_2, (2028, 2, 20), (2028, 3, 5)),
    (Term.WEEKS_2, (2027, 2, 20), (2027, 3, 6)),
    (Term.MONTH_END, (2027, 1, 31), (2027, 1, 31)),
    (Term.MONTH_END, (2027, 2, 1), (2027, 2, 28)),
    (Term.MONTH_END, (2028, 2, 10), (2028, 2, 29)),
    (Term.NEXT_MONTH_END, (2027, 1, 31), (2027, 2, 28)),
    (Term.NEXT_MONTH_END, (2028, 1, 31), (2028, 2, 29)),
    (Term.NEXT_MONTH_END, (2026, 12, 15), (2027, 1, 31)),
    (Term.DAYS, (2027, 1, 31), (2027, 2, 10)),
]


@pytest.mark.spec("W6")
@pytest.mark.parametrize(("term", "issued_on", "last"), TERMS)
def test_when_a_term_ends(term, issued_on, last):
    assert last_payable_day(term, date(*issued_on), days=10) == (date(*last) if last else None)


@pytest.mark.spec("B79", "B80", "B81", "B82", "B83", "B84", "B85", "B86", "B87", "B88")
@pytest.mark.parametrize(("term", "issued_on", "last"), TERMS)
def test_a_bill_of_a_mailing_is_payable_from_its_issue_to_the_end_of_the_term(network, term, issued_on, last):
    """Midnight has just begun the day at the branch: it is still the day before in UTC."""
    with clock.frozen(clock.at(date(*issued_on), time(0, 5), network.mira)):
        make_subscription(make_client(network.mira))
        rule = make_rule(network.mira, term=term, term_days=10 if term is Term.DAYS else None)
        with transaction():
            run = run_now(rule, by=SYSTEM)
        assert execute_run(run.id, by=SYSTEM)
    bill = db.session.scalars(select(Bill)).one()
    assert (bill.payable_from, bill.payable_until) == (date(*issued_on), date(*last) if last else None)
    end = clock.at(date(*last) + timedelta(days=1), time(), network.mira) if last else utc(2040, 1, 1)
    with clock.frozen(end - timedelta(seconds=1)):
        check_payable(bill)
    if last:
        with clock.frozen(end), pytest.raises(DomainError) as refused:
            check_payable(bill)
        assert refused.value.code == "expired"


# --- planning --------------------------------------------------------------------------------------------------------


def plan(now):
    with clock.frozen(now), transaction():
        return [(run.rule_id, run.planned_at) for run in plan_due_runs(now=now)]


def made(branch, at=None, **facts):
    """A rule made at midnight UTC before 1 March, or at another moment."""
    with clock.frozen(at or utc(2027, 3, 1)):
        return make_rule(branch, **facts)


@pytest.mark.spec("B3", "B101")
def test_a_due_rule_is_planned_once(network):
    rule = made(network.lesnoy)
    assert plan(utc(2027, 3, 1, 6, 59)) == []
    assert plan(utc(2027, 3, 1, 7, 0)) == [(rule.id, utc(2027, 3, 1, 7))]
    assert plan(utc(2027, 3, 1, 7, 1)) == []
    assert plan(utc(2027, 3, 2, 7, 1)) == [(rule.id, utc(2027, 3, 2, 7))]


def test_each_branch_keeps_its_own_time(network):
    here, east = made(network.lesnoy), made(network.mira)
    assert plan(utc(2027, 3, 1, 6, 30)) == [(east.id, utc(2027, 3, 1, 6))]
    assert plan(utc(2027, 3, 1, 7, 30)) == [(here.id, utc(2027, 3, 1, 7))]


def test_of_what_was_missed_the_latest_is_caught_up(network):
    rule = made(network.lesnoy)
    plan(utc(2027, 3, 1, 8))
    assert plan(utc(2027, 3, 9, 3)) == [(rule.id, utc(2027, 3, 8, 7))]


def test_nothing_is_caught_up_from_before_the_rule_was_made_or_switched_on(network):
    rule = made(network.lesnoy, at=utc(2027, 3, 1, 12))
    assert plan(utc(2027, 3, 1, 13)) == []
    with transaction():
        rule.is_active = False
    assert plan(utc(2027, 3, 5, 13)) == []
    with clock.frozen(utc(2027, 3, 5, 14)), transaction():
        rule.is_active = True
    assert plan(utc(2027, 3, 5, 15)) == []
    assert plan(utc(2027, 3, 6, 7)) == [(rule.id, utc(2027, 3, 6, 7))]


def test_many_schedulers_at_once_make_one_run(network, in_parallel):
    made(network.lesnoy)
    now = utc(2027, 3, 1, 8)

    def once(_index):
        with transaction():
            return len(plan_due_runs(now=now))

    with clock.frozen(now):
        counts = in_parallel(once, times=6)
    assert sorted(counts) == [0, 0, 0, 0, 0, 1]
    assert db.session.scalar(select(func.count()).select_from(MailingRun)) == 1


def test_many_schedulers_and_workers_at_once_write_to_everybody_once(network, in_parallel):
    with clock.frozen(utc(2027, 3, 1)):
        for _ in range(4):
            make_subscription(make_client(network.lesnoy))
        make_rule(network.lesnoy)
    now = utc(2027, 3, 1, 8)

    def work(_index):
        with transaction():
            plan_due_runs(now=now)
        (run_id,) = db.session.scalars(select(MailingRun.id)).all()
        db.session.commit()
        while db.session.get_one(MailingRun, run_id, populate_existing=True).status is not RunStatus.DONE:
            db.session.commit()
            execute_run(run_id, by=SYSTEM, limit=1)

    with clock.frozen(now):
        in_parallel(work, times=3)
    counts = [db.session.scalar(select(func.count()).select_from(one)) for one in (MailingRun, MailingRunLine, Message)]
    assert counts == [1, 4, 4]
    assert db.session.scalar(select(func.count()).select_from(Bill)) == 4


def test_what_was_missed_is_caught_up_once_and_bills_its_own_period(network):
    """Down from 31 January to 2 February: the run of 1 February is made up for, that of January is not."""
    with clock.frozen(utc(2027, 1, 30, 8)):
        make_subscription(make_client(network.lesnoy))
        make_rule(network.lesnoy)
    now = utc(2027, 2, 2, 5)
    for _ in range(2):
        with clock.frozen(now), transaction():
            runs = plan_due_runs(now=now)
        for run in runs:
            with clock.frozen(now):
                execute_run(run.id, by=SYSTEM)
    assert [run.planned_at for run in db.session.scalars(select(MailingRun))] == [utc(2027, 2, 1, 7)]
    bill = db.session.scalars(select(Bill)).one()
    assert (bill.period_from, bill.payable_from) == (date(2027, 2, 1), date(2027, 2, 2))
