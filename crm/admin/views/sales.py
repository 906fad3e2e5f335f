"""Recalculation, return and the mistaken sale of a subscription; lessons added to a client, or given to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import HiddenField, IntegerField, StringField
from wtforms.validators import InputRequired, Length, NumberRange, Optional

from crm import clock
from crm.admin.base import KontoraView, permission
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, MoneyField, ReferenceField
from crm.admin.money import sees_balances, till_field, tills_to_choose, with_slip
from crm.bills.queries import bills_for_nothing_but
from crm.catalogue.models import LessonType
from crm.catalogue.queries import lesson_types_on_offer
from crm.clients.models import Client
from crm.clients.queries import find_clients
from crm.errors import Conflict, DomainError
from crm.i18n import money
from crm.ledger.queries import accounts_of
from crm.payments.desk import PERMISSIONS_OF_LESSONS, may_reverse
from crm.payments.models import PaymentMethod, desk_methods
from crm.sales.canceling import cancel_sale, cancelable_of, check_cancelable
from crm.sales.journal import journal_of
from crm.sales.lessons import (
    MOST_AT_ONCE,
    add_lessons,
    subscriptions_to_add_to,
    transfer_lessons,
    types_to_transfer,
)
from crm.sales.recalculation import (
    Recalculation,
    check_recalculable,
    plans_to_recalculate_to,
    recalculate,
    recalculation_of,
)
from crm.sales.returning import (
    Returned,
    ReturnFigures,
    ReturnWay,
    check_returnable,
    refund_for,
    return_subscription,
    ways_of_return,
)
from crm.sales.worth import Worth
from crm.subscriptions.models import Plan, Subscription

NOT_BELOW_ZERO = _l("Enter a sum not below zero and not above 100 000 000.")


@dataclass(frozen=True)
class Reckoning:
    """A line of the arithmetic: what, how it is reckoned, and what comes of it."""

    label: Any
    result: str
    formula: str = ""
    is_result: bool = False


def _comment() -> StringField:
    return StringField(_l("Comment"), [Length(max=500)])


class RecalculationForm(Form):
    amount = MoneyField(
        _l("Sum of the recalculation"),
        [REQUIRED],
        description=_l("May be changed by hand. Below zero: so much stays on the client's account."),
    )
    received = MoneyField(
        _l("Received from the client"),
        [Optional(), NumberRange(min=0, message=NOT_BELOW_ZERO)],
        description=_l("May be left empty: what is not received now is the client's debt."),
    )
    method = EnumField(PaymentMethod, _l("Payment"))
    till = till_field()
    starts_on = DateField(_l("Starts on"), [REQUIRED])
    comment = _comment()
    seen = HiddenField()


class ReturnForm(Form):
    used_value = MoneyField(
        _l("Cost of the lessons used"),
        [InputRequired(), NumberRange(min=0, message=NOT_BELOW_ZERO)],
        description=_l("May be changed by hand."),
    )
    amount = MoneyField(
        _l("Sum to give back"),
        [InputRequired(), NumberRange(min=0, message=NOT_BELOW_ZERO)],
        description=_l("May be changed by hand; no more than was paid."),
    )
    way = EnumField(ReturnWay, _l("Kind of account"))
    till = till_field()
    comment = _comment()
    seen = HiddenField()


class CancelSaleForm(Form):
    comment = StringField(_l("Comment"), [Length(max=500)], render_kw={"autofocus": True})


class AddLessonsForm(Form):
    subscription = ReferenceField(
        Subscription,
        _l("To the subscription"),
        query=lambda: g.subscriptions,
        is_optional=True,
        blank=_l("To none: as extra lessons of a type"),
        title=lambda one: _("%(name)s, left: %(count)s", name=one, count=int(one.lessons_left)),
    )
    lesson_type = ReferenceField(
        LessonType,
        _l("Lesson type"),
        is_optional=True,
        query=lambda: g.lesson_types,
        description=_l("Needed only for lessons that belong to no subscription."),
    )
    count = IntegerField(
        _l("Number of lessons"), [InputRequired(), NumberRange(min=1, max=MOST_AT_ONCE)], render_kw={"min": 1}
    )
    comment = _comment()


class TransferLessonsForm(Form):
    lesson_type = ReferenceField(
        LessonType,
        _l("Kind of service"),
        query=lambda: g.remainders,
        title=lambda one: _("%(name)s, left: %(count)s", name=one, count=g.remainders[one]),
    )
    count = IntegerField(
        _l("Number of lessons"), [InputRequired(), NumberRange(min=1, max=MOST_AT_ONCE)], render_kw={"min": 1}
    )
    comment = StringField(_l("Comment"), [Length(max=500)], description=_l("Not mandatory."))


def sale_buttons(subscription: Subscription) -> list[tuple[str, Any]]:
    """What may be done with the sale of a subscription now by this person: (method of the view, its name)."""
    ways: list[tuple[str, str, Any, Callable[[Subscription], Any]]] = [
        ("recalculate", "recalculate_view", _l("Recalculation"), check_recalculable),
        ("return", "return_view", _l("Return"), check_returnable),
        ("cancel", "cancel_sale_view", _l("Return of a subscription because of a mistaken sale"), check_cancelable),
    ]
    found = []
    for action, method, label, check in ways:
        if current_user.may(f"subscription.{action}"):
            try:
                check(subscription)
            except DomainError:
                continue
            found.append((method, label))
    return found


class SubscriptionSalesView(KontoraView):
    """Of the view of subscriptions."""

    @expose("/<id>/recalculate/", methods=("GET", "POST"))
    @permission("recalculate")
    def recalculate_view(self, id: str) -> Any:
        """«Перерасчёт»: first the plan is chosen, then ?plan= shows the arithmetic to confirm."""
        subscription: Subscription = self.get_one(id)
        worth, refusal = self._checked(lambda: check_recalculable(subscription))
        plans = plans_to_recalculate_to(subscription, worth) if worth is not None else []
        plan = next((plan for plan in plans if str(plan.id) == request.args.get("plan")), None)
        if worth is None or plan is None:
            return self._choose_plan(subscription, plans, worth, refusal)
        return self._reckon(subscription, plan, worth)

    def _reckon(self, subscription: Subscription, plan: Plan, worth: Worth) -> Any:
        figures = recalculation_of(subscription, plan, worth)
        branch = subscription.client.branch
        methods = desk_methods(current_user)
        g.tills = tills_to_choose(branch.id, methods)
        form: Any = RecalculationForm(request.form if request.method == "POST" else None)
        form.method.choices = [item for item in form.method.choices if item.value in methods]
        if not current_user.may("account.top_up"):
            for name in ("received", "method", "till"):
                del form[name]
        elif not g.tills:
            del form.till
        if request.method == "GET":
            form.amount.data, form.seen.data = figures.difference, figures.seen
            form.starts_on.data = clock.today(branch)
        shown = {
            "title": _("Recalculation"),
            "subtitle": f"{subscription.client.shown_name} · {subscription} → {plan}",
            "back": url_for(".recalculate_view", id=subscription.id),
            "template": "admin/sales/recalculate.html",
            "submit": _("Confirm the recalculation"),
            "warning": _bills_warning(subscription),
            "lines": _lines_of_recalculation(subscription, figures),
            "difference": figures.difference,
            "currency": branch.company.currency,
        }
        if "fill" in request.form and "received" in form:
            return self._filled(form, shown)

        def change() -> Any:
            try:
                return recalculate(subscription, plan, **form.data, by=current_user)
            except Conflict:  # the page that is shown now has the new figures
                form.seen.data = figures.seen
                form.amount.raw_data, form.amount.data = None, figures.difference
                raise

        return self.answer(
            form,
            change,
            done=lambda done: self.row_url(done.sold),
            said=lambda done: with_slip(
                _("The subscription is recalculated: the old one is returned, the new one is sold."), done.payment
            ),
            **shown,
        )

    def _filled(self, form: Any, shown: dict[str, Any]) -> Any:
        """The page again, with the sum of the recalculation in «Получено от клиента»: the way without script."""
        form.received.raw_data = None
        form.received.data = form.amount.data if form.amount.data and form.amount.data > 0 else None
        return self._shown_again(form, shown)

    def _shown_again(self, form: Any, shown: dict[str, Any]) -> Any:
        """The page with what a button of the form has filled in; nothing is done yet."""
        facts = {name: value for name, value in shown.items() if name != "template"}
        return self.render(shown["template"], form=form, row=None, stale=[], **facts)

    def _choose_plan(
        self, subscription: Subscription, plans: list[Plan], worth: Worth | None, refusal: str | None
    ) -> Any:
        """The first step; a form of the second comes here when it is sent once more, or too late."""

        def refuse() -> Any:
            raise DomainError("plan_required", refusal or _("Choose the new subscription."))

        return self.answer(
            Form(request.form),
            refuse,
            title=_("Recalculation"),
            subtitle=f"{subscription.client.shown_name if subscription.client else ''} · {subscription}",
            back=self.row_url(subscription),
            template="admin/sales/choose_plan.html",
            subscription=subscription,
            lines=_lines_of_value(subscription, worth) if worth is not None else [],
            refusal=refusal if request.method == "GET" else None,
            offers=[(plan, recalculation_of(subscription, plan, worth)) for plan in plans],
            currency=subscription.branch.company.currency,
        )

    @expose("/<id>/return/", methods=("GET", "POST"))
    @permission("return")
    def return_view(self, id: str) -> Any:
        """«Возврат»."""
        subscription: Subscription = self.get_one(id)
        figures, refusal = self._checked(lambda: check_returnable(subscription))
        ways = ways_of_return(subscription.branch_id)
        g.tills = tills_to_choose(subscription.branch_id, _refund_methods(ways))
        form: Any = ReturnForm(request.form if request.method == "POST" else None)
        form.way.choices = [item for item in form.way.choices if item.value in {way.value for way in ways}]
        if not g.tills:
            del form.till
        if figures is None or not figures.worth.cost:
            for name in {"used_value", "amount", "way", "till"} & form._fields.keys():
                del form[name]
        if request.method == "GET":
            form.seen.data = figures.seen if figures is not None else ""
            if figures is not None and "amount" in form:
                form.used_value.data, form.amount.data = figures.used_value, figures.refund
        shown = {
            "title": _("Return"),
            "subtitle": f"{subscription.client.shown_name if subscription.client else ''} · {subscription}",
            "back": self.row_url(subscription),
            "template": "admin/sales/return.html",
            "warning": None if refusal else _bills_warning(subscription),
            "refusal": refusal if request.method == "GET" else None,
            "lines": _lines_of_return(subscription, figures) if figures is not None else [],
            "paid": figures.worth.paid if figures is not None else Decimal(0),
            "currency": subscription.branch.company.currency,
        }
        if "reckon" in request.form and figures is not None and "amount" in form:
            form.amount.raw_data = None
            if form.used_value.data is not None:
                form.amount.data = refund_for(figures.worth, form.used_value.data)
            return self._shown_again(form, shown)

        def change() -> Any:
            try:
                return return_subscription(subscription, **form.data, by=current_user)
            except Conflict:
                if figures is not None:
                    form.seen.data = figures.seen
                raise
            except DomainError as refused:
                if refused.code != "account_in_debt" or sees_balances():
                    raise
                text = _(
                    "The account owes for other things too: so much cannot be handed out. Leave it on the account."
                )
                raise DomainError(refused.code, text, refused.field) from None

        return self.answer(
            form,
            change,
            done=lambda done: self.row_url(subscription),
            said=_said_of_return,
            **shown,
        )

    @expose("/<id>/mistaken-sale/", methods=("GET", "POST"))
    @permission("cancel")
    def cancel_sale_view(self, id: str) -> Any:
        """«Возврат абонемента из-за ошибочной продажи»."""
        subscription: Subscription = self.get_one(id)
        _nothing, refusal = self._checked(lambda: check_cancelable(subscription))
        form = CancelSaleForm(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: cancel_sale(subscription, comment=form.comment.data, by=current_user),
            title=_("Return of a subscription because of a mistaken sale"),
            subtitle=f"{subscription.client.shown_name if subscription.client else ''} · {subscription}",
            back=self.row_url(subscription),
            done=lambda done: self.row_url(done),
            said=_l("The sale is undone; what was paid is on the payer's account."),
            template="admin/sales/cancel.html",
            refusal=refusal if request.method == "GET" else None,
            warning=None if refusal else _cancel_warning(subscription),
            submit=_("Undo the sale"),
        )

    @staticmethod
    def _checked(check: Callable[[], Any]) -> tuple[Any, str | None]:
        """What the check gives, and why not."""
        try:
            return check(), None
        except DomainError as refused:
            return None, str(refused)


class CardLessonsView(KontoraView):
    """Of the view of clients."""

    @expose("/card/<id>/lessons/add/", methods=("GET", "POST"))
    @permission("subscription.add_lessons")
    def add_lessons_view(self, id: str) -> Any:
        """«Добавить занятие»."""
        client: Client = self.get_one(id)
        g.subscriptions = subscriptions_to_add_to(client)
        g.lesson_types = lesson_types_on_offer()
        form = AddLessonsForm(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.count.data = 1
            form.subscription.data = form.subscription.rows.get(request.args.get("subscription", ""))
        return self.answer(
            form,
            lambda: add_lessons(client, **form.data, by=current_user),
            title=_("Add a lesson"),
            subtitle=client.shown_name,
            back=_options_of(client),
            done=lambda done: _options_of(client),
            said=_l("The lessons are added."),
            submit=_("Add"),
        )

    @expose("/card/<id>/lessons/transfer/", methods=("GET", "POST"))
    @permission("subscription.transfer_lessons")
    def transfer_lessons_view(self, id: str) -> Any:
        """«Перенос занятия»: the other client is found by ?q=, and chosen by ?to=."""
        client: Client = self.get_one(id)
        target: Client | None = self.get_one(request.args["to"]) if request.args.get("to") else None
        if target is client:
            abort(404)
        g.remainders = types_to_transfer(client)
        text = request.args.get("q", "").replace("\x00", "").strip()[:200]
        form = TransferLessonsForm(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: transfer_lessons(client, target, **form.data, by=current_user),
            title=_("Transfer of lessons"),
            subtitle=client.shown_name,
            back=_options_of(client),
            done=lambda done: _options_of(client),
            said=_l("The lessons are transferred."),
            template="admin/sales/transfer.html",
            warning=_city_warning(client, target),
            client=client,
            target=target,
            text=text,
            found=[one for one in find_clients(text, limit=20, by=current_user) if one.id != client.id],
            remainders=g.remainders,
            submit=_("Transfer the lessons left"),
        )


def options_of_card(client: Client, payer: Client) -> dict[str, Any]:
    """What the tab «Дополнительные опции» shows; of debts nothing to who does not see balances."""
    sees_debts = current_user.may("account.bad_debt") and current_user.may("account.view") and sees_balances()
    accounts = accounts_of(payer.id) if sees_debts else []
    return {
        "in_debt": [account for account in accounts if account.balance < 0],
        "cancelable": cancelable_of(client) if current_user.may("subscription.cancel") else [],
        "journal": journal_of(client, by=current_user),
        "may_reverse": lambda operation: (
            operation.kind in PERMISSIONS_OF_LESSONS and may_reverse(operation, current_user)
        ),
    }


def _options_of(client: Client) -> str:
    return url_for("client.card_view", id=client.id, tab="options")


def _city_warning(client: Client, target: Client | None) -> str | None:
    if target is None or target.branch.city_id == client.branch.city_id:
        return None
    return _(
        "The client you have chosen is in another city: %(city)s. Transfer the lessons only if this is meant.",
        city=target.branch.city.name,
    )


def _bills_warning(subscription: Subscription) -> str:
    numbers = ", ".join(bill.title for bill in bills_for_nothing_but(subscription))
    if not numbers:
        return ""
    return _("Unpaid bills for this subscription alone will be archived: %(numbers)s.", numbers=numbers)


def _cancel_warning(subscription: Subscription) -> str:
    reversed_ = _(
        "The sale and its discounts are reversed, as if they had not been. What was paid stays on the payer's account: "
        "refund it from there if need be."
    )
    return f"{reversed_} {_bills_warning(subscription)}".strip()


# --- the arithmetic, line by line -----------------------------------------------------------------------------------


def _lines_of_value(subscription: Subscription, worth: Worth) -> list[Reckoning]:
    discount = f"{money(subscription.price)} − {money(subscription.discount)}" if subscription.discount else ""
    counted = f"({money(worth.cost)} − {money(worth.forgiven)})" if worth.forgiven else money(worth.cost)
    return [
        Reckoning(_("Cost of the current subscription"), money(worth.cost), discount),
        *_lines_of_forgiven(worth),
        Reckoning(_("Number of lessons"), str(worth.lessons)),
        Reckoning(_("Lessons left"), str(worth.left)),
        Reckoning(
            _("Cost of the lessons left"),
            money(worth.value_of_left),
            f"{counted} / {worth.lessons} × {worth.left}",
        ),
    ]


def _lines_of_forgiven(worth: Worth) -> list[Reckoning]:
    return [Reckoning(_("Debt for it written off"), money(worth.forgiven))] if worth.forgiven else []


def _paid_formula(worth: Worth) -> str:
    if worth.unpaid and not sees_balances():
        return ""  # what was paid is the most that is given back: that must be told, but not what is owed
    parts = [part for part in (worth.unpaid, worth.forgiven) if part]
    return " − ".join(money(part) for part in (worth.cost, *parts)) if parts else ""


def _lines_of_recalculation(subscription: Subscription, figures: Recalculation) -> list[Reckoning]:
    own = f"{money(figures.price)} − {money(figures.discount)}" if figures.discount else ""
    lines = [
        *_lines_of_value(subscription, figures.worth),
        Reckoning(_("Cost of the new subscription"), money(figures.cost), own),
    ]
    if figures.worth.unpaid and sees_balances():
        lines.append(
            Reckoning(_("Unpaid of the current subscription; remains a debt besides"), money(figures.worth.unpaid))
        )
    lines.append(
        Reckoning(
            _("The client must add"),
            money(figures.difference),
            f"{money(figures.cost)} − {money(figures.value)}",
            is_result=True,
        )
    )
    return lines


def _lines_of_return(subscription: Subscription, figures: ReturnFigures) -> list[Reckoning]:
    worth = figures.worth
    lines = _lines_of_value(subscription, worth) if worth.lessons is not None and worth.cost else []
    if not worth.cost:  # lesson by lesson, or for nothing
        return [Reckoning(_("Lessons left"), str(worth.left))]
    if worth.lessons is None:
        lines += [
            Reckoning(_("Cost of the current subscription"), money(worth.cost)),
            *_lines_of_forgiven(worth),
            Reckoning(_("Lessons attended, without a limit"), str(worth.used)),
        ]
    else:
        lines.append(Reckoning(_("Lessons used"), str(worth.used), f"{worth.lessons} − {worth.left}"))
    kind = figures.lesson_type
    lines += [
        Reckoning(
            _("Price of a single visit: %(type)s", type=kind) if kind else _("Price of a single visit"),
            money(figures.single_price),
        ),
        Reckoning(
            _("Cost of the lessons used"), money(figures.used_value), f"{worth.used} × {money(figures.single_price)}"
        ),
        Reckoning(_("Paid for it"), money(worth.paid), _paid_formula(worth)),
        Reckoning(
            _("To give back"),
            money(figures.refund),
            f"{money(worth.paid)} − {money(figures.used_value)}",
            is_result=True,
        ),
    ]
    return lines


def _refund_methods(ways: list[ReturnWay]) -> list[PaymentMethod]:
    return [method for way in ways if (method := way.method) is not None]


def _said_of_return(done: Returned) -> Any:
    return with_slip(_("The subscription is returned."), done.paid_back)
