"""What is done with a client's account at the desk: a form for each, with the balance before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import StringField
from wtforms.validators import Length

from crm.access.actors import author_shown
from crm.access.models import Employee
from crm.admin.base import permission
from crm.admin.fields import REQUIRED, EnumField, Form, ReferenceField
from crm.admin.importing import ImportableView
from crm.admin.money import account_with_balance, sees_balances, sum_field, till_field, tills_to_choose, with_slip
from crm.admin.views.operations import SUMS
from crm.clients.models import Client
from crm.clients.queries import find_clients, payer_of
from crm.db import db
from crm.errors import DomainError
from crm.ledger.history import AccountOperation
from crm.ledger.models import Account, AccountKind, Transaction, Unit
from crm.ledger.operations import base_account, closed_text
from crm.ledger.queries import entries_of, open_accounts_of
from crm.ledger.reach import check_within_reach
from crm.payments.desk import (
    REFUND_METHODS,
    close_account,
    family_accounts,
    may_reverse,
    places_for_rest,
    refund,
    refusal_of_reversal,
    reopen_account,
    reverse_operation,
    transfer,
    write_off,
)
from crm.payments.models import PaymentMethod, desk_methods
from crm.payments.operations import top_up


def _employees() -> list[Employee]:
    query = sa.select(Employee).where(Employee.is_active, Employee.branch_id == g.account.branch_id)
    return list(db.session.scalars(query.order_by(Employee.name)))


def _comment() -> StringField:
    return StringField(_l("Comment"), [Length(max=500)])


def _employee() -> ReferenceField:
    return ReferenceField(Employee, _l("Employee"), query=_employees, is_optional=True)


class TopUpForm(Form):
    amount = sum_field()
    method = EnumField(PaymentMethod, _l("Payment"))
    till = till_field()
    employee = _employee()
    comment = _comment()


class WriteOffForm(Form):
    amount = sum_field()
    reason = StringField(_l("Reason"), [REQUIRED, Length(max=500)])
    employee = _employee()


class RefundForm(Form):
    amount = sum_field()
    method = EnumField(PaymentMethod, _l("How the money is given back"))
    till = till_field()
    employee = _employee()
    comment = _comment()


def _own_with_balance(account: Account) -> str:
    """What others have on their accounts is not said beside a transfer to them."""
    return account_with_balance(account) if account.client_id == g.account.client_id else account.title


class TransferForm(Form):
    target = ReferenceField(Account, _l("To the account"), query=lambda: g.targets, title=account_with_balance)
    amount = sum_field()
    employee = _employee()
    comment = _comment()


class TransferToBaseForm(TransferForm):
    """Where the base account has yet to be made: it is the choice of none."""

    target = ReferenceField(
        Account,
        _l("To the account"),
        query=lambda: g.targets,
        title=_own_with_balance,
        is_optional=True,
        blank=AccountKind.BASE.label,
    )


class CloseForm(Form):
    target = ReferenceField(
        Account,
        _l("What is left goes to"),
        query=lambda: g.targets,
        title=account_with_balance,
        is_optional=True,
        description=_l("Or refund it to the client first."),
    )
    comment = _comment()


class CloseToBaseForm(CloseForm):
    """As TransferToBaseForm."""

    target = ReferenceField(
        Account,
        _l("What is left goes to"),
        query=lambda: g.targets,
        title=account_with_balance,
        is_optional=True,
        blank=AccountKind.BASE.label,
        description=_l("Or refund it to the client first."),
    )


class ReopenForm(Form):
    comment = _comment()


class ReverseForm(Form):
    comment = StringField(_l("Why it is reversed"), [REQUIRED, Length(max=500)])


@dataclass(frozen=True)
class Balance:
    """A line above the form. after: None where it depends on the sum, with the sign the sum comes in."""

    title: str
    before: Decimal
    after: Decimal | None = None
    sign: int = 0


def _home_of(account: Account) -> tuple[int, int]:
    """Where its owner's base account is: (client, branch)."""
    assert account.client_id is not None, "accounts of the house are out of sight here"
    return account.client_id, account.branch_id


def _is_base(account: Account, home: tuple[int, int]) -> bool:
    return account.kind is AccountKind.BASE and (account.client_id, account.branch_id) == home


class AccountDeskView(ImportableView):
    """See the module."""

    @expose("/<id>/top-up/", methods=("GET", "POST"))
    @permission("top_up")
    def top_up_view(self, id: str) -> Any:
        account = self._begin(id, desk_methods(current_user))
        form = self._money_form(TopUpForm, desk_methods(current_user))
        return self._answer(
            form,
            lambda: top_up(account, **form.data, by=current_user),
            title=_("Top up “%(account)s”", account=account.title),
            said=_("The account is topped up."),
            submit=_("Top up"),
            sign=1,
        )

    @expose("/<id>/write-off/", methods=("GET", "POST"))
    @permission("write_off")
    def write_off_view(self, id: str) -> Any:
        account = self._begin(id)
        form = self._money_form(WriteOffForm)
        return self._answer(
            form,
            lambda: write_off(account, **form.data, by=current_user),
            title=_("Write off from “%(account)s”", account=account.title),
            said=_("The sum is written off."),
            submit=_("Write off"),
            sign=-1,
        )

    @expose("/<id>/refund/", methods=("GET", "POST"))
    @permission("refund")
    def refund_view(self, id: str) -> Any:
        account = self._begin(id, REFUND_METHODS)
        form = self._money_form(RefundForm, REFUND_METHODS)
        return self._answer(
            form,
            lambda: refund(account, **form.data, by=current_user),
            title=_("Refund from “%(account)s”", account=account.title),
            said=_("The money is given back."),
            submit=_("Give the money back"),
            sign=-1,
        )

    @expose("/<id>/transfer/", methods=("GET", "POST"))
    @permission("transfer")
    def transfer_view(self, id: str) -> Any:
        """Within the family; with ?to= to another client, who is found by ?q=."""
        account = self._begin(id)
        payer = self._recipient(account)
        home = _home_of(account) if payer is None else (payer.id, payer.branch_id)
        g.targets = family_accounts(account) if payer is None else open_accounts_of(payer.id)
        if payer is not None:  # of his accounts the base one is the usual, made or not
            g.targets = [other for other in g.targets if not _is_base(other, home)]
        to_base = not any(_is_base(other, home) for other in (account, *g.targets))
        form = self._money_form(TransferToBaseForm if to_base else TransferForm)

        def change() -> Transaction:
            facts = form.data
            target = facts.pop("target") or (base_account(*home) if to_base else None)
            return transfer(account, target, **facts, by=current_user)

        return self._answer(
            form,
            change,
            title=_("Transfer from “%(account)s”", account=account.title),
            said=_("The money is transferred."),
            submit=_("Transfer"),
            sign=-1,
            template="admin/transfer.html",
            payer=payer,
            found=self._found(account, payer),
            text=request.args.get("q", ""),
            account_id=account.id,
            has_form=to_base or bool(g.targets),
        )

    @expose("/<id>/close/", methods=("GET", "POST"))
    @permission("close")
    def close_view(self, id: str) -> Any:
        account = self._begin(id)
        home = _home_of(account)
        g.targets = places_for_rest(account) if account.balance else []
        to_base = bool(account.balance) and not any(_is_base(other, home) for other in g.targets)
        form = self._money_form(CloseToBaseForm if to_base else CloseForm)
        if not account.balance:
            del form.target

        def change() -> Account | Transaction:
            """What was left, as the transfer that took it; the account when it was empty."""
            facts = form.data
            rest = facts.pop("target", None) or (base_account(*home) if to_base else None)
            closed = close_account(account, transfer_to=rest, **facts, by=current_user)
            if rest is None:
                return closed
            g.rest_went_to = rest.title
            return db.session.scalars(entries_of(closed).limit(1)).one().transaction

        def said(_done: Any) -> str:
            if target := g.get("rest_went_to"):
                return _("The account is closed; what was left went to “%(account)s”.", account=target)
            return _("The account is closed.")

        return self._answer(
            form,
            change,
            title=_("Close the account “%(account)s”?", account=account.title),
            said=said,
            submit=_("Close the account"),
            balances=[Balance(account.title, account.balance, Decimal(0))],
        )

    @expose("/<id>/reopen/", methods=("GET", "POST"))
    @permission("close")
    def reopen_view(self, id: str) -> Any:
        account = self._begin(id)
        form = ReopenForm(request.form if request.method == "POST" else None)
        return self._answer(
            form,
            lambda: reopen_account(account, comment=form.comment.data, by=current_user),
            title=_("Open the account “%(account)s” again?", account=account.title),
            said=_("The account is open again."),
            submit=_("Open again"),
            balances=[],
        )

    @expose("/operation/<id>/reverse/", methods=("GET", "POST"))
    @permission("reverse")
    def reverse_view(self, id: str) -> Any:
        """By the number of the transaction."""
        number = int(id) if id.isascii() and id.isdigit() and len(id) < 19 else 0
        operation = db.session.scalar(sa.select(Transaction).where(Transaction.id == number)) or abort(404)
        if not may_reverse(operation, current_user):
            abort(403)
        touched = [entry for entry in operation.entries if entry.account is not None and entry.account.client_id]
        accounts = {entry.account.id: entry.account for entry in touched}
        changes = {id: sum((e.amount for e in touched if e.account_id == id), Decimal(0)) for id in accounts}
        operations = self.view_of(AccountOperation)
        hides_sums = operations is None or bool(SUMS & operations.field_rules().hidden)
        form = ReverseForm(request.form if request.method == "POST" else None)
        # A form sent twice is told that it is done already.
        refusal = refusal_of_reversal(operation) if request.method == "GET" else None
        g.account = next(iter(accounts.values()), None)
        return self._answer(
            form,
            lambda: reverse_operation(operation, comment=form.comment.data, by=current_user),
            title=_("Reverse operation No. %(number)s?", number=operation.id),
            said=_("The operation is reversed."),
            submit=_("Reverse"),
            subtitle=self._told(operation),
            refusal=refusal,
            warning=None
            if refusal
            else _("The money goes back through the same accounts and the same till; the history keeps both."),
            balances=[
                Balance(account.title, account.balance, account.balance - changes[account.id])
                for account in accounts.values()
                if account.unit is Unit.MONEY and not refusal and not hides_sums
            ],
        )

    # --- common to all ----------------------------------------------------------------------------------------------

    def _begin(self, id: str, methods: tuple[PaymentMethod, ...] = ()) -> Account:
        """The account, known to the fields of the form; and the tills there is a choice of."""
        account: Account = self.get_one(id)
        g.account = account
        g.tills = tills_to_choose(account.branch_id, methods)
        return account

    def _money_form(self, declared: type[Form], methods: tuple[PaymentMethod, ...] = ()) -> Any:
        """The posted form, or an empty one; without a till where there is no choice."""
        form: Any = declared(request.form if request.method == "POST" else None)
        if "method" in form:
            form.method.choices = [item for item in form.method.choices if item.value in methods]
        if request.method == "GET" and g.account.is_closed:
            form.form_errors.append(closed_text(g.account))
        if "till" in form and not g.tills:
            del form.till
        return form

    def _answer(
        self,
        form: Any,
        change: Callable[[], Any],
        *,
        title: str,
        said: str | Callable[[Any], str],
        submit: str,
        sign: int = 0,
        balances: list[Balance] | None = None,
        subtitle: Any = None,
        template: str = "admin/money_form.html",
        **context: Any,
    ) -> Any:
        account: Account | None = g.account
        if balances is None and account is not None:
            balances = [Balance(account.title, account.balance, sign=sign)]
        back = self._place_of(account)
        return self.answer(
            form,
            change,
            title=title,
            back=back,
            done=lambda result: back,
            said=lambda result: with_slip(said(result) if callable(said) else said, result, account),
            template=template,
            submit=submit,
            subtitle=subtitle,
            client=account.client if account is not None else None,
            balances=balances if sees_balances() else [],
            **context,
        )

    def _place_of(self, account: Account | None) -> str:
        """Where the operation was begun and leads back: a visit's window (?visit=), or the tab of the card the account
        is on; its own page when the card is of another branch.
        """
        visit = request.args.get("visit", "")
        if visit.isascii() and visit.isdigit():
            return url_for("visit.details_view", id=visit)
        if account is None:
            return url_for(".index_view")
        if account.client is None:
            return self.row_url(account)
        return url_for("client.card_view", id=account.client_id, tab="accounts")

    @staticmethod
    def _told(operation: Transaction) -> str:
        parts = [operation.kind.label, author_shown(operation.author_name), operation.comment]
        return " · ".join(str(part) for part in parts if part)

    # --- to another client ------------------------------------------------------------------------------------------

    def _recipient(self, account: Account) -> Client | None:
        """Who pays for the client chosen by ?to=; None within the family."""
        if not request.args.get("to"):
            return None
        if not current_user.may("account.transfer_out"):
            abort(403)
        view = self.view_of(Client)
        assert view is not None
        payer = payer_of(view.get_one(request.args["to"]))
        family = payer_of(account.client) if account.client is not None else None
        return None if payer is family else payer

    def _found(self, account: Account, payer: Client | None) -> list[tuple[Client, str | None]]:
        """Clients by ?q=, and why nothing can be transferred to one of another city."""
        if payer is not None or not current_user.may("account.transfer_out"):
            return []
        found: list[tuple[Client, str | None]] = []
        for client in find_clients(request.args.get("q", ""), limit=20, by=current_user):
            if (client.payer_id or client.id) == account.client_id:
                continue
            try:
                check_within_reach(account.branch, client.branch, field="target")
            except DomainError as refused:
                found.append((client, str(refused)))
            else:
                found.append((client, None))
        return found
