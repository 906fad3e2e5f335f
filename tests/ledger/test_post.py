"""post(): the only writer. Balanced, once per key, never below a deposit's floor, safe in parallel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, base_account, house_account, lessons_account, post
from crm.ledger.queries import check_ledger
from tests.factories import Network, house_balance, make_account, make_client


def deposit(account: Account, amount: Decimal | int, *, key: str | None = None, **more: Any) -> Transaction:
    """Cash into `account` (out of it, when negative)."""
    cash = house_account(AccountKind.CASH, account.branch_id)
    lines = [Line(account, Decimal(amount)), Line(cash, -Decimal(amount))]
    return post(TransactionKind.TOP_UP, lines, branch_id=account.branch_id, by=SYSTEM, key=key, **more)


def test_a_transaction_moves_caches_and_notes_balances(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    with transaction():
        first = deposit(account, 1000)
        second = deposit(account, Decimal("-300.50"))
    assert (account.balance, account.credited, account.debited) == (Decimal("699.50"), 1000, Decimal("300.50"))
    assert [entry.balance_after for entry in first.entries] == [1000, None]
    assert [entry.balance_after for entry in second.entries] == [Decimal("699.50"), None]
    assert house_balance(AccountKind.CASH, network.lesnoy) == Decimal("699.50")


def test_house_accounts_keep_no_cache(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), balance=500)
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    assert (cash.balance, cash.credited, cash.debited) == (0, 0, 0)
    assert account.balance == 500


def test_two_lines_of_one_account_add_up(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    lines = [Line(account, Decimal(70)), Line(account, Decimal(30)), Line(cash, Decimal(-100))]
    with transaction():
        posted = post(TransactionKind.TOP_UP, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    assert account.balance == 100
    assert [entry.balance_after for entry in posted.entries] == [70, 100, None]


def test_what_a_transaction_is_linked_to_is_kept(network: Network) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client)
    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    with transaction():
        posted = deposit(
            account,
            10,
            cause=Cause(client_id=client.id, employee_id=network.employee.id),
            comment="Сдача",
            happened_at=when,
        )
    assert (posted.client_id, posted.employee_id, posted.comment) == (client.id, network.employee.id, "Сдача")
    assert (posted.happened_at, posted.author_id, posted.author_name) == (when, None, "system")


# --- refused --------------------------------------------------------------------------------------------------------


def test_floats_are_refused(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    with pytest.raises(TypeError, match="never float"):
        post(
            TransactionKind.TOP_UP,
            [Line(account, 0.1), Line(cash, -0.1)],  # type: ignore[arg-type]
            branch_id=network.lesnoy.id,
            by=SYSTEM,
        )


@pytest.mark.parametrize(
    "amounts",
    [
        ["100", "-99.99"],
        ["100"],
        [],
        ["0", "0"],
        ["0.005", "-0.005"],
        ["NaN", "NaN"],
        ["Infinity", "-Infinity"],
    ],
)
def test_lines_must_balance_in_whole_kopecks(network: Network, amounts: list[str]) -> None:
    account = make_account(make_client(network.lesnoy))
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    lines = [Line((account, cash)[index], Decimal(text)) for index, text in enumerate(amounts)]
    with pytest.raises((ValueError, ArithmeticError)):
        post(TransactionKind.TOP_UP, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    assert db.session.scalar(select(func.count()).select_from(Entry)) == 0


def test_units_balance_each_for_itself(network: Network) -> None:
    client = make_client(network.lesnoy)
    lines = [
        Line(lessons_account(client.id, network.lesnoy.id), Decimal(8)),
        Line(house_account(AccountKind.CASH, network.lesnoy.id), Decimal(-8)),
    ]
    with pytest.raises(ValueError, match="sum to zero per unit"):
        post(TransactionKind.SALE, lines, branch_id=network.lesnoy.id, by=SYSTEM)


def test_lessons_are_whole(network: Network) -> None:
    client = make_client(network.lesnoy)
    lines = [
        Line(lessons_account(client.id, network.lesnoy.id), Decimal("0.5")),
        Line(house_account(AccountKind.SERVICE, network.lesnoy.id, Unit.LESSON), Decimal("-0.5")),
    ]
    with pytest.raises(ValueError, match="whole numbers"):
        post(TransactionKind.SALE, lines, branch_id=network.lesnoy.id, by=SYSTEM)


def test_a_deposit_has_a_floor(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    with pytest.raises(DomainError) as caught, transaction():
        deposit(account, Decimal("-100.01"))
    assert (caught.value.code, caught.value.field) == ("not_enough", "amount")
    assert "Депозиты" in str(caught.value)
    assert account.balance == 100
    with transaction():
        deposit(account, -100)
    assert account.balance == 0


def test_a_refused_row_leaves_nothing_behind_when_the_caller_goes_on(network: Network) -> None:
    """As a bulk action does: one row fails, the transaction is committed with the others."""
    poor, rich = (make_account(make_client(network.lesnoy), balance=sum_) for sum_ in (10, 1000))
    refused: list[tuple[int, str]] = []
    with transaction():
        for account in (poor, rich):
            try:
                deposit(account, -100)
            except DomainError as error:
                refused.append((account.id, error.code))
    assert refused == [(poor.id, "not_enough")]
    assert (poor.balance, rich.balance) == (10, 900)
    assert check_ledger() == []


def test_a_base_account_may_owe(network: Network) -> None:
    account = base_account(make_client(network.lesnoy).id, network.lesnoy.id)
    with transaction():
        deposit(account, -300)
    assert account.balance == -300


def test_accounts_of_another_branch_are_not_found(network: Network) -> None:
    account = make_account(make_client(network.mira), balance=100)
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        post(
            TransactionKind.TOP_UP,
            [Line(account, Decimal(1)), Line(cash, Decimal(-1))],
            branch_id=network.lesnoy.id,
            by=SYSTEM,
        )


# --- once per key ---------------------------------------------------------------------------------------------------


def test_the_same_key_posts_once(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    with transaction():
        first = deposit(account, 100, key="till:1")
        again = deposit(account, 999, key="till:1")
    with transaction():
        later = deposit(account, 100, key="till:1")
    assert first.id == again.id == later.id
    assert account.balance == 100


def test_a_key_is_known_whatever_has_become_of_the_account(network: Network) -> None:
    """Somebody whose answer got lost asks again: by now the money is gone, or the account closed."""
    account = make_account(make_client(network.lesnoy), balance=100)
    with transaction():
        first = deposit(account, -100, key="till:1")
        assert deposit(account, -100, key="till:1").id == first.id
        account.closed_at = clock.now()
    with transaction():
        assert deposit(account, -100, key="till:1").id == first.id
        with pytest.raises(DomainError) as caught:
            deposit(account, 100, key="till:2")
    assert caught.value.code == "account_closed"
    assert account.debited == 100


def test_what_is_posted_can_be_used_at_once(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    with transaction():
        posted = deposit(account, 100, key="till:1")
        assert posted in db.session
        assert not db.session.dirty
        assert [entry.amount for entry in posted.entries] == [100, -100]
    kept = db.session.scalars(select(Transaction).where(Transaction.idempotency_key == "till:1")).one()
    assert kept is posted
    assert (kept.branch_id, kept.author_name, kept.comment) == (network.lesnoy.id, "system", "")


def test_the_same_key_in_parallel_posts_once(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    account_id = make_account(make_client(network.lesnoy)).id

    def pay(_index: int) -> int:
        with transaction():
            return deposit(db.session.get_one(Account, account_id), 100, key="till:1").id

    ids = in_parallel(pay)
    assert len(set(ids)) == 1, ids
    assert isinstance(ids[0], int)
    assert db.session.get_one(Account, account_id).balance == 100


def test_the_same_key_on_house_accounts_in_parallel_posts_once(
    network: Network, in_parallel: Callable[..., list[Any]]
) -> None:
    """Nothing is locked there: the unique key decides."""
    branch_id = network.lesnoy.id

    def move(_index: int) -> int:
        with transaction():
            cash, bank = (house_account(kind, branch_id) for kind in (AccountKind.CASH, AccountKind.BANK))
            lines = [Line(cash, Decimal(50)), Line(bank, Decimal(-50))]
            return post(TransactionKind.TOP_UP, lines, branch_id=branch_id, by=SYSTEM, key="encashment:1").id

    ids = in_parallel(move)
    assert len(set(ids)) == 1, ids
    assert isinstance(ids[0], int)
    assert house_balance(AccountKind.BANK, network.lesnoy) == 50


# --- in parallel ----------------------------------------------------------------------------------------------------


def test_parallel_withdrawals_stop_at_the_floor(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    account_id = make_account(make_client(network.lesnoy), balance=500).id

    def withdraw(_index: int) -> str:
        try:
            with transaction():
                deposit(db.session.get_one(Account, account_id), -100)
        except DomainError as error:
            return error.code
        return "done"

    assert sorted(in_parallel(withdraw)) == ["done"] * 5 + ["not_enough"] * 3
    assert db.session.get_one(Account, account_id).balance == 0


def test_opposite_transfers_do_not_deadlock(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    one, other = (make_account(make_client(network.lesnoy), balance=1000).id for _ in range(2))
    branch_id = network.lesnoy.id

    def transfer(index: int) -> None:
        source, target = (one, other) if index % 2 else (other, one)
        for _ in range(5):
            with transaction():
                lines = [
                    Line(db.session.get_one(Account, source), Decimal(-10)),
                    Line(db.session.get_one(Account, target), Decimal(10)),
                ]
                post(TransactionKind.WRITE_OFF, lines, branch_id=branch_id, by=SYSTEM)

    assert in_parallel(transfer) == [None] * 8
    for account_id in (one, other):
        account = db.session.get_one(Account, account_id)
        assert (account.balance, account.credited, account.debited) == (1000, 1200, 200)


def test_first_use_of_an_account_in_parallel_makes_one(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    client_id, branch_id = make_client(network.lesnoy).id, network.lesnoy.id

    def first_use(_index: int) -> tuple[int, int]:
        with transaction():
            return base_account(client_id, branch_id).id, house_account(AccountKind.TERMINAL, branch_id).id

    assert len(set(in_parallel(first_use))) == 1
