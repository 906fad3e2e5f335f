"""The page of an online payment: its history, a refund, what needs attention."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from crm.access.actors import SYSTEM
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.payments.crediting import flag
from crm.payments.gateways.base import RemotePayment, RemoteStatus
from crm.payments.models import Attention, NoticeStatus, PaymentStatus
from crm.payments.outcomes import accept_notice
from crm.payments.resolving import accept_reported
from tests.admin.test_grids import plain
from tests.admin.world import send
from tests.bank import TalkingBank, bank, begin, pay_at, says  # noqa: F401
from tests.factories import make_bill, make_client, make_notice

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.fixture
def payment(network, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    accept_notice(bank, pay_at(bank, payment))
    db.session.commit()
    return payment


def test_a_refund_from_the_form(network, web, payment):
    browser = web(network.owner)
    form = browser.get(f"/admin/payment/refund/?id={payment.id}").text
    assert 'value="1500,00"' in form
    send(browser, f"/admin/payment/refund/?id={payment.id}", amount="500,50", reason="Болел")
    db.session.expire_all()
    assert payment.refunded == Decimal("500.50")
    page = plain(browser.get(f"/admin/payment/details/?id={payment.id}").text)
    assert "Болел" in page
    assert "В банке и у нас" in page


def test_what_needs_attention_is_counted_found_and_settled(network, web, bank):  # noqa: F811
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    accept_notice(TalkingBank(says(RemoteStatus.SUCCEEDED, "1400.00")), payment.external_id)
    db.session.commit()
    browser = web(network.owner)
    assert "Платежи, требующие внимания" in plain(browser.get("/admin/").text)
    listed = browser.get("/admin/payment/?f.attention.empty=0&f.attention_closed_at.empty=1").text
    assert f"id={payment.id}" in listed
    send(browser, f"/admin/payment/settle/?id={payment.id}", what="accept")
    db.session.expire_all()
    assert (payment.status, bill.account.balance) == (PaymentStatus.SUCCEEDED, 1400)
    db.session.commit()
    assert "Платежи, требующие внимания" not in plain(browser.get("/admin/").text)


def test_money_for_a_dead_bill_is_looked_at(network, web, bank):  # noqa: F811
    bill = make_bill(make_client(network.lesnoy))
    payment = begin(bill, bank)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    accept_notice(bank, pay_at(bank, payment))
    db.session.commit()
    send(web(network.owner), f"/admin/payment/settle/?id={payment.id}", what="seen", text="Позвонили")
    db.session.expire_all()
    assert payment.attention_closed_at is not None


def test_a_failed_notice_is_read_again_from_its_page(network, web):
    notice = make_notice(status=NoticeStatus.FAILED, body='{"payment": "unknown"}')
    browser = web(network.owner)
    assert "unknown" in browser.get(f"/admin/notice/details/?id={notice.id}").text
    send(browser, f"/admin/notice/again/?id={notice.id}")
    db.session.expire_all()
    assert notice.status is NoticeStatus.NEW


def test_a_refused_refund_of_held_money_still_asks_what_is_done_with_it(network, web, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    said = RemotePayment(payment.external_id, RemoteStatus.SUCCEEDED, Decimal(15), "EUR")
    accept_notice(TalkingBank(lambda _id: said), payment.external_id)
    with transaction():
        flag(payment, Attention.REFUND_FAILED, "нельзя")
    browser = web(network.owner)
    page = browser.get(f"/admin/payment/settle/?id={payment.id}").text
    assert re.findall(r'<option[^>]* value="(\w+)"', page) == ["accept", "give_back"]
    assert 'name="amount"' in page  # it came in another currency
    send(browser, f"/admin/payment/settle/?id={payment.id}", what="accept", amount="1500")
    db.session.expire_all()
    assert (payment.status, payment.account.balance) == (PaymentStatus.SUCCEEDED, 1500)


def test_what_was_given_back_in_another_currency_is_asked_for_in_ours(network, web, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    facts = {"external_id": payment.external_id, "status": RemoteStatus.SUCCEEDED, "amount": Decimal(15)}
    accept_notice(TalkingBank(lambda _id: RemotePayment(**facts, currency="EUR")), payment.external_id)
    with transaction():
        accept_reported(payment, by=SYSTEM, amount=Decimal(1500))
    back = RemotePayment(**facts, currency="EUR", refunded=Decimal(5))
    accept_notice(TalkingBank(lambda _id: back), payment.external_id)
    db.session.commit()
    browser = web(network.owner)
    assert 'name="amount"' in browser.get(f"/admin/payment/settle/?id={payment.id}").text
    send(browser, f"/admin/payment/settle/?id={payment.id}", what="note", amount="500")
    db.session.expire_all()
    assert (payment.refunded, payment.account.balance) == (500, 1000)


def test_a_notice_is_read_again_only_by_who_sees_notices(network, web):
    notice = make_notice(status=NoticeStatus.FAILED)
    assert network.director.may("payment.resolve")
    browser = web(network.director)
    path = f"/admin/notice/again/?id={notice.id}"
    assert (browser.get(path).status_code, browser.post(path).status_code) == (403, 403)
    db.session.expire_all()
    assert notice.status is NoticeStatus.FAILED
