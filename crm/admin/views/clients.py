"""Clients: the grid, the card, and what is done from the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from flask import g, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import StringField, TextAreaField
from wtforms.validators import Length, NumberRange, Optional

from crm.access.fields import FieldRules
from crm.access.models import Branch, Employee
from crm.admin.base import BulkAction, GridColumn, QuickFilter, permission
from crm.admin.cells import SqlCell
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, MoneyField, ReferenceField
from crm.admin.kinds import BoolKind
from crm.admin.money import till_field, tills_to_choose, with_slip
from crm.admin.selection import Selection
from crm.admin.views.attending import CardAttendingView
from crm.admin.views.card import Card, tabs_shown
from crm.admin.views.contacts import CONTACT_KINDS, CONTACT_LABELS, CardContactsView
from crm.admin.views.issuing import CardIssuingView
from crm.admin.views.mailing_selection import mailing_actions
from crm.admin.views.passwords import CardPasswordView
from crm.admin.views.sales import CardLessonsView
from crm.admin.views.writing import CardWritingView
from crm.audit.bulk import Change
from crm.clients.models import Client, ClientKind, ClientStatus, PhoneKind
from crm.clients.operations import (
    archive_client,
    archive_clients,
    archiving_clients,
    changing_clients,
    create_client,
    edit_client,
    restore_client,
)
from crm.clients.queries import matches_text
from crm.db import db
from crm.errors import DomainError
from crm.fields.queries import hidden_built_ins
from crm.ledger.models import Account, AccountType
from crm.ledger.operations import account_types_in
from crm.ledger.queries import entries_of
from crm.payments.models import DESK_METHODS, PaymentMethod
from crm.payments.operations import open_account_paid
from crm.protocol import ProtocolLine
from crm.security import chosen_branch

# What the name is called beside a surname.
FIRST_NAME = _l("First name")


def working_branches() -> list[Branch]:
    """Branches a new client can be put in: the chosen one, or all of the person's in the network."""
    branch = chosen_branch()
    return [branch] if branch else list(g.branches)


def _employees() -> list[Employee]:
    branch = chosen_branch()
    query = sa.select(Employee).where(Employee.is_active).order_by(Employee.name)
    return list(db.session.scalars(query.where(Employee.branch_id == branch.id))) if branch else []


class ClientForm(Form):
    PAIRS = {"phone": "phone_kind", "extra_phone": "extra_phone_kind"}

    surname = StringField(_l("Surname"), [Length(max=200)], render_kw={"autocomplete": "off"})
    name = StringField(
        _l("Full name"), [REQUIRED, Length(max=200)], render_kw={"autofocus": True, "autocomplete": "off"}
    )
    patronymic = StringField(_l("Patronymic"), [Length(max=200)], render_kw={"autocomplete": "off"})
    kind = EnumField(ClientKind, _l("Type of the client"), default=ClientKind.PERSON)
    phone = StringField(_l("Phone"), render_kw={"inputmode": "tel", "autocomplete": "off", "placeholder": "+7"})
    phone_kind = EnumField(
        PhoneKind,
        _l("Phone type"),
        default=PhoneKind.MOBILE,
        description=_l("SMS are sent to mobile numbers only."),
    )
    extra_phone = StringField(_l("Additional phone"), render_kw={"inputmode": "tel", "autocomplete": "off"})
    extra_phone_kind = EnumField(PhoneKind, _l("Type of the additional phone"), default=PhoneKind.MOBILE)
    email = StringField(_l("E-mail"), render_kw={"inputmode": "email", "autocomplete": "off"})
    birth_date = DateField(_l("Date of birth"), [Optional()])
    comment = TextAreaField(_l("Comment"), [Length(max=5000)])

    def process(self, *args: Any, **kwargs: Any) -> None:
        super().process(*args, **kwargs)
        if "surname" not in self.HIDDEN:
            self.name.label.text = FIRST_NAME


class NewClientForm(ClientForm):
    branch = ReferenceField(Branch, _l("Branch"), query=working_branches)


class OpenAccountForm(Form):
    account_type = ReferenceField(
        AccountType, _l("Account type"), query=lambda: account_types_in(branch) if (branch := chosen_branch()) else []
    )
    initial_balance = MoneyField(
        _l("Initial balance"),
        [Optional(), NumberRange(min=0, message=_l("Enter a sum above zero and not above 100 000 000."))],
        description=_l("May be left empty and topped up later."),
    )
    method = EnumField(
        PaymentMethod,
        _l("Payment"),
        members=DESK_METHODS,
        is_optional=True,
        description=_l("With an initial balance the client pays at once."),
    )
    till = till_field()
    employee = ReferenceField(Employee, _l("Employee who opened the account"), query=_employees, is_optional=True)


class ClientView(
    CardAttendingView, CardLessonsView, CardIssuingView, CardWritingView, CardContactsView, CardPasswordView
):
    entity = "client"
    icon = "person-lines-fill"
    label_column = "name"
    column_list = ("name", "surname", "patronymic", "id", "phone", "email", "payer", "branch", "created_at")
    column_details_list = ("kind", "phone_kind", "extra_phone", "extra_phone_kind", "birth_date", "comment", "status")
    column_filters = ("status", "kind", "branch", "birth_date", "created_at", "phone", "email")
    column_default_sort = "name"
    bulk_edit_columns = ("comment", "birth_date", "kind")
    column_labels = {"name": _l("Full name"), "kind": _l("Type of the client"), **CONTACT_LABELS}
    # Of the history alone: crm/schedule/waiting.py, crm/contacts/operations.py.
    column_kinds = {"waiting": BoolKind(), **CONTACT_KINDS}
    creates = edits = True
    create_label = _l("Add a client")
    empty_hint = _l("Add the first client, or import them from Excel.")
    has_search = True
    card_template = "admin/card.html"

    def field_rules(self, row: Any = None) -> FieldRules:
        """What a number is goes the way of the number."""
        rules = super().field_rules(row)
        return FieldRules(_with_kinds(rules.hidden), _with_kinds(rules.frozen))

    def without_hidden(self, columns: Sequence[GridColumn], row: Any = None) -> list[GridColumn]:
        found = super().without_hidden(columns, row)
        if "surname" in self.field_rules(row).hidden:
            return found
        return [replace(column, label=FIRST_NAME) if column.name == "name" else column for column in found]

    def companies_of_new(self) -> frozenset[int]:
        payer = request.args.get("payer")
        return self.companies_of(self.get_one(payer)) if payer else super().companies_of_new()

    def sql_label(self, row: Any) -> SqlCell | None:
        """The name, with what else of it each company displays."""
        if all({"surname", "patronymic"} <= hidden_built_ins("client", {id}) for id in self.companies_in_sight()):
            return super().sql_label(row)
        return None

    def declared_form(self) -> type[Form]:
        """A new card is put in a branch; a new member of a family in the payer's."""
        is_new = request.endpoint == f"{self.endpoint}.create_view"
        return NewClientForm if is_new and not request.args.get("payer") else ClientForm

    def search_condition(self, text: str) -> Any:
        return matches_text(text, by=current_user)

    def base_condition(self, selection: Selection) -> Any:
        """Archived cards are seen only when asked for by the status filter."""
        return None if selection.filters_by("status") else Client.status == ClientStatus.ACTIVE

    def row_url(self, row: Any) -> str:
        return url_for("client.card_view", id=row.id)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("New this month"), (("f.created_at.period", "this_month"),)),
            QuickFilter(_l("Without e-mail"), (("f.email.empty", "1"),)),
            QuickFilter(_l("In the archive"), (("f.status.is", "archived"),)),
        ]

    def bulk_actions(self) -> list[BulkAction]:
        return [
            *self.issuing_actions(),
            *mailing_actions(),
            BulkAction(
                "archive",
                _l("Send to the archive"),
                "archive",
                _l("Archived clients are not found by the search; a card can be restored."),
                lambda ids: archive_clients(ids, by=current_user),
                change=lambda: archiving_clients(by=current_user),
            ),
            BulkAction(
                "restore",
                _l("Restore from the archive"),
                "archive",
                _l("Restored clients are found by the search again."),
                _restore_each,
                is_dangerous=False,
            ),
        ]

    def bulk_change(self, **values: Any) -> Change:
        return changing_clients(values, by=current_user)

    # --- the card ---------------------------------------------------------------------------------------------------

    def save_new(self, form: Any) -> Any:
        family = {}
        if request.args.get("payer"):
            payer = self.get_one(request.args["payer"])
            family = {"payer": payer, "branch": payer.branch}
        return create_client(**form.data, **family, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return edit_client(row, **form.data, by=current_user)

    def prefill(self, form: Any) -> None:
        if "branch" in form:
            form.branch.data = next(iter(working_branches()), None)

    @expose("/details/")
    def details_view(self) -> Any:
        return redirect(self.row_url(self.get_one(request.args.get("id"))))

    @expose("/card/<id>/")
    @permission("view")
    def card_view(self, id: str) -> Any:
        client = self.get_one(id)
        tabs = tabs_shown()
        tab = tabs.get(request.args.get("tab", ""), tabs["main"])
        card = Card(client, self)
        own = self.without_hidden(self.custom_columns(self.companies_of(client)), client)
        return self.render(
            self.card_template,
            hidden=self.field_rules(client).hidden,
            own=own,
            client=client,
            payer=card.payer,
            branch=chosen_branch(),
            tabs=tabs.values(),
            tab=tab.key,
            **tab.load(card),
        )

    @expose("/card/<id>/archive/", methods=("GET", "POST"))
    @permission("archive")
    def archive_view(self, id: str) -> Any:
        client = self.get_one(id)
        is_active = client.status is ClientStatus.ACTIVE
        change = archive_client if is_active else restore_client
        return self.answer(
            Form(request.form),
            lambda: change(client, by=current_user),
            title=_("Send %(name)s to the archive?", name=client.shown_name)
            if is_active
            else _("Restore %(name)s from the archive?", name=client.shown_name),
            back=self.row_url(client),
            submit=_("Send to the archive") if is_active else _("Restore"),
        )

    # --- money ------------------------------------------------------------------------------------------------------

    @expose("/card/<id>/account/new/", methods=("GET", "POST"))
    @permission("account.open")
    def open_account_view(self, id: str) -> Any:
        """«Открыть новый счет»: in a branch only; with an initial balance the payment goes with it."""
        client = self.get_one(id)
        branch = chosen_branch()
        company = client.branch.company_id if branch is None else branch.company_id
        g.tills = tills_to_choose(branch.id) if branch is not None else []
        form = self._operation_form(Account, OpenAccountForm, company)
        if not g.tills:
            del form.till
        if branch is None:
            form.form_errors.append(_("An account can be opened only in a branch. Choose a branch first."))
        elif not form.account_type.rows:
            form.form_errors.append(
                _("No account types are offered in this branch yet. They are added in the network.")
            )
        return self.answer(
            form,
            lambda: open_account_paid(client, **form.data, branch=branch, by=current_user),
            title=_("Open a new account"),
            back=self._whence(client),
            done=lambda account: self._whence(client),
            said=_opened,
            subtitle=client.shown_name,
            submit=_("Open a new account"),
            types_url=url_for("accounttype.index_view"),
        )

    def _whence(self, client: Client) -> str:
        """Where an operation on an account was begun and leads back: a visit's window, or the card."""
        visit = request.args.get("visit", "")
        if visit.isascii() and visit.isdigit():
            return url_for("visit.details_view", id=visit)
        return self._tab(client, "accounts")


def _with_kinds(names: frozenset[str]) -> frozenset[str]:
    return names | {f"{name}_kind" for name in names & {"phone", "extra_phone"}}


def _opened(account: Account) -> Markup:
    """What is said of a new account: where money was taken, with the way to its slip."""
    taken = db.session.scalars(entries_of(account)).first()
    return with_slip(_("The account is open."), taken.transaction if taken is not None else None)


def _restore_each(ids: list[int]) -> list[ProtocolLine]:
    """Card after card, since each asks whose its phone is by now; a broken rule is told in its line."""
    lines = []
    for client in db.session.scalars(sa.select(Client).where(Client.id.in_(ids)).order_by(Client.id)):
        error = None
        try:
            restore_client(client, by=current_user)
        except DomainError as refused:
            error = refused
        lines.append(ProtocolLine.after(client.id, client.shown_name, error))
    return lines
