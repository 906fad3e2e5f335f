"""A load: so many connections that each ask again as soon as they are answered."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What a stretch of it showed. latencies: seconds, of every answer."""

    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


@dataclass
class _Caller:
    """One connection, kept open."""

    port: int
    began: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    line: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.line = socket.create_connection(("127.0.0.1", self.port))
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> None:
        self.received.clear()
        self.began = time.perf_counter()
        self.line.sendall(request)

    def is_answered(self) -> bool:
        """Take what has come; raises RuntimeError for any answer but 200."""
        data = self.line.recv(2**16)
        if not data:
            raise RuntimeError("the server closed the connection")
        self.received += data
        head, gap, body = self.received.partition(b"\r\n\r\n")
        if not gap:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode(errors="replace"))
        length = _LENGTH.search(head)
        return length is not None and len(body) >= int(length[1])


def load(port: int, paths: Iterator[str], *, connections: int, seconds: float) -> Load:
    """Ask 127.0.0.1:port for `paths` in turn over so many connections for so long. Raises RuntimeError for any answer
    but 200.
    """
    latencies: list[float] = []
    with selectors.DefaultSelector() as waiting:
        callers = [_Caller(port) for _ in range(connections)]
        began = time.perf_counter()
        end = began + seconds
        for caller in callers:
            waiting.register(caller.line, selectors.EVENT_READ, caller)
            caller.ask(_request(next(paths)))
        open_calls = connections
        while open_calls:
            ready = waiting.select(30)
            if not ready:
                raise RuntimeError("the server does not answer")
            for key, _events in ready:
                caller = key.data
                if not caller.is_answered():
                    continue
                now = time.perf_counter()
                latencies.append(now - caller.began)
                if now < end:
                    caller.ask(_request(next(paths)))
                else:
                    open_calls -= 1
        took = time.perf_counter() - began
        for caller in callers:
            caller.line.close()
    return Load(took, latencies)


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Language: ru\r\nAccept: text/html\r\n\r\n".encode()
