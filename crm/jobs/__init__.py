"""Background work. The database is the truth; rq is a fast bell."""

from flask import Flask


def register(app: Flask) -> None:
    """Attach the queue and the commands that serve it."""
