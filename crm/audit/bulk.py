"""The same change of many rows at once: a few statements for a batch, each row audited as if changed alone.

A Change is data: new values, and who is refused and why. The preview counts by it and change_many() obeys it, so the
two cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask_babel import gettext as _

from crm import clock
from crm.access.actors import Actor
from crm.audit.models import AuditAction, AuditEntry
from crm.audit.operations import plain
from crm.audit.origin import current_origin
from crm.db import Money, db, insert_rows, patched
from crm.protocol import Outcome, ProtocolLine

_CHANGES, _STAYS = -1, -2  # verdicts beside the number of a refusal


@dataclass(frozen=True)
class Refusal:
    """Rows the SQL condition holds for are left as they are; reason: the text of the protocol. is_of_value: it is about
    the new value, so an undo does not ask.
    """

    condition: Any
    reason: str
    is_of_value: bool = False


@dataclass(frozen=True)
class Change:
    """New values for columns of a table; `column.key` names one key of a JSON column, as the audit does, and None takes
    it away. Of several refusals the first that holds is told.

    label: columns a row is called by in the protocol and the audit, and how they are put together.
    is_kept: the protocol keeps the old values, for an undo. so_already: what it says of a row that has these values
    already, and so is skipped.
    """

    model: type[Any]
    values: Mapping[str, Any]
    refusals: Sequence[Refusal]
    label: tuple[Sequence[Any], Callable[..., str]]
    action: AuditAction = AuditAction.UPDATE
    is_kept: bool = True
    so_already: str = ""

    def verdict(self) -> Any:
        """SQL: number of the refusal, or _CHANGES, or _STAYS for a row that has these values already."""
        columns, keys = _sorted_out(self.values)
        differs = [getattr(self.model, name).is_distinct_from(value) for name, value in columns.items()]
        for name, patch in keys.items():
            column = getattr(self.model, name)
            differs.append(patched(column, {}).is_distinct_from(patched(column, patch)))
        return sa.case(
            *((refusal.condition, number) for number, refusal in enumerate(self.refusals)),
            (sa.or_(sa.false(), *differs), _CHANGES),
            else_=_STAYS,
        )

    def name_of(self, row: Any) -> str:
        """What a row read by _locked() is called."""
        columns, text = self.label
        return text(*(getattr(row, f"label_{number}") for number in range(len(columns))))[:200]


@dataclass(frozen=True)
class Preview:
    """What a change would do: rows that change, those left as they are since there is nothing to do, and refused ones,
    by reason.
    """

    changes: int
    skipped: dict[str, int]
    refused: dict[str, int]


def preview_of(change: Change, counts: Iterable[tuple[int, int]]) -> Preview:
    """counts: (verdict, number of rows) as the database grouped them."""
    found = dict(counts)
    refused: dict[str, int] = {}
    for number, refusal in enumerate(change.refusals):
        if number in found:
            refused[refusal.reason] = refused.get(refusal.reason, 0) + found[number]
    skipped = {_so_already(change): found[_STAYS]} if _STAYS in found else {}
    return Preview(found.get(_CHANGES, 0), skipped, refused)


def change_many(change: Change, ids: Sequence[int], *, by: Actor) -> list[ProtocolLine]:
    """Carry out a change of these rows. One line per id, in the order given; an id outside the scope was not found.

    The rows are locked in id order, whatever was asked, so that two people's changes queue up and do not deadlock; what
    is decided of a row is decided of it as it is then. The caller has asked for the permission, and commits.
    """
    names = list(change.values)
    new = {name: plain(value) for name, value in change.values.items()}
    lines: dict[int, ProtocolLine] = {}
    changed: dict[int, dict[str, Any]] = {}
    rows = _locked(change, ids, names, change.verdict())
    for row in rows:
        label = change.name_of(row)
        if row.verdict >= 0:
            line = ProtocolLine(row.id, label, Outcome.FAILED, change.refusals[row.verdict].reason)
        elif row.verdict == _STAYS:
            line = ProtocolLine(row.id, label, Outcome.SKIPPED, _so_already(change))
        else:
            olds = {name: _old(row, name) for name in names}
            changed[row.id] = {name: [old, new[name]] for name, old in olds.items() if old != new[name]}
            line = ProtocolLine(row.id, label, changes=changed[row.id] if change.is_kept else None)
        lines[row.id] = line
    if changed:
        columns, keys = _sorted_out(change.values)
        patches = {name: patched(getattr(change.model, name), patch) for name, patch in keys.items()}
        values = _next(change.model, columns | patches)
        statement = sa.update(change.model).where(change.model.id.in_(changed)).values(values)
        db.session.execute(statement.execution_options(synchronize_session=False))
        _note(change, [row for row in rows if row.id in changed], changed, by)
    return [lines.get(row_id) or _not_found(row_id) for row_id in ids]


def put_back(change: Change, done: Sequence[tuple[int, dict[str, Any]]], *, by: Actor) -> list[ProtocolLine]:
    """Undo what a change did, as noted in its protocol: (row id, {field: [old, new]}). The caller commits.

    Only where the row still has every value the change gave it and the change would not refuse the row; one that has
    all its old values by now is skipped.
    """
    guard = replace(change, values={}, refusals=[refusal for refusal in change.refusals if not refusal.is_of_value])
    names = sorted({name for _id, changes in done for name in changes})
    rows = {row.id: row for row in _locked(guard, [row_id for row_id, _changes in done], names, guard.verdict())}
    lines: list[ProtocolLine] = []
    reverted: dict[int, dict[str, Any]] = {}
    for row_id, changes in done:
        row = rows.get(row_id)
        if row is None:
            lines.append(_not_found(row_id))
            continue
        label = guard.name_of(row)
        if all(_old(row, name) == before for name, (before, _new) in changes.items()):
            line = ProtocolLine(row_id, label, Outcome.SKIPPED, _("It has its old values already."))
        elif row.verdict >= 0:
            line = ProtocolLine(row_id, label, Outcome.FAILED, guard.refusals[row.verdict].reason)
        elif any(_old(row, name) != new for name, (_before, new) in changes.items()):
            line = ProtocolLine(row_id, label, Outcome.FAILED, _("Changed since then; left as it is."))
        else:
            reverted[row_id] = {name: [new, before] for name, (before, new) in changes.items()}
            line = ProtocolLine(row_id, label, changes=reverted[row_id])
        lines.append(line)
    _write_each(guard.model, reverted)
    if reverted:
        _note(guard, [row for row in rows.values() if row.id in reverted], reverted, by)
    return lines


def _locked(change: Change, ids: Sequence[int], names: Sequence[str], verdict: Any) -> Sequence[Any]:
    """The rows as they are now, held until the transaction ends; the scope's only."""
    model = change.model
    known = dict.fromkeys(name.partition(".")[0] for name in names)
    columns = [getattr(model, name).label(f"old_{name}") for name in known]
    columns += [column.label(f"label_{number}") for number, column in enumerate(change.label[0])]
    if hasattr(model, "branch_id"):
        columns.append(model.branch_id.label("branch_id"))
    query = sa.select(model.id, verdict.label("verdict"), *columns).where(model.id.in_(ids)).order_by(model.id)
    return db.session.execute(query.with_for_update(key_share=True, of=model)).all()


def _next(model: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and the version one further: who edits a row meanwhile sees that it has changed."""
    return {**values, "version": model.version + 1} if hasattr(model, "version") else dict(values)


def _write_each(model: type[Any], changes: Mapping[int, dict[str, Any]]) -> None:
    """Give every row (locked, and so of the scope) values of its own: {row id: {field: [old, new]}}."""
    table: Any = sa.inspect(model).local_table
    by_fields: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row_id, changed in changes.items():
        columns, keys = _sorted_out({name: new for name, (_before, new) in changed.items()})
        values = {f"new_{name}": _recalled(model, name, new) for name, new in columns.items()}
        values |= {f"new_{name}": patch for name, patch in keys.items()}
        by_fields.setdefault((*sorted(columns), *sorted(keys)), []).append({"row_id": row_id, **values})
    for names, rows in by_fields.items():
        values = {name: _assigned(table.c[name]) for name in names}
        if "version" in table.c:
            values["version"] = table.c.version + 1
        statement = sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(values)
        db.session.connection().execute(statement, rows)


def _note(change: Change, rows: Iterable[Any], changes: Mapping[int, dict[str, Any]], by: Actor) -> None:
    """A line of the audit for each row that was changed; what the session knows of them is read anew."""
    same = {
        "at": clock.now(),
        "actor_id": by.id,
        "actor_name": str(by.name),
        "origin": current_origin().source[:80],
        "action": change.action,
        "entity": change.model.__tablename__,
    }
    entries = [
        {
            **same,
            "entity_id": row.id,
            "entity_label": change.name_of(row),
            "branch_id": getattr(row, "branch_id", None),
            "changes": changes[row.id],
        }
        for row in rows
    ]
    insert_rows(AuditEntry, entries)
    for known in list(db.session.identity_map.values()):
        if isinstance(known, change.model) and sa.inspect(known).identity[0] in changes:
            db.session.expire(known)


def _not_found(row_id: int) -> ProtocolLine:
    return ProtocolLine(row_id, f"#{row_id}", Outcome.FAILED, _("Not found"))


def _so_already(change: Change) -> str:
    return change.so_already or _("It is so already.")


def _sorted_out(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Values by column, and {JSON column: {key: value}}."""
    columns: dict[str, Any] = {}
    keys: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        column, _dot, key = name.partition(".")
        if key:
            keys.setdefault(column, {})[key] = value
        else:
            columns[name] = value
    return columns, keys


def _old(row: Any, name: str) -> Any:
    """A value of a row read by _locked(), as the audit keeps it."""
    column, _dot, key = name.partition(".")
    value = plain(getattr(row, f"old_{column}"))
    return (value or {}).get(key) if key else value


def _assigned(column: Any) -> Any:
    new = sa.bindparam(f"new_{column.name}", type_=column.type)
    return patched(column, new) if isinstance(column.type, sa.JSON) else new


def _recalled(model: type[Any], name: str, value: Any) -> Any:
    """A value of a column from what plain() made of it."""
    kind = sa.inspect(model).columns[name].type
    if value is None:
        return None
    if isinstance(kind, sa.Enum) and kind.enum_class is not None:
        return kind.enum_class(value)
    if isinstance(kind, Money):
        return Decimal(value)
    if kind.python_type is datetime:
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if kind.python_type is date else value
