"""What a role does not see is not told by the search, nor by pages that show several entities."""

from __future__ import annotations

import html
import io
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.clients.models import PhoneKind
from crm.contacts.models import Channel, Contact
from crm.db import db, transaction
from crm.ledger.models import Entry
from crm.ledger.operations import base_account
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRunLine,
    Message,
    MessageStatus,
    Provider,
    ProviderKind,
)
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.phones import format_phone
from crm.subscriptions.models import PlanAccount
from tests.access.test_roles import settings_of
from tests.admin.world import errors, send
from tests.factories import (
    make_account,
    make_bill,
    make_client,
    make_lesson,
    make_message,
    make_payment,
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


def dry_run_of(staff: Any, rule: Any) -> tuple[str, set[str]]:
    """The page of «Кого коснётся» and the cells of its file."""
    path = f"/admin/mailingrule/preview/?id={rule.id}"
    book = openpyxl.load_workbook(io.BytesIO(staff.get(path.replace("preview/", "preview/xlsx/")).data))
    return staff.get(path).text.replace("\xa0", ""), {str(cell) for row in book.active.values for cell in row}


def test_a_dry_run_tells_what_a_role_sees_and_no_sums_of_what_it_does_not(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(price=Decimal("7123.45")))
    bills = make_rule(network.lesnoy)
    debts = make_rule(network.lesnoy, kind=MailingKind.DEBT, template=make_template(body="Долг"))
    staff = web(network.director)

    def told(rule: Any) -> list[bool]:
        page, cells = dry_run_of(staff, rule)
        return ["7123,45" in page, "7123.45" in cells]

    def without(permission: str) -> None:
        with transaction():
            change_role(settings_of(Role.DIRECTOR), permissions={permission: False}, fields={}, by=SYSTEM)

    assert (told(bills), told(debts)) == ([True, True], [True, True])
    without("bill.view")
    assert (told(bills), told(debts)) == ([False, False], [True, True])
    without("account.view")
    assert (told(bills), told(debts)) == ([True, True], [False, False])
    # What came and what went away tell the balance as well.
    hide("account.debited", "bill.amount", role=Role.DIRECTOR)
    assert (told(bills), told(debts)) == ([False, False], [False, False])


@pytest.mark.parametrize("money_from", [None, 10_000])
def test_why_nothing_is_billed_tells_no_balance(network: Any, web: Any, money_from: int | None) -> None:
    """Neither in the dry run nor in the protocol of a run, whoever reads them: the reason holds no figure."""
    client = make_client(network.lesnoy)
    make_payment(base_account(client.id, network.lesnoy.id), Decimal("7123.45"))
    make_lesson(network.lesnoy, client)
    method = BillingMethod.FORECAST if money_from is None else BillingMethod.SUBSCRIPTION
    if money_from is not None:
        make_subscription(client, make_plan(price=Decimal(100), account=PlanAccount.BASE))
    rule = make_rule(network.lesnoy, method=method, money_from=money_from, accounts=BilledAccounts.BASE)
    staff = web(network.director)
    page, cells = dry_run_of(staff, rule)
    with transaction():
        run = run_now(rule, by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    line = db.session.scalars(select(MailingRunLine)).one()
    assert line.reason
    assert line.reason in cells
    protocol = staff.get(f"/admin/mailingrun/details/?id={run.id}").text.replace("\xa0", "")
    assert html.escape(line.reason) in protocol
    for text in (page, line.reason.replace("\xa0", ""), protocol, *cells):
        assert [sum for sum in ("7123,45", "7023,45", "7123.45", "7023.45") if sum in text] == []


@pytest.mark.parametrize("channel", [Channel.TELEGRAM, Channel.PUSH])
def test_where_a_bot_or_a_browser_reaches_a_client_is_in_no_file(network: Any, web: Any, channel: Channel) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        db.session.add(Contact(client_id=client.id, channel=channel, address="990017263", changed_at=clock.now()))
        if channel is Channel.TELEGRAM:
            telegram = Provider(company_id=network.company.id, channel=channel, kind=ProviderKind.TELEGRAM)
            telegram.secret, telegram.token, telegram.created_at = "1:a", "t", clock.now()
            db.session.add(telegram)
    template = make_template(channel=Channel.SMS, subject="", body="Привет")
    rule = make_rule(network.lesnoy, kind=MailingKind.TEXT, template=template, channel=channel)
    _page, cells = dry_run_of(web(network.director), rule)
    assert str(channel.label) in cells
    assert not {"990017263", str(client.id)} & cells


@pytest.fixture
def told_letter(network: Any) -> Message:
    """A letter that tells a debt, and what a server has said of its address."""
    client = make_client(network.lesnoy, name="Ивлева Нина", email="nina@example.com")
    return make_message(
        client,
        subject="Долг 7123,45",
        body="Ваш долг: 7123,45",
        tags=["customer.name", "debt.amount"],
        status=MessageStatus.FAILED,
        error="550 <Nina@example.com>: нет такого ящика",
    )


LETTERS = "/admin/message/"


def pages_of(letter: Message) -> list[str]:
    card = f"/admin/client/card/{letter.client_id}/?tab=messages"
    return [LETTERS, f"{LETTERS}details/?id={letter.id}", card]


def letters_file(staff: Any) -> str:
    book = openpyxl.load_workbook(io.BytesIO(staff.get(f"{LETTERS}export/xlsx/").data))
    return " ".join(str(cell) for row in book.active.values for cell in row)


def test_the_text_of_a_message_tells_no_hidden_sum(network: Any, web: Any, told_letter: Message) -> None:
    staff = web(network.administrator, network.lesnoy)
    other = make_message(told_letter.client, body="Ждём вас", tags=["customer.name"])
    seen = [*(staff.get(path).text for path in pages_of(told_letter)), letters_file(staff)]
    assert ["7123,45" in text for text in seen] == [True] * 4
    assert "Ивлева" in staff.get(LETTERS, query_string={"f.body.has": "7123,45"}).text
    hide("account.balance")
    seen = [*(staff.get(path).text for path in pages_of(told_letter)), letters_file(staff)]
    assert ["7123,45" in text for text in seen] == [False] * 4
    assert ["••••••" in text for text in seen] == [True] * 4
    assert other.body in seen[0]
    assert other.body in seen[3]
    assert 'name="f.body.has"' not in seen[0], "a filter would tell it"
    page = staff.post(f"{LETTERS}action/", data={"action": "resend", "id": str(told_letter.id)}).text
    assert "7123,45" not in page


def test_a_servers_words_tell_no_hidden_address(network: Any, web: Any, told_letter: Message) -> None:
    staff = web(network.administrator, network.lesnoy)
    assert "Nina@example.com" in staff.get(LETTERS).text
    hide("client.email")
    seen = [*(staff.get(path).text for path in pages_of(told_letter)), letters_file(staff)]
    assert ["nina@example" in text.lower() for text in seen] == [False] * 4
    assert ["нет такого ящика" in text for text in seen] == [True] * 4


@pytest.mark.parametrize("path", ["/admin/client/card/{}/message/new/?to=email", "/admin/template/new/"])
def test_hidden_tags_are_not_offered(network: Any, web: Any, path: str) -> None:
    staff = web(network.regional, network.lesnoy)
    path = path.format(make_client(network.lesnoy).id)
    tag = '<code class="tag">{customer.phone}</code>'
    assert tag in staff.get(path).text
    hide("client.phone", role=Role.REGIONAL_DIRECTOR)
    page = staff.get(path).text
    assert tag not in page
    assert '<code class="tag">{customer.name}</code>' in page


def test_a_hidden_tag_is_refused_beside_the_text(network: Any, web: Any) -> None:
    staff, client = web(network.administrator, network.lesnoy), make_client(network.lesnoy, phone="+79135550142")
    path = f"/admin/client/card/{client.id}/message/new/?to=email"
    typed = {"subject": "Ваш телефон", "text": "Это {customer.phone}?"}
    assert "555-01-42" in send(staff, path, step="preview", **typed).text
    hide("client.phone")
    for step in ("preview", "send"):
        page = send(staff, path, step=step, **typed)
        assert (page.status_code, list(errors(page.text))) == (422, ["text"])
        assert "{customer.phone}" in errors(page.text)["text"]
        assert "555-01-42" not in page.text
    assert db.session.scalars(select(Message)).all() == []


def test_an_extra_phone_is_not_told_for_the_other(network: Any, web: Any) -> None:
    """A mailing goes to the mobile one of a card's two phones."""
    make_client(network.lesnoy, phone="+73832000142", phone_kind=PhoneKind.WORK, extra_phone="+79135550143")
    template = make_template(channel=Channel.SMS, subject="", body="Привет")
    rule = make_rule(network.lesnoy, kind=MailingKind.TEXT, template=template)
    staff, told = web(network.director), format_phone("+79135550143")
    assert told in dry_run_of(staff, rule)[1]
    hide("client.extra_phone", role=Role.DIRECTOR)
    cells = dry_run_of(staff, rule)[1]
    assert str(Channel.SMS.label) in cells
    assert told not in cells
