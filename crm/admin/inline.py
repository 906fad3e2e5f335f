"""One field of one row: changed in the grid, or put back from the history, by the rules of the row's own form."""

from __future__ import annotations

from typing import Any

from flask import abort, jsonify, request
from flask_admin import expose
from flask_babel import gettext as _
from markupsafe import Markup
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.datastructures import MultiDict
from wtforms import Field
from wtforms.fields.core import UnboundField

from crm.admin.columns import permission
from crm.admin.exporting import ExportView
from crm.admin.fields import Form
from crm.admin.forms import reason_of
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden

_UNTOUCHED: Any = object()


class InlineView(ExportView):
    """See the module."""

    def is_editable_inline(self, name: str) -> bool:
        """Whether the form of a row has a field for the column, and this person may change it there.

        Asked of the form's class: making a form would read the tables its fields choose from.
        """
        return (
            self.may_edit
            and isinstance(getattr(self.form_class(), name, None), UnboundField)
            and not self.is_frozen(name)
        )

    def _may_change(self, row: Any, name: str) -> bool:
        """The same of a row, whose form may be another."""
        has_field = isinstance(getattr(self.form_class(row), name, None), UnboundField)
        return has_field and self.is_editable_inline(name) and self.may_edit_row(row)

    def change_field(
        self, row: Any, name: str, *, raw: list[str] | None = None, value: Any = _UNTOUCHED, version: str | None = None
    ) -> Any:
        """Change one field of a row as its form would have: its rules, permissions and operation, in one transaction.

        raw: what was typed, as the form would send it; or `value`, the value itself. version: of the row as the person
        was shown it; None does not ask. Returns the row. Raises DomainError with what to tell, Forbidden among them,
        and StaleDataError when the row is no longer what he was shown.
        """
        if not self._may_change(row, name):
            raise Forbidden("forbidden", _("This field cannot be changed here."))
        if version is not None and self.is_stale(row, version):
            raise StaleDataError
        form = self._form_with(row, name, raw, value)
        with transaction():
            return self.save(form, row)

    def _form_with(self, row: Any, name: str, raw: list[str] | None, value: Any) -> Form:
        """The row's form with one field changed. Raises DomainError if a rule of it is broken by that.

        Rules the row broke before (a field made required since) are no reason to refuse: they are not about this field.
        """
        form = self._form_of(row)
        form.validate()
        before = {field.name: list(field.errors) for field in form}
        form = self._form_of(row)
        field: Field = form[name]
        if value is not _UNTOUCHED:
            field.data, field.raw_data = value, [value] if value not in (None, "") else []
        else:
            field.process(MultiDict([(field.name, item) for item in raw or []]), field.object_data)
        form.validate()
        broken = [str(text) for text in field.errors]
        broken += [
            f"{item.label.text}: {text}"
            for item in form
            if item.name != name
            for text in item.errors
            if text not in before[item.name]
        ]
        broken += map(str, form.form_errors)
        if broken:
            raise DomainError("invalid", " ".join(broken), field=name)
        return form

    def _form_of(self, row: Any) -> Form:
        """The form as it was opened: every field holds the row's value, and counts as filled in if it has one."""
        form = self.form_class(row)(None, obj=row)
        for field in form:
            field.raw_data = [field.data] if field.data not in (None, "", []) else []
        return form

    # --- in the grid ------------------------------------------------------------------------------------------------

    @expose("/cell/", methods=("GET", "POST"))
    @permission("edit")
    def cell_view(self) -> Any:
        """GET: the control of one cell, with the row's version. POST: save it; answers JSON with the row's cells.

        422: a rule was broken; 409: somebody was quicker, with what he did, the value of now and its version.
        """
        name = request.values.get("column", "")
        if not self.may_edit:
            abort(403)
        row = self.get_one(request.values.get("id"))
        if not self._may_change(row, name):
            abort(403)
        if request.method == "GET":
            field = self.form_class(row)(None, obj=row)[name]
            field.id = field.label.field_id = f"cell-{name.replace('.', '-')}"
            return self.render("admin/grid/cell.html", field=field, row=row)
        try:
            row = self.change_field(row, name, raw=request.form.getlist(name), version=request.form.get("version", ""))
        except (StaleDataError, Conflict):
            db.session.rollback()
            return self._conflict(self.get_one(request.form.get("id")), name)
        except DomainError as error:
            return jsonify(error=str(error)), error.status
        except IntegrityError as error:
            if (reason := reason_of(error)) is None:
                raise
            return jsonify(error=reason), 422
        db.session.refresh(row)
        return jsonify(cells=self._cells_by_name(row), version=self.version_of(row), said=_("Saved."))

    def _cells_by_name(self, row: Any) -> dict[str, str]:
        """HTML of the row's cells by column: a change of one may show in others."""
        columns = [column for column in self.columns if column.name not in self.column_past]  # shown as of a day
        shown = self.cells(row, columns)
        return {column.name: str(Markup.escape(html)) for column, (_css, html) in zip(columns, shown, strict=True)}

    def _conflict(self, row: Any, name: str) -> Any:
        """What somebody else has done to the row meanwhile, and what the cell holds now."""
        entry = next(iter(self.history(row, limit=1)), None)
        who = entry.who if entry is not None else _("Somebody else")
        now = Markup.escape(self.plain_cell(row, self.column(name))).striptags()
        return jsonify(
            error=_(
                "%(who)s changed this record meanwhile. Here is now: %(now)s. Save once more to replace it.",
                who=who,
                now=now,
            ),
            now=now,
            cells=self._cells_by_name(row),
            version=self.version_of(row),
        ), 409
