"""An SMS gateway on loopback: takes posts, answers as it is told, can break off or fall silent."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

DROP, SILENCE = "drop", "silence"


@dataclass
class Post:
    """headers: lower case. fields: of the JSON or the form."""

    headers: dict[str, str]
    fields: dict[str, Any]


@dataclass
class SmsGateway:
    """status, answer: what every post is answered by (a dict is JSON). fate: DROP closes the line after the post has
    been read, SILENCE answers nothing until release().
    """

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    status: int = 200
    answer: Any = field(default_factory=dict)
    fate: str = ""
    _silence: threading.Event = field(default_factory=threading.Event)

    def say(self, answer: Any, status: int = 200) -> None:
        self.answer, self.status = answer, status

    def release(self) -> None:
        self._silence.set()


@contextlib.contextmanager
def sms_gateway() -> Iterator[SmsGateway]:
    gateway = SmsGateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            is_json = "json" in (self.headers.get("Content-Type") or "")
            fields = json.loads(body) if is_json else {name: values[0] for name, values in parse_qs(body).items()}
            gateway.posts.append(Post({name.lower(): value for name, value in self.headers.items()}, fields))
            if gateway.fate == SILENCE:
                gateway._silence.wait(60)
            if gateway.fate:
                self.close_connection = True
                return
            answer = gateway.answer if isinstance(gateway.answer, str) else json.dumps(gateway.answer)
            self.send_response(gateway.status)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    gateway.url = f"http://127.0.0.1:{server.server_address[1]}/sms/send"
    try:
        yield gateway
    finally:
        gateway.release()
        server.shutdown()
        server.server_close()
        thread.join()
