"""What is sold from a client's card, and the discount he has on all of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, StringField
from wtforms.validators import Length, NumberRange, Optional, ValidationError

from crm import clock
from crm.admin.base import KontoraView, permission
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, MoneyField, ReferenceField
from crm.admin.money import account_with_balance, sees_balances, sum_field, till_field, tills_to_choose
from crm.admin.views.debts import unpaid_subscriptions
from crm.admin.views.wishes import CardWishesView
from crm.clients.discount import LONGEST_REASON, remove_discount, set_discount
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.i18n import day, money
from crm.ledger.models import Account, AccountKind
from crm.ledger.queries import open_accounts_of
from crm.ledger.reach import is_within_reach
from crm.sales.selling import WayToPaySale, sell_paid
from crm.subscriptions.models import Plan, Subscription

LONGEST_AGO = timedelta(days=366)


def _plans_sold_here() -> list[Plan]:
    query = sa.select(Plan).where(Plan.is_archived.is_(False)).options(sa.orm.selectinload(Plan.branches))
    plans = db.session.scalars(query.order_by(Plan.position, Plan.name))
    return [plan for plan in plans if not plan.branches or g.client.branch in plan.branches]


class SellForm(Form):
    plan = ReferenceField(
        Plan,
        _l("Plan"),
        query=_plans_sold_here,
        title=lambda plan: f"{plan} · {money(plan.price)}",
    )
    starts_on = DateField(_l("Starts on"), [REQUIRED])
    discount = MoneyField(
        _l("Discount at the sale"),
        [Optional(), NumberRange(min=0, message=_l("The discount is not below zero and not above the price."))],
        description=_l("In money, off the price. May be left empty."),
    )
    is_trial = BooleanField(
        _l("Trial"), description=_l("A trial subscription does not open the personal cabinet to the client.")
    )
    way = EnumField(
        WayToPaySale,
        _l("Payment"),
        default=WayToPaySale.DEBT,
        description=_l("On credit it is charged to the base account, below zero if need be."),
    )
    account = ReferenceField(
        Account,
        _l("Account to pay from"),
        query=lambda: g.deposits,
        title=account_with_balance,
        is_optional=True,
        description=_l("Needed only for a payment from the client's account."),
    )
    till = till_field()

    def validate_starts_on(self, field: Any) -> None:
        """A slip of the year, unless the past is his to enter."""
        earliest = clock.today(g.client.branch) - LONGEST_AGO
        if field.data is not None and field.data < earliest and not current_user.may("lesson.past"):
            raise ValidationError(_("The start is more than a year ago: enter %(day)s or later.", day=day(earliest)))


class DiscountForm(Form):
    amount = sum_field()
    reason = StringField(
        _l("Reason"),
        [REQUIRED, Length(max=LONGEST_REASON)],
        description=_l("For example, a large family. It is seen in the card."),
    )


class CardSellingView(CardWishesView):
    """See the module."""

    @expose("/card/<id>/subscription/new/", methods=("GET", "POST"))
    @permission("subscription.sell")
    def sell_view(self, id: str) -> Any:
        """«Продать абонемент»."""
        client = g.client = self.get_one(id)
        payer = payer_of(client)
        g.deposits = [
            account
            for account in open_accounts_of(payer.id)
            if account.kind is AccountKind.DEPOSIT and account.balance > 0
            if is_within_reach(client.branch, account.branch)
        ]
        may_take = current_user.may("account.top_up")
        g.tills = tills_to_choose(client.branch_id) if may_take else []
        form: Any = self._operation_form(Subscription, SellForm, client.branch.company_id)
        offered = {WayToPaySale.DEBT}
        if may_take:
            offered |= {WayToPaySale.CASH, WayToPaySale.CARD}
        if g.deposits and current_user.may("account.spend"):
            offered.add(WayToPaySale.ACCOUNT)
        else:  # nothing to choose from: not asked for at all
            del form.account
        form.way.choices = [choice for choice in form.way.choices if choice.value in {way.value for way in offered}]
        if not g.tills:
            del form.till
        if request.method == "GET":
            form.starts_on.data = clock.today(client.branch)
        return self.answer(
            form,
            lambda: sell_paid(client, **self._facts(form), by=current_user),
            title=_("Sell a subscription"),
            back=self._tab(client, "subscriptions"),
            done=lambda sold: self._tab(client, "subscriptions"),
            said=lambda sold: _said_of_sale(sold, form.way.data),
            template="admin/sell.html",
            client=client,
            payer=payer,
            has_plans=bool(form.plan.rows),
            base=next((kept for kept in open_accounts_of(payer.id) if _is_base_of(client, kept)), None)
            if sees_balances()
            else None,
            submit=_("Sell"),
        )

    @staticmethod
    def _facts(form: Any) -> dict[str, Any]:
        """What was filled in. A plan that is itself a trial needs no tick."""
        facts: dict[str, Any] = form.data
        return {**facts, "is_trial": facts["is_trial"] or None}

    @expose("/card/<id>/discount/", methods=("GET", "POST"))
    @permission("discount")
    def discount_view(self, id: str) -> Any:
        """«Добавить скидку»: on every subscription from now on."""
        client = self.get_one(id)
        form = DiscountForm(request.form if request.method == "POST" else None)
        if request.method == "GET" and client.discount:
            form.amount.data, form.reason.data = client.discount, client.discount_reason
        return self.answer(
            form,
            lambda: set_discount(client, **form.data, by=current_user),
            title=_("Add a discount"),
            back=self.row_url(client),
            said=_l("The discount is kept: it is let off every subscription from now on."),
            subtitle=client.shown_name,
            submit=_("Add a discount"),
        )

    @expose("/card/<id>/discount/remove/", methods=("GET", "POST"))
    @permission("discount")
    def remove_discount_view(self, id: str) -> Any:
        """«Снять скидку»."""
        client = self.get_one(id)
        form = Form(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: remove_discount(client, by=current_user),
            title=_("Remove the discount"),
            back=self.row_url(client),
            said=_l("The discount is removed. What was sold before stays as it is."),
            subtitle=f"{client.shown_name} · {money(client.discount)} · {client.discount_reason}",
            submit=_("Remove the discount"),
        )

    def _operation_form(self, model: type[Any], declared: type[Form], company_id: int) -> Form:
        """The form of an operation that makes a row of another table for a client, with the company's own fields."""
        view: KontoraView = self.view_of(model)  # type: ignore[assignment]
        form = view.form_of_operation(declared, frozenset({company_id}))
        return form(request.form if request.method == "POST" else None)

    def _tab(self, client: Client, tab: str) -> str:
        return url_for("client.card_view", id=client.id, tab=tab)


def _is_base_of(client: Client, account: Account) -> bool:
    """Whether a sale to the client is charged to the account when nothing else is chosen."""
    return account.kind is AccountKind.BASE and account.branch_id == client.branch_id


def _said_of_sale(sold: Subscription, way: WayToPaySale) -> str:
    """With the debt that arose; what his account held already may have paid a part."""
    said = (
        _("The subscription is sold for %(sum)s, discount deducted.", sum=money(sold.cost))
        if sold.discount
        else _("The subscription is sold for %(sum)s.", sum=money(sold.cost))
    )
    unpaid = unpaid_subscriptions([sold.id]) if way is WayToPaySale.DEBT else None
    owed = (unpaid or {}).get(sold.id)
    return said + " " + _("On credit: %(sum)s.", sum=money(owed)) if owed else said
