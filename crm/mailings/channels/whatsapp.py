"""WhatsApp through Wazzup (API v3): texts to phones; what became of them by its webhook.

Its documentation: https://wazzup24.ru/help/api-ru/otpravka-soobshhenij/ and https://wazzup24.com/help/webhooks/
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l

from crm.mailings.channels.api import Answer, Api, makes_no_sense, outcome_of_status
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.channels.hearing import Heard, News, Told, told_in

URL = "https://api.wazzup24.com/v3"
MAX_LENGTH = 10_000

# Wazzup writes its words in two ways (REPEATED_CRM_MESSAGE_ID, repeatedCrmMessageId): they are compared without signs.
_REPEATED = "repeatedcrmmessageid"
_AWAY = {
    "channelnotfound": _l("Wazzup knows no such channel."),
    "channelblocked": _l("The channel is switched off at Wazzup."),
    "channelwapirejected": _l("The channel is blocked by WhatsApp."),
    "channelnomoney": _l("The channel is not paid for at Wazzup."),
    "notenoughmoney": _l("There is not enough money on the account of Wazzup."),
    "channellimitexceeded": _l("The limit of dialogues of the channel is reached."),
    "messagechannelunavailable": _l("The phone of the channel is out of reach."),
    "messagesnottextfirst": _l("The tariff at Wazzup does not allow to write first."),
}
_NEVER = {
    "messagesisspam": _l("Wazzup takes the message for spam."),
    "messagestoolongtext": _l("The message is too long for WhatsApp."),
    "messagetexttoolong": _l("The message is too long for WhatsApp."),
    "badcontact": _l("There is no WhatsApp at this number."),
    "24hoursexceeded": _l("The client has not written for 24 hours: WhatsApp takes only approved templates."),
}


class WazzupSender:
    """Writes from the channel `channel_id` of Wazzup. Letter.recipient: the number, E.164."""

    def __init__(self, key: str, channel_id: str, url: str = "") -> None:
        self._channel_id = channel_id
        self._api = Api(url or URL, {"Authorization": f"Bearer {key}"})

    def send(self, letter: Letter) -> Outcome:
        if len(letter.text) > MAX_LENGTH:
            return Outcome(Fate.REFUSED, _("The message is longer than %(most)s characters.", most=MAX_LENGTH))
        body = {
            "channelId": self._channel_id,
            "chatType": "whatsapp",
            "chatId": letter.recipient.lstrip("+"),
            "text": letter.text,
            "crmMessageId": letter.key,
        }
        answer = self._api.post("/message", body)
        if isinstance(answer, Outcome):
            return answer
        number = answer.at("messageId")
        if answer.is_success:
            return Outcome(Fate.SENT, external_id=number[:100]) if isinstance(number, str) else makes_no_sense(answer)
        return _refusal(answer)

    def set_webhook(self, url: str) -> str:
        """Have us told at `url`; what went wrong in words, empty when nothing did."""
        body = {"webhooksUri": url, "subscriptions": {"messagesAndStatuses": True}}
        answer = self._api.post("/webhooks", body, method="PATCH")
        if isinstance(answer, Outcome):
            return answer.reason
        return "" if answer.is_success else _refusal(answer).reason

    def close(self) -> None:
        self._api.close()


def _plain(code: Any) -> str:
    return "".join(char for char in str(code or "").lower() if char.isalnum())


def _words(code: Any, description: Any) -> str:
    """What went wrong, for people."""
    known = _AWAY.get(_plain(code)) or _NEVER.get(_plain(code))
    return f"{code} {known or description or ''}".strip()[:500]


def _refusal(answer: Answer) -> Outcome:
    code = answer.at("error") if isinstance(answer.at("error"), str) else None
    if answer.status == 401:
        return Outcome(Fate.UNREACHABLE, f"{_('The key of Wazzup is wrong.')} {answer.shown}"[:500])
    if code is None or answer.status in {403, 429} or answer.status >= 500:
        return outcome_of_status(answer)
    if _plain(code) == _REPEATED:  # this very message has been taken before
        return Outcome(Fate.SENT)
    reason = _words(code, answer.at("description"))
    return Outcome(Fate.UNREACHABLE if _plain(code) in _AWAY else Fate.REFUSED, reason)


_NEWS = {"delivered": News.DELIVERED, "read": News.READ, "error": News.FAILED}


def hear(body: bytes) -> list[Heard]:
    """What a webhook tells of our messages; nothing signs it but its address. Raises HearingRefused."""
    statuses = told_in(body).get("statuses")
    heard: list[Heard] = []
    for status in statuses if isinstance(statuses, list) else []:
        if not isinstance(status, dict) or not isinstance(status.get("messageId"), str):
            continue
        word = status.get("status")
        if not isinstance(word, str) or word not in _NEWS:
            continue
        error, reason = status.get("error"), ""
        if _NEWS[word] is News.FAILED and isinstance(error, dict):
            reason = _words(error.get("error"), error.get("description"))
        heard.append(Told(status["messageId"], _NEWS[word], reason, _moment(status.get("timestamp"))))
    return heard


def _moment(text: Any) -> datetime | None:
    """An instant of ISO 8601 with its zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None
