"""What a role does not see is not told by the search, nor by pages that show several entities."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.clients.models import PhoneKind
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.ledger.models import Entry
from crm.mailings.models import MailingKind
from tests.access.test_roles import settings_of
from tests.factories import (
    make_account,
    make_bill,
    make_client,
    make_plan,
    make_rule,
    make_shift,
    make_subscription,
    make_template,
    make_till,
)


def hide(*fields: str, role: Role = Role.ADMINISTRATOR) -> None:
    with transaction():
        rules = dict.fromkeys(fields, FieldRule.HIDE)
        change_role(settings_of(role), permissions={}, fields=rules, by=SYSTEM)


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


def test_a_dry_run_of_a_mailing_tells_no_hidden_field(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, phone="+79135550142", email="nina@example.com")
    make_subscription(client, make_plan(price=Decimal("7123.45")))
    template = make_template(body="Ваш телефон: {customer.phone}")
    text = make_rule(network.lesnoy, kind=MailingKind.TEXT, template=template)
    debt = make_rule(network.lesnoy, kind=MailingKind.DEBT, template=make_template(body="Долг"))
    hide("client.phone", "account.balance", role=Role.DIRECTOR)
    staff = web(network.director)
    page = staff.get(f"/admin/mailingrule/preview/?id={text.id}").text
    assert "Ваш телефон" in page
    assert "555-01-42" not in page
    path = f"/admin/mailingrule/preview/?id={debt.id}"
    page = staff.get(path).text
    assert client.name in page
    assert "7123,45" not in page.replace("\xa0", "")
    book = openpyxl.load_workbook(io.BytesIO(staff.get(path.replace("preview/", "preview/xlsx/")).data))
    assert Decimal("7123.45") not in {cell for row in book.active.values for cell in row}


def test_an_extra_phone_is_not_told_for_the_other(network: Any, web: Any) -> None:
    """A mailing goes to the mobile one of a card's two phones."""
    make_client(network.lesnoy, phone="+73832000142", phone_kind=PhoneKind.WORK, extra_phone="+79135550143")
    template = make_template(channel=Channel.SMS, subject="", body="Привет")
    rule = make_rule(network.lesnoy, kind=MailingKind.TEXT, template=template)
    hide("client.extra_phone", role=Role.DIRECTOR)
    book = web(network.director).get(f"/admin/mailingrule/preview/xlsx/?id={rule.id}")
    cells = {cell for row in openpyxl.load_workbook(io.BytesIO(book.data)).active.values for cell in row}
    assert str(Channel.SMS.label) in cells
    assert "+79135550143" not in cells
