"""Client accounts: types, opening with and without money, topping up, history. Rows A1 to A36."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.models import Branch
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, AccountType
from crm.ledger.operations import account_types_in, create_account_type, open_account
from crm.ledger.queries import accounts_of, entries_of
from crm.payments.models import DESK_METHODS, Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import open_account_paid
from tests.factories import (
    Network,
    house_balance,
    make_account,
    make_account_type,
    make_child,
    make_client,
    make_employee,
    make_payment,
)


def history(account: Account) -> list[tuple[Any, ...]]:
    """(kind, sum, balance after, author, employee) of each entry, newest first."""
    return [
        (
            entry.transaction.kind.value,
            entry.amount,
            entry.balance_after,
            entry.transaction.author_name,
            entry.transaction.employee.name if entry.transaction.employee else None,
        )
        for entry in db.session.scalars(entries_of(account))
    ]


def count(model: type[Any]) -> int:
    return db.session.scalar(select(func.count()).select_from(model)) or 0


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("A6", "A7")
def test_a_type_has_a_name_and_branches(network: Network) -> None:
    with transaction():
        made = create_account_type(name="  Бонусный  счёт ", branches=[network.lesnoy, network.mira], by=network.owner)
    db.session.expire_all()
    assert made.name == "Бонусный счёт"
    assert [branch.name for branch in made.branches] == ["Лесной", "Мира"]


@pytest.mark.spec("A6")
@pytest.mark.parametrize(("name", "code"), [("   ", "name_empty"), ("Депозиты", "name_taken")])
def test_the_name_is_required_and_tells_types_apart(network: Network, name: str, code: str) -> None:
    with pytest.raises(DomainError) as caught, transaction():
        create_account_type(name=name, branches=[network.lesnoy], by=network.owner)
    assert (caught.value.code, caught.value.field) == (code, "name")


@pytest.mark.spec("A8")
def test_branches_are_mandatory(network: Network) -> None:
    with pytest.raises(DomainError) as caught, transaction():
        create_account_type(name="Ничей", branches=[], by=network.owner)
    assert (caught.value.code, caught.value.field) == ("branches_empty", "branches")
    assert count(AccountType) == 1


@pytest.mark.spec("A4")
def test_types_are_made_by_those_of_the_network(network: Network) -> None:
    for user in (network.director, network.administrator, network.manager, network.instructor):
        with pytest.raises(Forbidden), transaction():
            create_account_type(name="Свой", branches=[network.lesnoy], by=user)
    with transaction():
        create_account_type(name="Сетевой", branches=[network.lesnoy], by=network.owner)


@pytest.mark.spec("A10", "A18")
def test_a_type_is_offered_in_its_branches_only(network: Network) -> None:
    only_there = make_account_type(network.mira, name="Только Мира")
    assert only_there not in account_types_in(network.lesnoy)
    assert only_there in account_types_in(network.mira)
    client = make_client(network.lesnoy)
    with pytest.raises(DomainError) as caught, transaction():
        open_account(client_id=client.id, account_type=only_there, branch=network.lesnoy, by=network.owner)
    assert (caught.value.code, caught.value.field) == ("type_unavailable", "account_type")


def test_an_archived_type_is_not_offered(network: Network) -> None:
    old = make_account_type(network.lesnoy, is_archived=True)
    assert old not in account_types_in(network.lesnoy)
    with pytest.raises(DomainError), transaction():
        open_account(
            client_id=make_client(network.lesnoy).id, account_type=old, branch=network.lesnoy, by=network.owner
        )


# --- opening --------------------------------------------------------------------------------------------------------


def open_(network: Network, client: Client, **changes: Any) -> Account:
    facts: dict[str, Any] = {
        "branch": network.lesnoy,
        "initial_balance": None,
        "method": None,
        "by": network.administrator,
        **changes,
    }
    account_type = facts.pop("account_type", network.account_type)
    with transaction():
        return open_account_paid(client, account_type, **facts)


@pytest.mark.spec("A19", "A20", "A21", "A29")
def test_without_a_balance_it_is_open_at_once(network: Network) -> None:
    account = open_(network, make_client(network.lesnoy))
    assert (account.balance, account.employee, account.author_id) == (0, None, network.administrator.id)
    assert (count(Payment), history(account)) == (0, [])
    make_payment(account, 300)
    assert account.balance == 300


@pytest.mark.spec("A22", "A27")
@pytest.mark.parametrize(
    ("method", "house"), [(PaymentMethod.CASH, AccountKind.CASH), (PaymentMethod.CARD, AccountKind.TERMINAL)]
)
def test_with_a_balance_it_is_topped_up_and_paid_at_once(
    network: Network, method: PaymentMethod, house: AccountKind
) -> None:
    account = open_(network, make_client(network.lesnoy), initial_balance=Decimal("1000.50"), method=method)
    assert account.balance == Decimal("1000.50")
    assert house_balance(house, network.lesnoy) == Decimal("1000.50")
    payment = db.session.scalars(select(Payment)).one()
    assert (payment.status, payment.method, payment.amount) == (PaymentStatus.SUCCEEDED, method, Decimal("1000.50"))


@pytest.mark.spec("A27", "A28")
@pytest.mark.parametrize("method", [None, PaymentMethod.ONLINE, PaymentMethod.BANK])
def test_a_balance_asks_for_cash_or_card(network: Network, method: PaymentMethod | None) -> None:
    assert [item.value for item in DESK_METHODS] == ["cash", "card"]
    with pytest.raises(DomainError) as caught:
        open_(network, make_client(network.lesnoy), initial_balance=Decimal(1000), method=method)
    assert (caught.value.code, caught.value.field) == ("method_required", "method")
    assert (count(Account), count(Payment)) == (0, 0), "both or neither"


@pytest.mark.parametrize("sum_", [Decimal("-1"), Decimal("0.001"), Decimal("100000000.01")])
def test_a_senseless_balance_opens_nothing(network: Network, sum_: Decimal) -> None:
    with pytest.raises(DomainError) as caught:
        open_(network, make_client(network.lesnoy), initial_balance=sum_, method=PaymentMethod.CASH)
    assert (caught.value.code, caught.value.field) == ("amount_invalid", "initial_balance")
    assert count(Account) == 0


@pytest.mark.spec("A11")
def test_only_in_a_branch(network: Network) -> None:
    with pytest.raises(DomainError) as caught:
        open_(network, make_client(network.lesnoy), branch=None, by=network.owner)
    assert caught.value.code == "branch_required"
    assert count(Account) == 0


def test_only_in_ones_own_branch(network: Network) -> None:
    client = make_client(network.lesnoy)
    scope = Scope(frozenset({network.lesnoy.id}))
    foreign: Branch = network.mira
    assert foreign.id
    with scoped_to(scope), pytest.raises(NotFound):
        open_(network, client, branch=foreign)


@pytest.mark.spec("A26")
def test_a_client_may_hold_several(network: Network) -> None:
    client = make_client(network.lesnoy)
    other_type = make_account_type(network.lesnoy)
    first = open_(network, client, initial_balance=Decimal(100), method=PaymentMethod.CASH)
    second = open_(network, client, account_type=other_type, initial_balance=Decimal(200), method=PaymentMethod.CARD)
    third = open_(network, client)
    assert accounts_of(client.id) == [first, second, third]
    assert [account.balance for account in (first, second, third)] == [100, 200, 0]


@pytest.mark.spec("A3")
def test_the_account_of_a_child_is_the_payers(network: Network) -> None:
    """One deposit serves the family: it is opened for who pays, from whichever card."""
    parent = make_client(network.lesnoy)
    account = open_(network, make_child(parent))
    assert account.client_id == parent.id


# --- author and employee --------------------------------------------------------------------------------------------


@pytest.mark.spec("A20", "A23", "A24", "A32")
def test_the_history_names_the_author_whether_or_not_an_employee_is_chosen(network: Network) -> None:
    author = network.administrator.name
    without = open_(network, make_client(network.lesnoy), initial_balance=Decimal(10), method=PaymentMethod.CASH)
    assert history(without) == [("top_up", 10, 10, author, None)]
    with_one = open_(
        network,
        make_client(network.lesnoy),
        initial_balance=Decimal(10),
        method=PaymentMethod.CASH,
        employee=network.employee,
    )
    assert history(with_one) == [("top_up", 10, 10, author, "Вера Тренер")]
    assert with_one.employee is network.employee
    assert with_one.author_id == network.administrator.id


@pytest.mark.spec("A23")
def test_the_author_stays_when_the_user_is_renamed(network: Network) -> None:
    account = open_(network, make_client(network.lesnoy), initial_balance=Decimal(10), method=PaymentMethod.CASH)
    before = network.administrator.name
    with transaction():
        network.administrator.name = "Другое имя"
    assert history(account)[0][3] == before


def test_an_employee_of_another_branch_or_gone_is_refused(network: Network) -> None:
    client = make_client(network.lesnoy)
    for employee in (make_employee(network.mira), make_employee(network.lesnoy, is_active=False)):
        with pytest.raises(DomainError) as caught:
            open_(network, client, employee=employee)
        assert (caught.value.code, caught.value.field) == ("employee_unavailable", "employee")


# --- topping up -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("A1", "A31")
def test_a_deposit_is_topped_up_without_any_service_sold(network: Network) -> None:
    account = make_account(make_client(network.lesnoy))
    make_payment(account, 1000)
    assert account.balance == 1000
    assert house_balance(AccountKind.CASH, network.lesnoy) == 1000
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == 0


@pytest.mark.spec("A30", "A32", "A36", "W7")
def test_balance_and_history_agree(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    for sum_ in (50, Decimal("0.01"), 7):
        make_payment(account, sum_)
    entries = history(account)
    assert [entry[1] for entry in entries] == [7, Decimal("0.01"), 50, 100]
    assert [entry[2] for entry in entries] == [Decimal("157.01"), Decimal("150.01"), 150, 100]
    assert account.balance == entries[0][2] == sum(entry[1] for entry in entries)
    assert account.credited - account.debited == account.balance


@pytest.mark.parametrize("sum_", [Decimal(0), Decimal(-5), Decimal("0.004"), Decimal("100000000.01")])
def test_senseless_sums_are_refused(network: Network, sum_: Decimal) -> None:
    account = make_account(make_client(network.lesnoy))
    with pytest.raises(DomainError) as caught:
        make_payment(account, sum_)
    assert (caught.value.code, caught.value.field) == ("amount_invalid", "amount")
    assert account.balance == 0


def test_opening_is_in_the_audit(network: Network) -> None:
    account = make_account(make_client(network.lesnoy), by=network.administrator)
    found = select(AuditEntry).where(AuditEntry.entity == "account", AuditEntry.entity_id == account.id)
    assert db.session.scalars(found).one().changes["kind"] == [None, "deposit"]
