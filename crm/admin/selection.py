"""Selection: which rows of a grid are meant — a search, filters and an order, or ticked ids, or all that match.

The list, its totals, the export and bulk actions all take one, so they can never disagree. It travels in the address:
`q=` search, `f.<column>.<operator>=` filters (repeatable), `sort=[-]<column>`, `page=`, `size=`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import sqlalchemy as sa
from werkzeug.datastructures import MultiDict

from crm.admin.kinds import BadFilter, Place
from crm.db import db

if TYPE_CHECKING:
    from crm.admin.columns import ColumnsView, GridColumn

PAGE_SIZES = (25, 50, 100, 200)
COUNT_LIMIT = 10_000
MAX_OFFSET = 100_000
OPERATORS = ("is", "has", "from", "to")


@dataclass(frozen=True)
class Filter:
    """One filter in force; error is set when its value could not be read (it is then not applied)."""

    name: str
    operator: str
    values: tuple[str, ...]
    error: str | None = None

    @property
    def key(self) -> str:
        return f"f.{self.name}.{self.operator}"


@dataclass(frozen=True)
class Selection:
    """See the module. sort: (column, descending) or None for the view's default."""

    view: ColumnsView
    place: Place
    search: str = ""
    filters: tuple[Filter, ...] = ()
    ids: tuple[int, ...] | None = None
    sort: tuple[str, bool] | None = None
    page: int = 1
    size: int = 50
    _conditions: tuple[Any, ...] = field(default=(), repr=False)

    @classmethod
    def from_args(cls, view: ColumnsView, args: MultiDict[str, str], place: Place) -> Selection:
        """Read an address. What cannot be read is dropped or marked; nothing raises."""
        columns = view.filter_columns()
        filters, conditions = [], []
        for key in args:
            parts = key.split(".")
            if len(parts) != 3 or parts[0] != "f" or parts[1] not in columns:
                continue
            _f, name, operator = parts
            values = tuple(value for value in args.getlist(key) if value.strip())
            column = columns[name]
            if not values or operator not in column.kind.operators:
                continue
            try:
                conditions.append(column.kind.condition(column.sql, operator, list(values), place))
                filters.append(Filter(name, operator, values))
            except BadFilter as error:
                filters.append(Filter(name, operator, values, str(error)))
        return cls(
            view,
            place,
            search=args.get("q", "").replace("\x00", "").strip()[:200],
            filters=tuple(filters),
            sort=_read_sort(args.get("sort", ""), view.sortable_columns()),
            page=max(1, _read_int(args.get("page"), 1)),
            size=size if (size := _read_int(args.get("size"), 50)) in PAGE_SIZES else 50,
            _conditions=tuple(conditions),
        )

    def only(self, ids: Iterable[str]) -> Selection:
        """The same, narrowed to ticked rows; ids that are no numbers are dropped."""
        return replace(self, ids=tuple(int(i) for i in ids if i.isascii() and i.isdigit() and len(i) < 19))

    # --- queries ----------------------------------------------------------------------------------------------------

    def _where(self, query: Any) -> Any:
        query = self.view.within_sight(query)
        if self.ids is not None:
            query = query.where(self.view.model.id.in_(self.ids))
        elif self.search:
            query = query.where(self.view.search_condition(self.search))
        query = query.where(*self._conditions)
        base = self.view.base_condition(self)
        return query if base is None else query.where(base)

    def _ordered(self, query: Any) -> Any:
        name, descending = self.sort or self.view.default_sort()
        column, key = self.view.sortable_columns()[name], self.view.model.id
        # The primary key breaks ties, so that pages never show a row twice.
        return query.order_by(*((column.desc(), key.desc()) if descending else (column.asc(), key.asc())))

    def query(self) -> Any:
        """SELECT of the rows, ordered, with what the columns show loaded along."""
        return self._ordered(self._where(sa.select(self.view.model)).options(*self.view.loader_options()))

    def select(self, *expressions: Any) -> Any:
        """SELECT of the rows' ids and these expressions, ordered, without the rows themselves."""
        return self._ordered(self._where(sa.select(self.view.model.id, *expressions).select_from(self.view.model)))

    def rows(self) -> tuple[list[Any], bool]:
        """The page's rows, and whether there is a next page."""
        offset = (self.page - 1) * self.size
        if offset >= MAX_OFFSET:
            return [], False
        found = list(db.session.scalars(self.query().limit(self.size + 1).offset(offset)).unique())
        return found[: self.size], len(found) > self.size

    def count(self, *, is_exact: bool = False) -> int:
        """Number of rows, counted no further than COUNT_LIMIT + 1 unless it must be exact."""
        query = self._where(sa.select(self.view.model.id))
        inner = (query if is_exact else query.limit(COUNT_LIMIT + 1)).subquery()
        return db.session.scalar(sa.select(sa.func.count()).select_from(inner)) or 0

    def totals(self, columns: Sequence[GridColumn]) -> dict[str, Any]:
        """Sum per column over the rows of the whole selection that count."""
        if not columns:
            return {}
        sums = [sa.func.coalesce(sa.func.sum(column.sql), 0).label(f"t{i}") for i, column in enumerate(columns)]
        query = self._where(sa.select(*sums).select_from(self.view.model))
        if (counted := self.view.counted_in_totals()) is not None:
            query = query.where(counted)
        row = db.session.execute(query).one()
        return {column.name: row[i] for i, column in enumerate(columns)}

    def row_ids(self) -> list[int]:
        """Ids of all rows, in the grid's order."""
        return list(db.session.scalars(self._ordered(self._where(sa.select(self.view.model.id)))))

    # --- addresses --------------------------------------------------------------------------------------------------

    def args(self, **changes: Any) -> list[tuple[str, str]]:
        """Query arguments of this selection with some replaced; None drops one."""
        sort = f"{'-' if self.sort[1] else ''}{self.sort[0]}" if self.sort else None
        values: dict[str, Any] = {
            "q": self.search or None,
            **{item.key: list(item.values) for item in self.filters},
            "sort": sort,
            "size": self.size if self.size != 50 else None,
            "page": self.page if self.page > 1 else None,
        }
        values.update(changes)
        return [
            (key, str(item))
            for key, value in values.items()
            if value is not None
            for item in (value if isinstance(value, list) else [value])
        ]

    def url(self, **changes: Any) -> str:
        """Relative address of the grid for this selection with some arguments replaced."""
        return "?" + urlencode(self.args(**changes))

    def filters_by(self, name: str) -> bool:
        """Whether the column is filtered by."""
        return any(item.name == name for item in self.filters)

    def values(self, name: str, operator: str) -> tuple[str, ...]:
        """What is filtered by now, for the filter form."""
        return next((f.values for f in self.filters if (f.name, f.operator) == (name, operator)), ())


def _read_int(text: str | None, default: int) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return default
    return int(text)


def _read_sort(text: str, sortable: dict[str, Any]) -> tuple[str, bool] | None:
    name = text.removeprefix("-")
    return (name, text.startswith("-")) if name in sortable else None
