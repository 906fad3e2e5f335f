"""Noting a task, changing it, finishing, calling off, taking up again; whose it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.models import Role, User
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.tasks.models import Task, TaskKind, TaskStatus
from crm.tasks.operations import cancel_task, change_task, create_task, finish_task, reopen_task
from crm.tasks.queries import next_call_on, open_tasks, staff_of, tasks_of_client
from tests.factories import make_client, make_task, make_user

DAY = date(2027, 1, 31)


def test_a_task_is_noted_with_its_author_and_day(network: Any) -> None:
    client = make_client(network.mira)
    with transaction():
        task = create_task(
            network.mira,
            kind=TaskKind.CALL,
            text="  Напомнить о пробном ",
            due_on=DAY,
            client=client,
            assignee=network.owner,
            by=network.owner,
        )
    db.session.refresh(task)
    assert (task.text, task.due_on, task.status, task.client_id) == (
        "Напомнить о пробном",
        DAY,
        TaskStatus.OPEN,
        client.id,
    )
    assert (task.author_id, task.author_name, task.assignee_id) == (
        network.owner.id,
        network.owner.name,
        network.owner.id,
    )


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"text": "  "}, "text"),
        ({"due_on": date(1066, 10, 14)}, "due_on"),
        ({"kind": TaskKind.CALL}, "client"),
    ],
)
def test_what_is_no_task_is_refused_beside_its_field(network: Any, facts: dict[str, Any], field: str) -> None:
    with pytest.raises(DomainError) as caught:
        make_task(network.lesnoy, **facts)
    assert caught.value.field == field
    assert db.session.scalars(select(Task)).all() == []


def test_a_call_needs_no_words(network: Any) -> None:
    task = make_task(network.lesnoy, kind=TaskKind.CALL, text="", client=make_client(network.lesnoy))
    assert (task.text, str(task)) == ("", "Звонок")


def test_archived_cards_and_those_of_other_branches_are_not_called(network: Any) -> None:
    gone, foreign = make_client(network.lesnoy), make_client(network.rechnoy)
    with transaction():
        archive_client(gone, by=network.director)
    codes = []
    for client in (gone, foreign):
        with pytest.raises(DomainError) as caught:
            make_task(network.lesnoy, kind=TaskKind.CALL, client=client)
        codes.append(caught.value.code)
    assert codes == ["client_archived", "client_elsewhere"]


def test_who_is_given_a_task_works_in_the_branch(network: Any) -> None:
    elsewhere = make_user(Role.ADMINISTRATOR, branches=[network.mira])
    gone = make_user(Role.ADMINISTRATOR, branches=[network.lesnoy], is_active=False)
    for stranger in (elsewhere, gone):
        with pytest.raises(DomainError) as caught:
            make_task(network.lesnoy, assignee=stranger)
        assert caught.value.field == "assignee"
    offered = staff_of([network.lesnoy])
    assert elsewhere not in offered
    assert gone not in offered
    assert {network.owner, network.regional, network.administrator, network.instructor} <= set(offered)
    for user in offered:
        assert make_task(network.lesnoy, assignee=user).assignee_id == user.id


def test_who_has_a_task_keeps_it_when_he_has_left(network: Any) -> None:
    task = make_task(network.lesnoy, assignee=network.manager)
    with transaction():
        network.manager.is_active = False
    with transaction():
        change_task(task, text="Ещё раз", due_on=DAY, assignee=network.manager, by=network.administrator)
    assert (task.assignee_id, task.text, task.due_on) == (network.manager.id, "Ещё раз", DAY)
    with transaction():
        change_task(task, assignee=None, by=network.administrator)
    assert task.assignee_id is None


def test_finishing_says_who_when_and_what_came_of_it(network: Any) -> None:
    task = make_task(network.lesnoy)
    now = datetime(2026, 11, 29, 20, 59, tzinfo=UTC)
    with clock.frozen(now), transaction():
        finish_task(task, result=" Придёт во вторник ", by=network.administrator)
    assert (task.status, task.done_at, task.done_by_id, task.result) == (
        TaskStatus.DONE,
        now,
        network.administrator.id,
        "Придёт во вторник",
    )
    with pytest.raises(Conflict), transaction():
        finish_task(task, by=network.director)
    with pytest.raises(DomainError) as caught, transaction():
        change_task(task, due_on=DAY, by=network.administrator)
    assert caught.value.code == "task_over"


def test_a_task_is_taken_up_again(network: Any) -> None:
    task = make_task(network.lesnoy)
    with transaction():
        finish_task(task, result="Готово", by=network.administrator)
    with transaction():
        reopen_task(task, by=network.administrator)
    assert (task.status, task.done_at, task.done_by_id, task.result) == (TaskStatus.OPEN, None, None, "")
    with transaction():
        cancel_task(task, by=network.administrator)
    assert task.status is TaskStatus.CANCELED
    lines = select(AuditEntry).where(AuditEntry.entity == "task", AuditEntry.entity_id == task.id)
    moves = [line.changes["status"] for line in db.session.scalars(lines.order_by(AuditEntry.id))]
    assert moves[1:] == [["open", "done"], ["done", "open"], ["open", "canceled"]]


def test_of_two_who_finish_at_once_one_wins(network: Any, in_parallel: Callable[..., Any]) -> None:
    task_id, user_id = make_task(network.lesnoy).id, network.administrator.id

    def finish(_number: int) -> str:
        try:
            with transaction():
                finish_task(db.session.get_one(Task, task_id), by=db.session.get_one(User, user_id))
        except Conflict:
            return "late"
        return "done"

    assert sorted(in_parallel(finish, times=4)) == ["done", "late", "late", "late"]


def test_roles_and_branches_are_asked(network: Any) -> None:
    task = make_task(network.lesnoy)
    with pytest.raises(Forbidden):
        create_task(network.lesnoy, kind=TaskKind.OTHER, text="Дело", due_on=DAY, by=network.instructor)
    with pytest.raises(Forbidden):
        finish_task(task, by=network.manager)
    with scoped_to(Scope(frozenset({network.mira.id}))):
        with pytest.raises(NotFound):
            finish_task(task, by=network.owner)
        with pytest.raises(Forbidden):
            create_task(network.lesnoy, kind=TaskKind.OTHER, text="Дело", due_on=DAY, by=network.owner)


def test_an_instructor_has_his_own_tasks_alone(network: Any) -> None:
    own, nobodys = make_task(network.lesnoy, assignee=network.instructor), make_task(network.lesnoy)
    others = make_task(network.lesnoy, assignee=network.administrator)
    for task in (nobodys, others):
        with pytest.raises(NotFound), transaction():
            finish_task(task, by=network.instructor)
    with transaction():
        finish_task(own, by=network.instructor)
    assert own.status is TaskStatus.DONE


@pytest.mark.spec("C145")
def test_mine_and_nobodys_by_the_day_of_the_branch(network: Any) -> None:
    """At 20:30 UTC it is still the 30th in Moscow and the 31st in Samara."""
    with clock.frozen(datetime(2027, 1, 30, 20, 30, tzinfo=UTC)):
        days = {day: make_task(network.lesnoy, due_on=day) for day in (date(2027, 1, 29), date(2027, 1, 30), DAY)}
        make_task(network.lesnoy, assignee=network.director)
        mine = make_task(network.lesnoy, assignee=network.administrator, due_on=date(2027, 1, 30))
        there = make_task(network.mira, due_on=date(2027, 1, 30))
        with transaction():
            cancel_task(make_task(network.lesnoy), by=network.administrator)
        found = open_tasks(network.administrator, network.lesnoy)
        assert (found.overdue, found.today, found.coming) == (
            [days[date(2027, 1, 29)]],
            [days[date(2027, 1, 30)], mine],
            [days[DAY]],
        )
        assert there in open_tasks(network.owner).overdue
        assert not open_tasks(network.instructor, network.lesnoy)


def test_the_next_call_of_a_client(network: Any) -> None:
    client = make_client(network.lesnoy)
    assert next_call_on(client) is None
    later = make_task(network.lesnoy, kind=TaskKind.CALL, client=client, due_on=DAY)
    sooner = make_task(network.lesnoy, kind=TaskKind.CALL, client=client, due_on=date(2026, 12, 31))
    make_task(network.lesnoy, client=client, due_on=date(2026, 12, 1))
    assert next_call_on(client) == date(2026, 12, 31)
    with transaction():
        finish_task(sooner, by=network.administrator)
    assert next_call_on(client) == DAY
    assert later in tasks_of_client(client, network.administrator)
