"""Telling the queue, after commit, that a row waits. Losing a ring loses nothing: the sweep finds the row.

Domains ring without knowing the queue; jobs/ installs the ringer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import current_app

from crm.db import after_commit

Ringer = Callable[[str, tuple[Any, ...]], None]


def ring(task: str, *args: Any) -> None:
    """Once the current transaction() has committed, ask a worker to run `task` (a name in jobs/tasks.py) soon."""
    ringer: Ringer | None = current_app.extensions.get("bell")
    if ringer is not None:
        after_commit(lambda: ringer(task, args))
