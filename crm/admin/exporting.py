"""A selection as an Excel file: at once while it is small, as a job when it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import Response, flash, g, redirect, request
from flask_admin import expose
from flask_babel import get_locale, ngettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from sqlalchemy.orm import InstrumentedAttribute, RelationshipProperty, Session

from crm import clock
from crm.access.models import Branch
from crm.admin.bulk import BulkView, job_url
from crm.admin.cells import CellRows, Joins, SqlCell, compile_cells
from crm.admin.column import GridColumn, LoadedColumn
from crm.admin.fields import Form
from crm.admin.kinds import Kind, ReferenceKind
from crm.admin.selection import Selection
from crm.audit.operations import record_export
from crm.background.operations import start_job
from crm.db import db, end_reading, reading, transaction
from crm.exchange import excel

EXPORT = "export"  # the kind of job
ROWS_AT_ONCE = 20_000  # more are a job


@dataclass(frozen=True)
class Export:
    """What a file holds. columns: in their order; file_name: what it is saved as."""

    selection: Selection
    columns: list[GridColumn]
    title: str
    file_name: str

    @property
    def sheet_columns(self) -> list[excel.Column]:
        width_of = self.selection.view.column_width
        return [excel.Column(str(column.label), column.kind.excel, width_of(column)) for column in self.columns]

    def rows(self) -> contextlib.AbstractContextManager[CellRows]:
        """Its rows, to be read once."""
        return self.selection.view.export_rows(self)

    def totals(self, rows: CellRows) -> list[Any] | None:
        """The last line: the sums, and what they are before them; None where there is nothing to add up."""
        if not rows.sums or not rows.count:
            return None
        line = [rows.sums.get(place) for place in range(len(self.columns))]
        if line[0] is None:
            line[0] = str(self.selection.view.totals_label)
        return line


class ExportView(BulkView):
    """See the module."""

    label_column: ClassVar[str | None] = None  # what str() of a row is, where it is a column

    @property
    def may_export(self) -> bool:
        return self.may("export")

    @expose("/export/xlsx/", methods=("GET", "POST"))
    def export(self) -> Any:
        """The selection as Excel, all pages: the shown columns in the shown order, all there are (columns=all), or
        those named (columns=name,name).
        """
        selection = Selection.from_args(self, request.values, self.here())
        if request.form.get("rows") == "ticked" and request.form.get("all") != "1":
            selection = selection.only(request.form.getlist("id"))
            if not selection.ids:
                flash(_("Tick the rows first."), "warning")
                return redirect(self.get_url(".index_view") + selection.url())
        if selection.doubt is not None:
            flash(selection.doubt, "danger")
            return redirect(self.get_url(".index_view") + selection.url())
        columns = self._columns_asked(request.values.get("columns", ""))
        count = selection.count(is_exact=True)
        export = self.export_of(selection, columns)
        if count > ROWS_AT_ONCE:
            return self._export_later(export, count)
        with transaction():
            record_export(self.model.__tablename__, rows=count, description=selection.url(), by=current_user)
        with reading(), export.rows() as rows:  # a long export holds up nobody who writes
            chunks = excel.export_file(
                export.sheet_columns, rows, title=export.title, time_zone=None, totals=lambda: export.totals(rows)
            )
        return Response(
            chunks,
            mimetype=excel.XLSX,
            headers={"Content-Disposition": excel.content_disposition(export.file_name)},
        )

    def _columns_asked(self, text: str) -> list[GridColumn]:
        if text in {"", "all"}:
            return self.available_columns() if text else self.columns
        known = {column.name: column for column in self.available_columns()}
        return [known[name] for name in text.split(",") if name in known] or self.columns

    def _export_later(self, export: Export, count: int) -> Any:
        """A job, when a form asks for it; who has only followed an address is asked first."""
        params = {
            "selection": export.selection.to_params(),
            "columns": [column.name for column in export.columns],
            "back": export.selection.url(),
        }
        return self.answer(
            Form(request.form),
            lambda: start_job(
                EXPORT,
                by=current_user,
                title=_("Export: %(what)s", what=self.name),
                entity=self.entity,
                params=params,
                branch_id=g.scope.branch_id,
                locale=str(get_locale()),
                total=count,
            ),
            title=_("Export: %(what)s", what=self.name),
            subtitle=ngettext("%(num)s row", "%(num)s rows", count),
            warning=_("So many rows take a while: the file is prepared in the background, and its page shows how far."),
            back=self.get_url(".index_view") + export.selection.url(),
            done=job_url,
            said=_l("The file is being prepared."),
            submit=_("Prepare the file"),
        )

    def export_of(self, selection: Selection, columns: Sequence[GridColumn]) -> Export:
        title = str(self.name)
        day = selection.as_of or clock.today(self.here())
        return Export(selection, selection.columns(columns), title, f"{title} {day.isoformat()}.xlsx")

    def column_width(self, column: GridColumn) -> float:
        """Width of a column in a sheet, in characters."""
        return column.kind.width

    # --- rows -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def export_rows(self, export: Export, *, is_fast: bool | None = None) -> Iterator[CellRows]:
        """The rows, read through a session of their own: whoever notes progress meanwhile commits and reads on.

        is_fast: through SQL alone or through the ORM; as the columns allow, unless told.
        """
        cells = self._sql_cells(export.columns) if is_fast is not False else None
        if cells is None and is_fast:
            raise LookupError("a column needs the ORM")
        summed = [place for place, column in enumerate(export.columns) if self.is_totalled(column)]
        counted = self.counted_in_totals() if summed else None
        extra = [] if counted is None else [counted.label("is_counted")]
        is_counted = itemgetter(-1) if extra else None
        end_reading()
        with reading(), Session(db.engine, autoflush=False) as session:
            if cells is None:
                loaded = [column for column in export.columns if isinstance(column, LoadedColumn)]
                makers: list[Any] = [
                    self._loaded_cell(column, loaded.index(column) + 1)  # behind the row itself
                    if isinstance(column, LoadedColumn)
                    else _of_first(self.exporter(column))
                    for column in export.columns
                ]
                query = export.selection.query().add_columns(*(column.sql for column in loaded), *extra)
            else:
                joins, sources = cells
                selected, makers = compile_cells(sources, start=1)  # behind the row's id, which brings the row scope
                query = joins.apply(export.selection.select(*selected, *extra))
            chunk = 1000 if cells is None else 2000
            rows = CellRows(session, query, makers, summed=summed, is_counted=is_counted, chunk=chunk)
            with contextlib.closing(rows):
                yield rows

    def _sql_cells(self, columns: Sequence[GridColumn]) -> tuple[Joins, list[SqlCell]] | None:
        joins, cells = Joins(), []
        for column in columns:
            cell = self.sql_cell(column, joins)
            if cell is None:
                return None
            cells.append(cell)
        return joins, cells

    # --- cells ------------------------------------------------------------------------------------------------------

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        """How a row's cell is made for exchange/excel.py: what the grid shows, as a number or a date where it is one.

        Asked once per file: what is the same for all of its rows is found out once. Who overrides this for a column
        says the same in sql_cell(), or None there.
        """
        is_plain = type(column) is GridColumn and "." not in column.name and not column.is_custom
        value = attrgetter(column.name) if is_plain else column.value
        export = column.kind.exporter()
        if column.kind.excel == "datetime":
            return lambda row: self._on_wall_clock(export(value(row)), row)
        return lambda row: export(value(row))

    def _loaded_cell(self, column: LoadedColumn, place: int) -> Callable[[Any], Any]:
        """The same of what the database has worked out: at `place` of what is read, the row itself at the first."""
        export = column.kind.exporter()
        if column.kind.excel == "datetime":
            return lambda found: self._on_wall_clock(export(found[place]), found[0])
        return lambda found: export(found[place])

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        """The same cell as exporter()'s, of SQL values; None when only the row itself can tell."""
        head, _dot, rest = column.name.partition(".")
        attribute = getattr(self.model, head, None)
        if not column.is_custom and _is_relation(attribute):
            return self._sql_reference(attribute, rest, column.kind, joins)
        if column.sql is None:
            return None
        return self._sql_value(column.sql, column.kind)

    def sql_label(self, row: Any) -> SqlCell | None:
        """str() of a row of this table in SQL values, for exports of tables that point here; None when it cannot be
        said. row: the model, or an alias of it that may be NULL; make() is not asked about that.
        """
        return SqlCell((getattr(row, self.label_column),)) if self.label_column else None

    def _sql_reference(self, relation: Any, rest: str, kind: Kind, joins: Joins) -> SqlCell | None:
        prop = relation.property
        if prop.uselist:
            return None
        if rest:
            target = joins.to(relation)
            found = getattr(target, rest, None)
            return (
                self._sql_value(found, kind) if isinstance(found, InstrumentedAttribute) and "." not in rest else None
            )
        if isinstance(kind, ReferenceKind) and kind.small:
            return SqlCell((_key_of(relation),), labels_of(kind.target).get)
        view = self.view_of(prop.mapper.class_)
        target = joins.to(relation)
        label = view.sql_label(target) if isinstance(view, ExportView) else None
        if label is None or label.make is None:
            return label
        make = label.make
        return SqlCell((target.id, *label.expressions), lambda id, *values: None if id is None else make(*values))

    def _sql_value(self, expression: Any, kind: Kind) -> SqlCell:
        export = kind.exporter()
        if kind.excel != "datetime":
            return SqlCell((expression,), export)
        here = ZoneInfo(self.here().time_zone)
        branch = getattr(self.model, "branch", None)
        if not _is_relation(branch):
            return SqlCell((expression,), lambda value: None if value is None else export(value).astimezone(here))
        zones = {found.id: ZoneInfo(found.time_zone) for found in db.session.scalars(sa.select(Branch))}
        return SqlCell(
            (expression, _key_of(branch)),
            lambda value, branch_id: None if value is None else export(value).astimezone(zones.get(branch_id, here)),
        )

    def _on_wall_clock(self, instant: datetime | None, row: Any) -> datetime | None:
        return None if instant is None else clock.local(instant, self.place_of(row))


def labels_of(model: type[Any]) -> dict[int, str]:
    """What the rows of a small table are called, by id."""
    return {row.id: str(row) for row in db.session.scalars(sa.select(model))}


def _is_relation(attribute: Any) -> bool:
    return isinstance(attribute, InstrumentedAttribute) and isinstance(attribute.property, RelationshipProperty)


def _key_of(relation: Any) -> Any:
    """The mapped column that holds the key of a many-to-one relation."""
    [column] = relation.property.local_columns
    # Not by the column's own name: of a join of tables there may be several of one name.
    return getattr(relation.class_, relation.property.parent.get_property_by_column(column).key)


def _of_first(cell: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda row: cell(row[0])
