"""The grid of messages and the card's history of them: every column, filters, search, Excel, sent once more."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from flask import Flask
from sqlalchemy import insert

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.bills.models import Bill
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose
from crm.db import db, transaction
from crm.mailings.models import MailingRun, Message, MessageStatus, RunStatus, message_bill
from crm.security import on_behalf_of
from tests.access.test_roles import settings_of
from tests.admin.test_bulk_edit import go
from tests.admin.test_export import cells_of
from tests.admin.test_grids import counted, headers, plain, table
from tests.admin.world import row_counts, views
from tests.factories import make_bill, make_client, make_message, make_rule

GRID = "/admin/message/"
AT = datetime(2026, 1, 31, 20, 30, tzinfo=UTC)  # 23:30 at the branch


@pytest.fixture
def browser(network: Any, web: Any) -> Any:
    return web(network.director, network.lesnoy)


def made(network: Any, client: dict[str, Any] | None = None, **changes: Any) -> Message:
    """A message of a run about a bill, sent, with all there is to know of one."""
    facts = {"name": "Анна", "email": "anna@demo.test", "phone": "+79180000011"}
    client = make_client(network.lesnoy, **(facts if client is None else client))
    rule = make_rule(network.lesnoy, name="Счета на февраль")
    with transaction():
        run = MailingRun(rule_id=rule.id, branch_id=network.lesnoy.id, planned_at=AT, status=RunStatus.DONE)
        db.session.add(run)
    facts = {
        **{"channel": Channel.SMS, "kind": MessageKind.BILLS, "status": MessageStatus.DELIVERED, "sent_at": AT},
        **{"recipient": client.phone, "subject": "", "body": "Счёт выставлен", "author_name": "Мария Петрова"},
        **{"cost": Decimal("4.50"), "run_id": run.id, "bill_id": make_bill(client).id, "created_at": AT},
    }
    return make_message(client, **{**facts, **changes})


def tells_of(message: Message, number: int) -> list[Bill]:
    """So many bills besides its own that its text tells of; all of them."""
    further = [make_bill(message.client) for _number in range(number)]
    with transaction():
        told = [{"message_id": message.id, "bill_id": bill.id} for bill in further]
        db.session.execute(insert(message_bill), told)
    return [message.bill, *further]


def linked(page: str) -> list[str]:
    """Ids of the bills a page leads to."""
    return re.findall(r'href="/admin/bill/details/\?id=(\d+)"', page)


@pytest.mark.spec("D39", "D40", "D41", "D42", "D43", "D44")
def test_messages_over_all_channels_stand_in_one_grid(network: Any, browser: Any) -> None:
    message = made(network)
    client = message.client
    for channel in Channel:
        make_message(client, channel=channel, recipient="x", body=f"По каналу {channel.value}")
    page = browser.get(GRID).text
    told = dict(zip(headers(page), next(row for row in table(page) if "Счёт выставлен" in row), strict=True))
    assert {name: told[name] for name in ("Тип", "Канал", "Статус", "Время отправки", "Текст")} == {
        "Тип": "Счета",
        "Канал": "SMS",
        "Статус": "Доставлено",
        "Время отправки": "31.01.2026 23:30",
        "Текст": "Счёт выставлен",
    }
    assert {
        name: told[name] for name in ("Клиент", "Получатель", "Отправитель", "Стоимость", "Рассылка", "Счёт на оплату")
    } == {
        "Клиент": "Анна",
        "Получатель": "+7 918 000-00-11",
        "Отправитель": "Мария Петрова",
        "Стоимость": "4,50",
        "Рассылка": "Счета на февраль",
        "Счёт на оплату": message.bill.title,
    }
    for channel in Channel:
        assert f"По каналу {channel.value}" in page
    details = plain(browser.get(f"{GRID}details/?id={message.id}").text)
    for text in (
        "Счета на февраль",
        f"#{message.run_id}",
        "31.01.2026 23:30",
        "4,50",
        "Мария Петрова",
        "Счёт выставлен",
    ):
        assert text in details


def test_each_column_filters(network: Any, browser: Any) -> None:
    message = made(network)
    make_message(make_client(network.lesnoy), body="Другое")
    filters = {
        "kind.is": "bills",
        "channel.is": "sms",
        "status.is": "delivered",
        "created_at.to": "2026-01-31",
        "sent_at.from": "2026-01-31",
        "client.is": message.client_id,
        "author_name.has": "петрова",
        "body.has": "выставлен",
        "recipient.has": "918000001",
        "rule.is": message.run.rule_id,
        "run.is": message.run_id,
        "bill.is": message.bill.title,
        "cost.from": "4,5",
    }
    for name, value in filters.items():
        page = browser.get(GRID, query_string={f"f.{name}": value}).text
        assert ("Счёт выставлен" in page, "Другое" in page) == (True, False), name
    page = browser.get(GRID, query_string={"f.rule.empty": "1"}).text
    assert ("Счёт выставлен" in page, "Другое" in page) == (False, True)
    for text, shown in (("анна", True), ("0000011", True), ("nobody", False)):
        assert ("Счёт выставлен" in browser.get(GRID, query_string={"q": text}).text) is shown, text


def test_all_bills_a_message_tells_of_are_its_bills(network: Any, browser: Any) -> None:
    message = made(network)
    bills = tells_of(message, 3)
    about_one, about_none = made(network, {}, body="Об одном"), make_message(message.client, body="Ни о чём")
    ids, titles = [str(bill.id) for bill in bills], [bill.title for bill in bills]
    page = browser.get(GRID, query_string={"f.client.is": message.client_id}).text
    assert linked(page) == ids[:2]
    told = next(row for row in table(page) if "Счёт выставлен" in row)
    assert told[headers(page).index("Счёт на оплату")] == f"{titles[0]} , {titles[1]} +2"
    assert f'href="{GRID}details/?id={message.id}" title="{titles[2]}, {titles[3]}">+2</a>' in page
    assert linked(browser.get(f"{GRID}details/?id={message.id}").text) == ids
    card = browser.get(f"/admin/client/card/{message.client_id}/?tab=messages").text
    assert linked(card) == ids[:2]
    assert ">+2</a>" in card
    assert linked(browser.get(f"{GRID}details/?id={about_one.id}").text) == [str(about_one.bill_id)]
    assert linked(browser.get(f"{GRID}details/?id={about_none.id}").text) == []


def test_a_bills_number_finds_every_message_that_tells_of_it(network: Any, browser: Any) -> None:
    message = made(network)
    first, second, third = tells_of(message, 2)
    other = made(network, {}, body="О другом")
    make_message(message.client, body="Ни о чём")

    def found(**filters: str) -> set[str]:
        page = browser.get(GRID, query_string={f"f.bill.{name}": value for name, value in filters.items()}).text
        return {row[headers(page).index("Текст")] for row in table(page)}

    for bill in (first, second, third):
        assert found(**{"is": bill.title}) == {"Счёт выставлен"}
        assert found(**{"is": f" {bill.number} "}) == {"Счёт выставлен"}
        assert found(**{"not": bill.title}) == {"О другом", "Ни о чём"}
    assert found(**{"is": other.bill.title}) == {"О другом"}
    assert found(empty="1") == {"Ни о чём"}
    assert found(empty="0") == {"Счёт выставлен", "О другом"}
    assert found(**{"is": f"{third.year + 1}-{third.number:06d}"}) == set()
    page = browser.get(GRID, query_string={"f.bill.is": third.title}).text
    assert f"Счёт на оплату: {third.title}" in plain(page)
    for text in ("счёт", "2026-", "-1", "1-2-3", "٣", "9" * 12):
        page = browser.get(GRID, query_string={"f.bill.is": text}).text
        assert "chip-bad" in page, text
        assert "О другом" in page, text


def test_a_bill_out_of_sight_is_not_told_of(network: Any, web: Any) -> None:
    """A client has moved: his bills of the branch before stay there, its people look at those alone."""
    message = made(network)
    bills = tells_of(message, 2)
    with transaction():
        bills[0].branch_id = network.mira.id
    ids = [str(bill.id) for bill in bills]
    here, everywhere = web(network.director, network.lesnoy), web(network.owner)
    for path in (GRID, f"{GRID}details/?id={message.id}", f"/admin/client/card/{message.client_id}/?tab=messages"):
        assert linked(here.get(path).text) == ids[1:], path
    assert linked(everywhere.get(f"{GRID}details/?id={message.id}").text) == ids


def test_who_sees_no_bills_is_led_to_none(network: Any, web: Any) -> None:
    message = made(network)
    bills = tells_of(message, 2)
    with transaction():
        change_role(settings_of(Role.ADMINISTRATOR), permissions={"bill.view": False}, fields={}, by=SYSTEM)
    staff = web(network.administrator, network.lesnoy)
    page = staff.get(f"{GRID}details/?id={message.id}").text
    assert linked(page) == []
    assert bills[2].title in page
    with transaction():
        change_role(settings_of(Role.ADMINISTRATOR), permissions={}, fields={"message.bill": FieldRule.HIDE}, by=SYSTEM)
    for path in (GRID, f"{GRID}details/?id={message.id}", f"/admin/client/card/{message.client_id}/?tab=messages"):
        page = staff.get(path).text
        assert [bill.title for bill in bills if bill.title in page] == [], path


def test_a_bill_lists_every_message_that_tells_of_it(network: Any, web: Any, browser: Any) -> None:
    message = made(network)
    bills = tells_of(message, 1)
    made(network, {}, body="О другом")
    for bill in bills:
        page = browser.get(f"/admin/bill/details/?id={bill.id}").text
        (row,) = [cells for cells in table(page) if "Счёт выставлен" in cells]
        assert row[:4] == ["31.01.2026 23:30", "Счета", "SMS", "Доставлено"]
        assert f'href="{GRID}details/?id={message.id}"' in page
        assert "О другом" not in page
    page = browser.get(f"/admin/bill/details/?id={make_bill(message.client).id}").text
    assert f"{GRID}details/" not in page
    with transaction():
        change_role(settings_of(Role.DIRECTOR), permissions={"message.view": False}, fields={}, by=SYSTEM)
    page = browser.get(f"/admin/bill/details/?id={bills[0].id}").text
    assert "Счёт выставлен" not in page


def test_the_grid_goes_to_excel(network: Any, browser: Any) -> None:
    made(network)
    book = openpyxl.load_workbook(io.BytesIO(browser.get(f"{GRID}export/xlsx/").data))
    rows = [[cell.value for cell in row] for row in book.active.iter_rows()]
    told = dict(zip(*rows[-2:], strict=True)) if len(rows) == 2 else {}
    assert told["Отправитель"] == "Мария Петрова"
    assert (told["Рассылка"], told["Получатель"], told["Стоимость"]) == ("Счета на февраль", "+7 918 000-00-11", 4.5)


def test_the_file_has_all_bills_of_a_message(network: Any, browser: Any) -> None:
    titles = [bill.title for bill in tells_of(made(network), 3)]
    make_message(make_client(network.lesnoy), body="Ни о чём")
    sheet = openpyxl.load_workbook(io.BytesIO(browser.get(f"{GRID}export/xlsx/").data)).active
    heads, *rows = [[cell.value for cell in row] for row in sheet.iter_rows() if row[0].value is not None]
    told = {row[heads.index("Текст")]: row[heads.index("Счёт на оплату")] for row in rows}
    assert told == {"Счёт выставлен": ", ".join(titles), "Ни о чём": None}


def test_the_file_has_the_same_bills_however_it_is_read(network: Any, app: Flask) -> None:
    message = made(network)
    bills = tells_of(message, 3)
    made(network, {})
    make_message(message.client)
    with transaction():
        bills[1].branch_id = network.mira.id
    view = next(one for one in views(app) if one.entity == "message")
    with on_behalf_of(network.director.id, branch_id=network.lesnoy.id, locale="ru", source="test"):
        through_sql = cells_of(view, is_fast=True)
        assert through_sql == cells_of(view, is_fast=False)
    seen = ", ".join(bill.title for bill in bills if bill is not bills[1])
    assert seen in [cell for row in through_sql for cell in row]


def test_the_grid_asks_as_much_for_fifty_rows_as_for_one(network: Any, browser: Any, app: Flask) -> None:
    def asked(path: str) -> int:
        with counted(app) as statements:
            assert browser.get(path).status_code == 200
        return len(statements)

    message = made(network)
    bill = tells_of(message, 1)[1]
    card, page = f"/admin/client/card/{message.client_id}/?tab=messages", f"/admin/bill/details/?id={bill.id}"
    paths = (GRID, f"{GRID}export/xlsx/", card, page)
    for path in paths:
        asked(path)
    few = [asked(path) for path in paths]
    for _number in range(20):
        tells_of(made(network, {}), 3)
        about = make_message(message.client, bill_id=bill.id)
        tells_of(about, 2)
    assert [asked(path) for path in paths] == few


@pytest.mark.parametrize(
    ("field", "gone", "stays"), [("phone", "+7 918", "anna@demo.test"), ("email", "anna@demo.test", "+7 918")]
)
def test_whoever_does_not_see_a_contact_sees_no_recipient_of_it(
    network: Any, web: Any, field: str, gone: str, stays: str
) -> None:
    message = made(network)
    client = message.client
    make_message(client, body="Письмо", recipient="anna@demo.test")
    with transaction():
        rules = {f"client.{name}": FieldRule.HIDE for name in {field, "extra_phone" if field == "phone" else field}}
        change_role(settings_of(Role.ADMINISTRATOR), permissions={}, fields=rules, by=SYSTEM)
    staff = web(network.administrator, network.lesnoy)
    for path in (GRID, f"/admin/client/card/{client.id}/?tab=messages"):
        page = plain(staff.get(path).text)
        assert (gone in page, stays in page) == (False, True), path
    text = {"phone": "0000011", "email": "anna@demo"}[field]
    assert "Счёт выставлен" not in staff.get(GRID, query_string={"q": text}).text
    assert "Письмо" not in [cell for row in table(staff.get(GRID, query_string={"q": text}).text) for cell in row]
    sheet = openpyxl.load_workbook(io.BytesIO(staff.get(f"{GRID}export/xlsx/").data)).active
    cells = " ".join(str(cell.value) for row in sheet.iter_rows() for cell in row).replace("+7918", "+7 918")
    assert (gone in cells, stays in cells) == (False, True)
    assert 'name="f.recipient.has"' not in staff.get(GRID).text


@pytest.mark.spec("C96")
def test_the_card_tells_when_what_how_and_who_sent(network: Any, browser: Any) -> None:
    message = made(network)
    page = browser.get(f"/admin/client/card/{message.client_id}/?tab=messages").text
    heads, *_others = [part for part in page.split("<thead>") if "Время отправки" in part]
    shown = plain(heads)
    for text in ("Время отправки", "Тип", "Канал", "Статус", "Текст", "Отправитель"):
        assert text in shown
    row = next(cells for cells in table(page) if "Счёт выставлен" in cells)
    assert row == [
        *("31.01.2026 23:30", "Счета", "SMS", "Доставлено", "Счёт выставлен"),
        *("+7 918 000-00-11", message.bill.title, "Мария Петрова", "4,50"),
    ]


def test_failed_and_unknown_messages_are_sent_once_more_in_bulk(network: Any, browser: Any) -> None:
    states = (MessageStatus.FAILED, MessageStatus.UNKNOWN, MessageStatus.SENT, MessageStatus.FAILED)
    rows = [make_message(make_client(network.lesnoy), status=status, error="550") for status in states]
    with transaction():
        choose(rows[-1].client, MessageKind.PERSONAL, False, by=None)
    page = go(browser, f"{GRID}action/", action="resend", id=[str(row.id) for row in rows])
    db.session.expire_all()
    assert [row.status for row in rows] == [
        *(MessageStatus.PENDING, MessageStatus.PENDING, MessageStatus.SENT, MessageStatus.FAILED)
    ]
    assert "не получает сообщения вида" in plain(page.text)
    assert row_counts(done=2, skipped=1, failed=1) in plain(page.text)


@pytest.mark.parametrize(
    ("status", "is_offered"), [(MessageStatus.FAILED, True), (MessageStatus.UNKNOWN, True), (MessageStatus.SENT, False)]
)
def test_its_page_offers_to_send_it_once_more(
    network: Any, browser: Any, status: MessageStatus, is_offered: bool
) -> None:
    message = made(network, status=status)
    path = f"{GRID}details/?id={message.id}"
    assert ('value="resend"' in browser.get(path).text) is is_offered
    if is_offered:
        go(browser, f"{GRID}action/", action="resend", id=str(message.id))
        db.session.refresh(message)
        assert message.status is MessageStatus.PENDING


def test_its_page_offers_nothing_to_who_may_only_look(network: Any, web: Any) -> None:
    message = made(network, status=MessageStatus.FAILED)
    page = web(network.manager, network.lesnoy).get(f"{GRID}details/?id={message.id}")
    assert page.status_code == 200
    assert 'value="resend"' not in page.text
