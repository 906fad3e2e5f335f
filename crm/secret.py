"""Texts kept encrypted: keys of payment services. Who reads the database or a copy of it does not read them."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from flask import current_app
from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator


class Secret(TypeDecorator[str]):
    """Text encrypted under a key made from SECRET_KEY: with another SECRET_KEY it reads as "" and is entered anew."""

    impl = String(1000)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else _cipher().encrypt(value.encode()).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        try:
            return _cipher().decrypt(value.encode()).decode()
        except InvalidToken:
            return ""


def _cipher() -> Fernet:
    secret_key: str = current_app.config["SETTINGS"].secret_key
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"secret column:" + secret_key.encode()).digest()))
