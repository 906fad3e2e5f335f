"""What a role does not see is not told by the search, nor by pages that show several entities."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.models import Entry
from tests.access.test_roles import settings_of
from tests.factories import make_account, make_bill, make_client, make_shift, make_till


def hide(*fields: str) -> None:
    with transaction():
        rules = dict.fromkeys(fields, FieldRule.HIDE)
        change_role(settings_of(Role.ADMINISTRATOR), permissions={}, fields=rules, by=SYSTEM)


@pytest.mark.parametrize("path", ["/admin/client/?q={}", "/admin/bill/?q={}", "/admin/account/?q={}"])
def test_a_hidden_phone_finds_nobody(network: Any, web: Any, path: str) -> None:
    client = make_client(network.lesnoy, name="Ивлева Нина", phone="+79135550142")
    make_bill(client, account=make_account(client))
    staff = web(network.administrator)
    assert "Ивлева" in staff.get(path.format("5550142")).text
    hide("client.phone")
    assert "Ивлева" not in staff.get(path.format("5550142")).text
    assert "Ивлева" not in staff.get(path.format("8 913 555-01-42")).text
    assert "Ивлева" in staff.get(path.format("ивлев нин")).text


def test_what_is_seen_is_still_searched(network: Any, web: Any) -> None:
    make_client(network.lesnoy, name="Ивлева Нина", phone="+79135550142", email="nina@example.com")
    hide("client.email")
    staff = web(network.administrator)
    assert "Ивлева" in staff.get("/admin/client/?q=913 555").text
    assert "Ивлева" not in staff.get("/admin/client/?q=nina@").text


def test_hidden_sums_are_not_on_the_card(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client, balance=Decimal("7123.45"))
    make_bill(client, amount=Decimal("3456.78"))
    hide("account.balance", "account.credited", "bill.amount")
    staff = web(network.administrator)
    pages = [f"/admin/client/card/{client.id}/?tab={tab}" for tab in ("main", "accounts", "bills")]
    for page in (*pages, f"/admin/account/details/?id={account.id}"):
        text = staff.get(page).text.replace("\xa0", "")
        assert "7123,45" not in text, page
        assert "3456,78" not in text, page


@pytest.mark.parametrize("field", ["balance", "credited", "debited"])
@pytest.mark.parametrize("tab", ["main", "accounts"])
def test_the_card_keeps_a_balance_that_could_be_reckoned(network: Any, web: Any, field: str, tab: str) -> None:
    client = make_client(network.lesnoy)
    make_account(client, balance=Decimal("4321.50"))
    address = f"/admin/client/card/{client.id}/?tab={tab}"
    assert "4\xa0321,50" in web(network.administrator).get(address).text
    hide(f"account.{field}")
    assert "4\xa0321,50" not in web(network.administrator).get(address).text


@pytest.mark.parametrize("field", ["balance", "credited", "debited"])
def test_one_hidden_sum_of_an_account_hides_those_that_tell_it(network: Any, web: Any, field: str) -> None:
    account = make_account(make_client(network.lesnoy), balance=Decimal("7123.45"))
    hide(f"account.{field}")
    staff = web(network.administrator)
    for page in ("/admin/account/", f"/admin/account/details/?id={account.id}"):
        assert "7123,45" not in staff.get(page).text.replace("\xa0", ""), page


def test_a_hidden_sum_of_operations_is_not_told_by_the_others(network: Any, web: Any) -> None:
    account = make_account(make_client(network.lesnoy), balance=Decimal("7123.45"))
    entry = db.session.scalars(select(Entry).where(Entry.account_id == account.id)).one()
    hide("entry.amount")
    staff = web(network.administrator)
    reverse = f"/admin/account/operation/{entry.transaction_id}/reverse/"
    for page in ("/admin/entry/", f"/admin/entry/details/?id={entry.id}", reverse):
        assert "7123,45" not in staff.get(page).text.replace("\xa0", ""), page


@pytest.mark.parametrize("field", ["payment.amount", "cashflow.amount"])
def test_hidden_movements_are_not_printed(network: Any, web: Any, field: str) -> None:
    shift = make_shift(make_till(network.lesnoy, money=500, uses_shifts=True))
    hide(field)
    assert web(network.administrator, network.lesnoy).get(f"/admin/shift/report/{shift.id}/").status_code == 403
