"""Shifts: opened and closed with counted cash, every movement in exactly one of them."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, Scope, scoped_to
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.tills.models import Shift, Till, TillKind
from crm.tills.moves import spend_other, take_other
from crm.tills.queries import current_shift, money_in, movements_of, turnovers_of
from crm.tills.shifts import DifferenceUnexplained, close_shift, open_shift
from tests.factories import house_balance, make_account, make_client, make_payment, make_shift, make_till


@pytest.fixture
def till(network: Any) -> Till:
    return make_till(network.lesnoy, money=500, uses_shifts=True)


def close(shift: Shift, counted: Decimal | int, **facts: Any) -> Shift:
    with transaction():
        return close_shift(shift, counted=Decimal(counted), **{"by": SYSTEM, **facts})


def test_money_moves_only_while_a_shift_is_open(network: Any, till: Till) -> None:
    account = make_account(make_client(network.lesnoy))
    with pytest.raises(DomainError) as refused:
        make_payment(account, 100, till=till)
    assert (refused.value.code, refused.value.field) == ("shift_closed", "till")
    shift = make_shift(till)
    make_payment(account, 100, till=till)
    close(shift, 600)
    with pytest.raises(DomainError):
        make_payment(account, 100, till=till)
    assert money_in(till) == 600


def test_a_shift_says_who_counted_what_and_when(network: Any, till: Till) -> None:
    opened, closed = datetime(2026, 3, 1, 6, tzinfo=UTC), datetime(2026, 3, 1, 17, tzinfo=UTC)
    with clock.frozen(opened):
        shift = make_shift(till, by=network.administrator)
        make_payment(make_account(make_client(network.lesnoy)), 100, till=till)
    with clock.frozen(closed):
        close(shift, 600, by=network.director)
    assert (shift.opened_at, shift.opened_by_name) == (opened, network.administrator.name)
    assert (shift.closed_at, shift.closed_by_name) == (closed, network.director.name)
    assert (shift.opening_expected, shift.opening_counted) == (500, 500)
    assert (shift.closing_expected, shift.closing_counted, shift.difference) == (600, 600, 0)
    assert [(t.kind, t.count, t.came_in, t.went_out) for t in turnovers_of(shift)] == [
        (TransactionKind.TOP_UP, 1, 100, 0)
    ]


def test_a_difference_wants_an_explanation_and_is_posted(network: Any, till: Till) -> None:
    shift = make_shift(till)
    with pytest.raises(DifferenceUnexplained) as refused:
        close(shift, Decimal("499.50"), comment="  ")
    assert (refused.value.field, refused.value.expected, refused.value.difference) == ("comment", 500, Decimal("-0.5"))
    assert current_shift(till) is not None
    close(shift, Decimal("499.50"), comment="Сдача без монет", by=network.director)
    assert (shift.closing_expected, shift.closing_counted, shift.difference) == (500, Decimal("499.5"), Decimal("-0.5"))
    assert money_in(till) == Decimal("499.50")
    assert house_balance(AccountKind.CASH_DIFFERENCE, network.lesnoy) == Decimal("0.50")  # a loss of the branch
    posted = db.session.scalars(select(Transaction).where(Transaction.kind == TransactionKind.CASH_COUNT)).one()
    assert (posted.comment, posted.author_id) == ("Сдача без монет", network.director.id)


def test_what_is_too_much_at_the_opening_is_posted_too(network: Any, till: Till) -> None:
    with pytest.raises(DifferenceUnexplained) as refused:
        make_shift(till, 520)
    assert refused.value.difference == 20
    shift = make_shift(till, 520, comment="Нашли в ящике")
    assert (shift.opening_expected, shift.opening_counted, shift.difference) == (500, 520, 20)
    assert money_in(till) == 520
    close(shift, 510, comment="Недостача")
    assert shift.difference == 10
    # What there was and every movement of the shift, the differences among them, make what is left.
    moved = db.session.scalar(select(-func.sum(Entry.amount)).where(*movements_of(shift)))
    assert shift.opening_expected + moved == shift.closing_counted == money_in(till)


def test_an_explanation_holds_for_the_difference_that_was_seen(network: Any, till: Till) -> None:
    shift = make_shift(till)
    with transaction():
        take_other(till, amount=Decimal(30), comment="Размен", by=SYSTEM)
    with pytest.raises(DifferenceUnexplained) as refused:
        close(shift, 490, comment="Недостача 10", expected=Decimal(500))
    assert refused.value.difference == -40
    close(shift, 490, comment="Недостача 40", expected=Decimal(530))
    assert money_in(till) == 490


@pytest.mark.parametrize("counted", [Decimal("-0.01"), Decimal("100000000000.01")])
def test_no_such_sum_can_be_counted(till: Till, counted: Decimal) -> None:
    with pytest.raises(DomainError) as refused:
        make_shift(till, counted, comment="?")
    assert (refused.value.code, refused.value.field) == ("amount_invalid", "counted")


def test_an_empty_desk_is_counted_too(network: Any) -> None:
    shift = make_shift(make_till(network.lesnoy, uses_shifts=True), 0)
    close(shift, 0)
    assert (shift.closing_counted, shift.to_entry_id) == (0, 0)


def test_a_till_has_one_open_shift(till: Till) -> None:
    make_shift(till)
    with pytest.raises(Conflict) as refused:
        make_shift(till)
    assert refused.value.code == "shift_open"


def test_a_closed_shift_is_not_closed_again(network: Any, till: Till) -> None:
    shift = close(make_shift(till), 500, by=network.director)
    with pytest.raises(Conflict) as refused:
        close(shift, 400, comment="Ещё раз")
    assert refused.value.code == "shift_closed"
    assert network.director.name in str(refused.value)
    assert money_in(till) == 500


def test_desks_without_shifts_and_archived_ones_open_none(network: Any) -> None:
    for till, code in (
        (make_till(network.lesnoy), "no_shifts"),
        (make_till(network.lesnoy, kind=TillKind.BANK), "no_shifts"),
        (make_till(network.lesnoy, is_archived=True), "till_archived"),
    ):
        with pytest.raises(DomainError) as refused:
            make_shift(till)
        assert refused.value.code == code


def test_who_may_not_and_who_sees_another_branch_opens_nothing(network: Any, till: Till) -> None:
    with pytest.raises(Forbidden):
        make_shift(till, by=network.manager)
    shift = make_shift(till, by=network.administrator)
    with pytest.raises(Forbidden):
        close(shift, 500, by=network.instructor)
    with scoped_to(Scope(frozenset({network.mira.id}))), pytest.raises(NotFound):
        close(shift, 500, by=network.administrator)


def test_the_next_shift_begins_where_the_last_one_ended(network: Any, till: Till) -> None:
    account = make_account(make_client(network.lesnoy))
    shifts = []
    for number in range(3):
        shift = make_shift(till)
        make_payment(account, 10 + number, till=till)
        shifts.append(close(shift, money_in(till)))
    for earlier, later in itertools.pairwise(shifts):
        assert later.from_entry_id == earlier.to_entry_id
        assert later.opening_expected == earlier.closing_counted
    assert money_in(till) == 533


def test_the_balance_counts_on_from_the_last_count(network: Any, till: Till) -> None:
    """Open, closed, and when the desk has stopped to work by shifts."""
    shift = make_shift(till, 450, comment="Недостача")
    with transaction():
        spend_other(till, amount=Decimal(50), comment="Вода", by=SYSTEM)
    assert money_in(till) == 400
    close(shift, 400)
    with transaction():
        till.uses_shifts = False
        take_other(till, amount=Decimal(7), comment="Размен", by=SYSTEM)
    assert money_in(till) == 407
    assert house_balance(AccountKind.CASH, network.lesnoy) == 407


def test_midnight_passes_inside_a_shift(network: Any, till: Till) -> None:
    account = make_account(make_client(network.lesnoy))
    with clock.frozen(datetime(2026, 1, 31, 20, 30, tzinfo=UTC)):  # 23:30 in Moscow
        shift = make_shift(till)
        make_payment(account, 10, till=till)
    with clock.frozen(datetime(2026, 1, 31, 21, 30, tzinfo=UTC)):  # 00:30 of 1 February
        make_payment(account, 20, till=till)
        close(shift, 530)
    assert [(t.count, t.came_in) for t in turnovers_of(shift)] == [(2, 30)]


def test_a_shift_open_for_more_than_a_day_is_told_apart(till: Till) -> None:
    at = datetime(2026, 3, 1, 6, tzinfo=UTC)
    with clock.frozen(at):
        shift = make_shift(till)
    with clock.frozen(at + timedelta(days=1)):
        assert not shift.is_overlong
    with clock.frozen(at + timedelta(days=1, seconds=1)):
        assert shift.is_overlong
        close(shift, 500)
        assert not shift.is_overlong


def test_of_two_who_close_one_does_and_the_other_is_told(till: Till, in_parallel: Any) -> None:
    shift_id = make_shift(till).id

    def act(index: int) -> int:
        with transaction():
            close_shift(db.session.get_one(Shift, shift_id), counted=Decimal(500 - index), comment="Счёт", by=SYSTEM)
        return index

    results = in_parallel(act, 4)
    won = [result for result in results if isinstance(result, int)]
    assert len(won) == 1
    assert all(isinstance(result, Conflict) for result in results if result not in won)
    db.session.expire_all()
    assert money_in(till) == 500 - won[0]


def test_of_two_who_open_one_does(till: Till, in_parallel: Any) -> None:
    till_id = till.id

    def act(_index: int) -> bool:
        with transaction():
            open_shift(db.session.get_one(Till, till_id), counted=Decimal(500), by=SYSTEM)
        return True

    results = in_parallel(act, 4)
    assert results.count(True) == 1
    assert all(isinstance(result, Conflict) for result in results if result is not True)


def test_every_movement_is_in_exactly_one_shift(network: Any, till: Till, app: Any) -> None:
    """Clerks take money all the while; somebody closes a shift and opens the next, again and again."""
    accounts = [make_account(make_client(network.lesnoy)).id for _ in range(4)]
    make_shift(till)
    till_id, done = till.id, threading.Event()
    taken, failures, counted = threading.Semaphore(0), [], []

    def take(account_id: int) -> None:
        with app.app_context(), scoped_to(EVERYWHERE):
            while not done.is_set():
                try:
                    with transaction():
                        account, desk = db.session.get_one(Account, account_id), db.session.get_one(Till, till_id)
                        top_up(account, amount=Decimal(1), method=PaymentMethod.CASH, till=desk, by=SYSTEM)
                    taken.release()
                except DomainError as error:
                    if error.code != "shift_closed":  # between two shifts: try again
                        failures.append(error)
                        return

    db.session.commit()  # SQLite's one lock is the threads' now
    threads = [threading.Thread(target=take, args=(account_id,)) for account_id in accounts]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            for _payment in range(3):
                assert taken.acquire(timeout=60)
            with transaction():
                desk = db.session.get_one(Till, till_id)
                shift = current_shift(desk)
                # Counted is what was expected a moment ago; what came meanwhile is the difference.
                close_shift(shift, counted=money_in(desk), comment="Пока считали, приняли ещё", by=SYSTEM)
                counted.append(shift.closing_counted)
            with transaction():
                open_shift(db.session.get_one(Till, till_id), counted=counted[-1], by=SYSTEM)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    db.session.expire_all()
    shifts = db.session.scalars(select(Shift).where(Shift.till_id == till_id).order_by(Shift.id)).all()
    entries = db.session.scalars(select(Entry.id).where(Entry.account_id == till.account_id).order_by(Entry.id)).all()
    holders = [
        sum(
            shift.from_entry_id < entry and (shift.to_entry_id is None or entry <= shift.to_entry_id)
            for shift in shifts
        )
        for entry in entries[1:]  # before the first shift, the 500
    ]
    assert holders == [1] * len(holders)
    for shift in shifts[:-1]:
        moved = db.session.scalar(select(-func.sum(Entry.amount)).where(*movements_of(shift))) or 0
        assert shift.opening_expected + moved == shift.closing_counted
        assert shift.closing_expected - shift.opening_counted == sum(
            t.came_in - t.went_out for t in turnovers_of(shift) if t.kind is TransactionKind.TOP_UP
        )
    assert money_in(till) == house_balance(AccountKind.CASH, network.lesnoy)
    assert [shift.closing_counted for shift in shifts[:-1]] == counted
