"""Users, employees, branches, cities, companies and their requisites."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

import sqlalchemy as sa
from flask import g, request
from flask_admin import expose
from flask_babel import lazy_gettext as _l
from flask_login import current_user, login_user
from wtforms import BooleanField, PasswordField, StringField, validators

from crm.access.models import Branch, City, Company, Employee, Role, User
from crm.access.operations import change_user, create_user
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.requisites import create_company, set_requisites
from crm.access.roles import manageable_roles
from crm.access.scope import current_scope
from crm.admin.base import DEFAULT_ZONE, KontoraView, permission
from crm.admin.fields import REQUIRED, EnumField, Form, ReferenceField, ReferencesField
from crm.admin.rights import rights_of_person
from crm.db import db


def roles_in_reach() -> list[Role]:
    """The roles this person may give; found out once per request."""
    if "roles_in_reach" not in g:
        g.roles_in_reach = manageable_roles(current_user)
    return list(g.roles_in_reach)


class RoleField(EnumField):
    """The roles this person may give."""

    def __init__(self, label: Any = None, **kwargs: Any) -> None:
        super().__init__(Role, label, members=roles_in_reach(), **kwargs)


class UserForm(Form):
    name = StringField(_l("Full name"), [REQUIRED, validators.Length(max=200)])
    email = StringField(_l("E-mail"), [REQUIRED, validators.Length(max=254)])
    role = RoleField(_l("Role"))
    password = PasswordField(
        _l("Password"),
        description=_l("Leave empty to keep the present one."),
        render_kw={"autocomplete": "new-password"},
    )
    branches = ReferencesField(Branch, _l("Branches"))
    cities = ReferencesField(City, _l("Cities"), description=_l("For a regional director: every branch of the city."))
    is_active = BooleanField(_l("May sign in"), default=True)


class UserView(KontoraView):
    entity = "user"
    icon = "people"
    column_labels = {"name": _l("Full name"), "is_active": _l("May sign in")}
    column_list = ("name", "email", "role", "branches", "cities", "is_active", "last_login_at")
    column_searchable_list = ("name", "email")
    column_filters = ("role", "is_active")
    column_default_sort = "name"
    form = UserForm
    creates = edits = True
    create_label = _l("Add a user")
    details_template = "admin/user.html"

    @expose("/rights/")
    @permission("view")
    def rights_view(self) -> Any:
        """What can this person do, and why."""
        user = self.get_one(request.args.get("id"))
        return self.render("admin/rights.html", **rights_of_person(self.admin._views, user))

    def within_sight(self, query: Any) -> Any:
        """Who works in branches only sees who works there with him."""
        if current_user.role.value in NETWORK_WIDE_ROLES:
            return query
        return query.where(User.branches.any(Branch.id.in_([branch.id for branch in g.branches])))

    def may_edit_row(self, row: Any) -> bool:
        return super().may_edit_row(row) and row.role in roles_in_reach()

    def save_new(self, form: Any) -> Any:
        return create_user(
            email=form.email.data,
            name=form.name.data,
            password=form.password.data or "",
            role=form.role.data,
            branches=form.branches.data,
            cities=form.cities.data,
            is_active=form.is_active.data,
            by=current_user,
        )

    def save(self, form: Any, row: Any) -> Any:
        is_own = row is current_user._get_current_object()
        change_user(
            row,
            email=form.email.data,
            name=form.name.data,
            password=form.password.data or None,
            role=form.role.data,
            branches=form.branches.data,
            cities=form.cities.data,
            is_active=form.is_active.data,
            by=current_user,
        )
        if is_own:
            login_user(row)  # a new password ends the other sessions, not the one it was typed in
        return row


class EmployeeView(KontoraView):
    entity = "employee"
    icon = "person-badge"
    column_list = ("name", "position", "branch", "is_active")
    column_labels = {"name": _l("Full name"), "position": _l("Position")}
    column_searchable_list = ("name",)
    column_filters = ("branch", "is_active")
    column_default_sort = "name"
    form_columns = ("name", "position", "branch", "is_active")
    creates = edits = True
    create_label = _l("Add an employee")

    def within_sight(self, query: Any) -> Any:
        branch_ids = current_scope().branch_ids
        return query if branch_ids is None else query.where(Employee.branch_id.in_(branch_ids))

    def prefill(self, form: Any) -> None:
        form.is_active.data = True


class BranchForm(Form):
    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    time_zone = StringField(
        _l("Time zone"),
        [REQUIRED, validators.AnyOf(available_timezones(), _l("Unknown time zone. Example: Europe/Moscow."))],
        description=_l("For example Europe/Moscow or Asia/Yekaterinburg."),
    )
    address = StringField(_l("Address"))


class NewBranchForm(BranchForm):
    """Company and city stay: clients have read the one's requisites, regional directors see a branch by the other."""

    company = ReferenceField(
        Company, _l("Company"), description=_l("Companies and cities are added in their own lists, before the branch.")
    )
    city = ReferenceField(City, _l("City"))


class BranchView(KontoraView):
    """Branches of the person, whichever is chosen."""

    entity = "branch"
    icon = "shop"
    column_list = ("name", "city", "company", "time_zone", "address")
    column_searchable_list = ("name",)
    column_default_sort = "name"
    creates = edits = True
    create_label = _l("Add a branch")
    empty_hint = _l("First add the company and the city, then the branch: clients are served in branches.")

    def within_sight(self, query: Any) -> Any:
        return query.where(Branch.id.in_([branch.id for branch in g.branches]))

    def declared_form(self) -> type[Form]:
        return NewBranchForm if request.endpoint == "branch.create_view" else BranchForm

    def prefill(self, form: Any) -> None:
        form.time_zone.data = DEFAULT_ZONE


class CityView(KontoraView):
    entity = "city"
    icon = "geo"
    column_list = ("name",)
    column_searchable_list = ("name",)
    form_columns = ("name",)
    creates = edits = True
    create_label = _l("Add a city")


class RequisitesForm(Form):
    name = StringField(_l("Company name"), [REQUIRED, validators.Length(max=200)])
    legal_name = StringField(_l("Legal name"), [validators.Length(max=200)])
    inn = StringField(_l("INN"), render_kw={"inputmode": "numeric"})
    kpp = StringField(_l("KPP"), render_kw={"inputmode": "numeric"})
    ogrn = StringField(_l("OGRN"), render_kw={"inputmode": "numeric"})
    address = StringField(_l("Address"))
    bank_name = StringField(_l("Bank"), [validators.Length(max=200)])
    bic = StringField(_l("BIC"), render_kw={"inputmode": "numeric"})
    settlement_account = StringField(_l("Settlement account"), render_kw={"inputmode": "numeric"})
    correspondent_account = StringField(_l("Correspondent account"), render_kw={"inputmode": "numeric"})
    phone = StringField(_l("Phone"))
    email = StringField(_l("E-mail"))
    offer_url = StringField(
        _l("Public offer"),
        description=_l("Address of the offer on your site. While it is empty, clients see the standard offer."),
        render_kw={"inputmode": "url", "placeholder": "https://"},
    )


class CompanyView(KontoraView):
    """«Лицензирование» → «Реквизиты»: what clients see on the bill page."""

    entity = "company"
    icon = "building"
    column_list = ("name", "legal_name", "inn", "offer_url")
    column_details_list = (
        *("name", "legal_name", "inn", "kpp", "ogrn", "address", "bank_name", "bic"),
        *("settlement_account", "correspondent_account", "phone", "email", "offer_url"),
    )
    column_labels = {
        "legal_name": _l("Legal name"),
        "inn": _l("INN"),
        "kpp": _l("KPP"),
        "ogrn": _l("OGRN"),
        "bank_name": _l("Bank"),
        "bic": _l("BIC"),
        "settlement_account": _l("Settlement account"),
        "correspondent_account": _l("Correspondent account"),
        "offer_url": _l("Public offer"),
    }
    column_searchable_list = ("name", "legal_name", "inn")
    form = RequisitesForm
    creates = edits = True
    create_label = _l("Add a company")
    hint = _l("This is what clients see on the bill page.")

    def save_new(self, form: Any) -> Any:
        return create_company(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return set_requisites(row, **form.data, by=current_user)

    @expose("/licensing/")
    @permission("view")
    def licensing_view(self) -> Any:
        """The page behind the avatar: the companies of the network and their requisites."""
        companies = list(db.session.scalars(sa.select(self.model).order_by(self.model.name)))
        return self.render("admin/licensing.html", companies=companies)
