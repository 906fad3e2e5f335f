"""The waiting list: who waits for a lesson, and for whose.

The audit tells of it in the history of the card, and keeps no comments: those are seen in the card and in the list, and
are gone once one waits no longer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Employee
from crm.audit.models import AuditAction
from crm.audit.operations import record
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.schedule.models import Lesson, Waiting


def has_waiting_list(branch: Branch) -> bool:
    """Whether the branch's company keeps one."""
    return branch.company.has_waiting_list


def waiting_of(client: Client) -> Waiting | None:
    """The client's place in the list."""
    return db.session.scalar(select(Waiting).where(Waiting.client_id == client.id))


def count_waiting(branch: Branch) -> int:
    """How many wait in a branch."""
    return db.session.scalar(select(func.count()).select_from(Waiting).where(Waiting.branch_id == branch.id)) or 0


def add_to_waiting_list(client: Client, *, instructor: Employee | None = None, comment: str = "", by: Actor) -> Waiting:
    """«Внести в лист ожидания». instructor: whom he would like, for information. The caller commits.

    Raises DomainError "no_waiting_list", "client_archived", beside `instructor` "instructor_elsewhere"; Conflict
    "waits_already".
    """
    require(by, "waiting.edit", client)
    branch = db.session.get_one(Branch, client.branch_id)
    _refuse_without_list(branch)
    if client.status is not ClientStatus.ACTIVE:
        raise DomainError("client_archived", _("The client's card is in the archive. Restore it first."))
    _check_instructor(instructor, branch, None)
    if waiting_of(client) is not None:
        raise _waits_already()
    waiting = Waiting(
        branch_id=client.branch_id,
        client_id=client.id,
        instructor_id=instructor.id if instructor is not None else None,
        comment=comment.strip(),
        added_at=clock.now(),
        author_id=by.id,
    )
    try:
        with db.session.begin_nested():
            db.session.add(waiting)
            db.session.flush()
    except IntegrityError:
        raise _waits_already() from None  # of two desks at once
    _note(client, {"waiting": [False, True], "waiting_instructor": [None, instructor and instructor.name]}, by)
    return waiting


def change_waiting(waiting: Waiting, *, instructor: Employee | None, comment: str, by: Actor) -> Waiting:
    """Whom he would like, and the comment. Raises DomainError as adding does. The caller commits."""
    require(by, "waiting.edit", waiting)
    branch = db.session.get_one(Branch, waiting.branch_id)
    _refuse_without_list(branch)
    _check_instructor(instructor, branch, waiting.instructor_id)
    before = waiting.instructor and waiting.instructor.name
    said = waiting.comment
    waiting.instructor_id, waiting.comment = instructor.id if instructor is not None else None, comment.strip()
    db.session.flush()
    changes: dict[str, Any] = {"waiting_instructor": [before, instructor and instructor.name]}
    if waiting.comment != said:
        changes["waiting_comment"] = ["…", "…"]
    _note(waiting.client, changes, by)
    return waiting


def remove_from_waiting_list(waiting: Waiting, *, by: Actor) -> None:
    """Take him out by hand: the tick is taken away, the comment is gone. The caller commits."""
    require(by, "waiting.edit", waiting)
    leave_waiting_list([waiting.client_id], by=by)


def leave_waiting_list(client_ids: Collection[int], *, by: Actor) -> None:
    """They wait no longer, as an effect of something else: whoever may do that may do this. The caller commits."""
    _leave(_waiting(client_ids), by)


def leave_for_lessons(expected: Iterable[tuple[Lesson, int]], *, by: Actor) -> None:
    """Lessons were put for clients, by id: who waited for the instructor of his lesson, or for nobody in particular,
    waits no longer. An effect, as leave_waiting_list(). The caller commits.
    """
    instructors: dict[int, set[int | None]] = {}
    for lesson, client_id in expected:
        instructors.setdefault(client_id, {None}).add(lesson.instructor_id)
    leaving = [waiting for waiting in _waiting(instructors) if waiting.instructor_id in instructors[waiting.client_id]]
    _leave(leaving, by)


def _waiting(client_ids: Collection[int]) -> Sequence[Waiting]:
    query = select(Waiting).where(Waiting.client_id.in_(client_ids)).options(joinedload(Waiting.client))
    return db.session.scalars(query.order_by(Waiting.id).with_for_update(key_share=True, of=Waiting)).all()


def _leave(leaving: Sequence[Waiting], by: Actor) -> None:
    clients = [waiting.client for waiting in leaving if waiting.client is not None]
    for waiting in leaving:
        db.session.delete(waiting)
    db.session.flush()
    for client in clients:
        _note(client, {"waiting": [True, False]}, by)


def _note(client: Client, changes: dict[str, list[Any]], by: Actor) -> None:
    if told := {name: change for name, change in changes.items() if change == ["…", "…"] or change[0] != change[1]}:
        record(AuditAction.UPDATE, client, told, by=by)


def _refuse_without_list(branch: Branch) -> None:
    if not has_waiting_list(branch):
        raise DomainError("no_waiting_list", _("The waiting list is switched off in the settings of the company."))


def _check_instructor(instructor: Employee | None, branch: Branch, known_id: int | None) -> None:
    """One chosen already may have left since."""
    if instructor is None or instructor.id == known_id:
        return
    if instructor.branch_id != branch.id or not instructor.is_active or not instructor.teaches:
        raise DomainError("instructor_elsewhere", _("Choose an instructor of this branch."), "instructor")


def _waits_already() -> Conflict:
    return Conflict("waits_already", _("The client is in the waiting list already."))
