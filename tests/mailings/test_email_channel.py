"""One SMTP conversation: what is said, and what became of the letter. Servers here are real sockets with a script."""

from __future__ import annotations

import contextlib
import socket
import threading
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest

from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.email import EmailSender, letter_id


@pytest.fixture(autouse=True)
def _needs_templates(app):
    """The HTML part is rendered by the app."""


@pytest.fixture
def dialect():
    """No database is touched here: once is enough."""
    return "sqlite"


def letter(**changes):
    facts = {
        "key": "test:1",
        "sender_name": "Лесная школа",
        "sender": "school@demo.test",
        "recipient_name": "Анна",
        "recipient": "anna@demo.test",
        "subject": "Счёт на оплату",
        "text": "Здравствуйте!\n.точка в начале\nhttps://kontora.test/pay/x?a=1&b=2 <b>",
        **changes,
    }
    return Letter(**facts)


@contextlib.contextmanager
def scripted(*conversations):
    """A server whose every connection follows its script: {command: reply}; None as the reply hangs up.

    Yields (url, heard): the lines of each connection; DATA's content is one element.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    heard = []

    def serve():
        for script in conversations:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    heard.append(lines := [])
                    converse(stream, {"greeting": "220 hello", **script}, lines)

    def converse(stream, script, lines):
        def say(name):
            reply = script.get(name, "250 OK")
            if reply is None:
                return False
            stream.write(reply.encode() + b"\r\n")
            stream.flush()
            return True

        alive = say("greeting")
        while alive and (line := stream.readline()):
            lines.append(line.decode().strip())
            command = line.split(b":")[0].split()[0].decode().upper()
            if command == "DATA" and script.get("DATA", "354 go").startswith("354"):
                stream.write(b"354 go\r\n")
                stream.flush()
                content = b""
                while (part := stream.readline()) != b".\r\n":
                    content += part
                lines.append(content)
                command = "content"
            alive = say(command)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"smtp://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        listener.close()
        thread.join(5)


def send(url, *letters):
    sender = EmailSender(url)
    try:
        return [sender.send(one) for one in letters]
    finally:
        sender.close()


@pytest.mark.spec("B103")
def test_the_letter_arrives_as_text_and_html(smtp):
    assert send(smtp.url, letter())[0].fate is Fate.SENT
    (received,) = smtp.messages
    message = received.message
    assert (received.sender, received.recipients) == ("school@demo.test", ["anna@demo.test"])
    assert received.subject == "Счёт на оплату"
    assert str(message["From"]) == "Лесная школа <school@demo.test>"
    assert received.text.splitlines() == letter().text.splitlines()
    html = message.get_body(("html",)).get_content()
    assert '<a href="https://kontora.test/pay/x?a=1&amp;b=2"' in html
    assert "&lt;b&gt;" in html
    assert message["Date"]
    assert message["Message-ID"].endswith("@demo.test>")


def test_many_letters_take_one_connection(smtp):
    assert {outcome.fate for outcome in send(smtp.url, *(letter(key=str(i)) for i in range(20)))} == {Fate.SENT}
    assert (len(smtp.messages), smtp.conversations) == (20, 1)
    assert len({received.message["Message-ID"] for received in smtp.messages}) == 20


def test_the_wire_carries_seven_bits_crlf_and_doubled_dots():
    with scripted({}) as (url, heard):
        send(url, letter(text=".\n..\nplain\n"))
    content = next(line for line in heard[0] if isinstance(line, bytes))
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")
    message = message_from_bytes(content.replace(b"\r\n..", b"\r\n."), policy=policy.default)
    assert message.get_body(("plain",)).get_content().splitlines() == [".", "..", "plain"]


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "Счёт\r\nBcc: evil@demo.test"},
        {"recipient": "anna@demo.test\r\nRCPT TO:<evil@demo.test>"},
        {"recipient": "anna@demo.test> <evil@demo.test"},
        {"recipient": "anna"},
        {"recipient": ""},
        {"sender": "школа@demo.test"},
    ],
)
def test_nothing_can_be_smuggled_into_headers_or_commands(smtp, change):
    assert send(smtp.url, letter(**change))[0].fate is Fate.REFUSED
    assert smtp.messages == []


def test_a_name_with_line_breaks_or_commas_stays_a_name(smtp):
    send(smtp.url, letter(recipient_name='Анна,\r\nBcc: evil@demo.test "x"'))
    (received,) = smtp.messages
    assert received.recipients == ["anna@demo.test"]
    assert received.message["Bcc"] is None


def test_an_international_domain_travels_in_its_ascii_form(smtp):
    assert send(smtp.url, letter(recipient="anna@школа.test"))[0].fate is Fate.SENT
    assert smtp.messages[0].recipients == ["anna@xn--80atdl2c.test"]


@pytest.mark.parametrize(
    ("script", "fate"),
    [
        ({"RCPT": "451 later"}, Fate.POSTPONED),
        ({"RCPT": "550 nobody"}, Fate.REFUSED),
        ({"MAIL": "452 full"}, Fate.POSTPONED),
        ({"DATA": "554 no"}, Fate.REFUSED),
        ({"content": "451 greylisted"}, Fate.POSTPONED),
        ({"content": "552 too big"}, Fate.REFUSED),
        ({"RCPT": "421 closing"}, Fate.UNREACHABLE),
        ({"greeting": "421 busy"}, Fate.UNREACHABLE),
        ({"greeting": None}, Fate.UNREACHABLE),
        ({"RCPT": None}, Fate.UNREACHABLE),
        ({"content": None}, Fate.UNKNOWN),
        ({"content": "nonsense"}, Fate.UNKNOWN),
    ],
)
def test_what_the_server_says_decides_the_fate(script, fate):
    with scripted(script) as (url, _):
        (outcome,) = send(url, letter())
    assert outcome.fate is fate
    assert outcome.reason


def test_nobody_there_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"smtp://127.0.0.1:{server.getsockname()[1]}"
    assert send(url, letter())[0].fate is Fate.UNREACHABLE


def test_a_refused_letter_does_not_spoil_the_next_on_the_connection(smtp):
    smtp.refuse_for_good("gone@demo.test")
    outcomes = send(smtp.url, letter(), letter(recipient="gone@demo.test"), letter())
    assert [outcome.fate for outcome in outcomes] == [Fate.SENT, Fate.REFUSED, Fate.SENT]
    assert "550" in outcomes[1].reason
    assert smtp.conversations == 1


def test_a_connection_closed_between_letters_is_opened_again():
    with scripted({"content": "250 taken", "MAIL": "250 OK"}, {}) as (url, heard):
        sender = EmailSender(url)
        assert sender.send(letter()).fate is Fate.SENT
        sender._connection.sock.shutdown(socket.SHUT_RDWR)
        assert sender.send(letter()).fate is Fate.SENT
        sender.close()
    assert len(heard) == 2


def test_a_password_goes_to_this_machine_or_over_tls_only():
    script = {"EHLO": "250-hello\r\n250 AUTH PLAIN", "AUTH": "235 welcome"}
    with scripted(script) as (url, heard):
        assert send(url.replace("//", "//user:p%40ss@"), letter())[0].fate is Fate.SENT
    assert any(isinstance(line, str) and line.startswith("AUTH PLAIN") for line in heard[0])


def test_wrong_credentials_are_the_installations_fault_not_the_letters():
    script = {"EHLO": "250-hello\r\n250 AUTH PLAIN", "AUTH": "535 wrong password"}
    with scripted(script) as (url, _):
        (outcome,) = send(url.replace("//", "//user:pass@"), letter())
    assert outcome.fate is Fate.UNREACHABLE
    assert "535" in outcome.reason


def test_a_letter_of_a_mailing_can_be_refused_in_one_click(smtp):
    address = "https://kontora.test/messages/abc/unsubscribe/news"
    assert send(smtp.url, letter(unsubscribe=address))[0].fate is Fate.SENT
    message = smtp.messages[0].message
    assert message["List-Unsubscribe"].replace("\n", "").replace(" ", "") == f"<{address}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert smtp.messages[0].text.rstrip().endswith(f": {address}")
    smtp.reset()
    send(smtp.url, letter())
    assert smtp.messages[0].message["List-Unsubscribe"] is None


def test_headers_are_short_lines_of_seven_bits():
    """So that a signature of the mail server (DKIM) holds whatever server the letter passes."""
    long = "Автономная некоммерческая организация дополнительного образования «Школа лыжного спорта и туризма»"
    with scripted({}) as (url, heard):
        send(
            url, letter(subject=f"{long} {long}", sender_name=long, recipient_name=long, unsubscribe="https://k.test/m")
        )
    content = next(line for line in heard[0] if isinstance(line, bytes))
    head, _gap, body = content.partition(b"\r\n\r\n")
    assert max(map(len, head.split(b"\r\n"))) <= 78
    assert max(map(len, body.split(b"\r\n"))) <= 78
    message = message_from_bytes(content, policy=policy.default)
    assert message["Subject"] == f"{long} {long}"
    # The newer parser of some Pythons keeps the blanks between the encoded words of a name.
    named = message_from_bytes(content)
    assert [str(make_header(decode_header(parseaddr(named[name])[0]))) for name in ("From", "To")] == [long, long]
    names = [name for name in message.keys() if name not in ("Content-Type", "MIME-Version")]  # noqa: SIM118
    assert len(names) == len(set(names))  # a second From or Date spoils a signature


def test_a_letter_is_found_again_by_its_message_id(smtp):
    (outcome,) = send(smtp.url, letter(key="bill:7:email"))
    assert outcome.external_id == letter_id("bill:7:email")
    assert smtp.messages[0].message["Message-ID"] == f"<{outcome.external_id}@demo.test>"
