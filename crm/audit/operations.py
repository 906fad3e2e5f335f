"""Writing the audit log, and the one way to move a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

from flask_babel import gettext as _
from sqlalchemy import event, insert, inspect, select, update
from sqlalchemy.orm import Mapper, Session

from crm import clock
from crm.access.actors import Actor
from crm.audit.models import AuditAction, AuditEntry
from crm.audit.origin import current_origin
from crm.db import LabelEnum, Model, db
from crm.errors import Conflict

Row = TypeVar("Row", bound=Any)

# Change with every flush or are derived: noise in a history.
_IGNORED = frozenset({"version", "search", "updated_at"})


def transition(
    row: Row,
    moves: Mapping[Any, Set[Any]],
    to: LabelEnum,
    *,
    by: Actor,
    **also: Any,
) -> Row:
    """Move `row.status` to `to` if `moves` allows it and nobody else moved it first; set the columns of `also` with it.

    A conditional UPDATE decides races. Raises Conflict(code="transition") when the move is not allowed or was lost.
    The caller commits.
    """
    old, changes = row.status, _moved(row, to, also)
    db.session.flush()
    won = False
    if to in moves.get(old, frozenset()):
        won = _move([row], old, to, also) == 1
        db.session.refresh(row)
    if not won:
        raise _moved_away(row)
    record(AuditAction.TRANSITION, row, changes, by=by)
    return row


def transition_all(
    rows: Sequence[Any],
    moves: Mapping[Any, Set[Any]],
    to: LabelEnum,
    *,
    by: Actor,
    **also: Any,
) -> None:
    """transition() of several rows of one table: a statement for those of one status. Raises Conflict when any of them
    was lost, the others may have moved then: the caller rolls back. The caller commits.
    """
    if not rows:
        return
    model: Any = type(rows[0])
    changes = {row: _moved(row, to, also) for row in rows}
    db.session.flush()
    olds = [row.status for row in rows]
    won = 0
    for old in dict.fromkeys(olds):
        if to in moves.get(old, frozenset()):
            won += _move([row for row in rows if row.status is old], old, to, also)
    query = select(model).where(model.id.in_([row.id for row in rows]))
    db.session.scalars(query.execution_options(populate_existing=True)).all()
    if won != len(rows):
        lost = next(
            (row for row, old in zip(rows, olds, strict=True) if to not in moves.get(old, frozenset())), rows[0]
        )
        raise _moved_away(lost)
    record_all(AuditAction.TRANSITION, changes, by=by)


def _moved(row: Any, to: LabelEnum, also: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit tells of a move that is about to be made."""
    before = {name: getattr(row, name) for name in also}
    return {"status": [row.status.value, to.value]} | {
        name: [plain(before[name]), plain(value)] for name, value in also.items() if value != before[name]
    }


def _move(rows: Sequence[Any], old: LabelEnum, to: LabelEnum, also: Mapping[str, Any]) -> int:
    """Those of the rows that still have the old status get the new one; how many did."""
    model: Any = type(rows[0])
    values = {"status": to, **also}
    if hasattr(model, "version"):
        values["version"] = model.version + 1
    statement = update(model).where(model.id.in_([row.id for row in rows]), model.status == old).values(values)
    result: Any = db.session.execute(statement.execution_options(synchronize_session=False))
    return int(result.rowcount)


def _moved_away(row: Any) -> Conflict:
    text = _("The status is now “%(status)s”; this action is no longer possible.", status=row.status.label)
    return Conflict("transition", text)


def record(action: AuditAction, row: Any, changes: dict[str, Any], *, by: Actor) -> None:
    """Write one audit line about `row` now."""
    db.session.execute(insert(AuditEntry), [_line(action, row, changes, by)])


def record_all(action: AuditAction, changes: Mapping[Any, dict[str, Any]], *, by: Actor) -> None:
    """Write a line about each row now: what one statement has changed of many, by row."""
    if changes:
        db.session.flush()  # what was changed before is told of before
        lines = [_line(action, row, changed, by) for row, changed in changes.items()]
        db.session.connection().execute(insert(AuditEntry.__table__), lines)  # type: ignore[arg-type]


def record_export(entity: str, *, rows: int, description: str, by: Actor) -> None:
    """Note that personal data left the system as a file."""
    line = _line(AuditAction.EXPORT, None, {"rows": [None, rows], "what": [None, description]}, by)
    db.session.execute(insert(AuditEntry), [line | {"entity": entity, "entity_label": description[:200]}])


def _line(action: AuditAction, row: Any, changes: dict[str, Any], by: Actor) -> dict[str, Any]:
    return {
        "at": clock.now(),
        "actor_id": by.id,
        "actor_name": str(by.name),
        "origin": current_origin().source[:80],
        "action": action,
        "entity": type(row).__tablename__ if row is not None else "",
        "entity_id": row.id if row is not None else None,
        "entity_label": str(row)[:200] if row is not None else "",
        "branch_id": getattr(row, "branch_id", None),
        "changes": changes,
    }


def plain(value: Any) -> Any:
    """A value as JSON can keep it and a person can read it."""
    if isinstance(value, LabelEnum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | dict):
        return value if isinstance(value, dict) else [plain(item) for item in value]
    return str(value)


def _changes(row: Any, *, is_new: bool) -> dict[str, Any]:
    state = inspect(row)
    secret: frozenset[str] = getattr(row, "__secret__", frozenset())
    found: dict[str, Any] = {}
    for column in state.mapper.column_attrs:
        history = state.attrs[column.key].history
        if column.key in _IGNORED or not history.has_changes():
            continue
        old = None if is_new or not history.deleted else plain(history.deleted[0])
        new = plain(history.added[0]) if history.added else None
        if old == new:
            continue
        if column.key in secret:
            found[column.key] = ["…", "…"]
        elif isinstance(old, dict) or isinstance(new, dict):  # each of its keys is a field of its own
            before, after = old or {}, new or {}
            found |= {
                f"{column.key}.{key}": [before.get(key), after.get(key)]
                for key in (*before, *(key for key in after if key not in before))
                if before.get(key) != after.get(key)
            }
        else:
            found[column.key] = [old, new]
    for name, relation in state.mapper.relationships.items():
        if not relation.uselist or relation.secondary is None or name not in state.dict:
            continue
        history = state.attrs[name].history
        if history.has_changes():
            before = [str(item) for item in (*(history.unchanged or ()), *(history.deleted or ()))]
            found[name] = [None if is_new else before, [str(item) for item in getattr(row, name)]]
    if is_new:
        found |= {name: [None, value] for name, value in getattr(row, "audited_parts", {}).items()}
    return found


def _audit_flush(session: Session, _context: Any) -> None:
    """After the INSERTs and UPDATEs went out (ids exist) and while the old values are still known."""
    by, lines = current_origin().actor, []
    for rows, action in (
        (session.new, AuditAction.CREATE),
        (session.dirty, AuditAction.UPDATE),
        (session.deleted, AuditAction.DELETE),
    ):
        for row in rows:
            if not getattr(row, "__audited__", True):
                continue
            changes = {} if action is AuditAction.DELETE else _changes(row, is_new=action is AuditAction.CREATE)
            if changes or action is AuditAction.DELETE:
                lines.append(_line(action, row, changes, by))
    if lines:
        session.connection().execute(insert(AuditEntry.__table__), lines)  # type: ignore[arg-type]


def _remember_old_values() -> None:
    """A column set on an expired row is read first; else its old value would be lost, and a change seen in none."""
    for mapper in Model.registry.mappers:
        for column in mapper.column_attrs:
            mapper.class_manager[column.key].impl.active_history = True


def install_audit(session_class: type[Session]) -> None:
    """Attach the flush listener, once per session class."""
    event.listen(session_class, "after_flush", _audit_flush)
    event.listen(Mapper, "after_configured", _remember_old_values)
