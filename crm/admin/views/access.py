"""Users, employees, branches, cities, companies and their requisites."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from typing import Any
from zoneinfo import available_timezones

import sqlalchemy as sa
from flask import g, request
from flask_admin import expose
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user, login_user
from markupsafe import Markup
from wtforms import BooleanField, Field, PasswordField, StringField, TimeField, validators

from crm.access.fields import FieldRules
from crm.access.mailing_option import (
    MAILING_OPTION,
    MAILING_RULES,
    TRIAL,
    set_mailing_rules,
    set_mailings,
    try_mailings,
)
from crm.access.models import Branch, City, Company, Employee, Role, User
from crm.access.operations import change_user, create_user
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.requisites import PAYMENT_RULES, create_company, set_payment_rules, set_requisites
from crm.access.roles import manageable_roles
from crm.access.scope import current_scope
from crm.access.switches import SWITCHES, set_switches
from crm.admin.base import DEFAULT_ZONE, KontoraView, permission
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, ReferenceField, ReferencesField
from crm.admin.kinds import NOTHING, JsonKind, Place
from crm.admin.mailing_option import company_notice
from crm.admin.rights import rights_of_person
from crm.admin.views.mailings import WEEKDAYS
from crm.bills.requisites_qr import company_payload, missing_requisites, qr_picture
from crm.db import db
from crm.i18n import day

SAMPLE_SUM = Decimal("1500.00")


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


def _users_in_reach() -> list[User]:
    """Whom this person may name as an employee: those he sees, and those who are employees of his branches already."""
    query = sa.select(User).order_by(User.name)
    if current_user.role.value not in NETWORK_WIDE_ROLES:
        own = [branch.id for branch in g.branches]
        employed = sa.select(Employee.user_id).where(Employee.branch_id.in_(own))
        query = query.where(sa.or_(User.branches.any(Branch.id.in_(own)), User.id.in_(employed)))
    return list(db.session.scalars(query))


class EmployeeForm(Form):
    name = StringField(_l("Full name"), [REQUIRED, validators.Length(max=200)])
    position = StringField(_l("Position"), [validators.Length(max=100)])
    branch = ReferenceField(Branch, _l("Branch"))
    user = ReferenceField(
        User,
        _l("User"),
        query=_users_in_reach,
        is_optional=True,
        description=_l("Who signs in as this employee: an instructor sees his own lessons then."),
    )
    teaches = BooleanField(_l("Holds lessons"), description=_l("Is offered where an instructor is chosen."))
    is_active = BooleanField(_l("In use"))

    def validate_user(self, field: Any) -> None:
        if field.data is None or field.data is field.object_data:
            return
        if db.session.scalar(sa.select(Employee.id).where(Employee.user_id == field.data.id)):
            raise validators.ValidationError(_("This user is another employee already."))


class EmployeeView(KontoraView):
    entity = "employee"
    icon = "person-badge"
    column_list = ("name", "position", "teaches", "branch", "is_active")
    column_details_list = ("name", "position", "teaches", "user", "branch", "is_active")
    column_labels = {"name": _l("Full name"), "position": _l("Position")}
    column_searchable_list = ("name",)
    column_filters = ("branch", "teaches", "is_active")
    column_default_sort = "name"
    form = EmployeeForm
    creates = edits = True
    create_label = _l("Add an employee")

    def within_sight(self, query: Any) -> Any:
        branch_ids = current_scope().branch_ids
        return query if branch_ids is None else query.where(Employee.branch_id.in_(branch_ids))

    def prefill(self, form: Any) -> None:
        form.is_active.data = form.teaches.data = True


@dataclass(frozen=True)
class DayHours:
    """A line of HoursField: what is typed for a day of the week, and what is wrong with it."""

    name: Any
    opens: str
    closes: str
    error: str | None


class HoursField(Field):
    """Opening and closing times of the seven days, Monday first, all inputs under one name; both empty: closed.

    Data: as Branch.working_hours has it. A mistake stands in the line of its day.
    """

    def __init__(self, label: Any = None, rules: Any = (), **kwargs: Any) -> None:
        self.mistakes: dict[int, str] = {}
        super().__init__(label, rules, **kwargs)

    @property
    def days(self) -> list[DayHours]:
        """The lines as they are shown: what was typed, else the hours as they are."""
        kept = [(self.data or {}).get(str(number), ("", "")) for number in range(7)]
        return [
            DayHours(name, opens, closes, self.mistakes.get(number))
            for number, (name, (opens, closes)) in enumerate(zip(WEEKDAYS, self._typed() or kept, strict=True))
        ]

    def _typed(self) -> list[tuple[str, str]]:
        """What was sent, day by day; nothing unless it is all of it."""
        texts = [str(text).strip() for text in self.raw_data or ()]
        return list(zip(texts[::2], texts[1::2], strict=True)) if len(texts) == 14 else []

    def process_data(self, value: Any) -> None:
        self.data, self.mistakes = dict(value or {}), {}

    def process_formdata(self, valuelist: list[str]) -> None:
        """What is sent without the hours leaves them as they are."""
        hours = {}
        for number, (opens, closes) in enumerate(self._typed()):
            if not opens and not closes:
                continue
            try:
                hours[str(number)] = [f"{time.fromisoformat(text):%H:%M}" for text in (opens, closes)]
            except ValueError:
                is_half = not opens or not closes
                self.mistakes[number] = (
                    _("Enter both times, or none for a day off.") if is_half else _("Enter a time such as 09:00.")
                )
                continue
            first, last = hours[str(number)]
            if last != "00:00" and last <= first:  # midnight is the end of the day
                self.mistakes[number] = _("Closing is after opening.")
        if self.mistakes:
            raise ValueError(_("Check the working hours."))
        if self._typed():
            self.data = hours


class HoursKind(JsonKind):
    """Working hours in a line; days alike stand together."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return self.export(value) or NOTHING

    def export(self, value: Any) -> Any:
        spans: list[tuple[int, int, list[str]]] = []
        for number in range(7):
            hours = (value or {}).get(str(number))
            if hours is None:
                continue
            if spans and spans[-1][1] == number - 1 and spans[-1][2] == hours:
                spans[-1] = (spans[-1][0], number, hours)
            else:
                spans.append((number, number, hours))
        return ", ".join(_span(first, last, hours) for first, last, hours in spans)


def _span(first: int, last: int, hours: list[str]) -> str:
    names = get_locale().days["stand-alone"]["abbreviated"]
    days = names[first] if first == last else f"{names[first]}–{names[last]}"
    return f"{days} {hours[0]}–{hours[1]}"


class BranchForm(Form):
    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    time_zone = StringField(
        _l("Time zone"),
        [REQUIRED, validators.AnyOf(available_timezones(), _l("Unknown time zone. Example: Europe/Moscow."))],
        description=_l("For example Europe/Moscow or Asia/Yekaterinburg."),
    )
    address = StringField(_l("Address"))
    working_hours = HoursField(
        _l("Working hours"),
        description=_l(
            "A day left empty is a day off; 00:00 closes at midnight. With all seven empty the branch is always open."
        ),
    )


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
    column_details_list = (*column_list, "working_hours")
    column_labels = {f"working_hours.{number}": name for number, name in enumerate(WEEKDAYS)}
    column_kinds = {"working_hours": HoursKind()}
    column_searchable_list = ("name",)
    column_default_sort = "name"
    creates = edits = True
    create_label = _l("Add a branch")
    empty_hint = _l("First add the company and the city, then the branch: clients are served in branches.")

    def within_sight(self, query: Any) -> Any:
        return query.where(Branch.id.in_([branch.id for branch in g.branches]))

    def declared_form(self) -> type[Form]:
        return NewBranchForm if request.endpoint == "branch.create_view" else BranchForm

    def is_editable_inline(self, name: str) -> bool:
        """Seven days do not fit into a cell."""
        return name != "working_hours" and super().is_editable_inline(name)

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


class CompanyForm(Form):
    SECTIONS = (
        (
            _l("Requisites"),
            (
                *("name", "legal_name", "inn", "kpp", "ogrn", "address", "bank_name", "bic", "settlement_account"),
                *("correspondent_account", "phone", "email", "offer_url"),
            ),
        ),
        (_l("Payment of bills"), PAYMENT_RULES),
        (_l("Mailings"), MAILING_RULES),
        (_l("Lessons: switched by technical support"), SWITCHES),
        (_l("Mailings: switched by technical support"), MAILING_OPTION),
    )

    name = StringField(
        _l("Company name"),
        [REQUIRED, validators.Length(max=200)],
        description=_l("What clients call you: it heads the page of a bill, and letters come from it."),
    )
    legal_name = StringField(
        _l("Legal name"),
        [validators.Length(max=200)],
        description=_l("The payee, as the bank knows it. While it is empty, the company name stands in its place."),
    )
    inn = StringField(
        _l("INN"),
        description=_l("10 digits, of a sole proprietor 12. The QR code needs it."),
        render_kw={"inputmode": "numeric"},
    )
    kpp = StringField(
        _l("KPP"),
        description=_l("9 characters. A sole proprietor has none."),
        render_kw={"inputmode": "numeric"},
    )
    ogrn = StringField(
        _l("OGRN"), description=_l("13 digits, of a sole proprietor 15."), render_kw={"inputmode": "numeric"}
    )
    address = StringField(_l("Address"))
    bank_name = StringField(
        _l("Bank"),
        [validators.Length(max=200)],
        description=_l("As in the papers of the bank. The QR code needs it and takes its first 45 characters."),
    )
    bic = StringField(
        _l("BIC"),
        description=_l("9 digits; both accounts are checked against it. The QR code needs it."),
        render_kw={"inputmode": "numeric"},
    )
    settlement_account = StringField(
        _l("Settlement account"),
        description=_l("20 digits: where clients pay to. The QR code needs it."),
        render_kw={"inputmode": "numeric"},
    )
    correspondent_account = StringField(
        _l("Correspondent account"),
        description=_l("20 digits, of the bank. The QR code needs it."),
        render_kw={"inputmode": "numeric"},
    )
    phone = StringField(_l("Phone"), description=_l("For questions, on the page of a bill; a branch may have its own."))
    email = StringField(_l("E-mail"), description=_l("For questions, and letters are answered to it."))
    offer_url = StringField(
        _l("Public offer"),
        description=_l(
            "Address of the offer on your site. While it is empty, clients see the standard offer: "
            "have a lawyer read it."
        ),
        render_kw={"inputmode": "url", "placeholder": "https://"},
    )
    takes_part_payments = BooleanField(
        _l("Bills may be paid in parts"),
        description=_l("Otherwise the exact sum of the bill, or what is left of it, is taken."),
    )
    takes_overpayments = BooleanField(
        _l("More than a bill asks for may be paid"),
        description=_l("What is over stays on the account the bill is for."),
    )
    takes_deposits = BooleanField(
        _l("Bills may be paid from a deposit"),
        default=True,
        description=_l("By the client himself on the page of the bill, confirmed by a code sent to him."),
    )
    quiet_from = TimeField(
        _l("Quiet hours: from"),
        [validators.Optional()],
        description=_l(
            "Mailings wait till they end, by the clock of each branch; what is written by hand and codes do not. "
            "May go over midnight, from 21:00 to 9:00 say. Both empty: none."
        ),
    )
    quiet_to = TimeField(_l("Quiet hours: to"), [validators.Optional()])
    asks_consent = BooleanField(
        _l("News and greetings only to those who have agreed"),
        description=_l(
            "The consent is noted on the client's card, or given by himself on his page of messages. Otherwise they go "
            "to all who have not refused."
        ),
    )
    has_waiting_list = BooleanField(
        _l("Waiting list"),
        default=True,
        description=_l("Clients nothing is planned for stand in a list of their own."),
    )
    has_parallel_rooms = BooleanField(
        _l("Rooms used in parallel"), description=_l("One lesson may go on in several rooms at the same time.")
    )
    binds_instructor = BooleanField(
        _l("The instructor is bound to the time of the lesson"),
        default=True,
        description=_l(
            "The lesson type and the instructor are chosen when lessons are planned for a client. "
            "To have it changed, ask technical support."
        ),
    )
    has_mailings = BooleanField(
        _l("SMS/E-mail mailings"),
        default=True,
        description=_l("While they are off, no message is sent to clients, by hand or by itself."),
    )
    mailings_until = DateField(
        _l("Mailings are on till"),
        [validators.Optional()],
        description=_l("The last day, by the clock of each branch. Empty: without an end."),
    )


class CompanyView(KontoraView):
    """«Лицензирование» → «Реквизиты»: what clients see on the bill page; and what the company uses of Kontora."""

    entity = "company"
    icon = "building"
    column_list = ("name", "legal_name", "inn", "offer_url")
    column_details_list = (
        *("name", "legal_name", "inn", "kpp", "ogrn", "address", "bank_name", "bic"),
        *("settlement_account", "correspondent_account", "phone", "email", "offer_url"),
        *PAYMENT_RULES,
        *MAILING_RULES,
        *SWITCHES,
        *MAILING_OPTION,
        "mailings_tried_at",
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
        "takes_part_payments": _l("Bills may be paid in parts"),
        "takes_overpayments": _l("More than a bill asks for may be paid"),
        "takes_deposits": _l("Bills may be paid from a deposit"),
        "quiet_from": _l("Quiet hours: from"),
        "quiet_to": _l("Quiet hours: to"),
        "asks_consent": _l("News and greetings only to those who have agreed"),
        "has_waiting_list": _l("Waiting list"),
        "has_parallel_rooms": _l("Rooms used in parallel"),
        "binds_instructor": _l("The instructor is bound to the time of the lesson"),
        "has_mailings": _l("SMS/E-mail mailings"),
        "mailings_until": _l("Mailings are on till"),
        "mailings_tried_at": _l("Free trial of mailings begun"),
    }
    column_searchable_list = ("name", "legal_name", "inn")
    form = CompanyForm
    creates = edits = True
    create_label = _l("Add a company")
    details_template = "admin/company.html"
    hint = _l("This is what clients see on the bill page.")

    def field_rules(self, row: Any = None) -> FieldRules:
        rules = super().field_rules(row)
        return rules if self.may("switch") else FieldRules(rules.hidden, rules.frozen | {*SWITCHES, *MAILING_OPTION})

    def save_new(self, form: Any) -> Any:
        rules, mailing_rules, switches, option, requisites = _apart(form.data)
        company = create_company(**requisites, by=current_user)
        set_payment_rules(company, **rules, by=current_user)
        set_mailing_rules(company, **mailing_rules, by=current_user)
        set_switches(company, **switches, by=current_user)
        return set_mailings(company, **option, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        rules, mailing_rules, switches, option, requisites = _apart(form.data)
        set_requisites(row, **requisites, by=current_user)
        set_payment_rules(row, **rules, by=current_user)
        set_mailing_rules(row, **mailing_rules, by=current_user)
        set_switches(row, **switches, by=current_user)
        return set_mailings(row, **option, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        return {"option": company_notice(row)}

    @expose("/try-mailings/", methods=("GET", "POST"))
    @permission("edit")
    def try_view(self) -> Any:
        """The free trial of the mailing option, once for a company."""
        company: Company = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form if request.method == "POST" else None),
            lambda: try_mailings(company, by=current_user),
            title=_("Try SMS/E-mail mailings for free?"),
            subtitle=_(
                "Messages to clients of “%(company)s” will be sent for %(days)s days, today included. The trial is "
                "given once.",
                company=company.name,
                days=TRIAL.days,
            ),
            back=self.row_url(company),
            done=self.row_url,
            said=lambda tried: _("Mailings are on till %(day)s.", day=day(tried.mailings_until)),
            submit=_("Try for free"),
        )

    @expose("/licensing/")
    @permission("view")
    def licensing_view(self) -> Any:
        """The page behind the avatar: the companies of the network and their requisites."""
        companies = list(db.session.scalars(sa.select(self.model).order_by(self.model.name)))
        return self.render("admin/licensing.html", companies=companies, missing_requisites=missing_requisites)

    @expose("/preview/")
    @permission("view")
    def preview_view(self) -> Any:
        """The requisites as clients see them, with a sample of the payment QR."""
        company = self.get_one(request.args.get("id"))
        sample = company_payload(company, SAMPLE_SUM, {"Purpose": _("A sample, not to be paid")})
        return self.render(
            "admin/requisites_preview.html",
            company=company,
            missing=missing_requisites(company),
            qr=Markup(qr_picture(sample, title=_("A sample of the QR code"))) if sample else "",  # noqa: S704 - ours
            sum=SAMPLE_SUM,
        )


def _apart(facts: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The rules of payment, those of mailings, the switches, the mailing option and the requisites of a form."""
    kinds = (PAYMENT_RULES, MAILING_RULES, SWITCHES, MAILING_OPTION)
    others = {name: value for name, value in facts.items() if not any(name in names for names in kinds)}
    return (*({name: facts[name] for name in names} for names in kinds), others)
