"""Taking a bill's payment in person, on the screen."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from crm.bills.models import BillStatus
from crm.db import db, transaction
from crm.ledger.operations import base_account
from tests.factories import make_account, make_bill, make_client


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
