"""One column of a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crm.admin.kinds import Kind


@dataclass(frozen=True)
class GridColumn:
    """A column of a grid: where its value is (`client.phone` follows relations), and what kind it is of."""

    name: str
    label: Any
    kind: Kind
    sql: Any  # the mapped column, or a typed expression, to filter, sort and total by; None for a computed value
    is_custom: bool = False  # a field staff have added, named `custom.<key>`

    def value(self, row: Any) -> Any:
        for part in self.name.split("."):
            if row is None:
                return None
            row = getattr(row, part)
        return row


@dataclass(frozen=True)
class LoadedColumn(GridColumn):
    """A column whose value the database works out of other tables. Of a page it is asked for the page's rows alone, so
    nothing is filtered or sorted by it; `sql` may be correlated to the row.
    """

    def value(self, row: Any) -> Any:
        return row.loaded[self.name]  # Selection.read_page() puts it there


@dataclass(frozen=True)
class FoundColumn(GridColumn):
    """A column the row has no attribute for. of: its value; `sql` says the same, for filters, orders and sums."""

    of: Callable[[Any], Any] = lambda row: None

    def value(self, row: Any) -> Any:
        return self.of(row)
