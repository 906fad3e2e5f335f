"""Background work. The database is the truth; rq is a fast bell."""

from __future__ import annotations

from flask import Flask

from crm.jobs import commands, queues


def register(app: Flask) -> None:
    """Hang up the bell and attach the commands that answer it."""
    queues.register(app)
    commands.register(app)
