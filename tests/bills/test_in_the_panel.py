"""Bills in the panel: the form from the client's card, the list, archiving in bulk with its protocol."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill, BillMethod, BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.sales.returning import ReturnWay, return_subscription
from tests.admin.test_grids import table
from tests.bills.test_archive import ALREADY, PAID, settle_at_desk
from tests.factories import make_account, make_bill, make_client, make_plan, make_subscription

FORM = {
    "method": "manual",
    "amount": "4300,50",
    "period_from": "2027-02-01",
    "period_to": "2027-02-28",
    "payable_from": "2027-01-20",
    "payable_until": "",
}


def plain(page: str) -> str:
    """What the page says, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())


def labels(page: str) -> list[str]:
    return [plain(label) for label in re.findall(r"<(?:label|legend)\b.*?</(?:label|legend)>", page, re.DOTALL)]


def send(browser, path: str, data: dict):
    """Fill the form at `path` as a browser would: what it holds hidden goes along."""
    page = browser.get(path).text
    hidden = {
        name[1]: value[1]
        for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', page)
        if (name := re.search(r'name="([^"]*)"', tag)) and (value := re.search(r'value="([^"]*)"', tag))
    }
    return browser.post(path, data=hidden | data)


@pytest.mark.spec("B8", "B9", "B16", "B20", "B23", "B28", "B30")
def test_the_form_has_its_fields_by_name(network, web):
    client = make_client(network.lesnoy)
    make_account(client)
    page = web(network.administrator, network.lesnoy).get(f"/admin/client/card/{client.id}/bill/new/").text
    shown = labels(page)
    for label in (
        "Тип расчета",
        "Клиентский счет",
        "Сумма",
        "За период",
        "Срок оплаты",
        "Счёт можно оплатить повторно",
    ):
        assert any(label in one for one in shown), (label, shown)
    assert "Вручную" in plain(page)
    assert re.search(r"<button[^>]*>\s*Сохранить\s*</button>", page)


@pytest.mark.spec("B1", "B12", "B24", "B30", "B31")
def test_the_form_issues_the_bill_and_the_card_shows_it(network, web):
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    assert send(browser, f"/admin/client/card/{client.id}/bill/new/", FORM).status_code == 302
    bill = db.session.scalars(select(Bill)).one()
    assert (bill.amount, bill.method) == (Decimal("4300.50"), BillMethod.MANUAL)
    assert (bill.period_from, bill.period_to) == (date(2027, 2, 1), date(2027, 2, 28))
    assert (bill.payable_from, bill.payable_until) == (date(2027, 1, 20), None)
    assert (bill.is_repeatable, bill.author_id) == (False, network.administrator.id)
    card = browser.get(f"/admin/client/card/{client.id}/", query_string={"tab": "bills"})
    for word in (bill.title, "Ожидает оплаты"):
        assert word in plain(card.text)


@pytest.mark.spec("B28")
def test_the_tick_makes_it_repeatable(network, web):
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    send(browser, f"/admin/client/card/{client.id}/bill/new/", FORM | {"is_repeatable": "y"})
    assert db.session.scalars(select(Bill)).one().is_repeatable


@pytest.mark.spec("B18")
def test_the_account_may_be_chosen(network, web):
    client = make_client(network.lesnoy)
    deposit = make_account(client)
    browser = web(network.administrator, network.lesnoy)
    send(browser, f"/admin/client/card/{client.id}/bill/new/", FORM | {"account": str(deposit.id)})
    assert db.session.scalars(select(Bill)).one().account_id == deposit.id


@pytest.mark.parametrize(
    "wrong", [{"amount": "0"}, {"amount": "много"}, {"period_to": "2027-01-31"}, {"payable_until": "2027-01-19"}]
)
def test_a_mistake_is_shown_and_nothing_is_issued(network, web, wrong):
    client = make_client(network.lesnoy)
    browser = web(network.administrator, network.lesnoy)
    answer = send(browser, f"/admin/client/card/{client.id}/bill/new/", FORM | wrong)
    assert answer.status_code in {200, 422}
    assert "is-invalid" in answer.text
    assert db.session.scalars(select(Bill)).all() == []


@pytest.mark.spec("B25")
def test_an_open_term_is_not_set_in_list_and_card(network, web):
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    for path in ("/admin/bill/", f"/admin/bill/details/?id={bill.id}"):
        assert "не задан" in plain(browser.get(path).text)


# --- archiving in bulk ----------------------------------------------------------------------------------------------


@pytest.mark.spec("B50", "B51", "B53", "B56", "B57", "B58", "B59")
def test_ticked_bills_are_confirmed_archived_and_accounted_for(network, web):
    client = make_client(network.lesnoy)
    unpaid, gone, paid, untouched = (make_bill(client) for _ in range(4))
    with transaction():
        archive_bill(gone, by=SYSTEM)
    settle_at_desk(paid)
    browser = web(network.administrator, network.lesnoy)
    ticked = {"action": "archive", "id": [str(bill.id) for bill in (unpaid, gone, paid)]}

    asked = browser.post("/admin/bill/action/", data=ticked)
    assert "Данное действие необратимо" in plain(asked.text)
    db.session.expire_all()
    assert unpaid.status is BillStatus.PENDING

    answer = browser.get(browser.post("/admin/bill/action/", data=ticked | {"confirmed": "1"}).location)
    lines = {
        plain(label): plain(result)
        for label, result in re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', answer.text, re.DOTALL)
    }
    assert set(lines) == {unpaid.title, gone.title, paid.title}
    assert lines[gone.title].endswith(f" — {ALREADY}")
    assert lines[paid.title].endswith(f" — {PAID}")
    assert "Статус" not in lines[unpaid.title]
    db.session.expire_all()
    assert [bill.status for bill in (unpaid, gone, paid, untouched)] == [
        *(BillStatus.ARCHIVED, BillStatus.ARCHIVED, BillStatus.PAID, BillStatus.PENDING),
    ]


@pytest.mark.spec("B51")
def test_all_means_all_that_match_across_pages_and_in_this_branch_only(network, web):
    ours = [make_bill(make_client(network.lesnoy, name=f"Берёзкин {number}")) for number in range(30)]
    other = make_bill(make_client(network.lesnoy, name="Дубов"))
    foreign = make_bill(make_client(network.rechnoy, name="Берёзкин Чужой"))
    browser = web(network.administrator, network.lesnoy)
    chosen = {"action": "archive", "all": "1", "q": "березкин", "size": "25", "confirmed": "1"}
    browser.post("/admin/bill/action/", data=chosen)
    db.session.expire_all()
    assert {bill.status for bill in ours} == {BillStatus.ARCHIVED}
    assert {other.status, foreign.status} == {BillStatus.PENDING}


@pytest.mark.spec("B54")
def test_nothing_in_the_panel_brings_a_bill_back(network, web):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        archive_bill(bill, by=SYSTEM)
    browser = web(network.owner, network.lesnoy)
    page = browser.get(f"/admin/bill/details/?id={bill.id}").text
    assert "restore" not in page
    for path in (f"/admin/bill/edit/?id={bill.id}", f"/admin/bill/delete/?id={bill.id}"):
        assert browser.post(path, data={"id": str(bill.id), "status": "pending"}).status_code in {403, 404, 405}
    answer = browser.post("/admin/bill/action/", data={"action": "restore", "id": str(bill.id), "confirmed": "1"})
    assert answer.status_code == 404
    db.session.expire_all()
    assert bill.status is BillStatus.ARCHIVED


@pytest.mark.spec("B54")
def test_one_bill_from_its_page_is_confirmed_too(network, web):
    bill = make_bill(make_client(network.lesnoy))
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/bill/archive/?id={bill.id}"
    assert "Данное действие необратимо" in plain(browser.get(path).text)
    db.session.expire_all()
    assert bill.status is BillStatus.PENDING
    assert send(browser, path, {}).status_code == 302
    db.session.expire_all()
    assert bill.status is BillStatus.ARCHIVED


def test_an_overdue_bill_is_shown_as_such(network, web):
    bill = make_bill(make_client(network.lesnoy), payable_from=date(2027, 1, 1), payable_until=date(2027, 1, 5))
    browser = web(network.administrator, network.lesnoy)
    with clock.frozen(datetime(2027, 1, 5, 20, 59, tzinfo=UTC)):
        assert "Срок оплаты истёк" not in str(table(browser.get(f"/admin/bill/?q={bill.title}").text))
    with clock.frozen(datetime(2027, 1, 5, 21, 0, tzinfo=UTC)):
        assert "Срок оплаты истёк" in str(table(browser.get(f"/admin/bill/?q={bill.title}").text))


def test_a_bill_that_asks_for_what_was_given_back_says_so(network, web):
    client = make_client(network.lesnoy)
    first, second = (make_subscription(client, make_plan(name=name)) for name in ("Йога утром", "Танцы вечером"))
    bill = make_bill(client, amount=Decimal(8000), subscriptions=[first, second])
    browser = web(network.administrator, network.lesnoy)

    def warned():
        page = browser.get(f"/admin/bill/details/?id={bill.id}").text
        return [
            plain(text) for text in re.findall(r'<div class="alert alert-warning[^"]*">(.*?)</div>', page, re.DOTALL)
        ]

    assert warned() == []
    with transaction():
        return_subscription(first, way=ReturnWay.KEEP, by=SYSTEM)
    (said,) = warned()
    assert "Йога утром" in said
    assert "Танцы вечером" not in said
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert warned() == []
