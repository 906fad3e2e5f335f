"""Mailings that bill nobody: what each kind tells, that it is told once, and runs for those who were chosen by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.clients.merging import merge_clients
from crm.clients.operations import archive_client
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose
from crm.db import db, transaction
from crm.ledger.operations import base_account
from crm.mailings.models import MailingKind, MailingRun, MailingRunLine, Message, RunResult, RunStatus
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Mark
from crm.subscriptions.models import PlanAccount
from tests.factories import (
    make_child,
    make_client,
    make_lesson,
    make_payment,
    make_plan,
    make_rule,
    make_subject,
    make_subscription,
    make_template,
)

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)
DAY = date(2027, 3, 10)


@pytest.fixture(autouse=True)
def _march():
    with clock.frozen(NOON):
        yield


def rule_of(branch, kind, body, **facts):
    return make_rule(branch, kind=kind, template=make_template(subject="Напоминание", body=body), **facts)


def run(rule):
    """Its lines by client."""
    with transaction():
        planned = run_now(rule, by=SYSTEM)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    return {line.client_id: line for line in planned.lines}


def told():
    """(to whom, what) of the messages there are."""
    messages = db.session.scalars(select(Message).order_by(Message.id))
    return [(one.recipient, one.body.replace("\xa0", " ")) for one in messages]


def use_up(client, lessons, *, starts_at=NOON - timedelta(hours=1)):
    """The client goes to so many lessons."""
    for _ in range(lessons):
        lesson = make_lesson(client.branch, client, starts_at=starts_at)
        with transaction():
            mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=SYSTEM)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_debt_is_that_of_all_accounts_in_the_branch(network):
    payer = make_client(network.lesnoy, email="anna@demo.test", name="Анна")
    make_subscription(payer, make_plan(price=Decimal("900.50")))
    make_subscription(payer, make_plan(price=Decimal(100), account=PlanAccount.SEPARATE))
    make_subscription(make_child(payer), make_plan(price=Decimal(9)))
    run(rule_of(network.lesnoy, MailingKind.DEBT, "{customer.name}, долг {debt.amount}"))
    assert told() == [("anna@demo.test", "Анна, долг 1 009,50")]
    message = db.session.scalars(select(Message)).one()
    assert (message.kind, message.bill_id, message.channel) == (MessageKind.DEBT, None, Channel.EMAIL)


def test_a_debt_paid_before_it_was_their_turn_is_not_reminded_of(network):
    first, second = (make_client(network.lesnoy) for _ in range(2))
    for client in (first, second):
        make_subscription(client, make_plan(price=Decimal(900)))
    with transaction():
        planned = run_now(rule_of(network.lesnoy, MailingKind.DEBT, "{debt.amount}"), by=SYSTEM)
    assert not execute_run(planned.id, by=SYSTEM, limit=1)
    make_payment(base_account(second.id, network.lesnoy.id), 900)
    assert execute_run(planned.id, by=SYSTEM)
    assert told() == [(first.email, "900,00")]
    lines = db.session.scalars(select(MailingRunLine).order_by(MailingRunLine.id)).all()
    assert [(line.result, bool(line.reason)) for line in lines] == [
        (RunResult.ISSUED, False),
        (RunResult.SKIPPED, True),
    ]


def test_lessons_of_the_day_stand_in_one_message_to_each(network):
    payer = make_client(network.lesnoy, email="anna@demo.test")
    child = make_child(payer, name="Пётр")
    for hours, subject in ((5, "Бокс"), (3, "Йога")):
        starts_at = NOON + timedelta(days=1, hours=hours)
        make_lesson(network.lesnoy, child, starts_at=starts_at, subject=make_subject(name=subject))
    rule = rule_of(network.lesnoy, MailingKind.LESSON, "{lesson.subject} {lesson.date} в {lesson.time}", days=1)
    lines = run(rule)
    assert set(lines) == {child.id}
    assert told() == [("anna@demo.test", "Йога, Бокс 11.03.2027 в 15:00, 17:00")]


def test_what_a_subscription_that_ends_has_left(network):
    client = make_client(network.lesnoy, email="anna@demo.test")
    make_subscription(client, make_plan(name="Йога", lessons=4, duration_days=7), starts_on=DAY)
    body = "{subscription.name} до {subscription.end_date}, осталось {subscription.lessons_left}"
    run(rule_of(network.lesnoy, MailingKind.SUBSCRIPTION, body, days=7))
    assert told() == [("anna@demo.test", "Йога до 16.03.2027, осталось 4")]


def test_a_greeting_reaches_a_child_by_who_pays_for_him(network):
    make_child(make_client(network.lesnoy, email="anna@demo.test"), name="Пётр", birth_date=date(2016, 3, 10))
    run(rule_of(network.lesnoy, MailingKind.BIRTHDAY, "{customer.name}, с днём рождения!"))
    assert told() == [("anna@demo.test", "Пётр, с днём рождения!")]


def test_what_is_written_to_everybody_reaches_a_family_once(network):
    payer = make_client(network.lesnoy, email="anna@demo.test")
    make_child(payer)
    run(rule_of(network.lesnoy, MailingKind.TEXT, "Мы переехали: {branch.name}"))
    assert told() == [("anna@demo.test", "Мы переехали: Лесной")]


@pytest.mark.parametrize("kind", [MailingKind.DEBT, MailingKind.TEXT])
def test_who_has_forbidden_such_messages_is_left_out_and_the_line_says_so(network, kind):
    client = make_client(network.lesnoy)
    make_subscription(client)
    with transaction():
        choose(client, kind.message_kind, False, by=SYSTEM)
    line = run(rule_of(network.lesnoy, kind, "Здравствуйте"))[client.id]
    assert (line.result, told()) == (RunResult.SKIPPED, [])
    assert str(kind.message_kind.label) in line.reason


def test_what_is_forbidden_on_a_childs_card_does_not_go_to_who_pays_for_him(network):
    payer = make_client(network.lesnoy)
    child = make_child(payer, birth_date=date(2016, 3, 10))
    with transaction():
        choose(child, MessageKind.BIRTHDAY, False, by=SYSTEM)
    line = run(rule_of(network.lesnoy, MailingKind.BIRTHDAY, "Поздравляем!"))[child.id]
    assert (line.result, told()) == (RunResult.SKIPPED, [])
    assert str(MessageKind.BIRTHDAY.label) in line.reason


# --- told once -------------------------------------------------------------------------------------------------------


def test_the_end_of_a_subscription_is_told_once_and_again_of_the_next_one(network):
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(duration_days=5), starts_on=DAY)
    rule = rule_of(network.lesnoy, MailingKind.SUBSCRIPTION, "{subscription.end_date}", days=7)
    for ahead in range(4):
        with clock.frozen(NOON + timedelta(days=ahead)):
            run(rule)
    assert [body for _to, body in told()] == ["14.03.2027"]
    with clock.frozen(NOON + timedelta(days=4)):
        make_subscription(client, make_plan(duration_days=10), starts_on=date(2027, 3, 15))
    for ahead in range(4, 15):
        with clock.frozen(NOON + timedelta(days=ahead)):
            run(rule)
    assert [body for _to, body in told()] == ["14.03.2027", "24.03.2027"]


def test_a_subscription_used_up_is_told_once_for_each_time_it_was(network):
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(name="Йога", lessons=2, duration_days=60))
    rule = rule_of(network.lesnoy, MailingKind.SUBSCRIPTION, "{subscription.name}: {subscription.lessons_left}", days=3)
    assert run(rule) == {}
    use_up(client, 1)
    with clock.frozen(NOON + timedelta(minutes=1)):
        assert run(rule) == {}
        use_up(client, 1)
    for days in (1, 2, 3):
        with clock.frozen(NOON + timedelta(days=days)):
            run(rule)
    assert [body for _to, body in told()] == ["Йога: 0"]
    with clock.frozen(NOON + timedelta(days=4)):
        make_subscription(client, make_plan(name="Бокс", lessons=1, duration_days=60))
        use_up(client, 1, starts_at=clock.now())
    with clock.frozen(NOON + timedelta(days=5)):
        run(rule)
    assert [body for _to, body in told()][1:] == ["Йога, Бокс: 0"]


def test_one_used_up_while_its_run_was_late_is_told_once(network):
    """Planned at ten and carried out at two: what was used up at noon is told at two, and not the next day."""
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(lessons=1, duration_days=60))
    rule = rule_of(network.lesnoy, MailingKind.SUBSCRIPTION, "{subscription.name}")
    with transaction():
        planned = run_now(rule, by=SYSTEM)
    with clock.frozen(NOON + timedelta(hours=2)):
        use_up(client, 1)
    with clock.frozen(NOON + timedelta(hours=4)):
        assert execute_run(planned.id, by=SYSTEM)
    assert len(told()) == 1
    with clock.frozen(NOON + timedelta(days=1)):
        assert run(rule) == {}


def test_a_reminder_run_twice_at_once_is_written_once(network, in_parallel):
    for _ in range(6):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        run_id = run_now(rule_of(network.lesnoy, MailingKind.DEBT, "{debt.amount}"), by=SYSTEM).id

    def work(_index):
        while db.session.get_one(MailingRun, run_id, populate_existing=True).status is not RunStatus.DONE:
            db.session.commit()
            execute_run(run_id, by=SYSTEM, limit=2)

    in_parallel(work, times=3)
    assert len(told()) == len(dict(told())) == 6


# --- a run of a selection --------------------------------------------------------------------------------------------


def selected(network, *clients, body="Здравствуйте, {customer.name}", **facts):
    """A run for these alone, as the panel makes it."""
    rule = rule_of(
        network.lesnoy, MailingKind.TEXT, body, is_selected=True, once_on=DAY, send_time=time(12), statuses=[], **facts
    )
    with transaction():
        planned = MailingRun(branch_id=rule.branch_id, rule_id=rule.id, planned_at=NOON, is_manual=True)
        planned.lines = [MailingRunLine(client_id=client.id) for client in clients]
        db.session.add(planned)
    return planned


def test_a_run_of_a_selection_is_for_those_alone(network):
    chosen, _other = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy)
    child = make_child(chosen, name="Пётр")
    planned = selected(network, chosen, child)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    assert planned.total == 2
    assert told() == [(chosen.email, "Здравствуйте, Анна"), (chosen.email, "Здравствуйте, Пётр")]


def test_of_a_selection_too_who_is_not_there_or_not_reached_is_told_of(network):
    archived, merged, mute = (make_client(network.lesnoy) for _ in range(3))
    kept = make_client(network.lesnoy)
    planned = selected(network, archived, merged, mute)
    with transaction():
        archive_client(archived, by=SYSTEM)
        choose(mute, MessageKind.NEWS, False, by=SYSTEM)
    with transaction():
        merge_clients(kept, merged, by=SYSTEM)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    results = {line.client_id: (line.result, bool(line.reason)) for line in planned.lines}
    assert results[archived.id] == (RunResult.ISSUED, False), "he was chosen, whatever his status"
    assert results[mute.id] == (RunResult.SKIPPED, True)
    assert RunResult.WAITING not in {result for result, _reason in results.values()}


def test_whose_card_was_merged_since_he_was_chosen_is_written_to_once(network):
    first, second, chosen_too, kept, elsewhere = (make_client(network.lesnoy) for _ in range(5))
    strange = make_client(network.rechnoy)
    planned = selected(network, first, second, chosen_too, elsewhere, body="В пятницу занятий нет")
    for into, gone in ((kept, first), (chosen_too, second), (strange, elsewhere)):
        with transaction():
            merge_clients(into, gone, by=SYSTEM)
    assert execute_run(planned.id, by=SYSTEM)
    db.session.expire_all()
    assert sorted(to for to, _body in told()) == sorted([kept.email, chosen_too.email])
    results = {line.client_id: line.result for line in planned.lines}
    assert results == {
        first.id: RunResult.ISSUED,
        second.id: RunResult.SKIPPED,
        chosen_too.id: RunResult.ISSUED,
        elsewhere.id: RunResult.SKIPPED,
    }


def test_a_run_of_a_selection_goes_on_in_turns_and_is_done_once(network):
    clients = [make_client(network.lesnoy) for _ in range(5)]
    planned = selected(network, *clients)
    assert [execute_run(planned.id, by=SYSTEM, limit=2) for _ in range(4)] == [False, False, True, False]
    assert sorted(to for to, _body in told()) == sorted(client.email for client in clients)


def test_an_address_gets_the_same_words_once(network):
    """Children are written to at their payer's address: a text that names nobody comes there once."""
    payer = make_client(network.lesnoy)
    family = [make_child(payer), make_child(payer), make_child(payer)]
    other = make_client(network.lesnoy)
    planned = selected(network, payer, *family, other, body="В пятницу занятий нет")
    assert [execute_run(planned.id, by=SYSTEM, limit=2) for _ in range(4)] == [False, False, True, False]
    assert sorted(told()) == sorted((to, "В пятницу занятий нет") for to in (payer.email, other.email))
    db.session.expire_all()
    results = {line.client_id: (line.result, bool(line.reason)) for line in planned.lines}
    assert results[payer.id] == results[other.id] == (RunResult.ISSUED, False)
    assert {results[child.id] for child in family} == {(RunResult.SKIPPED, True)}
