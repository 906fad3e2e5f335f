"""Settings → «Поля карточки»: the fields of clients, accounts, bills and subscriptions of a company."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import abort, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, StringField, TextAreaField
from wtforms.validators import Length

from crm.access.models import Company
from crm.admin.base import KontoraView, permission
from crm.admin.fields import REQUIRED, EnumField, Form
from crm.db import db, transaction
from crm.errors import DomainError
from crm.fields.models import CustomField, FieldType, customised
from crm.fields.operations import (
    Option,
    add_field,
    archive_field,
    edit_field,
    hide_built_in,
    hide_field,
    move_field,
    restore_field,
)
from crm.fields.queries import all_fields, is_shown

ENTITIES = {
    "client": _l("Clients"),
    "account": _l("Client accounts"),
    "bill": _l("Bills"),
    "subscription": _l("Subscriptions"),
}


class FieldForm(Form):
    label = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    description = TextAreaField(
        _l("Description"), [Length(max=1000)], description=_l("Shown below the field."), render_kw={"rows": 2}
    )
    new_options = TextAreaField(
        _l("Options to add"),
        [Length(max=20000)],
        description=_l("One per line; for a choice and for several choices."),
        render_kw={"rows": 4},
    )
    is_required = BooleanField(_l("Must be filled in"))
    is_in_grid = BooleanField(_l("Show in the grid"), default=True)
    is_hidden = BooleanField(_l("Hide from everybody"))


class NewFieldForm(FieldForm):
    type = EnumField(FieldType, _l("Type"), description=_l("It cannot be changed later."))


class FieldView(KontoraView):
    entity = "field"
    icon = "ui-checks-grid"
    column_list = ("label", "type", "is_required", "is_hidden", "position")
    creates = edits = True
    create_label = _l("Add a field")
    list_template = "admin/fields.html"

    def within_sight(self, query: Any) -> Any:
        return query.where(CustomField.company_id.in_(self.companies_in_sight()))

    # --- the page ---------------------------------------------------------------------------------------------------

    @expose("/")
    def index_view(self) -> Any:
        """The fields of one company and entity, in their order; then the built-in ones."""
        query = sa.select(Company).where(Company.id.in_(self.companies_in_sight())).order_by(Company.name)
        companies = list(db.session.scalars(query))
        asked = request.args.get("company")
        company = next((item for item in companies if str(item.id) == asked), next(iter(companies), None))
        entity = request.args.get("entity", "client")
        if entity not in ENTITIES:
            entity = "client"
        fields = all_fields(entity, {company.id}) if company else []
        return self.render(
            self.list_template,
            companies=companies,
            company=company,
            entity=entity,
            entities=ENTITIES,
            fields=[field for field in fields if not field.is_archived],
            archived=[field for field in fields if field.is_archived],
            built_ins=self._built_ins(company, entity) if company else [],
            may_archive=self.may("archive"),
        )

    def _built_ins(self, company: Company, entity: str) -> list[tuple[str, Any, bool]]:
        """(name, label, is shown) of the built-in fields a company may hide."""
        view = self.view_of(customised()[entity])
        names = customised()[entity].__optional_fields__
        return [(name, view.column(name).label if view else name, is_shown(company.id, entity, name)) for name in names]

    def row_url(self, row: Any) -> str:
        return url_for("field.index_view", company=row.company_id, entity=row.entity)

    # --- forms ------------------------------------------------------------------------------------------------------

    def declared_form(self) -> type[Form]:
        """With a box for each option of the field: to rename it, or to remove it by leaving it empty."""
        if request.endpoint == "field.create_view":
            return NewFieldForm
        if request.blueprint != self.endpoint:  # another page asks what there is to fill in, of no field in particular
            return FieldForm
        boxes = {
            f"option.{option['key']}": StringField(
                _("Option “%(label)s”", label=option["label"]),
                [Length(max=200)],
                default=option["label"],
                description=_("Left empty, it is removed."),
            )
            for option in self._field().options
        }
        changed = type("FieldForm", (FieldForm,), boxes)
        return changed if self._field().type.has_options else type("FieldForm", (FieldForm,), {"new_options": None})

    def _field(self) -> CustomField:
        field: CustomField = self.get_one(request.values.get("id"))
        return field

    def save_new(self, form: Any) -> Any:
        facts = form.data
        company = db.session.get(Company, int(request.args["company"]))
        if company is None or company.id not in self.companies_in_sight():
            abort(404)
        options = facts.pop("new_options").splitlines()
        return add_field(company, request.args.get("entity", ""), options=options, **facts, by=current_user)

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        if not request.args.get("company", "").isascii() or not request.args.get("company", "").isdigit():
            return redirect(url_for("field.index_view"))
        return super().create_view()

    def save(self, form: Any, row: Any) -> Any:
        facts = form.data
        boxes = {name: facts.pop(name) for name in list(facts) if name.startswith("option.")}
        added = facts.pop("new_options", "").splitlines()
        options = [Option(name.removeprefix("option."), label) for name, label in boxes.items() if label]
        return edit_field(row, options=[*options, *(Option(None, label) for label in added)], **facts, by=current_user)

    # --- buttons ----------------------------------------------------------------------------------------------------

    @expose("/move/", methods=("POST",))
    @permission("edit")
    def move_view(self) -> Any:
        field = self._field()
        with transaction():
            move_field(field, up=request.form.get("to") == "up", by=current_user)
        return redirect(self.row_url(field))

    @expose("/hide/", methods=("POST",))
    @permission("edit")
    def hide_view(self) -> Any:
        field = self._field()
        return self._done(field, lambda: hide_field(field, is_hidden=not field.is_hidden, by=current_user))

    @expose("/archive/", methods=("POST",))
    @permission("archive")
    def archive_view(self) -> Any:
        field = self._field()
        change = restore_field if field.is_archived else archive_field
        return self._done(field, lambda: change(field, by=current_user))

    def _done(self, field: CustomField, change: Any) -> Any:
        return self.answer(Form(request.form), change, title=field.label, back=self.row_url(field))

    @expose("/built-in/", methods=("POST",))
    @permission("edit")
    def built_in_view(self) -> Any:
        """Hide or show a built-in field of a company."""
        number, entity = request.form.get("company", ""), request.form.get("entity", "")
        company = db.session.get(Company, int(number)) if number.isascii() and number.isdigit() else None
        if company is None or company.id not in self.companies_in_sight():
            abort(404)
        try:
            with transaction():
                hide_built_in(
                    company,
                    entity,
                    request.form.get("name", ""),
                    is_hidden=request.form.get("hide") == "1",
                    by=current_user,
                )
        except DomainError as error:
            abort(error.status)
        return redirect(url_for("field.index_view", company=company.id, entity=entity))
