"""The waiting list: put in by a tick of the card, left when a lesson is put; what is said of it, and where."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Employee, User
from crm.audit.models import AuditEntry
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden
from crm.schedule.enrolment import enrol
from crm.schedule.groups import join_group
from crm.schedule.models import Waiting
from crm.schedule.waiting import (
    add_to_waiting_list,
    change_waiting,
    count_waiting,
    remove_from_waiting_list,
    waiting_of,
)
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send, views
from tests.factories import make_child, make_client, make_employee, make_group, make_lesson, make_user

SECRET = "Тайна-7f3a боится глубины"


def wait(client: Client, by: Any = SYSTEM, **facts: Any) -> Waiting:
    with transaction():
        return add_to_waiting_list(client, **facts, by=by)


def switch_off(network: Any) -> None:
    with transaction():
        network.company.has_waiting_list = False


def place(client: Client) -> str:
    return f"/admin/waiting/client/{client.id}/"


def is_ticked(page: str) -> bool:
    """Whether the card shows the tick «Внести в лист ожидания» set."""
    found = re.search(r'<input[^>]* id="is_waiting"[^>]*>', page)
    assert found
    return " checked" in found[0]


# --- putting in -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("C25", "C27", "C28")
def test_any_client_can_wait(network: Any) -> None:
    client, archived = make_client(network.lesnoy), make_client(network.lesnoy)
    waiting = wait(client, network.administrator, instructor=network.employee, comment="  После шести ")
    assert (waiting.client_id, waiting.branch_id) == (client.id, network.lesnoy.id)
    assert (waiting.instructor_id, waiting.comment) == (network.employee.id, "После шести")
    assert waiting.author_id == network.administrator.id
    assert waiting_of(client) is waiting
    assert (count_waiting(network.lesnoy), count_waiting(network.mira)) == (1, 0)
    assert waiting_of(archived) is None


@pytest.mark.spec("C25")
def test_where_the_function_is_off_nobody_is_put_in(network: Any) -> None:
    client = make_client(network.lesnoy)
    waiting = wait(make_client(network.lesnoy))
    switch_off(network)
    with pytest.raises(DomainError) as caught:
        add_to_waiting_list(client, by=network.administrator)
    assert caught.value.code == "no_waiting_list"
    with pytest.raises(DomainError) as caught:
        change_waiting(waiting, instructor=None, comment="Ещё", by=network.administrator)
    assert caught.value.code == "no_waiting_list"


@pytest.mark.spec("C25")
def test_where_the_function_is_off_it_is_nowhere_to_be_seen(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    wait(client)
    browser = web(network.administrator, network.lesnoy)
    card, home = f"/admin/client/card/{client.id}/", "/admin/"
    for page in (card, home):
        assert "Лист ожидания" in browser.get(page).text
    assert browser.get("/admin/waiting/").status_code == 200
    switch_off(network)
    for page in (card, home):
        assert "Лист ожидания" not in browser.get(page).text.split('class="list-unstyled history"')[0]
    for path in ("/admin/waiting/", place(client), "/admin/waiting/export/xlsx/"):
        assert browser.get(path).status_code == 404
    assert browser.post(place(client), data={"is_waiting": "y"}).status_code == 404


def test_nobody_waits_twice(network: Any, in_parallel: Callable[..., Any]) -> None:
    client = make_client(network.lesnoy)
    client_id = client.id

    def put(_number: int) -> str:
        try:
            with transaction():
                add_to_waiting_list(db.session.get_one(Client, client_id), by=SYSTEM)
        except Conflict as refused:
            return refused.code
        return "waits"

    assert sorted(in_parallel(put, times=4)) == ["waits", *["waits_already"] * 3]
    assert len(db.session.scalars(select(Waiting)).all()) == 1
    told = select(AuditEntry).where(AuditEntry.entity == "client", AuditEntry.entity_id == client_id)
    assert sum("waiting" in line.changes for line in db.session.scalars(told)) == 1


def test_who_is_wanted_teaches_in_the_branch(network: Any) -> None:
    client = make_client(network.lesnoy)
    for stranger in (
        make_employee(network.rechnoy),
        make_employee(network.lesnoy, is_active=False),
        make_employee(network.lesnoy, teaches=False),
    ):
        with pytest.raises(DomainError) as caught:
            wait(client, instructor=stranger)
        assert caught.value.field == "instructor"
    waiting = wait(client, instructor=network.employee)
    with transaction():
        network.employee.is_active = False
    with transaction():  # who has left since stays wanted
        change_waiting(waiting, instructor=network.employee, comment="Ждёт именно её", by=network.administrator)
    assert waiting.instructor_id == network.employee.id


def test_who_may_not_is_refused(network: Any) -> None:
    client = make_client(network.lesnoy)
    waiting = wait(client)
    for user in (network.manager, network.instructor):
        with pytest.raises(Forbidden):
            add_to_waiting_list(make_client(network.lesnoy), by=user)
        with pytest.raises(Forbidden):
            remove_from_waiting_list(waiting, by=user)


# --- the card -------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C26", "C27", "C28")
def test_the_tick_of_the_card(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    card = f"/admin/client/card/{client.id}/"
    page = browser.get(card).text
    assert "Внести в лист ожидания" in page
    assert "Только для информации: на расписание не влияет." in page
    assert place(client) in page
    assert "is_waiting" not in fields(browser.get(place(client)).text)
    sent = {"is_waiting": "y", "instructor": str(network.employee.id), "comment": SECRET}
    answer = send(browser, place(client), **sent)
    assert (answer.status_code, answer.location) == (302, card)
    page = browser.get(card).text
    assert SECRET in page
    assert is_ticked(page)
    assert fields(browser.get(place(client)).text)["instructor"] == str(network.employee.id)
    assert send(browser, place(client), is_waiting=["y"], comment="Другое").status_code == 302
    db.session.expire_all()
    assert db.session.scalars(select(Waiting)).one().comment == "Другое"


@pytest.mark.spec("C29", "C26")
def test_the_tick_taken_away_clears_the_comment(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    wait(client, comment=SECRET)
    browser = web(network.administrator, network.lesnoy)
    assert send(browser, place(client), is_waiting=None).status_code == 302
    assert db.session.scalars(select(Waiting)).all() == []
    assert SECRET not in browser.get(f"/admin/client/card/{client.id}/").text
    assert send(browser, place(client), is_waiting="y").status_code == 302
    assert db.session.scalars(select(Waiting)).one().comment == ""


def test_a_stranger_is_refused_beside_the_field(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    foreign = make_employee(network.rechnoy)
    browser = web(network.administrator, network.lesnoy)
    answer = send(browser, place(client), is_waiting="y", instructor=str(foreign.id))
    assert (answer.status_code, [*errors(answer.text)]) == (422, ["instructor"])
    assert browser.get(place(make_client(network.mira))).status_code == 404
    assert web(network.manager, network.lesnoy).get(place(client)).status_code == 403


# --- leaving by a lesson --------------------------------------------------------------------------------------------


@pytest.mark.spec("C29", "C31")
@pytest.mark.parametrize(
    ("wanted", "teaches", "leaves"),
    [
        ("her", "her", True),
        ("her", "another", False),
        ("her", None, False),
        (None, "another", True),
        (None, None, True),
    ],
)
def test_a_lesson_with_who_was_wanted_ends_the_waiting(
    network: Any, wanted: str | None, teaches: str | None, leaves: bool
) -> None:
    people: dict[str | None, Employee | None] = {
        None: None,
        "her": network.employee,
        "another": make_employee(network.lesnoy),
    }
    client = make_client(network.lesnoy)
    wait(client, instructor=people[wanted], comment=SECRET)
    instructor = people[teaches]
    lesson = make_lesson(network.lesnoy, instructor_id=instructor and instructor.id)
    with transaction():
        enrol(lesson, client, by=network.administrator)
    assert (waiting_of(client) is None) is leaves
    if leaves:
        assert wait(client).comment == ""


@pytest.mark.spec("C31")
def test_a_group_whose_lessons_he_teaches_ends_it_too(network: Any) -> None:
    client = make_client(network.lesnoy)
    wait(client, instructor=network.employee)
    group = make_group(network.lesnoy)
    make_lesson(network.lesnoy, group_id=group.id, instructor_id=network.employee.id)
    with transaction():
        join_group(group, client, by=network.administrator)
    assert waiting_of(client) is None


@pytest.mark.spec("C32", "C31")
def test_then_he_is_neither_in_my_tasks_nor_ticked(network: Any, web: Any) -> None:
    client, other = make_client(network.lesnoy, name="Ждун Пётр"), make_client(network.lesnoy)
    wait(client, instructor=network.employee)
    wait(other)
    browser = web(network.administrator, network.lesnoy)
    card = f"/admin/client/card/{client.id}/"

    def counted() -> str:
        block = browser.get("/admin/").text.split("Мои дела</h2>", 1)[1]
        found = re.search(r'href="/admin/waiting/">.*?Лист ожидания</a>: <strong[^>]*>(\d+)<', block)
        assert found
        return found[1]

    assert counted() == "2"
    assert "Ждун Пётр" in browser.get("/admin/waiting/").text
    assert is_ticked(browser.get(card).text)
    make_lesson(network.lesnoy, client, instructor_id=network.employee.id)
    assert counted() == "1"
    assert "Ждун Пётр" not in browser.get("/admin/waiting/").text
    assert not is_ticked(browser.get(card).text)


# --- the section ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("C28", "C32")
def test_the_section_shows_who_waits_for_whom_and_why(network: Any, web: Any) -> None:
    client, foreign = make_client(network.lesnoy, name="Ждун Пётр"), make_client(network.mira, name="Чужой Ждун")
    wait(client, instructor=network.employee, comment=SECRET)
    wait(foreign)
    browser = web(network.administrator, network.lesnoy)
    page = browser.get("/admin/waiting/").text
    for text in ("Ждун Пётр", "Вера Тренер", SECRET):
        assert text in page
    assert "Чужой Ждун" not in page
    assert "Ждун Пётр" in browser.get("/admin/waiting/?q=ждун").text
    first = db.session.scalars(select(Waiting).order_by(Waiting.id)).first()
    card = browser.get(f"/admin/waiting/details/?id={first.id}")
    assert card.location == f"/admin/client/card/{client.id}/"
    assert f"/admin/lesson/plan/?client={client.id}" in page
    assert "В расписание" in page
    assert "/admin/lesson/plan/" not in web(network.manager, network.lesnoy).get("/admin/waiting/").text


def test_of_a_student_the_payers_phone_is_shown(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy, phone="89181590830")
    wait(make_child(payer))
    browser = web(network.administrator, network.lesnoy)
    assert "+7 918 159-08-30" in browser.get("/admin/waiting/").text
    assert "918" in _texts(browser.get("/admin/waiting/export/xlsx/").data)


@pytest.mark.spec("C28")
def test_the_comment_is_nowhere_else(network: Any, web: Any, app: Any) -> None:
    """Neither in another grid or file, nor found by any search, nor in the change log; nor on what the client sees."""
    client = make_client(network.lesnoy, name="Ждун Пётр")
    with transaction():
        waiting = add_to_waiting_list(client, comment="Первое", by=network.administrator)
    with transaction():
        change_waiting(waiting, instructor=None, comment=SECRET, by=network.administrator)
    browser = web(network.owner, network.lesnoy)
    seen = []
    for view in views(app):
        grid = f"/admin/{view.entity}/"
        paths = [grid, f"{grid}?q=Тайна-7f3a", "/admin/search/?q=Тайна-7f3a"]
        seen += [path for path in paths if SECRET in browser.get(path, follow_redirects=True).text]
        file = browser.get(f"{grid}export/xlsx/?columns=all")
        if file.status_code == 200 and file.data[:2] == b"PK" and SECRET in _texts(file.data):
            seen.append(f"{grid}export")
    assert seen == ["/admin/waiting/"]
    assert "Ждун" not in browser.get("/admin/waiting/?q=Тайна-7f3a").text.split("<main")[1]
    assert "Ждун Пётр" in _texts(browser.get("/admin/waiting/export/xlsx/?columns=client,comment").data)
    assert SECRET not in _texts(browser.get("/admin/waiting/export/xlsx/?columns=client,comment").data)
    log = [str(line.changes) for line in db.session.scalars(select(AuditEntry))]
    assert not any(SECRET in line or "Первое" in line for line in log)
    assert SECRET in browser.get(f"/admin/client/card/{client.id}/").text


def _texts(data: bytes) -> str:
    sheets = openpyxl.load_workbook(io.BytesIO(data)).worksheets
    return " ".join(str(value) for sheet in sheets for row in sheet.iter_rows(values_only=True) for value in row)


# --- the history ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("C30")
def test_it_is_told_in_the_history_of_the_card_and_in_the_report(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Ждун Пётр")
    person = make_user(network.administrator.role, branches=[network.lesnoy], name="Зоя Рецепция")
    assert (
        send(
            web(person, network.lesnoy),
            place(client),
            is_waiting="y",
            instructor=str(network.employee.id),
        ).status_code
        == 302
    )
    browser = web(network.director, network.lesnoy)
    history = plain(browser.get(f"/admin/client/history/?id={client.id}").text)
    assert "Зоя Рецепция" in history
    assert "Лист ожидания: нет → да" in history
    assert "Желаемый инструктор: Вера Тренер" in history
    report = plain(browser.get("/admin/staffactions/?period=today").text)
    assert "Зоя Рецепция" in report
    path = f"/admin/audit/?f.actor.is={db.session.scalars(select(User.id).where(User.name == person.name)).one()}"
    log = plain(browser.get(path).text)
    assert "Ждун Пётр" in log
    assert "Лист ожидания: нет → да" in log
    make_lesson(network.lesnoy, client, instructor_id=network.employee.id)
    assert "Лист ожидания: да → нет" in plain(browser.get(f"/admin/client/card/{client.id}/").text)


def test_what_was_said_before_cannot_be_put_back(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    wait(client, network.administrator)
    page = web(network.administrator, network.lesnoy).get(f"/admin/client/history/?id={client.id}").text
    assert "put-back" not in page
