"""Web Push on loopback: the encryption of RFC 8291 by its own example, the signature of VAPID, what services answer."""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crm.access.actors import SYSTEM
from crm.clients.merging import merge_clients
from crm.contacts.models import Channel
from crm.contacts.operations import contact_url
from crm.contacts.queries import address_for
from crm.db import db, transaction
from crm.mailings.channels.base import Fate, Letter
from crm.mailings.channels.push import (
    PushSender,
    SubscriptionError,
    encrypt,
    is_signed,
    own_key,
    public_key,
    read_subscription,
)
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import MessageStatus
from tests.factories import make_client, make_message
from tests.mailings.services import service

LETTER = Letter("manual:1", "Лесная школа", "school@demo.test", "Анна", "", "", "Занятие завтра в десять")


@pytest.fixture(autouse=True)
def _texts(app):
    """The texts of errors are in the language of the application."""


@pytest.fixture
def push_service():
    with service() as server:
        server.say("", 201)
        yield server


def plain(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def coded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private(text):
    return ec.derive_private_key(int.from_bytes(plain(text), "big"), ec.SECP256R1())


class Browser:
    """One that has subscribed: it reads what is encrypted for it."""

    def __init__(self, endpoint):
        self.key, self.auth = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)
        self.point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.subscription = json.dumps(
            {"endpoint": endpoint, "keys": {"p256dh": coded(self.point), "auth": coded(self.auth)}}
        )

    def read(self, body):
        salt, size, point, sealed = body[:16], body[20], body[21:86], body[86:]
        assert size == 65
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        secret = self._derive(
            self.key.exchange(ec.ECDH(), theirs), self.auth, b"WebPush: info\0" + self.point + point, 32
        )
        key = self._derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
        nonce = self._derive(secret, salt, b"Content-Encoding: nonce\0", 12)
        return json.loads(AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\0").removesuffix(b"\x02"))

    @staticmethod
    def _derive(secret, salt, info, length):
        return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def send(push_service, browser, key=None, text=LETTER.text):
    key = key or ec.generate_private_key(ec.SECP256R1())
    sender = PushSender(key, "https://crm.test", services=[push_service.url])
    letter = Letter("k", "Лесная школа", "", "Анна", browser.subscription, "", text)
    try:
        return sender.send(letter)
    finally:
        sender.close()


def test_the_example_of_rfc_8291():
    subscription = read_subscription(
        json.dumps(
            {
                "endpoint": "https://updates.push.services.mozilla.com/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
                "keys": {
                    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
                },
            }
        )
    )
    body = encrypt(
        b"When I grow up, I want to be a watermelon",
        subscription,
        key=private("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
        salt=plain("DGv6ra1nlYgDCS1FRnbzlw"),
    )
    assert coded(body) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3"
        "jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


def test_the_browser_alone_reads_what_is_sent_under_our_signature(push_service):
    browser, key = Browser(f"{push_service.url}/send/abc"), ec.generate_private_key(ec.SECP256R1())
    assert send(push_service, browser, key).fate is Fate.SENT
    (call,) = push_service.calls
    assert call.path == "/send/abc"
    assert (call.headers["content-encoding"], call.headers["ttl"]) == ("aes128gcm", "86400")
    assert "Занятие".encode() not in call.body
    assert browser.read(call.body) == {"title": "Лесная школа", "body": LETTER.text}
    scheme, token, of_key = call.headers["authorization"].replace(",", "").split(" ")
    assert (scheme, of_key) == ("vapid", f"k={public_key(key)}")
    token = token.removeprefix("t=")
    assert is_signed(token, key.public_key())
    assert not is_signed(token, ec.generate_private_key(ec.SECP256R1()).public_key())
    claims = json.loads(plain(token.split(".")[1]))
    assert (claims["aud"], claims["sub"]) == (push_service.url, "https://crm.test")


@pytest.mark.parametrize(
    ("status", "fate", "is_gone"),
    [
        (404, Fate.REFUSED, True),
        (410, Fate.REFUSED, True),
        (400, Fate.REFUSED, False),
        (403, Fate.REFUSED, False),
        (413, Fate.REFUSED, False),
        (429, Fate.POSTPONED, False),
        (500, Fate.UNKNOWN, False),
        (503, Fate.POSTPONED, False),
    ],
)
def test_what_services_answer(push_service, status, fate, is_gone):
    push_service.say("нет", status, Retry_After="30")
    outcome = send(push_service, Browser(push_service.url + "/x"))
    assert (outcome.fate, outcome.is_gone) == (fate, is_gone)
    assert outcome.retry_after == (30 if fate is Fate.POSTPONED else 0)


def test_a_long_text_is_refused_here(push_service):
    assert send(push_service, Browser(push_service.url + "/x"), text="я" * 1600).fate is Fate.REFUSED
    assert push_service.calls == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://fcm.googleapis.com/x",
        "https://fcm.googleapis.com.evil.test/x",
        "https://evil.test/fcm.googleapis.com",
        "https://fcm.googleapis.com@127.0.0.1/x",
        "https://a@x.push.apple.com/x",
        "https://127.0.0.1/x",
        "https://fcm.googleapis.com:8443/x",
        "file:///etc/passwd",
        "",
    ],
)
def test_nothing_is_posted_to_an_address_of_a_strangers_choice(endpoint):
    with pytest.raises(SubscriptionError):
        read_subscription(Browser(endpoint).subscription)


@pytest.mark.parametrize("text", ["", "5", "[]", "{}", '{"endpoint": 5, "keys": {}}', '{"endpoint": "x", "keys": 1}'])
def test_nonsense_is_no_subscription(text):
    with pytest.raises(SubscriptionError):
        read_subscription(text)


@pytest.mark.parametrize(
    "host",
    [
        *("fcm.googleapis.com", "jmt17.google.com", "updates.push.services.mozilla.com", "web.push.apple.com"),
        "wns2-par02p.notify.windows.com",
    ],
)
def test_services_of_browsers_are_known(host):
    assert read_subscription(Browser(f"https://{host}/x").subscription).endpoint == f"https://{host}/x"


def test_the_installation_keeps_its_key_to_itself(tmp_path):
    first = own_key(tmp_path)
    assert public_key(own_key(tmp_path)) == public_key(first)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def subscribe(app, web, push_service, monkeypatch):
    """What the script of the page of messages does with the browser's subscription."""
    monkeypatch.setitem(app.config, "PUSH_SERVICES", [push_service.url])
    page = web()
    page.with_csrf = False
    return lambda token, text: page.post(f"/messages/{token}/push", data=text).status_code


def token_of(client):
    with transaction():
        return contact_url(client).rpartition("/")[2]


@pytest.mark.spec("C156")
def test_a_client_connects_a_browser_gets_messages_there_and_leaves(network, push_service, subscribe):
    client, browser = make_client(network.lesnoy), Browser(push_service.url + "/x")
    assert address_for(client, Channel.PUSH) is None
    assert subscribe(token_of(client), browser.subscription) == 204
    address = address_for(client, Channel.PUSH)
    assert address is not None

    def send_one():
        message = make_message(client, channel=Channel.PUSH, recipient=address, subject="", body="Занятие завтра")
        deliver_batch()
        db.session.expire_all()
        return message.status

    assert send_one() is MessageStatus.SENT
    assert browser.read(push_service.calls[-1].body)["body"] == "Занятие завтра"
    push_service.say("", 410)
    assert send_one() is MessageStatus.FAILED
    assert address_for(client, Channel.PUSH) is None
    calls = len(push_service.calls)
    assert send_one() is MessageStatus.FAILED
    assert len(push_service.calls) == calls


def test_what_waits_finds_the_browser_of_two_cards_that_became_one(network, push_service, subscribe):
    gone, kept = make_client(network.lesnoy), make_client(network.lesnoy)
    subscribe(token_of(gone), Browser(push_service.url + "/x").subscription)
    address = address_for(gone, Channel.PUSH)
    message = make_message(gone, channel=Channel.PUSH, recipient=address, subject="", body="Занятие завтра")
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    deliver_batch()
    db.session.refresh(message)
    assert (message.client_id, message.status) == (kept.id, MessageStatus.SENT)


def test_what_is_no_subscription_connects_nobody(network, push_service, subscribe):
    client, browser = make_client(network.lesnoy), Browser(push_service.url + "/x")
    assert subscribe(token_of(client), Browser("https://evil.test/x").subscription) == 400
    assert subscribe(token_of(client), "[") == 400
    assert subscribe("guess", browser.subscription) == 404
    assert address_for(client, Channel.PUSH) is None


def test_a_page_offers_it_under_the_key_of_the_installation(network, app, web):
    path = f"/messages/{token_of(make_client(network.lesnoy))}"
    assert f'href="{path}/push"' in web().get(path).text
    answer = web().get(f"{path}/push")
    assert f'data-key="{public_key(own_key(app.config["SETTINGS"].data_dir))}"' in answer.text
    assert web().get("/messages/guess/push").status_code == 404
