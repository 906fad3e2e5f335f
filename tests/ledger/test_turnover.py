"""Totals over all client accounts: those of the entries, however much of them is summed up already."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, Scope, scoped_to
from crm.db import db, transaction
from crm.jobs.schedule import SCHEDULE
from crm.jobs.tasks import perform
from crm.ledger import turnover
from crm.ledger.models import SUMMED, Account, AccountKind, Entry, LedgerMark, TransactionKind, Turnover
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post
from crm.ledger.queries import check_ledger
from crm.ledger.turnover import Totals, keep_turnover, sum_up_anew, totals_of_clients
from tests.factories import Network, make_account, make_account_type, make_client

NOON = datetime(2026, 3, 10, 9, 0, tzinfo=UTC)


def move(account: Account, amount: Decimal | int | str, at: datetime | None = None) -> None:
    """Cash onto `account`, or off it, at a moment."""
    cash = house_account(AccountKind.CASH, account.branch_id)
    lines = [Line(account, Decimal(amount)), Line(cash, -Decimal(amount))]
    with transaction():
        post(TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM, happened_at=at)


def sums(totals: Totals) -> tuple[Decimal, Decimal, Decimal]:
    return totals.credited, totals.debited, totals.balance


def mark() -> int:
    return db.session.scalars(select(LedgerMark.at).where(LedgerMark.name == SUMMED)).one()


@pytest.fixture(params=["tail", "summed", "half"])
def summing(request: Any) -> Callable[[], None]:
    """What has been summed up by the time somebody asks: nothing, all, or the first half of it."""

    left = {"tail": 0, "half": 1, "summed": 99}[request.param]

    def sum_up() -> None:
        nonlocal left
        if left:
            keep_turnover(tail=0)
            left -= 1

    return sum_up


@pytest.mark.spec("A36", "W7")
def test_totals_are_those_of_the_entries(network: Network, summing: Callable[[], None]) -> None:
    one = make_account(make_client(network.lesnoy), balance=Decimal("1000.10"))
    summing()
    move(one, "-300.05")
    base = base_account(make_client(network.mira).id, network.mira.id)
    move(base, "-0.01")
    summing()
    assert sums(totals_of_clients()) == (Decimal("1000.10"), Decimal("300.06"), Decimal("700.04"))
    assert check_ledger() == []


def test_nothing_posted_adds_up_to_nothing(network: Network) -> None:
    assert keep_turnover(tail=0) == 0
    assert sums(totals_of_clients()) == (0, 0, 0)
    assert sums(totals_of_clients(as_of=date(2020, 1, 1))) == (0, 0, 0)


def test_money_of_clients_alone_counts(network: Network, summing: Callable[[], None]) -> None:
    client = make_client(network.lesnoy)
    lessons = lessons_account(client.id, network.lesnoy.id)
    granted = house_account(AccountKind.SERVICE, network.lesnoy.id, lessons.unit)
    with transaction():
        lines = [Line(lessons, Decimal(8)), Line(granted, Decimal(-8))]
        post(TransactionKind.SALE, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    summing()
    assert sums(totals_of_clients()) == (0, 0, 0)


def test_billions_are_added_up_to_the_kopeck(network: Network, summing: Callable[[], None]) -> None:
    account = make_account(make_client(network.lesnoy))
    for _number in range(3):
        move(account, "99999999999.99")
    summing()
    move(account, "0.01")
    assert sums(totals_of_clients()) == (Decimal("299999999999.98"), 0, Decimal("299999999999.98"))


@pytest.mark.spec("A37")
def test_each_sees_the_branches_of_his_scope(network: Network, summing: Callable[[], None]) -> None:
    make_account(make_client(network.lesnoy), balance=100)
    foreign = make_account(make_client(network.mira), balance=20)
    summing()
    move(foreign, 3)
    for scope, expected in (
        (Scope(frozenset({network.lesnoy.id})), 100),
        (Scope(frozenset({network.mira.id})), 23),
        (Scope(frozenset({network.lesnoy.id, network.mira.id})), 123),
        (Scope(frozenset({network.rechnoy.id})), 0),
        (Scope(frozenset()), 0),
        (EVERYWHERE, 123),
    ):
        with scoped_to(scope):
            assert totals_of_clients().credited == expected
            assert totals_of_clients(as_of=clock.today(network.mira)).credited == expected


def test_a_transfer_between_branches_counts_where_the_account_is(network: Network, summing: Callable[[], None]) -> None:
    here = make_account(make_client(network.lesnoy), balance=100)
    there = make_account(make_client(network.mira))
    with transaction():
        lines = [Line(here, Decimal(-40)), Line(there, Decimal(40))]
        post(TransactionKind.TRANSFER, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    summing()
    with scoped_to(Scope(frozenset({network.mira.id}))):
        assert sums(totals_of_clients()) == (40, 0, 40)
        assert sums(totals_of_clients(as_of=clock.today(network.mira))) == (40, 0, 40)


def test_some_branches_and_types(network: Network, summing: Callable[[], None]) -> None:
    gifts = make_account_type(network.lesnoy)
    client = make_client(network.lesnoy)
    make_account(client, gifts, balance=5)
    make_account(client, network.account_type, balance=70)
    move(base_account(client.id, network.lesnoy.id), 900)
    summing()
    of_gifts = totals_of_clients(lambda branch, kind: [kind == gifts.id])
    of_base = totals_of_clients(lambda branch, kind: [kind.is_(None), branch == network.lesnoy.id])
    assert (of_gifts.credited, of_base.credited) == (5, 900)
    assert totals_of_clients(lambda branch, kind: [branch == network.mira.id]).credited == 0


# --- as of a day ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("A36", "A37")
def test_a_day_ends_at_midnight_of_the_branch(network: Network, summing: Callable[[], None]) -> None:
    """Samara is an hour ahead of Moscow: at 20:30 UTC its day has turned already."""
    moscow = make_account(make_client(network.lesnoy))
    samara = make_account(make_client(network.mira))
    late = datetime(2026, 3, 10, 20, 30, tzinfo=UTC)
    for account, at in ((moscow, NOON), (samara, NOON), (moscow, late), (samara, late)):
        move(account, 1 if at is NOON else 10, at=at)
    summing()
    assert totals_of_clients(as_of=date(2026, 3, 9)).credited == 0
    assert totals_of_clients(as_of=date(2026, 3, 10)).credited == 1 + 1 + 10
    assert totals_of_clients(as_of=date(2026, 3, 11)).credited == 22
    with scoped_to(Scope(frozenset({network.mira.id}))):
        assert totals_of_clients(as_of=date(2026, 3, 10)).credited == 1


def test_what_is_posted_late_counts_on_its_own_day(network: Network) -> None:
    """An import passes the day something happened: its entries are the newest and its day may be years ago."""
    account = make_account(make_client(network.lesnoy))
    move(account, 1, at=NOON)
    keep_turnover(tail=0)
    move(account, 20, at=datetime(2024, 1, 31, 12, tzinfo=UTC))
    for _summed in range(2):
        assert totals_of_clients(as_of=date(2024, 1, 31)).credited == 20
        assert totals_of_clients(as_of=date(2026, 3, 10)).credited == 21
        keep_turnover(tail=0)


def test_a_branch_that_moves_to_another_time_zone_is_summed_anew(network: Network) -> None:
    samara = make_account(make_client(network.mira))
    late = datetime(2026, 3, 10, 20, 30, tzinfo=UTC)
    move(samara, 7, at=late)
    keep_turnover(tail=0)
    assert totals_of_clients(as_of=date(2026, 3, 10)).credited == 0
    with transaction():
        db.session.execute(update(Branch).where(Branch.id == network.mira.id).values(time_zone="Europe/Moscow"))
    move(samara, 100, at=late)
    for _summed in range(2):
        assert totals_of_clients(as_of=date(2026, 3, 10)).credited == 107
        assert totals_of_clients(as_of=date(2026, 3, 9)).credited == 0
        assert totals_of_clients().credited == 107
        assert check_ledger() == []
        keep_turnover()
    assert db.session.scalars(select(Turnover.time_zone)).all() == ["Europe/Moscow"]


# --- keeping it -----------------------------------------------------------------------------------------------------


def test_a_short_tail_stays_where_it_is(network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=1)
    assert keep_turnover() == 0
    assert mark() == 0
    assert db.session.scalar(select(func.count()).select_from(Turnover)) == 0


def test_a_long_one_is_summed_in_parts(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    account = make_account(make_client(network.lesnoy))
    for _number in range(7):
        move(account, 1)
    monkeypatch.setattr(turnover, "BATCH", 4)
    monkeypatch.setattr(turnover, "BATCHES", 2)
    last = db.session.scalar(select(func.max(Entry.id))) or 0
    assert keep_turnover(tail=3) == 8
    assert totals_of_clients().credited == 7
    assert keep_turnover(tail=3) == last - 8
    assert mark() == last
    assert keep_turnover(tail=0) == 0
    assert totals_of_clients().credited == 7


def test_a_worker_killed_in_the_middle_loses_nothing(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    account = make_account(make_client(network.lesnoy))
    for _number in range(4):
        move(account, 1)
    monkeypatch.setattr(turnover, "BATCH", 3)
    add, calls = turnover._add, iter([True, False])

    def killed(*conditions: Any) -> None:
        add(*conditions)
        if not next(calls):
            raise SystemExit("killed")

    monkeypatch.setattr(turnover, "_add", killed)
    with pytest.raises(SystemExit):
        keep_turnover(tail=0)
    monkeypatch.setattr(turnover, "_add", add)
    db.session.rollback()
    assert mark() == 3
    assert totals_of_clients().credited == 4
    keep_turnover(tail=0)
    assert totals_of_clients().credited == 4
    assert check_ledger() == []


def test_many_at_once_sum_once(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    account = make_account(make_client(network.lesnoy))
    for _number in range(5):
        move(account, 1)
    last = db.session.scalar(select(func.max(Entry.id)))
    db.session.commit()
    in_parallel(lambda _index: keep_turnover(tail=0))
    assert mark() == last
    assert totals_of_clients().credited == 5
    assert check_ledger() == []


@contextmanager
def writing(app: Flask, account_id: int, amount: int) -> Iterator[Callable[[], None]]:
    """Somebody else's transaction that has posted and not committed; call what it gives to let it."""
    posted, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with app.app_context(), scoped_to(EVERYWHERE), transaction():
            account = db.session.get_one(Account, account_id)
            cash = house_account(AccountKind.CASH, account.branch_id)
            lines = [Line(account, Decimal(amount)), Line(cash, -Decimal(amount))]
            post(TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM)
            posted.set()
            go_on.wait(30)

    thread = threading.Thread(target=work)
    thread.start()

    def commit() -> None:
        go_on.set()
        thread.join()

    try:
        assert posted.wait(30)
        yield commit
    finally:
        commit()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_entries_of_a_writer_who_has_not_committed_are_not_skipped(app: Flask, network: Network) -> None:
    """His ids are lower than those of whoever commits first. On SQLite there is one writer at a time."""
    slow, quick = (make_account(make_client(network.lesnoy), balance=1) for _ in range(2))
    db.session.commit()
    with writing(app, slow.id, 500) as commit:
        db.session.rollback()
        move(quick, 30)
        assert keep_turnover(tail=0) == 0  # it asks again in a minute
        assert mark() == 0
        db.session.rollback()
        commit()
    assert keep_turnover(tail=0) > 0
    assert totals_of_clients().credited == 532
    assert check_ledger() == []


def test_sums_can_be_made_anew(app: Flask, network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=10)
    keep_turnover(tail=0)
    with transaction():
        db.session.execute(update(Turnover).values(credited=11))
    assert [problem.what for problem in check_ledger()] == ["turnover differs from its entries"]
    with transaction():
        sum_up_anew()
    assert (mark(), totals_of_clients().credited) == (0, 10)
    db.session.rollback()
    result = contextvars.Context().run(app.test_cli_runner().invoke, args=["ledger", "sum", "--anew"])
    assert result.exit_code == 0, result.output
    assert mark() == db.session.scalar(select(func.max(Entry.id)))
    assert check_ledger() == []


def test_the_scheduler_keeps_it(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ledger.sum" in {periodic.task for periodic in SCHEDULE}
    make_account(make_client(network.lesnoy), balance=10)
    monkeypatch.setattr(turnover.keep_turnover, "__kwdefaults__", {"tail": 0})
    perform("ledger.sum")
    assert mark() == db.session.scalar(select(func.max(Entry.id)))


def test_sums_that_are_missing_are_found(network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=10)
    keep_turnover(tail=0)
    db.session.execute(text("DELETE FROM ledger_turnover"))
    assert [problem.what for problem in check_ledger()] == ["turnover differs from its entries"]
    db.session.rollback()


moves = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.decimals(Decimal("-500"), Decimal("500"), places=2).filter(bool),
        st.datetimes(datetime(2025, 12, 30), datetime(2026, 1, 3)),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=moves, day=st.dates(date(2025, 12, 29), date(2026, 1, 4)))
def test_however_much_is_summed_totals_are_sums(network: Network, moves: list[Any], day: date) -> None:
    accounts = [
        base_account(make_client(branch).id, branch.id) for branch in (network.lesnoy, network.rechnoy, network.mira)
    ]
    before, before_day = totals_of_clients(), totals_of_clients(as_of=day)
    db.session.commit()
    all_of_them, until_day = [Decimal(0)], [Decimal(0)]
    for which, amount, at, is_summed in moves:
        account, at = accounts[which], at.replace(tzinfo=UTC)
        move(account, amount, at=at)
        all_of_them.append(amount)
        if clock.local(at, account.branch).date() <= day:
            until_day.append(amount)
        if is_summed:
            keep_turnover(tail=0)
    for totals, was, amounts in (
        (totals_of_clients(), before, all_of_them),
        (totals_of_clients(as_of=day), before_day, until_day),
    ):
        assert totals.credited - was.credited == sum(a for a in amounts if a > 0)
        assert totals.debited - was.debited == -sum(a for a in amounts if a < 0)
        assert totals.balance - was.balance == sum(amounts)
    assert check_ledger() == []
