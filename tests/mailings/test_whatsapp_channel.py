"""Wazzup's API v3 on loopback: what is posted, how answers are read; its webhook moves messages; SMS go to WhatsApp."""

from __future__ import annotations

import pytest

from crm.access.actors import SYSTEM
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import reach
from crm.db import db, transaction
from crm.mailings.channels import api
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.channels.whatsapp import WazzupSender
from crm.mailings.delivery import begin_sending, deliver_batch, settle_message, take_messages
from crm.mailings.models import MessageStatus, ProviderKind
from crm.mailings.providers import ProviderFacts, channels_of, connect_provider, save_provider
from tests.factories import make_client, make_message
from tests.mailings.services import DROP, SILENCE, service
from tests.servers import free_port

KEY = "c8cf90474d8f4a5d8f3b"
CHANNEL = "e0629e11-0f67-4567-92a9-2237e91ec1b9"
NUMBER = "4f9d4c2a-6a3c-4b0c-9d53-0d1a2b3c4d5e"
PHONE = "+79161234567"
LETTER = Letter("manual:1", "Лесная школа", "school@demo.test", "Анна", PHONE, "", "Счёт готов")


@pytest.fixture(autouse=True)
def _texts(app):
    """The texts of errors are in the language of the application."""


@pytest.fixture
def wazzup():
    with service() as server:
        server.say({"messageId": NUMBER, "chatId": "79161234567"}, 201)
        yield server


def save(network, wazzup, **options):
    facts = ProviderFacts(
        network.company, ProviderKind.WHATSAPP, wazzup.url, KEY, options={"channel": CHANNEL, **options}
    )
    with transaction():
        return save_provider(None, facts, by=SYSTEM)


@pytest.fixture
def provider(network, wazzup):
    return save(network, wazzup)


@pytest.fixture
def call(web):
    client = web()
    client.with_csrf = False
    return lambda provider, body, **headers: client.post(f"/channels/{provider.token}", json=body, headers=headers)


def send(wazzup, url=None):
    sender = WazzupSender(KEY, CHANNEL, url or wazzup.url)
    try:
        return sender.send(LETTER)
    finally:
        sender.close()


def statuses(*words, **more):
    return {"statuses": [{"messageId": NUMBER, "timestamp": "2026-11-30T08:00:00Z", "status": word, **more}
                         for word in words]}  # fmt: skip


def test_what_wazzup_documents_is_posted(wazzup):
    outcome = send(wazzup)
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, NUMBER)
    (post,) = wazzup.calls
    assert (post.method, post.path, post.headers["authorization"]) == ("POST", "/message", f"Bearer {KEY}")
    assert post.fields == {
        "channelId": CHANNEL,
        "chatType": "whatsapp",
        "chatId": "79161234567",
        "text": LETTER.text,
        "crmMessageId": "manual:1",
    }


@pytest.mark.parametrize(
    ("status", "error", "fate"),
    [
        (400, "CHANNEL_NO_MONEY", Fate.UNREACHABLE),
        (400, "channelNotFound", Fate.UNREACHABLE),
        (400, "MESSAGES_IS_SPAM", Fate.REFUSED),
        (400, "SOMETHING_NEW", Fate.REFUSED),
        (400, "repeatedCrmMessageId", Fate.SENT),
        (400, "REPEATED_CRM_MESSAGE_ID", Fate.SENT),
        (401, "UNAUTHORIZED", Fate.UNREACHABLE),
        (403, "FORBIDDEN", Fate.UNREACHABLE),
        (500, "UNKNOWN_ERROR", Fate.UNKNOWN),
    ],
)
def test_errors(wazzup, status, error, fate):
    wazzup.say({"error": error, "description": "as Wazzup says"}, status)
    outcome = send(wazzup)
    assert outcome.fate is fate
    assert (error in outcome.reason) is (fate is not Fate.SENT)


def test_a_limit_is_waited_for(wazzup):
    wazzup.say("Too many", 429, Retry_After="5")
    outcome = send(wazzup)
    assert (outcome.fate, outcome.retry_after) == (Fate.UNREACHABLE, 5)


@pytest.mark.parametrize("answer", [pytest.param("[" * 100_000, id="deep"), "<html>", {}, []])
def test_an_answer_that_says_nothing_is_unknown(wazzup, answer):
    wazzup.say(answer)
    assert send(wazzup).fate is Fate.UNKNOWN


def test_a_refused_connection_leaves_the_message_in_its_turn(wazzup):
    assert send(wazzup, url=f"http://127.0.0.1:{free_port()}").fate is Fate.UNREACHABLE


@pytest.mark.parametrize("fate", [DROP, SILENCE])
def test_once_handed_over_without_an_answer_the_fate_is_unknown(wazzup, fate, monkeypatch):
    monkeypatch.setattr(api, "TIMEOUT", api.httpx.Timeout(0.3))
    wazzup.fate = fate
    assert send(wazzup).fate is Fate.UNKNOWN
    assert len(wazzup.calls) == 1


def test_the_webhook_is_set(provider, wazzup):
    wazzup.say({"ok": True})
    assert connect_provider(provider) == ""
    (patch,) = wazzup.calls
    assert (patch.method, patch.path) == ("PATCH", "/webhooks")
    assert patch.fields["webhooksUri"].endswith(f"/channels/{provider.token}")
    assert patch.fields["subscriptions"] == {"messagesAndStatuses": True}
    wazzup.say({"error": "testPostNotPassed", "description": "no answer"}, 400)
    assert "testPostNotPassed" in connect_provider(provider)


def test_the_trial_call_is_answered(provider, call):
    assert call(provider, {"test": True}).status_code == 200


def test_a_message_goes_out_and_its_statuses_come(network, provider, call):
    message = make_message(make_client(network.lesnoy), channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    deliver_batch()
    for words, status in (
        (["sent"], MessageStatus.SENT),
        (["delivered", "read"], MessageStatus.READ),
        (["delivered"], MessageStatus.READ),
    ):
        assert call(provider, statuses(*words)).status_code == 200
        db.session.expire_all()
        assert message.status is status


def test_a_status_that_comes_before_the_number_is_noted_is_told_again(network, provider, call):
    client = make_client(network.lesnoy)
    former = make_message(client, channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    deliver_batch()
    message = make_message(client, channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    (claim,) = take_messages()
    claim = begin_sending(claim).claim
    early = statuses("read")
    early["statuses"].append({**early["statuses"][0], "messageId": "new"})
    assert call(provider, early).status_code == 503
    db.session.expire_all()
    assert (former.status, message.status) == (MessageStatus.SENT, MessageStatus.SENDING)
    settle_message(claim, Outcome(Fate.SENT, external_id="new"))
    assert call(provider, early).status_code == 200
    db.session.expire_all()
    assert (former.status, message.status) == (MessageStatus.READ, MessageStatus.READ)
    # While nothing is on its way, what is of nobody's message is of what staff write by the same phone.
    early["statuses"][1]["messageId"] = "by hand"
    assert call(provider, early).status_code == 200


def test_an_error_told_later_fails_the_message_in_words(network, provider, call):
    message = make_message(make_client(network.lesnoy), channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    deliver_batch()
    call(provider, statuses("error", error={"error": "BAD_CONTACT", "description": "no such account"}))
    db.session.expire_all()
    assert message.status is MessageStatus.FAILED
    assert message.error.startswith("BAD_CONTACT ")


@pytest.mark.parametrize("body", [{"statuses": 5}, {"statuses": [5, {}, {"messageId": 5, "status": "read"}]}, {}])
def test_what_makes_no_sense_moves_nothing(provider, call, body):
    assert call(provider, body).status_code == 200


def test_an_address_that_is_nobodys_is_404(web):
    client = web()
    client.with_csrf = False
    assert client.post("/channels/guess", json={}).status_code == 404


def test_sms_go_to_whatsapp_where_the_company_has_it_and_are_recorded_so(network, wazzup):
    client = make_client(network.lesnoy, phone=PHONE)

    def way():
        ways = channels_of(network.company.id, Channel.SMS)
        return reach([client], MessageKind.BILLS, ways)[client.id]

    assert way() == (Channel.SMS, PHONE)
    provider = save(network, wazzup)
    assert way() == (Channel.WHATSAPP, PHONE)
    with transaction():
        provider.is_active = False
    assert way() == (Channel.SMS, PHONE)
