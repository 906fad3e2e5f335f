"""Several people at once: one run, of the branch its rule is in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, scoped_to
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.models import MailingKind, MailingRule, MailingRun
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.runs import hold_rule, plan_due_runs, run_now
from crm.mailings.selection import SelectionFacts, WrittenWay, change_selection, mail_selection
from tests.factories import make_client, make_rule, make_template


def test_many_who_press_run_now_make_one_run(network, in_parallel):
    rule_id = make_rule(network.lesnoy, kind=MailingKind.TEXT).id

    def press(_index):
        with transaction():
            return run_now(db.session.get_one(MailingRule, rule_id), by=SYSTEM).id

    assert len(set(in_parallel(press))) == 1
    assert db.session.scalar(select(func.count()).select_from(MailingRun)) == 1


def test_who_presses_while_the_schedule_makes_a_run_gets_that_one(app, network):
    rule = make_rule(network.lesnoy, kind=MailingKind.TEXT)
    rule_id, moment = rule.id, clock.at(clock.today(network.lesnoy), rule.send_time, network.lesnoy)
    with transaction():
        rule.schedule_since = moment - timedelta(days=2)
    pressed = list[int]()

    def press():
        with app.app_context(), scoped_to(EVERYWHERE), transaction():
            pressed.append(run_now(db.session.get_one(MailingRule, rule_id), by=SYSTEM).id)

    presser = threading.Thread(target=press)
    with transaction():
        (planned,) = plan_due_runs(now=moment + timedelta(minutes=1))
        presser.start()
        presser.join(1)
        assert presser.is_alive()  # waits
        planned_id = planned.id
    presser.join(30)
    assert pressed == [planned_id]


# --- moved to another branch while a run begins ----------------------------------------------------------------------

NOW = datetime(2027, 3, 1, 8, tzinfo=UTC)


@pytest.fixture
def rule(network):
    """Due an hour ago, at ten at its branch."""
    with clock.frozen(NOW - timedelta(days=1)):
        return make_rule(network.lesnoy, kind=MailingKind.TEXT, template=make_template(body="Здравствуйте!"))


def move(rule, branch):
    ways = [Way(Channel.EMAIL, rule.ways[0].template)]
    facts = RuleFacts(name=rule.name, branch=branch, kind=rule.kind, send_time=rule.send_time, ways=ways)
    save_rule(rule, facts, by=SYSTEM)


@contextmanager
def meanwhile(app, act: Callable[[], None]):
    """The block in a transaction; somebody acts before it is committed, and waits for that."""

    def other():
        with app.app_context(), scoped_to(EVERYWHERE):
            act()

    actor = threading.Thread(target=other)
    with clock.frozen(NOW):  # of both: threads share the clock
        with transaction():
            yield
            actor.start()
            actor.join(1)
            assert actor.is_alive()
        actor.join(30)
    db.session.expire_all()


BEGIN = {
    "by hand": lambda rule_id: [run_now(db.session.get_one(MailingRule, rule_id), by=SYSTEM)],
    "by the clock": lambda _rule_id: plan_due_runs(now=NOW),
}


@pytest.mark.parametrize("how", BEGIN)
def test_who_moves_a_rule_while_a_run_of_it_begins_is_refused(app, network, rule, how):
    rule_id, branch_id, said = rule.id, network.lesnoy.id, []

    def other():
        with pytest.raises(DomainError) as refused, transaction():
            rule = db.session.get_one(MailingRule, rule_id)
            move(rule, db.session.get_one(Branch, mira_id))
        said.append((refused.value.code, refused.value.field))

    mira_id = network.mira.id
    with meanwhile(app, other):
        (run,) = BEGIN[how](rule_id)
    assert said == [("run_under_way", "branch")]
    assert (rule.branch_id, run.branch_id) == (branch_id, branch_id)


@pytest.mark.parametrize(("how", "begun"), [("by hand", 1), ("by the clock", 0)])
def test_a_run_that_begins_while_its_rule_moves_is_of_the_new_branch(app, network, rule, how, begun):
    """By the clock there is none: the rule has a new schedule."""
    rule_id, mira_id = rule.id, network.mira.id

    def other():
        with transaction():
            BEGIN[how](rule_id)

    with meanwhile(app, other):
        move(rule, network.mira)
    runs = db.session.scalars(select(MailingRun.branch_id).order_by(MailingRun.id)).all()
    assert (rule.branch_id, runs) == (mira_id, [mira_id] * begun)


def test_a_message_to_a_selection_is_sent_while_somebody_saves_a_change_of_it(app, network):
    """Both take its rule first, and none waits for the other in vain."""
    make_client(network.lesnoy)
    facts = SelectionFacts("Новость", [WrittenWay(Channel.EMAIL, None, "Тема", "Привет")], date(2027, 3, 12), time(10))
    with clock.frozen(NOW), transaction():
        (run,) = mail_selection(facts, select(Client.id), by=SYSTEM)
    rule_id, failed = run.rule_id, []

    def change():
        with app.app_context(), scoped_to(EVERYWHERE):
            try:
                with transaction():
                    change_selection(db.session.get_one(MailingRule, rule_id), facts, by=SYSTEM)
            except Exception as error:
                failed.append(error)

    actor = threading.Thread(target=change)
    with clock.frozen(NOW):  # of both: threads share the clock
        with transaction():
            rule = db.session.get_one(MailingRule, rule_id)
            hold_rule(rule)
            actor.start()
            actor.join(1)
            assert actor.is_alive()
            run_now(rule, by=SYSTEM)
        actor.join(30)
    assert (failed, actor.is_alive()) == ([], False)
