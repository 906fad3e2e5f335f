"""Subjects, lesson types, rooms, days off: made, changed, archived; what is offered of them."""

from __future__ import annotations

import html
from datetime import date, time
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.scope import Scope, scoped_to
from crm.catalogue.models import Holiday, LessonFormat, LessonType, Room, Subject
from crm.catalogue.operations import (
    change_holiday,
    change_lesson_type,
    change_room,
    change_subject,
    create_holiday,
    create_lesson_type,
    create_room,
    create_subject,
    delete_holiday,
)
from crm.catalogue.queries import instructors_of, lesson_types_on_offer, rooms_of, subjects_on_offer
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.schedule.models import LessonStatus
from tests.admin.world import errors, send
from tests.factories import make_employee, make_holiday, make_lesson, make_lesson_type, make_room, make_subject

LESSON = {"name": "Индивидуальное", "format": LessonFormat.INDIVIDUAL, "single_price": Decimal("1500.50")}


# --- lesson types ---------------------------------------------------------------------------------------------------


@pytest.mark.spec("C149", "C150")
def test_an_individual_and_a_group_type_with_the_prices_of_a_single_visit(network: Any, web: Any) -> None:
    browser = web(network.owner)
    for name, format, price in (("Один на один", "individual", "1 500,50"), ("В группе", "group", "700")):
        answer = send(browser, "/admin/lessontype/new/", name=name, format=format, single_price=price)
        assert answer.status_code == 302
    page = browser.get("/admin/lessontype/").text
    for text in ("Типы занятий", "Один на один", "Индивидуальные", "1\xa0500,50", "В группе", "Групповые", "700,00"):
        assert text in page
    kept = {one.name: (one.format, one.single_price) for one in db.session.scalars(select(LessonType))}
    assert kept == {
        "Один на один": (LessonFormat.INDIVIDUAL, Decimal("1500.50")),
        "В группе": (LessonFormat.GROUP, Decimal("700.00")),
    }


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"name": "  "}, "name"),
        ({"single_price": Decimal("-0.01")}, "single_price"),
        ({"single_price": Decimal("100000000.01")}, "single_price"),
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"duration_minutes": 1441}, "duration_minutes"),
    ],
)
def test_what_is_no_lesson_type_is_refused_beside_its_field(network: Any, facts: dict[str, Any], field: str) -> None:
    with pytest.raises(DomainError) as caught:
        create_lesson_type(**{**LESSON, **facts}, by=network.owner)
    assert caught.value.field == field
    lesson_type = make_lesson_type(single_price=Decimal("700.00"))
    with pytest.raises(DomainError) as caught, transaction():
        change_lesson_type(lesson_type, **{**LESSON, **facts}, by=network.owner)
    assert caught.value.field == field
    assert db.session.scalars(select(LessonType.single_price)).all() == [Decimal("700.00")]


def test_a_name_is_given_once_whatever_its_spaces(network: Any) -> None:
    with transaction():
        create_lesson_type(**LESSON, by=network.owner)
        create_subject(name="Английский  язык", by=network.owner)
    for make, facts in ((create_lesson_type, LESSON), (create_subject, {"name": " Английский язык "})):
        with pytest.raises(DomainError) as caught:
            make(**facts, by=network.owner)
        assert (caught.value.code, caught.value.field) == ("name_taken", "name")
    subject = db.session.scalars(select(Subject)).one()
    with transaction():
        change_subject(subject, name="Английский язык", position=3, by=network.owner)  # its own name is no other's
    assert (subject.name, subject.position) == ("Английский язык", 3)


# --- what is offered ------------------------------------------------------------------------------------------------


def test_what_is_archived_is_offered_no_more(network: Any) -> None:
    for make, offered in ((make_subject, subjects_on_offer), (make_lesson_type, lesson_types_on_offer)):
        make(name="Второй", position=2)
        make(name="Архивный", is_archived=True)
        make(name="Первый", position=1)
        assert [row.name for row in offered()] == ["Первый", "Второй"]
    make_room(network.lesnoy, name="Зал", position=1)
    make_room(network.lesnoy, name="Старый зал", is_archived=True)
    make_room(network.mira, name="Чужой зал")
    assert [room.name for room in rooms_of(network.lesnoy)] == ["Зал"]


def test_the_grid_shows_the_archive_when_it_is_asked_for(network: Any, web: Any) -> None:
    make_subject(name="Латынь", is_archived=True)
    browser = web(network.owner)
    assert "Латынь" not in browser.get("/admin/subject/").text
    assert "Латынь" in browser.get("/admin/subject/?f.is_archived.is=1").text


@pytest.mark.spec("C140", "C42")
def test_an_instructor_is_an_employee_who_holds_lessons(network: Any, web: Any) -> None:
    make_employee(network.lesnoy, name="Уволенный", is_active=False)
    make_employee(network.mira, name="Чужой")
    browser = web(network.director)
    page = browser.get("/admin/employee/new/").text
    assert "Ведёт занятия" in page
    desk = {"name": "Анна Админ", "branch": str(network.lesnoy.id)}
    assert send(browser, "/admin/employee/new/", **desk, teaches=None).status_code == 302
    specialist = {"name": "Борис Тренер", "branch": str(network.lesnoy.id), "user": str(network.instructor.id)}
    assert send(browser, "/admin/employee/new/", **specialist).status_code == 302
    assert [one.name for one in instructors_of(network.lesnoy)] == ["Борис Тренер", "Вера Тренер"]
    assert instructors_of(network.lesnoy)[0].user_id == network.instructor.id


def test_a_user_is_one_employee(network: Any, web: Any) -> None:
    make_employee(network.lesnoy, name="Инна", user_id=network.instructor.id)
    browser = web(network.director)
    facts = {"name": "Двойник", "branch": str(network.lesnoy.id), "user": str(network.instructor.id)}
    answer = send(browser, "/admin/employee/new/", **facts)
    assert errors(answer.text) == {"user": "Этот пользователь уже связан с другим сотрудником."}


def test_a_director_keeps_a_user_he_does_not_see_and_names_no_stranger(network: Any, web: Any) -> None:
    """The head of the network gives lessons as well."""
    employee = make_employee(network.lesnoy, name="Ольга", user_id=network.owner.id)
    browser, path = web(network.director), f"/admin/employee/edit/?id={employee.id}"
    assert send(browser, path, position="Методист").status_code == 302
    db.session.expire_all()
    assert (employee.position, employee.user_id) == ("Методист", network.owner.id)
    assert send(browser, path, user=str(network.support.id)).status_code == 422


# --- rooms ----------------------------------------------------------------------------------------------------------


def test_a_room_is_of_its_branch_and_stays_there(network: Any, web: Any) -> None:
    browser = web(network.director, network.lesnoy)
    assert send(browser, "/admin/room/new/", name="Большой зал", capacity="20").status_code == 302
    room = db.session.scalars(select(Room)).one()
    assert (room.branch_id, room.capacity) == (network.lesnoy.id, 20)
    path = f"/admin/room/edit/?id={room.id}"
    assert 'name="branch"' not in browser.get(path).text
    assert send(browser, path, capacity="", branch=str(network.mira.id)).status_code == 302
    db.session.expire_all()
    assert (room.branch_id, room.capacity) == (network.lesnoy.id, None)
    assert "без ограничения" in browser.get("/admin/room/").text
    assert errors(send(browser, path, capacity="0").text).keys() == {"capacity"}


def test_names_of_rooms_may_repeat_in_another_branch_only(network: Any) -> None:
    with transaction():
        create_room(branch=network.lesnoy, name="Зал", by=network.owner)
        create_room(branch=network.mira, name="Зал", by=network.owner)
    with pytest.raises(DomainError) as caught:
        create_room(branch=network.lesnoy, name="Зал", by=network.owner)
    assert caught.value.field == "name"


def test_rooms_of_a_foreign_branch_are_nobodys(network: Any) -> None:
    room = make_room(network.mira)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        with pytest.raises(Forbidden) as caught:
            create_room(branch=network.mira, name="Зал", by=network.director)
        assert caught.value.field == "branch"
        with pytest.raises(NotFound):
            change_room(room, name="Зал", by=network.director)


@pytest.mark.parametrize("role", ["administrator", "manager", "instructor"])
def test_dictionaries_are_not_everybodys_to_change(network: Any, web: Any, role: str) -> None:
    by = getattr(network, role)
    with pytest.raises(Forbidden):
        create_subject(name="Химия", by=by)
    with pytest.raises(Forbidden):
        create_lesson_type(**LESSON, by=by)
    with pytest.raises(Forbidden):
        create_room(branch=network.lesnoy, name="Зал", by=by)
    for entity in ("subject", "lessontype", "room", "holiday"):
        assert web(by).get(f"/admin/{entity}/new/").status_code == 403


# --- days off -------------------------------------------------------------------------------------------------------


def test_days_off_are_closed_at_one_go_and_opened_one_by_one(network: Any, web: Any) -> None:
    make_holiday(network.lesnoy, date(2027, 1, 2), name="Инвентаризация")
    browser = web(network.director, network.lesnoy)
    facts = {"day": "2027-01-01", "until": "2027-01-03", "name": "Новый год"}
    assert send(browser, "/admin/holiday/new/", **facts).status_code == 302
    days = {one.day: one.name for one in db.session.scalars(select(Holiday))}
    assert days == {
        date(2027, 1, 1): "Новый год",
        date(2027, 1, 2): "Инвентаризация",
        date(2027, 1, 3): "Новый год",
    }
    first = db.session.scalars(select(Holiday).where(Holiday.day == date(2027, 1, 1))).one()
    page = browser.get(f"/admin/holiday/details/?id={first.id}").text
    assert f"/admin/holiday/remove/?id={first.id}" in page
    answer = send(browser, f"/admin/holiday/remove/?id={first.id}")
    assert answer.location.endswith("/admin/holiday/")
    assert len(db.session.scalars(select(Holiday.id)).all()) == 2


def test_who_closes_a_day_is_told_of_the_lessons_planned_on_it(network: Any, web: Any) -> None:
    for branch, day, at, status in (
        (network.lesnoy, 2, time(0), LessonStatus.PLANNED),
        (network.lesnoy, 2, time(23, 30), LessonStatus.PLANNED),
        (network.lesnoy, 2, time(12), LessonStatus.CANCELED),
        (network.lesnoy, 3, time(0), LessonStatus.PLANNED),
        (network.mira, 1, time(12), LessonStatus.PLANNED),
    ):
        make_lesson(branch, starts_at=clock.at(date(2027, 1, day), at, branch), status=status)
    browser = web(network.director, network.lesnoy)

    def told(path: str, **facts: str) -> str:
        page: str = browser.get(send(browser, path, **facts).location).text
        return html.unescape(page)

    assert "запланировано занятий" not in told("/admin/holiday/new/", day="2027-01-01")
    page = told("/admin/holiday/new/", day="2027-01-02")
    assert "На этот день запланировано занятий: 2." in page
    assert "/admin/lesson/calendar/?span=day&day=2027-01-02" in page
    last = db.session.scalars(select(Holiday.id).where(Holiday.day == date(2027, 1, 2))).one()
    assert "На этот день запланировано занятий: 1." in told(f"/admin/holiday/edit/?id={last}", day="2027-01-03")
    page = told("/admin/holiday/new/", day="2026-12-31", until="2027-01-03")
    assert "На эти дни запланировано занятий: 3." in page
    assert "/admin/lesson/calendar/?span=day&day=2027-01-02" in page


@pytest.mark.parametrize(
    ("day", "until", "field"),
    [
        (date(2027, 1, 2), None, "day"),
        (date(2027, 1, 3), date(2027, 1, 2), "until"),
        (date(2027, 1, 3), date(2027, 3, 4), "until"),
    ],
)
def test_days_off_that_make_no_sense_are_refused(network: Any, day: date, until: date | None, field: str) -> None:
    make_holiday(network.lesnoy, date(2027, 1, 2))
    with pytest.raises(DomainError) as caught:
        create_holiday(branch=network.lesnoy, day=day, until=until, by=network.director)
    assert caught.value.field == field


def test_a_day_off_does_not_move_onto_another(network: Any) -> None:
    first, second = (make_holiday(network.lesnoy, date(2027, 1, day)) for day in (1, 2))
    make_holiday(network.mira, date(2027, 1, 3))
    with pytest.raises(DomainError) as caught:
        change_holiday(first, day=second.day, by=network.director)
    assert caught.value.field == "day"
    with transaction():
        change_holiday(first, day=date(2027, 1, 3), name="Каникулы", by=network.director)  # of another branch
    assert first.name == "Каникулы"
    with pytest.raises(Forbidden):
        delete_holiday(first, by=network.manager)
