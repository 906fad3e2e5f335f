"""Several bills of one payer under one link."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.bills.bundles import bundle_bills, revoke_bundle
from crm.bills.links import renew_link, revoke_link
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.errors import NotFound
from crm.payments.confirmation import order_of
from crm.payments.models import Payment
from tests.bank import pay_at
from tests.factories import make_bill, make_client
from tests.public.test_bill_page import BUTTON, has_button, text_of


@pytest.fixture
def payer(network):
    return make_client(network.lesnoy, name="Кузнецова Анна Сергеевна")


def bundled(payer, *amounts: str):
    bills = [make_bill(payer, amount=Decimal(amount)) for amount in amounts]
    with transaction():
        return bundle_bills(bills, by=SYSTEM), bills


def ticks(answer) -> dict[int, bool]:
    boxes = re.findall(r'<input type="checkbox"[^>]* value="(\d+)"( checked)?>', answer.text)
    return {int(bill): bool(checked) for bill, checked in boxes}


@pytest.mark.spec("B43")
def test_its_bills_the_total_and_one_button_and_nothing_else(network, bank, web, payer):
    other = make_bill(payer, amount=Decimal("777.77"))
    bundle, bills = bundled(payer, "100", "200.50")
    answer = web().get(f"/pay/{bundle.token}")
    shown = text_of(answer)
    for fact in (*(bill.title for bill in bills), "100,00 ₽", "200,50 ₽", "300,50 ₽", "Анна Сергеевна К."):
        assert fact in shown
    assert answer.text.count(BUTTON) == 1
    assert ticks(answer) == {bill.id: True for bill in bills}
    for secret in (other.title, "777,77", "Кузнецова", other.token, *(bill.token for bill in bills)):
        assert secret not in answer.text


@pytest.mark.spec("B2", "B32", "B44")
def test_all_are_paid_by_one_payment_at_the_bank(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200.50")
    browser = web()
    answer = browser.post(f"/pay/{bundle.token}", data={"bill": [bill.id for bill in bills]})
    first, second = db.session.scalars(select(Payment).order_by(Payment.id)).all()
    assert answer.headers["Location"] == first.confirmation_url
    assert (first.bundle_id, second.order_id) == (bundle.id, first.id)
    pay_at(bank, first)
    back = browser.get(f"/pay/{bundle.token}?payment={first.id}")
    assert "Оплата получена. Спасибо! 300,50 ₽" in text_of(back)
    assert not has_button(back)
    db.session.expire_all()
    assert {bill.status for bill in bills} == {BillStatus.PAID}
    assert bills[0].account.balance == Decimal("300.50")


def test_bills_can_be_left_out(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200", "400")
    browser = web()
    browser.post(f"/pay/{bundle.token}", data={"bill": [bills[0].id, bills[2].id]})
    assert {payment.bill_id for payment in db.session.scalars(select(Payment))} == {bills[0].id, bills[2].id}
    first = db.session.scalars(select(Payment).order_by(Payment.id)).first()
    pay_at(bank, first)
    page = browser.get(f"/pay/{bundle.token}?payment={first.id}")
    assert ticks(page) == {bills[1].id: True}
    assert "500,00 ₽" in text_of(page)


def test_the_total_is_of_what_is_ticked(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200", "400")
    browser = web()
    assert "За все счета 700,00 ₽" in text_of(browser.get(f"/pay/{bundle.token}"))
    with transaction():
        archive_bill(bills[2], by=SYSTEM)
    answer = browser.post(f"/pay/{bundle.token}", data={"bill": [bills[0].id, bills[2].id]})
    assert answer.status_code == 422
    assert "За отмеченные счета 100,00 ₽" in text_of(answer)
    assert ticks(answer) == {bills[0].id: True, bills[1].id: False}


def test_nothing_ticked_is_said(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200")
    foreign = make_bill(make_client(network.lesnoy))
    for sent in ([], [foreign.id], ["x"], ["9" * 30], ["9" * 5000]):
        answer = web().post(f"/pay/{bundle.token}", data={"bill": sent})
        assert answer.status_code == 422
        assert "Отметьте хотя бы один счёт." in text_of(answer)
        assert ticks(answer) == {bill.id: False for bill in bills}
    assert db.session.scalars(select(Payment)).all() == []


@pytest.mark.spec("B55")
def test_what_cannot_be_paid_any_more_has_no_box_and_is_refused(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200", "400")
    with transaction():
        archive_bill(bills[1], by=SYSTEM)
    browser = web()
    page = browser.get(f"/pay/{bundle.token}")
    assert ticks(page) == {bills[0].id: True, bills[2].id: True}
    assert "500,00 ₽" in text_of(page)
    refused = browser.post(f"/pay/{bundle.token}", data={"bill": [bill.id for bill in bills]})
    assert refused.status_code == 422
    assert "больше не действует" in text_of(refused)
    assert db.session.scalars(select(Payment)).all() == []


@pytest.mark.spec("B4")
def test_without_a_bank_there_is_no_button(network, web, payer):
    bundle, bills = bundled(payer, "100", "200")
    answer = web().get(f"/pay/{bundle.token}")
    assert "Онлайн-оплата пока не подключена" in text_of(answer)
    assert not has_button(answer)
    refused = web().post(f"/pay/{bundle.token}", data={"bill": [bills[0].id]})
    assert refused.status_code == 422
    assert not has_button(refused)


def test_a_revoked_link_is_as_one_that_never_was(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200")
    unknown = web().get("/pay/unknown")
    with transaction():
        revoke_bundle(bundle, by=SYSTEM)
    for method in ("get", "post"):
        answer = getattr(web(), method)(f"/pay/{bundle.token}", data={"bill": [bills[0].id]})
        assert (answer.status_code, answer.text) == (404, unknown.text)
    assert has_button(web().get(f"/pay/{bills[0].token}"))


def test_a_bill_whose_own_link_is_revoked_is_out_of_reach_here_too(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200.50")
    with transaction():
        revoke_link(bills[0], by=SYSTEM)
    page = web().get(f"/pay/{bundle.token}")
    assert bills[0].title not in page.text
    assert ticks(page) == {bills[1].id: True}
    assert web().post(f"/pay/{bundle.token}", data={"bill": [bills[0].id]}).status_code == 422
    assert db.session.scalars(select(Payment)).all() == []
    assert order_of(bundle.token).bills == (bills[1],)
    with transaction():
        renew_link(bills[0], by=SYSTEM)
    assert ticks(web().get(f"/pay/{bundle.token}")) == {bill.id: True for bill in bills}


def test_when_every_bill_is_revoked_the_link_is_as_one_that_never_was(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200")
    with transaction():
        for bill in bills:
            revoke_link(bill, by=SYSTEM)
    for method in ("get", "post"):
        assert getattr(web(), method)(f"/pay/{bundle.token}", data={"bill": [bills[0].id]}).status_code == 404
    with pytest.raises(NotFound):
        order_of(bundle.token)


def test_another_links_payment_is_not_shown_here(network, bank, web, payer):
    bundle, bills = bundled(payer, "100", "200")
    strange, _theirs = bundled(make_client(network.lesnoy), "1", "2")
    web().post(f"/pay/{bundle.token}", data={"bill": [bills[0].id]})
    payment = db.session.scalars(select(Payment)).one()
    pay_at(bank, payment)
    assert "Спасибо" not in text_of(web().get(f"/pay/{strange.token}?payment={payment.id}"))
