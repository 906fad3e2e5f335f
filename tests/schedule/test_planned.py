"""Planned lessons of a card, canceled many at once («Отменить занятия»)."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.errors import DomainError
from crm.schedule.models import Attendance, LessonStatus, Mark, Trial
from crm.schedule.planned import cancel_planned, planned_of
from tests.factories import make_child, make_client, make_group, make_lesson, make_lesson_type


def test_what_was_for_nobody_else_is_canceled_itself(network: Any) -> None:
    payer, other = make_client(network.lesnoy), make_client(network.lesnoy)
    child, group = make_child(payer), make_group(network.lesnoy)
    family = make_lesson(network.lesnoy, payer, child)
    shared = make_lesson(network.lesnoy, payer, other)
    of_group = make_lesson(network.lesnoy, payer, group_id=group.id)
    with transaction():
        first = family.attendances[0]
        first.is_trial = True
        db.session.add(Trial(branch_id=payer.branch_id, payer_id=payer.id, attendance_id=first.id))
    with transaction():
        assert cancel_planned(planned_of(payer, by=network.administrator), by=network.administrator) == 4
    statuses = [lesson.status for lesson in (family, shared, of_group)]
    assert statuses == [LessonStatus.CANCELED, LessonStatus.PLANNED, LessonStatus.PLANNED]
    expected = db.session.scalars(select(Attendance).where(Attendance.mark == Mark.PLANNED)).one()
    assert expected.client_id == other.id
    assert db.session.scalars(select(Trial)).all() == []
    told = select(AuditEntry).where(AuditEntry.entity == "lesson", AuditEntry.entity_id == family.id)
    assert db.session.scalars(told.order_by(AuditEntry.id.desc())).first().changes == {  # type: ignore[union-attr]
        "status": ["planned", "canceled"]
    }


def test_one_marked_meanwhile_and_none_is_canceled(network: Any) -> None:
    client = make_client(network.lesnoy)
    lessons = [make_lesson(network.lesnoy, client) for _number in range(2)]
    ticked = planned_of(client, by=network.administrator)
    table: Any = Attendance.__table__
    with pytest.raises(DomainError) as error, transaction():
        db.session.connection().execute(
            table.update().where(table.c.lesson_id == lessons[1].id), {"mark": Mark.EXCUSED}
        )
        cancel_planned(ticked, by=network.administrator)
    assert error.value.code == "marked_already"
    db.session.expire_all()
    assert [one.mark for one in db.session.scalars(select(Attendance))] == [Mark.PLANNED, Mark.PLANNED]


def test_one_more_is_one_more_update(network: Any, statements: Any) -> None:
    """The version of each enrolment is checked apart; nothing else grows with their number."""
    lesson_type, counts = make_lesson_type(), []
    for size in (3, 30):
        client = make_client(network.lesnoy)
        for _number in range(size):
            make_lesson(network.lesnoy, client, lesson_type_id=lesson_type.id)
        ticked = planned_of(client, by=network.administrator)
        with statements() as sent, transaction():
            assert cancel_planned(ticked, by=network.administrator) == size
        counts.append(len(sent) - size)
    assert counts[1] <= counts[0]
