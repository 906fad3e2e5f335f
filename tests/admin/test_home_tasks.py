"""«Мои дела» of the summary, the grid of tasks, and calls set in a card: each finished with one click."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.db import db, transaction
from crm.tasks.models import Task, TaskKind, TaskStatus
from crm.tasks.operations import finish_task
from tests.admin.test_grids import plain
from tests.admin.world import errors, fields, send
from tests.factories import make_client, make_lesson, make_task


def block(browser: Any) -> str:
    """«Мои дела» of the summary, as HTML."""
    return browser.get("/admin/").text.split('id="tasks-title"', 1)[1].split("</section>", 1)[0]


def press(browser: Any, page: str, task: Task) -> Any:
    """The button «Сделано» of a task on a page."""
    action = next(path for path in re.findall(r'<form action="([^"]+)"', page) if f"id={task.id}&" in path)
    key = re.search(r'name="form_key" value="([^"]+)"', page.split(action, 1)[1])
    assert key
    return browser.post(action.replace("&amp;", "&"), data={"form_key": key[1]})


@pytest.mark.spec("C145", "C32")
def test_what_is_to_be_done_today_stands_on_the_main_screen(network: Any, web: Any) -> None:
    today = clock.today(network.lesnoy)
    client = make_client(network.lesnoy, name="Белова Анна")
    late = make_task(network.lesnoy, text="Позавчерашнее", due_on=today - timedelta(days=2))
    call = make_task(network.lesnoy, kind=TaskKind.CALL, text="Спросить о пробном", client=client, due_on=today)
    fix = make_task(network.lesnoy, kind=TaskKind.CORRECTION, text="Два занятия в зале", due_on=today)
    later = make_task(network.lesnoy, text="Потом", due_on=today + timedelta(days=1))
    others = make_task(network.lesnoy, text="Директорское", assignee=network.director)
    foreign = make_task(network.mira, text="Самарское")
    browser = web(network.administrator, network.lesnoy)
    shown = plain(block(browser))
    for task in (late, call, fix, later):
        assert task.text in shown
    for task in (others, foreign):
        assert task.text not in shown
    assert shown.index("Просрочено") < shown.index("Позавчерашнее") < shown.index("Сегодня")
    assert shown.index("Сегодня") < shown.index("Белова Анна") < shown.index("Предстоящие") < shown.index("Потом")
    assert re.search(r'class="tabular debt">[^<]*</span>.{0,200}Позавчерашнее', block(browser), re.DOTALL)
    assert f'href="/admin/client/card/{client.id}/"' in block(browser)


@pytest.mark.spec("C145")
def test_one_click_finishes_a_task_and_leads_back(network: Any, web: Any) -> None:
    task, other = make_task(network.lesnoy), make_task(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    page = block(browser)
    answer = press(browser, page, task)
    assert (answer.status_code, answer.location) == (302, "/admin/")
    db.session.expire_all()
    assert (task.status, task.done_by_id) == (TaskStatus.DONE, network.administrator.id)
    assert other.status is TaskStatus.OPEN
    assert press(browser, page, task).status_code == 302  # a double click
    assert task.text not in block(browser)


def test_two_who_press_at_once_are_told(network: Any, web: Any) -> None:
    task = make_task(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    page = block(browser)
    with transaction():
        finish_task(task, by=network.director)
    answer = press(browser, page, task)
    assert answer.status_code == 422
    assert "Сделано" in errors(answer.text)[""]


@pytest.mark.spec("C140", "C145")
def test_an_instructor_sees_his_own_and_a_manager_changes_nothing(network: Any, web: Any) -> None:
    own = make_task(network.lesnoy, text="Проверить зал", assignee=network.instructor)
    nobodys = make_task(network.lesnoy, text="Позвонить маме")
    browser = web(network.instructor, network.lesnoy)
    assert own.text in block(browser)
    assert nobodys.text not in block(browser)
    grid = browser.get("/admin/task/").text
    assert own.text in grid
    assert nobodys.text not in grid
    assert browser.get(f"/admin/task/details/?id={nobodys.id}").status_code == 404
    assert browser.post(f"/admin/task/finish/?id={nobodys.id}").status_code == 404
    assert browser.get("/admin/task/new/").status_code == 403
    assert press(browser, block(browser), own).status_code == 302
    manager = web(network.manager, network.lesnoy)
    assert nobodys.text in block(manager)
    assert "<form" not in block(manager)


def test_all_is_done(network: Any, web: Any) -> None:
    assert "Дел нет." in block(web(network.administrator, network.lesnoy))


def test_in_the_network_the_tasks_of_all_branches(network: Any, web: Any) -> None:
    make_task(network.lesnoy, text="Лесное")
    make_task(network.mira, text="Самарское")
    shown = block(web(network.owner))
    assert "Лесное" in shown
    assert "Самарское" in shown


# --- the grid -------------------------------------------------------------------------------------------------------


def test_a_task_is_added_changed_and_finished_with_a_result(network: Any, web: Any) -> None:
    browser = web(network.administrator, network.lesnoy)
    assert errors(send(browser, "/admin/task/new/", text=" ").text) == {"text": "Напишите, что нужно сделать."}
    sent = {"text": "Купить мел", "due_on": "2027-01-31", "assignee": str(network.director.id)}
    assert send(browser, "/admin/task/new/", **sent).status_code == 302
    task = db.session.scalars(select(Task)).one()
    assert (task.due_on, task.assignee_id, task.branch_id, task.kind) == (
        date(2027, 1, 31),
        network.director.id,
        network.lesnoy.id,
        TaskKind.OTHER,
    )
    assert send(browser, f"/admin/task/edit/?id={task.id}", due_on="2027-02-28").status_code == 302
    path = f"/admin/task/details/?id={task.id}"
    assert "Купить мел" in browser.get(path).text
    assert send(browser, f"/admin/task/finish/?id={task.id}", result="Куплен").status_code == 302
    db.session.expire_all()
    assert (task.status, task.result, task.due_on) == (TaskStatus.DONE, "Куплен", date(2027, 2, 28))
    assert "Купить мел" not in browser.get("/admin/task/").text
    assert "Купить мел" in browser.get("/admin/task/?f.status.is=done").text
    assert browser.get(f"/admin/task/edit/?id={task.id}").status_code == 403
    assert browser.post(f"/admin/task/mark/?id={task.id}", data={"to": "open"}).status_code == 302
    assert browser.post(f"/admin/task/mark/?id={task.id}", data={"to": "canceled"}).status_code == 302
    db.session.expire_all()
    assert task.status is TaskStatus.CANCELED


def test_in_the_network_the_branch_is_chosen(network: Any, web: Any) -> None:
    browser = web(network.owner)
    assert send(browser, "/admin/task/new/", text="Там", branch=str(network.mira.id)).status_code == 302
    assert db.session.scalars(select(Task)).one().branch_id == network.mira.id


def test_a_task_is_found_by_its_text_and_its_client(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Белова Анна")
    make_task(network.lesnoy, kind=TaskKind.CALL, text="О бассейне", client=client)
    make_task(network.lesnoy, text="Прочее")
    browser = web(network.administrator, network.lesnoy)
    for text in ("бассейн", "белова"):
        found = browser.get(f"/admin/task/?q={text}").text
        assert "О бассейне" in found
        assert "Прочее" not in found


def test_a_correction_leads_to_its_lesson(network: Any, web: Any) -> None:
    lesson = make_lesson(network.lesnoy)
    task = make_task(network.lesnoy, kind=TaskKind.CORRECTION, lesson_id=lesson.id)
    page = web(network.administrator, network.lesnoy).get(f"/admin/task/details/?id={task.id}").text
    assert f'href="/admin/lesson/details/?id={lesson.id}"' in page


# --- calls from a card ----------------------------------------------------------------------------------------------


@pytest.mark.spec("C19")
def test_the_next_lesson_and_the_date_of_a_call_are_set_in_the_card(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Белова Анна")
    browser = web(network.administrator, network.lesnoy)
    card = f"/admin/client/card/{client.id}/"
    page = browser.get(card).text
    assert "Звонков не назначено." in page
    assert f"/admin/lesson/plan/?client={client.id}" in page
    path = f"/admin/task/new/?client={client.id}"
    assert path in page
    tomorrow = clock.today(network.lesnoy) + timedelta(days=1)
    assert fields(browser.get(path).text)["due_on"] == tomorrow.isoformat()
    answer = send(browser, path, text="Ждёт ответа", due_on="2027-01-31")
    assert (answer.status_code, answer.location) == (302, card)
    call = db.session.scalars(select(Task)).one()
    assert (call.kind, call.client_id, call.due_on) == (TaskKind.CALL, client.id, date(2027, 1, 31))
    shown = plain(browser.get(card).text)
    assert "31.01.2027" in shown
    assert "Ждёт ответа" in shown
    answer = press(browser, browser.get(card).text, call)
    assert (answer.status_code, answer.location) == (302, card)
    assert "Звонков не назначено." in browser.get(card).text


def test_an_overdue_call_is_red_in_the_card(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_task(network.lesnoy, kind=TaskKind.CALL, client=client, due_on=date(2026, 1, 31))
    coming = make_client(network.lesnoy)
    make_task(network.lesnoy, kind=TaskKind.CALL, client=coming)
    browser = web(network.administrator, network.lesnoy)
    red = re.compile(r'<span class="tabular debt">31\.01\.2026</span>')
    assert red.search(browser.get(f"/admin/client/card/{client.id}/").text)
    panel = browser.get(f"/admin/client/card/{coming.id}/").text.split('id="tasks-title"')[1].split("</section>")[0]
    assert "tabular debt" not in panel


def test_calls_of_foreign_and_unseen_clients_are_not_set(network: Any, web: Any) -> None:
    foreign = make_client(network.mira)
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/task/new/?client={foreign.id}"
    assert browser.get(path).status_code == 404
    assert browser.post(path, data={"due_on": "2027-01-31"}).status_code == 404
