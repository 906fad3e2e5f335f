"""AccountOperation: what clients' money accounts have been through, row by row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, ScopeMissing, enter_scope, leave_scope, scoped_to
from crm.clients.models import Client
from crm.db import db, transaction
from crm.ledger.history import AccountOperation
from crm.ledger.models import Entry, Transaction, TransactionKind
from crm.ledger.operations import Line, post, reverse
from tests.factories import make_account, make_client, make_subscription


def operations(**where: Any) -> list[AccountOperation]:
    query = select(AccountOperation).filter_by(**where).order_by(AccountOperation.id)
    return list(db.session.scalars(query).unique())


@pytest.mark.spec("A23", "A32")
def test_an_operation_is_the_entry_with_what_its_transaction_says(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=1000, by=network.administrator)
    (row,) = operations(account_id=account.id)
    entry = db.session.scalars(select(Entry).where(Entry.account_id == account.id)).one()
    assert (row.id, row.transaction_id, row.kind) == (entry.id, entry.transaction_id, TransactionKind.TOP_UP)
    assert (row.amount, row.balance_after, row.credited, row.debited) == (1000, 1000, 1000, None)
    assert (row.author_id, row.author_name) == (network.administrator.id, network.administrator.name)
    assert row.happened_at == entry.transaction.happened_at
    assert (row.client_id, row.branch_id, row.account) == (account.client_id, network.lesnoy.id, account)
    assert row.payment.account_id == account.id


def test_what_left_the_account_is_debited(network: Any) -> None:
    client = make_client(network.lesnoy)
    sold = make_subscription(client)
    (row,) = operations(client_id=client.id)
    assert (row.amount, row.credited, row.debited) == (-sold.price, None, sold.price)
    assert row.subscription == sold


def test_neither_house_accounts_nor_lessons_are_among_them(network: Any) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=100)
    make_subscription(client)
    assert {row.client_id for row in operations()} == {client.id}
    assert [row.amount for row in operations()] == [Decimal(100), Decimal(-4000)]


def test_a_reversed_operation_and_its_reversal_know_each_other(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    (first,) = operations()
    assert (first.reverses_id, first.reversed_by_id) == (None, None)
    with transaction():
        undone = reverse(db.session.get_one(Transaction, first.transaction_id), by=SYSTEM, comment="ошибка")
    db.session.expire_all()
    first, second = operations(account_id=account.id)
    assert (first.reverses_id, first.reversed_by_id) == (None, undone.id)
    assert (second.reverses_id, second.reversed_by_id) == (first.transaction_id, None)


def test_the_scope_shows_the_operations_of_its_branches_accounts(network: Any) -> None:
    ours = make_account(make_client(network.lesnoy), balance=100)
    theirs = make_account(make_client(network.mira), balance=200)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        assert [row.account_id for row in operations()] == [ours.id]
        other = aliased(AccountOperation)
        assert list(db.session.scalars(select(other.account_id))) == [ours.id]
        assert list(db.session.scalars(select(AccountOperation.amount))) == [100]
        assert operations(account_id=theirs.id) == []
    with scoped_to(Scope(frozenset())):
        assert operations() == []


def test_a_transfer_between_branches_is_seen_by_each_from_its_own_side(network: Any) -> None:
    ours = make_account(make_client(network.lesnoy), balance=500)
    theirs = make_account(make_client(network.mira))
    with transaction():
        post(
            TransactionKind.TRANSFER,
            [Line(ours, Decimal(-200)), Line(theirs, Decimal(200))],
            branch_id=network.lesnoy.id,
            by=SYSTEM,
        )
    with scoped_to(Scope(frozenset({network.mira.id}))):
        (row,) = operations()
        assert (row.account_id, row.amount, row.kind) == (theirs.id, 200, TransactionKind.TRANSFER)


def test_without_a_scope_they_cannot_be_read(network: Any) -> None:
    token = enter_scope(None)
    try:
        with pytest.raises(ScopeMissing):
            operations()
        with pytest.raises(ScopeMissing):
            db.session.scalar(select(AccountOperation.amount))
    finally:
        leave_scope(token)


@pytest.mark.spec("A23")
def test_nobody_can_change_one_through_the_mapping(network: Any) -> None:
    other = make_client(network.lesnoy)
    make_account(make_client(network.lesnoy), balance=100)
    for name, value in {"amount": Decimal(1), "author_name": "Другой", "client_id": other.id}.items():
        (row,) = operations()
        setattr(row, name, value)
        with pytest.raises(TypeError, match="only to be read"):
            db.session.flush()
        db.session.rollback()


@pytest.mark.spec("A23", "X17")
@pytest.mark.parametrize("values", [{"author_name": "Другой"}, {"author_id": None}], ids=["name", "key"])
def test_the_author_of_an_operation_cannot_be_changed_in_the_database(network: Any, values: dict[str, Any]) -> None:
    make_account(make_client(network.lesnoy), balance=100, by=network.administrator)
    with pytest.raises(DBAPIError):
        db.session.execute(update(Transaction.__table__).values(values))
    db.session.rollback()
    (row,) = operations()
    assert (row.author_id, row.author_name) == (network.administrator.id, network.administrator.name)


def test_the_client_of_an_operation_is_the_accounts_own(network: Any) -> None:
    """Merged cards: accounts move to another card, their operations with them."""
    account, other = make_account(make_client(network.lesnoy), balance=100), make_client(network.lesnoy)
    with transaction():
        account.client_id = other.id
    (row,) = operations()
    assert row.client == db.session.get_one(Client, other.id)
