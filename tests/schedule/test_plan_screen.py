"""The form that plans lessons: whom for, what it asks, the preview with another room, day and time, the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.catalogue.models import LessonFormat
from crm.db import db, transaction
from crm.schedule.groups import join_group
from crm.schedule.lessons import create_lesson
from crm.schedule.models import Attendance, Booking, Lesson
from crm.tasks.models import Task
from tests.admin.world import errors, fields, send
from tests.factories import (
    make_booking,
    make_client,
    make_group,
    make_holiday,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_room,
    make_subscription,
)

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
TEN = datetime(2026, 12, 1, 7, tzinfo=UTC)
PLAN = "/admin/lesson/plan/"


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def lesson_type(network: Any) -> Any:
    return make_lesson_type(name="Английский в группе")


@pytest.fixture
def room(network: Any) -> Any:
    return make_room(network.lesnoy, name="Кабинет 1")


@pytest.fixture
def client(network: Any) -> Any:
    return make_client(network.lesnoy, name="Берёзкина Анна")


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def wanted(lesson_type: Any, room: Any, **changes: Any) -> dict[str, Any]:
    """Three Tuesdays at ten."""
    facts = {"starts_on": "2026-12-01", "time": "10:00", "minutes": "60", "unit": "week", "interval": "1", "count": "3"}
    return {**facts, "lesson_type": str(lesson_type.id), "room": str(room.id), **changes}


def shown(page: str) -> list[str]:
    """What the preview says of each lesson, as text."""
    lines = re.findall(r'<li class="[^"]*">\s*<div class="plan-line">(.*?)</div>', page, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", line).split()) for line in lines]


def accepted(page: str) -> list[str]:
    return re.findall(r'name="shown" value="([^"]+)"', page)


def seen(page: str) -> dict[str, Any]:
    """What the preview sends along of itself, and the button below it."""
    return {"shown": accepted(page), "checked": fields(page)["checked"], "plan": "1"}


@pytest.mark.spec("C19", "C33")
def test_the_card_leads_to_the_schedule(network: Any, browser: Any, web: Any, client: Any) -> None:
    card = f"/admin/client/card/{client.id}/"
    page = browser.get(card).text
    [path] = re.findall(rf'href="({re.escape(PLAN)}[^"]*)"', page)
    assert path == f"{PLAN}?client={client.id}"
    assert "В расписание" in page
    assert "Берёзкина Анна" in browser.get(path).text
    assert PLAN not in web(network.manager, network.lesnoy).get(card).text
    assert web(network.manager, network.lesnoy).get(path).status_code == 403


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_a_day_that_cannot_be_meant_is_told(browser: Any, client: Any, lesson_type: Any, room: Any, day: str) -> None:
    path = f"{PLAN}?client={client.id}"
    assert browser.get(f"{path}&day={day}&time=23:30").status_code == 200
    answer = browser.post(path, data=wanted(lesson_type, room, starts_on=day))
    assert answer.status_code == 422
    assert "от 1900 до 2199" in answer.text


@pytest.mark.spec("C33", "C34", "C37")
def test_lessons_are_looked_at_and_then_planned(browser: Any, client: Any, lesson_type: Any, room: Any) -> None:
    path, facts = f"{PLAN}?client={client.id}", wanted(lesson_type, room)
    page = send(browser, path, **facts)
    assert page.status_code == 200
    assert shown(page.text) == [
        f"{day} 10:00–11:00 Кабинет 1 Новое занятие" for day in ("вт 01.12.2026", "вт 08.12.2026", "вт 15.12.2026")
    ]
    assert "Запланировать 3 занятия" in page.text
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 0
    answer = send(browser, path, **facts, **seen(page.text))
    assert (answer.status_code, answer.location) == (302, f"/admin/client/card/{client.id}/?tab=planned")
    card = browser.get(answer.location).text
    assert "Запланировано 3 занятия." in card
    assert "15.12.2026" in card
    assert db.session.scalar(select(func.count()).select_from(Attendance)) == 3


@pytest.mark.spec("C34", "C35", "C36")
def test_what_the_form_asks(browser: Any, client: Any, lesson_type: Any, room: Any) -> None:
    page = browser.get(f"{PLAN}?client={client.id}").text
    for label in ("Периодичность", "День", "Неделя", "Месяц", "Интервал", "Дни недели", "торник"):
        assert label in page
    for interval in ("0", "8"):
        answer = send(browser, f"{PLAN}?client={client.id}", **wanted(lesson_type, room, interval=interval))
        assert answer.status_code == 422
        assert errors(answer.text) == {"interval": "Введите интервал от 1 до 7."}
    weekly = wanted(lesson_type, room, weekdays=["0", "3"], interval="7", count="", until="2027-02-28")
    page = send(browser, f"{PLAN}?client={client.id}", **weekly).text
    assert [line[:13] for line in shown(page)] == ["чт 03.12.2026", "пн 18.01.2027", "чт 21.01.2027"]


@pytest.mark.spec("C40", "C41", "C42")
def test_type_and_instructor_are_asked_by_the_setting(
    network: Any, browser: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    make_lesson_type()
    path = f"{PLAN}?client={client.id}"
    assert {"lesson_type", "instructor"} <= fields(browser.get(path).text).keys()  # his plan is good for any type
    page = browser.get(path).text
    assert "Тип занятий" in page
    assert "Будет установлен на все планируемые занятия." in page
    make_subscription(client, make_plan(lesson_types=[lesson_type]))
    asked = fields(browser.get(path).text)
    assert "lesson_type" not in asked
    assert "instructor" in asked
    facts = wanted(lesson_type, room, instructor=str(network.employee.id))
    answer = send(browser, path, **facts, **seen(send(browser, path, **facts).text))
    assert answer.status_code == 302
    lessons = db.session.scalars(select(Lesson)).all()
    assert {(one.instructor_id, one.lesson_type_id) for one in lessons} == {(network.employee.id, lesson_type.id)}
    with transaction():
        network.company.binds_instructor = False
    make_subscription(client)
    assert not {"lesson_type", "instructor"} & fields(browser.get(path).text).keys()


@pytest.mark.spec("C43", "C44", "C48")
def test_another_room_day_or_time_is_offered_and_nothing_typed_is_lost(
    network: Any, browser: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    other = make_room(network.lesnoy, name="Кабинет 2")
    make_booking(room, starts_at=TEN)
    make_holiday(network.lesnoy, date(2026, 12, 8))
    path, facts = f"{PLAN}?client={client.id}", wanted(lesson_type, room, capacity="5")
    page = send(browser, path, **facts).text
    said = shown(page)
    assert "в указанное время стоит бронь" in said[0]
    assert "в указанное время центр не работает" in said[1]
    assert "Запланировать 1 занятие" in page
    offered = fields(page)
    assert offered["day-2026-12-08"] == "2026-12-08"
    assert (offered["count"], offered["capacity"]) == ("3", "5")
    facts |= {"room-2026-12-01": str(other.id), "day-2026-12-08": "2026-12-09", "time-2026-12-08": "12:30"}
    page = send(browser, path, **facts).text
    assert [line[:34] for line in shown(page)] == [
        "вт 01.12.2026 10:00–11:00 Кабинет ",
        "ср 09.12.2026 12:30–13:30 Кабинет ",
        "вт 15.12.2026 10:00–11:00 Кабинет ",
    ]
    assert len(accepted(page)) == 3
    left_out = send(browser, path, **facts, **{"skip-2026-12-15": "1"}).text
    assert "Не планируется" in shown(left_out)[2]
    assert fields(left_out)["day-2026-12-08"] == "2026-12-09"
    answer = send(browser, path, **facts, **{"skip-2026-12-15": "1"}, **seen(left_out))
    assert answer.status_code == 302
    lessons = db.session.scalars(select(Lesson).order_by(Lesson.starts_at)).all()
    assert [(one.room_id, one.starts_at) for one in lessons] == [
        (other.id, TEN),
        (room.id, TEN + timedelta(days=8, hours=2, minutes=30)),
    ]


def test_rows_corrected_since_the_check_are_checked_again_and_lost_by_no_button(
    browser: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    make_booking(room, starts_at=TEN)
    path, facts = f"{PLAN}?client={client.id}", wanted(lesson_type, room, capacity="5")
    told = seen(send(browser, path, **facts).text)
    facts |= {"day-2026-12-01": "2026-12-02"}
    again = send(browser, path, **facts, **told)
    assert again.status_code == 200
    assert "изменили после проверки" in again.text
    assert [line[:13] for line in shown(again.text)] == ["ср 02.12.2026", "вт 08.12.2026", "вт 15.12.2026"]
    assert fields(again.text)["day-2026-12-01"] == "2026-12-02"
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 0
    for changed in ({"count": "4"}, {"time-2026-12-01": "10:30"}, {"skip-2026-12-01": "1"}, {"capacity": "6"}):
        assert "изменили после проверки" in send(browser, path, **{**facts, **changed}, **seen(again.text)).text
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 0
    assert send(browser, path, **facts, **seen(again.text)).status_code == 302
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 3


@pytest.mark.spec("C38")
def test_the_screen_says_of_an_individual_lesson(network: Any, browser: Any, lesson_type: Any, room: Any) -> None:
    make_lesson(network.lesnoy, starts_at=TEN, room=room, lesson_type=make_lesson_type(LessonFormat.INDIVIDUAL))
    path, facts = f"{PLAN}?room={room.id}", wanted(lesson_type, room, count="1")
    page = send(browser, path, **facts).text
    assert "будет поставлена задача администратору на ручную корректировку" in shown(page)[0]
    answer = send(browser, path, **facts, **seen(page))
    assert "Задач администратору на ручную корректировку: 1." in browser.get(answer.location).text
    assert db.session.scalar(select(func.count()).select_from(Task)) == 1


@pytest.mark.spec("C39", "C135")
def test_only_a_director_is_let_into_the_past(
    network: Any, browser: Any, web: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    path, facts = f"{PLAN}?client={client.id}", wanted(lesson_type, room, starts_on="2026-11-24", count="1")
    page = send(browser, path, **facts).text
    assert "планировать занятия за прошедшее время может только директор" in shown(page)[0]
    assert 'name="plan"' not in page
    assert send(browser, path, **facts, **{**seen(page), "shown": "x"}).status_code == 422
    director = web(network.director, network.lesnoy)
    answer = send(director, path, **facts, **seen(send(director, path, **facts).text))
    assert answer.status_code == 302
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 1


def test_what_changed_meanwhile_is_shown_before_anything_is_planned(
    network: Any, browser: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    path, facts = f"{PLAN}?client={client.id}", wanted(lesson_type, room)
    told, other = seen(send(browser, path, **facts).text), make_lesson_type()
    with transaction():
        create_lesson(network.lesnoy, other, starts_at=TEN, room=room, by=SYSTEM)
    answer = send(browser, path, **facts, **told)
    assert answer.status_code == 422
    assert "Расписание тем временем изменилось" in answer.text
    assert "в помещении другое занятие" in shown(answer.text)[0]
    assert db.session.scalar(select(func.count()).select_from(Lesson)) == 1
    assert send(browser, path, **facts, **seen(answer.text)).status_code == 302


@pytest.mark.spec("C49")
def test_parallel_rooms_are_offered_where_they_are_switched_on(
    network: Any, browser: Any, client: Any, lesson_type: Any, room: Any
) -> None:
    second, path = make_room(network.lesnoy, name="Кабинет 2"), f"{PLAN}?client={client.id}"
    assert "further_rooms" not in browser.get(path).text
    with transaction():
        network.company.has_parallel_rooms = True
    assert "Параллельные помещения" in browser.get(path).text
    facts = wanted(lesson_type, room, further_rooms=[str(second.id)])
    answer = send(browser, path, **facts, **seen(send(browser, path, **facts).text))
    assert answer.status_code == 302
    assert db.session.scalars(select(Booking.room_id)).all() == [second.id] * 3


def test_a_group_has_its_type_room_and_instructor(network: Any, browser: Any, lesson_type: Any, room: Any) -> None:
    group = make_group(
        network.lesnoy, lesson_type=lesson_type, room=room, instructor=network.employee, capacity=6, name="Группа А"
    )
    with transaction():
        join_group(group, make_client(network.lesnoy), by=SYSTEM)
    path = f"{PLAN}?group={group.id}&day=2026-12-01&time=18:30"
    asked = fields(browser.get(path).text)
    assert "lesson_type" not in asked
    assert (asked["room"], asked["instructor"]) == (str(room.id), str(network.employee.id))
    assert (asked["starts_on"], asked["time"], asked["capacity"]) == ("2026-12-01", "18:30", "6")
    facts = {**wanted(lesson_type, room), "instructor": str(network.employee.id)}
    answer = send(browser, path, **facts, **seen(send(browser, path, **facts).text))
    assert answer.status_code == 302
    assert {one.group_id for one in db.session.scalars(select(Lesson))} == {group.id}
    assert db.session.scalar(select(func.count()).select_from(Attendance)) == 3


def test_an_empty_slot_begins_where_the_calendar_says(network: Any, browser: Any, lesson_type: Any, room: Any) -> None:
    asked = fields(browser.get(f"{PLAN}?room={room.id}&day=2026-12-01&time=18:30").text)
    assert (asked["room"], asked["starts_on"], asked["time"]) == (str(room.id), "2026-12-01", "18:30")
    assert browser.get(f"{PLAN}?room=x&day=y&time=z").status_code == 200


def test_what_is_of_another_branch_is_out_of_sight(network: Any, browser: Any, lesson_type: Any, room: Any) -> None:
    foreign = make_client(network.mira)
    assert browser.get(f"{PLAN}?client={foreign.id}").status_code == 404
    strange = wanted(lesson_type, make_room(network.mira))
    assert "room" in errors(send(browser, PLAN, **strange).text)
    assert "Чужая" not in browser.get(f"{PLAN}?room={make_room(network.mira, name='Чужая').id}").text


def test_too_many_for_a_screen_are_refused(browser: Any, client: Any, lesson_type: Any, room: Any) -> None:
    answer = send(browser, f"{PLAN}?client={client.id}", **wanted(lesson_type, room, count="401"))
    assert errors(answer.text) == {"count": "За один раз можно запланировать не больше 400 занятий."}


def test_in_the_network_a_branch_is_chosen_first(network: Any, web: Any) -> None:
    browser = web(network.owner)
    page = browser.get(PLAN).text
    assert "Сначала выберите филиал" in page
    assert f"{PLAN}?branch={network.mira.id}" in page
    room = make_room(network.mira, name="Зал на Мира")
    page = browser.get(f"{PLAN}?branch={network.mira.id}").text
    assert fields(page)["starts_on"] == "2026-11-30"
    assert room.name in page
