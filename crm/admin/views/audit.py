"""Who changed what."""

from __future__ import annotations

from typing import Any

from flask_babel import lazy_gettext as _l

from crm.access.scope import current_scope
from crm.admin.base import KontoraView
from crm.admin.selection import Selection
from crm.audit.models import AuditEntry


class AuditView(KontoraView):
    entity = "audit"
    icon = "clock-history"
    column_list = ("at", "actor_name", "action", "entity", "entity_label", "changes", "origin")
    column_searchable_list = ("actor_name", "entity", "entity_label")
    column_filters = ("at", "actor_name", "action", "entity")
    column_default_sort = "-id"
    empty_hint = _l("Every change of every record appears here.")

    def base_condition(self, selection: Selection) -> Any:
        """Lines of a branch are seen where the branch is; lines of the network only in the network."""
        branch_ids = current_scope().branch_ids
        return None if branch_ids is None else AuditEntry.branch_id.in_(branch_ids)
