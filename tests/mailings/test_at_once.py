"""Several people at once, by the real clock: one run."""

from __future__ import annotations

from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.mailings.models import MailingKind, MailingRule, MailingRun
from crm.mailings.runs import run_now
from tests.factories import make_rule


def test_many_who_press_run_now_make_one_run(network, in_parallel):
    rule_id = make_rule(network.lesnoy, kind=MailingKind.TEXT).id

    def press(_index):
        with transaction():
            return run_now(db.session.get_one(MailingRule, rule_id), by=SYSTEM).id

    assert len(set(in_parallel(press))) == 1
    assert db.session.scalar(select(func.count()).select_from(MailingRun)) == 1
