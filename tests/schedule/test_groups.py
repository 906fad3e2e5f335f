"""Groups: their facts, who is in them, and what joining and leaving do to lessons."""

from __future__ import annotations

import time as pause
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.audit.models import AuditAction, AuditEntry
from crm.clients.models import Client
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.schedule import archiving
from crm.schedule.enrolment import enrol, seats_taken, take_off
from crm.schedule.groups import change_group, create_group, enrol_members, join_group, leave_group
from crm.schedule.models import Attendance, ClientGroup, GroupMember, Lesson, LessonStatus, Mark, Waiting
from tests import factories
from tests.factories import (
    make_client,
    make_employee,
    make_lesson_type,
    make_room,
    make_subject,
)


def make_group(branch: Any, *clients: Any, **changes: Any) -> ClientGroup:
    """A group with these clients in it from today."""
    group = factories.make_group(branch, **changes)
    with transaction():
        for client in clients:
            join_group(group, client, by=SYSTEM)
    return group


def make_lesson(branch: Any, *, day: date | None = None, at: time = time(10), **changes: Any) -> Lesson:
    """A planned lesson of an hour, tomorrow at ten by the branch's clock."""
    day = day or clock.today(branch) + timedelta(days=1)
    facts = {"starts_at": clock.at(day, at, branch), **changes}
    if "group" in facts:
        facts["lesson_type"], facts["instructor"] = facts["group"].lesson_type, facts["group"].instructor
    return factories.make_lesson(branch, **facts)


def marks_of(client: Any) -> dict[int, Mark]:
    """{lesson id: mark} of a client."""
    query = select(Attendance.lesson_id, Attendance.mark).where(Attendance.client_id == client.id)
    return dict(iter(db.session.execute(query)))


def member_of(group: Any, client: Any) -> GroupMember:
    query = select(GroupMember).where(GroupMember.group_id == group.id, GroupMember.client_id == client.id)
    return db.session.scalars(query.order_by(GroupMember.id.desc())).first()  # type: ignore[return-value]


def statements(function: Any) -> int:
    """How many statements a call sends to the database."""
    count = 0

    def note(*_args: Any) -> None:
        nonlocal count
        count += 1

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        function()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    return count


# --- facts ----------------------------------------------------------------------------------------------------------


def test_a_group_is_created_and_changed(network: Any) -> None:
    lesson_type, subject, room = make_lesson_type(), make_subject(), make_room(network.lesnoy)
    with transaction():
        group = create_group(
            network.lesnoy,
            name="  Английский,   младшие ",
            lesson_type=lesson_type,
            subject=subject,
            room=room,
            instructor=network.employee,
            capacity=8,
            by=network.administrator,
        )
    assert (group.name, group.branch_id, group.capacity) == ("Английский, младшие", network.lesnoy.id, 8)
    assert (group.lesson_type, group.subject, group.room, group.instructor) == (
        lesson_type,
        subject,
        room,
        network.employee,
    )
    with transaction():
        change_group(group, capacity=None, is_archived=True, by=network.administrator)
    assert (group.capacity, group.is_archived, group.name) == (None, True, "Английский, младшие")


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"name": "  "}, "name"),
        ({"name": "Плавание"}, "name"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": -3}, "capacity"),
        ({"capacity": 10_001}, "capacity"),
        ({"lesson_type": None}, "lesson_type"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(network: Any, facts: dict[str, Any], field: str) -> None:
    make_group(network.lesnoy, name="Плавание")
    make_group(network.mira, name="Другая")
    good = {"name": "Новая", "lesson_type": make_lesson_type()}
    with pytest.raises(DomainError) as refused, transaction():
        create_group(network.lesnoy, **good | facts, by=SYSTEM)
    assert refused.value.field == field
    other = make_group(network.lesnoy, name="Новая")
    with pytest.raises(DomainError) as refused, transaction():
        change_group(other, **facts, by=SYSTEM)
    assert refused.value.field == field


def test_rooms_and_instructors_are_of_the_branch_and_in_use(network: Any) -> None:
    group = make_group(network.lesnoy, instructor=network.employee)
    for facts in (
        {"room": make_room(network.mira)},
        {"room": make_room(network.lesnoy, is_archived=True)},
        {"instructor": make_employee(network.mira)},
        {"instructor": make_employee(network.lesnoy, is_active=False)},
        {"instructor": make_employee(network.lesnoy, teaches=False)},
        {"subject": make_subject(is_archived=True)},
        {"lesson_type": make_lesson_type(is_archived=True)},
    ):
        with pytest.raises(DomainError) as refused, transaction():
            change_group(group, **facts, by=SYSTEM)
        assert refused.value.field == next(iter(facts))
    network.employee.is_active = False
    db.session.commit()
    with transaction():  # who has left stays where he was
        change_group(group, instructor=network.employee, comment="Прежний", by=SYSTEM)


def test_nobody_is_put_out_by_a_smaller_capacity(network: Any) -> None:
    group = make_group(network.lesnoy, make_client(network.lesnoy), make_client(network.lesnoy))
    with pytest.raises(DomainError) as refused, transaction():
        change_group(group, capacity=1, by=SYSTEM)
    assert (refused.value.code, refused.value.field) == ("capacity_taken", "capacity")
    with transaction():
        change_group(group, capacity=2, by=SYSTEM)


def test_only_who_may(network: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    with pytest.raises(Forbidden):
        create_group(network.lesnoy, name="Ещё", lesson_type=group.lesson_type, by=network.instructor)
    with pytest.raises(Forbidden):
        join_group(group, client, by=network.instructor)
    with transaction():
        member = join_group(group, client, by=network.administrator).member
    with pytest.raises(Forbidden):
        leave_group(member, by=network.manager)
    assert member.author_id == network.administrator.id


# --- joining --------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C51")
def test_who_joins_is_enrolled_in_the_lessons_to_come(network: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    today = clock.today(network.lesnoy)
    past = make_lesson(network.lesnoy, group=group, day=today - timedelta(days=1))
    first, second = (make_lesson(network.lesnoy, group=group, day=today + timedelta(days=n)) for n in (1, 8))
    canceled = make_lesson(network.lesnoy, group=group, status=LessonStatus.CANCELED)
    held = make_lesson(network.lesnoy, group=group, status=LessonStatus.HELD)
    other = make_lesson(network.lesnoy, group=make_group(network.lesnoy))
    with transaction():
        joined = join_group(group, client, by=network.administrator)
    assert marks_of(client) == {first.id: Mark.PLANNED, second.id: Mark.PLANNED}
    assert (joined.lessons, list(joined.left_out), joined.member.joined_on) == (2, [], today)
    assert {past.id, canceled.id, held.id, other.id}.isdisjoint(marks_of(client))
    rows = db.session.scalars(select(Attendance).where(Attendance.client_id == client.id)).all()
    assert all(row.by_group and row.author_id == network.administrator.id for row in rows)
    audited = select(AuditEntry).where(AuditEntry.entity == "group_member", AuditEntry.action == AuditAction.CREATE)
    assert [entry.entity_id for entry in db.session.scalars(audited)] == [joined.member.id]


@pytest.mark.spec("C46")
def test_full_lessons_and_those_that_take_nobody_are_left_out_and_told(network: Any) -> None:
    group = make_group(network.lesnoy, capacity=5)
    open_one = make_lesson(network.lesnoy, group=group)
    closed = make_lesson(network.lesnoy, group=group, takes_nobody=True)
    full = make_lesson(network.lesnoy, group=group, capacity=1)
    with transaction():
        enrol(full, make_client(network.lesnoy), by=SYSTEM)
    client = make_client(network.lesnoy)
    with transaction():
        joined = join_group(group, client, by=SYSTEM)
    assert marks_of(client) == {open_one.id: Mark.PLANNED}
    told = {left.lesson.id: left.reason for left in joined.left_out}
    assert told.keys() == {closed.id, full.id}
    assert told[closed.id] != told[full.id]
    assert "1" in told[full.id]


def test_a_lesson_of_today_that_has_begun_is_past(network: Any) -> None:
    """Midnight in Samara is an hour before Moscow's."""
    with clock.frozen(datetime(2026, 12, 31, 20, 30, tzinfo=UTC)):  # 00:30 of 1 January in Samara
        group, client = make_group(network.mira), make_client(network.mira)
        begun = make_lesson(network.mira, group=group, starts_at=datetime(2026, 12, 31, 20, 0, tzinfo=UTC))
        soon = make_lesson(network.mira, group=group, starts_at=datetime(2026, 12, 31, 21, 0, tzinfo=UTC))
        with transaction():
            member = join_group(group, client, by=SYSTEM).member
        assert member.joined_on == date(2027, 1, 1)
        assert marks_of(client) == {soon.id: Mark.PLANNED}
        assert begun.id not in marks_of(client)


def test_joining_on_a_day_to_come(network: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    today = clock.today(network.lesnoy)
    make_lesson(network.lesnoy, group=group, day=today + timedelta(days=3), at=time(23, 30))
    after = make_lesson(network.lesnoy, group=group, day=today + timedelta(days=4), at=time(0, 0))
    with transaction():
        join_group(group, client, on=today + timedelta(days=4), by=SYSTEM)
    assert marks_of(client) == {after.id: Mark.PLANNED}
    with pytest.raises(DomainError) as refused:
        join_group(group, make_client(network.lesnoy), on=today - timedelta(days=1), by=SYSTEM)
    assert refused.value.field == "on"


def test_who_cannot_join(network: Any) -> None:
    client, archived = make_client(network.lesnoy), make_client(network.lesnoy)
    group = make_group(network.lesnoy, client)
    with transaction():
        archive_client(archived, by=SYSTEM)
    for person, code in ((client, "member_already"), (archived, "client_archived")):
        with pytest.raises(DomainError) as refused:
            join_group(group, person, by=SYSTEM)
        assert refused.value.code == code
    with pytest.raises(DomainError) as refused:
        join_group(group, make_client(network.mira), by=SYSTEM)
    assert refused.value.code == "client_elsewhere"
    with transaction():
        change_group(group, is_archived=True, by=SYSTEM)
    with pytest.raises(DomainError) as refused:
        join_group(group, make_client(network.lesnoy), by=SYSTEM)
    assert refused.value.code == "group_archived"


def test_who_is_enrolled_by_hand_already_stays_as_he_is(network: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    lesson = make_lesson(network.lesnoy, group=group, capacity=1)
    with transaction():
        enrol(lesson, client, by=SYSTEM)
        joined = join_group(group, client, by=SYSTEM)
    assert (joined.lessons, list(joined.left_out)) == (0, [])
    with transaction():
        leave_group(joined.member, by=SYSTEM)
    assert marks_of(client) == {lesson.id: Mark.PLANNED}


def test_who_joins_waits_no_longer_for_its_instructor(network: Any) -> None:
    client, patient = make_client(network.lesnoy), make_client(network.lesnoy)
    group = make_group(network.lesnoy, instructor=network.employee)
    make_lesson(network.lesnoy, group=group)
    other = make_employee(network.lesnoy)
    for person, instructor in ((client, network.employee), (patient, other)):
        db.session.add(
            Waiting(branch_id=network.lesnoy.id, client_id=person.id, instructor_id=instructor.id, added_at=clock.now())
        )
    db.session.commit()
    with transaction():
        join_group(group, client, by=SYSTEM)
        join_group(group, patient, by=SYSTEM)
    assert [row.client_id for row in db.session.scalars(select(Waiting))] == [patient.id]


def test_of_two_who_take_the_last_place_one_wins(network: Any, in_parallel: Any) -> None:
    group = make_group(network.lesnoy, capacity=1)
    lesson = make_lesson(network.lesnoy, group=group, capacity=5)
    clients = [make_client(network.lesnoy).id for _ in range(4)]
    group_id, lesson_id = group.id, lesson.id

    def join(index: int) -> int:
        with transaction():
            found = db.session.get_one(ClientGroup, group_id)
            return join_group(found, db.session.get_one(Client, clients[index]), by=SYSTEM).lessons

    results = in_parallel(join, 4)
    refused = [result for result in results if isinstance(result, Exception)]
    assert [result for result in results if not isinstance(result, Exception)] == [1]
    assert {type(error) for error in refused} == {Conflict}
    assert {error.code for error in refused} == {"group_full"}
    assert "1" in str(refused[0])
    db.session.expire_all()
    assert seats_taken([lesson_id]) == {lesson_id: 1}
    assert db.session.scalar(select(func.count()).select_from(GroupMember)) == 1


def test_the_last_place_of_a_lesson_is_one_persons(network: Any, in_parallel: Any) -> None:
    """One joins the group, another is enrolled by hand at the same moment."""
    group = make_group(network.lesnoy)
    lesson_id = make_lesson(network.lesnoy, group=group, capacity=1).id
    group_id, ids = group.id, [make_client(network.lesnoy).id for _ in range(4)]

    def take(index: int) -> str:
        with transaction():
            client = db.session.get_one(Client, ids[index])
            if index % 2:
                enrol(db.session.get_one(Lesson, lesson_id), client, by=SYSTEM)
                return "enrolled"
            joined = join_group(db.session.get_one(ClientGroup, group_id), client, by=SYSTEM)
            return "enrolled" if joined.lessons else "left out"

    results = in_parallel(take, 4)
    assert results.count("enrolled") == 1
    assert all(isinstance(result, str) or result.code == "lesson_full" for result in results)
    assert seats_taken([lesson_id]) == {lesson_id: 1}


def test_a_place_given_up_from_a_day_is_free_from_that_day(network: Any) -> None:
    first, second = make_client(network.lesnoy), make_client(network.lesnoy)
    group = make_group(network.lesnoy, first, capacity=1)
    later = clock.today(network.lesnoy) + timedelta(days=10)
    with transaction():
        leave_group(member_of(group, first), on=later, by=SYSTEM)
    with pytest.raises(Conflict):
        join_group(group, second, by=SYSTEM)
    db.session.rollback()
    with transaction():
        join_group(group, second, on=later, by=SYSTEM)


# --- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C53")
def test_who_leaves_is_taken_off_the_lessons_to_come_only(network: Any) -> None:
    group, client, stays = make_group(network.lesnoy), make_client(network.lesnoy), make_client(network.lesnoy)
    now, today = clock.now(), clock.today(network.lesnoy)
    with clock.frozen(now - timedelta(days=20)):
        past = make_lesson(network.lesnoy, group=group, day=today - timedelta(days=7))
        future = make_lesson(network.lesnoy, group=group, day=today + timedelta(days=7))
        marked = make_lesson(network.lesnoy, group=group, day=today + timedelta(days=8))
        with transaction():
            member = join_group(group, client, by=SYSTEM).member
            join_group(group, stays, by=SYSTEM)
    row = db.session.scalars(select(Attendance).filter_by(lesson_id=marked.id, client_id=client.id)).one()
    row.mark = Mark.EXCUSED
    db.session.commit()
    with transaction():
        left = leave_group(member, by=network.administrator)
    assert left.lessons == 1
    assert marks_of(client) == {past.id: Mark.PLANNED, future.id: Mark.CANCELED, marked.id: Mark.EXCUSED}
    assert set(marks_of(stays).values()) == {Mark.PLANNED}
    assert member.left_on == today
    assert seats_taken([future.id]) == {future.id: 1}
    line = select(AuditEntry).where(AuditEntry.entity == "attendance", AuditEntry.action == AuditAction.UPDATE)
    assert ["planned", "canceled"] in [entry.changes["mark"] for entry in db.session.scalars(line)]
    with pytest.raises(Conflict):
        leave_group(member, by=SYSTEM)


def test_leaving_from_a_day_on(network: Any) -> None:
    client = make_client(network.lesnoy)
    group = make_group(network.lesnoy)
    today = clock.today(network.lesnoy)
    before = make_lesson(network.lesnoy, group=group, day=today + timedelta(days=4), at=time(23))
    after = make_lesson(network.lesnoy, group=group, day=today + timedelta(days=5), at=time(0))
    with transaction():
        member = join_group(group, client, by=SYSTEM).member
        leave_group(member, on=today + timedelta(days=5), by=SYSTEM)
    assert marks_of(client) == {before.id: Mark.PLANNED, after.id: Mark.CANCELED}
    with pytest.raises(DomainError) as refused:
        leave_group(member, on=today - timedelta(days=1), by=SYSTEM)
    assert refused.value.field == "on"


def test_who_comes_back_is_enrolled_again(network: Any) -> None:
    client = make_client(network.lesnoy)
    group = make_group(network.lesnoy)
    lesson = make_lesson(network.lesnoy, group=group)
    with transaction():
        first = join_group(group, client, by=SYSTEM).member
        leave_group(first, by=SYSTEM)
    with transaction():
        again = join_group(group, client, by=SYSTEM)
    assert (again.lessons, marks_of(client)) == (1, {lesson.id: Mark.PLANNED})
    assert again.member.id != first.id


def test_a_foreign_group_does_not_exist(network: Any) -> None:
    from crm.access.scope import Scope, scoped_to

    client = make_client(network.mira)
    group = make_group(network.mira, client)
    member = member_of(group, client)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        leave_group(member, by=network.administrator)


# --- newly planned lessons ------------------------------------------------------------------------------------------


@pytest.mark.spec("C51")
def test_new_lessons_of_a_group_have_its_members_of_the_day(network: Any) -> None:
    stays, leaves, comes = (make_client(network.lesnoy) for _ in range(3))
    group = make_group(network.lesnoy, stays, leaves)
    today = clock.today(network.lesnoy)
    with transaction():
        leave_group(member_of(group, leaves), on=today + timedelta(days=10), by=SYSTEM)
        join_group(group, comes, on=today + timedelta(days=10), by=SYSTEM)
    early, late = (make_lesson(network.lesnoy, group=group, day=today + timedelta(days=n)) for n in (9, 10))
    closed = make_lesson(network.lesnoy, group=group, takes_nobody=True)
    alone = make_lesson(network.lesnoy)
    with transaction():
        assert enrol_members([early, late, closed, alone], by=network.administrator) == []
    assert marks_of(stays) == {early.id: Mark.PLANNED, late.id: Mark.PLANNED}
    assert marks_of(leaves) == {early.id: Mark.PLANNED}
    assert marks_of(comes) == {late.id: Mark.PLANNED}
    with transaction():  # twice is once
        enrol_members([early, late], by=SYSTEM)
    assert seats_taken([early.id, late.id]) == {early.id: 2, late.id: 2}


def test_a_lesson_smaller_than_its_group_has_those_who_came_first(network: Any) -> None:
    first, second = make_client(network.lesnoy), make_client(network.lesnoy)
    group = make_group(network.lesnoy, first, second)
    lesson = make_lesson(network.lesnoy, group=group, capacity=1)
    with transaction():
        [left] = enrol_members([lesson], by=SYSTEM)
    assert (left.lesson.id, left.client_id) == (lesson.id, second.id)
    assert marks_of(first) == {lesson.id: Mark.PLANNED}


def test_archived_clients_are_not_enrolled(network: Any) -> None:
    client = make_client(network.lesnoy)
    group = make_group(network.lesnoy, client)
    with transaction():
        archive_client(client, by=SYSTEM)
    lesson = make_lesson(network.lesnoy, group=group)
    with transaction():
        assert enrol_members([lesson], by=SYSTEM) == []
    assert marks_of(client) == {}


def lessons_of(network: Any, group: Any, count: int) -> list[Lesson]:
    first = clock.now() + timedelta(days=1)
    lessons = [
        Lesson(
            branch_id=network.lesnoy.id,
            group=group,
            lesson_type=group.lesson_type,
            starts_at=first + timedelta(hours=number),
            ends_at=first + timedelta(hours=number + 1),
            created_at=clock.now(),
        )
        for number in range(count)
    ]
    with transaction():
        db.session.add_all(lessons)
    return lessons


def test_the_number_of_statements_does_not_depend_on_the_lessons(network: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    group = make_group(network.lesnoy, *clients)
    counts = []
    for number in (30, 300):
        lessons = lessons_of(network, group, number)

        def plan(lessons: Any = lessons) -> None:
            with transaction():
                [lesson.id for lesson in lessons]
                enrol_members(lessons, by=SYSTEM)

        [lesson.starts_at for lesson in lessons]  # read anew after the commit, before they are counted
        counts.append(statements(plan))
    assert counts[0] == counts[1] < 15
    joining = []
    for client in (make_client(network.lesnoy), make_client(network.lesnoy)):
        joining.append(statements(lambda client=client: join_group(group, client, by=SYSTEM)))
        db.session.commit()
        lessons_of(network, group, 300)
    assert joining[1] - joining[0] < 3
    left = statements(lambda: leave_group(member_of(group, client), by=SYSTEM))
    assert left < 25
    db.session.commit()


def test_who_joins_while_lessons_are_planned_is_at_them(network: Any, in_parallel: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    group_id, client_id, branch_id = group.id, client.id, network.lesnoy.id
    type_id = group.lesson_type_id

    def act(index: int) -> None:
        with transaction():
            found = db.session.get_one(ClientGroup, group_id)
            if index == 0:
                join_group(found, db.session.get_one(Client, client_id), by=SYSTEM)
                return
            starts_at = clock.now() + timedelta(days=index)
            lesson = Lesson(
                branch_id=branch_id,
                group_id=group_id,
                lesson_type_id=type_id,
                starts_at=starts_at,
                ends_at=starts_at + timedelta(hours=1),
                created_at=clock.now(),
            )
            db.session.add(lesson)
            db.session.flush()
            enrol_members([lesson], by=SYSTEM)

    assert in_parallel(act, 4) == [None] * 4
    assert list(marks_of(client).values()) == [Mark.PLANNED] * 3


def test_who_leaves_while_his_card_is_archived_has_left_once(
    network: Any, in_parallel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for what the other holds, in whatever order they come."""
    client, group = make_client(network.lesnoy), make_group(network.lesnoy)
    make_lesson(network.lesnoy, group=group)
    with transaction():
        join_group(group, client, by=SYSTEM)
    client_id, member_id = client.id, member_of(group, client).id
    leave = archiving._leave_groups

    def leave_late(client_ids: Any) -> None:
        pause.sleep(0.5)  # the lessons are held, the memberships not yet
        leave(client_ids)

    monkeypatch.setattr(archiving, "_leave_groups", leave_late)

    def act(index: int) -> str:
        with transaction():
            if index == 0:
                archive_client(db.session.get_one(Client, client_id), by=SYSTEM)
                return "archived"
            pause.sleep(0.2)
            leave_group(db.session.get_one(GroupMember, member_id), by=SYSTEM)
        return "left"

    archived, left = in_parallel(act, 2)
    assert archived == "archived"
    assert left == "left" or left.code == "left_already"
    db.session.expire_all()
    assert member_of(group, client).left_on == clock.today(network.lesnoy)
    assert Mark.PLANNED not in marks_of(client).values()


def test_who_was_taken_off_by_hand_is_not_taken_for_enrolled(network: Any) -> None:
    group, client = make_group(network.lesnoy), make_client(network.lesnoy)
    lesson = make_lesson(network.lesnoy, group=group)
    with transaction():
        take_off(enrol(lesson, client, by=SYSTEM), by=SYSTEM)
        assert join_group(group, client, by=SYSTEM).lessons == 1
    assert marks_of(client) == {lesson.id: Mark.PLANNED}
