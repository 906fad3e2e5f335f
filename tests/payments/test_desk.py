"""Money taken at the desk."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.bills.models import BillStatus
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import top_up
from crm.tills.models import TillKind
from crm.tills.operations import new_till
from crm.tills.queries import money_in
from tests.factories import house_balance, make_account, make_account_type, make_bill, make_client


def test_the_first_money_of_a_branch_may_come_from_two_desks_at_once(network, in_parallel):
    """Both make the cash desk's account, then lock the same client's: in one order, or PostgreSQL deadlocks."""
    for _ in range(5):
        branch = make_branch(network)
        account_id = make_account(make_client(branch), make_account_type(branch)).id

        def send(_index: int, account_id: int = account_id) -> Decimal:
            with transaction():
                account = db.session.get_one(Account, account_id)
                return top_up(account, amount=Decimal(1), method=PaymentMethod.CASH, by=SYSTEM).amount

        assert in_parallel(send, 6) == [Decimal(1)] * 6


def make_branch(network) -> Branch:
    with transaction():
        branch = Branch(
            company_id=network.company.id,
            city_id=network.moscow.id,
            name=f"Новый {uuid4()}",
            time_zone="Europe/Moscow",
        )
        db.session.add(branch)
    return branch


@pytest.mark.spec("B4")
def test_a_bill_is_paid_at_the_desk_without_any_gateway(network):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        payment = top_up(bill.account, amount=bill.amount, method=PaymentMethod.CASH, bill=bill, by=SYSTEM)
    assert payment.status is PaymentStatus.SUCCEEDED
    assert bill.status is BillStatus.PAID
    assert bill.account.balance == bill.amount


def test_another_clients_bill_is_not_settled(network):
    bill, account = make_bill(make_client(network.lesnoy)), make_account(make_client(network.lesnoy))
    with pytest.raises(DomainError) as refused, transaction():
        top_up(account, amount=Decimal(5), method=PaymentMethod.CASH, bill=bill, by=SYSTEM)
    assert refused.value.code == "bill_foreign"
    assert db.session.scalars(select(Payment)).all() == []


@pytest.mark.spec("A28")
@pytest.mark.spec("X13")
def test_cash_and_cards_are_taken_by_every_clerk_bank_transfers_by_who_may_move_money(network):
    account = make_account(make_client(network.lesnoy))

    def take(method: PaymentMethod, by: Any) -> str:
        try:
            with transaction():
                top_up(account, amount=Decimal(10), method=method, by=by)
        except DomainError as refused:
            return f"{refused.code} {refused.field}"
        return "taken"

    methods = (PaymentMethod.CASH, PaymentMethod.CARD, PaymentMethod.BANK, PaymentMethod.ONLINE, PaymentMethod.ACCOUNT)
    assert {*PaymentMethod} == {*methods}
    refused = "method_required method"
    assert [take(method, network.administrator) for method in methods] == ["taken", "taken", *[refused] * 3]
    assert [take(method, network.director) for method in methods] == ["taken"] * 3 + [refused] * 2
    assert house_balance(AccountKind.BANK, network.lesnoy) == 10
    assert house_balance(AccountKind.TERMINAL, network.lesnoy) == 20


def test_into_the_chosen_till(network):
    account = make_account(make_client(network.lesnoy))
    with transaction():
        bar = new_till(TillKind.CASH, network.lesnoy.id, name="Бар")
        top_up(account, amount=Decimal(10), method=PaymentMethod.CASH, till=bar, by=network.administrator)
    assert (money_in(bar), house_balance(AccountKind.CASH, network.lesnoy)) == (10, 10)
    with pytest.raises(DomainError) as refused, transaction():
        top_up(account, amount=Decimal(10), method=PaymentMethod.CARD, till=bar, by=network.administrator)
    assert (refused.value.code, refused.value.field) == ("till_foreign", "till")
