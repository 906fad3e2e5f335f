"""A session is of one person and one password; strangers' files cost nothing; proxies are believed as far as told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, request
from sqlalchemy import event, select

from crm import clock, create_app
from crm.access.models import LoginAttempt
from crm.access.operations import MAX_FAILURES
from crm.audit.models import AuditAction, AuditEntry
from crm.db import db
from tests.admin.world import send
from tests.factories import PASSWORD

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def is_signed_in(browser: Any) -> bool:
    return bool(browser.get("/admin/").status_code == 200)


def test_a_new_password_ends_the_sessions_of_the_old(network: Any, web: Any) -> None:
    stolen, own = web(network.director), web(network.owner)
    mine_elsewhere = web(network.owner)
    assert is_signed_in(stolen)
    path = "/admin/user/edit/?id={}"
    assert send(own, path.format(network.director.id), password="новый").status_code == 302
    assert not is_signed_in(stolen)
    assert is_signed_in(web(network.director))
    assert send(own, path.format(network.owner.id), password="новый").status_code == 302
    assert is_signed_in(own)  # where it was changed
    assert not is_signed_in(mine_elsewhere)


@pytest.mark.parametrize("written", ["{}", "{}.", "{}.0000000000000000", ".", "x.y", "²", "9" * 5000])
def test_a_session_of_no_password_is_nobodys(network: Any, web: Any, written: str) -> None:
    browser = web(network.owner)
    with browser.session_transaction(base_url="https://kontora.test") as session:
        session["_user_id"] = written.format(network.owner.id)
    assert not is_signed_in(browser)


def test_signing_in_is_written_down_as_done_by_the_person(network: Any, web: Any) -> None:
    now = datetime(2026, 9, 1, 12, tzinfo=UTC)
    before = db.session.scalars(select(AuditEntry.id)).all()
    with clock.frozen(now):
        web().post("/login", data={"email": network.director.email, "password": PASSWORD})
    line = db.session.scalars(select(AuditEntry).where(AuditEntry.id.not_in(before))).one()
    assert (line.action, line.actor_id, line.actor_name) == (
        AuditAction.LOGIN,
        network.director.id,
        network.director.name,
    )
    assert (line.entity, line.entity_id, line.changes, line.at) == ("user", network.director.id, {}, now)
    db.session.expire_all()
    assert network.director.last_login_at == now
    page = web(network.owner).get(f"/admin/user/details/?id={network.director.id}").text
    assert "Вход" in page


def test_files_for_everybody_cost_no_queries(network: Any, web: Any) -> None:
    browser, statements = web(network.owner), []
    event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with browser.get("/static/app.css") as answer:
        assert answer.status_code == 200
    assert statements == []
    assert browser.get("/static/none.css").status_code == 404
    assert is_signed_in(browser)
    assert statements


def test_nobody_is_locked_out_by_his_neighbours_behind_the_proxy(network: Any, web: Any) -> None:
    """The proxy of this machine asks for everybody."""
    for number in range(MAX_FAILURES * 6):
        db.session.add(LoginAttempt(key="address:127.0.0.1", failed_at=clock.now()))
        if number < 2:
            web().post("/login", data={"email": f"{number}@demo.test", "password": "wrong"})
    answer = web().post("/login", data={"email": network.owner.email, "password": PASSWORD})
    assert answer.status_code == 302
    assert {key for key in db.session.scalars(select(LoginAttempt.key)) if "127" not in key} == {
        "email:0@demo.test",
        "email:1@demo.test",
    }


@pytest.mark.parametrize(
    ("proxies", "address", "host", "scheme"),
    [
        (0, "127.0.0.1", "inside.test", "http"),
        (1, "198.51.100.7", "kontora.test", "https"),
        (2, "192.0.2.1", "inside.test", "http"),  # the first of two proxies said nothing of host and scheme
    ],
)
def test_proxies_are_believed_as_far_as_told(app: Flask, proxies: int, address: str, host: str, scheme: str) -> None:
    other = create_app(replace(app.config["SETTINGS"], trusted_proxies=proxies))
    other.add_url_rule("/seen", "seen", lambda: [request.remote_addr, request.host, request.scheme])
    headers = {
        "X-Forwarded-For": "192.0.2.1, 198.51.100.7",
        "X-Forwarded-Host": "kontora.test",
        "X-Forwarded-Proto": "https",
    }
    answer = other.test_client().get("/seen", headers=headers, base_url="http://inside.test")
    assert answer.json == [address, host, scheme]
