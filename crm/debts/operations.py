"""Verbs on debts: accrue, write off by correction, write off as bad. All in one's own city only. What was written off
is owed again when its charge is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, current_scope, scoped_to
from crm.clients.models import Client
from crm.db import db
from crm.debts.queries import forgiven_of
from crm.errors import DomainError, Forbidden, NotFound, NothingToDo
from crm.i18n import money
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, Posting, check_amount, house_account, lock_accounts, post
from crm.protocol import ProtocolLine

# What bears a debt that is written off.
_AGAINST = {TransactionKind.DEBT_WRITE_OFF: AccountKind.REVENUE, TransactionKind.BAD_DEBT: AccountKind.BAD_DEBT}


def accrue_debt(account: Account, *, amount: Decimal, reason: str, by: Actor) -> Transaction:
    """Charge `amount` to a client's base account, below zero if need be. The caller commits.

    Raises DomainError beside `amount` or `reason`, "not_base" for any other account, Forbidden "foreign_city".
    """
    _check_account(account, "account.debt", by)
    if account.kind is not AccountKind.BASE:
        raise DomainError("not_base", _("A debt is accrued on the base account."))
    reason, amount = _reason(reason), check_amount(amount)
    return _post(TransactionKind.DEBT, account, -amount, AccountKind.REVENUE, reason, by)


def write_off_debt(account: Account, *, amount: Decimal, reason: str, by: Actor) -> Transaction:
    """Forgive `amount` of the debt on a base account, or on a subscription's own: what was charged is taken back from
    the revenue. It covers the oldest charges first, as a payment does. The caller commits.

    Raises as accrue_debt(), "no_debt" and "above_debt".
    """
    _check_account(account, "account.debt", by)
    return _forgive(TransactionKind.DEBT_WRITE_OFF, account, amount, _reason(reason), by)


def write_off_bad_debt(account: Account, *, amount: Decimal | None = None, comment: str = "", by: Actor) -> Transaction:
    """«Списать невозвратный долг»: a debt that will not be paid becomes a loss of the branch; the whole of it by
    default. What subscriptions on the account were unpaid is cleared with it. The caller commits.

    Raises as write_off_debt(); of two at once the second finds no debt.
    """
    _check_account(account, "account.bad_debt", by)
    return _forgive(TransactionKind.BAD_DEBT, account, amount, comment.strip(), by)


def write_off_bad_debts(account_ids: Sequence[int], *, comment: str = "", by: Actor) -> list[ProtocolLine]:
    """Write off the whole bad debt of many accounts; a refused one does not stop the rest, one without a debt is
    skipped. The caller commits.

    One line per id, in the order given, with the client and the sum; an id outside the scope says it was not found.
    """
    require(by, "account.bad_debt")
    query = select(Account).where(Account.id.in_(account_ids), Account.client_id.is_not(None)).order_by(Account.id)
    accounts = db.session.scalars(query.options(joinedload(Account.client))).all()
    for branch_id in sorted({account.branch_id for account in accounts}):
        house_account(AccountKind.BAD_DEBT, branch_id)  # all made before the first client's account is locked
    lines = {}
    for account in accounts:
        label = str(account.client or account.title)  # of merged cards one may be out of sight
        error = None
        try:
            done = write_off_bad_debt(account, comment=comment, by=by)
            label = f"{label}: {money(done.entries[0].amount)}"
        except DomainError as refused:
            error = refused
        lines[account.id] = ProtocolLine.after(account.id, label, error)
    not_found = NotFound("not_found", _("Not found"))
    return [lines.get(row_id) or ProtocolLine.after(row_id, f"#{row_id}", not_found) for row_id in account_ids]


def forgiveness_taken_back(mirrors: Sequence[Posting]) -> list[Posting]:
    """What is to be written with the mirror images of charges (ledger.reversal_of): as much of each as was forgiven is
    owed again, or it would turn into money. Of the day of the charge, whose place among the others it takes. The
    accounts are locked.
    """
    charges = {posting.reverses_id: posting for posting in mirrors if posting.reverses_id is not None}
    found = forgiven_of(list(charges))
    query = select(Transaction).where(Transaction.id.in_(found)).order_by(Transaction.id)
    postings = []
    for charge in db.session.scalars(query) if found else ():
        mirror = charges[charge.id]
        account = next(line.account for line in mirror.lines if _is_clients_money(line.account) and line.amount > 0)
        for kind, amount in found[charge.id].items():
            house = house_account(_AGAINST[kind], account.branch_id)
            postings.append(
                Posting(
                    kind,
                    [Line(account, -amount), Line(house, amount)],
                    account.branch_id,
                    f"owed-again:{charge.id}:{kind.value}",
                    mirror.cause,
                    mirror.comment,
                    charge.happened_at,
                )
            )
    return postings


def _is_clients_money(account: Account) -> bool:
    return account.unit is Unit.MONEY and not account.kind.is_house


def account_in_own_city(account_id: int) -> Account:
    """A client's account by its number, for the operations above. Raises Forbidden "foreign_city" for one in a city the
    person does not work in now, when he sees the card it belongs to (merged cards); NotFound for any other.
    """
    account = db.session.get(Account, account_id)
    if account is not None and account.client_id is not None:
        return account
    with scoped_to(EVERYWHERE):
        foreign = db.session.execute(
            select(Account.client_id, Account.branch_id).where(Account.id == account_id)
        ).one_or_none()
    if foreign is not None and db.session.scalar(select(Client.id).where(Client.id == foreign.client_id)):
        _require_own_city(foreign.branch_id)
    raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))


def _check_account(account: Account, permission: str, by: Actor) -> None:
    require(by, permission)
    _require_own_city(account.branch_id)
    require(by, permission, account)
    if account.kind not in {AccountKind.BASE, AccountKind.SUBSCRIPTION}:
        raise DomainError("not_base", _("Only a base account, or the own account of a subscription, can be in debt."))


def _require_own_city(branch_id: int) -> None:
    """Raise Forbidden unless the branch is in a city of the branches worked with now. With words, not as if the account
    did not exist: the card tells of debts in other cities.
    """
    scope = current_scope()
    if scope.branch_ids is None:
        return
    branch = db.session.get_one(Branch, branch_id)
    own = select(Branch.city_id).where(Branch.id.in_(scope.branch_ids))
    if branch.city_id not in set(db.session.scalars(own)):
        raise Forbidden(
            "foreign_city",
            _(
                "Debts are accrued and written off only in one's own city; this account is in the city of %(city)s.",
                city=branch.city.name,
            ),
        )


def _reason(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise DomainError("reason_empty", _("Enter the reason."), "reason")
    return text


def _forgive(kind: TransactionKind, account: Account, amount: Decimal | None, comment: str, by: Actor) -> Transaction:
    """Bring the account nearer to zero, never above it."""
    against = _AGAINST[kind]
    house_account(against, account.branch_id)  # made before the client's account is locked
    debt = -lock_accounts([account])[account.id]
    if debt <= 0:
        raise NothingToDo("no_debt", _("There is no debt on this account."))
    amount = debt if amount is None else check_amount(amount)
    if amount > debt:
        raise DomainError("above_debt", _("The sum is above the debt."), "amount")
    return _post(kind, account, amount, against, comment, by)


def _post(
    kind: TransactionKind, account: Account, change: Decimal, against: AccountKind, comment: str, by: Actor
) -> Transaction:
    return post(
        kind,
        [Line(account, change), Line(house_account(against, account.branch_id), -change)],
        branch_id=account.branch_id,
        by=by,
        cause=Cause(client_id=account.client_id),
        comment=comment,
    )
