"""SMS over HTTP: any gateway that takes a POST, and SMS.RU by its own codes; and how long a text is in parts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import httpx
from flask_babel import lazy_gettext as _l

from crm.config import SmsSettings
from crm.mailings.channels.api import Answer, exchange, makes_no_sense, open_client, outcome_of_status
from crm.mailings.channels.base import Fate, Letter, Outcome

# --- length ----------------------------------------------------------------------------------------------------------

# GSM 03.38: what fits a message of seven bits a character; those of the extension take two places.
_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENSION = frozenset("\f^{}\\[~]|€")


@dataclass(frozen=True)
class SmsLength:
    """How long a text is as an SMS. units: places it takes; parts: messages it is sent and paid for as; room: places
    in those parts. is_gsm: of the seven bit alphabet; else UCS-2, any Cyrillic letter is enough.
    """

    is_gsm: bool
    units: int
    parts: int
    room: int


def sms_length(text: str) -> SmsLength:
    """Parts of 160 places or 153 when there are several; of 70 or 67 in UCS-2. No character is cut in two."""
    is_gsm = all(char in _GSM or char in _GSM_EXTENSION for char in text)
    sizes = [2 if (char in _GSM_EXTENSION if is_gsm else ord(char) > 0xFFFF) else 1 for char in text]
    single, several = (160, 153) if is_gsm else (70, 67)
    units = sum(sizes)
    if units <= single:
        return SmsLength(is_gsm, units, 1 if units else 0, single)
    parts, used = 1, 0
    for size in sizes:
        if used + size > several:
            parts, used = parts + 1, 0
        used += size
    return SmsLength(is_gsm, units, parts, parts * several)


# --- sending ---------------------------------------------------------------------------------------------------------


class SmsSender:
    """Hands messages over to the gateway of the settings. Letter.recipient: the number, E.164; no subject is sent."""

    def __init__(self, settings: SmsSettings) -> None:
        self._settings = settings
        self._client = open_client()
        self._ask, self._judge = _PROVIDERS[settings.provider]

    def send(self, letter: Letter) -> Outcome:
        try:
            request = self._ask(self._client, self._settings, letter)
        except ValueError as error:
            return Outcome(Fate.REFUSED, f"bad request: {error}"[:500])
        answer = exchange(self._client, request)
        if isinstance(answer, Outcome):
            return answer
        return self._judge(self._settings, letter, answer) if answer.is_success else outcome_of_status(answer)

    def close(self) -> None:
        self._client.close()


def _at(answer: Any, path: str) -> Any:
    """What stands at `a.0.b` in an answer; None when there is no such place."""
    for name in path.split("."):
        if isinstance(answer, dict):
            answer = answer.get(name)
        elif isinstance(answer, list) and name.isdigit() and int(name) < len(answer):
            answer = answer[int(name)]
        else:
            return None
    return answer


# --- any gateway -----------------------------------------------------------------------------------------------------

_PLACE = re.compile(r"\{(phone|digits|text|sender|token|key)\}")


def _http_request(client: httpx.Client, settings: SmsSettings, letter: Letter) -> httpx.Request:
    """POST of SMS_BODY with its places filled in: as JSON where it is JSON, else as a form."""
    values = {
        "phone": letter.recipient,
        "digits": letter.recipient.lstrip("+"),
        "text": letter.text,
        "sender": settings.sender,
        "token": settings.token,
        "key": letter.key,
    }

    def fill(part: Any) -> Any:
        if isinstance(part, str):
            return _PLACE.sub(lambda match: values[match[1]], part)
        if isinstance(part, list):
            return [fill(item) for item in part]
        return {name: fill(item) for name, item in part.items()} if isinstance(part, dict) else part

    is_in_body = "{token}" in settings.body
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token and not is_in_body else {}
    if settings.body.lstrip().startswith("{"):
        return client.build_request("POST", settings.url, json=fill(json.loads(settings.body)), headers=headers)
    form = {name: fill(value) for name, value in parse_qsl(settings.body, keep_blank_values=True)}
    return client.build_request("POST", settings.url, data=form, headers=headers)


def _http_outcome(settings: SmsSettings, _letter: Letter, answer: Answer) -> Outcome:
    """By SMS_OK, `path=value` in the JSON answered; without it every answer of success means the message is taken."""
    external_id = _at(answer.body, settings.id) if settings.id else None
    if not settings.ok:
        return Outcome(Fate.SENT, external_id=_text(external_id))
    path, _equals, expected = settings.ok.partition("=")
    found = _at(answer.body, path)
    if found is None:
        return makes_no_sense(answer)
    if _text(found).lower() != expected.lower():
        return Outcome(Fate.REFUSED, answer.shown)
    return Outcome(Fate.SENT, external_id=_text(external_id))


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)[:100]


# --- SMS.RU ----------------------------------------------------------------------------------------------------------

SMSRU_TAKEN = 100
# What is wrong with the account or the service, and so with every message now: they keep their turn.
_SMSRU_AWAY = {
    200: _l("The key (api_id) is wrong."),
    201: _l("There is not enough money on the account of SMS.RU."),
    204: _l("The operator has not approved this sender's name."),
    206: _l("The daily limit of messages is reached."),
    220: _l("SMS.RU does not work at the moment."),
    221: _l("The sender's name is not registered with SMS.RU."),
    300: _l("The key (token) is wrong or has expired."),
    301: _l("SMS.RU does not know this user or password."),
    302: _l("The account at SMS.RU has not been confirmed."),
    500: _l("SMS.RU failed and asks to repeat."),
    901: _l("SMS.RU refuses our address."),
}
# What passes with time, for this number alone.
_SMSRU_LATER = {
    208: _l("The time of sending is wrong."),
    230: _l("The daily limit of messages to this number is reached."),
    231: _l("The limit of equal messages to this number a minute is reached."),
    232: _l("The limit of equal messages to this number a day is reached."),
    233: _l("The limit of messages with a code to this number is reached."),
}
_SMSRU_NEVER = {
    202: _l("The recipient's number is wrong, or has no route."),
    203: _l("The message has no text."),
    205: _l("The message is longer than eight SMS."),
    207: _l("No messages can be sent to this number."),
    209: _l("This number is on the stop list."),
    212: _l("The text is not in UTF-8."),
    213: _l("More than a hundred numbers are named."),
    214: _l("The number is of an operator abroad."),
}


def _smsru_request(client: httpx.Client, settings: SmsSettings, letter: Letter) -> httpx.Request:
    form = {"api_id": settings.token, "to": letter.recipient.lstrip("+"), "msg": letter.text, "json": "1"}
    if settings.sender:
        form["from"] = settings.sender
    return client.build_request("POST", settings.url, data=form)


def _smsru_outcome(_settings: SmsSettings, letter: Letter, answer: Answer) -> Outcome:
    """The code of the number, or of the whole request where it was refused as such."""
    told = answer.body
    of_number = _at(told, f"sms.{letter.recipient.lstrip('+')}")
    code = _at(of_number, "status_code") if of_number is not None else _at(told, "status_code")
    if not isinstance(code, int) or (code == SMSRU_TAKEN and of_number is None):
        return makes_no_sense(answer)
    if code == SMSRU_TAKEN:
        return Outcome(Fate.SENT, external_id=_text(_at(of_number, "sms_id")))
    for fate, texts in (
        (Fate.UNREACHABLE, _SMSRU_AWAY),
        (Fate.POSTPONED, _SMSRU_LATER),
        (Fate.REFUSED, _SMSRU_NEVER),
    ):
        if code in texts:
            return Outcome(fate, f"{code} {texts[code]}")
    said = _at(of_number, "status_text") or _at(told, "status_text") or answer.shown
    return Outcome(Fate.REFUSED, f"{code} {said}"[:500])


_Ask = Callable[[httpx.Client, SmsSettings, Letter], httpx.Request]
_Judge = Callable[[SmsSettings, Letter, Answer], Outcome]
_PROVIDERS: dict[str, tuple[_Ask, _Judge]] = {
    "http": (_http_request, _http_outcome),
    "smsru": (_smsru_request, _smsru_outcome),
}
