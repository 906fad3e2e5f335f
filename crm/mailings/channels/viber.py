"""Viber's REST bot API: plain texts to its subscribers; what the bot hears through its webhook."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l

from crm.mailings.channels.api import Answer, Api, makes_no_sense, outcome_of_status
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.channels.hearing import Gone, Heard, HearingRefused, Linked, News, Told, told_in

URL = "https://chatapi.viber.com"
MAX_LENGTH = 7000
MAX_NAME = 28
SIGNATURE_HEADER = "x-viber-content-signature"
_EVENTS = ["delivered", "seen", "failed", "subscribed", "unsubscribed", "conversation_started"]

# Codes of the service beside the HTTP status, which is 200 for all of them.
_AWAY = {
    1: _l("The address of the bot's webhook is wrong."),
    2: _l("The key of the bot is wrong."),
    7: _l("The bot is blocked."),
    8: _l("There is no bot with this key."),
    9: _l("The bot is suspended."),
    10: _l("The bot has no webhook."),
    12: _l("Viber asks to send less often."),
    23: _l("The free messages of the bot are used up."),
    24: _l("There is not enough money on the account of the bot."),
}
_NEVER = {
    3: _l("Viber does not understand the message."),
    4: _l("The message lacks something Viber wants."),
    5: _l("The client is not registered with Viber."),
    6: _l("The client is not subscribed to the bot."),
    11: _l("The client's Viber is too old for messages of bots."),
    13: _l("The client's Viber is too old for messages of bots."),
    21: _l("Viber does not send messages to the client's country."),
}


class ViberSender:
    """Writes as the bot of `token`. Letter.recipient: the subscriber's id."""

    def __init__(self, token: str, url: str = "") -> None:
        self._api = Api(url or URL, {"X-Viber-Auth-Token": token})

    def send(self, letter: Letter) -> Outcome:
        if len(letter.text) > MAX_LENGTH:
            return Outcome(Fate.REFUSED, _("The message is longer than %(most)s characters.", most=MAX_LENGTH))
        body = {
            "receiver": letter.recipient,
            "type": "text",
            "text": letter.text,
            "sender": {"name": letter.sender_name[:MAX_NAME]},
        }
        answer = self._api.post("/pa/send_message", body)
        if isinstance(answer, Outcome):
            return answer
        if not answer.is_success:
            return outcome_of_status(answer)
        if answer.at("status") == 0 and answer.at("message_token") is not None:
            return Outcome(Fate.SENT, external_id=str(answer.at("message_token"))[:100])
        return _refusal(answer)

    def set_webhook(self, url: str) -> str:
        """Have the bot told at `url`; what went wrong in words, empty when nothing did."""
        answer = self._api.post("/pa/set_webhook", {"url": url, "event_types": _EVENTS, "send_name": False})
        if isinstance(answer, Outcome):
            return answer.reason
        if not answer.is_success:
            return outcome_of_status(answer).reason
        return "" if answer.at("status") == 0 else _refusal(answer).reason

    def close(self) -> None:
        self._api.close()


def _refusal(answer: Answer) -> Outcome:
    code = answer.at("status")
    if not isinstance(code, int) or code == 0:
        return makes_no_sense(answer)
    for fate, texts in ((Fate.UNREACHABLE, _AWAY), (Fate.REFUSED, _NEVER)):
        if code in texts:
            # Whoever is no subscriber yet may become one: he stays linked, and says himself when he leaves.
            return Outcome(fate, f"{code} {texts[code]}", retry_after=answer.retry_after, is_gone=code == 5)
    return Outcome(Fate.REFUSED, f"{code} {answer.at('status_message') or answer.shown}"[:500])


def hear(headers: dict[str, str], body: bytes, *, token: str) -> list[Heard]:
    """What an event tells. Raises HearingRefused for what Viber has not signed."""
    signature = hmac.new(token.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(headers.get(SIGNATURE_HEADER, "").lower().encode(), signature.encode()):
        raise HearingRefused("wrong signature")
    told = told_in(body)
    event, number = told.get("event"), str(told.get("message_token") or "")
    user = told.get("user")
    user_id = user.get("id") if isinstance(user, dict) else told.get("user_id")
    address = user_id if isinstance(user_id, str) else ""
    if event in _NEWS and number:
        reason = str(told.get("desc") or "")[:300] if event == "failed" else ""
        return [Told(number, _NEWS[event], reason)]
    if event in {"conversation_started", "subscribed"} and address:
        context = told.get("context")
        return [Linked(address, context if isinstance(context, str) else "")]
    return [Gone(address)] if event == "unsubscribed" and address else []


_NEWS: dict[Any, News] = {"delivered": News.DELIVERED, "seen": News.READ, "failed": News.FAILED}


def reply(name: str, text: str) -> dict[str, Any]:
    """An answer to `conversation_started` that greets whoever has opened the chat."""
    return {"sender": {"name": name[:MAX_NAME]}, "type": "text", "text": text}
