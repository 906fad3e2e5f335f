"""What was definitely not sent one way goes the next way of its rule, once; what may have been sent does not."""

from __future__ import annotations

import pytest

from crm.access.actors import SYSTEM
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mailings.channels.base import Fate, Outcome
from crm.mailings.delivery import begin_sending, settle_message, take_messages
from crm.mailings.models import MailingWay, Message, MessageStatus
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from tests.factories import make_client, make_rule, make_subscription, make_template


@pytest.fixture
def letter(network):
    """A letter of a mailing whose second way is SMS."""
    make_subscription(make_client(network.lesnoy, email="anna@demo.test"))
    rule = make_rule(network.lesnoy)
    sms = make_template(name="SMS", channel=Channel.SMS, subject="", body="{bill.url}")
    with transaction():
        rule.ways.append(MailingWay(position=1, channel=Channel.SMS, template_id=sms.id))
    with transaction():
        run = run_now(rule, by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    return db.session.query(Message).one()


def send(fate):
    (claim,) = take_messages(limit=1)
    settle_message(begin_sending(claim).claim, Outcome(fate, "550"))


def test_what_was_refused_goes_the_next_way(letter):
    send(Fate.REFUSED)
    first, second = db.session.query(Message).order_by(Message.id).all()
    db.session.refresh(first)
    assert (first.status, second.status) == (MessageStatus.FAILED, MessageStatus.PENDING)
    assert (second.channel, second.recipient) == (Channel.SMS, first.client.phone)
    assert (second.bill_id, second.run_id, second.line_id) == (first.bill_id, first.run_id, first.line_id)
    assert second.kind is first.kind
    send(Fate.REFUSED)
    assert db.session.query(Message).count() == 2


@pytest.mark.parametrize("fate", [Fate.UNKNOWN, Fate.POSTPONED, Fate.SENT])
def test_what_may_have_left_or_is_tried_again_does_not(letter, fate):
    send(fate)
    assert db.session.query(Message).count() == 1
