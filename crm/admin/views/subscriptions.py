"""Subscriptions sold: the grid, the page of one, and its life: frozen, resumed, prolonged, put away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_babel import pgettext
from flask_login import current_user
from markupsafe import Markup
from sqlalchemy.orm import object_session
from wtforms import IntegerField, StringField
from wtforms.validators import Length, NumberRange, Optional, ValidationError

from crm import clock
from crm.access.fields import FieldRules
from crm.access.models import User
from crm.admin.base import BulkAction, GridColumn, QuickFilter, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.column import FoundColumn
from crm.admin.exporting import labels_of
from crm.admin.fields import REQUIRED, DateField, Form
from crm.admin.finding import found_clients
from crm.admin.kinds import NOTHING, BadFilter, EnumKind, IntegerKind, MoneyKind, Place
from crm.admin.money import sees_balances
from crm.admin.views.debts import unpaid_subscriptions
from crm.admin.views.mailing_selection import mailing_actions
from crm.admin.views.operations import SUMS
from crm.admin.views.sales import SubscriptionSalesView, sale_buttons
from crm.audit.bulk import Change
from crm.clients.models import Client
from crm.clients.queries import client_matches, payer_of
from crm.db import db
from crm.errors import NotFound
from crm.i18n import day
from crm.ledger.history import AccountOperation
from crm.schedule.models import Attendance, Lesson
from crm.schedule.queries import lessons_in_sight
from crm.subscriptions.freezing import (
    freeze_subscription,
    freeze_subscriptions,
    open_freeze_of,
    resume_subscription,
)
from crm.subscriptions.models import (
    Plan,
    Subscription,
    SubscriptionFreeze,
    SubscriptionState,
    SubscriptionStatus,
)
from crm.subscriptions.operations import (
    LONGEST_DAYS,
    OVER,
    archive_subscription,
    archive_subscriptions,
    changing_subscriptions,
    prolong_subscription,
    prolong_subscriptions,
)
from crm.subscriptions.queries import (
    all_debts,
    counted_lessons_left,
    is_payable,
    is_unpaid,
    operations_on,
    state_of,
    today_there,
)

_DEBT = "_debt_found"


class StateKind(EnumKind):
    """What a subscription is today."""

    operators = ("is", "not")
    is_sortable = False


class LeftKind(IntegerKind):
    """Lessons left, kept with the decimals of money; nothing where they are not counted."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else str(int(value))

    def export(self, value: Any) -> Any:
        return None if value is None else int(value)


class UnpaidKind(MoneyKind):
    """What is owed of what was charged for a subscription: red, or paid; None where nothing was to be paid."""

    operators = ("is",)
    is_sortable = False
    input_type = "text"

    def show(self, value: Any, place: Place) -> str | Markup:
        if value is None:
            return NOTHING
        if not value:
            return Markup('<span class="status is-paid">{}</span>').format(pgettext("subscription", "paid"))
        return Markup('<span class="debt">{}</span>').format(super().show(value, place))

    def choices(self) -> Sequence[tuple[str, Any]]:
        return [("0", _lp("subscription", "not paid")), ("1", _lp("subscription", "paid"))]

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        if unknown := [text for text in texts if text not in {"0", "1"}]:
            raise BadFilter(_("“%(text)s” is not one of the choices.", text=unknown[0]))
        paid = sa.and_(sa.not_(is_unpaid()), is_payable())
        return sa.or_(*(paid if text == "1" else is_unpaid() for text in texts))

    def export(self, value: Any) -> Any:
        return super().export(value or Decimal(0))


class FreezeForm(Form):
    PAIRS = {"from_on": "until_on"}

    from_on = DateField(_l("Frozen from"), [REQUIRED])
    until_on = DateField(
        _l("until (last day)"), [Optional()], description=_l("May be left empty: until it is resumed by hand.")
    )
    comment = StringField(_l("Reason"), [Length(max=500)], render_kw={"autocomplete": "off"})

    def validate_until_on(self, field: Any) -> None:
        if self.from_on.data is not None and field.data is not None and field.data < self.from_on.data:
            raise ValidationError(_("The end of the freeze is before its beginning."))


class ResumeForm(Form):
    on = DateField(
        _l("Good again from"), [REQUIRED], description=_l("The first day on which lessons can be attended again.")
    )


class ProlongForm(Form):
    days = IntegerField(_l("By how many days"), [Optional(), NumberRange(1, LONGEST_DAYS)], render_kw={"min": 1})
    until = DateField(_l("or until the day"), [Optional()])


class SubscriptionView(SubscriptionSalesView):
    entity = "subscription"
    icon = "calendar-check"
    column_list = (
        *("id", "client", "plan", "state", "lessons_left", "debt", "starts_on", "ends_on"),
        *("price", "discount", "lessons", "sold_at", "branch"),
    )
    column_details_list = (
        *("id", "client", "plan", "lessons", "lessons_left", "starts_on", "ends_on", "frozen_on"),
        *("price", "discount", "client_discount", "cost", "debt", "charge", "account", "is_trial", "replaces"),
        *("status", "sold_at", "branch"),
    )
    column_labels = {
        "state": _l("State"),
        "lessons_left": _l("Lessons left"),
        "frozen_on": _l("Frozen since"),
        "client_discount": _l("of it the client's own discount"),
        "cost": _l("To be paid"),
        "debt": _l("Debt"),
        "charge": _l("How it is charged"),
        "account": _l("Kept on"),
        "is_trial": _l("Trial"),
        "replaces": _l("Recalculated from"),
    }
    column_kinds = {
        "cost": MoneyKind(),
    }
    column_filters = (
        *("state", "client", "plan", "lessons_left", "debt", "price", "discount"),
        *("starts_on", "ends_on", "sold_at", "branch"),
    )
    column_totals = ("price", "discount", "lessons_left")
    edits = edits_own_fields_only = True
    column_default_sort = "-id"
    list_template = "admin/subscriptions.html"
    details_template = "admin/subscription.html"
    empty_hint = _l("Subscriptions are sold from a client's card.")
    has_search = True

    def column(self, name: str) -> GridColumn:
        label = self.column_labels.get(name)
        if name == "state":
            return FoundColumn(name, label, StateKind(SubscriptionState), _state(), of=_state_today)
        if name == "lessons_left":
            return FoundColumn(name, label, LeftKind(), counted_lessons_left(), of=_lessons_left)
        if name == "debt":
            return FoundColumn(name, label, UnpaidKind(), Subscription.id, of=_debt_of)  # its filter asks the books
        return super().column(name)

    def field_rules(self, row: Any = None) -> FieldRules:
        """What is made of hidden sums is hidden, and debts from who does not see balances."""
        rules = super().field_rules(row)
        hidden = set(rules.hidden)
        if {"price", "discount"} & hidden:
            hidden |= {"cost", "client_discount"}
        if not current_user.may("account.view") or not sees_balances():
            hidden.add("debt")
        return FieldRules(frozenset(hidden), rules.frozen)

    def loader_options(self) -> list[Any]:
        """Their branch says what day it is, their plan what they are called, whatever the grid shows."""
        return [*super().loader_options(), *map(sa.orm.selectinload, (Subscription.branch, Subscription.plan))]

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(
                _l("Ending soon"),
                (
                    ("f.state.is", "active"),
                    ("any1.f.ends_on.period", "next_7_days"),
                    ("any1.f.lessons_left.to", "2"),
                ),
            ),
            QuickFilter(_lp("subscriptions", "Used up"), (("f.state.is", "used_up"),)),
            QuickFilter(_lp("subscriptions", "Not paid"), (("f.debt.is", "0"),)),
            QuickFilter(_lp("subscriptions", "Frozen"), (("f.state.is", "frozen"),)),
            QuickFilter(_l("Sold this month"), (("f.sold_at.period", "this_month"),)),
        ]

    def search_condition(self, text: str) -> Any:
        return client_matches(Subscription.client_id, text, by=current_user)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        if not isinstance(column, FoundColumn):
            return super().exporter(column)
        export, value = column.kind.exporter(), column.value
        return lambda row: export(value(row))

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        if column.name == "debt":
            debts = all_debts()  # of many the books are asked best at once
            return SqlCell((Subscription.id,), lambda id: debts.get(id, Decimal(0)))
        if column.name == "cost":
            return SqlCell((Subscription.price, Subscription.discount), lambda price, discount: price - discount)
        if column.name == "state":
            return SqlCell((_state(),), column.kind.exporter())  # today's, whenever the columns were declared
        return super().sql_cell(column, joins)

    def sql_label(self, row: Any) -> SqlCell | None:
        plans = labels_of(Plan)
        return SqlCell((row.plan_id, row.id), lambda plan_id, id: f"{plans.get(plan_id)} #{id}")

    def bulk_change(self, **values: Any) -> Change:
        return changing_subscriptions(values, by=current_user)

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "freeze",
                _l("Freeze"),
                "freeze",
                _l("Frozen subscriptions rest, and end later by the days they rested."),
                lambda ids, **values: freeze_subscriptions(ids, **values, by=current_user),
                is_dangerous=False,
                form=lambda: FreezeForm,
            ),
            BulkAction(
                "prolong",
                _l("Prolong"),
                "prolong",
                _l("The last day of each is moved on."),
                lambda ids, **values: prolong_subscriptions(ids, **values, by=current_user),
                is_dangerous=False,
                form=lambda: ProlongForm,
            ),
            BulkAction(
                "archive",
                _l("Send to the archive"),
                "archive",
                _l("Only what is over is put away: used up, expired, returned or sold by mistake."),
                lambda ids: archive_subscriptions(ids, by=current_user),
            ),
            *mailing_actions(),
        ]

    # --- selling ----------------------------------------------------------------------------------------------------

    @expose("/sell/")
    @permission("sell")
    def find_buyer_view(self) -> Any:
        """Who buys, found by a search; the sale itself is made from the card."""
        return self.render(
            "admin/visit_client.html",
            **found_clients(),
            title=_("Sell a subscription"),
            question=_("Who will attend?"),
            leads_to=lambda client: url_for("client.sell_view", id=client.id),
        )

    # --- one of them ------------------------------------------------------------------------------------------------

    def details_context(self, row: Subscription) -> dict[str, Any]:
        operations = self.view_of(AccountOperation)
        may_see = operations is not None and current_user.may("entry.view")
        return {
            "state": _state_today(row),
            "payer": _payer_of(row),
            "seller": db.session.scalar(sa.select(User.name).where(User.id == row.author_id)),
            "freezes": row.freezes,
            "life_buttons": self._life_buttons(row),
            "sale_buttons": sale_buttons(row),
            "operations": operations_on(row) if may_see else None,
            "hides_sums": operations is None or bool(SUMS & operations.field_rules().hidden),
            "attendances": _attendances_of(row) if current_user.may("attendance.view") else None,
            "lesson_url": self._lesson_url,
        }

    def _lesson_url(self, lesson: Lesson) -> str | None:
        view = self.view_of(Lesson)
        return view.row_url(lesson) if view is not None and view.is_accessible() else None

    def _life_buttons(self, row: Subscription) -> list[tuple[str, str, Any]]:
        """What may be done with it now by this person: (method of the view, icon, its name)."""
        is_frozen, found = row.status is SubscriptionStatus.FROZEN, list[tuple[str, str, Any]]()
        if self.may("freeze") and open_freeze_of(row) is not None and _is_good(row):
            found.append(("resume_view", "play", _l("Resume")))
        elif self.may("freeze") and row.status is SubscriptionStatus.ACTIVE:
            found.append(("freeze_view", "snow", _l("Freeze")))
        if self.may("prolong") and (is_frozen or _is_good(row)):
            found.append(("prolong_view", "calendar-plus", _l("Prolong")))
        if self.may("archive") and _state_today(row) in OVER:
            found.append(("archive_view", "archive", _l("To the archive")))
        return found

    @expose("/<id>/freeze/", methods=("GET", "POST"))
    @permission("freeze")
    def freeze_view(self, id: str) -> Any:
        row = self.get_one(id)
        form = FreezeForm(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.from_on.data = max(clock.today(row.branch), row.starts_on)
        return self._change(
            row,
            form,
            lambda: freeze_subscription(row, **form.data, by=current_user),
            title=_("Freeze the subscription"),
            said=_said_of_freeze,
            submit=_("Freeze"),
        )

    @expose("/<id>/resume/", methods=("GET", "POST"))
    @permission("freeze")
    def resume_view(self, id: str) -> Any:
        row = self.get_one(id)
        form = ResumeForm(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.on.data = clock.today(row.branch)
        return self._change(
            row,
            form,
            lambda: resume_subscription(row, on=form.on.data, by=current_user),
            title=_("Resume the subscription"),
            said=_said_of_resumption,
            submit=_("Resume"),
        )

    @expose("/<id>/prolong/", methods=("GET", "POST"))
    @permission("prolong")
    def prolong_view(self, id: str) -> Any:
        row = self.get_one(id)
        form = ProlongForm(request.form if request.method == "POST" else None)
        return self._change(
            row,
            form,
            lambda: prolong_subscription(row, **form.data, by=current_user),
            title=_("Prolong the subscription"),
            said=lambda done: _("The subscription ends on %(day)s now.", day=day(done.ends_on)),
            submit=_("Prolong"),
        )

    @expose("/<id>/archive/", methods=("GET", "POST"))
    @permission("archive")
    def archive_view(self, id: str) -> Any:
        row = self.get_one(id)
        return self._change(
            row,
            Form(request.form if request.method == "POST" else None),
            lambda: archive_subscription(row, by=current_user),
            title=_("Send the subscription to the archive?"),
            said=_l("The subscription is in the archive."),
            submit=_("Send to the archive"),
        )

    def _change(self, row: Subscription, form: Form, change: Callable[[], Any], **texts: Any) -> Any:
        who = f"{row.client.shown_name} · " if row.client is not None else ""
        return self.answer(
            form,
            change,
            back=self.row_url(row),
            done=lambda _done: self.row_url(row),
            subtitle=f"{who}{row} · {day(row.starts_on)} – {day(row.ends_on)}",
            **texts,
        )


def _state() -> Any:
    """SQL of the state today, made once per request."""
    if "state_of_subscriptions" not in g:
        g.state_of_subscriptions = state_of(today_there())
    return g.state_of_subscriptions


def _state_today(row: Subscription) -> SubscriptionState:
    return row.state(_today_of(row))


def _today_of(row: Subscription) -> date:
    return clock.today(row.branch)


def _lessons_left(row: Subscription) -> Decimal | None:
    return row.lessons_left if row.lessons else None


def _debt_of(row: Subscription) -> Decimal | None:
    """Asked for all the subscriptions at hand at once, not row by row. None: nothing was to be paid."""
    if _DEBT not in row.__dict__:
        session = object_session(row)
        others = session.identity_map.values() if session else ()
        asking = [one for one in (row, *others) if isinstance(one, Subscription) and _DEBT not in one.__dict__]
        ids = {one: int(sa.inspect(one).identity[0]) for one in asking}  # type: ignore[index]
        unpaid = unpaid_subscriptions(list(ids.values())) or {}
        for one, id in ids.items():
            one.__dict__[_DEBT] = unpaid.get(id, Decimal(0))
    found: Decimal = row.__dict__[_DEBT]
    return found if found or row.is_payable else None


def _is_good(row: Subscription) -> bool:
    return row.status in {SubscriptionStatus.ACTIVE, SubscriptionStatus.FROZEN}


def _payer_of(row: Subscription) -> Client | None:
    """None when a card is out of sight."""
    try:
        return payer_of(row.client) if row.client is not None else None
    except NotFound:
        return None


def _attendances_of(row: Subscription) -> list[Attendance]:
    """The lessons written off from it, of those this person may see, the latest first."""
    query = (
        sa.select(Attendance)
        .join(Attendance.lesson)
        .where(Attendance.subscription_id == row.id, *lessons_in_sight(current_user))
        .options(
            sa.orm.contains_eager(Attendance.lesson).options(
                *(sa.orm.joinedload(part) for part in (Lesson.lesson_type, Lesson.subject, Lesson.group)),
                sa.orm.joinedload(Lesson.instructor),
            )
        )
        .order_by(Lesson.starts_at.desc(), Attendance.id.desc())
    )
    return list(db.session.scalars(query))


def _said_of_freeze(freeze: SubscriptionFreeze) -> str:
    if freeze.until_on is not None:
        return _("The subscription ends on %(day)s now.", day=day(freeze.subscription.ends_on))
    if freeze.subscription.status is SubscriptionStatus.FROZEN:
        return _("The subscription is frozen.")
    return _("The freeze is planned: it begins by itself on %(day)s.", day=day(freeze.from_on))


def _said_of_resumption(row: Subscription) -> str:
    if row.status is SubscriptionStatus.ACTIVE:
        return _("The subscription is good until %(day)s.", day=day(row.ends_on))
    return _("The subscription will be resumed on that day by itself.")
