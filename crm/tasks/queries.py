"""Reads about tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import or_, select, true
from sqlalchemy.orm import joinedload, selectinload

from crm.access.actors import Actor
from crm.access.models import Branch
from crm.clients.models import Client
from crm.clock import today
from crm.db import db
from crm.tasks.models import Task, TaskKind, TaskStatus


@dataclass(frozen=True)
class OpenTasks:
    """What is to be done, by when; each the most urgent first."""

    overdue: Sequence[Task]
    today: Sequence[Task]
    coming: Sequence[Task]

    def __bool__(self) -> bool:
        return bool(self.overdue or self.today or self.coming)


def tasks_seen_by(user: Actor) -> Any:
    """SQL: the tasks `user` is shown: his own, and everybody's with that permission."""
    return true() if user.may("task.all") else Task.assignee_id == user.id


def open_tasks(user: Actor, branch: Branch, *, limit: int = 50) -> OpenTasks:
    """Open tasks of a branch that are the user's, or nobody's where he sees those; the day is the branch's."""
    mine = or_(Task.assignee_id == user.id, Task.assignee_id.is_(None))
    query = (
        select(Task)
        .where(Task.branch_id == branch.id, Task.status == TaskStatus.OPEN, mine, tasks_seen_by(user))
        .options(joinedload(Task.client).selectinload(Client.branch))
        .order_by(Task.due_on, Task.id)
        .limit(limit)
    )
    found, day = list(db.session.scalars(query)), today(branch)
    return OpenTasks(
        overdue=[task for task in found if task.due_on < day],
        today=[task for task in found if task.due_on == day],
        coming=[task for task in found if task.due_on > day],
    )


def tasks_of_client(client: Client, user: Actor, *, limit: int = 50) -> list[Task]:
    """Open tasks about a client, the most urgent first."""
    query = select(Task).where(Task.client_id == client.id, Task.status == TaskStatus.OPEN, tasks_seen_by(user))
    return list(
        db.session.scalars(
            query.options(selectinload(Task.assignee), selectinload(Task.branch))
            .order_by(Task.due_on, Task.id)
            .limit(limit)
        )
    )


def next_call_on(client: Client) -> date | None:
    """The day of the client's nearest planned call, a past one too; None without one."""
    planned = select(Task.due_on).where(
        Task.client_id == client.id, Task.kind == TaskKind.CALL, Task.status == TaskStatus.OPEN
    )
    return db.session.scalar(planned.order_by(Task.due_on).limit(1))
