"""SMS over HTTP against a gateway on loopback: what is posted, how the answer is read, at most once."""

from __future__ import annotations

import pytest

from crm.config import SMS_BODY, SmsSettings
from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.sms import SmsSender, sms_length
from tests.mailings.services import service

LETTER = Letter(
    key="manual:1",
    sender_name="Лесная школа",
    sender="school@demo.test",
    recipient_name="Анна",
    recipient="+79181234567",
    subject="",
    text="Счёт: https://kontora.test/pay/abc",
)


@pytest.fixture(autouse=True)
def _texts(app):
    """The texts of errors are in the language of the application."""


pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # the channel knows no database


@pytest.fixture
def gateway():
    with service() as server:
        yield server


def send(gateway, provider="http", **settings):
    facts = {"token": "secret", "sender": "Kontora", "body": SMS_BODY, **settings}
    sender = SmsSender(SmsSettings(provider, facts.pop("url", gateway.url), **facts))
    try:
        return sender.send(LETTER)
    finally:
        sender.close()


def of_number(code, **more):
    status = "OK" if code == 100 else "ERROR"
    return {"status": "OK", "status_code": 100, "sms": {"79181234567": {"status": status, "status_code": code, **more}}}


# --- any gateway -----------------------------------------------------------------------------------------------------


def test_json_is_posted_with_the_key_in_the_header(gateway):
    assert send(gateway).fate is Fate.SENT
    (post,) = gateway.calls
    assert post.fields == {"phone": "+79181234567", "text": LETTER.text, "sender": "Kontora"}
    assert post.headers["authorization"] == "Bearer secret"
    assert post.headers["content-type"] == "application/json"


def test_a_form_is_posted_with_the_key_where_the_body_says(gateway):
    body = "to={digits}&msg={text}&api_key={token}&id={key}"
    assert send(gateway, body=body).fate is Fate.SENT
    (post,) = gateway.calls
    assert post.fields == {"to": "79181234567", "msg": LETTER.text, "api_key": "secret", "id": "manual:1"}
    assert "authorization" not in post.headers


def test_places_within_a_nested_body_are_filled_in(gateway):
    send(gateway, body='{"messages": [{"to": ["{phone}"], "body": "{text}"}], "test": false}')
    assert gateway.calls[0].fields == {"messages": [{"to": ["+79181234567"], "body": LETTER.text}], "test": False}


def test_the_answer_says_whether_it_is_taken_and_under_which_number(gateway):
    gateway.say({"messages": [{"status": "Accepted", "id": 77}]})
    outcome = send(gateway, ok="messages.0.status=accepted", id="messages.0.id")
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, "77")
    gateway.say({"messages": [{"status": "rejected", "why": "чёрный список"}]})
    outcome = send(gateway, ok="messages.0.status=accepted")
    assert outcome.fate is Fate.REFUSED
    assert "rejected" in outcome.reason


@pytest.mark.parametrize("answer", ["<html>", "", "[]", {"other": 1}])
def test_an_answer_that_says_nothing_leaves_the_fate_unknown(gateway, answer):
    gateway.say(answer)
    assert send(gateway, ok="status=ok").fate is Fate.UNKNOWN


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (400, Fate.REFUSED),
        (401, Fate.UNREACHABLE),
        (403, Fate.UNREACHABLE),
        (404, Fate.UNREACHABLE),
        (302, Fate.UNREACHABLE),
        (422, Fate.REFUSED),
        (429, Fate.UNREACHABLE),
        (500, Fate.UNKNOWN),
        (502, Fate.UNKNOWN),
        (503, Fate.UNREACHABLE),
        (504, Fate.UNKNOWN),
    ],
)
@pytest.mark.parametrize("provider", ["http", "smsru"])
def test_statuses_of_http(gateway, provider, status, fate):
    gateway.say("нет", status)
    outcome = send(gateway, provider)
    assert outcome.fate is fate
    assert str(status) in outcome.reason


# --- SMS.RU ----------------------------------------------------------------------------------------------------------


def test_sms_ru_gets_what_it_documents_and_its_number_is_kept(gateway):
    gateway.say(of_number(100, sms_id="000000-10000000"))
    outcome = send(gateway, "smsru")
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, "000000-10000000")
    assert gateway.calls[0].fields == {
        "api_id": "secret",
        "to": "79181234567",
        "msg": LETTER.text,
        "json": "1",
        "from": "Kontora",
    }


@pytest.mark.parametrize(
    ("code", "fate", "words"),
    [
        (202, Fate.REFUSED, "Номер получателя"),
        (207, Fate.REFUSED, "нельзя"),
        (230, Fate.POSTPONED, "лимит"),
        (209, Fate.REFUSED, "стоп-лист"),
        (799, Fate.REFUSED, "как сказал сервис"),
    ],
)
def test_codes_of_a_number_are_told_in_words(gateway, code, fate, words):
    gateway.say(of_number(code, status_text="как сказал сервис"))
    outcome = send(gateway, "smsru")
    assert outcome.fate is fate
    assert outcome.reason.startswith(str(code))
    assert words in outcome.reason


@pytest.mark.parametrize(("code", "words"), [(200, "api_id"), (201, "недостаточно денег"), (220, "недоступен")])
def test_what_is_wrong_with_the_account_keeps_every_message_in_its_turn(gateway, code, words):
    gateway.say({"status": "ERROR", "status_code": code, "status_text": "…"})
    outcome = send(gateway, "smsru")
    assert outcome.fate is Fate.UNREACHABLE
    assert words in outcome.reason


@pytest.mark.parametrize("answer", ["<html>", {}, {"status": "OK", "status_code": 100, "sms": {}}])
def test_an_answer_of_sms_ru_that_says_nothing_is_unknown(gateway, answer):
    gateway.say(answer)
    assert send(gateway, "smsru").fate is Fate.UNKNOWN


# --- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_gsm", "units", "parts", "room"),
    [
        ("", True, 0, 0, 160),
        ("a" * 160, True, 160, 1, 160),
        ("a" * 161, True, 161, 2, 306),
        ("a" * 306, True, 306, 2, 306),
        ("a" * 307, True, 307, 3, 459),
        ("я" * 70, False, 70, 1, 70),
        ("я" * 71, False, 71, 2, 134),
        ("я" * 135, False, 135, 3, 201),
        ("a" * 70 + "я", False, 71, 2, 134),
        ("€" * 80, True, 160, 1, 160),
        ("a" * 152 + "€" + "a" * 10, True, 164, 2, 306),
        ("😀" * 35, False, 70, 1, 70),
        ("😀" * 36, False, 72, 2, 134),
    ],
)
def test_length_in_parts(text, is_gsm, units, parts, room):
    length = sms_length(text)
    assert (length.is_gsm, length.units, length.parts, length.room) == (is_gsm, units, parts, room)


def test_no_character_is_cut_between_two_parts():
    # 33 pairs fill 66 of 67 places: the next one begins the second part, so 67 of them need three.
    assert [sms_length("😀" * n).parts for n in (66, 67)] == [2, 3]
    assert [sms_length("€" * n).parts for n in (152, 153)] == [2, 3]
