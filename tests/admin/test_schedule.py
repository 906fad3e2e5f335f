"""The calendar, the page of a lesson and groups, as staff work with them."""

from __future__ import annotations

import html
import re
from datetime import date, time, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.schedule.enrolment import seats_taken
from crm.schedule.groups import join_group, leave_group
from crm.schedule.models import Attendance, Booking, ClientGroup, GroupMember, LessonStatus, Mark
from crm.schedule.waiting import add_to_waiting_list
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import SubscriptionStatus
from tests.admin.world import errors, fields, send
from tests.factories import (
    make_child,
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_room,
    make_subject,
    make_subscription,
)

DAY = date(2026, 12, 7)  # a Monday
CALENDAR = "/admin/lesson/calendar/"


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.administrator, network.lesnoy)


def lesson_at(branch: Any, *clients: Any, day: date = DAY, at: time = time(10), **changes: Any) -> Any:
    return make_lesson(branch, *clients, starts_at=clock.at(day, at, branch), **changes)


def words(page: str) -> str:
    """The page's text, without the head and the menu."""
    main = page.partition('<main id="main"')[2]
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", main)).split())


def blocks(page: str, css: str = "les") -> list[str]:
    """Texts of the links of a class, each once, in the order of the page."""
    found = re.findall(rf'<a class="{css}[ "][^>]*>(.*?)</a>', page, re.DOTALL)
    return list(dict.fromkeys(" ".join(re.sub("<[^>]+>", " ", one).split()) for one in found))


# --- the calendar ---------------------------------------------------------------------------------------------------


def test_a_day_by_rooms_has_a_column_for_each(network: Any, browser: Any) -> None:
    blue = make_room(network.lesnoy, name="Синий зал", position=1)
    green = make_room(network.lesnoy, name="Зелёный зал", position=2)
    group = make_group(network.lesnoy, name="Старшие")
    lesson = lesson_at(
        network.lesnoy,
        make_client(network.lesnoy),
        at=time(9, 15),
        group=group,
        room=blue,
        instructor=network.employee,
        capacity=8,
    )
    with transaction():
        lesson.ends_at = lesson.starts_at + timedelta(minutes=90)
    page = browser.get(f"{CALENDAR}?span=day&by=room&day={DAY}").text
    assert "понедельник, 7 декабря 2026" in page
    columns = re.findall(r'<section class="cal-col[^"]*" aria-label="([^"]+)"', page)
    assert columns == ["Синий зал", "Зелёный зал"]
    [placed] = re.findall(r'<a class="les( h9[^"]*)"', page)
    assert placed == " h9 m15 u1 v30"  # a quarter past nine, an hour and a half
    assert "09:15 Старшие Вера Тренер 1/8" in blocks(page)
    assert f'href="/admin/lesson/details/?id={lesson.id}"' in page
    assert green.name in page


def test_a_day_by_instructors(network: Any, browser: Any) -> None:
    room = make_room(network.lesnoy, name="Синий зал")
    subject = make_subject(name="Плавание")
    lesson_at(network.lesnoy, instructor=network.employee, room=room, subject=subject)
    lesson_at(network.lesnoy, room=room, at=time(12))
    page = browser.get(f"{CALENDAR}?span=day&by=instructor&day={DAY}").text
    columns = re.findall(r'<section class="cal-col[^"]*" aria-label="([^"]+)"', page)
    assert columns == ["Вера Тренер", "Без инструктора"]
    assert any(text.startswith("10:00 Плавание Синий зал") for text in blocks(page))


def test_a_week_of_many_rooms_is_a_table_and_of_one_the_hours(network: Any, browser: Any) -> None:
    blue = make_room(network.lesnoy, name="Синий зал", position=1)
    green = make_room(network.lesnoy, name="Зелёный зал", position=2)
    lesson_at(network.lesnoy, room=blue)
    lesson_at(network.lesnoy, room=green, day=DAY + timedelta(days=6), at=time(23))
    lesson_at(network.lesnoy, room=green, day=DAY + timedelta(days=7))
    page = browser.get(f"{CALENDAR}?span=week&day={DAY + timedelta(days=3)}").text
    table = page.partition("cal-week")[2]
    assert re.findall(r'<th scope="row"><a[^>]*>([^<]+)</a>', table) == ["Синий зал", "Зелёный зал"]
    assert len(blocks(table)) == 2
    assert "7 декабря – 13 декабря 2026" in page
    one = browser.get(f"{CALENDAR}?span=week&day={DAY}&room={green.id}").text
    assert "cal-week" not in one
    assert len(re.findall('class="cal-col', one)) == 7
    assert len(blocks(one)) == 1


def test_a_month_is_a_list(network: Any, browser: Any) -> None:
    for day in (date(2027, 1, 1), date(2027, 1, 31)):
        lesson_at(network.lesnoy, day=day, at=time(0))
    lesson_at(network.lesnoy, day=date(2027, 2, 1), at=time(0))
    page = browser.get(f"{CALENDAR}?span=month&day=2027-01-31").text
    assert "январь 2027" in page
    assert "пятница, 1 января" in page
    assert "воскресенье, 31 января" in page
    assert "февраля" not in words(page)
    links = re.findall(r'href="([^"]+)" data-cal-(prev|next)', page)
    assert [re.findall("day=([0-9-]+)", url) for url, _side in links] == [["2026-12-01"], ["2027-02-01"]]


def test_days_before_and_after_and_today(network: Any, browser: Any) -> None:
    page = browser.get(f"{CALENDAR}?span=week&day=2026-12-31").text
    found = {
        side: re.findall("day=([0-9-]+)", url)[0] for url, side in re.findall(r'href="([^"]+)" data-cal-(\w+)', page)
    }
    assert found == {"prev": "2026-12-24", "today": clock.today(network.lesnoy).isoformat(), "next": "2027-01-07"}
    assert browser.get(f"{CALENDAR}?span=century&day=30-02&room=x&by=cat").status_code == 200


def test_filters_narrow_what_is_shown(network: Any, browser: Any) -> None:
    group, room, kind = make_group(network.lesnoy, name="Старшие"), make_room(network.lesnoy), make_lesson_type()
    lesson_at(network.lesnoy, group=group, room=room, lesson_type=kind, instructor=network.employee)
    lesson_at(network.lesnoy, at=time(18), room=make_room(network.lesnoy))
    week = f"{CALENDAR}?span=week&day={DAY}"
    assert {text.partition(" ")[0] for text in blocks(browser.get(week).text)} == {"10:00", "18:00"}
    for args in (f"group={group.id}", f"room={room.id}", f"type={kind.id}", f"instructor={network.employee.id}"):
        [only] = {text.partition(" ")[0] for text in blocks(browser.get(f"{week}&{args}").text)}
        assert only == "10:00", args


def test_a_free_time_leads_to_the_planning_form_filled_in(network: Any, browser: Any) -> None:
    room = make_room(network.lesnoy)
    day = clock.today(network.lesnoy) + timedelta(days=3)
    page = browser.get(f"{CALENDAR}?span=day&by=room&day={day}").text
    slots = [html.unescape(url) for url in re.findall(r'<a class="slot[^>]*href="([^"]+)"', page)]
    [url] = [url for url in slots if url.endswith("time=14:30")]
    assert f"room={room.id}&day={day}" in url
    form = fields(browser.get(url).text)
    assert (form["room"], form["starts_on"], form["time"]) == (str(room.id), day.isoformat(), "14:30")
    past = browser.get(f"{CALENDAR}?span=day&day={clock.today(network.lesnoy) - timedelta(days=1)}").text
    assert 'class="slot' not in past  # the past is planned by the director only


def test_the_past_is_free_for_who_may_plan_into_it_and_nothing_for_who_may_not_plan(network: Any, web: Any) -> None:
    make_room(network.lesnoy)
    past = f"{CALENDAR}?span=day&day={clock.today(network.lesnoy) - timedelta(days=1)}"
    assert 'class="slot' in web(network.director, network.lesnoy).get(past).text
    future = f"{CALENDAR}?span=day&day={clock.today(network.lesnoy) + timedelta(days=1)}"
    assert 'class="slot' not in web(network.manager, network.lesnoy).get(future).text


def test_bookings_holidays_and_closed_hours_are_shown(network: Any, browser: Any) -> None:
    room = make_room(network.lesnoy)
    with transaction():
        network.lesnoy.working_hours = {str(day): ["09:00", "20:00"] for day in range(6)}
        starts_at = clock.at(DAY, time(12), network.lesnoy)
        db.session.add(
            Booking(
                branch_id=network.lesnoy.id,
                room_id=room.id,
                starts_at=starts_at,
                ends_at=starts_at + timedelta(hours=2),
                comment="Съёмки",
            )
        )
    make_holiday(network.lesnoy, DAY + timedelta(days=1), name="Ремонт")
    lesson_at(network.lesnoy, room=room, at=time(21))
    page = browser.get(f"{CALENDAR}?span=day&day={DAY}").text
    booked = [text for text in blocks(page) if "Съёмки" in text]
    assert booked
    assert all(text.startswith("12:00 Бронь – 14:00") for text in booked)
    assert 'class="shut h20 m0 u2 v0"' in page  # after hours; a lesson is there all the same
    assert "09:00" in re.findall(r'<a class="slot[^>]*>([^<]+)<', page)
    assert "20:00" not in re.findall(r'<a class="slot[^>]*>([^<]+)<', page)
    week = words(browser.get(f"{CALENDAR}?span=week&day={DAY}").text)
    assert "вт 08.12 Ремонт" in week
    assert "вс 13.12 не работает" in week


def test_lessons_at_one_time_stand_side_by_side(network: Any, browser: Any) -> None:
    room = make_room(network.lesnoy)
    for minute in (0, 30):
        lesson_at(network.lesnoy, room=room, at=time(10, minute))
    lesson_at(network.lesnoy, room=room, at=time(11, 30))
    page = browser.get(f"{CALENDAR}?span=day&day={DAY}").text
    placed = [css.split() for css in re.findall(r'<a class="les (h1[^"]*)"', page)]
    assert [css[4:] for css in placed] == [["l0", "n2"], ["l1", "n2"], []]


def test_what_goes_on_past_midnight_ends_with_the_day(network: Any, browser: Any) -> None:
    lesson_at(network.lesnoy, room=make_room(network.lesnoy), at=time(23, 30))
    page = browser.get(f"{CALENDAR}?span=day&day={DAY}").text
    assert 'class="les h23 m30 u0 v30"' in page


def test_states_of_lessons_are_told(network: Any, browser: Any) -> None:
    room = make_room(network.lesnoy)
    lesson_at(network.lesnoy, room=room, status=LessonStatus.CANCELED)
    lesson_at(network.lesnoy, room=room, at=time(12), status=LessonStatus.HELD)
    lesson_at(network.lesnoy, make_client(network.lesnoy), room=room, at=time(15), capacity=1)
    page = browser.get(f"{CALENDAR}?span=day&day={DAY}").text
    assert any(text.startswith("10:00") and "Отменено" in text for text in blocks(page))
    assert any(text.startswith("12:00") and "Проведено" in text for text in blocks(page))
    assert '<span class="seats full">1/1</span>' in page


def test_the_name_of_who_has_a_lesson_alone(network: Any, browser: Any, web: Any) -> None:
    room = make_room(network.lesnoy)
    lesson_at(network.lesnoy, make_client(network.lesnoy, name="Берёзкина <Анна>"), room=room)
    page = browser.get(f"{CALENDAR}?span=day&day={DAY}").text
    assert "Берёзкина &lt;Анна&gt;" in page
    assert "<Анна>" not in page


def test_an_instructor_sees_his_own_lessons_alone(network: Any, web: Any) -> None:
    own = make_employee(network.lesnoy, name="Иван Свой", user_id=network.instructor.id)
    room = make_room(network.lesnoy)
    mine = lesson_at(network.lesnoy, room=room, instructor=own)
    other = lesson_at(network.lesnoy, room=room, at=time(15), instructor=network.employee)
    teacher = web(network.instructor, network.lesnoy)
    for view in ("day", "week", "month"):
        for by in ("room", "instructor"):
            page = teacher.get(f"{CALENDAR}?span={view}&by={by}&day={DAY}").text
            assert f"id={mine.id}" in page, (view, by)
            assert f"details/?id={other.id}" not in page, (view, by)
            assert "Вера Тренер" not in words(page)
    grid = teacher.get("/admin/lesson/").text
    assert f"details/?id={mine.id}" in grid
    assert f"details/?id={other.id}" not in grid
    assert teacher.get(f"/admin/lesson/details/?id={mine.id}").status_code == 200
    assert teacher.get(f"/admin/lesson/details/?id={other.id}").status_code == 404
    assert teacher.get(f"/admin/lesson/history/?id={other.id}").status_code == 404


def test_the_calendar_is_of_the_chosen_branch(network: Any, web: Any) -> None:
    make_room(network.mira, name="Самарский зал"), make_room(network.lesnoy, name="Лесной зал")
    lesson_at(network.mira, make_client(network.mira, name="Чужой Самарский"))
    page = words(web(network.administrator, network.lesnoy).get(f"{CALENDAR}?day={DAY}&branch={network.mira.id}").text)
    assert "Самарский" not in page
    page = web(network.owner).get(f"{CALENDAR}?day={DAY}&branch={network.mira.id}").text
    assert "Самарский зал" in page
    assert "Лесной зал" not in page
    assert f"branch={network.mira.id}" in page


def test_the_menu_begins_with_the_calendar(network: Any, browser: Any, web: Any) -> None:
    page = browser.get(CALENDAR).text
    section = page.partition(">Занятия</h2>")[2].partition("</ul>")[0]
    names = [text.strip() for text in re.findall(r"</i>\s*([^<]+)</a>", section)]
    assert names[:2] == ["Расписание", "Группы"]
    assert f'href="{CALENDAR}" aria-current="page"' in section
    assert web(network.support).get(CALENDAR).status_code == 403
    assert web().get(CALENDAR).location.startswith("/login")


# --- the page of a lesson -------------------------------------------------------------------------------------------


def test_somebody_is_found_and_enrolled_and_taken_off(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy, name="Берёзкина Анна")
    make_client(network.mira, name="Берёзкина Чужая")
    lesson = make_lesson(network.lesnoy, capacity=2)
    url = f"/admin/lesson/enrol/?id={lesson.id}"
    page = browser.get(f"{url}&q=берёзк").text
    assert "Чужая" not in page
    answer = browser.post(url, data={**fields(page), "client": str(client.id)})
    assert answer.location.endswith(f"/admin/lesson/details/?id={lesson.id}")
    page = words(browser.get(answer.location).text)
    assert "Клиент записан." in page
    assert "Записаны 1/2" in page
    assert "Берёзкина Анна" in page
    [row] = db.session.scalars(select(Attendance)).all()
    off = f"/admin/lesson/take-off/?id={lesson.id}&attendance={row.id}"
    assert "Снять клиента «Берёзкина Анна» с занятия?" in browser.get(off).text
    send(browser, off)
    db.session.refresh(row)
    assert row.mark is Mark.CANCELED


def test_what_is_left_is_what_the_card_counts(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    group, today = make_group(network.lesnoy), clock.today(network.lesnoy)
    with transaction():
        join_group(group, client, by=SYSTEM)
    lesson = make_lesson(network.lesnoy, client)
    plan = make_plan(lessons=4, duration_days=30)
    make_subscription(client, plan, starts_on=today - timedelta(days=30))
    make_subscription(client, plan, starts_on=today + timedelta(days=9))
    with transaction():
        make_subscription(client, plan).status = SubscriptionStatus.RETURNED
        frozen = make_subscription(client, plan, starts_on=today - timedelta(days=30))
        freeze_subscription(frozen, from_on=today - timedelta(days=1), by=SYSTEM)
    for url in (f"/admin/lesson/details/?id={lesson.id}", f"/admin/clientgroup/details/?id={group.id}"):
        assert "остаток: 8" in words(browser.get(url).text)


def test_who_waits_and_is_enrolled_already_is_not_offered(network: Any, browser: Any) -> None:
    anna, boris = make_client(network.lesnoy, name="Анна"), make_client(network.lesnoy, name="Борис")
    lesson = make_lesson(network.lesnoy, anna)
    with transaction():
        for client in (anna, boris):
            add_to_waiting_list(client, by=SYSTEM)
    panel = browser.get(f"/admin/lesson/details/?id={lesson.id}").text.partition('id="lesson-waiting"')[2]
    assert f'name="client" value="{boris.id}"' in panel
    assert f'name="client" value="{anna.id}"' not in panel
    with transaction():
        lesson.attendances[0].mark = Mark.CANCELED
    panel = browser.get(f"/admin/lesson/details/?id={lesson.id}").text.partition('id="lesson-waiting"')[2]
    assert f'name="client" value="{anna.id}"' in panel


@pytest.mark.spec("C45", "C46", "C47")
def test_why_somebody_cannot_be_enrolled_is_said(network: Any, browser: Any) -> None:
    client = make_client(network.lesnoy)
    full = make_lesson(network.lesnoy, make_client(network.lesnoy), capacity=1)
    closed = make_lesson(network.lesnoy, takes_nobody=True)
    there = make_lesson(network.lesnoy, client)
    said = []
    for lesson in (full, closed, there):
        answer = browser.post(f"/admin/lesson/enrol/?id={lesson.id}", data={"client": str(client.id)})
        assert answer.status_code == 422
        said.append(errors(answer.text)[""])
    assert "максимальное количество человек" in said[0]
    assert "никого" in said[1].lower()
    assert "уже записан" in said[2]
    assert seats_taken([full.id, closed.id, there.id]) == {full.id: 1, there.id: 1}
    assert browser.post(f"/admin/lesson/enrol/?id={there.id}", data={}).status_code == 422


def test_a_foreign_client_is_not_found(network: Any, browser: Any) -> None:
    lesson, foreign = make_lesson(network.lesnoy), make_client(network.mira)
    answer = browser.post(f"/admin/lesson/enrol/?id={lesson.id}", data={"client": str(foreign.id)})
    assert answer.status_code == 404
    assert db.session.scalars(select(Attendance)).all() == []


def test_the_page_leads_on_by_what_one_may(network: Any, web: Any) -> None:
    own = make_employee(network.lesnoy, user_id=network.instructor.id)
    lesson = make_lesson(network.lesnoy, make_client(network.lesnoy), instructor=own)
    url = f"/admin/lesson/details/?id={lesson.id}"
    desk = web(network.administrator, network.lesnoy).get(url).text
    for path in (f"{lesson.id}/marks/", "edit/?id=", "cancel/?id=", "enrol/?id=", "take-off/?id="):
        assert f"/admin/lesson/{path}" in desk, path
    teacher = web(network.instructor, network.lesnoy).get(url).text
    assert f"/admin/lesson/{lesson.id}/marks/" in teacher
    for path in ("edit/?id=", "cancel/?id=", "enrol/?id=", "take-off/?id="):
        assert f"/admin/lesson/{path}" not in teacher, path


def test_the_grid_of_lessons_has_filters_and_excel(network: Any, browser: Any) -> None:
    group = make_group(network.lesnoy, name="Старшие")
    lesson = make_lesson(network.lesnoy, make_client(network.lesnoy), group=group)
    make_lesson(network.lesnoy)
    page = browser.get(f"/admin/lesson/?f.group.is={group.id}").text
    assert re.findall(r"details/\?id=(\d+)", page) == [str(lesson.id)]
    assert browser.get("/admin/lesson/export/xlsx/").status_code == 200
    assert browser.get("/admin/lesson/?q=тема&sort=-starts_at").status_code == 200


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_is_added_changed_and_found(network: Any, browser: Any) -> None:
    kind, subject, room = make_lesson_type(), make_subject(), make_room(network.lesnoy)
    answer = send(
        browser,
        "/admin/clientgroup/new/",
        name="Английский, старшие",
        lesson_type=str(kind.id),
        subject=str(subject.id),
        room=str(room.id),
        instructor=str(network.employee.id),
        capacity="8",
    )
    assert answer.status_code == 302
    group = db.session.scalars(select(ClientGroup)).one()
    assert (group.branch_id, group.capacity, group.room_id) == (network.lesnoy.id, 8, room.id)
    answer = send(browser, f"/admin/clientgroup/edit/?id={group.id}", capacity="", name=" ")
    assert answer.status_code == 422
    assert "name" in errors(answer.text)
    send(browser, f"/admin/clientgroup/edit/?id={group.id}", capacity="10")
    db.session.refresh(group)
    assert (group.capacity, group.name) == (10, "Английский, старшие")
    assert "Английский, старшие" in browser.get("/admin/clientgroup/?q=английск").text
    answer = send(browser, "/admin/clientgroup/new/", name="Английский, старшие", lesson_type=str(kind.id))
    assert errors(answer.text) == {"name": "В филиале уже есть группа с таким названием."}


@pytest.mark.spec("C51")
def test_who_is_added_to_a_group_is_enrolled_and_the_page_tells(network: Any, browser: Any) -> None:
    group = make_group(network.lesnoy, capacity=1)
    client = make_client(network.lesnoy, name="Берёзкина Анна")
    lessons = [make_lesson(network.lesnoy, group=group, starts_at=clock.now() + timedelta(days=n)) for n in (1, 2, 3)]
    with transaction():
        lessons[2].takes_nobody = True
    url = f"/admin/clientgroup/add/?id={group.id}"
    page = browser.get(f"{url}&q=берёзк").text
    answer = browser.post(url, data={**fields(page), "client": str(client.id)})
    page = words(browser.get(answer.location).text)
    assert "Клиент в группе. Записан на 2 будущих занятия. Не записан на 1 занятие:" in page
    assert "В группе 1/1" in page
    assert seats_taken([lesson.id for lesson in lessons]) == {lessons[0].id: 1, lessons[1].id: 1}
    answer = browser.post(url, data={"client": str(make_client(network.lesnoy).id)})
    assert errors(answer.text) == {"": "В группе нет мест: не больше 1 чел."}


@pytest.mark.spec("C52")
def test_a_group_is_chosen_in_the_card_and_saved(network: Any, browser: Any) -> None:
    client = make_child(make_client(network.lesnoy))
    group, full = make_group(network.lesnoy, name="Старшие"), make_group(network.lesnoy, name="Полная", capacity=1)
    make_group(network.lesnoy, name="Архивная", is_archived=True)
    make_group(network.mira, name="Чужая")
    with transaction():
        join_group(full, make_client(network.lesnoy), by=SYSTEM)
    lesson = make_lesson(network.lesnoy, group=group)
    card = f"/admin/client/card/{client.id}/?tab=groups"
    page = browser.get(card).text
    options = re.findall(r"<option[^>]*>([^<]+)</option>", page.partition('name="group"')[2].partition("</select>")[0])
    assert options == ["—", "Полная (мест нет)", "Старшие"]
    [action] = re.findall(r'action="(/admin/clientgroup/join/[^"]+)"', page)
    answer = browser.post(action, data={"group": str(full.id)})
    assert answer.status_code == 422
    assert errors(answer.text) == {"group": "В группе нет мест: не больше 1 чел."}
    answer = browser.post(action, data={"group": str(group.id), "on": ""})
    assert answer.location.endswith(card)
    page = words(browser.get(card).text)
    assert "Записан на 1 будущее занятие." in page
    assert "Старшие" in page
    assert seats_taken([lesson.id]) == {lesson.id: 1}


@pytest.mark.spec("C53")
@pytest.mark.parametrize("where", ["card", "group"])
def test_the_cross_beside_it_takes_out_of_the_group(network: Any, browser: Any, where: str) -> None:
    client, group = make_client(network.lesnoy), make_group(network.lesnoy, name="Старшие")
    lesson = make_lesson(network.lesnoy, group=group)
    with transaction():
        join_group(group, client, by=SYSTEM)
    card, own = f"/admin/client/card/{client.id}/?tab=groups", f"/admin/clientgroup/details/?id={group.id}"
    page = browser.get(card if where == "card" else own).text
    [(action, form)] = re.findall(
        r'<form method="post" action="(/admin/clientgroup/leave/[^"]+)"(.*?)</form>', page, re.DOTALL
    )
    assert "bi-x-lg" in form
    assert 'title="Убрать из группы"' in form
    answer = browser.post(html.unescape(action))
    assert answer.location.endswith(card if where == "card" else own)
    assert "Снят с 1 будущего занятия." in words(browser.get(answer.location).text)
    assert seats_taken([lesson.id]) == {}
    assert db.session.scalars(select(GroupMember.left_on)).one() == clock.today(network.lesnoy)


def test_leaving_from_a_day_on_is_asked_for(network: Any, browser: Any) -> None:
    client, group = make_client(network.lesnoy), make_group(network.lesnoy)
    with transaction():
        member = join_group(group, client, by=SYSTEM).member
    url = f"/admin/clientgroup/leave/?id={group.id}&member={member.id}"
    assert fields(browser.get(url).text)["on"] == clock.today(network.lesnoy).isoformat()
    yesterday = clock.today(network.lesnoy) - timedelta(days=1)
    assert set(errors(send(browser, url, on=yesterday.isoformat()).text)) == {"on"}
    later = clock.today(network.lesnoy) + timedelta(days=9)
    send(browser, url, on=later.isoformat())
    db.session.refresh(member)
    assert member.left_on == later
    assert "до" in words(browser.get(f"/admin/clientgroup/details/?id={group.id}").text)


def test_foreign_groups_and_members_do_not_exist(network: Any, browser: Any) -> None:
    client, group = make_client(network.mira), make_group(network.mira)
    with transaction():
        member = join_group(group, client, by=SYSTEM).member
    own = make_client(network.lesnoy)
    assert browser.get(f"/admin/clientgroup/details/?id={group.id}").status_code == 404
    assert browser.post(f"/admin/clientgroup/leave/?id={group.id}&member={member.id}").status_code == 404
    assert (
        browser.post(f"/admin/clientgroup/join/?client={client.id}", data={"group": str(group.id)}).status_code == 404
    )
    answer = browser.post(f"/admin/clientgroup/join/?client={own.id}", data={"group": str(group.id)})
    assert answer.status_code == 422
    db.session.refresh(member)
    assert member.left_on is None


def test_an_instructor_looks_at_groups_and_changes_nothing(network: Any, web: Any) -> None:
    client, group = make_client(network.lesnoy), make_group(network.lesnoy)
    with transaction():
        member = join_group(group, client, by=SYSTEM).member
    teacher = web(network.instructor, network.lesnoy)
    page = teacher.get(f"/admin/clientgroup/details/?id={group.id}").text
    assert client.name in page
    assert "bi-x-lg" not in page
    assert teacher.post(f"/admin/clientgroup/leave/?id={group.id}&member={member.id}").status_code == 403
    assert teacher.post(f"/admin/clientgroup/add/?id={group.id}", data={"client": str(client.id)}).status_code == 403


def test_who_left_is_no_longer_in_the_list(network: Any, browser: Any) -> None:
    client, group = make_client(network.lesnoy, name="Ушедший Пётр"), make_group(network.lesnoy)
    with transaction():
        leave_group(join_group(group, client, by=SYSTEM).member, by=SYSTEM)
    assert (
        "Ушедший" not in words(browser.get(f"/admin/clientgroup/details/?id={group.id}").text).partition("История")[0]
    )
    assert "не состоит" in browser.get(f"/admin/client/card/{client.id}/?tab=groups").text
