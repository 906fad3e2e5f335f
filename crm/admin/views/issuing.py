"""«Добавить счет»: a bill from a client's card, its sum given by hand, by the forecast or by the cost of subscriptions;
and bills for many clients at once.

The form is one page. Which of its fields there are, and what the system finds itself, hangs on the method and the
account: with another of these «Пересчитать» shows it anew, and static/issuing.js presses that by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, time
from typing import Any

import sqlalchemy as sa
from flask import flash, g, request, url_for
from flask_admin import expose
from flask_babel import format_decimal, ngettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import Length, Optional, ValidationError

from crm import clock
from crm.access.fields import field_rules
from crm.access.models import Branch
from crm.admin.base import BulkAction, permission
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, MoneyField, ReferenceField, ReferencesField
from crm.admin.money import account_with_balance
from crm.admin.selection import Selection
from crm.admin.views.selling import CardSellingView
from crm.bills.issuing import Draft, Terms, accounts_to_bill, draft_bill, issue_draft, issue_many, outlook_of_many
from crm.bills.models import Bill, BillMethod
from crm.bills.operations import PURPOSE_LENGTH
from crm.bills.queries import unpaid_bills_of
from crm.bills.terms import Term, farthest_end, month_end
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.errors import DomainError
from crm.i18n import day, money
from crm.ledger.models import Account, AccountKind
from crm.protocol import Outcome, ProtocolLine
from crm.schedule.queries import count_unmarked
from crm.subscriptions.models import Subscription

# Clients whose bills are counted before they are issued.
COUNTED_AT_MOST = 500


def _term_field(**kwargs: Any) -> SelectField:
    """One of the usual terms. Data: a Term, or None for none of them."""
    choices = [SelectChoice(term.value, term.label) for term in Term]
    if "blank" in kwargs:
        choices.insert(0, SelectChoice("", kwargs.pop("blank")))
    known = {term.value: term for term in Term}
    return SelectField(
        choices=choices, coerce=lambda value: value if isinstance(value, Term) else known.get(value), **kwargs
    )


def _purpose_field() -> StringField:
    return StringField(
        _l("Purpose of the payment"),
        [Length(max=PURPOSE_LENGTH)],
        description=_l("The client and the bank read it. May be left empty."),
    )


def _numbered(text: Any) -> str:
    """With the number of a subscription as people write it."""
    return str(text).replace(" #", " № ")


class WayForm(Form):
    """What the rest of the form hangs on."""

    method = EnumField(BillMethod, _l("Type of calculation"), default=BillMethod.MANUAL)
    # None is the base account, which may have yet to be made.
    account = ReferenceField(
        Account,
        _l("Client account"),
        query=lambda: g.accounts_to_bill,
        title=lambda account: _numbered(account_with_balance(account)),
        is_optional=True,
        blank=AccountKind.BASE.label,
        description=_l("The money is credited to it when the bill is paid."),
    )


def _some_of_them(form: Any, field: Any) -> None:
    if not field.data:
        raise ValidationError(_("Choose the subscriptions."))


class IssueForm(WayForm):
    # Shown side by side: from and to.
    PAIRS = {"period_from": "period_to", "payable_from": "payable_until"}

    subscriptions = ReferencesField(
        Subscription,
        _l("For which subscriptions"),
        query=lambda: g.subscriptions_to_bill,
        title=_numbered,
        validators=[_some_of_them],
    )
    amount = MoneyField(_l("Sum"), [REQUIRED])
    period_from = DateField(_l("For the period"), [REQUIRED])
    period_to = DateField(_l("until"), [REQUIRED])
    term = _term_field(
        label=_l("Usual terms"),
        blank=_l("by the dates below"),
        description=_l("A term chosen here sets the last day to pay."),
        validators=[Optional()],
    )
    payable_from = DateField(_l("Payment term"), [REQUIRED])
    payable_until = DateField(
        _l("until"), [Optional()], description=_l("May be left empty: the term is then not limited.")
    )
    is_repeatable = BooleanField(_l("The bill may be paid repeatedly"))
    purpose = _purpose_field()
    basis = HiddenField()  # the method and the account the page was made for
    # Names of fields changed while the page was on its way for another way: what stands there was typed.
    typed = HiddenField()


def _by_hand_alone(form: Any, field: Any) -> None:
    """A sum for all of them is a matter of the method by hand."""
    is_manual = form.method.data is BillMethod.MANUAL
    if is_manual and field.data is None and not field.errors:
        raise ValidationError(_("Enter the sum."))
    if not is_manual and field.data is not None:
        raise ValidationError(_("The sum is found for each by this method: leave the field empty."))


def _not_over(form: Any, field: Any) -> None:
    if field.data is not None and field.data < clock.today(g.here):
        raise ValidationError(_("The period is over: enter today or a later day for its end."))


def _not_too_far(form: Any, field: Any) -> None:
    last = farthest_end(clock.today(g.here))
    if field.data is not None and field.data > last:
        raise ValidationError(_("Enter a day no later than %(day)s.", day=day(last)))


class IssueManyForm(Form):
    method = EnumField(BillMethod, _l("Type of calculation"), default=BillMethod.FORECAST)
    amount = MoneyField(
        _l("Sum"),
        [_by_hand_alone],
        description=_l("Of each bill, and only by hand: otherwise each has the sum found for it."),
    )
    period_to = DateField(_l("For the period up to"), [REQUIRED, _not_over, _not_too_far])
    term = _term_field(label=_l("Payment term"), default=Term.UNLIMITED)
    is_repeatable = BooleanField(_l("The bill may be paid repeatedly"))
    is_reissued = BooleanField(
        _l("Issue a bill again when an unpaid one exists"),
        description=_l("Otherwise who has a bill that can still be paid gets no other, and the protocol says which."),
    )
    purpose = _purpose_field()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.period_to.data is None and not self.period_to.raw_data:
            self.period_to.data = month_end(clock.today(g.here))


class CardIssuingView(CardSellingView):
    """Of the view of clients."""

    @expose("/card/<id>/bill/new/", methods=("GET", "POST"))
    @permission("bill.issue")
    def issue_bill_view(self, id: str) -> Any:
        """«Добавить счет»."""
        client = self.get_one(id)
        payer, branch = payer_of(client), client.branch
        sent = request.form if request.method == "POST" else None
        accounts = accounts_to_bill(payer, branch)
        g.accounts_to_bill = [account for account in accounts if account.kind is not AccountKind.BASE]
        way = WayForm(sent)
        method, account = way.method.data or BillMethod.MANUAL, way.account.data
        drafting = {"branch": branch, "method": method, "account": account}
        g.subscriptions_to_bill = (
            draft_bill(payer, **drafting).subscriptions if method is BillMethod.SUBSCRIPTION else ()
        )
        form: Any = self._operation_form(Bill, IssueForm, branch.company_id)
        self._without_what_is_not_asked(form, method)
        basis = _basis(method, account)
        is_other = sent is None or form.basis.data not in {"", basis}
        is_asked = sent is not None and "recalculate" in sent
        typed = set((form.typed.data or "").split()) if sent is not None else set[str]()
        draft, error = self._draft(form, payer, drafting, typed, is_other=is_other)
        if is_other or is_asked:
            _fill(form, draft, method, branch, typed, is_other=is_other)
            is_resent = sent is not None and not is_asked
        else:
            is_resent = False
        form.basis.raw_data, form.basis.data = None, basis
        form.typed.raw_data, form.typed.data = None, ""
        if "account" in form:
            form.account.choices[0] = SelectChoice("", account_with_balance(accounts[0]))
        _apply_term(form)
        shown = {
            "title": _("New bill"),
            "subtitle": payer.shown_name,
            "back": self._tab(client, "bills"),
            "template": "admin/issue_bill.html",
            "method": method,
            "draft": draft,
            "is_fixed": method is BillMethod.FORECAST,
            "currency": branch.company.currency,
            "doubtful_term": _doubt_of_term(form.payable_from.data, form.payable_until.data, clock.today(branch)),
            "unpaid": [bill for own in unpaid_bills_of([account or accounts[0]]).values() for bill in own],
            "unmarked": _unmarked(payer, branch, account) if method is BillMethod.FORECAST else "",
        }
        if is_resent or is_asked:
            if error is not None:
                self.show_error(form, error)
            if is_resent:
                form.form_errors.append(_("The bill is calculated in another way now. Check it and save it."))
            facts = {name: value for name, value in shown.items() if name != "template"}
            page = self.render(shown["template"], form=form, row=None, stale=[], **facts)
            return page, 422 if is_resent else 200

        def change() -> Bill:
            try:
                return issue_draft(client, **self._bill_facts(form), branch=branch, by=current_user)
            except DomainError:  # the page that is shown now has what the system finds
                if method is BillMethod.FORECAST:
                    _fix(form, draft)
                raise

        return self.answer(
            form,
            change,
            done=lambda bill: url_for("bill.details_view", id=bill.id),
            said=lambda bill: _said_of_issue(bill),
            **shown,
        )

    @staticmethod
    def _without_what_is_not_asked(form: Any, method: BillMethod) -> None:
        """Fields without a choice are left out."""
        if not g.accounts_to_bill:
            del form.account
        if method is not BillMethod.SUBSCRIPTION or not g.subscriptions_to_bill:
            del form.subscriptions
        if method is BillMethod.FORECAST:  # shown, and for nobody to change
            for field in (form.amount, form.period_from):
                field.render_kw = {**(field.render_kw or {}), "readonly": True}

    def _draft(
        self, form: Any, payer: Client, drafting: dict[str, Any], typed: Collection[str], *, is_other: bool
    ) -> tuple[Draft | None, DomainError | None]:
        """What the bill would ask for by what is filled in; where the way has just been changed, by what was typed
        since.
        """
        chosen: dict[str, Any] = {}
        if drafting["method"] is not BillMethod.SUBSCRIPTION and (not is_other or "period_to" in typed):
            chosen["period_to"] = form.period_to.data
        if "subscriptions" in form and (not is_other or "subscriptions" in typed):
            chosen["subscriptions"] = form.subscriptions.data
        try:
            return draft_bill(payer, **drafting, **chosen), None
        except DomainError as error:
            return None, error

    @staticmethod
    def _bill_facts(form: Any) -> dict[str, Any]:
        return {name: value for name, value in form.data.items() if name not in {"term", "basis", "typed"}}

    def issuing_actions(self) -> list[BulkAction]:
        """«Выставить счета» for many clients."""
        g.here = self.here()
        return [
            BulkAction(
                "bill",
                _l("Issue bills"),
                "bill.issue",
                _l("Each payer is issued one bill; who has nothing to pay gets none, and the protocol says why."),
                _issue_each,
                is_dangerous=False,
                form=lambda: IssueManyForm,
                facts=_facts_of_many,
                knows_start=True,
            )
        ]


def _basis(method: BillMethod, account: Account | None) -> str:
    """What the sum and the fields of the form hang on; by hand not on the account."""
    return method.value if method is BillMethod.MANUAL or account is None else f"{method.value}:{account.id}"


def _fill(
    form: Any, draft: Draft | None, method: BillMethod, branch: Branch, typed: Collection[str], *, is_other: bool
) -> None:
    """Put into the form what the system finds, and with another method or account what it begins with; not over what
    was typed since.
    """
    today = clock.today(branch)
    if form.payable_from.data is None and not form.payable_from.raw_data:
        form.payable_from.data = today
    if is_other:
        if "subscriptions" in form and "subscriptions" not in typed:
            _set(form.subscriptions, list(form.subscriptions.rows.values()))
        if method is BillMethod.MANUAL:
            first, last = today.replace(day=1), month_end(today)
        else:
            first, last = (draft.period_from, draft.period_to) if draft is not None else (today, month_end(today))
        for name, day_ in (("period_from", first), ("period_to", last)):
            if name not in typed:
                _set(form[name], day_)
    if method is BillMethod.FORECAST:
        _fix(form, draft)
    elif method is BillMethod.SUBSCRIPTION and draft is not None and "amount" not in typed:
        _set(form.amount, draft.amount)


def _fix(form: Any, draft: Draft | None) -> None:
    """What is found, in place of what was typed."""
    if draft is not None:
        _set(form.amount, draft.amount)
        _set(form.period_from, draft.period_from)


def _set(field: Any, value: Any) -> None:
    field.raw_data, field.data, field.errors, field.process_errors = None, value, [], []


def _apply_term(form: Any) -> None:
    if form.term.data is not None and form.payable_from.data is not None:
        _set(form.payable_until, form.term.data.until(form.payable_from.data))


def _doubt_of_term(first: date | None, last: date | None, today: date) -> str:
    """What to warn of in a term that is allowed: it is over already, or a single day."""
    if last is None or (first is not None and last < first):
        return ""
    if last < today:
        return _("The term is over already: the bill cannot be paid by the link.")
    if first == last:
        return _("The term is a single day: the bill can be paid on that day only.")
    return ""


def _unmarked(payer: Client, branch: Branch, account: Account | None) -> str:
    """Lessons that are over and not marked: what they will take is in no forecast, which begins today."""
    if account is not None and account.kind is AccountKind.DEPOSIT:  # lessons take nothing off it
        return ""
    count = count_unmarked(payer.id, before=clock.at(clock.today(branch), time(0), branch))
    if not count:
        return ""
    return ngettext(
        "%(num)s lesson up to yesterday is not marked: it is not in the forecast.",
        "%(num)s lessons up to yesterday are not marked: they are not in the forecast.",
        count,
    )


def _said_of_issue(bill: Bill) -> str:
    if doubt := _doubt_of_term(bill.payable_from, bill.payable_until, clock.today(bill.branch)):
        flash(doubt, "warning")
    return _("The bill is issued. Copy the link and send it to the client.")


def _terms(*, term: Term, **values: Any) -> Terms:
    return Terms(**values, payable_until=term.until(clock.today(g.here)))


def _issue_each(ids: Sequence[int], **values: Any) -> list[ProtocolLine]:
    return issue_many(ids, _terms(**values), by=current_user)


def _facts_of_many(selection: Selection, count: int, **values: Any) -> list[tuple[Any, Any]]:
    """How many are chosen and, while it is soon found, what the bills would come to."""
    payers = selection.aggregate(sa.func.count(sa.distinct(sa.func.coalesce(Client.payer_id, Client.id))))
    facts: list[tuple[Any, Any]] = [
        (_("Clients chosen"), format_decimal(count)),
        (_("Their payers"), format_decimal(db.session.scalar(payers) or 0)),
    ]
    if count > COUNTED_AT_MOST:
        text = _("not counted for more than %(count)s clients", count=COUNTED_AT_MOST)
        return [*facts, (_("Bills to be issued"), text)]
    ids = next(iter(selection.id_batches(COUNTED_AT_MOST)), [])
    outlook = outlook_of_many(ids, _terms(**values), by=current_user)
    facts.append((_("Bills to be issued"), format_decimal(outlook.bills)))
    if "amount" not in field_rules(current_user, "bill").hidden:
        facts.append((_("Total of the bills"), money(outlook.total)))
    if outlook.skipped:
        facts.append((Outcome.SKIPPED.label, format_decimal(outlook.skipped)))
    if outlook.failed:
        facts.append((_("Rows to be refused"), format_decimal(outlook.failed)))
    return facts
