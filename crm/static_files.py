"""Styles, scripts and pictures: their addresses carry a hash of their content, so that a browser asks for each once."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request

ENDPOINTS = frozenset({"static", "bootstrap.static"})


def register(app: Flask) -> None:
    app.url_defaults(_add_version)
    app.after_request(_keep_versions)
    app.add_url_rule("/favicon.ico", "favicon", _favicon)


def _favicon() -> Response:
    """Pages name their icon themselves; beside a PDF a browser asks for one at this address, whatever we say."""
    return Response(status=204, headers={"Cache-Control": "public, max-age=86400"})


def _add_version(endpoint: str, values: dict[str, Any]) -> None:
    if endpoint not in ENDPOINTS or "v" in values:
        return
    blueprint, _dot, _name = endpoint.rpartition(".")
    folder = (current_app.blueprints[blueprint] if blueprint else current_app).static_folder
    path = Path(folder or "", values["filename"])
    if path.is_file():
        values["v"] = _hash_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=200)
def _hash_of(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def _keep_versions(response: Response) -> Response:
    """Another content has another address (fonts of a style sheet, too, are named with their hash)."""
    if request.endpoint in ENDPOINTS and request.query_string and response.status_code == 200:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response
