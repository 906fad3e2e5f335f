"""What the services with an API of their own have in common: a JSON is posted, a JSON comes back, at most once.

A connection of its own for every message: a kept one the service has closed meanwhile would leave it open whether the
message was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from flask_babel import gettext as _

from crm.mailings.channels.base import Fate, Outcome

# s: to connect, and between two pieces of what is sent or answered.
TIMEOUT = httpx.Timeout(30, connect=10)
# s: no service is believed that wants to be left alone for longer.
LONGEST_WAIT = 86_400


@dataclass(frozen=True)
class Answer:
    """body: of JSON, None where it is none; shown: its beginning, on one line, for people. headers: lower case."""

    status: int
    body: Any
    shown: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def at(self, *path: str) -> Any:
        """What stands at a place in the body; None when there is no such place."""
        found = self.body
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> int:
        """Seconds the service asks to wait by its header; 0: it does not say."""
        return seconds(self.headers.get("retry-after"))


def seconds(told: Any) -> int:
    """A number of seconds a service has told; 0 when it is none."""
    text = str(told) if isinstance(told, (int, str)) and not isinstance(told, bool) else ""
    return min(int(text), LONGEST_WAIT) if text.isascii() and text.isdigit() and len(text) < 10 else 0


class Api:
    """Posts to addresses below `url`. No answer of it, and no error, is ever an exception."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            timeout=TIMEOUT,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            headers={"Accept": "application/json", **(headers or {})},
        )

    def post(self, path: str, body: Any, *, method: str = "POST") -> Answer | Outcome:
        """The answer, or what the lack of one means: nothing reached the service, or nobody knows."""
        return self._send(method, path, json=body)

    def post_bytes(self, path: str, content: bytes, headers: Mapping[str, str]) -> Answer | Outcome:
        return self._send("POST", path, content=content, headers=headers)

    def _send(self, method: str, path: str, **what: Any) -> Answer | Outcome:
        try:
            request = self._client.build_request(method, self._url + path, **what)
        except (ValueError, httpx.InvalidURL) as error:
            return Outcome(Fate.REFUSED, f"bad request: {type(error).__name__}")  # its text may hold the key
        try:
            answer = self._client.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            return Outcome(Fate.UNREACHABLE, _reason(error))
        except (httpx.HTTPError, httpx.StreamError) as error:  # handed over, in whole or in part
            return Outcome(Fate.UNKNOWN, _reason(error))
        try:
            told = answer.json()
        except (ValueError, RecursionError):
            told = None
        return Answer(answer.status_code, told, " ".join(answer.text.split())[:300], dict(answer.headers))

    def close(self) -> None:
        self._client.close()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def outcome_of_status(answer: Answer) -> Outcome:
    """What the HTTP status of a refusal says where the service says no more."""
    reason = f"HTTP {answer.status} {answer.shown}".strip()[:500]
    if answer.status == 429 or answer.status == 503:
        return Outcome(Fate.UNREACHABLE, reason, retry_after=answer.retry_after)
    if answer.status in {401, 403, 404, 405} or 300 <= answer.status < 400:
        return Outcome(Fate.UNREACHABLE, reason)  # a wrong key or address: so with every message
    # Behind a failing server the message may have been taken all the same.
    return Outcome(Fate.UNKNOWN if answer.status >= 500 else Fate.REFUSED, reason)


def makes_no_sense(answer: Answer) -> Outcome:
    return Outcome(Fate.UNKNOWN, _("The answer makes no sense: %(text)s", text=answer.shown))
