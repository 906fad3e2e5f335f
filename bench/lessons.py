"""Lessons: planning ten thousand, marking a group, the week of a large branch, the card of a client of many years."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

import flask_migrate
from sqlalchemy import select, text

from bench.contestants import Contestant, Outcome, Skill, browser, getting
from bench.databases import Place
from bench.kontora import application
from bench.report import Check, figure_line, within
from bench.sizes import LESSON_PAGE_SECONDS
from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, Employee, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.catalogue.models import LessonFormat, LessonType, Room
from crm.clients.models import Client
from crm.clients.operations import create_client
from crm.db import db, insert_rows, transaction
from crm.demo import load_demo
from crm.ledger.queries import check_ledger
from crm.schedule.attendance import hold_lesson, mark_attendance
from crm.schedule.groups import join_group
from crm.schedule.models import Attendance, ClientGroup, Lesson, LessonStatus, Mark
from crm.schedule.planning import LessonPlan, plan_lessons
from crm.schedule.recurrence import Recurrence, RepeatUnit
from crm.subscriptions.models import Plan
from crm.subscriptions.operations import sell_subscription

TURNS = 9
# Turns before those that are timed: psycopg prepares a statement when it comes the sixth time on a connection, and a
# server that has run for a minute is past that.
WARM_UP = 6
WEEKDAY_HOURS = range(8, 20)
FOR_INFORMATION = {"lessons planned", "attendance, a month", "load of rooms, a week"}


@dataclass(frozen=True)
class School:
    """How large: lessons a week, people in the group that is marked, years of the old client, lessons planned."""

    weekly: int
    group: int
    years: float
    planned: int


FEW, MANY = School(200, 3, 0.5, 100), School(2000, 30, 5, 10_000)


def lessons(place: Place) -> Iterator[str]:
    """Lines of the report, on both databases, each at two sizes: as many statements at both."""
    with ExitStack() as stack:
        for system in ("SQLite", "PostgreSQL"):
            measured = []
            for size in (FEW, MANY):
                name = f"kontora_bench_lessons_{size.weekly}"
                url = place.sqlite(name) if system == "SQLite" else stack.enter_context(place.postgresql(name))
                with Contestant(school, url, place.home, size) as contestant:
                    measured.append(_measure(contestant))
            yield f"\n{system}, {FEW.weekly} and {MANY.weekly:,} lessons a week: median of {TURNS}, slowest"
            few, many = measured
            for what, turns in many.items():
                yield _line(what, few[what], turns)


def _measure(contestant: Contestant) -> dict[str, list[Outcome]]:
    known: dict[str, str] = json.loads(contestant.run("prepared").content)
    pages = {
        "week view": known["week"],
        "day view": known["day"],
        "page of marks": known["marks"],
        "card of the old client": known["card"],
        "  his lessons": known["card_lessons"],
        "  his subscriptions": known["card_subscriptions"],
        "attendance, a month": known["attendance"],
        "load of rooms, a week": known["rooms"],
    }
    found = {}
    for name, path in pages.items():
        found[name] = [contestant.run("get", path) for _turn in range(WARM_UP + TURNS)][WARM_UP:]
    found["marks of the group saved"] = [contestant.run("mark", turn) for turn in range(WARM_UP + TURNS)][WARM_UP:]
    found["lessons planned"] = [contestant.run("plan", turn) for turn in range(3)]
    contestant.run("proof")
    return found


def _line(what: str, few: list[Outcome], turns: list[Outcome]) -> str:
    seconds = [turn.seconds for turn in turns]
    counts = max(turn.queries for turn in few), max(turn.queries for turn in turns)
    checks: list[Check] = [within("SQL more than among few", counts[1] - counts[0], at_most=0)]
    if what not in FOR_INFORMATION:
        checks.insert(0, within("ms", median(seconds) * 1000, at_most=LESSON_PAGE_SECONDS * 1000))
    figures = f"{median(seconds) * 1000:.0f} ms, {max(seconds) * 1000:.0f} ms, {counts[0]} : {counts[1]} SQL"
    return figure_line(what, figures, *checks)


# --- the contestant ---------------------------------------------------------------------------------------------------


def school(url: str, home: Path, size: School) -> Mapping[str, Skill]:
    """A branch of this size, made if the database is empty: get(path), mark(turn), plan(turn), prepared(), proof()."""
    app = application(url, home)
    app.config["WTF_CSRF_ENABLED"] = False
    with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
        flask_migrate.upgrade()
        if db.session.scalar(select(User.id).limit(1)) is None:
            load_demo(clients=0, bills=0)
            with transaction():
                _fill(size)
            db.session.remove()
            with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("ANALYZE"))
        owner = db.session.scalars(select(User).where(User.email == "owner@demo.test")).one()
        session_user, branch_id = owner.get_id(), db.session.scalars(select(Branch.id).order_by(Branch.id)).first()
        group = db.session.scalars(select(ClientGroup).where(ClientGroup.name == MARKED)).one()
        lesson = db.session.scalars(select(Lesson).where(Lesson.group_id == group.id).order_by(Lesson.id)).first()
        assert lesson is not None
        lesson_id, attendances = lesson.id, [one.id for one in lesson.attendances]
        old = db.session.scalars(select(Client.id).where(Client.comment == OLD)).one()
        db.session.remove()
    client = browser(app, session={"_user_id": session_user, "_fresh": True, "branch_id": branch_id})
    marks = f"/admin/lesson/{lesson_id}/marks/"

    def prepared() -> bytes:
        today = date.today()
        month = f"from={today - timedelta(days=27)}&to={today}"
        card = f"/admin/client/card/{old}/"
        return json.dumps(
            {
                "week": f"/admin/lesson/calendar/?span=week&day={today}",
                "day": f"/admin/lesson/calendar/?span=day&day={today}",
                "marks": marks,
                "card": card,
                "card_lessons": f"{card}?tab=planned",
                "card_subscriptions": f"{card}?tab=subscriptions",
                "attendance": f"/admin/attendancereport/?{month}",
                "rooms": "/admin/roomload/?period=this_week",
            }
        ).encode()

    def mark(turn: int) -> bytes:
        """Everybody came, then nobody was written off, in turns."""
        with app.app_context(), scoped_to(EVERYWHERE):
            versions = select(Attendance.id, Attendance.version).where(Attendance.id.in_(attendances))
            seen = {f"seen-{id}": str(version) for id, version in db.session.execute(versions)}
            db.session.remove()
        value = Mark.EXCUSED.value if turn % 2 else Mark.PRESENT.value
        sent = {f"mark-{id}": value for id in attendances}
        with client.post(marks, data={**seen, **sent}) as response:
            if response.status_code != 302:
                raise RuntimeError(f"{marks}: {response.status}")
        return b""

    def plan(turn: int) -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"), transaction():
            branch = db.session.get_one(Branch, branch_id)
            planned = db.session.scalars(select(ClientGroup).where(ClientGroup.name == MARKED)).one()
            begins = clock.today(branch) + timedelta(days=60)
            rule = Recurrence(begins, time(2 + turn), 30, unit=RepeatUnit.DAY, count=size.planned)
            done = plan_lessons(LessonPlan(branch, rule, planned.lesson_type, takes_nobody=True), by=SYSTEM)
            if done.count != size.planned:
                raise RuntimeError(f"{done.count} lessons planned of {size.planned}")
        return b""

    def proof() -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE):
            if problems := check_ledger():
                raise RuntimeError(f"the ledger check found {problems[:3]}")
        return b""

    return {"get": getting(client), "mark": mark, "plan": plan, "prepared": prepared, "proof": proof}


MARKED, OLD = "Группа для отметки", "давний клиент"


def _fill(size: School) -> None:
    """A branch that never closes: weeks of lessons, a group to be marked today, a client of so many years."""
    branch = db.session.scalars(select(Branch).order_by(Branch.id)).first()
    assert branch is not None
    branch.working_hours = {}
    lesson_type = db.session.scalars(select(LessonType).where(LessonType.format == LessonFormat.GROUP)).first()
    assert lesson_type is not None
    plan = Plan(name="200 занятий", price=Decimal(90000), lessons=200, duration_days=400)
    db.session.add(plan)
    people = [
        create_client(branch=branch, name=f"Ученик {number:03d}", phone=f"+7999{number:07d}", by=SYSTEM)
        for number in range(max(size.group, 10))
    ]
    db.session.flush()
    _weeks(branch, lesson_type, size, [person.id for person in people])
    group = ClientGroup(branch_id=branch.id, name=MARKED, lesson_type=lesson_type)
    db.session.add(group)
    db.session.flush()
    today = clock.today(branch)
    for person in people[: size.group]:
        join_group(group, person, by=SYSTEM)
        sell_subscription(person, plan, starts_on=today, by=SYSTEM)
    rule = Recurrence(today, time(23), 45, count=1)
    plan_lessons(LessonPlan(branch, rule, lesson_type, group=group), by=SYSTEM)
    _years(branch, lesson_type, plan, size.years)


def _weeks(branch: Branch, lesson_type: LessonType, size: School, people: list[int]) -> None:
    """Five weeks back and one on, each lesson with a room, an instructor and, once it is over, five who came."""
    rooms = [Room(branch_id=branch.id, name=f"Зал {number}") for number in range(max(4, size.weekly // 60))]
    instructors = [Employee(name=f"Инструктор {number}", branch_id=branch.id) for number in range(len(rooms))]
    db.session.add_all([*rooms, *instructors])
    db.session.flush()
    monday = clock.today(branch) - timedelta(days=clock.today(branch).weekday())
    now, rows = clock.now(), []
    for week in range(-5, 2):
        for number in range(size.weekly):
            room, slot = number % len(rooms), number // len(rooms)
            day = monday + timedelta(weeks=week, days=slot % 7)
            starts_at = clock.at(day, time(WEEKDAY_HOURS[slot // 7 % len(WEEKDAY_HOURS)]), branch)
            rows.append(
                {
                    "branch_id": branch.id,
                    "lesson_type_id": lesson_type.id,
                    "room_id": rooms[room].id,
                    "instructor_id": instructors[room].id,
                    "starts_at": starts_at,
                    "ends_at": starts_at + timedelta(minutes=45),
                    "takes_nobody": False,
                    "topic": "",
                    "status": LessonStatus.HELD if starts_at < now else LessonStatus.PLANNED,
                    "created_at": now,
                    "version": 1,
                }
            )
    insert_rows(Lesson, rows)
    over = db.session.scalars(select(Lesson.id).where(Lesson.status == LessonStatus.HELD)).all()
    insert_rows(
        Attendance,
        [
            {
                "branch_id": branch.id,
                "lesson_id": lesson_id,
                "client_id": people[(number + place) % len(people)],
                "mark": Mark.EXCUSED,  # nothing is written off: the books stay those of the operations
                "is_trial": False,
                "by_group": False,
                "created_at": now,
                "version": 1,
            }
            for number, lesson_id in enumerate(over)
            for place in range(min(5, len(people)))
        ],
    )


def _years(branch: Branch, lesson_type: LessonType, plan: Plan, years: float) -> None:
    """Two lessons a week, each marked; a subscription a year."""
    days = int(years * 365)
    begins = clock.today(branch) - timedelta(days=days)
    with clock.frozen(datetime.combine(begins, time(0), UTC)):
        client = create_client(branch=branch, name="Давний Клиент", phone="+79998887766", comment=OLD, by=SYSTEM)
    for first in range(0, days, 350):
        with clock.frozen(datetime.combine(begins + timedelta(days=first), time(6), UTC)):
            sell_subscription(client, plan, starts_on=clock.today(branch), by=SYSTEM)
    for day in (begins + timedelta(days=number) for number in range(1, days)):
        if day.weekday() not in (1, 4):
            continue
        with clock.frozen(clock.at(day, time(22), branch)):
            starts_at = clock.at(day, time(21), branch)
            lesson = Lesson(
                branch_id=branch.id,
                lesson_type_id=lesson_type.id,
                starts_at=starts_at,
                ends_at=starts_at + timedelta(minutes=45),
                created_at=starts_at,
            )
            db.session.add(lesson)
            db.session.flush()
            expected = Attendance(
                branch_id=branch.id, lesson=lesson, client_id=client.id, created_at=starts_at, author_id=None
            )
            db.session.add(expected)
            db.session.flush()
            mark_attendance(lesson, {expected.id: Mark.PRESENT}, by=SYSTEM)
            hold_lesson(lesson, by=SYSTEM)
            db.session.expunge(expected)
