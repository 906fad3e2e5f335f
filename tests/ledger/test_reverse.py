"""reverse(): a mistake is undone by its mirror image, once."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import Conflict, DomainError
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Line, house_account, post, reverse
from crm.ledger.queries import lessons_left
from tests.factories import Network, house_balance, make_account, make_client, make_subscription


def last() -> Transaction:
    return db.session.scalars(select(Transaction).order_by(Transaction.id.desc()).limit(1)).one()


def test_the_mirror_image_is_posted_and_the_original_stays(network: Network) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client, balance=1000)
    original = last()
    with transaction():
        undone = reverse(original, by=network.owner, comment="Ошиблись суммой")
    assert account.balance == 0
    assert (account.credited, account.debited) == (1000, 1000)
    assert house_balance(AccountKind.CASH, network.lesnoy) == 0
    assert (undone.kind, undone.reverses_id, undone.comment) == (
        TransactionKind.REVERSAL,
        original.id,
        "Ошиблись суммой",
    )
    assert (undone.author_id, undone.client_id, undone.payment_id) == (
        network.owner.id,
        client.id,
        original.payment_id,
    )
    assert [entry.amount for entry in original.entries] == [1000, -1000]


def test_every_unit_is_undone(network: Network) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client, network.plan)
    with transaction():
        reverse(last(), by=SYSTEM, comment="")
    assert lessons_left(client.id) == 0
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == 0


def test_once_only(network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=1000)
    original = last()
    with transaction():
        undone = reverse(original, by=SYSTEM, comment="")
    with pytest.raises(Conflict) as caught, transaction():
        reverse(original, by=SYSTEM, comment="")
    assert caught.value.code == "already_reversed"
    with pytest.raises(DomainError) as caught_, transaction():
        reverse(undone, by=SYSTEM, comment="")
    assert caught_.value.code == "is_reversal"


def test_once_only_in_parallel(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    account_id = make_account(make_client(network.lesnoy), balance=1000).id
    original_id = last().id

    def undo(_index: int) -> str:
        try:
            with transaction():
                reverse(db.session.get_one(Transaction, original_id), by=SYSTEM, comment="")
        except Conflict as error:
            return error.code
        return "done"

    assert sorted(in_parallel(undo)) == ["already_reversed"] * 7 + ["done"]
    assert db.session.get_one(Account, account_id).balance == 0


def test_money_already_spent_cannot_be_taken_back(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    received = last()
    revenue = house_account(AccountKind.REVENUE, network.lesnoy.id)
    with transaction():
        lines = [Line(account, Decimal(-60)), Line(revenue, Decimal(60))]
        post(TransactionKind.WRITE_OFF, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    with pytest.raises(DomainError) as caught, transaction():
        reverse(received, by=SYSTEM, comment="")
    assert caught.value.code == "not_enough"
    assert account.balance == 40
