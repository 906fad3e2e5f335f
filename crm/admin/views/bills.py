"""Bills: «Финансы» → «Счета»."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import Response, g, request, url_for
from flask_admin import expose
from flask_babel import format_decimal
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from wtforms import StringField
from wtforms.validators import Length

from crm import clock
from crm.access.fields import FieldRules, field_rules
from crm.access.models import Branch
from crm.admin.base import BulkAction, GridColumn, QuickFilter, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.column import FoundColumn
from crm.admin.exporting import Export
from crm.admin.fields import REQUIRED, EnumField, Form, MoneyField, ReferenceField
from crm.admin.finding import found_clients
from crm.admin.kinds import DateKind, EnumKind, MoneyKind, Place
from crm.admin.money import account_with_balance, till_field, tills_to_choose, with_slip
from crm.admin.selection import COUNT_LIMIT, Selection
from crm.admin.views.bill_links import BillLinksView, is_payable
from crm.admin.views.mailing_selection import mailing_actions
from crm.admin.views.messages import message_list
from crm.audit.bulk import Change
from crm.bills.bundles import bundle_url, bundles_with
from crm.bills.document import bill_pdf
from crm.bills.links import bill_url
from crm.bills.models import Bill, BillStatus, bill_title, is_past_term
from crm.bills.operations import archive_bill, archive_bills, archiving_bills, changing_bills
from crm.bills.queries import is_overdue, numbered
from crm.bills.sums import takes_other_sums
from crm.bills.terms import month_end
from crm.clients.queries import client_matches
from crm.db import Money, db
from crm.exchange.excel import content_disposition
from crm.i18n import money
from crm.ledger.models import Account
from crm.ledger.queries import open_accounts_of
from crm.ledger.reach import is_within_reach
from crm.mailings.queries import messages_about
from crm.payments.models import (
    Payment,
    PaymentMethod,
    PaymentStatus,
    Refund,
    RefundStatus,
    desk_methods,
    shown_refunded,
)
from crm.payments.operations import pay_bill_at_desk
from crm.subscriptions.models import SubscriptionStatus


class TermKind(DateKind):
    """End of a payment term; an open one is spelled out."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return super().show(value, place) if value else _("not set")


class StatusKind(EnumKind):
    """A bill's status. What is stored as "pending" the grid shows as two, and the filter knows each of them."""

    AWAITING, OVERDUE = "awaiting", "overdue"

    def __init__(self) -> None:
        super().__init__(BillStatus)

    def choices(self) -> Sequence[tuple[str, Any]]:
        pending = BillStatus.PENDING.value
        return [
            (self.AWAITING, BillStatus.PENDING.label),
            (self.OVERDUE, _l("Payment term expired")),
            (pending, _l("Awaiting payment or expired")),
            *(pair for pair in super().choices() if pair[0] != pending),
        ]

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        derived = {self.AWAITING, self.OVERDUE} & {*texts}
        stored = super().any_of(column, [text for text in texts if text not in derived], place)
        if not derived:
            return stored
        overdue = is_overdue(db.session.scalars(sa.select(Branch)))
        awaiting = sa.and_(column == BillStatus.PENDING, sa.not_(overdue))
        return sa.or_(stored, *(overdue if name == self.OVERDUE else awaiting for name in sorted(derived)))


class PayForm(Form):
    amount = MoneyField(_l("Sum"), [REQUIRED])
    method = EnumField(PaymentMethod, _l("Way of payment"))
    account = ReferenceField(
        Account,
        _l("Account to pay from"),
        query=lambda: g.paying_accounts,
        title=account_with_balance,
        is_optional=True,
        description=_l("Needed only for a payment from the client's account."),
    )
    till = till_field()
    comment = StringField(_l("Comment"), [Length(max=500)])


# The columns of the register, in its order.
REGISTER = (
    *("title", "issued_at", "client", "branch", "account", "method", "purpose", "period_from", "period_to"),
    *("payable_until", "status", "amount", "paid_amount", "left", "paid_at"),
)


def left_to_pay() -> Any:
    """SQL of what is still awaited: nothing of a bill that is paid or archived."""
    awaited = sa.case((Bill.status == BillStatus.PENDING, Bill.amount - Bill.paid_amount), else_=0)
    return sa.type_coerce(awaited, Money())


def _left_of(bill: Bill) -> Decimal:
    return bill.due if _is_awaited(bill) else Decimal(0)


def _is_awaited(bill: Bill) -> bool:
    return bill.status is BillStatus.PENDING


_GIVEN_BACK = (SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED)


class BillView(BillLinksView):
    entity = "bill"
    icon = "receipt"
    column_list = (
        *("title", "client", "amount", "status", "period_from", "period_to", "payable_until"),
        *("issued_at", "paid_at", "branch"),
    )
    column_details_list = (
        *("title", "client", "account", "status", "amount", "paid_amount", "left", "method", "purpose"),
        *("period_from", "period_to", "payable_from", "payable_until", "is_repeatable", "payments_count"),
        *("issued_at", "paid_at", "branch"),
    )
    column_labels = {
        "method": _l("Type of calculation"),
        "account": _l("Client account"),
        "paid_amount": _l("Paid so far"),
        "left": _l("Left to pay"),
        "purpose": _l("Purpose of the payment"),
        "link_revoked_at": _l("Link revoked"),
    }
    column_kinds = {"status": StatusKind(), "payable_until": TermKind()}
    column_sorts = {"title": ("year", "number")}
    column_filters = ("client", "status", "amount", "issued_at", "payable_until", "branch")
    column_totals = ("amount", "paid_amount", "left")
    bulk_edit_columns = ("payable_until", "is_repeatable")
    column_default_sort = "-id"
    list_template = "admin/bills.html"
    details_template = "admin/bill.html"
    empty_hint = _l("Bills are issued from a client's card, or by an automatic mailing.")
    has_search = True
    edits = edits_own_fields_only = True

    def column(self, name: str) -> GridColumn:
        if name == "left":
            return FoundColumn(name, self.column_labels[name], MoneyKind(), left_to_pay(), of=_left_of)
        return super().column(name)

    def field_rules(self, row: Any = None) -> FieldRules:
        """What is left to pay is made of what may be hidden."""
        rules = super().field_rules(row)
        is_hidden = bool({"amount", "paid_amount", "status"} & rules.hidden)
        return FieldRules(rules.hidden | {"left"}, rules.frozen) if is_hidden else rules

    def search_condition(self, text: str) -> Any:
        """Number as printed or its digits, or the client."""
        of_client, of_number = client_matches(Bill.client_id, text, by=current_user), numbered(text)
        if of_number is None:
            return of_client
        # Not by OR: each has its own index.
        return Bill.id.in_(sa.union_all(sa.select(Bill.id).where(of_client), sa.select(Bill.id).where(of_number)))

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "status" and row.is_overdue:
            return Markup('<span class="status is-overdue">{}</span>').format(_("Payment term expired"))
        return super().cell(row, column)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        if isinstance(column, FoundColumn):
            found, value = column.kind.exporter(), column.value
            return lambda bill: found(value(bill))
        export = super().exporter(column)
        if column.name != "status":
            return export
        overdue = _("Payment term expired")
        return lambda bill: overdue if bill.is_overdue else export(bill)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        if column.name == "title":
            return self.sql_label(Bill)
        if column.name != "status":
            return super().sql_cell(column, joins)
        overdue, export = _("Payment term expired"), column.kind.exporter()
        days = {branch.id: clock.today(branch) for branch in db.session.scalars(sa.select(Branch))}

        def status(found: BillStatus, until: date | None, branch_id: int) -> Any:
            return overdue if is_past_term(found, until, today=days[branch_id]) else export(found)

        return SqlCell((Bill.status, Bill.payable_until, Bill.branch_id), status)

    def sql_label(self, row: Any) -> SqlCell | None:
        return SqlCell((row.year, row.number), bill_title)

    def loader_options(self) -> list[Any]:
        return [*super().loader_options(), sa.orm.selectinload(Bill.branch)]

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Awaiting payment"), (("f.status.is", StatusKind.AWAITING),), StatusKind.AWAITING),
            QuickFilter(_l("Payment term expired"), (("f.status.is", StatusKind.OVERDUE),), StatusKind.OVERDUE),
            *(
                QuickFilter(status.label, (("f.status.is", status.value),), status.value)
                for status in (BillStatus.PAID, BillStatus.ARCHIVED)
            ),
            QuickFilter(_l("Paid this month"), (("f.paid_at.period", "this_month"),)),
        ]

    def chip_notes(self, selection: Selection, *, exact: bool) -> dict[str, str]:
        """How many bills of each status there are and their sum, whichever status the grid is filtered by; in one
        query, that gives up where the totals of a grid do.
        """
        hidden = self.field_rules().hidden
        if "status" in hidden:
            return {}
        others = [pair for pair in selection.args(page=None) if not pair[0].startswith("f.status.")]
        whole = Selection.from_args(self, MultiDict(others), self.here())
        overdue = is_overdue(db.session.scalars(sa.select(Branch)))
        shown = sa.case(
            (overdue, StatusKind.OVERDUE),
            (Bill.status == BillStatus.PENDING, StatusKind.AWAITING),
            else_=sa.cast(Bill.status, sa.String),
        )
        inner = whole.aggregate(shown.label("shown"), Bill.amount.label("amount"))
        rows = (inner if exact else inner.limit(COUNT_LIMIT + 1)).subquery()
        query = sa.select(rows.c.shown, sa.func.count(), sa.func.sum(rows.c.amount)).group_by(rows.c.shown)
        found = {row[0]: (row[1], row[2]) for row in db.session.execute(query)}
        if not exact and sum(count for count, _sum in found.values()) > COUNT_LIMIT:
            return {}
        sees_sums = "amount" not in hidden
        return {
            key: f"{format_decimal(count)} · {money(total)}" if sees_sums else format_decimal(count)
            for key, (count, total) in found.items()
        }

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "archive",
                _l("Send to the archive"),
                "archive",
                _l("This action cannot be undone. Payment by the link will be unavailable."),
                lambda ids: archive_bills(ids, by=current_user),
                change=lambda: archiving_bills(by=current_user),
                facts=_received_of,
            ),
            BulkAction("together", _l("One link for several bills"), "issue", "", leads_to=self._together_url),
            *mailing_actions(),
        ]

    def bulk_change(self, **values: Any) -> Change:
        return changing_bills(values, by=current_user)

    def register_columns(self) -> list[str]:
        """Those of the register this person may see."""
        visible = {column.name for column in self.available_columns()}
        return [name for name in REGISTER if name in visible]

    def this_month(self) -> tuple[date, date]:
        today = clock.today(self.here())
        return today.replace(day=1), month_end(today)

    def export_of(self, selection: Selection, columns: Sequence[GridColumn]) -> Export:
        export = super().export_of(selection, columns)
        if [column.name for column in columns] != self.register_columns():
            return export
        title = _("Register of bills")
        return replace(export, title=title, file_name=f"{title} {clock.today(self.here()).isoformat()}.xlsx")

    @expose("/find/")
    @permission("issue")
    def find_payer_view(self) -> Any:
        """Whom the bill is for, found by a search; it is issued from the card."""
        return self.render(
            "admin/visit_client.html",
            **found_clients(),
            title=_("Add a bill"),
            question=_("Who is the bill for?"),
            leads_to=lambda client: url_for("client.issue_bill_view", id=client.id),
        )

    def details_context(self, row: Any) -> dict[str, Any]:
        payments = list(db.session.scalars(sa.select(Payment).where(Payment.bill_id == row.id).order_by(Payment.id)))
        return {
            "public_url": bill_url(row),
            "payments": payments,
            "refunded": _refunded_of(payments),
            "refunds": _refunds_of(payments) if current_user.may("refund.view") else {},
            "payment_url": self._payment_url,
            "bundles": bundles_with(row),
            "bundle_url": bundle_url,
            "given_back": [one for one in row.subscriptions if one.status in _GIVEN_BACK] if _is_awaited(row) else [],
            "may_pay": is_payable(row) and current_user.may("account.top_up"),
            "may_archive": row.status is BillStatus.PENDING and self.may("archive"),
            "may_issue": self.may("issue"),
            **(message_list(messages_about(row)) if self.may("message.view") else {}),
        }

    @expose("/pdf/")
    @permission("view")
    def pdf_view(self) -> Any:
        """The bill as a document."""
        bill = self.get_one(request.args.get("id"))
        title = _("Bill %(number)s", number=bill.title)
        return Response(
            bill_pdf(bill),
            mimetype="application/pdf",
            headers={"Content-Disposition": content_disposition(f"{title}.pdf", is_shown=True)},
        )

    def _payment_url(self, payment: Payment) -> str | None:
        view = self.view_of(Payment)
        return view.row_url(payment) if view is not None and view.is_accessible() else None

    @expose("/pay/", methods=("GET", "POST"))
    @permission("account.top_up")
    def pay_view(self) -> Any:
        """Take the payment in person: in cash, by card, or from another account of the client."""
        bill = self.get_one(request.values.get("id"))
        g.paying_accounts = [
            account
            for account in open_accounts_of(bill.client_id)
            if account.id != bill.account_id and account.balance > 0 and is_within_reach(bill.branch, account.branch)
        ]
        methods = desk_methods(current_user)
        g.tills = tills_to_choose(bill.branch_id, methods)
        form = PayForm(request.form if request.method == "POST" else None)
        if not takes_other_sums(bill):
            del form.amount
        elif request.method == "GET":
            form.amount.data = bill.due
        if not g.tills:
            del form.till
        if g.paying_accounts:
            methods = (*methods, PaymentMethod.ACCOUNT)
        else:  # nothing to pay from: not offered at all
            del form.account
        form.method.choices = [choice for choice in form.method.choices if choice.value in methods]
        return self.answer(
            form,
            lambda: pay_bill_at_desk(bill, **form.data, by=current_user),
            title=_("Take the payment of bill %(number)s", number=bill.title),
            # Who takes money must know how much, whatever the grids hide from him.
            # A merged client's card may be in a branch out of sight; his bills stay here.
            subtitle=f"{bill.client or bill.title} · {money(bill.due, bill.branch.company.currency)}",
            back=self.row_url(bill),
            done=lambda payment: self.row_url(bill),
            said=lambda payment: with_slip(_said_of_payment(bill), payment),
            submit=_("Take the payment"),
        )

    @expose("/archive/", methods=("GET", "POST"))
    @permission("archive")
    def archive_view(self) -> Any:
        """One bill from its own page; the same confirmation as in bulk."""
        bill = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form),
            lambda: archive_bill(bill, by=current_user),
            title=_("Send bill %(number)s to the archive?", number=bill.title),
            back=self.row_url(bill),
            said=_l("The bill is in the archive."),
            warning=" ".join(
                [_("This action cannot be undone. Payment by the link will be unavailable."), *_said_of_part(bill)]
            ),
            submit=_("Send to the archive"),
        )


def _said_of_part(bill: Bill) -> list[str]:
    if not bill.paid_amount or {"amount", "paid_amount"} & field_rules(current_user, "bill").hidden:
        return []
    got = money(bill.paid_amount, bill.branch.company.currency)
    return [_("%(sum)s has been received for it: the money stays on the client's account.", sum=got)]


def _received_of(selection: Selection, count: int) -> list[tuple[Any, Any]]:
    """What has been received for the chosen bills that would be archived."""
    if {"amount", "paid_amount"} & field_rules(current_user, "bill").hidden:
        return []
    parts = sa.case((Bill.status == BillStatus.PENDING, Bill.paid_amount), else_=0)
    total = db.session.scalar(selection.aggregate(sa.func.sum(parts)))
    return [(_("Received for those to be archived; it stays on the clients' accounts"), money(total))] if total else []


def _said_of_payment(bill: Bill) -> str:
    if bill.status is not BillStatus.PENDING:
        return _("The bill is paid.")
    return _("The payment is taken; left to pay: %(sum)s.", sum=money(bill.due, bill.branch.company.currency))


def _refunded_of(payments: Sequence[Payment]) -> str:
    """What a bill is called of whose money some was given back; nothing where none was."""
    received = [one for one in payments if one.status is PaymentStatus.SUCCEEDED]
    refunded = sum((one.refunded for one in received), Decimal(0))
    return shown_refunded(refunded, sum((one.amount for one in received), Decimal(0))) if refunded else ""


def _refunds_of(payments: Sequence[Payment]) -> dict[int, list[Refund]]:
    """By payment, as they were asked for; not those the bank refused."""
    ids = [payment.id for payment in payments if payment.refunded]
    found: dict[int, list[Refund]] = {}
    if ids:
        query = sa.select(Refund).where(Refund.payment_id.in_(ids), Refund.status != RefundStatus.FAILED)
        for refund in db.session.scalars(query.order_by(Refund.id)):
            found.setdefault(refund.payment_id, []).append(refund)
    return found
