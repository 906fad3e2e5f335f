"""Two companies send by gateways of their own, at their own price; others by that of the installation."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm.access.models import Branch, Company
from crm.config import SMS_BODY, SmsSettings
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageCharge, MessageStatus, ProviderKind
from tests.factories import make_client, make_message, make_provider
from tests.mailings.services import service


@pytest.fixture
def others(network):
    """Branches of two further companies."""
    with transaction():
        branches = []
        for name in ("Вторая", "Третья"):
            company = Company(name=name)
            db.session.add(company)
            db.session.flush()
            branch = Branch(
                company_id=company.id, city_id=network.moscow.id, name=f"Филиал {name}", time_zone="Europe/Moscow"
            )
            db.session.add(branch)
            branches.append(branch)
    return branches


def make_sms(branch, **changes):
    client = make_client(branch)
    facts = {"channel": Channel.SMS, "recipient": client.phone, "subject": "", "body": "Привет", **changes}
    return make_message(client, **facts)


def phones(gateway, name):
    return sorted(post.fields[name].lstrip("+") for post in gateway.calls)


def test_each_company_sends_by_its_own(app, network, others, monkeypatch):
    with service() as own, service() as smsru, service() as common:
        settings = SmsSettings("http", common.url, "of-all", body=SMS_BODY)
        monkeypatch.setitem(app.config, "SETTINGS", dataclasses.replace(app.config["SETTINGS"], sms=settings))
        first = make_sms(network.lesnoy, body="Привет " * 20)  # 140 places: three parts of UCS-2
        second, third = (make_sms(branch) for branch in others)
        own.say({"result": {"taken": True, "id": 5}})
        number = second.recipient.lstrip("+")
        of_number = {number: {"status": "OK", "status_code": 100, "sms_id": "7-1"}}
        smsru.say({"status": "OK", "status_code": 100, "sms": of_number})
        make_provider(
            network.company,
            ProviderKind.HTTP,
            url=own.url,
            secret="key-1",
            sender="ONE",
            price=Decimal("2.50"),
            options={"body": "to={digits}&msg={text}&from={sender}", "ok": "result.taken=true", "id": "result.id"},
        )
        make_provider(others[0].company, ProviderKind.SMSRU, url=smsru.url, secret="key-2", price=Decimal("3"))
        deliver_batch()
        db.session.expire_all()
        assert [one.status for one in (first, second, third)] == [MessageStatus.SENT] * 3
        assert [one.external_id for one in (first, second, third)] == ["5", "7-1", ""]
        assert (phones(own, "to"), phones(smsru, "to"), phones(common, "phone")) == (
            [first.recipient.lstrip("+")],
            [number],
            [third.recipient.lstrip("+")],
        )
        assert own.calls[0].headers["authorization"] == "Bearer key-1"
        assert own.calls[0].fields["from"] == "ONE"
        assert smsru.calls[0].fields["api_id"] == "key-2"
        assert common.calls[0].headers["authorization"] == "Bearer of-all"
    charged = db.session.execute(select(MessageCharge.company_id, MessageCharge.amount).order_by(MessageCharge.id))
    companies = {network.company.id: Decimal("7.50"), others[0].company_id: Decimal(3)}
    assert dict(charged.all()) == companies


def test_one_switched_off_is_not_used(app, network, others, monkeypatch):
    with service() as own, service() as common:
        settings = SmsSettings("http", common.url, "of-all", body=SMS_BODY)
        monkeypatch.setitem(app.config, "SETTINGS", dataclasses.replace(app.config["SETTINGS"], sms=settings))
        make_provider(network.company, ProviderKind.HTTP, url=own.url, is_active=False)
        make_sms(network.lesnoy)
        deliver_batch()
        assert (len(own.calls), len(common.calls)) == (0, 1)


def test_a_key_that_cannot_be_read_any_more_keeps_messages_waiting(network):
    with service() as gateway:
        provider = make_provider(network.company, ProviderKind.HTTP, url=gateway.url)
        message = make_sms(network.lesnoy)
        with transaction():
            provider.secret = ""  # what another SECRET_KEY reads
        deliver_batch()
        db.session.expire_all()
        assert (gateway.calls, message.status) == ([], MessageStatus.PENDING)
        assert "ключ" in db.session.scalars(select(Message.error)).one()


@pytest.mark.spec("B103")
def test_messages_leave_by_email_sms_and_telegram(network, smtp):
    with service() as gateway, service() as telegram:
        telegram.say({"ok": True, "result": {"message_id": 41}})
        make_provider(network.company, ProviderKind.HTTP, url=gateway.url)
        make_provider(network.company, ProviderKind.TELEGRAM, url=telegram.url, secret="1:key")
        client = make_client(network.lesnoy)
        letter = make_message(client, body="Письмо")
        sms = make_message(client, channel=Channel.SMS, recipient=client.phone, subject="", body="Сообщение")
        chat = make_message(client, channel=Channel.TELEGRAM, recipient="777", subject="", body="Чат")
        deliver_batch()
        db.session.expire_all()
        assert [one.status for one in (letter, sms, chat)] == [MessageStatus.SENT] * 3
        assert [post.fields["text"] for post in gateway.calls] == ["Сообщение"]
        assert [call.fields["text"] for call in telegram.calls] == ["Чат"]
        assert len(smtp.messages) == 1
