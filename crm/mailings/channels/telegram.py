"""Telegram Bot API: plain texts to chats that have been opened by `/start`; what the bot hears through its webhook."""

from __future__ import annotations

import hmac
import re
from typing import Any
from urllib.parse import quote

from flask_babel import gettext as _

from crm.mailings.channels.api import Answer, Api, makes_no_sense, outcome_of_status, seconds
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.channels.hearing import Gone, Heard, HearingRefused, Linked, told_in

URL = "https://api.telegram.org"
MAX_LENGTH = 4096  # UTF-16 units; nobody is sent half a message
SECRET_HEADER = "x-telegram-bot-api-secret-token"  # noqa: S105 - the name of a header
_UPDATES = ["message", "my_chat_member"]
_START = re.compile(r"/start(?:@\w+)?(?:\s+([A-Za-z0-9_-]{1,64}))?\s*")


class TelegramSender:
    """Writes as the bot of `token`. Letter.recipient: the chat's number."""

    def __init__(self, token: str, url: str = "") -> None:
        self._api = Api(f"{(url or URL).rstrip('/')}/bot{quote(token, safe=':')}")

    def send(self, letter: Letter) -> Outcome:
        if len(letter.text.encode("utf-16-le")) // 2 > MAX_LENGTH:
            return Outcome(Fate.REFUSED, _("The message is longer than %(most)s characters.", most=MAX_LENGTH))
        answer = self._api.post("/sendMessage", {"chat_id": letter.recipient, "text": letter.text})
        if isinstance(answer, Outcome):
            return answer
        number = answer.at("result", "message_id")
        if answer.is_success and answer.at("ok") is True and number is not None:
            return Outcome(Fate.SENT, external_id=str(number)[:100])
        return makes_no_sense(answer) if answer.is_success else _refusal(answer)

    def set_webhook(self, url: str, secret: str) -> str:
        """Have the bot told at `url`; what went wrong in words, empty when nothing did."""
        body = {"url": url, "secret_token": secret, "allowed_updates": _UPDATES}
        answer = self._api.post("/setWebhook", body)
        if isinstance(answer, Outcome):
            return answer.reason
        return "" if answer.at("ok") is True else _refusal(answer).reason

    def close(self) -> None:
        self._api.close()


def _refusal(answer: Answer) -> Outcome:
    said = str(answer.at("description") or answer.shown)[:300]
    reason = f"{answer.status} {said}"
    if answer.at("ok") is not False:  # not of Telegram: a proxy between, say
        return outcome_of_status(answer)
    if answer.status == 429:
        wait = seconds(answer.at("parameters", "retry_after")) or answer.retry_after
        text = _("Telegram asks to wait %(seconds)s s.", seconds=wait)
        return Outcome(Fate.UNREACHABLE, f"{text} {said}", retry_after=wait)
    if answer.status == 403:
        return Outcome(Fate.REFUSED, f"{_('The client has blocked the bot.')} {reason}", is_gone=True)
    if answer.status in {401, 404}:
        return Outcome(Fate.UNREACHABLE, f"{_('The key of the bot is wrong.')} {reason}")
    if answer.status == 400 and "chat not found" in said.lower():
        return Outcome(Fate.REFUSED, f"{_('There is no such chat.')} {reason}", is_gone=True)
    return outcome_of_status(answer) if answer.status >= 500 else Outcome(Fate.REFUSED, reason)


def hear(headers: dict[str, str], body: bytes, *, secret: str) -> list[Heard]:
    """What an update tells. Raises HearingRefused for what Telegram has not sent."""
    if not hmac.compare_digest(headers.get(SECRET_HEADER, "").encode(), secret.encode()):
        raise HearingRefused("wrong secret token")
    update = told_in(body)
    message, member = _dict(update.get("message")), _dict(update.get("my_chat_member"))
    chat = _dict(_dict(message or member).get("chat"))
    if chat.get("type") != "private" or not isinstance(chat.get("id"), int):
        return []  # a group is no client
    address = str(chat["id"])
    text = message.get("text")
    if isinstance(text, str):
        if text.strip() == "/stop":
            return [Gone(address)]
        start = _START.fullmatch(text.strip())
        return [Linked(address, start[1] or "")] if start else []
    is_left = _dict(member.get("new_chat_member")).get("status") in {"kicked", "left"}
    return [Gone(address)] if is_left else []


def reply(address: str, text: str) -> dict[str, Any]:
    """An answer to an update that has the bot write to the chat."""
    return {"method": "sendMessage", "chat_id": int(address), "text": text}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
