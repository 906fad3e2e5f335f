"""A push service on loopback that Chromium takes for its own: it registers the browser, and what is posted to it is
pushed to the browser as it is, which has to decrypt it.

It speaks what Chromium speaks: checkin and registration over HTTP, Google's MCS over TLS (chromium/google_apis/gcm), of
their protobufs the fields needed here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VERSION, LOGIN_ANSWER, DATA = 41, 3, 8  # of MCS, and tags of its messages
PRODUCT = "org.chromium.linux"


@dataclass
class PushService:
    """endpoint: where notices are posted to, without a token. args: Chromium's. posts: headers (lower case) and body of
    each notice. is_online: set once the browser listens.
    """

    endpoint: str = ""
    args: list[str] = field(default_factory=list)
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    is_online: threading.Event = field(default_factory=threading.Event)
    _registered: dict[str, str] = field(default_factory=dict)
    _notices: dict[bytes, bytes] = field(default_factory=dict)  # by the id under which the browser tells of them
    _line: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self, asked: dict[str, list[str]]) -> bytes:
        if "X-subtype" in asked:
            self._registered = {"subtype": asked["X-subtype"][0], "sender": asked["sender"][0]}
        return b"token=a-browser:of-ours"

    def push(self, headers: dict[str, str], body: bytes) -> None:
        self.posts.append((headers, body))
        name = f"notice-{len(self.posts)}"
        notice = _field(3, self._registered["sender"]) + _field(5, PRODUCT)
        for key, value in (("subtype", self._registered["subtype"]), ("content-encoding", "aes128gcm")):
            notice += _field(7, _field(1, key) + _field(2, value))
        notice += _field(9, name) + _field(21, body)
        notice = bytes([DATA]) + _number(len(notice)) + notice
        with self._lock:
            self._notices[name.encode()] = notice
            with contextlib.suppress(OSError):  # it comes back, and is told then
                self._line.sendall(notice)

    def push_again(self) -> None:
        """What the browser has not told of; it drops a notice at times that comes as soon as it has logged in."""
        with self._lock:
            self._line.sendall(b"".join(self._notices.values()))

    def listen(self, line: Any) -> None:
        """Of a browser that was away: what its login does not name it has not got yet, as Google's service does it."""
        login = line.recv(65536)
        if not login:  # only tried
            return
        answer = _field(1, "login")
        with self._lock:
            line.sendall(bytes([VERSION, LOGIN_ANSWER]) + _number(len(answer)) + answer)
            for name, notice in self._notices.items():
                if name not in login:
                    line.sendall(notice)
            self._line = line
        self.is_online.set()
        while heard := line.recv(4096):  # what it acknowledges
            with self._lock:
                self._notices = {name: notice for name, notice in self._notices.items() if name not in heard}


def _number(value: int) -> bytes:
    coded = b""
    while value > 127:
        coded, value = coded + bytes([value & 127 | 128]), value >> 7
    return coded + bytes([value])


def _field(number: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(raw)) + raw


@contextlib.contextmanager
def push_service(folder: Path) -> Iterator[PushService]:
    """folder: for the certificate."""
    service = PushService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 200, b""
            if self.path == "/checkin":  # fine, the device's number and its secret
                answer = b"\x08\x01\x39" + struct.pack("<Q", 1) + b"\x41" + struct.pack("<Q", 2)
            elif self.path == "/register":
                answer = service.register(parse_qs(body.decode()))
            else:
                service.push({name.lower(): value for name, value in self.headers.items()}, body)
                status = 201
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with socket.create_server(("127.0.0.1", 0)) as door:
        service.endpoint = f"{url}/notices"
        service.args = [
            *(f"--gcm-checkin-url={url}/checkin", f"--gcm-registration-url={url}/register"),
            *(f"--gcm-mcs-endpoint=https://127.0.0.1:{door.getsockname()[1]}", "--ignore-certificate-errors"),
        ]
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            threading.Thread(target=_answer, args=(service, door, _context(folder)), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            server.server_close()


def _answer(service: PushService, door: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            line, _peer = door.accept()
        except OSError:  # closed: the test is over
            return
        threading.Thread(target=_hold, args=(service, line, context), daemon=True).start()


def _hold(service: PushService, line: socket.socket, context: ssl.SSLContext) -> None:
    """A thread a line: a new one may come before the old one is found dead."""
    # It tries the line before it uses one.
    with contextlib.suppress(OSError), line, context.wrap_socket(line, server_side=True) as secured:
        service.listen(secured)


def _context(folder: Path) -> ssl.SSLContext:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "push.pem"
    path.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
