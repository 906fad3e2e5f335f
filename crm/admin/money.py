"""Parts of the forms that move money: tills to choose from, accounts with what is on them, the way to the slip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import g, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup

from crm.access.fields import field_rules
from crm.admin.fields import REQUIRED, MoneyField, ReferenceField
from crm.i18n import money
from crm.ledger.models import ACCOUNT_SUMS, Account, Transaction
from crm.ledger.operations import transaction_by_key
from crm.payments.models import DESK_METHODS, Payment, PaymentMethod
from crm.tills.models import Till
from crm.tills.queries import tills_in


def sees_balances() -> bool:
    return not ACCOUNT_SUMS & field_rules(current_user, "account").hidden


def account_with_balance(account: Account) -> str:
    """What an account is called in a choice: with what is on it, for who may see that."""
    return f"{account.title}: {money(account.balance)}" if sees_balances() else account.title


def sum_field() -> MoneyField:
    """How much: where typing begins."""
    return MoneyField(_l("Sum"), [REQUIRED], render_kw={"autofocus": True})


def till_field() -> ReferenceField:
    """One of g.tills; a form leaves the field out where there are none."""
    return ReferenceField(
        Till,
        _l("Till"),
        query=lambda: g.tills,
        title=_till_title,
        is_optional=True,
        blank=_l("By default"),
    )


def tills_to_choose(branch_id: int, methods: Iterable[PaymentMethod] = DESK_METHODS) -> list[Till]:
    """The branch's tills money of these methods goes through, where there is a choice."""
    offered = [tills_in(branch_id, method.till_kind) for method in methods]
    return [till for tills in offered if len(tills) > 1 for till in tills]


def _till_title(till: Till) -> str:
    return f"{till.kind.label}: {till.name}" if till.name else str(till.kind.label)


def with_slip(said: Any, done: Any, account: Account | None = None) -> Markup:
    """What the page says when a form is done: the balance of `account` before and after, and the way to the slip, for
    who may see them. done: what the operation returned; without a transaction of its own, there is no slip.
    """
    operation = transaction_by_key(f"payment:{done.id}") if isinstance(done, Payment) else done
    text = Markup("{}").format(said)
    if not isinstance(operation, Transaction):
        return text
    entry = next((entry for entry in operation.entries if account and entry.account_id == account.id), None)
    if entry is not None and entry.balance_after is not None and sees_balances():
        before = entry.balance_after - entry.amount
        text += Markup(" {}: {} → {}.").format(_("Balance"), money(before), money(entry.balance_after))
    if current_user.may("entry.view"):
        url = url_for("entry.receipt_view", id=operation.id)
        text += Markup(' <a href="{}">{}</a>').format(url, _("Print the slip"))
    return text
