"""From the button to the bank and back, over real HTTP where the bank calls back."""

from __future__ import annotations

import re

import httpx
import pytest
from sqlalchemy import select

from crm.bills.models import BillStatus
from crm.db import db
from crm.payments.gateways.base import GatewayError
from crm.payments.models import Payment, PaymentStatus
from tests.bank import begin, decline_at, hear_all, pay_at
from tests.factories import make_bill, make_client
from tests.public.test_bill_page import has_button, text_of


@pytest.mark.spec("B44")
def test_the_button_leads_to_the_banks_form(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    answer = web().post(f"/pay/{bill.token}")
    payment = db.session.scalars(select(Payment)).one()
    assert answer.status_code == 302
    assert answer.headers["Location"] == payment.confirmation_url
    assert f"/demo-bank/{payment.external_id}" in payment.confirmation_url


def test_no_csrf_token_is_needed_where_no_session_is_used(network, bank, web):
    browser = web()
    browser.with_csrf = False
    assert browser.post(f"/pay/{make_bill(make_client(network.lesnoy)).token}").status_code == 302


@pytest.mark.spec("B2", "B32", "B44")
def test_the_whole_way_with_the_bank_calling_back(network, served):
    bill = make_bill(make_client(network.lesnoy))
    token = bill.token
    db.session.commit()
    with httpx.Client(follow_redirects=True, headers={"Accept-Language": "ru"}, trust_env=False, timeout=30) as browser:
        form = browser.post(f"{served}/pay/{token}")
        assert form.url.path.startswith("/demo-bank/")
        assert "1 500,00 ₽" in text_of(form)
        back = browser.post(form.url, data={"choice": "pay"})
        assert back.url.path == f"/pay/{token}"
        db.session.expire_all()
        # The webhook was heard: the bill was paid before anybody looked at the return page.
        assert "Оплата получена. Спасибо!" in text_of(back)
        assert "Оплачен" in text_of(browser.get(f"{served}/pay/{token}"))
        assert "уже проведён" in text_of(browser.get(form.url))
    assert bill.status is BillStatus.PAID
    assert bill.account.balance == bill.amount
    origins = db.session.scalars(select(Payment)).one()
    assert origins.status is PaymentStatus.SUCCEEDED


def test_the_bank_reaches_the_webhook_by_itself(network, bank, served):
    """No return page involved: the call back alone credits."""
    bill = make_bill(make_client(network.lesnoy))
    from crm.payments.gateways import open_gateway

    caller = open_gateway("demo")  # with the port that listens
    external_id = pay_at(caller, begin(bill, caller))
    assert caller.notify(external_id) is True
    hear_all()
    db.session.expire_all()
    assert bill.status is BillStatus.PAID


def test_a_lost_notice_does_not_matter_to_who_comes_back(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    payment = begin(bill, bank)
    answer = browser.post(f"/demo-bank/{payment.external_id}", data={"choice": "pay"})  # nobody hears the call back
    assert payment.status is PaymentStatus.PENDING
    assert answer.headers["Location"].endswith(f"/pay/{bill.token}?payment={payment.id}")
    back = browser.get(f"/pay/{bill.token}?payment={payment.id}")
    assert "Оплата получена. Спасибо!" in text_of(back)
    db.session.expire_all()
    assert bill.status is BillStatus.PAID
    assert bill.account.balance == bill.amount


def test_a_lost_notice_does_not_matter_to_signed_in_staff_either(network, bank, web):
    """Their session is read under SQLite's write lock; the bank's book must not wait for it."""
    bill, browser = make_bill(make_client(network.lesnoy)), web(network.administrator, network.lesnoy)
    payment = begin(bill, bank)
    assert browser.post(f"/demo-bank/{payment.external_id}", data={"choice": "pay"}).status_code == 302
    assert "Спасибо" in text_of(browser.get(f"/pay/{bill.token}?payment={payment.id}"))


def test_while_the_bank_is_silent_the_page_waits_and_looks_again(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    payment = begin(bill, bank)
    waiting = browser.get(f"/pay/{bill.token}?payment={payment.id}")
    assert "Ждём ответа банка" in text_of(waiting)
    assert re.search(r'<meta http-equiv="refresh" content="\d+">', waiting.text)
    assert has_button(waiting)  # who closed the bank's form gets back to it
    pay_at(bank, payment)
    heard = browser.get(f"/pay/{bill.token}?payment={payment.id}")
    assert "Оплата получена" in text_of(heard)
    assert "http-equiv" not in heard.text


def test_a_declined_payment_can_be_tried_again(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    payment = begin(bill, bank)
    decline_at(bank, payment)
    back = browser.get(f"/pay/{bill.token}?payment={payment.id}")
    assert "Оплата не прошла" in text_of(back)
    assert has_button(back)
    again = browser.post(f"/pay/{bill.token}")
    assert again.status_code == 302
    assert payment.external_id not in again.headers["Location"]


def test_closing_the_banks_form_decides_nothing(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    payment = begin(bill, bank)
    assert browser.post(f"/demo-bank/{payment.external_id}", data={"choice": "close"}).status_code == 302
    assert browser.post(f"/pay/{bill.token}").headers["Location"] == payment.confirmation_url


def test_another_bills_payment_is_not_shown_here(network, bank, web):
    mine, other = make_bill(make_client(network.lesnoy)), make_bill(make_client(network.lesnoy))
    payment = begin(other, bank)
    pay_at(bank, payment)
    for value in (payment.id, "x", "", 10**30):
        page = text_of(web().get(f"/pay/{mine.token}?payment={value}"))
        assert "Спасибо" not in page
        assert "Ждём" not in page


def test_a_silent_bank_is_said_to_be_silent(network, bank, web, monkeypatch):
    def out_of_order(*_args, **_asked):
        raise GatewayError("no answer")

    monkeypatch.setattr("crm.payments.gateways.demo.DemoGateway.create", out_of_order)
    answer = web().post(f"/pay/{make_bill(make_client(network.lesnoy)).token}")
    assert answer.status_code == 502
    assert "Банк не отвечает" in text_of(answer)
    assert has_button(answer)


def test_the_demo_bank_is_plainly_a_demonstration_and_only_there(network, bank, web, app):
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    path = f"/demo-bank/{payment.external_id}"
    shown = text_of(web().get(path))
    for word in ("Демонстрация", "Оплатить", "Отклонить", "Закрыть"):
        assert word in shown
    assert web().get("/demo-bank/unknown").status_code == 404
    assert web().post(path, data={"choice": "steal"}).status_code == 400
    from dataclasses import replace

    app.config["SETTINGS"] = replace(app.config["SETTINGS"], is_demo=False)
    assert web().get(path).status_code == 404
    assert web().post(path, data={"choice": "pay"}).status_code == 404
