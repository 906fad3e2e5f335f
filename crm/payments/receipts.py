"""What an operation moved, in words, and its slip for the client."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask_babel import get_locale, pgettext
from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import contains_eager, joinedload

from crm.access.actors import author_shown
from crm.access.models import Company
from crm.db import db
from crm.errors import NotFound
from crm.i18n import moment, money
from crm.ledger.history import AccountOperation
from crm.ledger.models import Account, AccountKind, Entry, Unit
from crm.subscriptions.models import Subscription
from crm.tills.models import Till


@dataclass(frozen=True)
class Move:
    """What an operation did to one account. amount: as people count it, + for what came: to a client's account, into a
    till, as income. before, after: of client accounts only.
    """

    account: Account
    title: str
    verb: str
    amount: Decimal
    before: Decimal | None
    after: Decimal | None

    @property
    def is_money(self) -> bool:
        return self.account.unit is Unit.MONEY


def moves_of(transaction_id: int) -> list[Move]:
    """The accounts in sight that an operation moved: the client's first, then where the money came from or went to."""
    entries = db.session.scalars(
        select(Entry)
        .join(Entry.account)
        .where(Entry.transaction_id == transaction_id)
        .options(contains_eager(Entry.account).joinedload(Account.client))
        .order_by(Account.client_id.is_(None), Account.unit != Unit.MONEY, Entry.id)
    ).unique()
    tills = {
        till.account_id: till.title
        for till in db.session.scalars(
            select(Till).join(Entry, Entry.account_id == Till.account_id).where(Entry.transaction_id == transaction_id)
        )
    }
    return [_move(entry, tills) for entry in entries]


def _move(entry: Entry, tills: dict[int, str]) -> Move:
    account = entry.account
    # What is in a till is the negated sum of its entries.
    amount = -entry.amount if account.kind.is_till else entry.amount
    before = None if entry.balance_after is None else entry.balance_after - entry.amount
    title = tills.get(account.id) or account.title
    return Move(account, title, _verb(account, is_plus=amount > 0), amount, before, entry.balance_after)


def _verb(account: Account, *, is_plus: bool) -> str:
    """What happened to the account, in a word."""
    if account.unit is not Unit.MONEY:
        return pgettext("entry", "Lessons given") if is_plus else pgettext("entry", "Lessons taken back")
    if account.client_id is not None:
        return pgettext("entry", "Credited") if is_plus else pgettext("entry", "Written off")
    if account.kind.is_till:
        return pgettext("entry", "Taken in") if is_plus else pgettext("entry", "Given out")
    if account.kind is AccountKind.OPENING:
        return _("Brought over from before")
    if account.kind is AccountKind.SETTLEMENT:
        return _("Owed to another branch") if is_plus else _("Owed by another branch")
    return pgettext("entry", "Income") if is_plus else pgettext("entry", "Expense")


@dataclass(frozen=True)
class Receipt:
    """A slip: title is also the name of its file, data what templates/pdf/receipt.typ prints (texts alone)."""

    title: str
    data: dict[str, Any]


def receipt_of(transaction_id: int, *, hidden: Collection[str] = ()) -> Receipt:
    """The slip of an operation on client accounts in sight. hidden: "amount", "balance_after" are left out.

    Raises NotFound when no account of it is in sight.
    """
    query = (
        select(AccountOperation)
        .where(AccountOperation.transaction_id == transaction_id)
        .options(
            joinedload(AccountOperation.client),
            joinedload(AccountOperation.bill),
            joinedload(AccountOperation.subscription).joinedload(Subscription.plan),
            joinedload(AccountOperation.visit),
            joinedload(AccountOperation.payment),
        )
        .order_by(AccountOperation.id)
    )
    rows = list(db.session.scalars(query).unique())
    if not rows:
        raise NotFound("not_found", _("The operation was not found in this branch."))
    first, company = rows[0], rows[0].branch.company
    title = _("Receipt No. %(number)s", number=transaction_id)
    data = {
        "lang": str(get_locale() or "ru")[:2],
        "title": title,
        "company": company.legal_name or company.name,
        "place": _place(first, company),
        "marks": _marks(first),
        "facts": _facts(first),
        "accounts": [_account(row, company.currency, hidden) for row in rows],
        "comment": first.comment,
        "labels": {
            "comment": _("Comment"),
            "signatures": [_("Cashier"), _("Client")],
            "note": _("Not a fiscal receipt."),
        },
    }
    return Receipt(title, data)


def _place(row: AccountOperation, company: Company) -> list[str]:
    inn = _("INN %(inn)s", inn=company.inn) if company.inn else ""
    branch = ", ".join(part for part in (row.branch.city.name, row.branch.name, row.branch.address) if part)
    return [line for line in (inn, branch) if line]


def _marks(row: AccountOperation) -> list[str]:
    marks = []
    if row.reversed_by_id is not None:
        marks.append(_("Cancelled by operation No. %(number)s", number=row.reversed_by_id))
    if row.reverses_id is not None:
        marks.append(_("Corrects operation No. %(number)s", number=row.reverses_id))
    return marks


def _facts(row: AccountOperation) -> list[tuple[str, str]]:
    method = row.payment.method.label if row.payment is not None else _tills_of(row.transaction_id)
    found = {
        _("Date"): moment(row.happened_at, row.branch.time_zone),
        _("Operation"): row.kind.label,
        _("Way of payment"): method,
        _("What it was for"): ", ".join(map(str, row.purpose)),
        _("Employee"): row.employee or "",
        _("Author of the operation"): author_shown(row.author_name),
    }
    return [(name, str(value)) for name, value in found.items() if value]


def _tills_of(transaction_id: int) -> str:
    """Where the money of an operation without a payment came from or went to: a refund out of the cash desk."""
    return ", ".join(move.title for move in moves_of(transaction_id) if move.account.kind.is_till)


def _account(row: AccountOperation, currency: str, hidden: Collection[str]) -> dict[str, Any]:
    # The card may have been merged into one of a branch out of sight: the account stays here.
    facts = [(_("Payer"), row.client.shown_name)] if row.client is not None else []
    if "amount" not in hidden:
        verb = _verb(row.account, is_plus=row.amount > 0)
        facts.append((verb, money(abs(row.amount), currency)))
    if not {"amount", "balance_after"} & {*hidden}:
        facts.append((_("Balance before"), money(row.balance_after - row.amount, currency)))
        facts.append((_("Balance after"), money(row.balance_after, currency)))
    return {"title": row.account.title, "facts": facts}
