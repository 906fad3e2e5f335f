"""Settings, read once from the environment. A bad value stops the start and names itself."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent.parent
YOOKASSA_URL = "https://api.yookassa.ru/v3"
TBANK_URL = "https://securepay.tinkoff.ru/v2"


class SettingsError(Exception):
    """A setting cannot be used; the text names the variable and what it may be."""


@dataclass(frozen=True)
class SmsSettings:
    """The gateway of SMS. provider: `http`, any that takes a POST, or `smsru`. body: what is posted, with places to
    fill in; ok, id: where in the answer it says that the message is taken, and its number; of `http` alone.
    """

    provider: str
    url: str
    token: str = field(repr=False)
    sender: str = ""
    body: str = ""
    ok: str = ""
    id: str = ""


@dataclass(frozen=True)
class Settings:
    """Everything the outside may set; see docs/operations.md for the table. smtp_url, sms: None, messages wait.
    imap_url: of the mailbox that letters which cannot be delivered come back to, at bounce_address; None: not read.
    yookassa_url, tbank_url: where the payment services answer.
    """

    database_url: str
    redis_url: str
    secret_key: str
    port: int
    smtp_url: str | None
    imap_url: str | None
    bounce_address: str
    public_url: str
    data_dir: Path
    is_demo: bool
    trusted_proxies: int
    yookassa_url: str
    tbank_url: str
    sms: SmsSettings | None = None

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")


def read_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Build Settings from `env` (os.environ by default). Raises SettingsError naming the first bad variable."""
    env = os.environ if env is None else env
    data_dir = Path(env.get("DATA_DIR") or ROOT / "var").absolute()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR: cannot use {data_dir}: {error.strerror}") from None
    port = _port(env.get("PORT") or "8000")
    return Settings(
        database_url=_database_url(env.get("DATABASE_URL") or f"sqlite:///{data_dir / 'kontora.db'}"),
        redis_url=_url(
            "REDIS_URL", env.get("REDIS_URL") or f"unix://{data_dir / 'valkey.sock'}", "redis", "rediss", "unix"
        ),
        secret_key=env.get("SECRET_KEY") or _own_secret(data_dir),
        port=port,
        smtp_url=_url("SMTP_URL", smtp_url, "smtp", "smtps") if (smtp_url := env.get("SMTP_URL")) else None,
        imap_url=_url("IMAP_URL", imap_url, "imap", "imaps") if (imap_url := env.get("IMAP_URL")) else None,
        bounce_address=_address("BOUNCE_ADDRESS", env.get("BOUNCE_ADDRESS") or ""),
        public_url=_url("PUBLIC_URL", env.get("PUBLIC_URL") or f"http://127.0.0.1:{port}", "http", "https").rstrip("/"),
        data_dir=data_dir,
        is_demo=_flag("KONTORA_DEMO", env.get("KONTORA_DEMO") or "0"),
        trusted_proxies=_count("TRUSTED_PROXIES", env.get("TRUSTED_PROXIES") or "0"),
        yookassa_url=_url("YOOKASSA_URL", env.get("YOOKASSA_URL") or YOOKASSA_URL, "http", "https").rstrip("/"),
        tbank_url=_url("TBANK_URL", env.get("TBANK_URL") or TBANK_URL, "http", "https").rstrip("/"),
        sms=_sms(env),
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise SettingsError(f"PORT: {text!r} is not a port number (1 to 65535)")
    return int(text)


def _count(name: str, text: str) -> int:
    if text not in {"0", "1", "2", "3", "4", "5"}:
        raise SettingsError(f"{name}: {text!r} is not a number of proxies (0 to 5)")
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text not in {"0", "1"}:
        raise SettingsError(f"{name}: {text!r} is neither 0 nor 1")
    return text == "1"


SMS_BODY = '{"phone": "{phone}", "text": "{text}", "sender": "{sender}"}'
SMSRU_URL = "https://sms.ru/sms/send"


def _sms(env: Mapping[str, str]) -> SmsSettings | None:
    """The gateway of SMS; None when neither its address nor its provider is given."""
    provider = env.get("SMS_PROVIDER") or ("http" if env.get("SMS_URL") else "")
    if not provider:
        return None
    if provider not in {"http", "smsru"}:
        raise SettingsError(f"SMS_PROVIDER: {provider!r} is neither http nor smsru")
    url = env.get("SMS_URL") or (SMSRU_URL if provider == "smsru" else "")
    host = urlsplit(_url("SMS_URL", url, "http", "https")).hostname or ""
    if not host:
        raise SettingsError(f"SMS_URL: {url!r} names no host")
    if url.startswith("http://") and host not in {"localhost", "127.0.0.1", "::1"}:
        raise SettingsError("SMS_URL: the key and the texts would go over a plain line; use https://")
    token, body, ok = env.get("SMS_TOKEN") or "", env.get("SMS_BODY") or SMS_BODY, env.get("SMS_OK") or ""
    if not token.isascii() or not token.isprintable():
        raise SettingsError("SMS_TOKEN: only Latin letters, digits and signs can be sent")
    if provider == "smsru" and not token:
        raise SettingsError("SMS_TOKEN: SMS.RU wants its api_id here")
    if body.lstrip().startswith("{"):
        try:
            json.loads(body)
        except ValueError as error:
            raise SettingsError(f"SMS_BODY: this is no JSON: {error}") from None
    if "{text}" not in body or not ("{phone}" in body or "{digits}" in body):
        raise SettingsError("SMS_BODY: it must hold {text}, and {phone} or {digits}")
    if ok and "=" not in ok:
        raise SettingsError(f"SMS_OK: {ok!r} is not of the form path=value")
    return SmsSettings(provider, url, token, env.get("SMS_SENDER") or "", body, ok, env.get("SMS_ID") or "")


def _address(name: str, text: str) -> str:
    if text and not re.fullmatch(r"[!-?A-~]+@[!-?A-~]+", text):
        raise SettingsError(f"{name}: {text!r} is no e-mail address in Latin letters")
    return text


def _url(name: str, text: str, *schemes: str) -> str:
    scheme = urlsplit(text).scheme
    if scheme not in schemes:
        raise SettingsError(f"{name}: {text!r} must begin with " + " or ".join(f"{s}://" for s in schemes))
    return text


def _database_url(text: str) -> str:
    try:
        url = make_url(text)
    except ArgumentError:
        raise SettingsError(f"DATABASE_URL: {text!r} is not a database address") from None
    if url.drivername not in {"sqlite", "postgresql+psycopg"}:
        raise SettingsError(
            f"DATABASE_URL: {url.drivername}:// is not supported; use sqlite:///file or postgresql+psycopg://user@host/name"
        )
    return text


def _own_secret(data_dir: Path) -> str:
    """A key of this installation, made on the first start and kept readable by its owner only."""
    path = data_dir / "secret_key"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    except FileExistsError:
        pass
    return path.read_text()
