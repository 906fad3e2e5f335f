"""How the schema says a column is ordered by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from crm.admin.kinds import EnumKind, ReferenceKind
from crm.admin.ordering import SortKey
from crm.db import db

if TYPE_CHECKING:
    from crm.admin.columns import GridColumn

# Tables with no more rows are ordered by going through them one by one.
MAX_RANKS = 40


def keys_of(column: GridColumn) -> list[SortKey]:
    """Keys of a column of the table: enums as declared, references by name, anything else as the database has it."""
    if isinstance(column.kind, EnumKind):
        return [SortKey(column.sql, _blank(column.sql), ranks=tuple(column.kind.cls))]
    if isinstance(column.kind, ReferenceKind):
        return _keys_of_reference(column.sql, column.kind)
    return [SortKey(column.sql, _blank(column.sql))]


def _keys_of_reference(key: Any, kind: ReferenceKind) -> list[SortKey]:
    """By what the target says it is ordered by (`__ordered_by__`), else its name; one without either by its number."""
    blank = _blank(key)
    table = kind.target.__table__
    names = getattr(kind.target, "__ordered_by__", ("name",) if "name" in table.c else ())
    if not names:
        return [SortKey(key, blank)]
    if kind.small:
        ranks = db.session.scalars(
            sa.select(table.c.id).order_by(*(table.c[name] for name in names), table.c.id).limit(MAX_RANKS + 1)
        )
        if len(found := tuple(ranks)) <= MAX_RANKS:
            return [SortKey(key, blank, ranks=found or None)]
    # The bare table: the rows of the grid are in scope already, and none of them goes for what it points at.
    target = table.alias()
    join = (target, target.c.id == key)
    # Where there is a target, all of its keys are there.
    return [SortKey(target.c[name], None if place else blank, join=join) for place, name in enumerate(names)]


def _blank(expression: Any) -> Any:
    """Condition of "nothing there"; None when the schema says there always is something."""
    columns = getattr(getattr(expression, "property", None), "columns", None) or [expression]
    column = columns[0]
    if getattr(column, "nullable", True):
        return expression.is_(None)
    if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum) and column.default is not None:
        return expression == ""
    return None
