"""Who changed what."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup

from crm.access.scope import current_scope
from crm.admin.base import GridColumn, KontoraView
from crm.admin.cells import Joins, SqlCell
from crm.admin.kinds import NOTHING
from crm.audit.models import AuditAction, AuditEntry


class AuditView(KontoraView):
    entity = "audit"
    icon = "clock-history"
    column_list = ("at", "actor_name", "action", "entity", "entity_label", "changes", "origin")
    column_searchable_list = ("actor_name", "entity", "entity_label")
    column_filters = ("at", "actor_name", "action", "entity")
    column_sortable_list = ("at", "actor_name")  # a journal is in the order of time; the rest is for filters
    column_default_sort = "-id"
    empty_hint = _l("Every change of every record appears here.")

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        """Records and fields under the names the panel gives them."""
        view = self._view_of_table(row.entity)
        if view is not None and column.name == "entity":
            return str(view.name)
        if view is not None and column.name == "changes" and row.action is not AuditAction.EXPORT:
            lines = (
                Markup("{}: <del>{}</del> → {}").format(change.label, change.old, change.new or "—")
                if change.old
                else Markup("{}: {}").format(change.label, change.new or "—")
                for change in view.changes_of(row)
            )
            return Markup("<br>").join(lines) or NOTHING
        return super().cell(row, column)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        """Under the same names as in the grid, one change a line."""
        if column.name not in {"entity", "changes"}:
            return super().exporter(column)

        def as_text(row: Any) -> str | None:
            shown = self.cell(row, column)
            return None if shown is NOTHING else html.unescape(re.sub("<[^>]+>", "", str(shown).replace("<br>", "\n")))

        return as_text

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return None if column.name in {"entity", "changes"} else super().sql_cell(column, joins)

    def _view_of_table(self, table: str) -> KontoraView | None:
        views = (view for view in self.admin._views if isinstance(view, KontoraView))
        return next((view for view in views if view.model.__tablename__ == table), None)

    def within_sight(self, query: Any) -> Any:
        """Lines of a branch are seen where the branch is; lines of the network only in the network; and of any entity
        only by those who may see the entity itself.
        """
        if not current_user.may("*.view"):
            views = (view for view in self.admin._views if isinstance(view, KontoraView))
            tables = [view.model.__tablename__ for view in views if view.is_accessible()]
            query = query.where(AuditEntry.entity.in_(tables))
        branch_ids = current_scope().branch_ids
        return query if branch_ids is None else query.where(AuditEntry.branch_id.in_(branch_ids))
