from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.models import Branch
from crm.db import db, transaction
from crm.mailings.models import MailingRule, MailingRun, Periodicity
from crm.mailings.runs import plan_due_runs
from crm.mailings.schedule import latest_planned
from tests.factories import make_rule


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


@pytest.mark.spec("B100")
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


def test_a_moment_the_clocks_skip_or_repeat_is_planned_once():
    at_half_past_two = rule(send_time=time(2, 30), zone="Europe/Berlin")

    def planned_from(start):
        return {latest_planned(at_half_past_two, now=start + timedelta(minutes=m)) for m in range(0, 600, 5)}

    # On 28 March 2:30 does not exist: the clock stands at 3:30 then.
    assert planned_from(utc(2027, 3, 27, 23)) == {utc(2027, 3, 27, 1, 30), utc(2027, 3, 28, 1, 30)}
    # On 31 October 2:30 comes twice: the first one counts.
    assert planned_from(utc(2027, 10, 30, 22)) == {utc(2027, 10, 30, 0, 30), utc(2027, 10, 31, 0, 30)}


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
