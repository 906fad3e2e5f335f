"""Money moved between accounts of a family, or to another client of the city."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, Company
from crm.access.scope import Scope, scoped_to
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, Entry, TransactionKind
from crm.ledger.operations import base_account
from crm.ledger.queries import entries_of
from crm.payments.desk import close_account, transfer
from tests.factories import house_balance, make_account, make_account_type, make_client


def move(source: Account, target: Account | None, amount: Decimal | int = 100, **changes: Any) -> Any:
    with transaction():
        return transfer(source, target, amount=Decimal(amount), **{"by": SYSTEM, **changes})


def refusal(*args: Any, **changes: Any) -> tuple[str, str | None]:
    with pytest.raises(DomainError) as caught:
        move(*args, **changes)
    return caught.value.code, caught.value.field


def test_between_a_payers_own_accounts(network: Any) -> None:
    client = make_client(network.lesnoy)
    deposit, gift = make_account(client, balance=500), make_account(client)
    done = move(deposit, gift, Decimal("123.45"), by=network.administrator, comment="Просил", employee=network.employee)
    assert (deposit.balance, gift.balance) == (Decimal("376.55"), Decimal("123.45"))
    assert (done.kind, done.comment, done.author_id, done.employee_id) == (
        TransactionKind.TRANSFER,
        "Просил",
        network.administrator.id,
        network.employee.id,
    )
    histories = [[entry.amount for entry in db.session.scalars(entries_of(one))] for one in (deposit, gift)]
    assert histories == [[Decimal("-123.45"), Decimal(500)], [Decimal("123.45")]]


def test_to_another_client_takes_a_right_of_its_own(network: Any) -> None:
    mine, other = make_account(make_client(network.lesnoy), balance=500), make_account(make_client(network.lesnoy))
    with pytest.raises(Forbidden):
        move(mine, other, by=network.administrator)
    move(mine, other, by=network.director)
    assert (mine.balance, other.balance) == (400, 100)


def test_no_more_than_there_is_and_never_out_of_a_debt(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        base = base_account(client.id, client.branch_id)
    deposit = make_account(client, balance=Decimal("99.99"))
    assert refusal(deposit, base) == ("not_enough", "amount")
    assert refusal(base, deposit, Decimal("0.01")) == ("not_enough", "amount")
    assert refusal(deposit, base, 0) == ("amount_invalid", "amount")


def test_a_place_must_be_chosen_and_be_another(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=500)
    assert refusal(account, None) == ("account_required", "target")
    assert refusal(account, account) == ("account_same", "target")


@pytest.mark.spec("C141")
def test_only_within_one_city(network: Any) -> None:
    here = make_account(make_client(network.lesnoy), balance=500)
    near, far = make_account(make_client(network.rechnoy)), make_account(make_client(network.mira))
    assert refusal(here, far) == ("city_differs", "target")
    assert here.balance == 500
    move(here, near)
    assert (here.balance, near.balance) == (400, 100)
    # Each branch's books balance by themselves: the one that gave has a claim on the other.
    assert house_balance(AccountKind.SETTLEMENT, network.lesnoy) == -100
    assert house_balance(AccountKind.SETTLEMENT, network.rechnoy) == 100


def test_only_within_one_company(network: Any) -> None:
    with transaction():
        company = Company(name="Другая")
        db.session.add(company)
        db.session.flush()
        branch = Branch(company_id=company.id, city_id=network.moscow.id, name="Чужой", time_zone="Europe/Moscow")
        db.session.add(branch)
    here = make_account(make_client(network.lesnoy), balance=500)
    there = make_account(make_client(branch), make_account_type(branch))
    assert refusal(here, there) == ("company_differs", "target")


def test_not_to_an_archived_card_nor_a_closed_account(network: Any) -> None:
    here = make_account(make_client(network.lesnoy), balance=500)
    client = make_client(network.lesnoy)
    archived, own = make_account(client), make_account(db.session.get(type(client), here.client_id))
    with transaction():
        archive_client(client, by=SYSTEM)
        close_account(own, by=SYSTEM)
    assert refusal(here, archived) == ("client_archived", "target")
    assert refusal(here, own)[0] == "account_closed"
    assert here.balance == 500


def test_not_to_a_branch_out_of_sight(network: Any) -> None:
    here, there = make_account(make_client(network.lesnoy), balance=500), make_account(make_client(network.rechnoy))
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        move(here, there, by=network.director)
    assert here.balance == 500


def test_there_and_back_at_once(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    client = make_client(network.lesnoy)
    ids = [make_account(client, balance=100).id for _ in range(2)]

    def swing(index: int) -> str:
        for _ in range(5):
            with transaction():
                there, back = (db.session.get_one(Account, id) for id in (ids if index % 2 else ids[::-1]))
                transfer(there, back, amount=Decimal(1), by=SYSTEM)
        return "done"

    assert in_parallel(swing, 6) == ["done"] * 6
    db.session.expire_all()
    assert [db.session.get_one(Account, id).balance for id in ids] == [100, 100]
    assert len(db.session.scalars(select(Entry.id)).all()) == 4 + 2 * 30
