"""The money histories on a client's card: the latest rows of a selection of «Операции по счетам», whose whole and whose
Excel file are a link away, so that the sums always agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import request, url_for
from flask_login import current_user
from werkzeug.datastructures import MultiDict

from crm.admin.column import GridColumn
from crm.admin.selection import Selection
from crm.admin.views.operations import OperationView
from crm.clients.models import Client
from crm.ledger.history import AccountOperation
from crm.ledger.models import Account

# What the tab of the accounts shows of an operation, and what the history of finances does.
OF_ACCOUNTS = (
    *("happened_at", "account", "kind", "amount", "balance_after", "author_name", "employee", "branch", "comment"),
    *("purpose", "payment.method"),
)
OF_FINANCES = ("happened_at", "kind", "purpose", "employee", "lessons", "amount")
TOTALS = ("credited", "debited", "amount")


@dataclass(frozen=True)
class History:
    """Rows of a selection, the latest first, and its sums over all of them: none where they are hidden."""

    view: OperationView
    selection: Selection
    columns: list[GridColumn]
    rows: list[AccountOperation]
    has_more: bool
    count: int
    totals: dict[str, Any]

    @property
    def is_narrowed(self) -> bool:
        return len(self.selection.filters) > 1

    @property
    def all_url(self) -> str:
        return url_for("entry.index_view") + self.selection.url()

    @property
    def export_url(self) -> str:
        """Excel of exactly these rows and columns."""
        columns = ",".join(column.name for column in self.columns)
        return url_for("entry.export") + self.selection.url(columns=columns)

    @property
    def may_export(self) -> bool:
        return self.view.may_export


def history_of(view: OperationView, people: Sequence[Client], columns: Sequence[str], **filters: str) -> History:
    """The operations on the accounts of `people` that fulfil the filters: argument of the grid's address = value."""
    args = MultiDict([("f.client.is", str(person.id)) for person in people])
    args.update({key: value for key, value in filters.items() if value})
    selection = Selection.from_args(view, args, view.here())
    shown = view.without_hidden([view.column(name) for name in columns])
    page = selection.read_page()
    summary = selection.summary(view.without_hidden([view.column(name) for name in TOTALS]), exact=True)
    return History(view, selection, shown, page.rows, page.has_next, summary.count, summary.totals or {})


def family_of(payer: Client) -> list[Client]:
    """Whose accounts the money of a family is on."""
    return [payer, *payer.family]


def finance_history(view: OperationView, payer: Client) -> dict[str, Any]:
    return {"finances": history_of(view, family_of(payer), OF_FINANCES)}


def account_history(view: OperationView, payer: Client, accounts: Sequence[Account]) -> dict[str, Any]:
    """For the tab of the accounts: its own filters are short names of those of the grid."""
    if not current_user.may("entry.view"):
        return {"operations": None}
    asked = {name: request.args.get(name, "") for name in ("account", "kind", "from", "to")}
    if asked["account"] not in {str(account.id) for account in accounts}:
        asked["account"] = ""
    found = history_of(
        view,
        family_of(payer),
        OF_ACCOUNTS,
        **{
            "f.account.is": asked["account"],
            "f.kind.is": asked["kind"],
            "f.happened_at.from": asked["from"],
            "f.happened_at.to": asked["to"],
        },
    )
    return {"operations": found, "asked": asked, "kinds": view.column("kind").kind.choices()}
