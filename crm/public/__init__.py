"""Pages for clients, webhooks in."""

from flask import Flask
from flask_wtf import CSRFProtect


def register(app: Flask, csrf: CSRFProtect) -> None:
    """Attach the public pages."""
