"""Structured logs with a request or job id."""

from __future__ import annotations

import uuid

from flask import Flask, g


def _name_request() -> None:
    g.request_id = uuid.uuid4().hex[:16]


def register(app: Flask) -> None:
    app.before_request(_name_request)
