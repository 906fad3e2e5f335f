"""Details of a row, and who changed what in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import request
from flask_admin import expose

from crm.admin.columns import ColumnsView, GridColumn, permission
from crm.admin.kinds import ListKind, Place, ReferenceKind
from crm.audit.models import AuditAction, AuditEntry
from crm.db import db

HISTORY_PAGE = 50

_MADE_WITH_THE_ROW = frozenset({"token", "created_at", "issued_at", "sold_at", "opened_at", "year", "number"})
# The machinery's own: no page shows them, so their changes say nothing to people.
_INNER = frozenset(
    {
        "asking_until",
        "confirmation_url",
        "counted",
        "counted_minute",
        "dedupe_key",
        "key",
        "lease_until",
        "next_poll_at",
        "nonce",
        "schedule_since",
    },
)
_SILENT = _MADE_WITH_THE_ROW | _INNER


@dataclass(frozen=True)
class FieldChange:
    """One field of an audit line, as a person reads it; old is empty when there was nothing."""

    name: str
    label: Any
    old: Any
    new: Any


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
            history_lines=self.history(row, limit=10),
            **self.details_context(row),
        )

    def history(self, row: Any, limit: int = 50, offset: int = 0) -> list[AuditEntry]:
        """What the audit knows of a row, newest first."""
        query = (
            sa.select(AuditEntry)
            .where(AuditEntry.entity == self.model.__tablename__, AuditEntry.entity_id == row.id)
            .order_by(AuditEntry.id.desc())
            .limit(limit)
            .offset(offset)
        )
        return list(db.session.scalars(query))

    @expose("/history/")
    @permission("view")
    def history_view(self) -> Any:
        """All of it, page by page."""
        row = self.get_one(request.args.get("id"))
        page = min(max(request.args.get("page", 1, type=int), 1), 10_000)
        lines = self.history(row, limit=HISTORY_PAGE + 1, offset=(page - 1) * HISTORY_PAGE)
        return self.render(
            "admin/history.html",
            row=row,
            page=page,
            history_lines=lines[:HISTORY_PAGE],
            has_next=len(lines) > HISTORY_PAGE,
        )

    def changes_of(self, entry: AuditEntry, row: Any = None) -> list[FieldChange]:
        """An audit line as a person reads it, without fields hidden from him; keys and time stamps of creation are left
        out. row: whose it is, for the clock of its branch.
        """
        place = self.place_of(row)
        hidden, changes = self.field_rules().hidden, []
        for key, (old, new) in entry.changes.items():
            name, is_key = self._name_of(key)
            is_noise = key in _MADE_WITH_THE_ROW | _INNER or (
                is_key and (name == key or entry.action is AuditAction.CREATE)
            )
            if is_noise or name in hidden or (not old and not new):  # nothing became nothing
                continue
            column = self.column(name)
            was, is_now = (
                self._recall_row(column, value) if is_key else self._recall(column, value, place)
                for value in (old, new)
            )
            changes.append(FieldChange(name, column.label, was, is_now))
        return changes

    def _name_of(self, key: str) -> tuple[str, bool]:
        """(field, whether it is a key): a key goes by the name of the row it stands for, when the model knows one."""
        if not key.endswith("_id"):
            return key, False
        name = key.removesuffix("_id")
        return (name if name in sa.inspect(self.model).relationships else key), True

    def can_put_back(self, row: Any, entry: AuditEntry, name: str) -> bool:
        """Whether the field may get the value back that it had before this line."""
        return False

    def _recall(self, column: GridColumn, value: Any, place: Place) -> Any:
        if isinstance(value, list) and not column.is_custom and not isinstance(column.kind, ListKind):
            return ", ".join(map(str, value))
        return "" if value in (None, "", []) else column.kind.show(column.kind.recall(value), place)

    def _recall_row(self, column: GridColumn, value: Any) -> Any:
        """The row a key stands for; its number, when it is gone or out of sight."""
        if value is None:
            return ""
        assert isinstance(column.kind, ReferenceKind)
        return str(db.session.get(column.kind.target, value) or f"#{value}")
