"""Details of a row, and who changed what in it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import request
from flask_admin import expose

from crm.admin.columns import ColumnsView, GridColumn
from crm.audit.models import AuditEntry
from crm.db import db


class HistoryView(ColumnsView):
    """See the module."""

    def details_context(self, row: Any) -> dict[str, Any]:
        """More for the details page."""
        return {}

    @expose("/details/")
    def details_view(self) -> Any:
        row = self.get_one(request.args.get("id"))
        return self.render(
            self.details_template,
            row=row,
            columns=self.details_columns(row),
            history_lines=self.history(row),
            **self.details_context(row),
        )

    def history(self, row: Any, limit: int = 50) -> list[AuditEntry]:
        """What the audit knows of a row, newest first."""
        query = (
            sa.select(AuditEntry)
            .where(AuditEntry.entity == self.model.__tablename__, AuditEntry.entity_id == row.id)
            .order_by(AuditEntry.id.desc())
            .limit(limit)
        )
        return list(db.session.scalars(query))

    def changes_of(self, entry: AuditEntry) -> list[tuple[Any, Any, Any]]:
        """(label, old, new) of an audit line as a person reads them; keys and time stamps of creation are left out."""
        lines = []
        for name, (old, new) in entry.changes.items():
            if name.endswith("_id") or name in {
                "token",
                "created_at",
                "issued_at",
                "sold_at",
                "opened_at",
                "year",
                "number",
            }:
                continue
            if not old and not new:  # nothing became nothing
                continue
            column = self.column(name)
            lines.append((column.label, self._recall(column, old), self._recall(column, new)))
        return lines

    def _recall(self, column: GridColumn, value: Any) -> Any:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return "" if value in (None, "") else column.kind.show(column.kind.recall(value), self.here())
