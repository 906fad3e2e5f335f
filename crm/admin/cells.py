"""Cells of an export made of SQL values alone: no ORM rows, so several times as fast, and no memory to speak of.

A view says of a column which SQL expressions it needs and how its cell is made of them (ExportView.sql_cell). A column
that cannot be said so costs the whole file the way through the ORM, which gives the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy.orm import aliased


@dataclass(frozen=True)
class SqlCell:
    """expressions: what is selected; make: the cell of their values, in their order (None: the only value itself)."""

    expressions: tuple[Any, ...]
    make: Callable[..., Any] | None = None


class Joins:
    """The tables joined for the names of what rows point at, each relation once."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Any, Any]] = {}

    def to(self, relation: Any) -> Any:
        """The table at the other end of a many-to-one relation of the model; all its columns are NULL for no row."""
        if relation.key not in self._found:
            self._found[relation.key] = (relation, aliased(relation.property.mapper.class_))
        return self._found[relation.key][1]

    def apply(self, query: Any) -> Any:
        for relation, target in self._found.values():
            query = query.outerjoin(relation.of_type(target))
        return query


class CellRows:
    """Rows of cells, read as they are asked for, once; and the sums of the rows that count.

    cells: how each is made of a row of `query`; summed: places of the cells summed up; is_counted: of which rows, None
    for all; chunk: rows fetched at a time.
    """

    def __init__(
        self,
        session: Any,
        query: Any,
        cells: Sequence[Callable[[Any], Any]],
        *,
        summed: Sequence[int] = (),
        is_counted: Callable[[Any], Any] | None = None,
        chunk: int = 2000,
    ) -> None:
        self._session, self._cells, self._is_counted = session, list(cells), is_counted
        self._query = query.execution_options(yield_per=chunk)
        self.sums: dict[int, Any] = dict.fromkeys(summed, 0)
        self.count = 0
        self._result: Any = None

    def close(self) -> None:
        """Give the cursor back, also when the rows were not read to their end."""
        if self._result is not None:
            self._result.close()

    def __iter__(self) -> Iterator[list[Any]]:
        cells, sums, is_counted = self._cells, self.sums, self._is_counted
        self._result = self._session.execute(self._query)
        for row in self._result:
            values = [cell(row) for cell in cells]
            self.count += 1
            if sums and (is_counted is None or is_counted(row)):
                for place in sums:
                    sums[place] += values[place] or 0
            yield values


def compile_cells(cells: Sequence[SqlCell], *, start: int = 0) -> tuple[list[Any], list[Callable[[Any], Any]]]:
    """What to select for the cells, nothing twice, and how each is made of a row that has it from place `start` on."""
    places: dict[Any, int] = {}
    selected: list[Any] = []
    makers: list[Callable[[Any], Any]] = []
    for cell in cells:
        found = []
        for expression in cell.expressions:
            key = _identity(expression)
            if key not in places:
                places[key] = start + len(selected)
                selected.append(expression.label(f"c{len(selected)}"))
            found.append(places[key])
        makers.append(_maker(found, cell.make))
    return selected, makers


def _identity(expression: Any) -> Any:
    """Equal for the same column of the same table or alias: each use of a mapped column is an object of its own."""
    parent = getattr(expression, "parent", None)
    return (id(parent), expression.key) if parent is not None else id(expression)


def _maker(places: Sequence[int], make: Callable[..., Any] | None) -> Callable[[Any], Any]:
    if make is None:
        return itemgetter(places[0])
    function = make
    if len(places) == 1:
        place = places[0]
        return lambda row: function(row[place])
    if len(places) == 2:
        one, two = places
        return lambda row: function(row[one], row[two])
    pick = itemgetter(*places)
    return lambda row: function(*pick(row))
