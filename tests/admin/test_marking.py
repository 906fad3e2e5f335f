"""The page where a lesson is marked, and the grid of all marks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Employee
from crm.clients.models import Client
from crm.db import db, transaction
from crm.schedule.attendance import hold_lesson, mark_attendance
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from tests.factories import (
    make_client,
    make_employee,
    make_group,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


def at_noon(network: Any, *clients: Client, **changes: Any) -> Lesson:
    return make_lesson(network.lesnoy, *clients, **{"starts_at": NOON, **changes})


def path_of(lesson: Lesson) -> str:
    return f"/admin/lesson/{lesson.id}/marks/"


def form_of(page: str) -> dict[str, str]:
    """What a browser would send of the page untouched, without the button."""
    found = dict(re.findall(r'<input type="hidden" name="(form_key|seen-\d+)" value="([^"]+)"', page))
    return found | {
        name: value
        for name, value, checked in re.findall(
            r'<input type="radio" class="btn-check" name="(mark-\d+)" id="[^"]+" value="(\w+)"( checked)?', page
        )
        if checked
    }


def marks_of(lesson: Lesson) -> dict[str, Mark]:
    db.session.expire_all()
    return {one.client.name: one.mark for one in db.session.get_one(Lesson, lesson.id).attendances}


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def test_a_group_is_marked_and_the_lesson_held_in_one_sending(network: Any, web: Any) -> None:
    came, missed = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Борис")
    make_subscription(came)
    lesson = at_noon(network, came, missed, group_id=make_group(network.lesnoy, name="Дельфины").id)
    client = web(network.administrator, network.lesnoy)
    page = client.get(path_of(lesson))
    assert page.status_code == 200
    assert page.text.count("<h1") == 1
    said = text_of(page.text)
    for text in ("Дельфины", "Все были", "Провести занятие", "8 занятий: осталось 8", "разовое занятие: 700,00"):
        assert text in said
    form = form_of(page.text)
    assert list(form.values()).count("planned") == 2
    ids = {one.client.name: one.id for one in lesson.attendances}
    form |= {f"mark-{ids['Анна']}": "present", f"mark-{ids['Борис']}": "absent", "then": "hold"}
    answer = client.post(path_of(lesson), data=form)
    assert answer.status_code == 302
    said = text_of(client.get(answer.location).text)
    assert "Сохранено: 2 отметки. Занятие проведено." in said
    assert marks_of(lesson) == {"Анна": Mark.PRESENT, "Борис": Mark.ABSENT}
    assert db.session.get_one(Lesson, lesson.id).status is LessonStatus.HELD
    said = text_of(client.get(path_of(lesson)).text)
    assert "списано: 8 занятий #1" in said
    assert "списано: 700,00" in said


def test_sent_twice_it_is_done_once(network: Any, web: Any) -> None:
    one = make_client(network.lesnoy)
    subscription = make_subscription(one)
    lesson = at_noon(network, one)
    client = web(network.administrator, network.lesnoy)
    form = form_of(client.get(path_of(lesson)).text) | {f"mark-{lesson.attendances[0].id}": "present"}
    for _time in range(2):
        assert client.post(path_of(lesson), data=form).status_code == 302
    db.session.refresh(subscription)
    assert subscription.lessons_left == 7


def test_all_of_them_came_leaves_who_is_marked_already(network: Any, web: Any) -> None:
    first, second = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Борис")
    lesson = at_noon(network, first, second)
    ids = {one.client.name: one.id for one in lesson.attendances}
    with transaction():
        mark_attendance(lesson, {ids["Анна"]: Mark.EXCUSED}, by=SYSTEM)
    client = web(network.administrator, network.lesnoy)
    form = form_of(client.get(path_of(lesson) + "?all=1").text)
    assert (form[f"mark-{ids['Анна']}"], form[f"mark-{ids['Борис']}"]) == ("excused", "present")
    assert marks_of(lesson)["Борис"] is Mark.PLANNED  # nothing is saved by looking


def test_two_clerks_the_second_sees_what_has_changed_and_loses_nothing(network: Any, web: Any) -> None:
    first, second = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Борис")
    lesson = at_noon(network, first, second)
    ids = {one.client.name: one.id for one in lesson.attendances}
    mine, hers = web(network.administrator, network.lesnoy), web(network.director, network.lesnoy)
    my_form, her_form = form_of(mine.get(path_of(lesson)).text), form_of(hers.get(path_of(lesson)).text)
    hers.post(path_of(lesson), data=her_form | {f"mark-{ids['Анна']}": "absent"})
    wanted = {f"mark-{ids['Анна']}": "present", f"mark-{ids['Борис']}": "excused"}
    answer = mine.post(path_of(lesson), data=my_form | wanted)
    assert answer.status_code == 422
    said = text_of(answer.text)
    assert f"Анна — Не был, списано ({network.director.name}, 15:00)" in said
    assert "изменено" in said
    assert marks_of(lesson) == {"Анна": Mark.ABSENT, "Борис": Mark.PLANNED}
    again = form_of(answer.text)
    assert (again[f"mark-{ids['Анна']}"], again[f"mark-{ids['Борис']}"]) == ("absent", "excused")
    mine.post(path_of(lesson), data=again)
    assert marks_of(lesson) == {"Анна": Mark.ABSENT, "Борис": Mark.EXCUSED}


def test_not_held_while_somebody_is_not_marked_and_nothing_saved(network: Any, web: Any) -> None:
    first, second = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Борис")
    lesson = at_noon(network, first, second)
    ids = {one.client.name: one.id for one in lesson.attendances}
    client = web(network.administrator, network.lesnoy)
    form = form_of(client.get(path_of(lesson)).text) | {f"mark-{ids['Анна']}": "present", "then": "hold"}
    answer = client.post(path_of(lesson), data=form)
    assert answer.status_code == 422
    assert "Отмечены ещё не все: Борис" in text_of(answer.text)
    assert form_of(answer.text)[f"mark-{ids['Анна']}"] == "present"
    assert marks_of(lesson) == {"Анна": Mark.PLANNED, "Борис": Mark.PLANNED}


def test_a_held_lesson_is_opened_again(network: Any, web: Any) -> None:
    lesson = at_noon(network, make_client(network.lesnoy))
    with transaction():
        mark_attendance(lesson, {lesson.attendances[0].id: Mark.EXCUSED}, by=SYSTEM)
        hold_lesson(lesson, by=SYSTEM)
    client = web(network.administrator, network.lesnoy)
    assert f"/admin/lesson/{lesson.id}/reopen/" in client.get(path_of(lesson)).text
    client.post(f"/admin/lesson/{lesson.id}/reopen/")
    db.session.expire_all()
    assert db.session.get_one(Lesson, lesson.id).status is LessonStatus.PLANNED


def test_a_mark_changed_opens_a_held_lesson_and_says_so(network: Any, web: Any) -> None:
    lesson = at_noon(network, make_client(network.lesnoy, name="Анна"))
    [one] = lesson.attendances
    with transaction():
        mark_attendance(lesson, {one.id: Mark.EXCUSED}, by=SYSTEM)
        hold_lesson(lesson, by=SYSTEM)
    client = web(network.administrator, network.lesnoy)
    said = "Занятие снова открыто: проведите его ещё раз."
    for mark, then, is_said in (("excused", "", False), ("absent", "hold", False), ("present", "", True)):
        form = form_of(client.get(path_of(lesson)).text) | {f"mark-{one.id}": mark, "then": then}
        answer = client.post(path_of(lesson), data=form)
        assert (said in text_of(client.get(answer.location).text)) is is_said, mark
    assert db.session.get_one(Lesson, lesson.id).status is LessonStatus.PLANNED


def test_the_future_is_shown_and_not_marked(network: Any, web: Any) -> None:
    lesson = at_noon(network, make_client(network.lesnoy, name="Анна"), starts_at=NOON + timedelta(days=1))
    client = web(network.administrator, network.lesnoy)
    page = client.get(path_of(lesson))
    assert "Анна" in page.text
    assert 'name="then"' not in page.text
    id = lesson.attendances[0].id
    answer = client.post(path_of(lesson), data={f"seen-{id}": "1", f"mark-{id}": "present"})
    assert answer.status_code == 422
    assert marks_of(lesson) == {"Анна": Mark.PLANNED}


def test_an_instructor_marks_his_own_lesson_and_finds_no_other(network: Any, web: Any) -> None:
    with transaction():
        db.session.get_one(Employee, network.employee.id).user_id = network.instructor.id
    own = at_noon(network, make_client(network.lesnoy, name="Анна"), instructor_id=network.employee.id)
    other = at_noon(network, make_client(network.lesnoy), instructor_id=make_employee(network.lesnoy).id)
    client = web(network.instructor, network.lesnoy)
    page = client.get(path_of(own))
    assert "разовое занятие" in text_of(page.text)
    assert "700" not in text_of(page.text)  # he sees no prices
    id = own.attendances[0].id
    client.post(path_of(own), data=form_of(page.text) | {f"mark-{id}": "present"})
    assert marks_of(own) == {"Анна": Mark.PRESENT}
    assert client.get(path_of(other)).status_code == 404
    assert client.post(path_of(other)).status_code == 404


def test_another_branchs_lesson_is_not_there_and_a_reader_may_not(network: Any, web: Any) -> None:
    foreign = make_lesson(network.mira, starts_at=NOON)
    assert web(network.administrator, network.lesnoy).get(path_of(foreign)).status_code == 404
    own = at_noon(network)
    assert web(network.manager, network.lesnoy).get(path_of(own)).status_code == 403


def test_who_may_come_for_free_is_said(network: Any, web: Any) -> None:
    lesson = at_noon(network, make_client(network.lesnoy))
    with transaction():
        db.session.get_one(Attendance, lesson.attendances[0].id).by_group = True
    page = web(network.administrator, network.lesnoy).get(path_of(lesson))
    assert "пробное занятие, бесплатно" in text_of(page.text)


def test_a_group_of_thirty_is_read_in_the_same_statements(network: Any, web: Any) -> None:
    from sqlalchemy import event

    counts = []
    for size in (2, 12):
        clients = [make_client(network.lesnoy) for _ in range(size)]
        for client in clients[::2]:
            make_subscription(client)
        lesson = at_noon(network, *clients)
        reader = web(network.administrator, network.lesnoy)
        sent: list[str] = []
        reader.get(path_of(lesson))

        def note(*args: Any, sent: list[str] = sent) -> None:
            sent.append(args[2])

        event.listen(db.engine, "before_cursor_execute", note)
        try:
            assert reader.get(path_of(lesson)).status_code == 200
        finally:
            event.remove(db.engine, "before_cursor_execute", note)
        counts.append(len(sent))
    assert counts[0] == counts[1]


# --- the grid --------------------------------------------------------------------------------------------------------


@pytest.fixture
def marked(network: Any) -> dict[str, Any]:
    """Анна came on a subscription in a group with an instructor; Борис was absent elsewhere; Галина is expected."""
    people = {name: make_client(network.lesnoy, name=name) for name in ("Анна", "Борис", "Галина")}
    subscription = make_subscription(people["Анна"], make_plan(name="Утренний"))
    group = make_group(network.lesnoy, name="Дельфины")
    first = at_noon(network, people["Анна"], group_id=group.id, instructor_id=network.employee.id)
    second = at_noon(network, people["Борис"], starts_at=NOON - timedelta(days=1))
    third = at_noon(network, people["Галина"], lesson_type=make_lesson_type(name="Сольное"))
    with transaction():
        mark_attendance(first, {first.attendances[0].id: Mark.PRESENT}, by=network.administrator)
        mark_attendance(second, {second.attendances[0].id: Mark.ABSENT}, by=network.administrator)
    return {"group": group, "subscription": subscription, "third": third, **people}


def test_the_grid_is_filtered_by_what_is_asked(network: Any, web: Any, marked: Any) -> None:
    client = web(network.administrator, network.lesnoy)

    def found(query: str) -> set[str]:
        page = client.get(f"/admin/attendance/{query}")
        assert page.status_code == 200
        return {name for name in ("Анна", "Борис", "Галина") if name in page.text}

    assert found("") == {"Анна", "Борис", "Галина"}
    assert found("?f.mark.is=absent") == {"Борис"}
    assert found(f"?f.client.is={marked['Галина'].id}") == {"Галина"}
    assert found(f"?f.instructor.is={network.employee.id}") == {"Анна"}
    assert found(f"?f.group.is={marked['group'].id}") == {"Анна"}
    assert found(f"?f.subscription.is={marked['subscription'].id}") == {"Анна"}
    assert found("?f.starts_at.from=2027-03-09&f.starts_at.to=2027-03-09") == {"Борис"}
    assert found("?q=Галина") == {"Галина"}
    said = text_of(client.get("/admin/attendance/").text)
    for text in ("Дельфины", "Утренний", "Не был, списано", "700,00", "Вера Тренер"):
        assert text in said


def test_the_grid_leaves_canceled_enrolments_out_unless_asked_for(network: Any, web: Any, marked: Any) -> None:
    with transaction():
        marked["third"].attendances[0].mark = Mark.CANCELED
    client = web(network.administrator, network.lesnoy)
    assert "Галина" not in client.get("/admin/attendance/?f.starts_at.period=today").text
    assert "Галина" in client.get("/admin/attendance/?f.mark.is=canceled").text


def test_the_grid_goes_to_excel_and_a_mark_has_its_history(network: Any, web: Any, marked: Any) -> None:
    client = web(network.administrator, network.lesnoy)
    answer = client.get("/admin/attendance/export/xlsx/")
    assert answer.status_code == 200
    assert answer.data[:2] == b"PK"
    row = marked["third"].attendances[0]
    page = client.get(f"/admin/attendance/details/?id={row.id}")
    assert page.status_code == 200
    assert f"/admin/lesson/details/?id={marked['third'].id}" in page.text


def test_an_instructor_sees_the_marks_of_his_lessons_alone(network: Any, web: Any, marked: Any) -> None:
    with transaction():
        db.session.get_one(Employee, network.employee.id).user_id = network.instructor.id
    page = web(network.instructor, network.lesnoy).get("/admin/attendance/")
    assert "Анна" in page.text
    assert "Борис" not in page.text
