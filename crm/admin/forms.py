"""Forms of an entity: create, edit, and the one way a posted form is carried out, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from flask import abort, flash, g, redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_login import current_user
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from crm.access.fields import FieldRules
from crm.admin.fields import Form, ReferencesField
from crm.admin.history import HistoryView
from crm.admin.kinds import ListKind, ReferenceKind
from crm.db import db, transaction
from crm.errors import DomainError
from crm.fields.operations import edit_custom, set_custom
from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of
from crm.security import chosen_branch


class FormsView(HistoryView):
    """See the module."""

    # --- hooks for entities -----------------------------------------------------------------------------------------

    def save_new(self, form: Any) -> Any:
        """Create a row from a valid form, through an operation. Raises DomainError beside a field."""
        row = self.model()
        self._populate(form, row)
        db.session.add(row)
        db.session.flush()
        return row

    def save(self, form: Any, row: Any) -> Any:
        """Change a row from a valid form, through an operation."""
        if self.edits_own_fields_only:
            return edit_custom(row, form.data.get("custom", {}), by=current_user)
        self._populate(form, row)
        db.session.flush()
        return row

    def prefill(self, form: Any) -> None:
        """Values a new form starts with."""

    def create_args(self) -> dict[str, Any]:
        """What the list it is added from says of a new row, for prefill()."""
        return {}

    def saved_url(self, row: Any) -> str:
        """Where to go after saving."""
        return self.row_url(row)

    # --- versions ---------------------------------------------------------------------------------------------------

    def version_of(self, row: Any) -> str | None:
        """What a form or a cell of the row is opened on, so that a later one overwrites nothing unseen.

        Rows whose own fields are filled in here are compared by these alone: money that moves on an account, many times
        a day, makes nobody's form stale. None when there is nothing to compare by.
        """
        if hasattr(self.model, "version"):
            return str(row.version)
        if not self.edits_own_fields_only:
            return None
        return sha256(json.dumps(row.custom or {}, sort_keys=True).encode()).hexdigest()[:16]

    def is_stale(self, row: Any, version: str | None) -> bool:
        """Whether the row is another by now than the `version` it was opened on.

        One without a counter of its own is locked until the end of the transaction, so that nobody comes between.
        """
        if not hasattr(self.model, "version") and self.edits_own_fields_only:
            db.session.refresh(row, ["custom"], with_for_update={"key_share": True})
        present = self.version_of(row)
        return present is not None and version != present

    # --- forms ------------------------------------------------------------------------------------------------------

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        """The form of a row; without one, of the companies (those in sight by default): the declared fields and those
        staff have added, less what this person may not change.
        """
        known: dict[Any, type[Form]] = g.setdefault("forms", {})
        if companies is None:
            companies = self.companies_in_sight() if row is None else self.companies_of(row)
        place = (self.endpoint, companies)
        if place not in known:
            rules = self.field_rules(row)
            known[place] = self._extended(self.declared_form(), companies, rules, rules)
        return known[place]

    def form_of_operation(self, declared: type[Form], companies: frozenset[int]) -> type[Form]:
        """The form of an operation that makes a row of this table, with the fields staff have added to it."""
        return self._extended(declared, companies, self.field_rules(), FieldRules())

    def _extended(
        self, declared: type[Form], companies: frozenset[int], rules: FieldRules, declared_rules: FieldRules
    ) -> type[Form]:
        """A declared form and the added fields; declared_rules: those its declared fields obey."""
        own = {
            column.name: column
            for column in self.custom_columns(companies)
            if column.name not in rules.hidden  # an operation leaves alone what it is not given
        }
        return type(
            declared.__name__,
            (declared,),
            {
                **{name: column.form_field() for name, column in own.items()},
                "HIDDEN": declared_rules.hidden,
                "FROZEN": declared_rules.frozen | (rules.frozen & own.keys()),
                "CUSTOM": own,
            },
        )

    def companies_of_new(self) -> frozenset[int]:
        """Whose fields the form of a new row has: those of the company of the branch it is put in."""
        offered = [branch for branch in g.branches if str(branch.id) == request.form.get("branch")]
        branch = next(iter([*offered, chosen_branch(), *g.branches]), None)
        return frozenset({branch.company_id}) if branch is not None else frozenset()

    def declared_form(self) -> type[Form]:
        """The declared form, or one made of form_columns by their kinds."""
        if self.edits_own_fields_only:
            return Form
        if self.form is not None:
            return self.form
        fields: dict[str, Any] = {}
        for name in self.editable_columns():
            column = self.column(name)
            if isinstance(column.kind, ListKind):
                target = getattr(self.model, name).property.mapper.class_
                fields[name] = ReferencesField(target, column.label)
            elif isinstance(column.kind, ReferenceKind):
                fields[name] = column.kind.field(column.sql, column.label)
            else:
                fields[name] = column.kind.field(column.sql.property.columns[0], column.label)
        return type(f"{self.model.__name__}Form", (Form,), fields)

    def _populate(self, form: Any, row: Any) -> None:
        if form.CUSTOM:
            set_custom(row, form.data.get("custom", {}))
        for name, fld in form._fields.items():
            if name in form.CUSTOM:
                continue
            value = fld.data
            if isinstance(value, str):
                value = value.strip()
                column = sa.inspect(self.model).columns.get(name)
                if not value and column is not None and column.nullable:
                    value = None
            elif (
                value is None
                and name in sa.inspect(self.model).columns
                and not sa.inspect(self.model).columns[name].nullable
            ):
                continue  # left empty: the column's default stands
            setattr(row, name, value)

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        if not self.may_create:
            abort(403)
        form_class = self.form_class(companies=self.companies_of_new())
        form = form_class(request.form if request.method == "POST" else None)
        if request.method == "GET":
            self.prefill(form)
        return self.answer(form, lambda: self.save_new(form), title=self.create_label, back=self.get_url(".index_view"))

    @expose("/edit/", methods=("GET", "POST"))
    def edit_view(self) -> Any:
        if not self.may_edit:
            abort(403)
        row = self.get_one(request.values.get("id"))
        if not self.may_edit_row(row):
            abort(403)
        form = self.form_class(row)(request.form if request.method == "POST" else None, obj=row)
        is_stale = request.method == "POST" and self.is_stale(row, request.form.get("version"))
        return self.answer(
            form, lambda: self.save(form, row), title=str(row), row=row, back=self.row_url(row), is_stale=is_stale
        )

    def answer(
        self,
        form: Any,
        change: Callable[[], Any],
        *,
        title: Any,
        back: str,
        row: Any = None,
        template: str = "admin/form.html",
        done: Callable[[Any], str] | None = None,
        said: Any = None,
        is_stale: bool = False,
        **context: Any,
    ) -> Any:
        """Show a form, or carry out a posted one in a single transaction, once, and go on to `done(result)`.

        A form posted twice (a double click, "back" and again) is carried out once: the second post lands where the
        first did. The same form with other values ("back", something changed) is shown again: he decides whether it is
        meant. A broken rule puts its text beside the field and loses nothing typed. said: what the page then says, or a
        function of the result. is_stale: `row` is no longer what the person was shown; he sees what has changed and
        decides, as when the change itself loses a race.
        """
        is_resent = False
        if request.method == "POST":
            key, sent = request.form.get("form_key"), fingerprint_of(request.full_path, request.form.items(multi=True))
            try:
                SubmittedForm.check(key, sent)  # before all else: the first sending has made the row look stale
                if not is_stale and form.validate():
                    with transaction():
                        once = SubmittedForm.claim(key, sent)
                        result = change()
                        once.url = (done or self.saved_url)(result)
                    flash(said(result) if callable(said) else said or _("Saved."), "success")
                    return redirect(once.url)
            except AlreadySubmitted as first:
                if first.is_same:
                    flash(_("This had been done already; it was not done twice."), "info")
                    return redirect(first.url)
                is_resent = True
                form.form_errors.append(
                    _("This form has been sent already, with other values. To save these, send it again.")
                )
            except DomainError as error:
                self.show_error(form, error)
            except StaleDataError:
                is_stale = True
            except IntegrityError as error:
                if (reason := reason_of(error)) is None:
                    raise
                form.form_errors.append(reason)
        stale = self.history(row, limit=3) if is_stale and row is not None else []
        if is_stale and not stale:
            form.form_errors.append(_("Somebody changed this record at the same moment. Check it and save again."))
        page = self.render(template, form=form, row=row, title=title, back=back, stale=stale, **context)
        return page, 409 if is_stale or is_resent else 422 if request.method == "POST" else 200

    @staticmethod
    def show_error(form: Any, error: DomainError) -> None:
        """Beside its field if the form has it, else above the form."""
        target = form._fields.get(error.field or "")
        if target is None or target.name in form.HIDDEN:
            form.form_errors.append(str(error))
        else:
            target.errors = [*target.errors, str(error)]


def reason_of(error: IntegrityError) -> str | None:
    """What a person can mend when the database refuses a row; None for a mistake of ours."""
    text = str(error.orig).lower()
    if "unique" in text or "duplicate key" in text:
        return _("Such a record exists already.")
    if "check constraint" in text:
        return _("One of the values goes beyond what is allowed.")
    return None
