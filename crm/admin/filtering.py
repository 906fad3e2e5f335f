"""Filters as people see them: in words, as quick chips, and in a builder that works without scripts.

The builder is a form of rows (column, operator, values, group). It is sent by GET to its own address, which shows it
again with one row more or another operator's control, or leads to the grid with the filters in its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import pgettext
from werkzeug.datastructures import MultiDict

from crm.admin.columns import GridColumn, permission
from crm.admin.kinds import BadFilter, ReferenceKind
from crm.admin.selection import AS_OF, Filter, Selection
from crm.admin.shaping import ShapingView
from crm.db import db
from crm.i18n import day, money

# Both ends in one row of the builder; two filters in the address.
RANGE = "range"
GROUPS = {"": _l("all of these"), "any1": _l("any of the first group"), "any2": _l("any of the second group")}
MAX_ROWS = 30
KEPT = frozenset({"q", "sort", "size", "in", AS_OF})  # arguments the builder is not about


@dataclass(frozen=True)
class QuickFilter:
    """A filter people need daily, one click away. args: [(argument, value), …] of the grid's address; key: by which
    chip_notes() says what stands behind it.
    """

    label: Any
    args: tuple[tuple[str, str], ...]
    key: str = ""


@dataclass(frozen=True)
class QuickChip:
    """A quick filter as the grid shows it: where a click leads, whether it is in force, and what stands behind it."""

    label: Any
    url: str
    is_on: bool
    note: str = ""


@dataclass(frozen=True)
class BuilderRow:
    """A row of the builder. values: of a range its two ends."""

    column: GridColumn
    operator: str
    values: tuple[str, ...] = ()
    group: str = ""
    error: str | None = None

    @property
    def operators(self) -> list[tuple[str, Any]]:
        """The operators to choose from; the ends of a range are one where both must hold."""
        kind = self.column.kind
        is_range = not self.group and {"from", "to"} <= set(kind.operators)
        names = [name for name in kind.operators if not (is_range and name in {"from", "to"})]
        ranges = [(RANGE, pgettext("filter", "from – to"))] if is_range else []
        return [*ranges, *((name, kind.operator_labels[name]) for name in names)]

    @property
    def choices(self) -> Sequence[tuple[str, Any]]:
        """What to choose the value from; empty when it is typed."""
        if self.operator == "empty":
            return [("1", pgettext("filter", "is empty")), ("0", pgettext("filter", "is filled in"))]
        if self.operator == "period":
            return self.column.kind.periods()  # type: ignore[attr-defined]
        return self.column.kind.choices() if self.operator in {"is", "not"} else ()

    def args(self) -> Iterable[tuple[str, str]]:
        """The arguments of the grid's address it stands for."""
        prefix = f"{self.group}." if self.group else ""
        if self.operator == RANGE:
            pairs = zip(("from", "to"), (*self.values, "", ""), strict=False)
            return [(f"f.{self.column.name}.{end}", value) for end, value in pairs if value.strip()]
        key = f"{prefix}f.{self.column.name}.{self.operator}"
        return [(key, value) for value in self.values if value.strip()]


class FilteringView(ShapingView):
    """See the module."""

    def quick_filters(self) -> list[QuickFilter]:
        """The filters people of this grid need daily."""
        return []

    def chip_notes(self, selection: Selection, *, exact: bool) -> dict[str, str]:
        """What stands behind quick filters, by their keys, where it is found out quickly, or it must be `exact`."""
        return {}

    def quick_chips(self, selection: Selection, notes: Mapping[str, str]) -> list[QuickChip]:
        """The quick filters this person may use; a click on one in force takes it off."""
        present, columns, chips = selection.args(page=None), selection.filter_columns(), []
        for item in self.quick_filters():
            if any(key.partition("f.")[2].rpartition(".")[0] not in columns for key, _value in item.args):
                continue
            is_on = all(pair in present for pair in item.args)
            keys = {key for key, _value in item.args}
            others = [pair for pair in present if (pair not in item.args if is_on else pair[0] not in keys)]
            url = "?" + (urlencode(others if is_on else [*others, *item.args]) or "view=")
            chips.append(QuickChip(item.label, url, is_on, notes.get(item.key, "")))
        return chips

    def filter_text(self, item: Filter) -> str:
        """A filter in words: «Статус: ожидает оплаты», «Сумма от 1 000»."""
        values = ", ".join(self._value_text(item, value) for value in item.values)
        texts = {
            "not": _("%(column)s: none of %(values)s", column=item.label, values=values),
            "has": _("%(column)s contains “%(values)s”", column=item.label, values=values),
            "from": _("%(column)s from %(values)s", column=item.label, values=values),
            "to": _("%(column)s up to %(values)s", column=item.label, values=values),
        }
        return texts.get(item.operator) or f"{item.label}: {values}"

    def _value_text(self, item: Filter, text: str) -> str:
        if item.column is None or item.error:
            return text
        row = BuilderRow(item.column, item.operator, group=item.group)
        options = {value: str(label) for value, label in row.choices}
        if text in options:
            return options[text]
        kind = item.column.kind
        if isinstance(kind, ReferenceKind):  # of a large table, in sight like any other
            found = db.session.scalar(sa.select(kind.target).where(kind.target.id == int(text)))
            return str(found) if found is not None else f"#{text}"
        try:
            value = kind.read(text.strip(), self.here())
        except BadFilter:
            return text
        if isinstance(value, date) and not isinstance(value, datetime):
            return day(value)
        return money(value) if isinstance(value, Decimal) else text

    # --- the builder ------------------------------------------------------------------------------------------------

    @expose("/filters/")
    @permission("view")
    def filters_view(self) -> Any:
        """The filter builder; see the module."""
        kept = [(key, value) for key, value in request.args.items(multi=True) if key in KEPT]
        if request.args.get("rows") is None:
            selection = Selection.from_args(self, request.args, self.here())
            return self._builder(self._rows_of(selection), kept)
        rows = self._read_rows(request.args)
        if request.args.get("do") == "apply":
            pairs = [*kept, *(pair for row in rows for pair in row.args())]
            return redirect(f"{self.get_url('.index_view')}?{urlencode(pairs) or 'view='}")
        return self._builder(rows, kept)

    def _builder(self, rows: list[BuilderRow], kept: list[tuple[str, str]]) -> str:
        kept_query = urlencode([*kept, *(pair for row in rows for pair in row.args())])
        return self._panel(
            "admin/grid/builder.html",
            rows=rows,
            kept=kept,
            columns=list(self.filter_columns().values()),
            groups=GROUPS,
            is_grouped=any(row.group for row in rows),
            grid_query=kept_query,
        )

    @staticmethod
    def _rows_of(selection: Selection) -> list[BuilderRow]:
        """Rows of the filters in force; the two ends of a range are one."""
        rows: list[BuilderRow] = []
        for item in selection.filters:
            if item.column is None or item.name == AS_OF:
                continue
            row = BuilderRow(item.column, item.operator, item.values, item.group, item.error)
            if not item.group and item.operator in {"from", "to"}:
                values = (item.values[0], "") if item.operator == "from" else ("", item.values[0])
                twin = next((r for r in rows if r.operator == RANGE and r.column.name == item.name), None)
                if twin is not None:
                    both = tuple(new or old for new, old in zip(values, twin.values, strict=True))
                    rows[rows.index(twin)] = replace(twin, values=both, error=twin.error or item.error)
                    continue
                row = replace(row, operator=RANGE, values=values)
            rows.append(row)
        return rows

    def _read_rows(self, args: MultiDict[str, str]) -> list[BuilderRow]:
        """The rows of a sent builder but the one to be removed; an operator a column does not know is its first."""
        columns, rows = self.filter_columns(), []
        removed = args.get("do", "").removeprefix("remove:")
        for number in map(str, range(MAX_ROWS)):
            column = columns.get(args.get(f"c{number}", ""))
            if column is None or number == removed:
                continue
            group = group if (group := args.get(f"g{number}", "")) in GROUPS else ""
            row = BuilderRow(column, args.get(f"o{number}", ""), tuple(args.getlist(f"v{number}")), group)
            if row.operator not in dict(row.operators):
                row = replace(row, operator=row.operators[0][0])
            if row.operator != RANGE:  # a range that became something else leaves no empty end
                row = replace(row, values=tuple(value for value in row.values if value.strip()))
            rows.append(row)
        return rows
