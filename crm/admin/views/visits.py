"""Visits: the grid, booking, and the visit window with its payment."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import LazyString, pgettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import DateTimeLocalField, HiddenField, StringField, TextAreaField
from wtforms.validators import Length, NumberRange

from crm import clock
from crm.access.models import Employee
from crm.admin.base import DEFAULT_ZONE, BulkAction, GridColumn, KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, EnumField, Form, MoneyField, ReferenceField
from crm.admin.finding import found_clients
from crm.admin.money import account_with_balance, sees_balances, till_field, tills_to_choose, with_slip
from crm.admin.views.mailing_selection import mailing_actions
from crm.clients.models import Client
from crm.clients.queries import client_matches
from crm.db import amount as to_amount
from crm.db import db
from crm.errors import Conflict, DomainError, NotFound
from crm.i18n import moment, money
from crm.ledger.models import Account, Transaction
from crm.ledger.queries import open_accounts_of
from crm.security import chosen_branch
from crm.visits.models import VISIT_MOVES, Visit, VisitStatus, WayToPay
from crm.visits.operations import book_visit, check_visit_payable, edit_visit, move_visit, pay_visit
from crm.visits.queries import accounts_to_pay_from, debt_made_by, debt_of, payer_of_visit, payment_of


def _zone() -> ZoneInfo:
    """Of the visit's branch; of any, where nothing but the form's fields is asked for."""
    branch = g.get("visit_branch")
    return ZoneInfo(branch.time_zone if branch is not None else DEFAULT_ZONE)


def _who_serves() -> list[Employee]:
    """The employees in use of the visit's branch, and who serves the visit already."""
    if (branch := g.get("visit_branch")) is None:
        return []
    query = sa.select(Employee).where(Employee.branch_id == branch.id).order_by(Employee.name)
    return list(db.session.scalars(query.where(Employee.is_active | (Employee.id == g.visit_employee_id))))


class VisitForm(Form):
    starts_at = DateTimeLocalField(
        _l("Date and time"),
        [REQUIRED],
        format=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
        tz=_zone,
        invalid_value_message=_l("Enter a day and a time."),
    )
    service = StringField(_l("Service"), [REQUIRED, Length(max=200)], render_kw={"autofocus": True})
    price = MoneyField(_l("Price"), [REQUIRED, NumberRange(min=0)])
    employee = ReferenceField(Employee, _l("Employee"), query=_who_serves, is_optional=True)
    comment = TextAreaField(_l("Comment"), [Length(max=2000)])


def _read_price(text: Any) -> Decimal | None:
    """The price a page was sent out with; None without one."""
    try:
        price = to_amount(Decimal(text))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return price if price.is_finite() else None


class PayVisitForm(Form):
    way = EnumField(WayToPay, _l("Payment"))
    account = ReferenceField(
        Account,
        _l("Account to pay from"),
        query=lambda: g.paying_accounts,
        title=account_with_balance,
        is_optional=True,
        description=_l("Needed only for a payment from the client's account."),
    )
    till = till_field()
    price = HiddenField()  # what who takes the money was shown


def _said_of(visit: Visit, payment: Transaction) -> str:
    if not (debt := debt_made_by(payment)):
        return _("The visit is paid.")
    if not sees_balances():
        return _("Written down as a debt.")
    return _("Written down as a debt: %(sum)s.", sum=money(debt, visit.branch.company.currency))


class VisitView(KontoraView):
    entity = "visit"
    icon = "calendar2-week"
    column_list = ("starts_at", "client", "service", "employee", "price", "status", "paid_at", "branch")
    column_details_list = ("starts_at", "service", "employee", "price", "status", "comment", "branch", "created_at")
    column_labels = {"starts_at": _l("Date and time"), "service": _l("Service"), "paid_at": _l("Paid")}
    column_filters = ("starts_at", "client", "employee", "status", "paid_at", "price", "branch")
    column_totals = ("price",)
    totals_label = _l("Total without canceled")
    column_default_sort = "-starts_at"
    details_template = "admin/visit.html"
    form = VisitForm
    creates = edits = True
    create_label = _l("Book a visit")
    empty_hint = _l("Book the first visit: who comes, when, and for what.")
    has_search = True

    def bulk_actions(self) -> list[BulkAction]:
        return mailing_actions()

    def search_condition(self, text: str) -> Any:
        return client_matches(Visit.client_id, text, by=current_user)

    def counted_in_totals(self) -> Any:
        return Visit.status != VisitStatus.CANCELED

    def quick_filters(self) -> list[QuickFilter]:
        unpaid = (("f.paid_at.empty", "1"), ("f.price.from", "0.01"), ("f.status.not", "canceled"))
        return [
            QuickFilter(_l("Today"), (("f.starts_at.period", "today"),)),
            QuickFilter(_l("Not paid"), unpaid),
        ]

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        return self._paid(row) if column.name == "paid_at" else super().cell(row, column)

    def plain_cell(self, row: Any, column: GridColumn) -> str | Markup:
        return self._paid(row) if column.name == "paid_at" else super().plain_cell(row, column)

    def _paid(self, visit: Visit) -> str | Markup:
        if visit.paid_at is not None:
            said, css = moment(visit.paid_at, self.place_of(visit).time_zone), "paid"
        elif not visit.price or visit.status is VisitStatus.CANCELED:
            return "—"
        else:
            said, css = pgettext("visit", "not paid"), "pending"
        return Markup('<span class="status is-{}">{}</span>').format(css, said)

    # --- booking ----------------------------------------------------------------------------------------------------

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        """First who comes, found by a search; then the visit itself. From a card the client is known already."""
        if not self.may_create:
            abort(403)
        if not request.args.get("client"):
            return self.render("admin/visit_client.html", **found_clients(), title=self.create_label)
        client = self._client()
        g.visit_branch, g.visit_employee_id = client.branch, None
        form = self.form_class()(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.starts_at.data = clock.local(clock.now(), client.branch).replace(minute=0) + timedelta(hours=1)
        return self.answer(
            form,
            lambda: book_visit(client, **form.data, by=current_user),
            title=self.create_label,
            subtitle=client.shown_name,
            back=url_for("client.card_view", id=client.id, tab="visits"),
            said=_l("The visit is booked."),
            submit=_("Book"),
        )

    def _client(self) -> Client:
        client: Client = self.view_of(Client).get_one(request.args["client"])  # type: ignore[union-attr]
        return client

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        if row is not None:
            g.visit_branch, g.visit_employee_id = row.branch, row.employee_id
        return super().form_class(row, companies)

    def save(self, form: Any, row: Any) -> Any:
        return edit_visit(row, **form.data, by=current_user)

    # --- the visit window -------------------------------------------------------------------------------------------

    def details_context(self, row: Any) -> dict[str, Any]:
        payer = self._payer(row)
        accounts = open_accounts_of(payer.id) if payer is not None and current_user.may("account.view") else []
        payment = payment_of(row) if row.paid_at is not None else None
        return {
            "payer": payer,
            "hidden": self.view_of(Client).field_rules(payer).hidden,  # type: ignore[union-attr]
            "accounts": accounts,
            "debt": debt_of(accounts),
            "in_branch": chosen_branch() is not None,
            "moves": [move for move in VisitStatus if move in VISIT_MOVES[row.status]] if self.may("edit") else [],
            "payment": payment,
            "is_debt": payment is not None and bool(debt_made_by(payment)),
            "refusal": self._refusal(row),
            "ways": self._ways(row, payer),
        }

    @staticmethod
    def _payer(visit: Visit) -> Client | None:
        """None when the payer's card is out of sight."""
        try:
            return payer_of_visit(visit)
        except NotFound:
            return None

    @staticmethod
    def _refusal(visit: Visit) -> str | None:
        """Why there is nothing to pay now."""
        try:
            check_visit_payable(visit)
        except DomainError as refused:
            return str(refused)
        return None

    def _ways(self, visit: Visit, payer: Client | None) -> list[tuple[WayToPay, Account | None]]:
        """How this person can take the payment of a visit; an account for each that holds enough."""
        if payer is None or self._refusal(visit) is not None or not self.may("pay"):
            return []
        ways: list[tuple[WayToPay, Account | None]] = []
        if current_user.may("account.spend"):
            ways += [(WayToPay.ACCOUNT, account) for account in accounts_to_pay_from(visit)]
        if current_user.may("account.top_up"):
            ways += [(WayToPay.CASH, None), (WayToPay.CARD, None)]
        return [*ways, (WayToPay.DEBT, None)]

    @expose("/pay/", methods=("GET", "POST"))
    @permission("pay")
    def pay_view(self) -> Any:
        visit = self.get_one(request.values.get("id"))
        payer = payer_of_visit(visit)
        ways = self._ways(visit, payer)
        g.paying_accounts = [account for _way, account in ways if account is not None]
        g.tills = tills_to_choose(visit.branch_id)
        form = PayVisitForm(request.form if request.method == "POST" else None)
        offered = {way.value for way, _account in ways}
        if offered:
            form.way.choices = [choice for choice in form.way.choices if choice.value in offered]
        if not g.paying_accounts:  # nothing to pay from: not offered at all
            del form.account
        if not g.tills:
            del form.till
        if request.method == "GET":
            self._preselect(form)
            form.price.data = visit.price
        if refusal := self._refusal(visit):
            form.form_errors.append(refusal)

        def pay() -> Any:
            try:
                return pay_visit(visit, **{**form.data, "price": _read_price(form.price.data)}, by=current_user)
            except Conflict:
                form.price.data = visit.price  # shown now, above the form
                raise

        return self.answer(
            form,
            pay,
            title=_("Payment of the visit"),
            # Who takes money must know how much, whatever the grids hide from him: at the moment the page is made.
            subtitle=LazyString(
                lambda: f"{payer.shown_name} · {visit.service} · {money(visit.price, visit.branch.company.currency)}"
            ),
            back=self.row_url(visit),
            done=lambda paid: self.row_url(visit),
            said=lambda paid: with_slip(_said_of(visit, paid), paid),
            submit=_("Take the payment"),
        )

    @staticmethod
    def _preselect(form: PayVisitForm) -> None:
        """The way that was clicked on in the visit window."""
        wanted = request.args.get("way", "")
        form.way.data = next((way for way in WayToPay if way.value == wanted), form.way.data)
        if "account" in form:
            form.account.data = form.account.rows.get(request.args.get("account", ""))

    @expose("/mark/", methods=("GET", "POST"))
    @permission("edit")
    def mark_view(self) -> Any:
        """Came, did not come, canceled: the buttons of the visit window."""
        visit = self.get_one(request.values.get("id"))
        to = next((status for status in VisitStatus if status.value == request.values.get("to")), None)
        if to is None:
            abort(404)
        return self.answer(
            Form(request.form),
            lambda: move_visit(visit, to, by=current_user),
            title=_("Mark the visit “%(service)s”: %(status)s?", service=visit.service, status=to.label),
            subtitle=visit.client.shown_name if visit.client is not None else None,
            back=self.row_url(visit),
            done=lambda moved: self.row_url(visit),
            said=_l("Marked."),
            submit=str(to.label),
        )
