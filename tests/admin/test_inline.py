"""One cell changed in place: by the form's rules, once, and never over somebody else's work."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm.exc import StaleDataError

from crm.audit.models import AuditEntry
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError, Forbidden
from crm.security import on_behalf_of
from tests.factories import make_client

PATH = "/admin/client/cell/"


def send(client: Any, row: Any, column: str, *values: str, version: Any = None, entity: str = "client") -> Any:
    data: dict[str, Any] = {"id": row.id, "column": column, column: list(values)}
    data["version"] = row.version if version is None else version
    return client.post(f"/admin/{entity}/cell/", data=data)


@pytest.fixture
def anna(network: Any) -> Client:
    return make_client(network.lesnoy, name="Анна Петрова", email="anna@example.org", comment="не трогать")


def reread(row: Any) -> Any:
    db.session.expire_all()
    return db.session.get(type(row), row.id)


def test_the_control_of_a_cell_holds_the_value_and_the_version(network: Any, web: Any, anna: Client) -> None:
    page = web(network.administrator).get(f"{PATH}?id={anna.id}&column=email")
    assert page.status_code == 200
    assert 'value="anna@example.org"' in page.text
    assert f'name="version" value="{anna.version}"' in page.text
    assert "<html" not in page.text


def test_a_cell_is_saved_and_nothing_else_changes(network: Any, web: Any, anna: Client) -> None:
    was = anna.version
    answer = send(web(network.administrator), anna, "phone", "8 (918) 159-08-30")
    assert answer.status_code == 200
    assert "+7 918 159-08-30" in answer.json["cells"]["phone"]
    row = reread(anna)
    assert (row.phone, row.email, row.comment, row.name) == (
        "+79181590830",
        "anna@example.org",
        "не трогать",
        "Анна Петрова",
    )
    assert row.version == was + 1
    assert answer.json["version"] == str(row.version)


def test_the_audit_names_the_person_and_the_field(network: Any, web: Any, anna: Client) -> None:
    send(web(network.administrator), anna, "email", "new@example.org")
    entry = db.session.scalar(select(AuditEntry).where(AuditEntry.entity == "client").order_by(AuditEntry.id.desc()))
    assert entry is not None
    assert (entry.actor_name, entry.changes["email"]) == (
        network.administrator.name,
        ["anna@example.org", "new@example.org"],
    )


@pytest.mark.parametrize(
    ("column", "typed"), [("name", "  "), ("email", "не почта"), ("phone", "12"), ("birth_date", "31.02")]
)
def test_a_broken_rule_is_told_and_changes_nothing(
    network: Any, web: Any, anna: Client, column: str, typed: str
) -> None:
    answer = send(web(network.administrator), anna, column, typed)
    assert answer.status_code == 422
    assert len(answer.json["error"]) > 10
    assert reread(anna).version == anna.version


def test_of_two_people_the_later_is_told_who_and_what_is_there_now(network: Any, web: Any, anna: Client) -> None:
    version = anna.version
    assert send(web(network.director), anna, "email", "first@example.org", version=version).status_code == 200
    late = web(network.administrator)
    answer = send(late, anna, "email", "second@example.org", version=version)
    assert answer.status_code == 409
    assert network.director.name in answer.json["error"]
    assert answer.json["now"] == "first@example.org"
    assert reread(anna).email == "first@example.org"
    assert send(late, anna, "email", "second@example.org", version=answer.json["version"]).status_code == 200
    assert reread(anna).email == "second@example.org"


def test_of_two_at_the_same_moment_one_wins(network: Any, web: Any, anna: Client, in_parallel: Any) -> None:
    version, row_id = anna.version, anna.id
    people = [web(network.administrator) for _i in range(4)]

    def change(index: int) -> int:
        data = {"id": row_id, "column": "email", "email": f"p{index}@example.org", "version": version}
        return int(people[index].post(PATH, data=data).status_code)

    assert sorted(in_parallel(change, times=4)) == [200, 409, 409, 409]


def test_foreign_rows_unknown_columns_and_other_columns_are_refused(network: Any, web: Any, anna: Client) -> None:
    client = web(network.administrator)
    foreign = make_client(network.mira)
    assert send(client, foreign, "email", "x@example.org").status_code == 404
    for column in ("", "created_at", "id", "version", "branch_id", "__class__", "validate", "no such"):
        assert send(client, anna, column, "1").status_code == 403, column
        assert client.get(PATH, query_string={"id": anna.id, "column": column}).status_code == 403, column
    assert client.get(f"{PATH}?id=%00&column=email").status_code == 404


def test_who_may_not_edit_is_refused(network: Any, web: Any, anna: Client) -> None:
    assert web(network.manager).get(f"{PATH}?id={anna.id}&column=email").status_code == 403
    assert send(web(network.manager), anna, "email", "x@example.org").status_code == 403


def test_ticked_and_unticked(network: Any, web: Any) -> None:
    client, plan = web(network.owner), network.plan
    assert send(client, plan, "is_archived", "y", entity="plan").status_code == 200
    assert reread(plan).is_archived is True
    assert send(client, reread(plan), "is_archived", entity="plan").status_code == 200
    assert reread(plan).is_archived is False


def test_several_choices(network: Any, web: Any) -> None:
    kind = network.account_type
    answer = send(web(network.owner), kind, "branches", str(network.mira.id), entity="accounttype")
    assert answer.status_code == 200
    assert [branch.id for branch in reread(kind).branches] == [network.mira.id]


def test_kopecks(network: Any, web: Any) -> None:
    answer = send(web(network.owner), network.plan, "price", "1 234,05", entity="plan")
    assert answer.status_code == 200
    assert str(reread(network.plan).price) == "1234.05"


def test_a_row_that_broke_a_rule_before_can_still_be_mended_elsewhere(network: Any, web: Any) -> None:
    network.plan.lessons = 2000  # the form takes no more than a thousand
    db.session.commit()
    client, plan = web(network.owner), network.plan
    assert send(client, plan, "name", "Новое имя", entity="plan").status_code == 200
    assert (reread(plan).name, plan.lessons) == ("Новое имя", 2000)
    assert send(client, plan, "lessons", "3000", entity="plan").status_code == 422


def test_a_value_is_put_back_by_the_same_way(app: Any, network: Any, anna: Client) -> None:
    clients = next(item for item in app.extensions["admin"][0]._views if getattr(item, "entity", "") == "client")
    db.session.commit()
    with on_behalf_of(network.administrator.id, branch_id=None, locale="ru", source="test"):
        row = clients.get_one(anna.id)
        clients.change_field(row, "email", value="back@example.org")
        assert row.email == "back@example.org"
        with pytest.raises(StaleDataError):
            clients.change_field(row, "email", value="again@example.org", version="0")
        with pytest.raises(DomainError) as refused:
            clients.change_field(row, "name", value="")
        assert (refused.value.code, refused.value.field) == ("invalid", "name")
    with on_behalf_of(network.manager.id, branch_id=None, locale="ru", source="test"), pytest.raises(Forbidden):
        clients.change_field(clients.get_one(anna.id), "email", value="x@example.org")
