"""A form is carried out once, however often it is sent: its key is written in the transaction of its effect."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import String, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from crm import clock
from crm.db import Model, db

# What differs between two sendings of one form without the person having meant anything by it.
_MACHINERY = frozenset({"csrf_token", "form_key"})


class AlreadySubmitted(Exception):
    """The form of this key has been carried out. url: where its first sending led; is_same: with the same values."""

    def __init__(self, url: str, *, is_same: bool) -> None:
        super().__init__(url)
        self.url = url
        self.is_same = is_same


class SubmittedForm(Model):
    """key: random, made when the form was shown; fingerprint: of what was sent; url: where the person went after it."""

    __audited__ = False

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(String(2000), default="")
    submitted_at: Mapped[datetime] = mapped_column(index=True)

    @classmethod
    def check(cls, key: str | None, fingerprint: str) -> None:
        """Raise AlreadySubmitted when the form of this key has been carried out."""
        found = db.session.get(cls, key) if _is_key(key) else None
        if found is not None:
            raise AlreadySubmitted(found.url, is_same=found.fingerprint == fingerprint)

    @classmethod
    def claim(cls, key: str | None, fingerprint: str) -> SubmittedForm:
        """Take the form for the current transaction. Raises AlreadySubmitted. A missing key is a form of its own."""
        if key is None or not _is_key(key):
            key = new_form_key()
        cls.check(key, fingerprint)
        taken = cls(key=key, fingerprint=fingerprint, submitted_at=clock.now())
        try:
            with db.session.begin_nested():
                db.session.add(taken)
                db.session.flush()
        except IntegrityError:  # the other sending has just committed
            cls.check(key, fingerprint)
            raise
        return taken


def fingerprint_of(address: str, fields: Iterable[tuple[str, str]]) -> str:
    """What was sent where, as 64 hex digits: equal for two sendings of one form, whatever order the fields come in."""
    values = sorted((name, value) for name, value in fields if name not in _MACHINERY)
    return hashlib.sha256(json.dumps([address, values]).encode()).hexdigest()


def forget_forms(*, before: datetime) -> None:
    """Drop the keys of forms sent before an instant; their pages are long closed. The caller commits."""
    db.session.execute(delete(SubmittedForm).where(SubmittedForm.submitted_at < before))


def new_form_key() -> str:
    return uuid.uuid4().hex


def _is_key(key: str | None) -> bool:
    return key is not None and re.fullmatch(r"[0-9a-f]{32}", key) is not None
