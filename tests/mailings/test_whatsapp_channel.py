"""Wazzup's API v3 on loopback: what is posted, how answers are read; its webhook moves messages; SMS go to WhatsApp."""

from __future__ import annotations

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import reach
from crm.db import db, transaction
from crm.mailings.callbacks import EARLY
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.channels.whatsapp import WazzupSender
from crm.mailings.delivery import begin_sending, deliver_batch, settle_message, take_messages
from crm.mailings.models import Message, MessageStatus, ProviderKind
from crm.mailings.operations import resend_messages
from crm.mailings.providers import ProviderFacts, channels_of, connect_provider, save_provider
from tests.factories import make_client, make_message
from tests.mailings.services import service

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


def statuses(*words, number=NUMBER, at=None, **more):
    told = (at or clock.now()).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"statuses": [{"messageId": number, "timestamp": told, "status": word, **more} for word in words]}


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


def begin_one(network):
    """A message the service has taken, whose number is not noted yet."""
    make_message(make_client(network.lesnoy), channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    (claim,) = take_messages()
    return begin_sending(claim).claim


def test_what_is_of_a_stranger_is_not_told_again_for_long(network, provider, call):
    """One that another has read before ours was begun, or long after: its worker was killed."""
    begun = clock.now()
    begin_one(network)
    assert call(provider, statuses("read", number="by hand", at=begun - 2 * EARLY)).status_code == 200
    assert call(provider, statuses("read", number="by hand", at=begun)).status_code == 503
    with clock.frozen(begun + 2 * EARLY):
        assert call(provider, statuses("read", number="by hand")).status_code == 200


@pytest.mark.parametrize("told", ["9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00", "yesterday", "", 5, None])
def test_a_moment_that_makes_no_sense_is_no_error(network, provider, call, told):
    begin_one(network)
    body = statuses("read", number="by hand")
    body["statuses"][0]["timestamp"] = told
    assert call(provider, body).status_code in {200, 503}


def test_an_error_told_of_a_message_whose_fate_was_unknown_fails_it(network, provider, call):
    claim = begin_one(network)
    settle_message(claim, Outcome(Fate.UNKNOWN, "HTTP 500", external_id=NUMBER))
    call(provider, statuses("error", error={"error": "BAD_CONTACT"}))
    message = db.session.get_one(Message, claim.message_id, populate_existing=True)
    assert message.status is MessageStatus.FAILED
    assert message.error.startswith("BAD_CONTACT ")


def test_what_is_told_of_a_former_try_does_not_touch_the_next(network, provider, call):
    message = make_message(make_client(network.lesnoy), channel=Channel.WHATSAPP, recipient=PHONE, subject="")
    deliver_batch()
    call(provider, statuses("error"))
    with transaction():
        resend_messages([db.session.get_one(Message, message.id, populate_existing=True)], by=SYSTEM)
    call(provider, statuses("error"))
    db.session.expire_all()
    assert message.status is MessageStatus.PENDING


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
