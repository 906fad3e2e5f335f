"""Money of an account pays within one city and one company, whatever it pays for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, Company
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.errors import DomainError
from crm.payments.operations import pay_bill_from_account
from crm.subscriptions.operations import sell_subscription
from crm.visits.models import WayToPay
from crm.visits.operations import pay_visit
from crm.visits.queries import accounts_to_pay_from
from tests.factories import make_account, make_bill, make_client, make_plan, make_visit


@pytest.fixture(params=["city_differs", "company_differs"])
def beyond(request: Any, network: Any) -> tuple[Branch, str]:
    """A branch money does not get to, and the code of why."""
    if request.param == "city_differs":
        return network.mira, request.param
    other = Company(name="Другая", legal_name="ООО «Другая»", inn="7700000010")
    with transaction():
        db.session.add(other)
        network.rechnoy.company = other
    return network.rechnoy, request.param


def test_an_account_out_of_reach_pays_for_nothing_and_is_not_offered(network: Any, web: Any, beyond: Any) -> None:
    branch, code = beyond
    client, gone = make_client(branch), make_client(network.lesnoy)
    deposit = make_account(gone, balance=5000)
    bill, visit, plan = make_bill(client), make_visit(client), make_plan(price=Decimal(100))
    with transaction():
        merge_clients(client, gone, by=SYSTEM)
    for pay in (
        lambda: pay_bill_from_account(bill, deposit, by=network.owner),
        lambda: pay_visit(visit, WayToPay.ACCOUNT, account=deposit, by=network.owner),
        lambda: sell_subscription(client, plan, starts_on=clock.today(branch), account=deposit, by=network.owner),
    ):
        with pytest.raises(DomainError) as caught, transaction():
            pay()
        assert (caught.value.code, caught.value.field) == (code, "account")
    db.session.expire_all()
    assert deposit.balance == 5000
    assert accounts_to_pay_from(visit) == []
    desk = web(network.owner, branch)
    for path in (
        f"/admin/bill/pay/?id={bill.id}",
        f"/admin/visit/pay/?id={visit.id}",
        f"/admin/client/card/{client.id}/subscription/new/",
    ):
        page = desk.get(path)
        assert page.status_code == 200
        assert 'name="account"' not in page.text, path


def test_within_one_city_and_company_another_branch_pays(network: Any) -> None:
    client, gone = make_client(network.rechnoy), make_client(network.lesnoy)
    deposit = make_account(gone, balance=1000)
    visit = make_visit(client, price=Decimal(700))
    with transaction():
        merge_clients(client, gone, by=SYSTEM)
    assert accounts_to_pay_from(visit) == [deposit]
    with transaction():
        pay_visit(visit, WayToPay.ACCOUNT, account=deposit, by=network.owner)
    assert deposit.balance == 300
