"""The audit log: one line per changed record, with who, from what to what; secrets stay secret; no noise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import City, Role, User
from crm.access.operations import create_user
from crm.audit.models import AuditAction, AuditEntry
from crm.audit.operations import record_export, transition
from crm.audit.origin import acting
from crm.bills.models import BILL_MOVES, Bill, BillStatus
from crm.clients.models import Client
from crm.clients.operations import archive_client, edit_client
from crm.db import db, transaction
from crm.errors import Conflict
from tests.factories import Network, make_account, make_bill, make_client, make_message


def lines(entity: str, entity_id: int | None = None) -> list[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.entity == entity).order_by(AuditEntry.id)
    return list(db.session.scalars(query if entity_id is None else query.where(AuditEntry.entity_id == entity_id)))


def test_a_creation_names_the_values(network: Network) -> None:
    with clock.frozen(datetime(2026, 9, 1, 12, tzinfo=UTC)), acting(network.administrator, "request:abc"):
        client = make_client(network.lesnoy, name="Анна", phone="8 918 159-08-30", email="")
    [line] = lines("client", client.id)
    assert (line.action, line.actor_id, line.actor_name) == (
        AuditAction.CREATE,
        network.administrator.id,
        network.administrator.name,
    )
    assert (line.origin, line.entity_label, line.branch_id) == ("request:abc", "Анна", network.lesnoy.id)
    assert line.at == datetime(2026, 9, 1, 12, tzinfo=UTC)
    assert line.changes["name"] == [None, "Анна"]
    assert line.changes["phone"] == [None, "+79181590830"]
    assert line.changes["created_at"] == [None, "2026-09-01T12:00:00+00:00"]
    assert not {"email", "search", "version"} & line.changes.keys()


def test_a_change_names_old_and_new(network: Network) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="", email="")
    with transaction():
        edit_client(
            client, by=SYSTEM, name="Анна Белова", phone="", extra_phone="", email="", birth_date=None, comment="VIP"
        )
    assert lines("client", client.id)[-1].action is AuditAction.UPDATE
    assert lines("client", client.id)[-1].changes == {"name": ["Анна", "Анна Белова"], "comment": ["", "VIP"]}


def test_a_change_of_an_expired_row_still_knows_the_old_value(network: Network) -> None:
    """After a commit SQLAlchemy forgets what it read; the audit must not."""
    client = make_client(network.lesnoy, name="Анна")
    db.session.commit()
    with transaction():
        client.name = "Белла"
    assert lines("client", client.id)[-1].changes == {"name": ["Анна", "Белла"]}


def test_no_line_for_no_change(network: Network) -> None:
    client = make_client(network.lesnoy, name="Анна", phone="", email="")
    with transaction():
        client.name = "Анна"
        edit_client(client, by=SYSTEM, name=" Анна ", phone="", extra_phone="", email="", birth_date=None, comment="")
    assert len(lines("client", client.id)) == 1


def test_a_deletion_is_noted(network: Network) -> None:
    with transaction():
        city = City(name="Пермь")
        db.session.add(city)
    city_id = city.id
    with transaction():
        db.session.delete(city)
    assert [line.action for line in lines("city", city_id)] == [AuditAction.CREATE, AuditAction.DELETE]
    assert lines("city", city_id)[-1].entity_label == "Пермь"


def test_lists_of_links_are_noted(network: Network) -> None:
    with transaction():
        network.account_type.branches = [network.lesnoy, network.mira]
    before, after = lines("account_type")[-1].changes["branches"]
    assert sorted(before) == ["Лесной", "Мира", "Речной"]
    assert sorted(after) == ["Лесной", "Мира"]


def test_secrets_are_masked(network: Network) -> None:
    with transaction():
        user = create_user(email="new@demo.test", name="Новый", password="тайна", role=Role.MANAGER, by=SYSTEM)
    bill = make_bill(make_client(network.lesnoy))
    assert lines("user", user.id)[0].changes["password_hash"] == ["…", "…"]
    assert lines("bill", bill.id)[0].changes["token"] == ["…", "…"]
    everything = str([line.changes for line in db.session.scalars(select(AuditEntry))])
    assert "argon2" not in everything
    assert bill.token not in everything


def test_what_is_rolled_back_is_not_noted(network: Network) -> None:
    before = len(lines("client"))
    with pytest.raises(ZeroDivisionError), transaction():
        db.session.add(Client(branch_id=network.lesnoy.id, name="Анна", created_at=clock.now()))
        db.session.flush()
        raise ZeroDivisionError
    assert len(lines("client")) == before


def test_journals_do_not_audit_themselves(network: Network) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=100)
    make_message(client)
    entities = set(db.session.scalars(select(AuditEntry.entity)))
    assert {"client", "account", "payment"} <= entities
    assert not {"audit_entry", "ledger_transaction", "ledger_entry", "message", "login_attempt"} & entities


def test_an_export_is_noted(network: Network) -> None:
    with transaction():
        record_export("client", rows=120, description="филиал Лесной", by=network.manager)
    [line] = [line for line in lines("client") if line.action is AuditAction.EXPORT]
    assert (line.actor_id, line.entity_id) == (network.manager.id, None)
    assert line.changes == {"rows": [None, 120], "what": [None, "филиал Лесной"]}


# --- transitions ----------------------------------------------------------------------------------------------------


def test_a_transition_is_noted_once_with_its_actor(network: Network) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        archive_client(client, by=network.director)
    line = lines("client", client.id)[-1]
    assert (line.action, line.actor_id) == (AuditAction.TRANSITION, network.director.id)
    assert line.changes == {"status": ["active", "archived"]}
    assert len(lines("client", client.id)) == 2


def test_a_move_that_is_not_in_the_table_is_a_conflict(network: Network) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        archive_client(client, by=SYSTEM)
    with pytest.raises(Conflict) as caught, transaction():
        archive_client(client, by=SYSTEM)
    assert (caught.value.code, caught.value.status) == ("transition", 409)
    assert len(lines("client", client.id)) == 2


def test_a_transition_raises_the_version(network: Network) -> None:
    """Somebody who edits the same row on an older page is told."""
    client = make_client(network.lesnoy)
    version = client.version
    with transaction():
        archive_client(client, by=SYSTEM)
    assert client.version == version + 1


def test_of_parallel_transitions_one_wins(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    bill_id = make_bill(make_client(network.lesnoy)).id
    have_read = Barrier(8)

    def archive(index: int) -> str:
        bill = db.session.get_one(Bill, bill_id)
        assert bill.status is BillStatus.PENDING
        db.session().expire_on_commit = False
        db.session.commit()
        have_read.wait(30)
        to, more = (BillStatus.PAID, {"paid_at": clock.now()}) if index % 2 else (BillStatus.ARCHIVED, {})
        try:
            with transaction():
                transition(bill, BILL_MOVES, to, by=SYSTEM, **more)
        except Conflict:
            return "lost"
        return "won"

    assert sorted(in_parallel(archive)) == ["lost"] * 7 + ["won"]
    assert [line.action for line in lines("bill", bill_id)] == [AuditAction.CREATE, AuditAction.TRANSITION]


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_stranger_is_not_mistaken_for_who_came_before(app: Flask, network: Network) -> None:
    """A server's thread serves many: what one request set must not sign the next one's changes."""
    from flask import session
    from flask_login import login_user

    from crm.audit.origin import current_origin

    user_id = network.owner.id
    db.session.commit()
    with app.test_request_context("/", headers={"Accept-Language": "ru"}):
        login_user(db.session.get_one(User, user_id))
        cookie = dict(session)
        app.preprocess_request()
        assert cookie
        assert current_origin().actor.id == user_id
        app.do_teardown_request(None)
    with app.app_context(), app.test_request_context("/"):
        app.preprocess_request()
        assert current_origin().actor is SYSTEM
        assert current_origin().source.startswith("request:")
        app.do_teardown_request(None)
