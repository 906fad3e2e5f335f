"""Who changed what."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from flask import g, url_for
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup

from crm.access.models import Branch, Role, User, user_branch
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.scope import current_scope
from crm.admin.base import GridColumn, KontoraView
from crm.admin.cells import Joins, SqlCell
from crm.admin.kinds import NOTHING, ReferenceKind
from crm.audit.models import AuditAction, AuditEntry
from crm.db import db


class ActorKind(ReferenceKind):
    """Who did it."""

    def choices(self) -> Sequence[tuple[str, Any]]:
        return [(str(user.id), user.name) for user in people_in_sight()]


# By what an audit line's origin begins with.
SOURCES = {
    "request": _lp("origin", "Panel or site"),
    "job": _lp("origin", "Background job"),
    "cli": _lp("origin", "Command line"),
    "demo": _lp("origin", "Demo data"),
}


class AuditView(KontoraView):
    entity = "audit"
    icon = "clock-history"
    column_list = ("at", "actor_name", "action", "entity", "entity_label", "changes", "origin")
    column_searchable_list = ("actor_name", "entity", "entity_label")
    column_kinds = {"actor": ActorKind(User, small=True)}
    column_labels = {"actor": _l("Who")}
    column_filters = ("at", "actor", "action", "entity", "branch")
    column_sortable_list = ("at", "actor_name")  # a journal is in the order of time; the rest is for filters
    column_default_sort = "-id"
    empty_hint = _l("Every change of every record appears here.")

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        """Records and fields under the names the panel gives them."""
        if column.name == "actor_name":
            return str(row.who)
        source, _colon, number = row.origin.partition(":")
        if column.name == "origin" and source in SOURCES:
            return Markup('<span title="{}">{}</span>').format(number, SOURCES[source])
        view = self._view_of_table(row.entity)
        if view is not None and column.name == "entity":
            return str(view.name)
        is_there = row.entity_id is not None and row.action is not AuditAction.DELETE
        if view is not None and column.name == "entity_label" and is_there and view.is_accessible():
            target = url_for(f"{view.endpoint}.details_view", id=row.entity_id)
            return Markup('<a href="{}">{}</a>').format(target, row.entity_label or f"#{row.entity_id}")
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
        if column.name not in {"actor_name", "entity", "changes"}:
            return super().exporter(column)

        def as_text(row: Any) -> str | None:
            shown = self.cell(row, column)
            return None if shown is NOTHING else html.unescape(re.sub("<[^>]+>", "", str(shown).replace("<br>", "\n")))

        return as_text

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return None if column.name in {"actor_name", "entity", "changes"} else super().sql_cell(column, joins)

    def _view_of_table(self, table: str) -> KontoraView | None:
        views = (view for view in self.admin._views if isinstance(view, KontoraView))
        return next((view for view in views if view.model.__tablename__ == table), None)

    def within_sight(self, query: Any) -> Any:
        return within_sight(query, self.admin._views)


def within_sight(query: Any, views: Iterable[Any]) -> Any:
    """Narrow a query of audit lines to those this person may see.

    Lines of a branch are seen where the branch is; lines of the network only in the network, but for sign-ins and
    exports of those who work in the branch; and of any entity only by those who may see the entity itself.
    """
    if current_user.role is not Role.OWNER:
        tables = {view.model.__tablename__ for view in views if isinstance(view, KontoraView) and view.is_accessible()}
        query = query.where(AuditEntry.entity.in_(sorted(tables)))
    branch_ids = current_scope().branch_ids
    if branch_ids is None:
        return query
    here = sa.select(user_branch.c.user_id).where(user_branch.c.branch_id.in_(branch_ids))
    of_no_branch = sa.and_(
        AuditEntry.branch_id.is_(None),
        AuditEntry.action.in_([AuditAction.LOGIN, AuditAction.EXPORT]),
        AuditEntry.actor_id.in_(here),
    )
    return query.where(sa.or_(AuditEntry.branch_id.in_(branch_ids), of_no_branch))


def people_in_sight() -> list[User]:
    """Staff whose actions this person may ask about, by name: of the network, or of his branches."""
    query = sa.select(User).order_by(User.name)
    if current_user.role.value not in NETWORK_WIDE_ROLES:
        query = query.where(User.branches.any(Branch.id.in_([branch.id for branch in g.branches])))
    return list(db.session.scalars(query))
