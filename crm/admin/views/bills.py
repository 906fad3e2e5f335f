"""Bills: «Финансы» → «Счета»."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa
from flask import g, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import StringField
from wtforms.validators import Length

from crm import clock
from crm.access.models import Branch
from crm.admin.base import BulkAction, GridColumn, KontoraView, QuickFilter, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.fields import EnumField, Form, ReferenceField
from crm.admin.kinds import DateKind, EnumKind, Place
from crm.admin.money import account_with_balance, till_field, tills_to_choose, with_slip
from crm.audit.bulk import Change
from crm.bills.links import bill_url
from crm.bills.models import Bill, BillStatus, bill_title, is_past_term
from crm.bills.operations import archive_bill, archive_bills, archiving_bills, changing_bills, check_payable
from crm.bills.queries import is_overdue
from crm.clients.queries import client_matches
from crm.db import db
from crm.errors import DomainError
from crm.i18n import money
from crm.ledger.models import Account
from crm.ledger.queries import open_accounts_of
from crm.ledger.reach import is_within_reach
from crm.payments.models import Payment, PaymentMethod, desk_methods
from crm.payments.operations import pay_bill_at_desk


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


class BillView(KontoraView):
    entity = "bill"
    icon = "receipt"
    column_list = (
        *("title", "client", "amount", "status", "period_from", "period_to", "payable_until"),
        *("issued_at", "paid_at", "branch"),
    )
    column_details_list = (
        *("title", "client", "account", "amount", "status", "method", "period_from", "period_to"),
        *("payable_from", "payable_until", "is_repeatable", "payments_count", "issued_at", "paid_at", "branch"),
    )
    column_labels = {"method": _l("Type of calculation"), "account": _l("Client account")}
    column_kinds = {"status": StatusKind(), "payable_until": TermKind()}
    column_sorts = {"title": ("year", "number")}
    column_filters = ("client", "status", "amount", "issued_at", "payable_until", "branch")
    column_totals = ("amount",)
    bulk_edit_columns = ("payable_until", "is_repeatable")
    column_default_sort = "-id"
    details_template = "admin/bill.html"
    empty_hint = _l("Bills are issued from a client's card, or by an automatic mailing.")
    has_search = True
    edits = edits_own_fields_only = True

    def search_condition(self, text: str) -> Any:
        """Number as printed or its digits, or the client."""
        of_client = client_matches(Bill.client_id, text, by=current_user)
        year, _dash, number = text.rpartition("-")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            return of_client
        # Numbers begin anew each year: with the years named, an index knows them.
        years = range(2000, clock.now().year + 2)
        if year.isascii() and year.isdigit() and len(year) == 4:
            years = range(int(year), int(year) + 1)
        of_number = sa.and_(Bill.year.in_(years), Bill.number == int(number))
        # Not by OR: each has its own index.
        return Bill.id.in_(sa.union_all(sa.select(Bill.id).where(of_client), sa.select(Bill.id).where(of_number)))

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "status" and row.is_overdue:
            return Markup('<span class="status is-overdue">{}</span>').format(_("Payment term expired"))
        return super().cell(row, column)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
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
            QuickFilter(_l("Awaiting payment"), (("f.status.is", "awaiting"),)),
            QuickFilter(_l("Payment term expired"), (("f.status.is", "overdue"),)),
            QuickFilter(_l("Paid this month"), (("f.paid_at.period", "this_month"),)),
        ]

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "archive",
                _l("Send to the archive"),
                "archive",
                _l("This action cannot be undone. Payment by the link will be unavailable."),
                lambda ids: archive_bills(ids, by=current_user),
                change=lambda: archiving_bills(by=current_user),
            )
        ]

    def bulk_change(self, **values: Any) -> Change:
        return changing_bills(values, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        payments = sa.select(Payment).where(Payment.bill_id == row.id).order_by(Payment.id)
        return {
            "public_url": bill_url(row),
            "payments": list(db.session.scalars(payments)),
            "may_pay": self._is_payable(row) and current_user.may("account.top_up"),
            "may_archive": row.status is BillStatus.PENDING and self.may("archive"),
        }

    @staticmethod
    def _is_payable(bill: Bill) -> bool:
        try:
            check_payable(bill)
        except DomainError:
            return False
        return True

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
            subtitle=f"{bill.client or bill.title} · {money(bill.amount, bill.branch.company.currency)}",
            back=self.row_url(bill),
            done=lambda payment: self.row_url(bill),
            said=lambda payment: with_slip(_("The bill is paid."), payment),
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
            warning=_("This action cannot be undone. Payment by the link will be unavailable."),
            submit=_("Send to the archive"),
        )
