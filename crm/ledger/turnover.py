"""Sums over all client accounts, of today and as of any past day, without reading millions of entries.

Entries are never changed, so what they add up to can be kept: `ledger_turnover` holds, per branch, account type and day
of the branch, the sums of all entries up to a mark. What came after the mark (the tail) is summed when somebody asks.
So totals are those of the entries themselves at any moment; the caches on accounts have no part in them.

The mark moves in one transaction with the sums, and only over entries no writer can still add to: a worker killed in
the middle leaves both where they were, two at once wait for each other. An entry counts on the day its operation
happened, whenever it was written. Rows are kept by time zone: a branch that is given another one is summed anew, and
read from its entries until that is done. An account's type never changes, and its name is not kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Date,
    and_,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from crm import clock
from crm.access.models import Branch
from crm.db import db, end_reading, give_way, reading, transaction
from crm.ledger.models import SUMMED, Account, Entry, LedgerMark, Transaction, Turnover, Unit

TAIL = 1000  # entries that are summed when asked for; with more the mark moves on
BATCH = 200_000  # entry ids of one transaction
BATCHES = 5  # of one run, for other tasks of the scheduler wait meanwhile
LOCK_MS = 200  # writers stand behind us while we wait for those before us

accounts: Any = Account.__table__
entries: Any = Entry.__table__
transactions: Any = Transaction.__table__
branches: Any = Branch.__table__
marks: Any = LedgerMark.__table__
turnover: Any = Turnover.__table__

Narrow = Callable[[Any, Any], Iterable[Any]]  # conditions on the columns of the branch and of the account type

CREDIT: Any = func.coalesce(func.sum(case((entries.c.amount > 0, entries.c.amount), else_=0)), 0)
DEBIT: Any = func.coalesce(func.sum(case((entries.c.amount < 0, -entries.c.amount), else_=0)), 0)


@dataclass(frozen=True)
class Totals:
    """Sums over some client accounts; balance = credited - debited."""

    credited: Decimal
    debited: Decimal
    balance: Decimal


# --- reading --------------------------------------------------------------------------------------------------------


def totals_of_clients(narrow: Narrow = lambda branch, account_type: (), *, as_of: date | None = None) -> Totals:
    """What all client accounts in the row scope add up to, closed ones too.

    narrow: which of them, by branch and account type (NULL for base accounts). as_of: at the end of that day, by the
    clock of each account's branch; now when None.
    """
    while True:
        mark = _mark()
        mark_now, credited, debited = db.session.execute(_totals(mark, narrow, as_of)).one()
        if mark_now == mark:  # else it moved between the two statements
            return Totals(credited=credited, debited=debited, balance=credited - debited)


def _totals(mark: int, narrow: Narrow, as_of: date | None) -> Any:
    """SELECT of the mark and the two sums, in one statement and so of one instant. The mark's value stands in it: the
    planner has to know that the tail is short.
    """
    kept = select(Turnover.credited, Turnover.debited).where(
        *narrow(Turnover.branch_id, func.nullif(Turnover.account_type_id, 0))
    )
    added = (
        select(CREDIT.label("credited"), DEBIT.label("debited"))
        .select_from(Entry)
        .join(Account, Account.id == Entry.account_id)
        .where(Account.client_id.is_not(None), Account.unit == Unit.MONEY)
        .where(*narrow(Account.branch_id, Account.account_type_id))
    )
    unsummed: Any = Entry.id > mark
    if as_of is not None:
        moved = _branches_of_another_zone()
        kept = kept.where(Turnover.day <= as_of, Turnover.branch_id.not_in(moved))
        if moved:
            unsummed = or_(unsummed, Account.branch_id.in_(moved))
        # The table, not the class: whose account it is decides who sees the entry, not where it was written.
        added = added.join(transactions, transactions.c.id == Entry.transaction_id)
        added = added.where(transactions.c.happened_at < end_of(as_of, Account.branch_id))
    both = union_all(kept, added.where(unsummed)).subquery()
    money = Account.balance.type
    mark_now = select(LedgerMark.at).where(LedgerMark.name == SUMMED).scalar_subquery()
    sums = (func.coalesce(func.sum(part), 0, type_=money) for part in (both.c.credited, both.c.debited))
    return select(mark_now, *sums).select_from(both)


def opened_by(day: date) -> Any:
    """SQL: accounts that were there at the end of a day of their branch."""
    # The first of both is for the index: nowhere does a day end later.
    latest = datetime.combine(day + timedelta(days=1), time(12), UTC)
    return and_(Account.opened_at < latest, Account.opened_at < end_of(day, Account.branch_id))


def sums_of_account(day: date) -> dict[str, Any]:
    """SQL, correlated to Account: its balance, credited and debited at the end of a day of its branch."""
    sums = {"balance": func.coalesce(func.sum(entries.c.amount), 0), "credited": CREDIT, "debited": DEBIT}
    return {name: _of_account(total, day).scalar_subquery() for name, total in sums.items()}


def last_movement(day: date | None) -> Any:
    """SQL, correlated to Account: when its newest entry happened, of those until the end of a day of its branch."""
    newest = _of_account(transactions.c.happened_at, day).order_by(entries.c.id.desc()).limit(1)
    return newest.scalar_subquery()


def _of_account(value: Any, day: date | None) -> Any:
    query = (
        select(value)
        .select_from(entries)
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .where(entries.c.account_id == Account.id)
        .correlate(Account)
    )
    return query if day is None else query.where(transactions.c.happened_at < end_of(day, Account.branch_id))


def end_of(day: date, branch_id: Any) -> Any:
    """SQL: the instant at which a day ends in a branch, given by the column with its id."""
    moment = transactions.c.happened_at.type
    ends: dict[Any, list[int]] = {}
    for branch in db.session.execute(select(branches.c.id, branches.c.time_zone)):
        ends.setdefault(clock.at(day + timedelta(days=1), time.min, branch), []).append(branch.id)
    if len(ends) == 1:
        return literal(next(iter(ends)), moment)
    return case(*((branch_id.in_(ids), literal(end, moment)) for end, ids in ends.items()))


def _mark() -> int:
    return db.session.scalar(select(LedgerMark.at).where(LedgerMark.name == SUMMED)) or 0


def _branches_of_another_zone() -> list[int]:
    """Branches whose sums were kept by the days of a time zone they have no more."""
    query = (
        select(turnover.c.branch_id)
        .join(branches, branches.c.id == turnover.c.branch_id)
        .where(turnover.c.time_zone != branches.c.time_zone)
        .distinct()
    )
    return list(db.session.scalars(query))


# --- keeping it -----------------------------------------------------------------------------------------------------


def keep_turnover(*, tail: int = TAIL) -> int:
    """Sum up what came after the mark, if it is more than `tail` entries, and branches whose time zone was changed; how
    many ids the mark moved over.

    Does a part of very much (BATCHES), and nothing while writers are in the way: it is called again in a minute.
    Commits by itself.
    """
    with reading():
        began = _mark()
        last = db.session.scalar(select(func.max(Entry.id))) or 0
        moved = _branches_of_another_zone()
        end_reading()
    for branch_id in moved:
        with transaction():
            _sum_anew(branch_id)
    if last - began <= tail or (until := _settled_until()) is None:
        return 0
    for _number in range(BATCHES):
        with transaction():
            mark = _hold_mark()
            if mark >= until:
                return mark - began
            following = min(until, mark + BATCH)
            _add(entries.c.id > mark, entries.c.id <= following)
            db.session.connection().execute(update(marks).where(marks.c.name == SUMMED).values(at=following))
        give_way()
    return following - began


def sum_up_anew() -> None:
    """Forget all sums; keep_turnover() makes them again. The caller commits."""
    _hold_mark()
    connection = db.session.connection()
    connection.execute(delete(turnover))
    connection.execute(update(marks).where(marks.c.name == SUMMED).values(at=0))


def _settled_until() -> int | None:
    """The last entry id such that all entries up to it are there to be seen. None when writers take too long.

    An id is given out before its entry is committed, so on PostgreSQL the entry with the highest id in sight need not
    be the last of those below it. Whoever holds this lock has waited for every writer.
    """
    try:
        with transaction():
            connection = db.session.connection()
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
                connection.execute(text("LOCK TABLE ledger_entry IN SHARE MODE"))
            return connection.scalar(select(func.coalesce(func.max(entries.c.id), 0)))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
            return None
        raise


def _hold_mark() -> int:
    """The mark, ours until the transaction ends."""
    query = select(marks.c.at).where(marks.c.name == SUMMED).with_for_update()
    return db.session.connection().scalars(query).one()


def _sum_anew(branch_id: int) -> None:
    mark = _hold_mark()
    db.session.connection().execute(delete(turnover).where(turnover.c.branch_id == branch_id))
    _add(accounts.c.branch_id == branch_id, entries.c.id <= mark)


def _add(*conditions: Any) -> None:
    """Add entries to the sums."""
    connection = db.session.connection()
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    columns = ["branch_id", "account_type_id", "time_zone", "day", "credited", "debited"]
    new = upsert(turnover).from_select(columns, _by_day(*conditions))
    connection.execute(
        new.on_conflict_do_update(
            index_elements=columns[:4],
            set_={name: turnover.c[name] + new.excluded[name] for name in columns[4:]},
        )
    )


def _by_day(*conditions: Any) -> Any:
    """SELECT of entries of client accounts, summed as Turnover has them."""
    kind = func.coalesce(accounts.c.account_type_id, 0).label("account_type_id")
    day = _local_day(transactions.c.happened_at, branches.c.time_zone).label("day")
    return (
        select(accounts.c.branch_id, kind, branches.c.time_zone, day, CREDIT.label("credited"), DEBIT.label("debited"))
        .select_from(entries)
        .join(accounts, accounts.c.id == entries.c.account_id)
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .join(branches, branches.c.id == accounts.c.branch_id)
        .where(accounts.c.client_id.is_not(None), accounts.c.unit == Unit.MONEY, *conditions)
        .group_by(accounts.c.branch_id, kind, branches.c.time_zone, day)
    )


def _local_day(instant: Any, time_zone: Any) -> Any:
    if db.engine.dialect.name == "postgresql":
        return cast(func.timezone(time_zone, instant), Date)
    return func.local_day(instant, time_zone, type_=Date)  # db.configure_engine


# --- proving it -----------------------------------------------------------------------------------------------------


def wrong_sums() -> Sequence[Any]:
    """Sums that are not those of their entries, as rows (branch_id, account_type_id, day, credited, debited) of what
    they are off by. Branches that are to be summed anew are left out.
    """
    names = ("branch_id", "account_type_id", "day")
    summed = _by_day(entries.c.id <= _mark()).subquery()
    both = union_all(
        select(*(turnover.c[name] for name in names), turnover.c.credited, turnover.c.debited),
        select(*(summed.c[name] for name in names), -summed.c.credited, -summed.c.debited),
    ).subquery()
    credited, debited = func.sum(both.c.credited), func.sum(both.c.debited)
    query = (
        select(*(both.c[name] for name in names), credited.label("credited"), debited.label("debited"))
        .where(both.c.branch_id.not_in(_branches_of_another_zone()))
        .group_by(*(both.c[name] for name in names))
        .having(or_(credited != 0, debited != 0))
    )
    return db.session.connection().execute(query).all()
