"""Reads about tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import or_, select, true
from sqlalchemy.orm import joinedload, selectinload

from crm.access.actors import Actor
from crm.access.models import Branch, City, Role, User
from crm.access.permissions import NETWORK_WIDE_ROLES
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


def open_tasks(user: Actor, branch: Branch | None = None, *, limit: int = 50) -> OpenTasks:
    """Open tasks of a branch, of all in sight without one, that are the user's, or nobody's where he sees those. What
    is today and what is overdue, the day of each task's branch says.
    """
    mine = or_(Task.assignee_id == user.id, Task.assignee_id.is_(None))
    query = (
        select(Task)
        .where(Task.status == TaskStatus.OPEN, mine, tasks_seen_by(user))
        .options(joinedload(Task.client), selectinload(Task.branch))
        .order_by(Task.due_on, Task.id)
        .limit(limit)
    )
    found = list(db.session.scalars(query if branch is None else query.where(Task.branch_id == branch.id)))
    return OpenTasks(
        overdue=[task for task in found if task.is_overdue],
        today=[task for task in found if task.due_on == today(task.branch)],
        coming=[task for task in found if task.due_on > today(task.branch)],
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


def staff_of(branches: Sequence[Branch]) -> list[User]:
    """Users in use who work in one of these branches, by name: whom a task there can be given to."""
    places, cities = {branch.id for branch in branches}, {branch.city_id for branch in branches}
    works = or_(
        User.role.in_(NETWORK_WIDE_ROLES),
        (User.role == Role.REGIONAL_DIRECTOR) & User.cities.any(City.id.in_(cities)),
        (User.role != Role.REGIONAL_DIRECTOR) & User.branches.any(Branch.id.in_(places)),
    )
    return list(db.session.scalars(select(User).where(User.is_active, works).order_by(User.name, User.id)))
