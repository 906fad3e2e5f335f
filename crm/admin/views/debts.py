"""«Должники», and the forms that accrue debts and write them off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import abort, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import StringField
from wtforms.validators import Length

from crm.access.fields import FieldRules, field_rules
from crm.admin.base import BulkAction, GridColumn, KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, Form
from crm.admin.kinds import NOTHING, BadFilter, Kind, MomentKind, MoneyKind, Place
from crm.admin.money import sees_balances, sum_field, with_slip
from crm.admin.selection import COUNT_LIMIT, Selection
from crm.admin.views.desk import Balance
from crm.admin.views.mailing_selection import mailing_actions
from crm.clients.models import Client
from crm.clients.queries import client_matches, payer_of
from crm.db import db
from crm.debts.debtors import Debtor, has_debt_of
from crm.debts.operations import (
    account_in_own_city,
    accrue_debt,
    write_off_bad_debt,
    write_off_bad_debts,
    write_off_debt,
)
from crm.debts.queries import (
    CityBalance,
    UnpaidCharge,
    balances_by_city,
    debts_of_subscriptions,
    total_ageing,
    unpaid_charges,
)
from crm.ledger.models import Account, AccountKind
from crm.ledger.operations import base_account
from crm.ledger.queries import accounts_of

# Columns of Ageing, in the order of their places.
AGE_LABELS = {
    "days_30": _l("0–30 days"),
    "days_60": _l("31–60 days"),
    "days_90": _l("61–90 days"),
    "older": _l("Over 90 days"),
}


class AgeKind(Kind):
    """The ages a debt is told in: rows are found by any part of their debt."""

    operators = ("is",)
    is_sortable = False

    def choices(self) -> Sequence[tuple[str, Any]]:
        return list(AGE_LABELS.items())

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        names = [*AGE_LABELS]
        if unknown := [text for text in texts if text not in names]:
            raise BadFilter(_("“%(text)s” is not one of the choices.", text=unknown[0]))
        return has_debt_of([names.index(text) for text in texts])


class AgedKind(MoneyKind):
    """A part of a debt; most debts have no part of most ages."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return super().show(value, place) if value else NOTHING


class DebtKind(MoneyKind):
    """What a client owes: red, as a balance below zero is."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return Markup('<span class="debt">{}</span>').format(super().show(value, place))

    # By the balance: the database has an index of it, and knows how many rows to expect.

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        return Debtor.balance.in_([-self.read(text, place) for text in texts])

    def begins(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return Debtor.balance <= -self.read(text, place)

    def ends(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return Debtor.balance >= -self.read(text, place)


class AccrueForm(Form):
    amount = sum_field()
    reason = StringField(_l("Reason"), [REQUIRED, Length(max=500)], render_kw={"autocomplete": "off"})


class WriteOffDebtForm(AccrueForm):
    """The same two: how much, and why."""


class BadDebtForm(Form):
    amount = sum_field()
    comment = StringField(_l("Reason"), [REQUIRED, Length(max=500)], render_kw={"autocomplete": "off"})


class BadDebtsForm(Form):
    comment = StringField(_l("Reason"), [REQUIRED, Length(max=500)], render_kw={"autocomplete": "off"})


@dataclass(frozen=True)
class CardDebts:
    """What a client's card tells of his debts. accounts: those in sight that are not at zero; charges: what each debt
    is made of, by account; cities: sums by city, told when he owes or has paid ahead in more than the one of his card.
    """

    accounts: list[Account]
    charges: dict[int, list[UnpaidCharge]]
    cities: list[CityBalance]


def debts_of_card(payer: Client) -> CardDebts:
    """Nothing for who does not see the balances of accounts."""
    if not current_user.may("account.view") or not sees_balances():
        return CardDebts([], {}, [])
    accounts = [account for account in accounts_of(payer.id) if account.balance]
    cities = balances_by_city(payer.id, by=current_user)
    if {found.city for found in cities} <= {payer.branch.city.name}:
        cities = []
    return CardDebts(accounts, unpaid_charges([account.id for account in accounts]), cities)


def unpaid_subscriptions(ids: Sequence[int]) -> dict[int, Decimal] | None:
    """How much of each of these subscriptions is unpaid; None for who does not see balances."""
    if not current_user.may("account.view") or not sees_balances():
        return None
    return debts_of_subscriptions(ids)


class DebtorView(KontoraView):
    """Accounts below zero with the age of their debts."""

    entity = "debtor"
    icon = "exclamation-circle"
    column_list = (
        *("client", "client.phone", "debt"),
        *(f"ageing.{name}" for name in AGE_LABELS),
        *("last_paid_at", "ageing.oldest_at", "city", "branch"),
    )
    column_details_list = column_list
    column_labels = {
        "debt": _l("Debt"),
        "ageing": _l("Age of the debt"),
        "ageing.oldest_at": _l("In debt since"),
        "last_paid_at": _l("Last payment"),
        **{f"ageing.{name}": label for name, label in AGE_LABELS.items()},
    }
    column_kinds = {
        "debt": DebtKind(),
        "ageing": AgeKind(),
        "ageing.oldest_at": MomentKind(),
        "last_paid_at": MomentKind(),
        **{f"ageing.{name}": AgedKind() for name in AGE_LABELS},
    }
    column_filters = ("client", "city", "branch", "debt", "ageing")
    column_sortable_list = ("client", "city", "branch", "debt")
    column_totals = ("debt", *(f"ageing.{name}" for name in AGE_LABELS))
    column_default_sort = "-debt"
    details_template = "admin/debtor.html"
    empty_hint = _l("Nobody owes anything.")
    has_search = True

    def column(self, name: str) -> GridColumn:
        found = super().column(name)
        if name != "ageing":
            return found
        return GridColumn(found.name, found.label, found.kind, Debtor.id)  # its condition knows what to ask

    def field_rules(self, row: Any = None) -> FieldRules:
        """What is hidden of clients is hidden here."""
        rules = super().field_rules(row)
        of_clients = {f"client.{name}" for name in field_rules(current_user, "client").hidden}
        return FieldRules(rules.hidden | of_clients, rules.frozen)

    def is_accessible(self) -> bool:
        return super().is_accessible() and sees_balances()

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        """Who does not see balances does not see who owes either."""
        answer = super()._handle_view(name, **kwargs)
        if answer is None and self.permission_for(name) in {"debtor.view", "debtor.export"} and not sees_balances():
            abort(403)
        return answer

    def search_condition(self, text: str) -> Any:
        return client_matches(Debtor.client_id, text, by=current_user)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Over 90 days"), (("f.ageing.is", "older"),)),
            QuickFilter(_l("From 10 000"), (("f.debt.from", "10000"),)),
        ]

    def computed_totals(self, selection: Selection) -> dict[str, Any]:
        ids: Any = selection.aggregate(Debtor.id)
        few = db.session.scalars(ids.limit(COUNT_LIMIT + 1)).all()
        # Of a list the database knows how long it is, and reads no more of the ledger than that.
        ageing = total_ageing(few if len(few) <= COUNT_LIMIT else ids)
        return {f"ageing.{name}": getattr(ageing, name) for name in AGE_LABELS}

    def loader_options(self) -> list[Any]:
        return [*super().loader_options(), sa.orm.selectinload(Debtor.branch)]

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "bad_debt",
                _l("Write off the bad debt"),
                "account.bad_debt",
                _l("The whole debt of each account becomes a loss of its branch, and its subscriptions count as paid."),
                lambda ids, **values: write_off_bad_debts(ids, **values, by=current_user),
                form=lambda: BadDebtsForm,
            ),
            *mailing_actions(),
        ]

    def details_context(self, row: Debtor) -> dict[str, Any]:
        return {"charges": unpaid_charges([row.id]).get(row.id, [])}

    # --- forms: of any client's base account, in debt or not --------------------------------------------------------

    @expose("/client/<id>/accrue/", methods=("GET", "POST"))
    @permission("account.debt")
    def accrue_view(self, id: str) -> Any:
        """«Начислить долг»: to the base account of the client's payer, or the one of ?account=."""
        client = self.view_of(Client).get_one(id)  # type: ignore[union-attr]
        payer = payer_of(client)
        account = self._account(request.args["account"]) if request.args.get("account") else _base_of(payer)
        if account is not None and account.client_id != payer.id:
            abort(404)
        form = AccrueForm(request.form if request.method == "POST" else None)
        return self._answer(
            form,
            # It may have yet to be made.
            lambda: accrue_debt(account or base_account(payer.id, payer.branch_id), **form.data, by=current_user),
            payer,
            account,
            title=_("Accrue a debt"),
            sign=-1,
            said=_l("The debt is accrued."),
            submit=_("Accrue"),
        )

    @expose("/write-off/<id>/", methods=("GET", "POST"))
    @permission("account.debt")
    def write_off_view(self, id: str) -> Any:
        """«Списать долг»: by correction."""
        account = self._account(id)
        form = WriteOffDebtForm(request.form if request.method == "POST" else None)
        return self._answer(
            form,
            lambda: write_off_debt(account, **form.data, by=current_user),
            account.client,
            account,
            title=_("Write off the debt"),
            sign=1,
            said=_l("The debt is written off."),
            submit=_("Write off the debt"),
        )

    @expose("/bad-debt/<id>/", methods=("GET", "POST"))
    @permission("account.bad_debt")
    def bad_debt_view(self, id: str) -> Any:
        """«Списать невозвратный долг»: as a loss of the branch."""
        account = self._account(id)
        form = BadDebtForm(request.form if request.method == "POST" else None)
        if request.method == "GET" and sees_balances() and account.balance < 0:
            form.amount.data = -account.balance
        return self._answer(
            form,
            lambda: write_off_bad_debt(account, **form.data, by=current_user),
            account.client,
            account,
            title=_("Write off the bad debt"),
            sign=1,
            said=_l("The bad debt is written off."),
            warning=_(
                "What will not be paid becomes a loss of the branch; the debts of subscriptions are cleared too."
            ),
            submit=_("Write off the bad debt"),
        )

    def _answer(
        self,
        form: Form,
        change: Any,
        client: Client | None,
        account: Account | None,
        *,
        sign: int,
        said: Any,
        **texts: Any,
    ) -> Any:
        """client: None when the card is in a branch out of sight (cards merged), though the account is not."""
        back = url_for("client.card_view", id=client.id) if client else url_for("debtor.index_view")
        title, before = (account.title, account.balance) if account else (AccountKind.BASE.label, Decimal(0))
        return self.answer(
            form,
            change,
            back=back,
            done=lambda _done: back,
            said=lambda done: with_slip(said, done, account),
            template="admin/money_form.html",
            client=client,
            balances=[Balance(str(title), before, sign=sign)] if sees_balances() else [],
            **texts,
        )

    @staticmethod
    def _account(id: str) -> Account:
        if not (id.isascii() and id.isdigit() and len(id) < 19):
            abort(404)
        return account_in_own_city(int(id))


def _base_of(payer: Client) -> Account | None:
    """The payer's base account in the branch of his card, when there is one."""
    kept = (account for account in accounts_of(payer.id) if account.branch_id == payer.branch_id)
    return next((account for account in kept if account.kind is AccountKind.BASE and not account.is_closed), None)
