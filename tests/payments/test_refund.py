"""Money given back to the payer."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.payments.desk import refund
from crm.payments.models import PaymentMethod
from crm.tills.models import Till, TillKind
from crm.tills.operations import new_till
from crm.tills.queries import tills_in
from tests.factories import house_balance, make_account, make_client, make_payment


def give(account: Account, amount: Decimal | int, method: PaymentMethod | None, **changes: Any) -> Any:
    with transaction():
        return refund(account, amount=Decimal(amount), method=method, **{"by": SYSTEM, **changes})


def refusal(account: Account, amount: Decimal | int, method: PaymentMethod | None, **changes: Any) -> Any:
    with pytest.raises(DomainError) as caught:
        give(account, amount, method, **changes)
    return caught.value.code, caught.value.field


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (PaymentMethod.CASH, AccountKind.CASH),
        (PaymentMethod.CARD, AccountKind.TERMINAL),
        (PaymentMethod.BANK, AccountKind.BANK),
    ],
)
def test_the_account_and_the_till_fall_by_the_sum(network: Any, method: PaymentMethod, kind: AccountKind) -> None:
    account = make_account(make_client(network.lesnoy), balance=1000)
    before = house_balance(kind, network.lesnoy)
    done = give(account, Decimal("300.01"), method, by=network.director, comment="Передумал")
    assert account.balance == Decimal("699.99")
    assert house_balance(kind, network.lesnoy) == before - Decimal("300.01")
    assert (done.kind, done.comment, done.author_id) == (TransactionKind.REFUND, "Передумал", network.director.id)


def test_no_more_than_there_is_on_the_account(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    assert refusal(account, Decimal("100.01"), PaymentMethod.CARD) == ("not_enough", "amount")
    give(account, 100, PaymentMethod.CASH)
    assert account.balance == 0


def test_no_more_cash_than_there_is_in_the_desk(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    make_payment(account, 500, method=PaymentMethod.CARD)
    assert refusal(account, 101, PaymentMethod.CASH) == ("till_short", "till")
    assert account.balance == 600
    give(account, 101, PaymentMethod.CARD)
    assert account.balance == 499


@pytest.mark.parametrize("method", [None, PaymentMethod.ONLINE, PaymentMethod.ACCOUNT])
def test_the_other_ways_are_not_for_refunds(network: Any, method: PaymentMethod | None) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    assert refusal(account, 5, method) == ("method_required", "method")


def test_out_of_the_chosen_till(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    with transaction():
        safe = new_till(TillKind.CASH, network.lesnoy.id, name="Сейф")
        foreign = new_till(TillKind.CASH, network.rechnoy.id, name="Чужая")
    assert refusal(account, 50, PaymentMethod.CASH, till=safe) == ("till_short", "till")
    assert refusal(account, 50, PaymentMethod.CASH, till=foreign) == ("till_foreign", "till")
    assert refusal(account, 50, PaymentMethod.CARD, till=safe) == ("till_foreign", "till")
    first = tills_in(network.lesnoy.id, TillKind.CASH)[0]
    give(account, 50, PaymentMethod.CASH, till=first)
    assert account.balance == 50


def test_a_clerk_without_the_right_gives_nothing_back(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    with pytest.raises(Forbidden):
        give(account, 5, PaymentMethod.CASH, by=network.administrator)


def test_two_at_once_do_not_hand_out_the_same_banknotes(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    """Two clients with money of their own, and cash for one of them."""
    accounts = [make_account(make_client(network.lesnoy), balance=100, method=PaymentMethod.CARD) for _ in range(4)]
    make_payment(accounts[0], 100)
    ids = [account.id for account in accounts]

    def give_back(index: int) -> str:
        give(db.session.get_one(Account, ids[index]), 100, PaymentMethod.CASH)
        return "given"

    results = in_parallel(give_back, 4)
    assert results.count("given") == 1, results
    assert [error.code for error in results if isinstance(error, DomainError)] == ["till_short"] * 3
    assert house_balance(AccountKind.CASH, network.lesnoy) == 0


def test_cash_in_and_out_at_once_never_waits_in_a_circle(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    account_id = make_account(make_client(network.lesnoy), balance=1000).id

    def move(index: int) -> str:
        for _ in range(5):
            account = db.session.get_one(Account, account_id)
            if index % 2:
                give(account, 1, PaymentMethod.CASH)
            else:
                make_payment(account, 1)
        return "done"

    assert in_parallel(move, 6) == ["done"] * 6
    db.session.expire_all()
    assert db.session.get_one(Account, account_id).balance == 1000
    assert db.session.query(Till).count() == 1
