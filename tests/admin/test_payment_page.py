"""The page of an online payment: its history, a refund, what needs attention."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.i18n import moment
from crm.payments.crediting import flag
from crm.payments.desk import write_off
from crm.payments.gateways.base import RemotePayment, RemoteStatus
from crm.payments.models import Attention, NoticeStatus, Payment, PaymentStatus
from crm.payments.outcomes import accept_notice
from crm.payments.refunds import refund_payment
from crm.payments.resolving import accept_reported
from tests.admin.test_grids import plain
from tests.admin.test_hidden_fields import hide
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


def test_the_refund_form_says_the_most_that_can_be_given_back(network, web, payment):
    browser = web(network.owner)
    with transaction():
        write_off(payment.account, amount=Decimal("900"), reason="Занятия", by=SYSTEM)
    url = f"/admin/payment/refund/?id={payment.id}"
    form = browser.get(url).text
    assert 'value="600,00"' in form
    assert "осталось 1 500,00 ₽, на счёте 600,00 ₽" in plain(form)
    refused = send(browser, url, amount="700", reason="Болел")
    assert "600,00 ₽" in plain(refused.text)
    with transaction():
        write_off(payment.account, amount=Decimal("600"), reason="Занятия", by=SYSTEM)
    assert browser.get(url).status_code == 302
    assert "возвращать нечего" in plain(browser.get(f"/admin/payment/details/?id={payment.id}").text)


def test_who_does_not_see_balances_is_told_none_by_a_refund(network, web, payment):
    with transaction():
        write_off(payment.account, amount=Decimal("900.30"), reason="Занятия", by=SYSTEM)
    hide("account.balance", role=Role.DIRECTOR)
    browser = web(network.director, network.lesnoy)
    url = f"/admin/payment/refund/?id={payment.id}"
    form = browser.get(url).text
    assert 'value="1500,00"' in form
    refused = send(browser, url, amount="700", reason="Болел")
    assert "не хватает денег" in plain(refused.text)
    for page in (form, refused.text):
        assert "599,70" not in page
    with transaction():
        write_off(payment.account, amount=Decimal("599.70"), reason="Занятия", by=SYSTEM)
    assert browser.get(url).status_code == 200
    send(browser, url, amount="700", reason="Болел")
    db.session.expire_all()
    assert payment.refunded == 0


@pytest.mark.parametrize(("amount", "said"), [("500", "Возвращён частично"), ("1500", "Возвращён")])
def test_what_was_given_back_is_said_wherever_the_payment_is_shown(network, web, payment, amount, said):
    with transaction():
        refund_payment(payment, Decimal(amount), "Болел", by=SYSTEM)
    db.session.commit()
    browser = web(network.owner)
    mark = re.compile(rf'<span class="status is-refunded[^"]*">{said}</span>')
    for path in (
        f"/admin/payment/details/?id={payment.id}",
        "/admin/payment/",
        f"/admin/bill/details/?id={payment.bill_id}",
    ):
        assert mark.search(browser.get(path).text), path


def test_services_and_pages_go_by_names_people_read(network, web, bank):  # noqa: F811
    bill = make_bill(make_client(network.lesnoy))
    db.session.commit()
    visitor = web()
    visitor.with_csrf = False
    visitor.post(f"/pay/{bill.token}")
    payment = db.session.scalars(select(Payment)).one()
    accept_notice(bank, pay_at(bank, payment))
    db.session.commit()
    browser = web(network.owner)
    page = plain(browser.get(f"/admin/payment/details/?id={payment.id}").text)
    assert "Банк Демо-банк" in page
    assert "Страница счёта" in page
    for raw in (" demo ", "public page", "Given back", "Shop"):
        assert raw not in page
    assert "Демо-банк" in plain(browser.get("/admin/payment/").text)


def test_a_payment_that_never_reached_the_bank_says_so(network, web, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    with transaction():
        payment.external_id = payment.confirmation_url = payment.asking_until = None
    page = plain(web(network.owner).get(f"/admin/payment/details/?id={payment.id}").text)
    assert "Банк не ответил, платёж не начат" in page


def test_the_history_keeps_the_clock_of_the_branch(network, web, bank):  # noqa: F811
    with transaction():
        network.mira.time_zone = "Asia/Vladivostok"
    payment = begin(make_bill(make_client(network.mira)), bank)
    accept_notice(bank, pay_at(bank, payment))
    db.session.commit()
    page = plain(web(network.owner).get(f"/admin/payment/details/?id={payment.id}").text)
    assert page.count(moment(payment.received_at, "Asia/Vladivostok")) >= 3
    assert moment(payment.received_at, "Europe/Moscow") not in page


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
