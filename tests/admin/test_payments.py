"""The list of payments and what its total says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.payments.models import Payment, PaymentStatus
from crm.payments.operations import pay_bill_from_account
from tests.admin.test_grids import headers, money, table, totals
from tests.factories import make_account, make_bill, make_client, make_payment


def test_the_total_is_the_money_received(network: Any, web: Any) -> None:
    """Not what was only begun or canceled, nor the same money once more when it moves between a client's accounts."""
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=500)
    make_payment(deposit, 30)
    with transaction():
        pay_bill_from_account(make_bill(client, amount=Decimal(100)), deposit, by=SYSTEM)
    for status in (PaymentStatus.PENDING, PaymentStatus.CANCELED):
        unfinished = make_payment(deposit, 7)
        with transaction():
            db.session.add(
                Payment(
                    branch_id=unfinished.branch_id,
                    client_id=client.id,
                    account_id=deposit.id,
                    method=unfinished.method,
                    status=status,
                    amount=Decimal(1000),
                    created_at=unfinished.created_at,
                    author_name="bank",
                )
            )
    browser = web(network.owner)
    page = browser.get("/admin/payment/").text
    place = headers(page).index("Сумма")
    assert sum(money(row[place]) for row in table(page)) == Decimal(2644)
    assert money(totals(page)[place]) == Decimal(544)
    page = browser.get("/admin/payment/?f.status.is=pending").text
    assert money(totals(page)[place]) == 0
