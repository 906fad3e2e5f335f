"""Row scope: which branches' rows the current request or job may touch. The only place that filters by branch.

Adapters enter a Scope; one listener adds it to every ORM SELECT, UPDATE and DELETE; another refuses writes
outside it. Without a scope, scoped tables cannot be read at all: forgetting it is an error, not a leak.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import ForeignKey, Select, TableClause, event, inspect
from sqlalchemy.orm import (
    Mapped,
    ORMExecuteState,
    Session,
    declared_attr,
    mapped_column,
    relationship,
    with_loader_criteria,
)
from sqlalchemy.sql import visitors

from crm.errors import Forbidden


class ScopeMissing(RuntimeError):
    """A scoped table was touched outside any scope: a programming error."""


class BranchScoped:
    """Mixin of tables whose rows belong to one branch."""

    @declared_attr
    def branch_id(cls) -> Mapped[int]:
        return mapped_column(ForeignKey("branch.id"), index=True)

    @declared_attr
    def branch(cls) -> Mapped[Any]:
        return relationship("Branch", foreign_keys=[cls.branch_id])  # type: ignore[list-item]


@dataclass(frozen=True)
class Scope:
    """branch_ids: the branches visible now, None = all. branch_id: the one chosen in the navbar, None = network."""

    branch_ids: frozenset[int] | None
    branch_id: int | None = None

    def covers(self, branch_id: int) -> bool:
        return self.branch_ids is None or branch_id in self.branch_ids


EVERYWHERE = Scope(None)
NOWHERE = Scope(frozenset())  # for finding out who asks, before it is known what they may see

_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)


def current_scope() -> Scope:
    """The scope in force. Raises ScopeMissing outside any."""
    scope = _current.get()
    if scope is None:
        raise ScopeMissing("no scope: enter one with scoped_to(...)")
    return scope


def enter_scope(scope: Scope | None) -> contextvars.Token[Scope | None]:
    """For adapters with separate begin and end hooks; pass the token to leave_scope()."""
    return _current.set(scope)


def leave_scope(token: contextvars.Token[Scope | None]) -> None:
    _current.reset(token)


@contextlib.contextmanager
def scoped_to(scope: Scope) -> Iterator[None]:
    """Run a block within `scope`."""
    token = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(token)


def _add_criteria(state: ORMExecuteState) -> None:
    if not (state.is_select or state.is_update or state.is_delete) or state.is_column_load:
        return
    scope = _current.get()
    if scope is None:
        if tables := _scoped_tables(state):
            raise ScopeMissing(f"no scope to read {', '.join(sorted(tables))}")
        branch_ids: list[int] = []  # a subquery gets nothing
    elif scope.branch_ids is None:
        return
    else:
        branch_ids = sorted(scope.branch_ids)
    state.statement = state.statement.options(
        with_loader_criteria(
            BranchScoped,
            lambda cls: cls.branch_id.in_(branch_ids),
            include_aliases=True,
            # An empty scope says nothing about what may be loaded later: that is asked again, in the scope of then.
            propagate_to_loaders=bool(branch_ids),
            track_closure_variables=True,
        )
    )


def _scoped_tables(state: ORMExecuteState) -> set[str]:
    """Names of the scoped tables a statement reads or changes, in its columns, FROM and JOINs."""
    found: set[Any] = {table for mapper in state.all_mappers for table in mapper.tables}
    if isinstance(state.statement, Select):
        found.update(part for source in state.statement.get_final_froms() for part in visitors.iterate(source))
    # Of a model mapped onto a join, the table that says the branch.
    scoped = {inspect(model).c.branch_id.table.name for model in BranchScoped.__subclasses__()}
    return {part.name for part in found if isinstance(part, TableClause)} & scoped


def _refuse_foreign_writes(session: Session, _context: Any, _instances: Any) -> None:
    scope = _current.get()
    if scope is not None and scope.branch_ids is None:
        return
    for row in [*session.new, *session.dirty, *session.deleted]:
        if not isinstance(row, BranchScoped):
            continue
        if scope is None:
            raise ScopeMissing(f"no scope to write {type(row).__name__}")
        if any(not scope.covers(branch_id) for branch_id in _branches_touched(row)):
            raise Forbidden("foreign_branch", _("This belongs to another branch."))


def _branches_touched(row: BranchScoped) -> set[int]:
    """Branches `row` was in, is in and is about to be in; an expired row is read again, or it would say nothing."""
    attributes = inspect(row).attrs
    ids = attributes.branch_id.load_history()
    moved_to = attributes.branch.history.added or ()
    found = {*(ids.added or ()), *(ids.unchanged or ()), *(ids.deleted or ())} | {
        branch.id for branch in moved_to if branch is not None
    }
    return found - {None}


def install_scope(session_class: type[Session]) -> None:
    """Attach the two listeners, once per session class."""
    event.listen(session_class, "do_orm_execute", _add_criteria)
    event.listen(session_class, "before_flush", _refuse_foreign_writes)
