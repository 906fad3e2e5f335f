"""«Операции по счетам»: every movement on the money accounts of clients."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from flask import Response
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup

from crm.access.fields import FieldRules, field_rules
from crm.admin.base import GridColumn, KontoraView, QuickFilter, grid_url, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.exporting import labels_of
from crm.admin.kinds import NOTHING, BalanceKind, EnumKind, Kind, ListKind, MoneyKind, Place
from crm.admin.money import sees_balances
from crm.bills.models import bill_title
from crm.catalogue.models import LessonType, Subject
from crm.clients.queries import client_matches
from crm.db import db
from crm.exchange.excel import content_disposition
from crm.i18n import money
from crm.ledger.history import CLIENT_KINDS, AccountOperation
from crm.ledger.models import Account, Entry, Transaction, TransactionKind
from crm.payments.desk import may_reverse, refusal_of_reversal
from crm.payments.receipts import moves_of, receipt_of
from crm.pdf import render_pdf
from crm.schedule.models import ClientGroup, Lesson
from crm.subscriptions.models import Plan, Subscription

END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)
# Of each, what it holds could be added up from the rest.
SUMS = frozenset({"amount", "balance_after", "credited", "debited"})


class ChangeKind(MoneyKind):
    """Money that came to an account or left it, with its sign."""

    def show(self, value: Any, place: Place) -> str | Markup:
        if not value:
            return super().show(value, place)
        css, sign = ("debt", "") if value < 0 else ("prepaid", "+")
        return Markup('<span class="{}">{}{}</span>').format(css, sign, money(value))


class LessonsKind(Kind):
    """Lessons given or taken; the ledger counts them with the decimals of money."""

    excel = "integer"
    css = "text-end tabular"
    width = 10
    operators = ()
    is_sortable = False

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if not value else f"{int(value):+d}"

    def export(self, value: Any) -> Any:
        return int(value) if value else None


class OperationKind(EnumKind):
    """Kinds of operations, those on client accounts on offer."""

    def choices(self) -> Sequence[tuple[str, Any]]:
        return [(kind.value, kind.label) for kind in CLIENT_KINDS]


class PurposeKind(ListKind):
    """The bill, the subscription, the visit, the lesson an operation was for."""

    is_editable = False

    def export(self, value: Any) -> Any:
        return super().export(value) or None


class OperationView(KontoraView):
    entity = "entry"
    icon = "arrow-left-right"
    column_list = (
        *("happened_at", "client", "account", "kind", "amount", "balance_after", "purpose", "payment.method"),
        *("author_name", "employee", "comment", "branch"),
    )
    column_details_list = (
        *(
            "transaction_id",
            "happened_at",
            "client",
            "account",
            "account_type",
            "kind",
            "amount",
            "credited",
            "debited",
        ),
        *("balance_after", "lessons", "purpose", "payment.method", "author_name", "employee", "comment"),
        *("reverses_id", "reversed_by_id", "branch"),
    )
    column_labels = {
        "kind": _l("Operation"),
        "author_name": _l("Author of the operation"),
        "lessons": _l("Quantity"),
    }
    column_kinds = {
        "kind": OperationKind(TransactionKind),
        "amount": ChangeKind(),
        "balance_after": BalanceKind(),
        "lessons": LessonsKind(),
        "purpose": PurposeKind(),
    }
    column_filters = (
        *("happened_at", "kind", "account_type", "client", "account", "author_name", "employee", "amount", "branch"),
    )
    # What an index holds: twenty million rows are not sorted for a page.
    column_sortable_list = ("happened_at", "account")
    column_totals = ("amount", "credited", "debited")
    column_default_sort = "-happened_at"
    details_template = "admin/operation.html"
    empty_hint = _l("Operations appear when accounts are topped up and services are sold.")
    has_search = True

    def field_rules(self, row: Any = None) -> FieldRules:
        """Who does not see balances does not see what they are made of either."""
        rules = super().field_rules(row)
        sums = field_rules(current_user, "account").hidden & {"balance", "credited", "debited"}
        if not sums and not SUMS & rules.hidden and "amount" not in field_rules(current_user, "payment").hidden:
            return rules
        return FieldRules(rules.hidden | SUMS, rules.frozen)

    def within_sight(self, query: Any) -> Any:
        """All of them; SQLite reads the index of dates in its order only when told a range of it."""
        return query.where(AccountOperation.happened_at <= END_OF_TIME)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Today"), (("f.happened_at.period", "today"),)),
            QuickFilter(_l("This month"), (("f.happened_at.period", "this_month"),)),
            QuickFilter(_l("Refunds"), (("f.kind.is", "refund"),)),
            QuickFilter(_l("Corrections"), (("f.kind.is", "reversal"),)),
        ]

    def search_condition(self, text: str) -> Any:
        """The client, or the number of the operation."""
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            return client_matches(AccountOperation.client_id, text, by=current_user)
        # Not by OR: each has its own index.
        by_number = sa.select(Entry.id).where(Entry.transaction_id == int(text))
        by_client = (
            sa.select(Entry.id).join(Entry.account).where(client_matches(Account.client_id, text, by=current_user))
        )
        return AccountOperation.id.in_(sa.union_all(by_number, by_client))

    def loader_options(self) -> list[Any]:
        """All that any page shows of an operation, whatever columns the grid has."""
        small = (AccountOperation.employee, AccountOperation.branch, AccountOperation.account_type)
        large = (AccountOperation.account, AccountOperation.client, AccountOperation.payment)
        return [
            *map(sa.orm.selectinload, small),
            *map(sa.orm.joinedload, (*large, AccountOperation.bill, AccountOperation.visit)),
            sa.orm.joinedload(AccountOperation.subscription).joinedload(Subscription.plan),
            sa.orm.selectinload(AccountOperation.lesson).options(
                *map(sa.orm.selectinload, (Lesson.group, Lesson.subject, Lesson.lesson_type))
            ),
        ]

    # --- cells ------------------------------------------------------------------------------------------------------

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "kind":
            return Markup("{}{}").format(row.kind.label, self.correction(row))
        if column.name == "purpose":
            return Markup(", ").join(self._linked(thing) for thing in row.purpose) or NOTHING
        if column.name in {"reverses_id", "reversed_by_id"} and column.value(row):
            return self._operation_link(column.value(row))
        return super().cell(row, column)

    def correction(self, row: AccountOperation) -> Markup:
        """What the operation corrects, or is corrected by."""
        if row.reverses_id is not None:
            text, number = _("Corrects operation"), row.reverses_id
        elif row.reversed_by_id is not None:
            text, number = _("Corrected by operation"), row.reversed_by_id
        else:
            return Markup()
        return Markup(' <span class="corrected">{} {}</span>').format(text, self._operation_link(number))

    def _operation_link(self, transaction_id: int) -> Markup:
        url = grid_url("entry", **{"f.transaction_id.is": transaction_id})
        return Markup('<a href="{}">№ {}</a>').format(url, transaction_id)

    def _linked(self, thing: Any) -> Markup:
        view = self.view_of(type(thing))
        if view is None or not view.is_accessible():
            return Markup("{}").format(thing)
        return Markup('<a href="{}">{}</a>').format(view.row_url(thing), thing)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        if column.name != "purpose":
            return super().sql_cell(column, joins)
        bill, visit = joins.to(AccountOperation.bill), joins.to(AccountOperation.visit)
        sold, plans = joins.to(AccountOperation.subscription), labels_of(Plan)
        lesson = joins.to(AccountOperation.lesson)
        names = [labels_of(table) for table in (ClientGroup, Subject, LessonType)]  # Lesson.title

        def purpose(year: Any, number: Any, plan_id: Any, sold_id: Any, service: Any, *lesson: Any) -> str | None:
            parts = [
                bill_title(year, number) if number is not None else None,
                f"{plans.get(plan_id)} #{sold_id}" if sold_id is not None else None,
                service,
                next((names[at].get(id) for at, id in enumerate(lesson) if id is not None), None),
            ]
            return ", ".join(part for part in parts if part) or None

        of_lesson = (lesson.group_id, lesson.subject_id, lesson.lesson_type_id)
        return SqlCell((bill.year, bill.number, sold.plan_id, sold.id, visit.service, *of_lesson), purpose)

    # --- one operation ----------------------------------------------------------------------------------------------

    def details_context(self, row: AccountOperation) -> dict[str, Any]:
        return {"moves": moves_of(row.transaction_id), "may_reverse": self._may_be_reversed(row)}

    @staticmethod
    def _may_be_reversed(row: AccountOperation) -> bool:
        operation = db.session.get(Transaction, row.transaction_id)
        return operation is not None and may_reverse(operation, current_user) and refusal_of_reversal(operation) is None

    @expose("/receipt/<id>/")
    @permission("view")
    def receipt_view(self, id: str) -> Any:
        """The slip of an operation, by the number of its transaction."""
        number = int(id) if id.isascii() and id.isdigit() and len(id) < 19 else 0
        receipt = receipt_of(number, hidden=self.slip_hides())
        return Response(
            render_pdf("receipt", receipt.data),
            mimetype="application/pdf",
            headers={"Content-Disposition": content_disposition(f"{receipt.title}.pdf", is_shown=True)},
        )

    def slip_hides(self) -> frozenset[str]:
        """Sums the slip leaves out. Whoever may print one for the client must see how much it is about: only a rule
        that hides the sum itself takes it off.
        """
        own = field_rules(current_user, self.entity).hidden & SUMS
        return own if not own and sees_balances() else own | {"balance_after"}
