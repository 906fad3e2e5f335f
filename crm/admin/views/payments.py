"""Payments received and started, what the bank said of them, refunds through it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import flash, redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import SelectField, StringField, validators

from crm.access.scope import current_scope
from crm.admin.base import GridColumn, KontoraView, QuickFilter, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.exporting import labels_of
from crm.admin.fields import REQUIRED, Form, MoneyField
from crm.admin.kinds import AuthorKind
from crm.admin.money import sees_balances
from crm.clients.queries import client_matches
from crm.db import db
from crm.errors import DomainError
from crm.i18n import money
from crm.payments.models import (
    Attention,
    GatewayNotice,
    NoticeStatus,
    Payment,
    PaymentEvent,
    PaymentMethod,
    PaymentStatus,
    Refund,
    RefundStatus,
    Shop,
    shown_refunded,
)
from crm.payments.notices import READABLE_AGAIN, read_again
from crm.payments.refunds import (
    is_held,
    is_unasked,
    kept_for_refund,
    leader_of,
    left_of,
    note_refund_elsewhere,
    refund_payment,
    refund_reported,
    refunds_of,
)
from crm.payments.resolving import NEEDS_ATTENTION, accept_reported, resolve_attention

EVENTS_SHOWN = 100


class RefundForm(Form):
    amount = MoneyField(_l("Sum"), [REQUIRED])
    reason = StringField(_l("Reason"), [REQUIRED, validators.Length(max=250)])


class SettleForm(Form):
    what = SelectField(_l("What is done"), [REQUIRED])
    amount = MoneyField(_l("What it is worth"))
    text = StringField(_l("Comment"), [validators.Length(max=250)])


class PaymentView(KontoraView):
    entity = "payment"
    icon = "cash-coin"
    column_list = (
        *("id", "client", "amount", "method", "status", "bill", "account", "created_at", "received_at", "author_name"),
        "branch",
    )
    column_details_list = (
        *(
            "id",
            "client",
            "amount",
            "refunded",
            "method",
            "status",
            "attention",
            "attention_closed_at",
            "bill",
            "account",
        ),
        *("created_at", "received_at", "author_name", "shop", "gateway", "external_id", "reported_amount"),
        *("reported_currency", "comment", "branch"),
    )
    column_labels = {
        "refunded": _l("Given back"),
        "shop": _l("Shop"),
        "order": _l("Paid together with"),
        "bundle": _l("Bills together"),
        "next_poll_at": _l("Next try"),
        "confirmation_url": _l("The bank's form"),
        "attention": _l("Needs attention"),
        "attention_closed_at": _l("Settled"),
        "gateway": _l("Bank"),
        "external_id": _l("Number at the bank"),
        "reported_amount": _l("Sum the bank reports"),
        "reported_currency": _l("Currency the bank reports"),
    }
    column_kinds = {"gateway": AuthorKind()}
    column_filters = (
        *("client", "status", "method", "amount", "received_at", "attention", "attention_closed_at", "external_id"),
        "branch",
    )
    column_totals = ("amount",)
    totals_label = _l("Total received")
    column_default_sort = "-id"
    details_template = "admin/payment.html"
    empty_hint = _l("Payments appear when accounts are topped up and bills are paid.")
    has_search = True

    def counted_in_totals(self) -> Any:
        """Money from outside: not what was only begun or canceled, nor what moved between a client's accounts."""
        return sa.and_(Payment.status == PaymentStatus.SUCCEEDED, Payment.method != PaymentMethod.ACCOUNT)

    def search_condition(self, text: str) -> Any:
        return client_matches(Payment.client_id, text, by=current_user)

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "status" and self._shows_refunds():
            label, look = row.status_shown
            return Markup('<span class="status is-{}">{}</span>').format(look, label)
        return super().cell(row, column)

    def _shows_refunds(self) -> bool:
        """Whether he may see what was given back."""
        return not {"refunded", "amount"} & self.field_rules().hidden

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        if column.name == "status" and self._shows_refunds():
            return lambda payment: payment.status_shown[0]
        return super().exporter(column)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        if column.name == "shop":
            return SqlCell((Payment.shop_id,), labels_of(Shop).get)
        if column.name == "status" and self._shows_refunds():
            export = column.kind.exporter()

            def status(found: PaymentStatus, refunded: Decimal, amount: Decimal) -> Any:
                is_back = found is PaymentStatus.SUCCEEDED and refunded
                return shown_refunded(refunded, amount) if is_back else export(found)

            return SqlCell((Payment.status, Payment.refunded, Payment.amount), status)
        return super().sql_cell(column, joins)

    def sql_label(self, row: Any) -> SqlCell | None:
        return SqlCell((row.id,), lambda number: f"#{number}")

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Needs attention"), NEEDS_ATTENTION),
            QuickFilter(_l("Online"), (("f.method.is", PaymentMethod.ONLINE.value),)),
        ]

    # --- one payment ------------------------------------------------------------------------------------------------

    def details_context(self, row: Payment) -> dict[str, Any]:
        order = leader_of(row).id if row.method is PaymentMethod.ONLINE else row.id
        beside = sa.select(Payment).where((Payment.id == order) | (Payment.order_id == order), Payment.id != row.id)
        events = sa.select(PaymentEvent).where(PaymentEvent.payment_id == row.id).order_by(PaymentEvent.id.desc())
        is_open = row.attention is not None and row.attention_closed_at is None
        return {
            "events": db.session.scalars(events.limit(EVENTS_SHOWN)).all(),
            "refunds": refunds_of(row) if self.may("refund.view") else [],
            "beside": db.session.scalars(beside.order_by(Payment.id)).all(),
            "is_open": is_open,
            "is_unasked": row.status is PaymentStatus.PENDING and is_unasked(row),
            "may_refund": self.may("refund") and row.method is PaymentMethod.ONLINE and left_of(row) > 0,
            "may_settle": is_open and self.may("resolve"),
            "sees_sums": "amount" not in self.field_rules(row).hidden,
        }

    @expose("/refund/", methods=("GET", "POST"))
    @permission("refund")
    def refund_view(self) -> Any:
        """Give money back through the bank it came by."""
        payment: Payment = self.get_one(request.values.get("id"))
        form = RefundForm(request.form if request.method == "POST" else None)
        currency = payment.branch.company.currency
        left = left_of(payment)
        kept = kept_for_refund(payment) if sees_balances() else left  # the others are told when they ask for too much
        most = min(left, max(kept, Decimal(0)))
        if request.method != "POST":
            if not most:
                flash(_nothing_to_give_back(left, kept, currency), "info")
                return redirect(self.row_url(payment))
            form.amount.data = most
        return self.answer(
            form,
            lambda: refund_payment(payment, form.amount.data or Decimal(0), form.reason.data or "", by=current_user),
            title=_("Refund of payment %(number)s", number=payment),
            subtitle=_facts_of_refund(payment, left, kept),
            back=self.row_url(payment),
            done=lambda refund: self.row_url(payment),
            said=_l("The bank has been asked for the refund; what it answers is in the payment's history."),
            submit=_("Refund to the client"),
        )

    @expose("/settle/", methods=("GET", "POST"))
    @permission("resolve")
    def settle_view(self) -> Any:
        """What is done about a payment that needs attention."""
        payment: Payment = leader_of(self.get_one(request.values.get("id")))
        shown: Payment = self.get_one(request.values.get("id"))
        if not is_held(payment):
            payment = shown
        ways = self._ways(payment)
        form = SettleForm(request.form if request.method == "POST" else None)
        form.what.choices = [(name, label) for name, (label, _act) in ways.items()]
        currency = payment.branch.company.currency
        if payment.reported_currency in {None, currency} or not ways.keys() & {"accept", "note"}:
            del form.amount
        else:
            form.amount.description = _("In %(currency)s.", currency=currency)

        def settle() -> Any:
            act = ways.get(form.what.data or "")
            if act is None:
                raise DomainError("choose", _("Choose what is done."), "what")
            try:
                return act[1](form)
            except DomainError as error:
                if error.field == "reason":
                    raise DomainError(error.code, error.message, "text") from None
                raise

        return self.answer(
            form,
            settle,
            title=_("Payment %(number)s needs attention", number=payment),
            subtitle=": ".join(
                map(str, filter(None, [payment.attention and payment.attention.label, payment.comment]))
            ),
            back=self.row_url(shown),
            done=lambda done: self.row_url(shown),
            said=_l("Settled."),
            submit=_("Settle"),
        )

    def _ways(self, payment: Payment) -> dict[str, tuple[str, Callable[[Any], Any]]]:
        """What can be done: by name its words and the verb."""
        ways: dict[str, tuple[str, Callable[[Any], Any]]] = {}
        if payment.attention is None or payment.attention_closed_at is not None:
            return ways
        if is_held(payment):
            ways["accept"] = (
                _("Credit what has come"),
                lambda form: accept_reported(
                    payment, by=current_user, amount=form.amount.data if "amount" in form else None
                ),
            )
            ways["give_back"] = (
                _("Give back what has come"),
                lambda form: refund_reported(payment, form.text.data or "", by=current_user),
            )
        is_elsewhere = payment.attention is Attention.REFUNDED_ELSEWHERE
        if is_elsewhere and self.may("refund") and payment.reported_amount:
            ways["note"] = (
                _("Take it off the client's account here as well"),
                lambda form: note_refund_elsewhere(
                    payment, by=current_user, amount=form.amount.data if "amount" in form else None
                ),
            )
        if not is_held(payment):
            ways["seen"] = (
                _("Looked at, nothing is left to do"),
                lambda form: resolve_attention(payment, form.text.data or "", by=current_user),
            )
        return ways


def _facts_of_refund(payment: Payment, left: Decimal, kept: Decimal) -> str:
    """What is known before money is given back; of the account nothing to who does not see balances."""
    currency = payment.branch.company.currency
    client = payment.client.shown_name if payment.client is not None else f"#{payment.client_id}"
    if not sees_balances():
        return _(
            "%(client)s · left of the payment: %(sum)s. The money leaves the client's account at once, if it is there; "
            "the bank gives it back to the card it was paid with.",
            client=client,
            sum=money(left, currency),
        )
    return _(
        "%(client)s · left of the payment: %(sum)s, on the account: %(balance)s. No more than %(most)s can be given "
        "back now. The money leaves the client's account at once; the bank gives it back to the card it was paid with.",
        client=client,
        sum=money(left, currency),
        balance=money(kept, currency),
        most=money(min(left, max(kept, Decimal(0))), currency),
    )


def _nothing_to_give_back(left: Decimal, kept: Decimal, currency: str) -> str:
    if left <= 0:
        return _("Nothing is left of this payment: all of it has been given back.")
    return _(
        "%(sum)s is left of this payment, but %(balance)s is on the client's account: there is nothing to give back.",
        sum=money(left, currency),
        balance=money(kept, currency),
    )


class RefundView(KontoraView):
    entity = "refund"
    icon = "arrow-return-left"
    column_list = (
        *(
            "id",
            "created_at",
            "payment",
            "account",
            "amount",
            "status",
            "reason",
            "error",
            "finished_at",
            "author_name",
        ),
        "branch",
    )
    column_details_list = (*column_list, "external_id")
    column_labels = {
        "reason": _l("Reason"),
        "error": _l("What the bank says"),
        "finished_at": _l("Answered"),
        "external_id": _l("Number at the bank"),
        "payment": _l("Payment"),
    }
    column_filters = ("status", "created_at", "amount", "branch")
    column_totals = ("amount",)
    column_default_sort = "-id"
    empty_hint = _l("Refunds are made on the page of a payment that was received online.")

    def counted_in_totals(self) -> Any:
        return Refund.status != RefundStatus.FAILED

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(status.label, (("f.status.is", status.value),)) for status in RefundStatus]


class NoticeView(KontoraView):
    """What payment services sent. In a branch, what is about its payments; in the network also what is nobody's."""

    entity = "notice"
    icon = "bell"
    column_list = ("id", "received_at", "gateway", "event", "external_id", "status", "payment", "repeats", "result")
    column_details_list = (*column_list, "attempts", "next_try_at", "digest")
    column_labels = {
        "gateway": _l("Bank"),
        "event": _l("Event"),
        "external_id": _l("Number at the bank"),
        "payment": _l("Payment"),
        "repeats": _l("Repeats"),
        "result": _l("What came of it"),
        "attempts": _l("Tries"),
        "next_try_at": _l("Next try"),
        "digest": _l("Digest"),
    }
    column_kinds = {"gateway": AuthorKind()}
    column_filters = ("status", "gateway", "received_at", "external_id")
    column_searchable_list = ("external_id",)
    column_default_sort = "-id"
    details_template = "admin/notice.html"
    empty_hint = _l("Notices appear when payment services tell of payments.")

    def within_sight(self, query: Any) -> Any:
        branch_ids = current_scope().branch_ids
        if branch_ids is None:
            return query
        seen = sa.select(Payment.id).where(Payment.branch_id.in_(branch_ids))
        return query.where(GatewayNotice.payment_id.in_(seen))

    def quick_filters(self) -> list[QuickFilter]:
        shown = (NoticeStatus.FAILED, NoticeStatus.HELD, NoticeStatus.UNKNOWN)
        return [QuickFilter(status.label, (("f.status.is", status.value),)) for status in shown]

    def details_context(self, row: GatewayNotice) -> dict[str, Any]:
        return {"may_again": self.may("again") and row.status in READABLE_AGAIN}

    @expose("/again/", methods=("GET", "POST"))
    @permission("again")
    def again_view(self) -> Any:
        """Read a notice once more that could not be acted upon."""
        notice: GatewayNotice = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form),
            lambda: read_again(notice, by=current_user),
            title=_("Read notice %(number)s again?", number=notice),
            subtitle=notice.result,
            back=self.row_url(notice),
            done=lambda read: self.row_url(notice),
            said=_l("It will be read again within a minute."),
            submit=_("Read again"),
        )
