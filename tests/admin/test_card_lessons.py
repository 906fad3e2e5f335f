"""Lessons on a client's card: those planned, the trial one, the visits there were."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.catalogue.models import LessonFormat
from crm.db import db, transaction
from crm.sales.journal import journal_of
from crm.schedule.attendance import mark_attendance
from crm.schedule.enrolment import enrol
from crm.schedule.models import Attendance, GroupMember, Lesson, LessonStatus, Mark, Trial
from crm.schedule.planned import planned_of
from crm.schedule.trials import plan_trial
from crm.subscriptions.models import ChargeMoment
from crm.visits.models import VisitStatus
from crm.visits.operations import move_visit
from tests.factories import (
    make_child,
    make_client,
    make_employee,
    make_group,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_room,
    make_subject,
    make_subscription,
    make_visit,
)

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def card(client: Any, person: Any, tab: str = "main", part: str = "") -> str:
    page = client.get(f"/admin/client/card/{person.id}/?tab={tab}&part={part}")
    assert page.status_code == 200
    return str(page.text)


def row_of(lesson: Lesson) -> Attendance:
    db.session.expire_all()
    return db.session.scalars(select(Attendance).where(Attendance.lesson_id == lesson.id)).one()


# --- planned ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C82")
def test_the_tab_shows_lessons_not_held_yet_of_the_family(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, name="Петя")
    room, instructor = make_room(network.lesnoy, name="Малый зал"), make_employee(network.lesnoy, name="Лада Тренер")
    make_lesson(
        network.lesnoy,
        child,
        starts_at=NOON + timedelta(days=2),
        subject=make_subject(name="Плавание"),
        room=room,
        instructor=instructor,
    )
    held = make_lesson(network.lesnoy, child, starts_at=NOON - timedelta(days=1), subject=make_subject(name="Пение"))
    with transaction():
        mark_attendance(held, {held.attendances[0].id: Mark.EXCUSED}, by=SYSTEM)
    client = web(network.administrator, network.lesnoy)
    for person in (payer, child):
        page = card(client, person, "planned")
        said = text_of(page)
        assert re.search(r'aria-current="page">Запланированные занятия<', page)
        for text in ("12.03.2027 15:00", "Плавание", "Малый зал", "Лада Тренер"):
            assert text in said
        assert "Пение" not in said
    assert "Петя" in text_of(card(client, payer, "planned"))


@pytest.mark.spec("C83")
def test_ticked_lessons_are_canceled_and_no_others(network: Any, web: Any) -> None:
    person, other = make_client(network.lesnoy), make_client(network.lesnoy)
    group = make_group(network.lesnoy)
    own = make_lesson(network.lesnoy, person, starts_at=NOON + timedelta(days=1))
    of_group = make_lesson(network.lesnoy, person, starts_at=NOON + timedelta(days=2), group_id=group.id)
    shared = make_lesson(network.lesnoy, person, other, starts_at=NOON + timedelta(days=3))
    kept = make_lesson(network.lesnoy, person, starts_at=NOON + timedelta(days=4))
    foreign = make_lesson(network.lesnoy, other, starts_at=NOON + timedelta(days=5))
    client = web(network.administrator, network.lesnoy)
    page = card(client, person, "planned")
    assert "Отменить занятия" in page
    ticked = [*(one.attendances[0].id for one in (own, of_group, shared)), foreign.attendances[0].id]
    answer = client.post(f"/admin/client/card/{person.id}/lessons/cancel/", data={"attendance": ticked})
    assert answer.status_code == 302
    assert "Отменено 3 занятия" in text_of(client.get(answer.location).text)
    db.session.expire_all()
    marks = {
        one.lesson_id: one.mark
        for one in db.session.scalars(select(Attendance).where(Attendance.client_id == person.id))
    }
    assert marks == dict.fromkeys((own.id, of_group.id, shared.id), Mark.CANCELED) | {kept.id: Mark.PLANNED}
    assert row_of(foreign).mark is Mark.PLANNED
    # A lesson that was for nobody else frees its room; of a group, or with somebody left, it goes on.
    statuses = {one.id: one.status for one in db.session.scalars(select(Lesson))}
    assert statuses[own.id] is LessonStatus.CANCELED
    assert {statuses[one.id] for one in (of_group, shared, kept, foreign)} == {LessonStatus.PLANNED}


def test_an_instructor_sees_lessons_of_his_own_only(network: Any, web: Any) -> None:
    """Wherever a card tells of lessons, as in the list of them."""
    person = make_client(network.lesnoy)
    sold = make_subscription(person)
    own = make_employee(network.lesnoy, user_id=network.instructor.id)
    for name, instructor in (("Пение", own), ("Танцы", network.employee)):
        subject = make_subject(name=name)
        facts: dict[str, Any] = {"subject": subject, "instructor": instructor}
        past = make_lesson(network.lesnoy, person, starts_at=NOON, **facts)
        with transaction():
            mark_attendance(past, {past.attendances[0].id: Mark.PRESENT}, by=SYSTEM)
        make_lesson(network.lesnoy, person, starts_at=NOON + timedelta(days=1), **facts)
    for user, sees_all in ((network.instructor, False), (network.manager, True)):
        client = web(user, network.lesnoy)
        sold_page = client.get(f"/admin/subscription/details/?id={sold.id}")
        for page in (card(client, person, "planned"), sold_page.text):
            assert ("Пение" in page, "Танцы" in page) == (True, sees_all)
        rows = [line for line in journal_of(person, by=user) if line.lesson is not None]
        assert {str(line.lesson.subject) for line in rows if line.lesson} == {"Пение", *(["Танцы"] * sees_all)}
        assert [line.count for line in rows if line.count is not None] == [-1] * (1 + sees_all)
        assert [str(one.lesson.subject) for one in planned_of(person, by=user)] == ["Пение", *(["Танцы"] * sees_all)]


def test_nothing_ticked_says_so_and_who_may_not_has_no_button(network: Any, web: Any) -> None:
    person = make_client(network.lesnoy)
    make_lesson(network.lesnoy, person, starts_at=NOON + timedelta(days=1))
    path = f"/admin/client/card/{person.id}/lessons/cancel/"
    for ticked in ([], ["9" * 5000], ["9" * 18, "²"]):
        answer = web(network.administrator, network.lesnoy).post(path, data={"attendance": ticked})
        assert answer.status_code == 422
        assert "Отметьте занятия" in text_of(answer.text)
    reader = web(network.manager, network.lesnoy)
    assert "Отменить занятия" not in card(reader, person, "planned")
    assert reader.post(path).status_code == 403


# --- the trial lesson ------------------------------------------------------------------------------------------------


def trial_path(person: Any) -> str:
    return f"/admin/client/card/{person.id}/trial/"


@pytest.mark.spec("E8", "E10", "E12", "E13", "E14", "E16")
def test_the_pencil_leads_to_the_window_group_then_date(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, name="Петя")
    group, other = make_group(network.lesnoy, name="Дельфины"), make_group(network.lesnoy, name="Тюлени")
    lesson = make_lesson(network.lesnoy, starts_at=NOON + timedelta(days=1), group_id=group.id)
    make_lesson(network.lesnoy, starts_at=NOON + timedelta(days=2), group_id=other.id)
    make_lesson(network.lesnoy, starts_at=NOON - timedelta(days=2), group_id=group.id)
    client = web(network.administrator, network.lesnoy)
    page = card(client, payer)
    assert "Дата посещения пробного занятия" in page
    assert f'href="{trial_path(payer)}"' in page
    window = client.get(trial_path(payer)).text
    assert 'name="group"' in window
    assert "Дельфины" in window
    assert "Школа" not in window  # there is one
    window = client.get(f"{trial_path(payer)}?group={group.id}").text
    assert re.findall(r'name="lesson" id="lesson-\d+" value="(\d+)"', window) == [str(lesson.id)]
    form = {"lesson": lesson.id, "student": child.id}
    assert client.post(f"{trial_path(payer)}?group={group.id}", data=form).status_code == 302
    row = row_of(lesson)
    assert (row.client_id, row.is_trial, row.by_group) == (child.id, True, False)
    assert db.session.scalars(select(GroupMember)).all() == []
    said = text_of(card(client, payer))
    assert "Дата посещения пробного занятия 11.03.2027 15:00 Ожидается · Петя" in said
    assert f'href="{trial_path(child)}"' in card(client, child)  # still to come: it can be moved
    with clock.frozen(NOON + timedelta(days=1, hours=1)):
        with transaction():
            mark_attendance(db.session.get_one(Lesson, lesson.id), {row.id: Mark.PRESENT}, by=SYSTEM)
        page = card(client, payer)
        assert f'href="{trial_path(payer)}"' not in page
        answer = client.post(f"{trial_path(payer)}?group={group.id}", data=form)
    assert answer.status_code == 422
    assert len(db.session.scalars(select(Trial)).all()) == 1


@pytest.mark.spec("E14")
def test_a_family_in_two_schools_chooses_the_school_first(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, name="Петя")
    with transaction():
        child.branch_id = network.rechnoy.id
    make_group(network.lesnoy, name="Дельфины")
    group = make_group(network.rechnoy, name="Тюлени")
    lesson = make_lesson(network.rechnoy, starts_at=NOON + timedelta(days=1), group_id=group.id)
    client = web(network.regional)
    window = client.get(trial_path(payer)).text
    assert "Школа" in window
    assert "Тюлени" not in window
    path = f"{trial_path(payer)}?school={network.rechnoy.id}&group={group.id}"
    assert "Тюлени" in client.get(path).text
    assert client.post(path, data={"lesson": lesson.id}).status_code == 302
    assert row_of(lesson).client_id == child.id


@pytest.mark.spec("E9", "X15")
def test_the_window_refuses_a_second_child(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    first, second = make_child(payer, name="Петя"), make_child(payer)
    group = make_group(network.lesnoy)
    lessons = [make_lesson(network.lesnoy, starts_at=NOON + timedelta(days=n), group_id=group.id) for n in (1, 2)]
    client = web(network.administrator, network.lesnoy)
    with transaction():
        plan_trial(first, lessons[0], by=SYSTEM)
        mark = lessons[0].attendances[0]
    with clock.frozen(NOON + timedelta(days=1)), transaction():
        mark_attendance(lessons[0], {mark.id: Mark.PRESENT}, by=SYSTEM)
    answer = client.post(f"{trial_path(second)}?group={group.id}", data={"lesson": lessons[1].id, "student": second.id})
    assert answer.status_code == 422
    assert len(db.session.scalars(select(Trial)).all()) == 1
    assert db.session.scalars(select(Attendance).where(Attendance.client_id == second.id)).all() == []


@pytest.mark.spec("E18", "E19", "E20")
def test_the_first_mark_of_a_member_made_at_his_group_fills_the_date(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, name="Петя")
    lesson = make_lesson(network.lesnoy, starts_at=NOON, group_id=make_group(network.lesnoy).id)
    with transaction():
        row = enrol(lesson, child, by=SYSTEM, by_group=True)
    client = web(network.administrator, network.lesnoy)
    assert "Дата посещения пробного занятия — " in text_of(card(client, payer))
    form = {f"seen-{row.id}": row.version, f"mark-{row.id}": "present"}
    assert client.post(f"/admin/lesson/{lesson.id}/marks/", data=form).status_code == 302
    for person in (payer, child):
        assert "Дата посещения пробного занятия 10.03.2027 15:00" in text_of(card(client, person))


def test_who_may_not_enrol_has_no_pencil(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    reader = web(network.manager, network.lesnoy)
    page = card(reader, payer)
    assert "Дата посещения пробного занятия" in page
    assert trial_path(payer) not in page
    assert reader.get(trial_path(payer)).status_code == 403
    foreign = make_client(network.mira)
    assert web(network.administrator, network.lesnoy).get(trial_path(foreign)).status_code == 404


# --- the history of visits -------------------------------------------------------------------------------------------


@pytest.mark.spec("C84", "C85", "C88", "C89")
def test_visits_name_time_kind_service_subscription_and_the_instructor(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, name="Петя")
    subscription = make_subscription(child, make_plan(name="Утренний"), by=network.director)
    instructor = make_employee(network.lesnoy, name="Лада Тренер")
    lesson_type = make_lesson_type(LessonFormat.GROUP, name="Групповое")
    came, missed = (
        make_lesson(
            network.lesnoy,
            child,
            starts_at=NOON - timedelta(days=days),
            lesson_type=lesson_type,
            subject=make_subject(name=name),
            instructor=instructor,
        )
        for days, name in ((0, "Плавание"), (1, "Пение"))
    )
    with transaction():
        mark_attendance(came, {came.attendances[0].id: Mark.PRESENT}, by=network.administrator)
        subscription.starts_on -= timedelta(days=5)
        mark_attendance(missed, {missed.attendances[0].id: Mark.ABSENT}, by=network.administrator)
    client = web(network.owner)
    page = card(client, child, "history", "visits")
    for label in ("История посещений", "История финансов", "История событий"):
        assert label in page
    rows = [text_of(row) for row in re.findall(r"<tr>.*?</tr>", page.split("<tbody>")[1], re.DOTALL)]
    assert len(rows) == 3
    present, absent = (next(row for row in rows if name in row) for name in ("Плавание", "Пение"))
    for part in (
        "10.03.2027 15:00",
        "Был",
        "Групповое · Плавание",
        f"Утренний #{subscription.id}",
        "−1",
        "Лада Тренер",
    ):
        assert part in present
    for part in ("09.03.2027 15:00", "Не был, списано", "Групповое · Пение", "−1", "Лада Тренер"):
        assert part in absent
    sold = next(row for row in rows if "Продажа абонемента" in row)
    for part in ("+8", f"Утренний #{subscription.id}", network.director.name):  # the one who did it
        assert part in sold
    assert network.administrator.name not in present
    assert "Петя" in text_of(card(client, payer, "history", "visits"))


def test_services_of_the_desk_are_visits_too(network: Any, web: Any) -> None:
    person = make_client(network.lesnoy)
    visit = make_visit(person, service="Массаж", employee=network.employee)
    with transaction():
        move_visit(visit, VisitStatus.CAME, by=SYSTEM)
    make_visit(person, service="Стрижка")  # still to come
    said = text_of(card(web(network.administrator, network.lesnoy), person, "history", "visits"))
    assert "Массаж" in said
    assert "Вера Тренер" in said
    assert "Стрижка" not in said


@pytest.mark.spec("C84")
def test_finances_come_first_and_events_are_the_changes_of_the_card(network: Any, web: Any) -> None:
    person = make_client(network.lesnoy, comment="Просил звонить")
    client = web(network.administrator, network.lesnoy)
    assert "Операций пока нет" in card(client, person, "history")
    assert "Просил звонить" in card(client, person, "history", "events")


@pytest.mark.spec("C85")
def test_the_history_of_finances_names_the_lesson_and_the_subscription(network: Any, web: Any) -> None:
    person = make_client(network.lesnoy)
    plan = make_plan(name="По занятиям", charge=ChargeMoment.PER_LESSON)
    subscription = make_subscription(person, plan)
    paid, single = (
        make_lesson(network.lesnoy, who, starts_at=NOON, subject=make_subject(name=name))
        for who, name in ((person, "Плавание"), (make_child(person), "Пение"))
    )
    for lesson in (paid, single):
        with transaction():
            mark_attendance(lesson, {lesson.attendances[0].id: Mark.PRESENT}, by=SYSTEM)
    client = web(network.administrator, network.lesnoy)
    rows = [text_of(row) for row in re.findall(r"<tr.*?</tr>", card(client, person, "history"), re.DOTALL)]
    written_off = next(row for row in rows if "Списание занятия" in row and "Плавание" in row)
    assert str(subscription) in written_off
    assert "500,00" in written_off
    assert any("Пение" in row and "700" in row for row in rows)
    book = openpyxl.load_workbook(io.BytesIO(client.get("/admin/entry/export/xlsx/").data))
    cells = {str(cell) for row in book.active.iter_rows(values_only=True) for cell in row}
    assert {f"{subscription}, Плавание", "Пение"} <= cells
