"""SMS in the outbox: beside the letters, with a fate of their own."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from crm import clock, mail_sink
from crm.access.actors import SYSTEM
from crm.clients.models import PhoneKind
from crm.config import SMS_BODY, SmsSettings
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mailings.channels.base import Fate
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageStatus
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from tests.factories import make_client, make_message, make_rule, make_subscription, make_template
from tests.mailings.services import DROP, service
from tests.servers import free_port


@pytest.fixture
def gateway(app, monkeypatch):
    """The gateway the app sends SMS through."""
    with service() as server:
        use(app, monkeypatch, SmsSettings("http", server.url, "secret", body=SMS_BODY, ok="status=ok", id="id"))
        server.say({"status": "ok", "id": 5})
        yield server


def use(app, monkeypatch, sms, **more):
    monkeypatch.setitem(app.config, "SETTINGS", dataclasses.replace(app.config["SETTINGS"], sms=sms, **more))


def make_sms(client, **changes):
    return make_message(client, **{"channel": Channel.SMS, "recipient": client.phone, "subject": "", **changes})


def fresh(message):
    db.session.refresh(message)
    return message


def test_an_sms_leaves_and_the_providers_number_of_it_is_kept(network, gateway):
    client = make_client(network.lesnoy)
    message = make_sms(client)
    assert deliver_batch().fates[Fate.SENT] == 1
    assert (fresh(message).status, message.external_id) == (MessageStatus.SENT, "5")
    assert gateway.calls[0].fields["phone"] == client.phone


def test_an_sms_that_may_have_left_is_never_sent_again_by_itself(network, gateway):
    message = make_sms(make_client(network.lesnoy))
    gateway.fate = DROP
    deliver_batch()
    gateway.fate = ""
    with clock.frozen(clock.now() + timedelta(days=30)):
        deliver_batch()
    assert fresh(message).status is MessageStatus.UNKNOWN
    assert len(gateway.calls) == 1


def test_many_workers_send_each_sms_once(network, gateway, in_parallel):
    client = make_client(network.lesnoy)
    for number in range(12):
        make_sms(client, body=str(number))
    assert sum(in_parallel(lambda _: deliver_batch().fates[Fate.SENT], times=4)) == 12
    assert sorted(int(post.fields["text"]) for post in gateway.calls) == list(range(12))


def test_letters_wait_for_no_sms_nor_sms_for_letters(app, network, smtp, monkeypatch):
    client = make_client(network.lesnoy)
    use(app, monkeypatch, SmsSettings("http", f"http://127.0.0.1:{free_port()}/", "", body=SMS_BODY))
    waiting = [make_sms(client) for _ in range(3)]
    letter = make_message(client)
    delivered = deliver_batch(limit=3)
    assert fresh(letter).status is MessageStatus.SENT
    assert [fresh(message).status for message in waiting] == [MessageStatus.PENDING] * 3
    assert (delivered.fates[Fate.UNREACHABLE], delivered.fates[Fate.SENT]) == (1, 1)


def test_without_a_gateway_sms_wait_and_say_why(network, smtp):
    message = make_sms(make_client(network.lesnoy))
    assert not any(deliver_batch().fates.values())
    assert (fresh(message).status, message.attempts) == (MessageStatus.PENDING, 0)
    assert "SMS_URL" in message.error


def test_in_the_demo_sms_arrive_in_its_mailbox(app, network, monkeypatch, tmp_path):
    use(app, monkeypatch, None, is_demo=True, data_dir=tmp_path)
    client = make_client(network.lesnoy)
    message = make_sms(client, body="Счёт: https://kontora.test/pay/abc")
    deliver_batch()
    assert fresh(message).status is MessageStatus.SENT
    (received,) = mail_sink.letters(tmp_path / "mail")
    assert (received.is_sms, received.recipient) == (True, client.phone)
    assert received.text.strip() == message.body


def test_a_mailing_by_sms_goes_to_mobile_phones(network):
    mobile = make_client(network.lesnoy, email="")
    fixed = make_client(network.lesnoy, phone_kind=PhoneKind.HOME)
    for client in (mobile, fixed):
        make_subscription(client)
    template = make_template(channel=Channel.SMS, subject="", body="{bill.url}")
    rule = make_rule(network.lesnoy, template=template, channel=Channel.SMS)
    with transaction():
        run = run_now(rule, by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    (message,) = db.session.query(Message).all()
    assert (message.channel, message.recipient) == (Channel.SMS, mobile.phone)
    reasons = {line.client_id: line.reason for line in run.lines}
    assert reasons[fixed.id] == "SMS: нет мобильного телефона."


def test_an_sms_queued_to_a_landline_is_refused_with_the_reason(network, gateway):
    message = make_sms(make_client(network.lesnoy), recipient="+74951234567")
    assert deliver_batch().fates[Fate.REFUSED] == 1
    assert (fresh(message).status, gateway.calls) == (MessageStatus.FAILED, [])
    assert "городской" in message.error
