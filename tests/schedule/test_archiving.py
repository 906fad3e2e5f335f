"""A card that is archived leaves lessons to come, groups, the waiting list and planned calls."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.catalogue.models import LessonFormat
from crm.clients.operations import archive_client, archive_clients
from crm.db import db, transaction
from crm.errors import DomainError
from crm.schedule.models import Attendance, GroupMember, LessonStatus, Mark, Trial, Waiting
from crm.schedule.waiting import add_to_waiting_list
from crm.tasks.models import TaskKind, TaskStatus
from tests.factories import make_client, make_group, make_lesson, make_lesson_type, make_task


def marks(client: Any) -> list[Mark]:
    query = select(Attendance.mark).where(Attendance.client_id == client.id).order_by(Attendance.id)
    return list(db.session.scalars(query))


def archive(client: Any, by: Any = SYSTEM) -> None:
    with transaction():
        archive_client(client, by=by)
    db.session.expire_all()


@pytest.mark.spec("C119")
def test_planned_lessons_go_and_what_is_over_stays(network: Any) -> None:
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    yesterday = make_lesson(network.lesnoy, client, starts_at=clock.now() - timedelta(days=1))
    coming = make_lesson(network.lesnoy, client, other)
    marked = make_lesson(network.lesnoy, client)
    with transaction():
        db.session.scalars(select(Attendance).where(Attendance.lesson_id == marked.id)).one().mark = Mark.EXCUSED
    archive(client, network.administrator)
    assert marks(client) == [Mark.PLANNED, Mark.CANCELED, Mark.EXCUSED]
    assert marks(other) == [Mark.PLANNED]
    assert {lesson.status for lesson in (yesterday, coming)} == {LessonStatus.PLANNED}


@pytest.mark.spec("C119")
def test_an_individual_lesson_nobody_is_left_for_is_canceled(network: Any) -> None:
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    individual = make_lesson_type(LessonFormat.INDIVIDUAL)
    alone = make_lesson(network.lesnoy, client, lesson_type_id=individual.id)
    shared = make_lesson(network.lesnoy, client, other, lesson_type_id=individual.id)
    group_lesson = make_lesson(network.lesnoy, client)
    archive(client)
    statuses = [lesson.status for lesson in (alone, shared, group_lesson)]
    assert statuses == [LessonStatus.CANCELED, LessonStatus.PLANNED, LessonStatus.PLANNED]


def test_a_planned_trial_lesson_is_the_familys_again(network: Any) -> None:
    client = make_client(network.lesnoy)
    make_lesson(network.lesnoy, client)
    with transaction():
        attendance = db.session.scalars(select(Attendance)).one()
        attendance.is_trial = True
        db.session.add(Trial(branch_id=network.lesnoy.id, payer_id=client.id, attendance_id=attendance.id))
    archive(client)
    assert db.session.scalars(select(Trial)).all() == []
    assert not attendance.is_trial


@pytest.mark.spec("C117")
def test_groups_are_left_on_the_branchs_day(network: Any) -> None:
    """At 21:30 UTC it is tomorrow in Samara already; who was to join next week has never been in the group."""
    client, other = make_client(network.mira), make_client(network.mira)
    group, later = make_group(network.mira), make_group(network.mira)
    with transaction():
        for person, joined in ((client, date(2026, 10, 1)), (other, date(2026, 10, 1))):
            db.session.add(
                GroupMember(branch_id=network.mira.id, group_id=group.id, client_id=person.id, joined_on=joined)
            )
        db.session.add(
            GroupMember(branch_id=network.mira.id, group_id=later.id, client_id=client.id, joined_on=date(2026, 12, 1))
        )
    with clock.frozen(datetime(2026, 10, 31, 21, 30, tzinfo=UTC)):
        archive(client)
    left = select(GroupMember.left_on).order_by(GroupMember.id)
    assert db.session.scalars(left).all() == [date(2026, 11, 1), None, date(2026, 12, 1)]


def test_who_was_to_leave_later_leaves_at_once_and_who_has_left_stays_so(network: Any) -> None:
    client = make_client(network.lesnoy)
    groups = [make_group(network.lesnoy), make_group(network.lesnoy)]
    with transaction():
        for group, left in zip(groups, (date(2026, 9, 30), date(2026, 12, 31)), strict=True):
            db.session.add(
                GroupMember(
                    branch_id=network.lesnoy.id,
                    group_id=group.id,
                    client_id=client.id,
                    joined_on=date(2026, 1, 31),
                    left_on=left,
                )
            )
    with clock.frozen(datetime(2026, 10, 31, 12, tzinfo=UTC)):
        archive(client)
    left_on = select(GroupMember.left_on).order_by(GroupMember.id)
    assert db.session.scalars(left_on).all() == [date(2026, 9, 30), date(2026, 10, 31)]


@pytest.mark.spec("C118")
def test_planned_calls_are_called_off_and_other_tasks_stay(network: Any) -> None:
    client = make_client(network.lesnoy)
    call = make_task(network.lesnoy, kind=TaskKind.CALL, client=client)
    other = make_task(network.lesnoy, client=client)
    elsewhere = make_task(network.lesnoy, kind=TaskKind.CALL, client=make_client(network.lesnoy))
    archive(client, network.director)
    assert [task.status for task in (call, other, elsewhere)] == [
        TaskStatus.CANCELED,
        TaskStatus.OPEN,
        TaskStatus.OPEN,
    ]


def test_the_waiting_list_is_left(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        add_to_waiting_list(client, comment="Только вечером", by=SYSTEM)
    archive(client)
    assert db.session.scalars(select(Waiting)).all() == []


@pytest.mark.spec("C117", "C118", "C119")
def test_many_at_once_do_the_same_and_a_refused_card_does_nothing(network: Any) -> None:
    clients = [make_client(network.lesnoy) for _number in range(3)]
    make_lesson(network.lesnoy, *clients[:2])
    group = make_group(network.lesnoy)
    with transaction():
        for client in clients[:2]:
            db.session.add(
                GroupMember(
                    branch_id=network.lesnoy.id, group_id=group.id, client_id=client.id, joined_on=date(2026, 1, 31)
                )
            )
            add_to_waiting_list(client, by=SYSTEM)
    calls = [make_task(network.lesnoy, kind=TaskKind.CALL, client=client) for client in clients]
    archive(clients[2])
    with transaction():
        lines = archive_clients([client.id for client in clients] + [10**9], by=network.administrator)
    db.session.expire_all()
    assert [line.outcome.value for line in lines] == ["done", "done", "skipped", "failed"]
    assert [marks(client) for client in clients] == [[Mark.CANCELED], [Mark.CANCELED], []]
    assert {call.status for call in calls} == {TaskStatus.CANCELED}
    assert db.session.scalars(select(Waiting)).all() == []
    assert None not in db.session.scalars(select(GroupMember.left_on)).all()


@pytest.mark.spec("C117", "C119")
def test_the_bulk_action_of_the_grid_does_it_too(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_lesson(network.lesnoy, client)
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/client/card/{client.id}/archive/"
    assert browser.post(path, data={}).status_code == 302
    db.session.expire_all()
    assert marks(client) == [Mark.CANCELED]


def test_an_archived_card_waits_for_nothing_new(network: Any) -> None:
    client = make_client(network.lesnoy)
    archive(client)
    with pytest.raises(DomainError) as caught, transaction():
        add_to_waiting_list(client, by=SYSTEM)
    assert caught.value.code == "client_archived"
