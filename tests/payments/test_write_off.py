"""Money taken off a client's account for a reason."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import base_account, lessons_account
from crm.payments.desk import write_off
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from tests.factories import house_balance, make_account, make_client, make_employee


def refusal(error: type[DomainError], *args: Any, **changes: Any) -> tuple[str, str | None]:
    """Code and field of the refused write-off."""
    facts: dict[str, Any] = {"amount": Decimal(10), "reason": "Утеряна карта", "by": SYSTEM, **changes}
    with pytest.raises(error) as caught, transaction():
        write_off(*args, **facts)
    return caught.value.code, caught.value.field


def test_the_sum_goes_to_the_revenue_and_the_reason_stays(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=Decimal("100.50"))
    with transaction():
        done = write_off(
            account,
            amount=Decimal("100.50"),
            reason=" Утеряна карта ",
            by=network.administrator,
            employee=network.employee,
        )
    assert account.balance == 0
    assert house_balance(AccountKind.REVENUE, network.lesnoy) == Decimal("-100.50")  # a claim on the business: earned
    assert (done.kind, done.comment, done.author_id) == (
        TransactionKind.WRITE_OFF,
        "Утеряна карта",
        network.administrator.id,
    )
    assert (done.client_id, done.employee_id) == (account.client_id, network.employee.id)


@pytest.mark.parametrize("amount", ["0", "-1", "100000000.01"])
def test_only_a_sum_that_can_be(network: Any, amount: str) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    assert refusal(DomainError, account, amount=Decimal(amount)) == ("amount_invalid", "amount")
    assert account.balance == 100


def test_a_reason_is_required(network: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=100)
    assert refusal(DomainError, account, reason="  ") == ("reason_required", "reason")


def test_neither_a_deposit_nor_a_base_account_falls_below_zero(network: Any) -> None:
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=Decimal("9.99"))
    with transaction():
        base = base_account(client.id, client.branch_id)
        top_up(base, amount=Decimal("9.99"), method=PaymentMethod.CASH, by=SYSTEM)
    for account in (deposit, base):
        assert refusal(DomainError, account) == ("not_enough", "amount")
        assert account.balance == Decimal("9.99")


def test_not_lessons_not_another_branch_not_without_the_right(network: Any) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client, balance=100)
    with transaction():
        lessons = lessons_account(client.id, client.branch_id)
    assert refusal(NotFound, lessons)[0] == "not_found"
    assert refusal(Forbidden, account, by=network.manager)[0] == "forbidden"
    stranger = make_employee(network.rechnoy)
    assert refusal(DomainError, account, employee=stranger) == ("employee_unavailable", "employee")


def test_two_at_once_do_not_take_the_same_rouble(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    account_id = make_account(make_client(network.lesnoy), balance=1).id

    def take(_index: int) -> str:
        with transaction():
            account = db.session.get_one(Account, account_id)
            return write_off(account, amount=Decimal(1), reason="Сбор", by=SYSTEM).comment

    results = in_parallel(take, 4)
    assert results.count("Сбор") == 1
    assert sorted(error.code for error in results if isinstance(error, DomainError)) == ["not_enough"] * 3
    db.session.expire_all()
    assert db.session.get_one(Account, account_id).balance == 0
