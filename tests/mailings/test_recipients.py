"""Whom each kind of mailing is for."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.clients.models import ClientKind, ClientStatus
from crm.db import db, transaction
from crm.mailings.models import MailingKind, RunResult
from crm.mailings.recipients import recipients
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.schedule.lessons import cancel_lesson
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


@pytest.mark.spec("B77")
@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        (["active"], {"active"}),
        (["archived"], {"archived"}),
        (["active", "archived"], {"active", "archived"}),
        ([], {"active", "archived"}),
    ],
)
def test_of_these_statuses(network, statuses, found):
    ids = {}
    for status in ClientStatus:
        client = make_client(network.lesnoy)
        make_subscription(client)
        with transaction():
            client.status = status
        ids[client.id] = status.value
    assert {ids[id] for id in chosen(make_rule(network.lesnoy, statuses=statuses))} == found


def came(branch, client, at, mark=Mark.PRESENT):
    lesson = make_lesson(branch, client, starts_at=at)
    with transaction():
        db.session.query(Attendance).filter_by(lesson_id=lesson.id).one().mark = mark


@pytest.mark.spec("B96")
@pytest.mark.parametrize("branch", ["lesnoy", "mira"])
def test_who_attended_in_the_last_30_days(network, branch):
    """From the midnight that begins the 30th day before, by the clock of the branch, to the end of the day itself."""
    branch = getattr(network, branch)
    first = clock.at(DAY - timedelta(days=30), time(), branch)
    moments = [first - timedelta(minutes=1), first, NOON - timedelta(hours=2), clock.at(DAY, time(23, 59), branch)]
    clients = [make_client(branch) for _ in moments]
    for client, moment in zip(clients, moments, strict=True):
        make_subscription(client)
        came(branch, client, moment)
    rule = make_rule(branch, attended_only=True)
    assert chosen(rule) == {client.id for client in clients[1:]}
    assert chosen(rule, DAY + timedelta(days=1)) == {client.id for client in clients[2:]}


@pytest.mark.spec("B96")
@pytest.mark.parametrize("mark", [Mark.ABSENT, Mark.EXCUSED, Mark.PLANNED, Mark.CANCELED])
def test_who_was_not_there_has_not_attended(network, mark):
    client = make_client(network.lesnoy)
    make_subscription(client)
    came(network.lesnoy, client, NOON - timedelta(days=1), mark)
    assert chosen(make_rule(network.lesnoy, attended_only=True)) == set()


@pytest.mark.spec("B97")
def test_who_has_a_lesson_on_the_day(network):
    """The child's counts for who pays; the day is the branch's: in Samara it begins at 20:00 UTC the day before."""
    payer, other = make_client(network.mira), make_client(network.mira)
    child = make_child(payer)
    for client in (child, other):
        make_subscription(client)
    make_lesson(network.mira, child, starts_at=clock.at(DAY, time(0), network.mira))
    make_lesson(network.mira, other, starts_at=clock.at(DAY + timedelta(days=1), time(0), network.mira))
    rule = make_rule(network.mira, lesson_only=True)
    assert chosen(rule) == {payer.id}
    assert chosen(rule, DAY + timedelta(days=1)) == {other.id}


@pytest.mark.spec("B97")
def test_a_lesson_that_was_canceled_is_none(network):
    client, away = make_client(network.lesnoy), make_client(network.lesnoy)
    for one in (client, away):
        make_subscription(one)
    lesson = make_lesson(network.lesnoy, client)
    came(network.lesnoy, away, NOON + timedelta(hours=2), Mark.CANCELED)
    rule = make_rule(network.lesnoy, lesson_only=True)
    assert chosen(rule) == {client.id}
    with transaction():
        cancel_lesson(lesson, by=SYSTEM)
    assert chosen(rule) == set()


def test_the_day_the_clock_changes_is_whole(network):
    """28 March in Berlin lasts 23 hours, 31 October 25."""
    with transaction():
        network.lesnoy.time_zone = "Europe/Berlin"
    rule = make_rule(network.lesnoy, kind=MailingKind.LESSON)
    for day in (date(2027, 3, 28), date(2027, 10, 31)):
        begin, end = (clock.at(one, time(), network.lesnoy) for one in (day, day + timedelta(days=1)))
        within = [make_client(network.lesnoy) for _ in range(2)]
        for client, moment in zip(within, (begin, end - timedelta(minutes=1)), strict=True):
            make_lesson(network.lesnoy, client, starts_at=moment)
        for moment in (begin - timedelta(minutes=1), end):
            make_lesson(network.lesnoy, make_client(network.lesnoy), starts_at=moment)
        assert chosen(rule, day) == {client.id for client in within}


def test_of_a_lesson_that_has_begun_nobody_is_reminded(network):
    client = make_client(network.lesnoy)
    make_lesson(network.lesnoy, client, starts_at=NOON + timedelta(hours=1))
    rule = make_rule(network.lesnoy, kind=MailingKind.LESSON)
    assert chosen(rule) == {client.id}
    with clock.frozen(NOON + timedelta(hours=1, seconds=1)):
        assert chosen(rule) == set()


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


def test_who_is_born_tomorrow_or_over_the_new_year(network):
    january = make_client(network.lesnoy, birth_date=date(2016, 1, 1)).id
    leap = make_client(network.lesnoy, birth_date=date(2016, 2, 29)).id
    ahead = make_rule(network.lesnoy, kind=MailingKind.BIRTHDAY, days=1)
    assert chosen(ahead, date(2027, 12, 31)) == {january}
    assert chosen(ahead, date(2027, 2, 27)) == {leap}
    assert chosen(ahead, date(2028, 2, 28)) == {leap}
    assert chosen(ahead, date(2028, 2, 27)) == set()
