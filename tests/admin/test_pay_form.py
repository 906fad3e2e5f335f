"""Taking a bill's payment in person, on the screen."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.bills.models import BillStatus
from crm.db import db, transaction
from crm.ledger.operations import base_account
from crm.payments.desk import close_account
from crm.payments.models import Payment
from crm.tills.models import TillKind
from crm.tills.operations import new_till
from crm.tills.queries import money_in
from tests.admin.world import send
from tests.factories import make_account, make_bill, make_child, make_client


def test_without_money_on_another_account_only_cash_and_card_are_offered(network: Any, web: Any) -> None:
    with transaction():
        bill = make_bill(make_client(network.lesnoy))
    page = web(network.administrator, network.lesnoy).get(f"/admin/bill/pay/?id={bill.id}").text
    assert "Наличными" in page
    assert "Картой" in page
    assert "Со счета клиента" not in page


@pytest.mark.spec("A2")
def test_a_clerk_pays_a_bill_from_the_deposit(network: Any, web: Any) -> None:
    with transaction():
        payer = make_client(network.lesnoy)
        deposit = make_account(payer, balance=Decimal("900.00"))
        bill = make_bill(payer, amount=Decimal("400.00"), account=base_account(payer.id, payer.branch_id))
    browser = web(network.administrator, network.lesnoy)
    assert "Со счета клиента" in browser.get(f"/admin/bill/pay/?id={bill.id}").text
    answer = browser.post(f"/admin/bill/pay/?id={bill.id}", data={"method": "account", "account": str(deposit.id)})
    assert answer.status_code == 302
    db.session.expire_all()
    assert (bill.status, deposit.balance) == (BillStatus.PAID, Decimal("500.00"))


@pytest.mark.spec("A3")
def test_a_childs_bill_is_paid_from_the_parents_deposit(network: Any, web: Any) -> None:
    with transaction():
        parent = make_client(network.lesnoy)
        deposit, closed = make_account(parent, balance=Decimal("900.00")), make_account(parent)
        close_account(closed, by=SYSTEM)
        bill = make_bill(make_child(parent), amount=Decimal("400.00"))
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/bill/pay/?id={bill.id}"
    page = browser.get(path).text
    assert f'value="{deposit.id}"' in page
    assert f'value="{closed.id}"' not in page
    answer = send(browser, path, method="account", account=str(deposit.id), comment="За ноябрь")
    assert answer.status_code == 302
    assert "/admin/entry/receipt/" in browser.get(answer.location).text
    db.session.expire_all()
    assert (bill.status, deposit.balance, bill.account.balance) == (BillStatus.PAID, 500, 400)
    assert db.session.scalars(select(Payment.comment).where(Payment.bill_id == bill.id)).all() == ["За ноябрь"]


def test_cash_goes_into_the_chosen_desk(network: Any, web: Any) -> None:
    with transaction():
        bill = make_bill(make_client(network.lesnoy), amount=Decimal("400.00"))
        new_till(TillKind.CASH, network.lesnoy.id)
        bar = new_till(TillKind.CASH, network.lesnoy.id, name="Бар")
    answer = send(
        web(network.administrator, network.lesnoy), f"/admin/bill/pay/?id={bill.id}", method="cash", till=str(bar.id)
    )
    assert answer.status_code == 302
    assert money_in(bar) == 400


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_hidden_balances_are_not_in_the_choice_of_accounts(network: Any, web: Any) -> None:
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    with transaction():
        payer = make_client(network.lesnoy)
        make_account(payer, balance=Decimal("777.31"))
        bill = make_bill(payer, amount=Decimal("400.00"))
        change_role(settings, permissions={}, fields={"account.balance": FieldRule.HIDE}, by=network.owner)
    page = web(network.administrator, network.lesnoy).get(f"/admin/bill/pay/?id={bill.id}").text
    assert "Со счета клиента" in page
    assert "777,31" not in page
    assert "777.31" not in page
