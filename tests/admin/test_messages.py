"""The grid of messages and the card's history of them: every column, filters, search, Excel, sent once more."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from flask import Flask

from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose
from crm.db import db, transaction
from crm.mailings.models import MailingRun, Message, MessageStatus, RunStatus
from tests.access.test_roles import settings_of
from tests.admin.test_bulk_edit import go
from tests.admin.test_grids import counted, headers, plain, table
from tests.admin.world import row_counts
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
        "bill.is": message.bill_id,
        "cost.from": "4,5",
    }
    for name, value in filters.items():
        page = browser.get(GRID, query_string={f"f.{name}": value}).text
        assert ("Счёт выставлен" in page, "Другое" in page) == (True, False), name
    page = browser.get(GRID, query_string={"f.rule.empty": "1"}).text
    assert ("Счёт выставлен" in page, "Другое" in page) == (False, True)
    for text, shown in (("анна", True), ("0000011", True), ("nobody", False)):
        assert ("Счёт выставлен" in browser.get(GRID, query_string={"q": text}).text) is shown, text


def test_the_grid_goes_to_excel(network: Any, browser: Any) -> None:
    made(network)
    book = openpyxl.load_workbook(io.BytesIO(browser.get(f"{GRID}export/xlsx/").data))
    rows = [[cell.value for cell in row] for row in book.active.iter_rows()]
    told = dict(zip(*rows[-2:], strict=True)) if len(rows) == 2 else {}
    assert told["Отправитель"] == "Мария Петрова"
    assert (told["Рассылка"], told["Получатель"], told["Стоимость"]) == ("Счета на февраль", "+7 918 000-00-11", 4.5)


def test_the_grid_asks_as_much_for_fifty_rows_as_for_one(network: Any, browser: Any, app: Flask) -> None:
    def asked(path: str) -> int:
        with counted(app) as statements:
            assert browser.get(path).status_code == 200
        return len(statements)

    message = made(network)
    paths = (GRID, f"{GRID}export/xlsx/", f"/admin/client/card/{message.client_id}/?tab=messages")
    for path in paths:
        asked(path)
    few = [asked(path) for path in paths]
    for _number in range(20):
        made(network, {})
        make_message(message.client)
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
        *("+7 918 000-00-11", "Мария Петрова", "4,50"),
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
