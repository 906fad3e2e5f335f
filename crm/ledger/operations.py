"""post() and reverse(): the only writers of money, lessons and bonuses. Account opening."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, cast

from flask_babel import gettext as _
from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import make_transient_to_detached

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Employee
from crm.access.scope import current_scope
from crm.audit.bulk import Change
from crm.db import MAX_AMOUNT, Money, db
from crm.db import amount as to_amount
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.fields.operations import custom_change, set_custom
from crm.ledger.models import Account, AccountKind, AccountType, Entry, Transaction, TransactionKind, Unit


@dataclass(frozen=True)
class Line:
    """One entry to be: a signed amount for an account. Two decimals; see the sign rule in ledger/__init__."""

    account: Account
    amount: Decimal


@dataclass(frozen=True)
class Cause:
    """What a transaction is linked to."""

    client_id: int | None = None
    payment_id: int | None = None
    bill_id: int | None = None
    subscription_id: int | None = None
    visit_id: int | None = None
    lesson_id: int | None = None
    employee_id: int | None = None


NO_CAUSE = Cause()
ZERO = Decimal(0)


@dataclass(frozen=True)
class Posting:
    """A transaction to be, as post() takes it.

    key: the idempotency key; reverses_id: the transaction it is the mirror image of.
    """

    kind: TransactionKind
    lines: Sequence[Line]
    branch_id: int
    key: str
    cause: Cause = NO_CAUSE
    comment: str = ""
    happened_at: datetime | None = None
    reverses_id: int | None = None


def check_amount(amount: Decimal, *, field: str = "amount") -> Decimal:
    """The sum of one operation: above zero and not above MAX_AMOUNT. Raises DomainError beside `field`."""
    amount = to_amount(amount)
    if not 0 < amount <= MAX_AMOUNT:
        raise DomainError("amount_invalid", _("Enter a sum above zero and not above 100 000 000."), field)
    return amount


def post(
    kind: TransactionKind,
    lines: Sequence[Line],
    *,
    branch_id: int,
    by: Actor,
    key: str | None = None,
    cause: Cause = NO_CAUSE,
    comment: str = "",
    happened_at: datetime | None = None,
    reverses: Transaction | None = None,
) -> Transaction:
    """Write one balanced transaction and move the cached balances of client accounts with it.

    key: idempotency key; a second post() with the same key returns the first transaction and changes nothing.
    Lines over several branches are completed by settlements(), so that the books of each branch balance by themselves.
    Raises DomainError "not_enough" when a deposit would fall below zero, "account_closed" when an account is closed,
    Conflict "already_reversed", ValueError when lines do not balance. Whoever goes on after a refusal has written
    nothing. The caller commits.
    """
    key = key or f"once:{uuid.uuid4()}"
    reverses_id = reverses.id if reverses else None
    try:
        return write([Posting(kind, lines, branch_id, key, cause, comment, happened_at, reverses_id)], by=by)[0]
    except DomainError:
        # Done before, whatever has become of the accounts since; or just now, by the winner of a race for the key.
        if existing := transaction_by_key(key):
            return existing
        if reverses is not None and is_reversed(reverses):
            raise Conflict("already_reversed", _("This operation has already been reversed.")) from None
        raise


def write(postings: Sequence[Posting], *, by: Actor) -> list[Transaction]:
    """Lock, check, insert and move the caches: four statements for any number of transactions.

    Raises as post() does, and Conflict "posted_already" when a key is taken or a transaction reversed already: of
    several transactions some may have been written then, so the caller rolls back.
    """
    scope = current_scope()
    for posting in postings:
        _check_balanced(posting.lines)
        if not all(map(scope.covers, {posting.branch_id, *(line.account.branch_id for line in posting.lines)})):
            raise NotFound("not_found", _("The account was not found in this branch."))
        if posting.happened_at is not None:
            _open_by(posting.happened_at, posting.lines)
    lines = [[*posting.lines, *settlements(posting.lines)] for posting in postings]
    every_line = [line for of_one in lines for line in of_one]
    balances = iter(_balances_after(every_line, lock_accounts([line.account for line in every_line])))
    connection = db.session.connection()
    written = _insert_transactions(postings, by, connection)
    entries = [
        {
            "transaction_id": transaction.id,
            "account_id": line.account.id,
            "amount": line.amount,
            "balance_after": next(balances),
        }
        for transaction, of_one in zip(written, lines, strict=True)
        for line in of_one
    ]
    _move_caches(every_line, connection)
    connection.execute(_INSERT_ENTRY, entries)
    return written


def _open_by(moment: datetime, lines: Iterable[Line]) -> None:
    """An account is there from its first entry on: what is posted for a day before may open it earlier."""
    for account in {line.account for line in lines}:
        if account.client_id is not None and account.opened_at > moment:
            account.opened_at = moment


def _insert_transactions(postings: Sequence[Posting], by: Actor, connection: Connection) -> list[Transaction]:
    now, author_name = clock.now(), str(by.name)
    rows = [
        {
            "kind": posting.kind,
            "happened_at": posting.happened_at or now,
            "branch_id": posting.branch_id,
            "author_id": by.id,
            "author_name": author_name,
            "comment": posting.comment,
            "idempotency_key": posting.key,
            "reverses_id": posting.reverses_id,
            **vars(posting.cause),
        }
        for posting in postings
    ]
    ids = {key: id for id, key in connection.execute(_insert_transaction(connection.dialect.name), rows)}
    if len(ids) < len(rows):
        raise Conflict("posted_already", _("This operation has been carried out already."))
    return [_loaded(Transaction(id=ids[row["idempotency_key"]], **row)) for row in rows]


def _loaded(row: Transaction) -> Transaction:
    """A row that has just been inserted, in the session as if it had been read."""
    make_transient_to_detached(row)
    db.session.add(row)
    return row


@cache
def _insert_transaction(dialect: str) -> Any:
    """INSERT that passes over keys and reversals the database has: it has waited for whoever was writing them."""
    insert_ = postgresql.insert if dialect == "postgresql" else sqlite.insert
    table: Any = Transaction.__table__
    return insert_(table).on_conflict_do_nothing().returning(table.c.id, table.c.idempotency_key)


def _move_caches(lines: Iterable[Line], connection: Connection) -> None:
    """Add the lines to the cached balances of their (locked) client accounts."""
    moved: dict[Account, list[Decimal]] = defaultdict(list)
    for line in lines:
        if not line.account.kind.is_house:
            moved[line.account].append(line.amount)
    if not moved:
        return
    changes = [
        {
            "at": account.id,
            "credit": sum((amount for amount in amounts if amount > 0), ZERO),
            "debit": sum((-amount for amount in amounts if amount < 0), ZERO),
        }
        for account, amounts in moved.items()
    ]
    connection.execute(_MOVE_CACHES, changes)
    for account in moved:
        db.session.expire(account, ["balance", "credited", "debited"])


# By kind of transaction: what rests on it and is to know of its reversal, in the same database transaction. Domains
# above the ledger enter themselves, as fn(reversed transaction, by).
AFTER_REVERSAL: dict[TransactionKind, Callable[[Transaction, Actor], None]] = {}


def reverse(transaction: Transaction, *, by: Actor, comment: str) -> Transaction:
    """Undo `transaction` by its mirror image. Raises Conflict when it has been reversed already. The caller commits.

    What stood on an account that a merge of cards has emptied is reversed on its heir.
    """
    posting = reversal_of(transaction, comment=comment)
    mirror = post(
        posting.kind,
        posting.lines,
        branch_id=posting.branch_id,
        by=by,
        cause=posting.cause,
        comment=comment,
        reverses=transaction,
    )
    if told := AFTER_REVERSAL.get(transaction.kind):
        told(transaction, by)
    return mirror


def reversal_of(transaction: Transaction, *, comment: str) -> Posting:
    """The mirror image of a transaction, to be written with others; reverse() tells as well who rests on it. Raises
    DomainError "is_reversal", "one_account", Forbidden "foreign_branch" when one of the accounts is out of sight.
    """
    if transaction.reverses_id is not None:
        raise DomainError("is_reversal", _("A reversal cannot be reversed; repeat the operation instead."))
    if any(cast(Any, entry.account) is None for entry in transaction.entries):
        raise Forbidden("foreign_branch", _("An account of another branch takes part in this operation."))
    lines = [Line(heir_of(entry.account), -entry.amount) for entry in transaction.entries]
    if len({line.account for line in lines}) < 2:
        raise DomainError("one_account", _("Both accounts of this operation are one by now: nothing to reverse."))
    return Posting(
        TransactionKind.REVERSAL,
        lines,
        transaction.branch_id,
        f"reversal:{transaction.id}",
        Cause(**{field.name: getattr(transaction, field.name) for field in fields(Cause)}),
        comment,
        reverses_id=transaction.id,
    )


def transaction_by_key(key: str) -> Transaction | None:
    """The transaction posted under an idempotency key."""
    return db.session.scalar(select(Transaction).where(Transaction.idempotency_key == key))


def is_reversed(transaction: Transaction) -> bool:
    """Whether there is its mirror image."""
    return db.session.scalar(select(Transaction.id).where(Transaction.reverses_id == transaction.id)) is not None


def _check_balanced(lines: Sequence[Line]) -> None:
    sums: dict[Unit, Decimal] = defaultdict(Decimal)
    for line in lines:
        if isinstance(line.amount, float):
            raise TypeError("amounts are Decimal, never float")
        if to_amount(line.amount) != line.amount or not line.amount:
            raise ValueError(f"{line.amount} is not a non-zero amount of two decimals")
        if line.account.unit is not Unit.MONEY and line.amount != int(line.amount):
            raise ValueError(f"{line.account.unit.value} are counted in whole numbers, not {line.amount}")
        sums[line.account.unit] += line.amount
    if len({line.account for line in lines}) < 2 or any(sums.values()):
        raise ValueError("entries of two accounts or more must sum to zero per unit")


def settlements(lines: Sequence[Line]) -> list[Line]:
    """What completes lines over several branches: the branch that gained owes it to the one that lost. None for one
    branch.
    """
    if len({line.account.branch_id for line in lines}) < 2:
        return []
    sums: dict[tuple[int, Unit], Decimal] = defaultdict(Decimal)
    for line in lines:
        sums[line.account.branch_id, line.account.unit] += line.amount
    return [
        Line(house_account(AccountKind.SETTLEMENT, branch_id, unit), -total)
        for (branch_id, unit), total in sorted(sums.items())
        if total
    ]


def _balances_after(lines: Sequence[Line], locked: dict[int, Decimal]) -> list[Decimal | None]:
    """What each line leaves on its account, None for house accounts. Raises "not_enough" before anything is written:
    a caller that goes on with its next row leaves no transaction without entries behind.
    """
    running, balances = dict(locked), list[Decimal | None]()
    for line in lines:
        account = line.account
        if account.id not in running:
            balances.append(None)
            continue
        after = running[account.id] = running[account.id] + line.amount
        if after < 0 and line.amount < 0 and not account.kind.may_be_negative:
            raise DomainError("not_enough", not_enough_on(account), "amount")
        balances.append(after)
    return balances


def lock_accounts(accounts: Sequence[Account]) -> dict[int, Decimal]:
    """Lock the client accounts in id order; their balances by id. House accounts are never locked: no hot row.

    FOR NO KEY UPDATE: rows that merely point at the account (a payment being started) need not wait, and so cannot
    close a circle of waits with the one that credits it.
    """
    db.session.flush()
    ids = sorted({account.id for account in accounts if not account.kind.is_house})
    if not ids:
        return {}
    connection = db.session.connection()
    rows = connection.execute(_lock(connection.dialect.name), {"ids": ids}).all()
    if len(rows) != len(ids) or not all(current_scope().covers(row.branch_id) for row in rows):
        raise NotFound("not_found", _("The account was not found in this branch."))
    if closed := {row.id for row in rows if row.closed_at is not None}:
        account = next(account for account in accounts if account.id in closed)
        raise DomainError("account_closed", closed_text(account), "account")
    return {row.id: row.balance for row in rows}


def lock_funds(account: Account, amount: Decimal, *others: Account, field: str = "amount") -> None:
    """Lock the accounts in id order, and make sure that `amount` is on `account`.

    For money that is given away: a base account falls below zero by what was sold, never by what was handed out.
    Raises DomainError "not_enough" beside `field`.
    """
    if lock_accounts([account, *others])[account.id] < amount:
        raise DomainError("not_enough", not_enough_on(account), field)


def closed_text(account: Account) -> str:
    return _("The account “%(account)s” is closed.", account=account.title)


def not_enough_on(account: Account) -> str:
    if account.unit is Unit.LESSON:
        return _("Not enough lessons left.")
    return _("Not enough money on the account “%(account)s”.", account=account.title)


@cache
def _lock(dialect: str) -> Any:
    """SELECT of client accounts that locks them.

    On PostgreSQL it lets plans be kept for the rest of the transaction: those of post() and of its triggers suit every
    value, and making them anew, as connections are told to for the sake of searches (db.engine_options), takes longer
    than all the rest.
    """
    columns = [_ACCOUNT.c.id, _ACCOUNT.c.branch_id, _ACCOUNT.c.balance, _ACCOUNT.c.closed_at]
    if dialect == "postgresql":
        columns.append(func.set_config("plan_cache_mode", "auto", True))
    found = select(*columns).where(_ACCOUNT.c.id.in_(bindparam("ids", expanding=True)))
    return found.order_by(_ACCOUNT.c.id).with_for_update(key_share=True)


# Statements of post() are built once: making one costs as much as running it.
_ACCOUNT: Any = Account.__table__
_CREDIT, _DEBIT = bindparam("credit", type_=Money), bindparam("debit", type_=Money)
_MOVE_CACHES = (
    update(_ACCOUNT)
    .where(_ACCOUNT.c.id == bindparam("at"))
    .values(
        balance=_ACCOUNT.c.balance + _CREDIT - _DEBIT,
        credited=_ACCOUNT.c.credited + _CREDIT,
        debited=_ACCOUNT.c.debited + _DEBIT,
    )
)
# With RETURNING the rows go in one statement, not one by one.
_INSERT_ENTRY = insert(cast(Any, Entry.__table__)).returning(Entry.__table__.c.id)


# --- accounts -------------------------------------------------------------------------------------------------------


def house_account(kind: AccountKind, branch_id: int, unit: Unit = Unit.MONEY) -> Account:
    """The branch's own account of `kind`, made at its first use."""
    return _found_or_made(kind=kind, unit=unit, branch_id=branch_id, client_id=None)


def base_account(client_id: int, branch_id: int) -> Account:
    """The client's base money account in the branch, made at its first use. Of merged cards several may be open, each
    in a branch of its own.
    """
    return _found_or_made(kind=AccountKind.BASE, unit=Unit.MONEY, branch_id=branch_id, client_id=client_id)


def lessons_account(client_id: int, branch_id: int, lesson_type_id: int | None = None) -> Account:
    """The client's lessons of a type that belong to no subscription (added by hand, transferred to him); without a type
    those brought from another system, good for any. Made at its first use.
    """
    return _found_or_made(
        kind=AccountKind.LESSONS,
        unit=Unit.LESSON,
        branch_id=branch_id,
        client_id=client_id,
        lesson_type_id=lesson_type_id,
    )


def subscription_account(kind: AccountKind, subscription_id: int, client_id: int, branch_id: int) -> Account:
    """What is kept of one subscription, made at its first use. LESSONS: those left, of who attends; SUBSCRIPTION: the
    money of one that has an account of its own, of who pays (client_id).
    """
    unit = Unit.LESSON if kind is AccountKind.LESSONS else Unit.MONEY
    made = {"branch_id": branch_id, "client_id": client_id}
    return _found_or_made(kind=kind, unit=unit, subscription_id=subscription_id, made=made)


def heir_of(account: Account) -> Account:
    """The account itself; of a closed base or lessons account the client's open one of its kind in the branch, where
    there is one: a merge of cards has emptied it into that.
    """
    if not account.is_closed or account.kind not in {AccountKind.BASE, AccountKind.LESSONS}:
        return account
    open_one = select(Account).where(
        Account.kind == account.kind,
        Account.client_id == account.client_id,
        Account.branch_id == account.branch_id,
        Account.subscription_id.is_(None),
        Account.lesson_type_id.is_not_distinct_from(account.lesson_type_id),
        Account.closed_at.is_(None),
    )
    return db.session.scalar(open_one) or account


def _found_or_made(*, made: Mapping[str, Any] | None = None, **facts: Any) -> Account:
    """The open account with these facts, which no other has; `made`: what else a new one gets."""
    key = {"client_id": None, "subscription_id": None, "lesson_type_id": None} if made is None else {}
    wanted = {**key, **facts}
    query = select(Account).where(
        *(getattr(Account, name) == value for name, value in wanted.items()),
        Account.closed_at.is_(None),
    )
    if found := db.session.scalar(query):
        return found
    account = Account(**wanted, **(made or {}), opened_at=clock.now())
    try:
        with db.session.begin_nested():
            db.session.add(account)
            db.session.flush()
    except IntegrityError:
        if found := db.session.scalar(query):
            return found  # somebody made it first
        raise NotFound("not_found", _("The account was not found in this branch.")) from None
    return account


def create_account_type(
    *, name: str, branches: list[Branch], by: Actor, position: int | None = None, is_archived: bool = False
) -> AccountType:
    """Add a kind of deposit to branches in scope. Raises DomainError by `name` or `branches`. The caller commits."""
    require(by, "accounttype.create")
    account_type = AccountType()
    _require_covered(branches)
    _fill_account_type(account_type, name, branches, position, is_archived)
    db.session.add(account_type)
    db.session.flush()
    return account_type


def change_account_type(
    account_type: AccountType,
    *,
    name: str,
    branches: list[Branch],
    by: Actor,
    position: int | None = None,
    is_archived: bool = False,
) -> AccountType:
    """Change a kind of deposit; accounts already opened stay. The caller commits.

    Within the scope branches come and go; what all branches share (name, order, archive) is changed by those alone who
    see every branch that offers the type. Raises Forbidden beside the field.
    """
    require(by, "accounttype.edit")
    _require_covered({*account_type.branches} ^ {*branches})
    if not all(current_scope().covers(branch.id) for branch in account_type.branches):
        shared = {"name": " ".join(name.split()), "position": position or 0, "is_archived": is_archived}
        for field, value in shared.items():
            if value != getattr(account_type, field):
                raise Forbidden(
                    "type_shared",
                    _("Branches you do not see offer this type too: only the list of yours changes."),
                    field,
                )
    _fill_account_type(account_type, name, branches, position, is_archived)
    account_type.version += 1  # by itself it would not notice branches: their table is another
    db.session.flush()
    return account_type


def _require_covered(branches: Iterable[Branch]) -> None:
    if not all(current_scope().covers(branch.id) for branch in branches):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branches")


def _fill_account_type(
    account_type: AccountType, name: str, branches: list[Branch], position: int | None, is_archived: bool
) -> None:
    name = " ".join(name.split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if not branches:
        raise DomainError("branches_empty", _("Choose the branches where this type is available."), "branches")
    with db.session.no_autoflush:
        taken = db.session.scalar(
            select(AccountType.id).where(AccountType.name == name, AccountType.id != (account_type.id or 0))
        )
    if taken:
        raise DomainError("name_taken", _("An account type with this name already exists."), "name")
    account_type.name, account_type.branches = name, branches
    account_type.position, account_type.is_archived = position or 0, is_archived


def account_types_in(branch: Branch) -> list[AccountType]:
    """The account types offered in a branch, in their order."""
    query = (
        select(AccountType)
        .where(AccountType.branches.any(Branch.id == branch.id), AccountType.is_archived.is_(False))
        .order_by(AccountType.position, AccountType.name)
    )
    return list(db.session.scalars(query))


def open_account(
    *,
    client_id: int,
    account_type: AccountType,
    branch: Branch | None,
    by: Actor,
    employee: Employee | None = None,
    opened_at: datetime | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Account:
    """Open a deposit of `account_type` for a client at zero; payments.operations.top_up puts the money in.

    branch: the branch the person works in, None in the network interface, where accounts cannot be opened.
    opened_at: now, unless the account was opened elsewhere before (imports). custom: values of the company's own
    fields, by key. The caller commits.
    """
    if branch is None:
        raise DomainError("branch_required", _("An account can be opened only in a branch. Choose a branch first."))
    require(by, "account.open", None)
    if not current_scope().covers(branch.id):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    if account_type.is_archived or branch not in account_type.branches:
        raise DomainError("type_unavailable", _("This account type is not available in this branch."), "account_type")
    if employee is not None and (employee.branch_id != branch.id or not employee.is_active):
        raise DomainError("employee_unavailable", _("This employee does not work in this branch."), "employee")
    account = Account(
        kind=AccountKind.DEPOSIT,
        unit=Unit.MONEY,
        branch_id=branch.id,
        client_id=client_id,
        account_type=account_type,
        employee=employee,
        author_id=by.id,
        opened_at=opened_at or clock.now(),
    )
    set_custom(account, custom or {})
    db.session.add(account)
    db.session.flush()
    return account


def changing_accounts(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many accounts' `custom.<key>`: all of an account that is ever changed by hand."""
    require(by, "account.edit")
    own, refusals = custom_change(Account, values)
    if foreign := set(values) - set(own):
        raise ValueError(f"accounts are not changed in {', '.join(sorted(foreign))}")
    names = {found.id: found.name for found in db.session.scalars(select(AccountType))}
    label = (
        (Account.account_type_id, Account.kind),
        lambda type_id, kind: names.get(type_id) or str(kind.label),
    )
    return Change(Account, own, refusals, label)
