"""Account types (network) and the list of accounts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

from flask import g
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from sqlalchemy import case
from wtforms import BooleanField, IntegerField, StringField, validators

from crm.access.fields import FieldRules
from crm.access.models import Branch
from crm.admin.base import BulkAction, GridColumn, KontoraView, QuickFilter
from crm.admin.cells import Joins, SqlCell
from crm.admin.column import LoadedColumn
from crm.admin.exporting import labels_of
from crm.admin.fields import REQUIRED, Form, ReferencesField
from crm.admin.kinds import BalanceKind, MomentKind
from crm.admin.selection import Selection
from crm.admin.views.card_history import OF_ACCOUNTS, history_of
from crm.admin.views.desk import AccountDeskView
from crm.admin.views.mailing_selection import mailing_actions
from crm.admin.views.operations import OperationView
from crm.audit.bulk import Change
from crm.clients.queries import client_matches
from crm.ledger.history import AccountOperation
from crm.ledger.models import ACCOUNT_SUMS, Account, AccountType, Unit
from crm.ledger.operations import change_account_type, changing_accounts, create_account_type
from crm.ledger.turnover import end_of, last_movement, opened_by, sums_of_account, totals_of_clients


class AccountTypeForm(Form):
    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    branches = ReferencesField(Branch, _l("Branches"), description=_l("The branches where this type is offered."))
    position = IntegerField(_l("Order"), [validators.Optional(), validators.NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"))


class AccountTypeView(KontoraView):
    """Types are made in the network interface; a branch only sees those it offers."""

    entity = "accounttype"
    icon = "tags"
    column_list = ("name", "branches", "position", "is_archived")
    column_searchable_list = ("name",)
    column_default_sort = "position"
    form = AccountTypeForm
    create_label = _l("Add an account type")
    creates = edits = True
    empty_hint = _l("Add the first account type, for example “Deposits”: then accounts can be opened for clients.")
    hint = _l("Account types are added and changed in the network interface.")

    @property
    def may_create(self) -> bool:
        return super().may_create and g.scope.branch_id is None

    @property
    def may_edit(self) -> bool:
        return super().may_edit and g.scope.branch_id is None

    def base_condition(self, selection: Selection) -> Any:
        if g.scope.branch_id is None:
            return None
        return self.model.branches.any(Branch.id == g.scope.branch_id)

    def save_new(self, form: Any) -> Any:
        return create_account_type(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_account_type(row, **form.data, by=current_user)


class AccountView(AccountDeskView):
    """Money accounts of all clients who ever had one."""

    entity = "account"
    icon = "wallet2"
    column_list = (
        *("client", "title", "balance", "credited", "debited", "last_movement"),
        *("opened_at", "closed_at", "branch"),
    )
    column_details_list = (
        *("client", "title", "balance", "credited", "debited"),
        *("opened_at", "closed_at", "employee", "branch"),
    )
    column_labels = {"title": _l("Account type"), "last_movement": _l("Last movement")}
    column_kinds = {"balance": BalanceKind(), "last_movement": MomentKind()}
    column_sorts = {"title": ("account_type", "kind")}
    column_filters = ("account_type", "balance", "opened_at", "closed_at", "branch")
    column_totals = ("balance", "credited", "debited")
    column_past = (*column_totals, "last_movement", "closed_at")
    edits = edits_own_fields_only = True
    column_default_sort = "-opened_at"
    details_template = "admin/account.html"
    empty_hint = _l("Accounts are opened from a client's card, in a branch.")
    has_search = True

    def field_rules(self, row: Any = None) -> FieldRules:
        """The balance is the difference of the other two: of who does not see one, none is seen."""
        rules = super().field_rules(row)
        return FieldRules(rules.hidden | ACCOUNT_SUMS, rules.frozen) if ACCOUNT_SUMS & rules.hidden else rules

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("In debt"), (("f.balance.to", "-0.01"),)),
            QuickFilter(_l("With money on it"), (("f.balance.from", "0.01"),)),
            QuickFilter(_lp("accounts", "Open ones"), (("f.closed_at.empty", "1"),)),
            QuickFilter(_lp("accounts", "Closed ones"), (("f.closed_at.empty", "0"),)),
        ]

    def search_condition(self, text: str) -> Any:
        return client_matches(Account.client_id, text, by=current_user)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return self.sql_label(Account) if column.name == "title" else super().sql_cell(column, joins)

    def sql_label(self, row: Any) -> SqlCell | None:
        names = labels_of(AccountType)
        return SqlCell((row.account_type_id, row.kind), lambda type_id, kind: names.get(type_id) or str(kind.label))

    # --- as of a day ------------------------------------------------------------------------------------------------

    def base_condition(self, selection: Selection) -> Any:
        return None if selection.as_of is None else opened_by(selection.as_of)

    def column_as_of(self, column: GridColumn, day: date | None) -> GridColumn:
        if column.name == "last_movement":
            return LoadedColumn(column.name, column.label, column.kind, last_movement(day))
        if day is None or column.name not in self.column_past:
            return column
        past = {
            **sums_of_account(day),
            "closed_at": case((Account.closed_at < end_of(day, Account.branch_id), Account.closed_at)),
        }
        return LoadedColumn(column.name, column.label, column.kind, past[column.name])

    def known_totals(self, selection: Selection) -> dict[str, Any] | None:
        """Of all accounts, or those of some branches and types: from the turnover, whose sums are those of entries."""
        filters = [item for item in selection.filters if item.error is None]
        if selection.search or selection.ids is not None or any(item.group for item in filters):
            return None
        if not {item.name for item in filters} <= {"branch", "account_type"}:
            return None

        def narrow(branch_id: Any, account_type_id: Any) -> list[Any]:
            columns = {"branch": branch_id, "account_type": account_type_id}
            return [
                item.column.kind.condition(columns[item.name], item.operator, list(item.values), selection.place)
                for item in filters
                if item.column is not None
            ]

        return asdict(totals_of_clients(narrow, as_of=selection.as_of))

    def bulk_actions(self) -> list[BulkAction]:
        return mailing_actions()

    def within_sight(self, query: Any) -> Any:
        return query.where(Account.client_id.is_not(None), Account.unit == Unit.MONEY)

    def bulk_change(self, **values: Any) -> Change:
        return changing_accounts(values, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        operations = self.view_of(AccountOperation)
        if not isinstance(operations, OperationView) or not current_user.may("entry.view"):
            return {"operations": None}
        return {"operations": history_of(operations, [], OF_ACCOUNTS, **{"f.account.is": str(row.id)})}
