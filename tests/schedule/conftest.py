"""Counting what is asked of the database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from crm.db import db


@pytest.fixture
def statements(app: Any) -> Callable[[], Any]:
    """with statements() as sent: … — the statements sent to the database meanwhile, in order."""

    @contextlib.contextmanager
    def noting() -> Iterator[list[str]]:
        sent: list[str] = []

        def note(*args: Any) -> None:
            sent.append(args[2])

        event.listen(db.engine, "before_cursor_execute", note)
        try:
            yield sent
        finally:
            event.remove(db.engine, "before_cursor_execute", note)

    return noting
