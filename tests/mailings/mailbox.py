"""A mailbox on loopback that speaks as much IMAP4rev1 as reading reports takes, and the reports of other servers."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Any


@dataclass
class Mailbox:
    """letters: by uid; seen: uids somebody has read; password: of the user `bounces`; folder: the one there is."""

    url: str = ""
    letters: dict[int, bytes] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    password: str = "secret"
    folder: str = "INBOX"
    is_broken: bool = False

    def receive(self, letter: bytes) -> int:
        uid = max(self.letters, default=0) + 1
        self.letters[uid] = letter.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return uid

    def answer(self, command: str, rest: str) -> Iterator[bytes]:
        """Untagged lines; raises LookupError with the text of a NO."""
        if command == "CAPABILITY":
            yield b"* CAPABILITY IMAP4rev1"
        elif command == "LOGIN":
            if rest != f'bounces "{self.password}"':
                raise LookupError("[AUTHENTICATIONFAILED] wrong password")
        elif command == "SELECT":
            if rest != f'"{self.folder}"':
                raise LookupError("no such folder")
            yield b"* %d EXISTS" % len(self.letters)
        elif rest.startswith("SEARCH UNSEEN HEADER Content-Type multipart/report"):
            found = [uid for uid in sorted(self.letters.keys() - self.seen) if self._is_report(uid)]
            yield b"* SEARCH" + b"".join(b" %d" % uid for uid in found)
        elif fetch := re.fullmatch(r"FETCH (\d+) \(BODY\.PEEK\[\]<0\.(\d+)>\)", rest):
            if self.is_broken:
                raise ConnectionError
            content = self.letters[int(fetch[1])][: int(fetch[2])]
            yield b"* 1 FETCH (UID %s BODY[]<0> {%d}\r\n%s)" % (fetch[1].encode(), len(content), content)
        elif store := re.fullmatch(r"STORE (\d+) \+FLAGS\.SILENT \(?\\Seen\)?", rest):
            self.seen.add(int(store[1]))
        elif command != "LOGOUT":
            raise LookupError(f"what is {command} {rest}?")

    def _is_report(self, uid: int) -> bool:
        return message_from_bytes(self.letters[uid]).get_content_type() == "multipart/report"


@contextmanager
def mailbox_server() -> Iterator[Mailbox]:
    mailbox = Mailbox()

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"* OK ready\r\n")
            while line := self.rfile.readline():
                tag, command, *rest = line.decode().strip().split(" ", 2)
                try:
                    for part in mailbox.answer(command.upper(), rest[0] if rest else ""):
                        self.wfile.write(part + b"\r\n")
                except LookupError as refusal:
                    self.wfile.write(f"{tag} NO {refusal.args[0]}\r\n".encode())
                    continue
                except ConnectionError:
                    return
                self.wfile.write(f"{tag} OK done\r\n".encode())
                if command.upper() == "LOGOUT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation) as server:
        server.daemon_threads = True
        mailbox.url = f"imap://bounces:secret@127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield mailbox
        finally:
            server.shutdown()
            thread.join(5)


def report(message_id: str, recipient: str, *, action: str = "failed", status: str = "5.1.1", **changes: Any) -> bytes:
    """As Postfix sends it. said: by the server of the recipient; original: the type and text of what it quotes."""
    said = changes.get("said", f"550 5.1.1 <{recipient}>: Recipient address rejected:\n    User unknown")
    kind, quoted = changes.get(
        "original", ("message/rfc822", f"Message-ID: {message_id}\nSubject: =?utf-8?q?x?=\n\nbody")
    )
    return f"""From: MAILER-DAEMON@mx.demo.test (Mail Delivery System)
To: bounces@demo.test
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="F2.1"

This is a MIME-encapsulated message.

--F2.1
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--F2.1
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.demo.test
Arrival-Date: Tue,  3 Nov 2026 12:00:00 +0300 (MSK)

Final-Recipient: rfc822; {recipient}
Original-Recipient: rfc822;{recipient}
Action: {action}
Status: {status}
Remote-MTA: dns; mx.there.test
Diagnostic-Code: smtp; {said}

--F2.1
Content-Type: {kind}

{quoted}
--F2.1--
""".encode()
