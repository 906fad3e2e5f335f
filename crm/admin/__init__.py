"""The staff panel."""

from flask import Flask


def register(app: Flask) -> None:
    """Attach the panel."""
