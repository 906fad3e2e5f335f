"""A payment service of the tests: a real server on loopback that speaks JSON over HTTP/1.1, and fails when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

import httpx

# slow: answers after release(); drip: an answer that comes byte by byte and never ends; close: hangs up at once;
# lost: does what it is asked and hangs up; html: a proxy's 502 page; text: 200 and no JSON; a number: that status.
Fault = Literal["slow", "drip", "close", "lost", "html", "text"] | int
PAGE = "<html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True)
class Asked:
    """A request as it came. headers: by names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class LocalService:
    """Base of the two services. A context manager; `url` is what the gateway is given.

    asked: every request so far. faults: what the next requests meet, one after another.
    """

    path = ""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.service = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.path}"

    def release(self) -> None:
        """Slow answers are given now."""
        self._released.set()

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def error(self, status: int) -> Any:
        """The body of an answer of that status."""
        raise NotImplementedError

    def send(self, notice: bytes, to: str, *, times: int = 1) -> list[httpx.Response]:
        """Post a notice to the shop's webhook, again and again if asked; what the shop answered."""
        headers = {"Content-Type": "application/json"}
        with httpx.Client(timeout=10, trust_env=False) as client:
            return [client.post(to, content=notice, headers=headers) for _ in range(times)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    service: LocalService

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # head and body in one piece: in two, the second waits for 40 ms
    server: _Server

    def do_POST(self) -> None:
        service = self.server.service
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, raw)
        with service.lock:
            service.asked.append(asked)
            fault = service.faults.pop(0) if service.faults else None
        if fault == "close":
            self.close_connection = True
        elif fault == "html":
            self._say(502, PAGE.encode(), "text/html")
        elif fault == "text":
            self._say(200, b"ok", "text/plain")
        elif fault == "drip":
            self._drip()
        elif isinstance(fault, int):
            self._say(fault, json.dumps(service.error(fault)).encode())
        else:
            with service.lock:
                answer = service.answer(asked)
            if fault == "slow":
                service._released.wait(30)
            if fault == "lost":
                self.close_connection = True
            else:
                self._say(answer.status, json.dumps(answer.body).encode(), headers=answer.headers)

    do_GET = do_POST

    def log_message(self, *_args: object) -> None:
        """Nobody reads it."""

    def _say(
        self, status: int, raw: bytes, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.service._released.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()
