"""Several people at once, by the real clock: one run."""

from __future__ import annotations

import threading
from datetime import timedelta

from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import db, transaction
from crm.mailings.models import MailingKind, MailingRule, MailingRun
from crm.mailings.runs import plan_due_runs, run_now
from tests.factories import make_rule


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
