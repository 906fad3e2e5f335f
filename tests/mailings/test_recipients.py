"""Whom each kind of mailing is for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.clients.models import ClientKind
from crm.db import db, transaction
from crm.mailings.models import MailingKind, RunResult
from crm.mailings.recipients import recipients
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.schedule.models import Attendance, Mark
from tests.factories import (
    make_child,
    make_client,
    make_lesson,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)
DAY = date(2027, 3, 10)


@pytest.fixture(autouse=True)
def _march():
    with clock.frozen(NOON):
        yield


def chosen(rule, day=DAY):
    return set(db.session.scalars(recipients(rule, day)))


@pytest.mark.spec("B78")
def test_of_one_kind_of_clients(network):
    person, firm = make_client(network.lesnoy), make_client(network.lesnoy)
    with transaction():
        firm.kind = ClientKind.ORGANISATION
    for client in (person, firm):
        make_subscription(client)
    assert chosen(make_rule(network.lesnoy, client_kinds=["organisation"])) == {firm.id}


@pytest.mark.spec("B96")
def test_who_attended_in_the_last_30_days(network):
    within, before = make_client(network.lesnoy), make_client(network.lesnoy)
    for client, days in ((within, 30), (before, 31)):
        make_subscription(client)
        lesson = make_lesson(network.lesnoy, client, starts_at=NOON - timedelta(days=days))
        with transaction():
            db.session.query(Attendance).filter_by(lesson_id=lesson.id).one().mark = Mark.PRESENT
    assert chosen(make_rule(network.lesnoy, attended_only=True)) == {within.id}


@pytest.mark.spec("B97")
def test_who_has_a_lesson_on_the_day(network):
    payer, other = make_client(network.lesnoy), make_client(network.lesnoy)
    child = make_child(payer)
    for client in (child, other):
        make_subscription(client)
    make_lesson(network.lesnoy, child)
    make_lesson(network.lesnoy, other, starts_at=NOON + timedelta(days=1))
    assert chosen(make_rule(network.lesnoy, lesson_only=True)) == {payer.id}


def test_debt_lesson_and_subscription(network):
    owing, coming, idle = (make_client(network.lesnoy) for _ in range(3))
    make_subscription(owing, make_plan(price=Decimal(900), duration_days=5), starts_on=DAY)
    make_lesson(network.lesnoy, coming, starts_at=NOON + timedelta(days=2))
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.DEBT)) == {owing.id}
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.LESSON, days=2)) == {coming.id}
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.LESSON, days=1)) == set()
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.SUBSCRIPTION, days=7)) == {owing.id}
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.SUBSCRIPTION, days=1)) == set()
    assert chosen(make_rule(network.lesnoy, kind=MailingKind.TEXT)) == {owing.id, coming.id, idle.id}


def test_an_end_of_a_subscription_is_told_once(network):
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(duration_days=5), starts_on=DAY)
    template = make_template(subject="Скоро", body="Абонемент кончается")
    rule = make_rule(network.lesnoy, kind=MailingKind.SUBSCRIPTION, days=7, template=template)
    with transaction():
        first = run_now(rule, by=SYSTEM)
    assert execute_run(first.id, by=SYSTEM)
    db.session.expire_all()
    assert [line.result for line in first.lines] == [RunResult.ISSUED]
    assert chosen(rule, DAY + timedelta(days=1)) == set()


@pytest.mark.parametrize(
    ("day", "found"), [((2027, 2, 28), {28, 29}), ((2028, 2, 28), {28}), ((2028, 2, 29), {29}), ((2027, 3, 1), set())]
)
def test_birthdays_and_the_29th_of_february(network, day, found):
    born = {number: make_client(network.lesnoy, birth_date=date(2016, 2, number)).id for number in (28, 29)}
    rule = make_rule(network.lesnoy, kind=MailingKind.BIRTHDAY)
    assert chosen(rule, date(*day)) == {born[number] for number in found}
