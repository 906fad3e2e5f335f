"""Viber's REST bot API on loopback: what is posted, how answers are read; signed events link and move messages."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.contacts.models import Channel, Contact, MessageKind
from crm.contacts.operations import contact_url
from crm.contacts.queries import address_for, reach
from crm.db import db, transaction
from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.viber import ViberSender
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import MessageStatus, ProviderKind
from crm.mailings.providers import ProviderFacts, channels_of, connect_provider, save_provider
from tests.factories import make_client, make_message
from tests.mailings.services import service

KEY = "445da6az1s345z78-dazcczb2542zv51a-e0vc5fva17480im9"
USER = "01234567890A="
NUMBER = 5741311803571721087
LETTER = Letter("manual:1", "Лесная школа на Лесной улице, дом 1", "school@demo.test", "Анна", USER, "", "Счёт готов")
TAKEN = {"status": 0, "status_message": "ok", "message_token": NUMBER}


@pytest.fixture(autouse=True)
def _texts(app):
    """The texts of errors are in the language of the application."""


@pytest.fixture
def bot_api():
    with service() as server:
        server.say(TAKEN)
        yield server


@pytest.fixture
def bot(network, bot_api):
    facts = ProviderFacts(network.company, ProviderKind.VIBER, bot_api.url, KEY, options={"bot": "lesnaya"})
    with transaction():
        return save_provider(None, facts, by=SYSTEM)


@pytest.fixture
def viber(web, bot):
    """Viber's HTTP client: it signs what it tells by the bot's key."""
    client = web()
    client.with_csrf = False

    def call(event, *, key=KEY):
        body = json.dumps(event).encode()
        signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
        return client.post(f"/channels/{bot.token}", data=body, headers={"X-Viber-Content-Signature": signature})

    return call


def send(bot_api, letter=LETTER, url=None):
    sender = ViberSender(KEY, url or bot_api.url)
    try:
        return sender.send(letter)
    finally:
        sender.close()


def opened(token):
    return {"event": "conversation_started", "timestamp": 1, "message_token": 1, "type": "open", "context": token,
            "user": {"id": USER, "name": "Анна"}, "subscribed": False}  # fmt: skip


def told(event, **more):
    return {"event": event, "timestamp": 1457764197627, "message_token": NUMBER, "user_id": USER, **more}


def token_of(client):
    with transaction():
        return contact_url(client).rpartition("/")[2]


def test_a_text_is_posted_with_the_key_in_the_header(bot_api):
    outcome = send(bot_api)
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, str(NUMBER))
    (call,) = bot_api.calls
    assert (call.path, call.headers["x-viber-auth-token"]) == ("/pa/send_message", KEY)
    name = LETTER.sender_name[:28]
    assert call.fields == {"receiver": USER, "type": "text", "text": LETTER.text, "sender": {"name": name}}


@pytest.mark.parametrize(
    ("code", "fate", "is_gone"),
    [
        (2, Fate.UNREACHABLE, False),
        (3, Fate.REFUSED, False),
        (5, Fate.REFUSED, True),
        (6, Fate.REFUSED, False),
        (12, Fate.UNREACHABLE, False),
        (24, Fate.UNREACHABLE, False),
        (99, Fate.REFUSED, False),
    ],
)
def test_codes(bot_api, code, fate, is_gone):
    bot_api.say({"status": code, "status_message": "as Viber says"})
    outcome = send(bot_api)
    assert (outcome.fate, outcome.is_gone) == (fate, is_gone)
    assert outcome.reason.startswith(f"{code} ")


@pytest.mark.parametrize(
    ("status", "fate", "wait"), [(429, Fate.UNREACHABLE, 9), (500, Fate.UNKNOWN, 0), (400, Fate.REFUSED, 0)]
)
def test_statuses_of_http(bot_api, status, fate, wait):
    bot_api.say("нет", status, Retry_After="9")
    outcome = send(bot_api)
    assert (outcome.fate, outcome.retry_after) == (fate, wait)


def test_the_webhook_is_set(bot, bot_api):
    bot_api.say({"status": 0, "status_message": "ok", "event_types": []})
    assert connect_provider(bot) == ""
    assert bot_api.calls[0].path == "/pa/set_webhook"
    assert bot_api.calls[0].fields["url"].endswith(f"/channels/{bot.token}")
    bot_api.say({"status": 1, "status_message": "invalidUrl"})
    assert connect_provider(bot).startswith("1 ")


@pytest.mark.spec("C156")
def test_a_client_links_himself_by_the_context_and_is_detached_when_he_unsubscribes(network, viber):
    client = make_client(network.lesnoy)
    answer = viber(opened(token_of(client)))
    assert (answer.status_code, answer.json["type"]) == (200, "text")
    assert address_for(client, Channel.VIBER) == USER
    for _ in range(2):
        assert viber(told("unsubscribed")).status_code == 200
    assert address_for(client, Channel.VIBER) is None


def test_a_forged_event_links_nobody(network, viber):
    client = make_client(network.lesnoy)
    assert viber(opened(token_of(client)), key="guess").status_code == 403
    assert db.session.scalar(select(Contact)) is None


def test_the_event_by_which_viber_tries_the_webhook_is_answered(viber):
    assert viber({"event": "webhook", "timestamp": 1, "message_token": 1}).status_code == 200


def test_a_message_goes_out_is_delivered_and_read_in_any_order_and_twice(network, viber):
    client = make_client(network.lesnoy)
    message = make_message(client, channel=Channel.VIBER, recipient=USER, subject="")
    deliver_batch()
    steps = [
        ("delivered", MessageStatus.DELIVERED),
        ("delivered", MessageStatus.DELIVERED),
        ("seen", MessageStatus.READ),
        ("delivered", MessageStatus.READ),
    ]
    for event, status in steps:
        assert viber(told(event)).status_code == 200
        db.session.expire_all()
        assert message.status is status


def test_a_message_viber_could_not_deliver_has_failed_with_its_words(network, viber):
    message = make_message(make_client(network.lesnoy), channel=Channel.VIBER, recipient=USER, subject="")
    deliver_batch()
    viber(told("failed", desc="failure description"))
    db.session.expire_all()
    assert (message.status, message.error) == (MessageStatus.FAILED, "failure description")


def test_a_message_of_another_channel_is_not_moved(network, viber):
    message = make_message(make_client(network.lesnoy), status=MessageStatus.SENT, external_id=str(NUMBER))
    viber(told("delivered"))
    db.session.expire_all()
    assert message.status is MessageStatus.SENT


def test_where_the_company_has_a_bot_the_client_gets_viber_instead_of_an_sms(network, viber):
    client = make_client(network.lesnoy, phone="+79161234567")
    ways = channels_of(network.company.id, Channel.SMS, is_personal=True)
    assert reach([client], MessageKind.PERSONAL, ways)[client.id] == (Channel.SMS, "+79161234567")
    viber(opened(token_of(client)))
    assert reach([client], MessageKind.PERSONAL, ways)[client.id] == (Channel.VIBER, USER)
