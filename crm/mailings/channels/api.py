"""What the services spoken to by HTTP have in common: something is posted, a JSON comes back, at most once.

A connection of its own for every message: a kept one the service has closed meanwhile would leave it open whether the
message was taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from flask_babel import gettext as _

from crm.mailings.channels.base import Fate, Outcome

# s: to connect, and between two pieces of what is sent or answered.
TIMEOUT = httpx.Timeout(30, connect=10)
# Bytes read of an answer: more is none of what services tell, and has no place here.
MOST_BYTES = 64 * 1024
# s: an answer takes no longer, however evenly its pieces come.
LONGEST_ANSWER = 60
# s: no service is believed that wants to be left alone for longer.
LONGEST_WAIT = 86_400


@dataclass(frozen=True)
class Answer:
    """body: of JSON, None where it is none or too long; shown: its beginning, on one line, for people. headers: lower
    case.
    """

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


def open_client(headers: Mapping[str, str] | None = None) -> httpx.Client:
    """What exchange() sends by."""
    return httpx.Client(
        timeout=TIMEOUT,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
        headers={"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
    )


def exchange(client: httpx.Client, request: httpx.Request) -> Answer | Outcome:
    """The answer, or what the lack of one means: nothing reached the service, or nobody knows."""
    try:
        response = client.send(request, stream=True)
        try:
            content = _beginning(response)
        finally:
            response.close()
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        return Outcome(Fate.UNREACHABLE, _reason(error))
    except (httpx.HTTPError, httpx.StreamError) as error:  # handed over, in whole or in part
        return Outcome(Fate.UNKNOWN, _reason(error))
    try:
        told = json.loads(content) if len(content) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        told = None
    shown = " ".join(content[:2000].decode("utf-8", "replace").split())[:300]
    return Answer(response.status_code, told, shown, dict(response.headers))


def _beginning(response: httpx.Response) -> bytes:
    """The body, or enough of it to know that it is too long. Raises httpx.ReadTimeout for one that never ends."""
    content = bytearray()
    until = time.monotonic() + LONGEST_ANSWER
    for piece in response.iter_bytes():
        content += piece
        if len(content) > MOST_BYTES:
            break
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the answer does not end")
    return bytes(content)


class Api:
    """Posts to addresses below `url`. No answer of it, and no error, is ever an exception."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = open_client(headers)

    def post(self, path: str, body: Any, *, method: str = "POST") -> Answer | Outcome:
        """As exchange()."""
        return self._send(method, path, json=body)

    def post_bytes(self, path: str, content: bytes, headers: Mapping[str, str]) -> Answer | Outcome:
        return self._send("POST", path, content=content, headers=headers)

    def _send(self, method: str, path: str, **what: Any) -> Answer | Outcome:
        try:
            request = self._client.build_request(method, self._url + path, **what)
        except (ValueError, httpx.InvalidURL) as error:
            return Outcome(Fate.REFUSED, f"bad request: {type(error).__name__}")  # its text may hold the key
        return exchange(self._client, request)

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
