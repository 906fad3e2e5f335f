"""A form is carried out once, however often it is sent: its key is written in the transaction of its effect."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

from sqlalchemy import String, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from crm import clock
from crm.db import Model, db


class AlreadySubmitted(Exception):
    """This very form has been carried out; url is where its first sending led."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class SubmittedForm(Model):
    """key: random, made when the form was shown; url: where the person was sent after it."""

    __audited__ = False

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(String(2000), default="")
    submitted_at: Mapped[datetime] = mapped_column(index=True)

    @classmethod
    def claim(cls, key: str | None) -> SubmittedForm:
        """Take the form for the current transaction. Raises AlreadySubmitted. A missing key is a form of its own."""
        if key is None or not re.fullmatch(r"[0-9a-f]{32}", key):
            key = uuid.uuid4().hex
        found = db.session.get(cls, key)
        if found is None:
            found = cls(key=key, submitted_at=clock.now())
            try:
                with db.session.begin_nested():
                    db.session.add(found)
                    db.session.flush()
                return found
            except IntegrityError:  # the other sending has just committed
                found = db.session.get_one(cls, key)
        raise AlreadySubmitted(found.url)


def forget_forms(*, before: datetime) -> None:
    """Drop the keys of forms sent before an instant; their pages are long closed. The caller commits."""
    db.session.execute(delete(SubmittedForm).where(SubmittedForm.submitted_at < before))


def new_form_key() -> str:
    return uuid.uuid4().hex
