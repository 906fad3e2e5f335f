"""What the installation says of itself."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from sqlalchemy import text

from crm import observability
from crm.db import db, transaction
from crm.errors import report_exception
from crm.mailings.models import MessageStatus
from tests.factories import make_client, make_message


@pytest.fixture
def logged(capsys):
    """logged() -> what has been logged since the last call, one dict per line."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_request_is_logged_with_its_id_and_without_the_token(web, logged):
    answer = web().get("/pay/a-secret-token")
    (line,) = [line for line in logged() if line["event"] == "request"]
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert (line["method"], line["status"], line["level"]) == ("GET", answer.status_code, "info")
    assert "a-secret-token" not in json.dumps(line)


def test_an_unexpected_error_shows_an_id_and_logs_the_rest(app, logged, monkeypatch):
    secret = "hunter" + str(2)  # not as it stands in the source, which a traceback quotes

    def fail():
        db.session.execute(text("SELECT * FROM no_such_table WHERE name = :name"), {"name": secret})

    monkeypatch.setitem(app.view_functions, "health.healthz", fail)
    db.session.commit()
    answer = app.test_client().get("/healthz", headers={"Accept-Language": "ru"})
    assert answer.status_code == 500
    (line,) = [line for line in logged() if line["event"] == "unexpected_error"]
    assert line["error_id"] in answer.text
    assert "no_such_table" in line["exception"]
    assert secret not in json.dumps(line)
    for private in ("no_such_table", "SELECT", "Traceback"):
        assert private not in answer.text
    as_json = app.test_client().get("/healthz", headers={"Accept": "application/json"})
    assert set(as_json.json) == {"error", "id"}


@pytest.mark.parametrize("language", ["ru", "en"])
@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("GET", "/nothing/here", {}, 404),
        ("DELETE", "/pay/token", {}, 405),
        ("POST", "/switch", {"data": {"branch_id": "1"}}, 400),
        ("POST", "/login", {"data": {"email": "a" * 17 * 2**20}}, 413),
    ],
)
def test_a_refusal_is_a_page_of_ours_in_the_persons_language(network, web, language, method, path, options, code):
    browser = web(language=language)
    browser.with_csrf = False
    answer = browser.open(path, method=method, **options)
    assert answer.status_code == code
    assert f'<html lang="{language}">' in answer.text
    assert '<a href="/">' in answer.text
    assert "werkzeug" not in answer.text.lower()
    assert answer.headers["Content-Security-Policy"]
    if code == 405:
        assert "GET" in answer.headers["Allow"]


def test_a_refusal_leads_back_to_our_own_page_alone_and_is_json_for_programs(network, web):
    browser = web(network.instructor)
    for referrer, is_ours in (("https://kontora.test/admin/", True), ("https://elsewhere.test/admin/", False)):
        page = browser.get("/admin/user/", headers={"Referer": referrer})
        assert page.status_code == 403
        assert (f'href="{referrer}"' in page.text) == is_ours
    as_json = browser.get("/admin/user/", headers={"Accept": "application/json"})
    assert (as_json.status_code, as_json.json["error"]) == (403, "forbidden")


def test_a_rule_broken_outside_any_form_is_told_in_its_own_words(network, web):
    """A payer out of sight: nobody's mistake in a form, and no accident either."""
    child = make_client(network.lesnoy, payer=make_client(network.lesnoy))
    with transaction():
        db.session.execute(
            text("UPDATE client SET branch_id = :other WHERE id = :id"),
            {"other": network.mira.id, "id": child.payer_id},
        )
    browser = web(network.administrator)
    page = browser.get(f"/admin/client/card/{child.id}/")
    assert page.status_code == 404
    assert "Карточка плательщика не найдена в этом филиале." in page.text
    as_json = browser.get(f"/admin/client/card/{child.id}/", headers={"Accept": "application/json"})
    assert (as_json.status_code, as_json.json["error"]) == (404, "payer_not_found")


def test_an_exception_is_reported_under_an_id(app, logged):
    error_id = report_exception(ValueError("on purpose"))
    (line,) = logged()
    assert (line["error_id"], line["level"]) == (error_id, "error")
    assert "ValueError: on purpose" in line["exception"]


def test_health_and_readiness(app):
    client = app.test_client()
    assert client.get("/healthz").json == {"status": "ok"}
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "reasons": []})


def test_not_ready_before_the_migrations(app):
    db.session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    db.session.commit()
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "migrations" in answer.json["reasons"][0]


def test_not_ready_without_the_database(app, monkeypatch):
    broken = Flask("broken")
    broken.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://nobody:secret@127.0.0.1:1/nothing"
    db.init_app(broken)
    with broken.app_context():
        reason = observability._database_reason()
    assert reason == "the database does not answer"


def test_figures_of_requests_messages_and_the_queue(app, network):
    client = make_client(network.lesnoy)
    for status in (MessageStatus.PENDING, MessageStatus.PENDING, MessageStatus.FAILED):
        make_message(client, status=status)
    app.test_client().get("/healthz")
    figures = app.test_client().get("/metrics").text
    assert 'kontora_messages{status="pending"} 2.0' in figures
    assert 'kontora_messages{status="failed"} 1.0' in figures
    assert 'kontora_messages{status="sent"} 0.0' in figures
    assert 'kontora_queue_length{queue="kontora"} 0.0' in figures
    assert 'kontora_requests_total{endpoint="health.healthz",status="200"}' in figures
    assert 'kontora_request_seconds_count{endpoint="health.healthz"}' in figures


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_figures_are_for_this_machine_alone(app, network, header):
    assert app.test_client().get("/metrics", headers={header: "127.0.0.1"}).status_code == 404
    stranger = {"REMOTE_ADDR": "192.0.2.1"}
    assert app.test_client().get("/metrics", environ_base=stranger).status_code == 404
    assert app.test_client().get("/metrics", environ_base={"REMOTE_ADDR": "::1"}).status_code == 200
