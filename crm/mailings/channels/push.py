"""Web Push: notices to browsers that have subscribed (RFC 8030), encrypted for them (RFC 8291, aes128gcm of RFC 8188),
signed by the key of the installation (VAPID, RFC 8292).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask_babel import gettext as _

from crm import clock
from crm.mailings.channels.api import Api, outcome_of_status
from crm.mailings.channels.base import Fate, Letter, Outcome

# Push services of browsers, by the end of their host names. A subscription comes from a stranger: nothing is posted to
# an address of his choice.
SERVICES = (
    "https://fcm.googleapis.com",
    "https://jmt17.google.com",  # of Chromium
    "https://.push.services.mozilla.com",
    "https://updates.push.services.mozilla.com",
    "https://.push.apple.com",
    "https://.notify.windows.com",
)
TTL = 86_400  # s a service keeps a notice for a browser that is off
TOKEN_LIFE = 12 * 3600  # s; a service takes none that lives longer than a day
# What every service takes is 4096 bytes with all its frame; that of a text is far less.
MAX_BYTES = 3000
_RECORD = 4096


class SubscriptionError(ValueError):
    """No push subscription of a known service."""


@dataclass(frozen=True)
class Subscription:
    """What a browser gives. public_key: of P-256, uncompressed, 65 bytes; auth: 16 bytes."""

    endpoint: str
    public_key: bytes = field(repr=False)
    auth: bytes = field(repr=False)


def read_subscription(text: str, services: Sequence[str] = SERVICES) -> Subscription:
    """PushSubscription.toJSON() of a browser. Raises SubscriptionError."""
    try:
        told = json.loads(text)
        endpoint, keys = told["endpoint"], told["keys"]
        key, auth = _decoded(keys["p256dh"]), _decoded(keys["auth"])
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        at = urlsplit(endpoint)
        is_known = any(_is_of(service, at.scheme, at.netloc) for service in services)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SubscriptionError("not a push subscription") from None
    if not is_known or len(endpoint) > 1000:
        raise SubscriptionError("not of a known push service")
    if len(key) != 65 or len(auth) != 16:
        raise SubscriptionError("bad keys")
    return Subscription(endpoint, key, auth)


def _is_of(service: str, scheme: str, place: str) -> bool:
    """place: host and port; one with a name or a password in it is of no service."""
    of_scheme, _slashes, host = service.partition("://")
    if scheme != of_scheme or "@" in place:
        return False
    return place.endswith(host) if host.startswith(".") else place == host


# --- the key of the installation -------------------------------------------------------------------------------------


def own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The VAPID key of this installation, made at its first use and kept readable by its owner only."""
    path = folder / "vapid.pem"
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        own = folder / f"vapid.{os.getpid()}.tmp"
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(made)
        try:
            os.link(own, path)  # whole or not at all; the first of two workers wins
        except FileExistsError:
            pass
        finally:
            own.unlink()
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no key of P-256")
    return key


def public_key(key: ec.EllipticCurvePrivateKey) -> str:
    """What a browser subscribes with (applicationServerKey), base64url."""
    return _encoded(_point(key))


def vapid(key: ec.EllipticCurvePrivateKey, endpoint: str, subject: str) -> str:
    """The header Authorization for a service. subject: mailto: or https:, whom the service may complain to."""
    at = urlsplit(endpoint)
    claims = {
        "aud": f"{at.scheme}://{at.netloc}",
        "exp": int(clock.now().timestamp()) + TOKEN_LIFE,
        "sub": subject,
    }
    signed = f"{_encoded_json({'typ': 'JWT', 'alg': 'ES256'})}.{_encoded_json(claims)}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    signature = _encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return f"vapid t={signed}.{signature}, k={public_key(key)}"


def is_signed(token: str, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether a JWT of VAPID is signed by the key's owner."""
    signed, _dot, signature = token.rpartition(".")
    raw = _decoded(signature)
    try:
        pair = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(pair, signed.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


# --- encryption ------------------------------------------------------------------------------------------------------


def encrypt(
    text: bytes,
    subscription: Subscription,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """The body of a notice, which nobody but the browser reads. key, salt: new for each but in a test."""
    key, salt = key or ec.generate_private_key(ec.SECP256R1()), salt or os.urandom(16)
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), subscription.public_key)
    info = b"WebPush: info\0" + subscription.public_key + _point(key)
    secret = _derive(key.exchange(ec.ECDH(), theirs), subscription.auth, info, 32)
    content_key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)
    sealed = AESGCM(content_key).encrypt(nonce, text + b"\x02", None)  # 2: the last record, and the only one
    return salt + _RECORD.to_bytes(4, "big") + bytes([65]) + _point(key) + sealed


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded_json(value: object) -> str:
    return _encoded(json.dumps(value, separators=(",", ":")).encode())


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


# --- sending ---------------------------------------------------------------------------------------------------------


class PushSender:
    """Writes to browsers. Letter.recipient: the subscription as JSON.

    A browser is shown `{"title", "body"}` by the service worker of the client's page. Every browser has a service of
    its own, so that one out of reach keeps back its own notices alone.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str, services: Sequence[str] = SERVICES) -> None:
        self._key, self._subject, self._services = key, subject, services
        self._api = Api("")

    def send(self, letter: Letter) -> Outcome:
        try:
            subscription = read_subscription(letter.recipient, self._services)
        except SubscriptionError as error:
            return Outcome(Fate.REFUSED, str(error), is_gone=True)
        text = json.dumps({"title": letter.sender_name, "body": letter.text}, ensure_ascii=False).encode()
        if len(text) > MAX_BYTES:
            return Outcome(Fate.REFUSED, _("The message is too long for a notification."))
        headers = {
            "Authorization": vapid(self._key, subscription.endpoint, self._subject),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(TTL),
        }
        answer = self._api.post_bytes(subscription.endpoint, encrypt(text, subscription), headers)
        if isinstance(answer, Outcome):
            is_away = answer.fate is Fate.UNREACHABLE
            return Outcome(Fate.POSTPONED, answer.reason) if is_away else answer
        if answer.is_success:
            return Outcome(Fate.SENT)
        reason = f"HTTP {answer.status} {answer.shown}".strip()
        if answer.status in {404, 410}:
            return Outcome(Fate.REFUSED, f"{_('The browser has unsubscribed.')} {reason}", is_gone=True)
        if answer.status in {401, 403}:  # subscribed under another key of ours
            return Outcome(Fate.REFUSED, f"{_('The push service does not take our key.')} {reason}")
        outcome = outcome_of_status(answer)
        if outcome.fate is Fate.UNREACHABLE:
            return Outcome(Fate.POSTPONED, outcome.reason, retry_after=outcome.retry_after)
        return outcome

    def close(self) -> None:
        self._api.close()
