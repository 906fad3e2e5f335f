"""What holds for every service spoken to by HTTP: the network fails, the answer is none or too long."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from crm.config import SMS_BODY, SmsSettings
from crm.mailings.channels import api
from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.push import PushSender
from crm.mailings.channels.sms import SmsSender
from crm.mailings.channels.telegram import TelegramSender
from crm.mailings.channels.viber import ViberSender
from crm.mailings.channels.whatsapp import WazzupSender
from tests.mailings.services import DROP, FLOOD, FLOOD_BYTES, SILENCE, service
from tests.mailings.test_push_channel import Browser
from tests.servers import free_port

KEY = "123456:AAE-key_of_the_service"
SENDERS = {
    "telegram": lambda url: TelegramSender(KEY, url),
    "viber": lambda url: ViberSender(KEY, url),
    "whatsapp": lambda url: WazzupSender(KEY, "channel", url),
    "sms": lambda url: SmsSender(SmsSettings("http", url, KEY, body=SMS_BODY, ok="status=ok")),
    "smsru": lambda url: SmsSender(SmsSettings("smsru", url, KEY, body=SMS_BODY)),
    "push": lambda url: PushSender(ec.generate_private_key(ec.SECP256R1()), "https://crm.test", [url]),
}

pytestmark = [
    pytest.mark.parametrize("dialect", ["sqlite"], indirect=True),  # channels know no database
    pytest.mark.parametrize("name", SENDERS),
]


@pytest.fixture(autouse=True)
def _texts(app):
    """The texts of errors are in the language of the application."""


@pytest.fixture
def there():
    with service() as server:
        yield server


def send(name, url):
    recipient = Browser(f"{url}/x").subscription if name == "push" else "+79161234567"
    sender = SENDERS[name](url)
    try:
        return sender.send(Letter("manual:1", "Лесная школа", "", "Анна", recipient, "", "Счёт готов"))
    finally:
        sender.close()


def test_a_refused_connection_leaves_the_message_in_its_turn_and_tells_no_key(name):
    outcome = send(name, f"http://127.0.0.1:{free_port()}")
    assert outcome.fate is (Fate.POSTPONED if name == "push" else Fate.UNREACHABLE)
    assert outcome.reason
    assert KEY not in outcome.reason


@pytest.mark.parametrize("fate", [DROP, SILENCE])
def test_once_handed_over_without_an_answer_the_fate_is_unknown(there, name, fate, monkeypatch):
    monkeypatch.setattr(api, "TIMEOUT", api.httpx.Timeout(0.3))
    there.fate = fate
    assert send(name, there.url).fate is Fate.UNKNOWN
    assert len(there.calls) == 1


@pytest.mark.parametrize(
    "answer", [pytest.param("[" * 60_000, id="deep"), "<html>", "", {}, [], {"ok": True}, {"status": 0}]
)
def test_an_answer_that_says_nothing_is_unknown(there, name, answer):
    there.say(answer)
    outcome = send(name, there.url)
    if name == "push":  # its services tell all by the status
        assert outcome.fate is Fate.SENT
    elif name == "sms" and answer == {"status": 0}:
        assert outcome.fate is Fate.REFUSED
    else:
        assert outcome.fate is Fate.UNKNOWN


@pytest.mark.parametrize(("status", "fate"), [(200, Fate.UNKNOWN), (400, Fate.REFUSED), (502, Fate.UNKNOWN)])
def test_an_answer_without_an_end_is_not_read_to_it(there, name, status, fate):
    there.say("the beginning of ", status)
    there.fate = FLOOD
    outcome = send(name, there.url)
    if name == "push" and status == 200:
        assert outcome.fate is Fate.SENT
    else:
        assert outcome.fate is fate
        assert "the beginning of" in outcome.reason
    assert there.flooded < FLOOD_BYTES / 2


def test_an_answer_that_comes_by_drops_is_waited_for_no_longer_than_any(there, name, monkeypatch):
    monkeypatch.setattr(api, "LONGEST_ANSWER", 0)
    there.say("x")
    assert send(name, there.url).fate is Fate.UNKNOWN


def test_whatever_charset_it_names_its_words_are_shown(there, name):
    there.say("не выйдет", 400, content_type="text/plain; charset=hex")
    assert send(name, there.url).fate is Fate.REFUSED
