"""Files a browser asks for once: their addresses change with their content."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask, url_for


@pytest.mark.parametrize(("endpoint", "name"), [("static", "app.css"), ("bootstrap.static", "css/bootstrap.min.css")])
def test_an_address_with_a_version_is_kept_for_good(app: Flask, endpoint: str, name: str) -> None:
    with app.test_request_context():
        address = url_for(endpoint, filename=name)
    assert "?v=" in address
    client = app.test_client()
    with client.get(address) as answer:
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    with client.get(address.partition("?")[0]) as answer:
        assert answer.headers["Cache-Control"] == "no-cache"


def test_another_content_has_another_address(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "static_folder", str(tmp_path))
    addresses = set()
    for content in ("a { }", "a { color: red }"):
        (tmp_path / "some.css").write_text(content)
        with app.test_request_context():
            addresses.add(url_for("static", filename="some.css"))
    assert len(addresses) == 2


def test_what_is_not_there_has_no_version_and_is_not_kept(app: Flask) -> None:
    with app.test_request_context():
        assert "v=" not in url_for("static", filename="nothing.css")
    with app.test_client().get("/static/nothing.css?v=1") as answer:
        assert answer.status_code == 404
        assert "immutable" not in answer.headers.get("Cache-Control", "")


def test_a_browser_that_shows_a_pdf_finds_no_fault(app):
    """It asks for an icon at this address, though no page of ours names it."""
    assert app.test_client().get("/favicon.ico").status_code == 204
