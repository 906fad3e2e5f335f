"""Verbs on tasks: note, change, finish, call off, take up again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date
from typing import Any, TypedDict, Unpack

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, User
from crm.access.queries import branches_of
from crm.access.scope import current_scope
from crm.audit.operations import transition
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.errors import DomainError, Forbidden, NotFound
from crm.tasks.models import TASK_MOVES, Task, TaskKind, TaskStatus

_FIRST, _LAST = date(1990, 1, 1), date(2200, 1, 1)


class TaskFacts(TypedDict, total=False):
    """What staff fill in of a task. assignee None: whoever of the branch comes to it first."""

    text: str
    due_on: date
    assignee: User | None


def create_task(
    branch: Branch,
    *,
    kind: TaskKind,
    text: str = "",
    due_on: date,
    by: Actor,
    client: Client | None = None,
    lesson_id: int | None = None,
    assignee: User | None = None,
) -> Task:
    """Note what is to be done in a branch by a day. The caller commits.

    Raises DomainError beside `text` ("text_empty": only a call speaks for itself), `due_on`, `assignee`, and `client`
    ("client_required": a call is to somebody; "client_elsewhere", "client_archived").
    """
    require(by, "task.create")
    if not current_scope().covers(branch.id):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
    _check_client(client, branch, kind)
    task = Task(
        branch_id=branch.id,
        kind=kind,
        status=TaskStatus.OPEN,
        client_id=client.id if client is not None else None,
        lesson_id=lesson_id,
        author_id=by.id,
        author_name=str(by.name),
        created_at=clock.now(),
    )
    _set_facts(task, {"text": text, "due_on": due_on, "assignee": assignee})
    db.session.add(task)
    db.session.flush()
    return task


def change_task(task: Task, *, by: Actor, **facts: Unpack[TaskFacts]) -> Task:
    """Put it off, reword it, give it to somebody. Raises DomainError beside the field, "task_over" for one that is not
    open any more. The caller commits.
    """
    _require_edit(task, by)
    if task.status is not TaskStatus.OPEN:
        raise DomainError("task_over", _("The task is done or canceled: take it up again before you change it."))
    _set_facts(task, facts)
    db.session.flush()
    return task


def finish_task(task: Task, *, by: Actor, result: str = "") -> Task:
    """It is done; result: what came of it. Of two who finish it the second gets Conflict. The caller commits."""
    _require_edit(task, by)
    done = {"done_at": clock.now(), "done_by_id": by.id, "result": result.strip()}
    return transition(task, TASK_MOVES, TaskStatus.DONE, by=by, **done)


def cancel_task(task: Task, *, by: Actor) -> Task:
    """It need not be done. Raises Conflict when it is not open any more. The caller commits."""
    _require_edit(task, by)
    return transition(task, TASK_MOVES, TaskStatus.CANCELED, by=by)


def reopen_task(task: Task, *, by: Actor) -> Task:
    """It is to be done after all; what came of it the first time is kept in the history. The caller commits."""
    _require_edit(task, by)
    return transition(task, TASK_MOVES, TaskStatus.OPEN, by=by, done_at=None, done_by_id=None, result="")


def cancel_calls(client_ids: Collection[int], *, by: Actor) -> list[Task]:
    """Call off the planned calls to these clients, as an effect of what became of their cards: whoever may do that to
    a card may do this. The caller commits.
    """
    planned = select(Task).where(
        Task.client_id.in_(client_ids), Task.kind == TaskKind.CALL, Task.status == TaskStatus.OPEN
    )
    calls = list(db.session.scalars(planned.order_by(Task.id).with_for_update(key_share=True, of=Task)))
    return [transition(call, TASK_MOVES, TaskStatus.CANCELED, by=by) for call in calls]


def _require_edit(task: Task, by: Actor) -> None:
    require(by, "task.edit", task)
    if not by.may("task.all") and task.assignee_id != by.id:
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))


def _check_client(client: Client | None, branch: Branch, kind: TaskKind) -> None:
    if client is None:
        if kind is TaskKind.CALL:
            raise DomainError("client_required", _("Choose whom to call."), "client")
        return
    if client.branch_id != branch.id:
        raise DomainError("client_elsewhere", _("The client belongs to another branch."), "client")
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."), "client")


# --- facts ----------------------------------------------------------------------------------------------------------


def _set_facts(task: Task, facts: TaskFacts) -> None:
    with db.session.no_autoflush:
        for name, value in facts.items():
            attribute, read = _READ[name]
            setattr(task, attribute, read(value, task))


def _read_text(text: str, task: Task) -> str:
    if not (said := text.strip()) and task.kind is not TaskKind.CALL:
        raise DomainError("text_empty", _("Write what is to be done."), "text")
    return said


def _read_due_on(day: date | None, _task: Task) -> date:
    if day is None or not _FIRST <= day < _LAST:
        raise DomainError("day_invalid", _("Enter a day that can be meant."), "due_on")
    return day


def _read_assignee(user: User | None, task: Task) -> int | None:
    """One who has it already keeps it, wherever he works by now."""
    if user is None or user.id == task.assignee_id:
        return None if user is None else user.id
    if not user.is_active or task.branch_id not in {branch.id for branch in branches_of(user)}:
        raise DomainError("assignee_elsewhere", _("Choose a user who works in this branch."), "assignee")
    return user.id


_READ: dict[str, tuple[str, Callable[[Any, Task], Any]]] = {
    "text": ("text", _read_text),
    "due_on": ("due_on", _read_due_on),
    "assignee": ("assignee_id", _read_assignee),
}
