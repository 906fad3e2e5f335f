"""The queue is only a bell: with it work begins at once, without it a minute later, and nothing is lost."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
import redis
from flask import Flask
from rq import SimpleWorker
from sqlalchemy import select

from crm import clock, create_app
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bell import ring
from crm.bills.models import Bill
from crm.db import db, transaction
from crm.jobs.queues import QUEUE, queue
from crm.jobs.schedule import run_due
from crm.mailings.models import MessageStatus, RunStatus
from crm.mailings.operations import send_message_to
from crm.mailings.runs import run_now
from tests.factories import make_client, make_message, make_rule, make_subscription
from tests.servers import free_port


def work_off(app: Flask) -> None:
    """Let a worker answer every ring there is."""
    SimpleWorker([QUEUE], connection=redis.Redis.from_url(app.config["SETTINGS"].redis_url)).work(
        burst=True, logging_level="WARNING"
    )
    db.session.expire_all()


@pytest.fixture
def deaf(app):
    """The same app with a queue server that is not there."""
    settings = dataclasses.replace(app.config["SETTINGS"], redis_url=f"redis://127.0.0.1:{free_port()}/0")
    other = create_app(settings)
    db.session.commit()
    with other.app_context(), scoped_to(EVERYWHERE):
        yield other
        db.session.remove()
        db.engine.dispose()


def test_a_letter_leaves_as_soon_as_its_cause_is_committed(app, network, smtp):
    client = make_client(network.lesnoy)
    with transaction():
        message = send_message_to(client, subject="Привет", text="Здравствуйте!", by=SYSTEM)
        assert queue().count == 0
    assert queue().count == 1
    work_off(app)
    assert message.status is MessageStatus.SENT
    assert [received.subject for received in smtp.messages] == ["Привет"]


def test_nothing_rings_for_what_was_rolled_back(app, network):
    client = make_client(network.lesnoy)
    with pytest.raises(RuntimeError), transaction():
        send_message_to(client, subject="Привет", text="Здравствуйте!", by=SYSTEM)
        raise RuntimeError
    assert queue().count == 0


@pytest.mark.spec("B3", "B103")
def test_a_mailing_by_run_now_ends_in_a_letter(app, network, smtp):
    make_subscription(make_client(network.lesnoy, email="anna@demo.test"))
    with transaction():
        run = run_now(make_rule(network.lesnoy), by=network.director)
    work_off(app)
    assert run.status is RunStatus.DONE
    (received,) = smtp.messages
    assert received.recipients == ["anna@demo.test"]
    bill = db.session.scalars(select(Bill)).one()
    assert bill.token in received.text


@pytest.mark.spec("B3", "B101")
def test_a_mailing_by_the_clock_ends_in_a_letter(app, network, smtp):
    make_subscription(make_client(network.lesnoy))
    now = clock.now()
    rule = make_rule(network.lesnoy, send_time=(clock.local(now, network.lesnoy) + timedelta(hours=1)).time())
    with clock.frozen(now + timedelta(minutes=59)):
        run_due(clock.now())
        work_off(app)
    assert smtp.messages == []
    with clock.frozen(now + timedelta(minutes=61)):
        run_due(clock.now())
        work_off(app)
    assert len(smtp.messages) == 1
    assert rule.name


def test_a_wiped_queue_is_made_good_by_the_sweep(app, network, smtp):
    make_subscription(make_client(network.lesnoy))
    message = make_message(make_client(network.lesnoy))
    with transaction():
        run = run_now(make_rule(network.lesnoy), by=SYSTEM)
    queue().connection.flushall()
    work_off(app)
    assert (run.status, message.status) == (RunStatus.PLANNED, MessageStatus.PENDING)
    run_due(clock.now())
    work_off(app)
    assert (run.status, message.status) == (RunStatus.DONE, MessageStatus.SENT)
    assert len(smtp.messages) == 2


def test_without_a_queue_the_cause_is_kept_and_the_caller_served(deaf, network):
    client_id = network.lesnoy.id
    with transaction():
        message = make_message(make_client(db.session.get(type(network.lesnoy), client_id)))
        ring("mailings.deliver")
    assert message.status is MessageStatus.PENDING
    answer = deaf.test_client().get("/readyz")
    assert (answer.status_code, answer.json["reasons"]) == (503, ["the queue does not answer"])
    assert "kontora_queue_length" not in deaf.test_client().get("/metrics").text


def test_a_task_that_fails_is_reported_and_leaves_no_scope_behind(app, network):
    with transaction():
        ring("mailings.execute_run", "not a number")
    work_off(app)
    assert queue().count == 0
