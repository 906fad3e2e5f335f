"""The page of an online payment: its history, a refund, what needs attention."""

from __future__ import annotations

from decimal import Decimal

import pytest

from crm.access.actors import SYSTEM
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.payments.gateways.base import RemoteStatus
from crm.payments.models import NoticeStatus, PaymentStatus
from crm.payments.outcomes import accept_notice
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
