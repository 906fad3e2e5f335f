"""A service on loopback that speaks HTTP as SMS gateways, Telegram, Viber, Wazzup and push services do: it keeps what
it is sent and answers as it is told, can break off, fall silent or never end.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

DROP, SILENCE, FLOOD = "drop", "silence", "flood"
FLOOD_BYTES = 64 * 2**20


@dataclass
class Call:
    """headers: lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        """Of the JSON or the form."""
        if "x-www-form-urlencoded" in self.headers.get("content-type", ""):
            return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
        return json.loads(self.body)


@dataclass
class Service:
    """status, answer, headers: what every call is answered by (a dict is JSON). fate: DROP closes the line after the
    call has been read, SILENCE answers nothing until the test ends, FLOOD goes on with FLOOD_BYTES of letters after the
    answer; flooded: how many of them were taken from it.
    """

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    status: int = 200
    answer: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    fate: str = ""
    flooded: int = 0
    _silence: threading.Event = field(default_factory=threading.Event)

    def say(self, answer: Any, status: int = 200, **headers: str) -> None:
        self.answer, self.status = answer, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.contextmanager
def service() -> Iterator[Service]:
    told = Service()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            told.calls.append(Call(self.command, self.path, headers, body))
            if told.fate == SILENCE:
                told._silence.wait(60)
            if told.fate in {DROP, SILENCE}:
                self.close_connection = True
                return
            answer = told.answer if isinstance(told.answer, str) else json.dumps(told.answer)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            more = FLOOD_BYTES if told.fate == FLOOD else 0
            self.send_header("Content-Length", str(len(answer.encode()) + more))
            self.end_headers()
            self.wfile.write(answer.encode())
            with contextlib.suppress(OSError):  # whoever has heard enough
                while told.flooded < more:
                    self.wfile.write(b"x" * 2**16)
                    told.flooded += 2**16

        do_POST = do_PATCH = _take

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield told
    finally:
        told._silence.set()
        server.shutdown()
        server.server_close()
        thread.join()
