"""A selection as an Excel file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any

from flask import Response, request
from flask_admin import expose
from flask_login import current_user

from crm import clock
from crm.admin.bulk import BulkView
from crm.admin.columns import GridColumn
from crm.admin.selection import Selection
from crm.audit.operations import record_export
from crm.db import db, reading, transaction
from crm.exchange import excel

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


class ExportView(BulkView):
    """See the module."""

    @expose("/export/xlsx/")
    def export(self) -> Any:
        """The selection as Excel: the shown columns, in the shown order, all pages."""
        selection = Selection.from_args(self, request.args, self.here())
        title = str(self.name)
        columns = [excel.Column(str(column.label), column.kind.excel, column.kind.width) for column in self.columns]
        with transaction():
            rows = selection.count(is_exact=True)
            record_export(self.model.__tablename__, rows=rows, description=selection.url(), by=current_user)
        with reading():  # a long export holds up nobody who writes
            chunks = excel.export_file(columns, self._export_rows(selection), title=title, time_zone=None)
        stamp = clock.local(clock.now(), self.here()).strftime("%Y-%m-%d")
        return Response(
            chunks,
            mimetype=XLSX,
            headers={"Content-Disposition": excel.content_disposition(f"{title} {stamp}.xlsx")},
        )

    def _export_rows(self, selection: Selection) -> Iterator[list[Any]]:
        cells = [self.exporter(column) for column in self.columns]
        for row in db.session.scalars(selection.query().execution_options(yield_per=1000)):
            yield [cell(row) for cell in cells]

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        """How a row's cell is made for exchange/excel.py: what the grid shows, as a number or a date where it is one.

        Asked once per file: what is the same for all of its rows is found out once.
        """
        value = column.value if "." in column.name else attrgetter(column.name)
        export = column.kind.exporter()
        if column.kind.excel == "datetime":
            return lambda row: self._on_wall_clock(export(value(row)), row)
        return lambda row: export(value(row))

    def _on_wall_clock(self, instant: datetime | None, row: Any) -> datetime | None:
        return None if instant is None else clock.local(instant, self.place_of(row))
