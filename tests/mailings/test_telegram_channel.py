"""Telegram's Bot API on loopback: what is posted, how answers are read; the webhook links and detaches clients."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, Company
from crm.contacts.models import Channel, Contact
from crm.contacts.operations import contact_url
from crm.contacts.queries import address_for
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.telegram import TelegramSender
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import Message, MessageStatus, ProviderKind
from crm.mailings.providers import ProviderFacts, channels_of, connect_provider, save_provider, webhook_secret
from tests.factories import make_client, make_message
from tests.mailings.services import service

KEY = "123456:AAE-key_of_the_bot"
LETTER = Letter("manual:1", "Лесная школа", "school@demo.test", "Анна", "777", "", "Счёт *1* <b>: http://k.test/_a_")
TAKEN = {"ok": True, "result": {"message_id": 41, "chat": {"id": 777, "type": "private"}, "text": "…"}}
BLOCKED = {"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}


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
    """The company's bot, at the local service."""
    facts = ProviderFacts(network.company, ProviderKind.TELEGRAM, bot_api.url, KEY, options={"bot": "lesnaya_bot"})
    with transaction():
        return save_provider(None, facts, by=SYSTEM)


@pytest.fixture
def telegram(web, bot):
    """Telegram's HTTP client: it calls the bot's webhook with the secret it was told."""
    client = web()
    client.with_csrf = False

    def call(update, *, secret=None):
        headers = {"X-Telegram-Bot-Api-Secret-Token": webhook_secret(bot) if secret is None else secret}
        return client.post(f"/channels/{bot.token}", json=update, headers=headers)

    return call


def send(bot_api, letter=LETTER, url=None):
    sender = TelegramSender(KEY, url or bot_api.url)
    try:
        return sender.send(letter)
    finally:
        sender.close()


def written(text, chat=777, kind="private"):
    return {"update_id": 1, "message": {"message_id": 5, "chat": {"id": chat, "type": kind}, "text": text}}


def token_of(client):
    with transaction():
        return contact_url(client).rpartition("/")[2]


# --- sending ---------------------------------------------------------------------------------------------------------


def test_a_plain_text_is_posted_and_the_number_kept(bot_api):
    outcome = send(bot_api)
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, "41")
    (call,) = bot_api.calls
    assert (call.method, call.path) == ("POST", f"/bot{KEY}/sendMessage")
    assert call.fields == {"chat_id": "777", "text": LETTER.text}


def test_who_has_blocked_the_bot_is_gone(bot_api):
    bot_api.say(BLOCKED, 403)
    outcome = send(bot_api)
    assert (outcome.fate, outcome.is_gone) == (Fate.REFUSED, True)
    assert "blocked by the user" in outcome.reason


def test_a_limit_is_waited_for(bot_api):
    bot_api.say({"ok": False, "error_code": 429, "description": "…", "parameters": {"retry_after": 17}}, 429)
    outcome = send(bot_api)
    assert (outcome.fate, outcome.retry_after) == (Fate.UNREACHABLE, 17)
    assert "17" in outcome.reason


@pytest.mark.parametrize(
    ("status", "said", "fate"),
    [
        (400, "Bad Request: message text is empty", Fate.REFUSED),
        (401, "Unauthorized", Fate.UNREACHABLE),
        (404, "Not Found", Fate.UNREACHABLE),
        (500, "Internal Server Error", Fate.UNKNOWN),
        (502, "Bad Gateway", Fate.UNKNOWN),
    ],
)
def test_errors(bot_api, status, said, fate):
    bot_api.say({"ok": False, "error_code": status, "description": said}, status)
    outcome = send(bot_api)
    assert (outcome.fate, outcome.is_gone) == (fate, False)
    assert said in outcome.reason


def test_a_refusal_of_a_proxy_detaches_nobody(bot_api):
    bot_api.say("<html>403</html>", 403)
    outcome = send(bot_api)
    assert (outcome.fate, outcome.is_gone) == (Fate.UNREACHABLE, False)


# --- the provider ----------------------------------------------------------------------------------------------------


def test_the_webhook_is_set_with_its_secret(bot, bot_api):
    bot_api.say({"ok": True, "result": True})
    assert connect_provider(bot) == ""
    fields = bot_api.calls[0].fields
    assert fields["url"].endswith(f"/channels/{bot.token}")
    assert fields["secret_token"] == webhook_secret(bot)
    bot_api.say({"ok": False, "error_code": 400, "description": "bad webhook: HTTPS url must be provided"}, 400)
    assert "HTTPS" in connect_provider(bot)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"company": None}, "company"),
        ({"url": "http://example.org"}, "url"),
        ({"secret": ""}, "secret"),
        ({"secret": "ключ"}, "secret"),
        ({"options": {}}, "bot"),
        ({"per_minute": 0}, "per_minute"),
        ({}, "kind"),
    ],
)
def test_a_provider_lacks_nothing(network, bot, changes, field):
    facts = {"company": network.company, "secret": KEY, "options": {"bot": "b"}, **changes}
    with pytest.raises(DomainError) as refusal, transaction():
        save_provider(None, ProviderFacts(**facts), by=SYSTEM)
    assert refusal.value.field == field


def test_an_empty_key_keeps_the_present_one(network, bot):
    facts = ProviderFacts(network.company, ProviderKind.TELEGRAM, options={"bot": "other"}, per_minute=20)
    with transaction():
        save_provider(bot, facts, by=SYSTEM)
    db.session.expire_all()
    assert (bot.secret, bot.options, bot.per_minute) == (KEY, {"bot": "other"}, 20)


# --- the webhook -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("C156")
def test_a_client_links_himself_and_is_detached_when_he_leaves(network, telegram):
    client = make_client(network.lesnoy)
    answer = telegram(written(f"/start {token_of(client)}"))
    assert answer.status_code == 200
    assert (answer.json["method"], answer.json["chat_id"]) == ("sendMessage", 777)
    assert address_for(client, Channel.TELEGRAM) == "777"
    kicked = {"chat": {"id": 777, "type": "private"}, "new_chat_member": {"status": "kicked"}}
    for _ in range(2):  # told twice
        assert telegram({"update_id": 2, "my_chat_member": kicked}).status_code == 200
    assert address_for(client, Channel.TELEGRAM) is None


def test_a_forged_call_links_nobody(network, telegram):
    client = make_client(network.lesnoy)
    assert telegram(written(f"/start {token_of(client)}"), secret="guess").status_code == 403
    assert db.session.scalar(select(Contact)) is None


@pytest.mark.parametrize("text", ["/start", "/start wrong", "/start a b", "привет", "/start \x00"])
def test_what_leads_nowhere_links_nobody(network, telegram, text):
    make_client(network.lesnoy)
    assert telegram(written(text)).status_code == 200
    assert db.session.scalar(select(Contact)) is None


def test_a_group_is_no_client(network, telegram):
    client = make_client(network.lesnoy)
    telegram(written(f"/start {token_of(client)}", chat=-100, kind="group"))
    assert address_for(client, Channel.TELEGRAM) is None


def test_a_client_of_another_company_is_not_linked(network, telegram):
    with transaction():
        other = Company(name="Другая")
        db.session.add(other)
        db.session.flush()
        branch = Branch(company_id=other.id, city_id=network.moscow.id, name="Чужой", time_zone="Europe/Moscow")
        db.session.add(branch)
    client = make_client(branch)
    telegram(written(f"/start {token_of(client)}"))
    assert address_for(client, Channel.TELEGRAM) is None


def test_nonsense_is_refused(telegram):
    assert telegram([1]).status_code == 403


# --- end to end ------------------------------------------------------------------------------------------------------


def test_a_queued_message_goes_out_and_who_has_blocked_the_bot_is_detached(network, telegram, bot_api):
    client = make_client(network.lesnoy)
    telegram(written(f"/start {token_of(client)}"))
    first = make_message(client, channel=Channel.TELEGRAM, recipient="777", subject="")
    deliver_batch()
    db.session.expire_all()
    assert (first.status, first.external_id) == (MessageStatus.SENT, "41")
    bot_api.say(BLOCKED, 403)
    second = make_message(client, channel=Channel.TELEGRAM, recipient="777", subject="")
    deliver_batch()
    db.session.expire_all()
    assert db.session.get_one(Message, second.id).status is MessageStatus.FAILED
    assert address_for(client, Channel.TELEGRAM) is None


def test_an_sms_by_hand_goes_to_telegram_where_the_client_has_it(network, bot):
    company = network.company.id
    assert channels_of(company, Channel.SMS, is_personal=True) == [Channel.TELEGRAM, Channel.SMS]
    assert channels_of(company, Channel.SMS) == [Channel.SMS]
    assert channels_of(company, Channel.EMAIL, is_personal=True) == [Channel.EMAIL]
