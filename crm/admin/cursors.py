"""Cursors: the sort keys of a row as a piece of an address. Signed, so that what comes back is what was given out."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from flask import current_app
from itsdangerous import BadData, URLSafeSerializer

# By a letter, so that a value comes back as what it was.
_READERS: dict[str, Callable[[str], Any]] = {
    "m": Decimal,
    "i": datetime.fromisoformat,
    "d": date.fromisoformat,
    "t": time.fromisoformat,
}


def write(keys: Sequence[Any], purpose: str) -> str:
    """A cursor of a row with these keys; it can be read for the same purpose only."""
    return str(_serializer(purpose).dumps([_packed(key) for key in keys]))


def read(cursor: str, purpose: str) -> list[Any]:
    """The keys. An enum's come as their plain values. Raises ValueError for anything write() did not give."""
    try:
        return [_unpacked(key) for key in _serializer(purpose).loads(cursor)]
    except BadData as error:
        raise ValueError("not a cursor of ours") from error


def _serializer(purpose: str) -> URLSafeSerializer:
    return URLSafeSerializer(current_app.secret_key or "", salt=f"cursor:{purpose}")


def _packed(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        return key.value
    if isinstance(key, Decimal):
        return {"m": str(key)}
    if isinstance(key, datetime):
        return {"i": key.isoformat()}
    if isinstance(key, date):
        return {"d": key.isoformat()}
    if isinstance(key, time):
        return {"t": key.isoformat()}
    return key


def _unpacked(key: Any) -> Any:
    if not isinstance(key, dict):
        return key
    ((kind, text),) = key.items()
    return _READERS[kind](text)
