"""A field put back to what it was before a line of the history."""

from __future__ import annotations

from typing import Any

from flask import abort, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from markupsafe import Markup

from crm.admin.columns import permission
from crm.admin.fields import Form
from crm.admin.inline import InlineView
from crm.admin.kinds import ReferenceKind
from crm.audit.models import AuditAction, AuditEntry
from crm.db import db


class RestoringView(InlineView):
    """See the module."""

    def can_put_back(self, row: Any, entry: AuditEntry, name: str) -> bool:
        """Only what an edit changed and this person could change in the form himself. Statuses move by their verbs."""
        change = entry.changes.get(name, entry.changes.get(f"{name}_id"))
        return (
            entry.action is AuditAction.UPDATE
            and change is not None
            and not isinstance(change[0], list)  # names of rows, which may have changed since
            and name != "status"
            and self.is_editable_inline(name)
            and self.may_edit_row(row)
        )

    @expose("/put-back/", methods=("GET", "POST"))
    @permission("edit")
    def put_back_view(self) -> Any:
        """Asks first; then changes the one field as its form would have."""
        row = self.get_one(request.args.get("id"))
        entry, name = self._entry_of(row, request.args.get("entry", "")), request.args.get("field", "")
        if not self.can_put_back(row, entry, name):
            abort(403)
        column = self.column(name)
        value = self._value_before(entry, name)
        place = self.place_of(row)
        return self.answer(
            Form(request.form),
            lambda: self.change_field(row, name, value=value, version=request.form.get("version")),
            title=_("Put back the field “%(field)s”?", field=column.label),
            subtitle=Markup("{}: {} → <strong>{}</strong>").format(
                row, column.kind.show(column.value(row), place), column.kind.show(value, place)
            ),
            back=url_for(f"{self.endpoint}.history_view", id=row.id),
            row=row,
            said=_l("The field is as it was before."),
            submit=_("Put back"),
        )

    def _entry_of(self, row: Any, number: str) -> AuditEntry:
        """The line of the row's own history; 404 for any other."""
        is_number = number.isascii() and number.isdigit() and len(number) < 19
        entry = db.session.get(AuditEntry, int(number)) if is_number else None
        if entry is None or (entry.entity, entry.entity_id) != (self.model.__tablename__, row.id):
            abort(404)
        return entry

    def _value_before(self, entry: AuditEntry, name: str) -> Any:
        """The value a field had, as its form takes it."""
        kind = self.column(name).kind
        if isinstance(kind, ReferenceKind):
            key = entry.changes[f"{name}_id"][0]
            return None if key is None else db.session.get(kind.target, key)
        old = entry.changes[name][0]
        return old if old in (None, "") else kind.recall(old)
