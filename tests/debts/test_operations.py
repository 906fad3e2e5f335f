"""Accruing debts and writing them off: by whom, where, and never above the debt."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.scope import Scope, scoped_to
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.debts.operations import (
    account_in_own_city,
    accrue_debt,
    write_off_bad_debt,
    write_off_bad_debts,
    write_off_debt,
)
from crm.debts.queries import debts_of_subscriptions
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import base_account, house_account
from crm.protocol import Outcome
from crm.subscriptions.models import PlanAccount
from crm.subscriptions.operations import account_of
from tests.factories import (
    Network,
    house_balance,
    make_account,
    make_client,
    make_plan,
    make_subscription,
    make_user,
)


@pytest.fixture
def account(network: Network) -> Account:
    """A base account 500 in debt."""
    client = make_client(network.lesnoy)
    with transaction():
        account = base_account(client.id, network.lesnoy.id)
        accrue_debt(account, amount=Decimal(500), reason="Долг", by=SYSTEM)
    return account


def test_an_accrued_debt_goes_below_zero_with_its_reason(network: Network, account: Account) -> None:
    with transaction():
        done = accrue_debt(account, amount=Decimal("100.50"), reason="  Порванный  мат ", by=network.director)
    assert account.balance == Decimal("-600.50")
    assert (done.kind, done.comment, done.author_id) == (TransactionKind.DEBT, "Порванный мат", network.director.id)
    assert done.client_id == account.client_id
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == Decimal("-600.50")


def test_a_forgiven_debt_is_taken_back_from_the_revenue(network: Network, account: Account) -> None:
    with transaction():
        done = write_off_debt(account, amount=Decimal(200), reason="Ошибка", by=network.director)
    assert (account.balance, done.kind) == (-300, TransactionKind.DEBT_WRITE_OFF)
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == -300


@pytest.mark.spec("C113")
def test_a_bad_debt_is_written_off_whole_as_a_loss(network: Network, account: Account) -> None:
    with transaction():
        done = write_off_bad_debt(account, comment="Переехал", by=network.director)
    assert (account.balance, done.kind, done.comment) == (0, TransactionKind.BAD_DEBT, "Переехал")
    assert house_balance(AccountKind.BAD_DEBT, network.lesnoy) == 500
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == -500


@pytest.mark.parametrize("write_off", [write_off_debt, write_off_bad_debt])
def test_what_a_subscription_owes_on_its_own_account_is_written_off(network: Network, write_off: Any) -> None:
    sold = make_subscription(make_client(network.lesnoy), make_plan(account=PlanAccount.SEPARATE))
    own = account_of(sold, sold.client)
    assert own.balance == -4000
    more = {"reason": "Ошибка"} if write_off is write_off_debt else {}
    with transaction():
        write_off(own, amount=Decimal(1000), by=network.director, **more)
    assert own.balance == -3000
    assert debts_of_subscriptions([sold.id]) == {sold.id: 3000}
    with transaction():
        lines = write_off_bad_debts([own.id], by=network.director)
        lines += write_off_bad_debts([own.id], by=network.director)
    assert (own.balance, [line.outcome for line in lines]) == (0, [Outcome.DONE, Outcome.SKIPPED])
    assert debts_of_subscriptions([sold.id]) == {}


def test_a_debt_is_accrued_on_the_base_account_alone(network: Network) -> None:
    sold = make_subscription(make_client(network.lesnoy), make_plan(account=PlanAccount.SEPARATE))
    with pytest.raises(DomainError) as refused:
        accrue_debt(account_of(sold, sold.client), amount=Decimal(1), reason="Долг", by=SYSTEM)
    assert refused.value.code == "not_base"


def test_a_part_of_a_bad_debt_may_be_written_off(account: Account) -> None:
    with transaction():
        write_off_bad_debt(account, amount=Decimal("0.01"), by=SYSTEM)
    assert account.balance == Decimal("-499.99")


@pytest.mark.parametrize("amount", [Decimal("500.01"), Decimal("100000000")])
@pytest.mark.parametrize("write_off", [write_off_debt, write_off_bad_debt])
def test_nothing_above_the_debt_is_written_off(account: Account, amount: Decimal, write_off: Any) -> None:
    more = {"reason": "Долг"} if write_off is write_off_debt else {}
    with pytest.raises(DomainError) as refused:
        write_off(account, amount=amount, by=SYSTEM, **more)
    assert (refused.value.code, refused.value.field) == ("above_debt", "amount")
    db.session.rollback()
    assert account.balance == -500


@pytest.mark.parametrize("amount", [Decimal(0), Decimal("-1"), Decimal("0.001")])
def test_a_sum_is_above_zero(account: Account, amount: Decimal) -> None:
    for operation, more in (
        (accrue_debt, {"reason": "x"}),
        (write_off_debt, {"reason": "x"}),
        (write_off_bad_debt, {}),
    ):
        with pytest.raises(DomainError) as refused:
            operation(account, amount=amount, by=SYSTEM, **more)  # type: ignore[operator]
        assert (refused.value.code, refused.value.field) == ("amount_invalid", "amount")


@pytest.mark.parametrize("operation", [accrue_debt, write_off_debt])
def test_a_correction_needs_its_reason(account: Account, operation: Any) -> None:
    with pytest.raises(DomainError) as refused:
        operation(account, amount=Decimal(1), reason="  ", by=SYSTEM)
    assert refused.value.field == "reason"


def test_there_is_nothing_to_write_off_without_debt(network: Network) -> None:
    account = base_account(make_client(network.lesnoy).id, network.lesnoy.id)
    with pytest.raises(DomainError) as refused:
        write_off_bad_debt(account, by=SYSTEM)
    assert refused.value.code == "no_debt"


def test_a_deposit_is_never_in_debt(network: Network) -> None:
    deposit = make_account(make_client(network.lesnoy), balance=100)
    with pytest.raises(DomainError) as refused:
        accrue_debt(deposit, amount=Decimal(1), reason="Долг", by=SYSTEM)
    assert refused.value.code == "not_base"
    assert deposit.balance == 100


def test_a_closed_account_is_left_alone(network: Network, account: Account) -> None:
    with transaction():
        write_off_bad_debt(account, by=SYSTEM)
        account.closed_at = account.opened_at
    with pytest.raises(DomainError) as refused:
        accrue_debt(account, amount=Decimal(1), reason="Долг", by=SYSTEM)
    assert refused.value.code == "account_closed"


@pytest.mark.spec("C113")
def test_the_debts_of_archived_clients_are_written_off_too(network: Network, account: Account) -> None:
    with transaction():
        archive_client(account.client, by=SYSTEM)
        write_off_bad_debt(account, by=SYSTEM)
    assert account.balance == 0


def test_of_two_who_write_it_off_at_once_one_wins(
    network: Network, account: Account, in_parallel: Callable[..., list[Any]]
) -> None:
    account_id = account.id

    def one(_index: int) -> str:
        with transaction():
            return str(write_off_bad_debt(db.session.get_one(Account, account_id), by=SYSTEM).kind)

    results = in_parallel(one, 4)
    assert sorted(r.code if isinstance(r, DomainError) else r for r in results) == ["bad_debt", *["no_debt"] * 3]
    db.session.expire_all()
    assert account.balance == 0
    assert house_balance(AccountKind.BAD_DEBT, network.lesnoy) == 500


ROLES_WITH = {Role.OWNER, Role.REGIONAL_DIRECTOR, Role.DIRECTOR}


@pytest.mark.spec("C81", "C141")
def test_only_in_one_s_own_city(network: Network) -> None:
    """The regional director of Moscow, and the owner who works in a branch of Moscow now, with an account in Samara."""
    client = make_client(network.mira)
    with transaction():
        account = base_account(client.id, network.mira.id)
        accrue_debt(account, amount=Decimal(500), reason="Долг", by=SYSTEM)
    moscow = Scope(frozenset({network.lesnoy.id, network.rechnoy.id}))
    for by in (network.regional, network.director, network.owner):
        for operation, more in (
            (accrue_debt, {"amount": Decimal(1), "reason": "x"}),
            (write_off_debt, {"amount": Decimal(1), "reason": "x"}),
            (write_off_bad_debt, {}),
        ):
            with scoped_to(moscow), pytest.raises(Forbidden) as refused:
                operation(account, by=by, **more)  # type: ignore[operator]
            assert refused.value.code == "foreign_city"
            assert "Самара" in str(refused.value)
    with scoped_to(Scope(frozenset({network.mira.id}))), transaction():
        write_off_bad_debt(account, by=network.owner)
    assert account.balance == 0


def test_a_branch_of_one_s_city_one_does_not_work_in_now_is_out_of_sight(network: Network) -> None:
    with transaction():
        account = base_account(make_client(network.rechnoy).id, network.rechnoy.id)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))), pytest.raises(NotFound):
        accrue_debt(account, amount=Decimal(1), reason="x", by=network.director)


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_what_the_table_gives(network: Network, account: Account, role: Role) -> None:
    user = next(user for user in network.users if user.role is role)
    for operation, more in (
        (accrue_debt, {"amount": Decimal(1), "reason": "x"}),
        (write_off_debt, {"amount": Decimal(1), "reason": "x"}),
        (write_off_bad_debt, {}),
    ):
        if role in ROLES_WITH:
            with transaction():
                operation(account, by=user, **more)  # type: ignore[operator]
        else:
            with pytest.raises(Forbidden):
                operation(account, by=user, **more)  # type: ignore[operator]


def test_an_account_elsewhere_is_named_only_to_who_sees_its_card(network: Network) -> None:
    merged, stranger = make_client(network.lesnoy), make_client(network.mira)
    with transaction():
        accounts = [
            base_account(client.id, branch.id)
            for client, branch in ((merged, network.lesnoy), (merged, network.mira), (stranger, network.mira))
        ]
    own, theirs, foreign = (account.id for account in accounts)
    here = Scope(frozenset({network.lesnoy.id}))
    db.session.expunge_all()  # a request begins with nothing read
    with scoped_to(here):
        assert account_in_own_city(own).id == own
        with pytest.raises(Forbidden) as refused:
            account_in_own_city(theirs)
        assert refused.value.code == "foreign_city"
        for hidden in (foreign, 10**9):
            with pytest.raises(NotFound):
                account_in_own_city(hidden)


def test_a_house_account_is_nobody_s_debt(network: Network, account: Account) -> None:
    revenue = house_account(AccountKind.REVENUE, network.lesnoy.id)
    with pytest.raises(NotFound):
        account_in_own_city(revenue.id)


def test_a_director_of_another_city_sees_nothing_to_write_off(network: Network, account: Account) -> None:
    stranger = make_user(Role.DIRECTOR, branches=[network.mira])
    with scoped_to(Scope(frozenset({network.mira.id}))), pytest.raises(Forbidden):
        write_off_bad_debt(account, by=stranger)
    assert account.balance == -500
