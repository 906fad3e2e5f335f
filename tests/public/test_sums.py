"""Other sums than the one asked for, where a company takes them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from crm.bills.models import BillStatus
from crm.db import db, transaction
from crm.payments.models import Payment
from tests.bank import begin, pay_at
from tests.factories import make_bill, make_client
from tests.public.test_bill_page import has_button, text_of


def take(network, *, parts: bool = False, over: bool = False) -> None:
    with transaction():
        network.company.takes_part_payments, network.company.takes_overpayments = parts, over


def has_field(answer) -> bool:
    return re.search(r'<input id="amount" name="amount"', answer.text) is not None


def count() -> int:
    return db.session.scalar(select(func.count()).select_from(Payment)) or 0


def test_the_exact_sum_and_no_field_by_default(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    browser = web()
    assert not has_field(browser.get(f"/pay/{bill.token}"))
    refused = browser.post(f"/pay/{bill.token}", data={"amount": "100"})
    assert refused.status_code == 422
    assert count() == 0
    assert browser.post(f"/pay/{bill.token}").status_code == 302


@pytest.mark.parametrize(
    ("rules", "typed", "sum_"),
    [
        ({"parts": True}, "500", "500.00"),
        ({"parts": True}, "1 499,99", "1499.99"),
        ({"parts": True}, "1500", "1500.00"),
        ({"over": True}, "2 000,50", "2000.50"),
        ({"parts": True, "over": True}, "0.01", "0.01"),
    ],
)
def test_a_sum_the_company_takes(network, bank, web, rules, typed, sum_):
    take(network, **rules)
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    assert 'value="1500,00"' in browser.get(f"/pay/{bill.token}").text
    assert browser.post(f"/pay/{bill.token}", data={"amount": typed}).status_code == 302
    assert db.session.scalars(select(Payment)).one().amount == Decimal(sum_)


@pytest.mark.parametrize(
    ("rules", "typed"),
    [
        ({"parts": True}, "1500,01"),
        ({"over": True}, "1499"),
        ({"parts": True}, "0"),
        ({"parts": True}, "-5"),
        ({"parts": True}, ""),
        ({"parts": True}, "сто"),
        ({"parts": True, "over": True}, "9" * 15),
        ({"parts": True}, "<b>1"),
    ],
)
def test_a_sum_it_does_not_take_is_refused_beside_the_field_and_kept(network, bank, web, rules, typed):
    take(network, **rules)
    bill = make_bill(make_client(network.lesnoy))
    answer = web().post(f"/pay/{bill.token}", data={"amount": typed})
    assert answer.status_code == 422
    assert re.search(r'<p id="amount-error" class="error" role="alert">[^<]+</p>', answer.text)
    assert 'aria-describedby="amount-rule amount-error" aria-invalid="true"' in answer.text
    assert f'value="{typed.replace("<", "&lt;").replace(">", "&gt;")}"' in answer.text
    assert has_button(answer)
    assert count() == 0


@pytest.mark.spec("B32")
def test_a_bill_is_paid_in_parts(network, bank, web):
    take(network, parts=True)
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    assert browser.post(f"/pay/{bill.token}", data={"amount": "600"}).status_code == 302
    payment = db.session.scalars(select(Payment)).one()
    pay_at(bank, payment)
    receipt = text_of(browser.get(f"/pay/{bill.token}?payment={payment.id}"))
    assert "Оплата получена. Спасибо! 600,00 ₽" in receipt
    assert "Осталось оплатить: 900,00 ₽" in receipt
    page = browser.get(f"/pay/{bill.token}")
    for fact in ("Сумма счёта 1 500,00 ₽", "Уже оплачено 600,00 ₽", "Осталось оплатить 900,00 ₽", "Ожидает оплаты"):
        assert fact in text_of(page)
    assert 'value="900,00"' in page.text
    rest = browser.post(f"/pay/{bill.token}", data={"amount": "900"})
    second = db.session.scalars(select(Payment).order_by(Payment.id.desc()).limit(1)).one()
    assert rest.status_code == 302
    pay_at(bank, second)
    assert "Оплачен" in text_of(browser.get(f"/pay/{bill.token}?payment={second.id}"))
    db.session.expire_all()
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, Decimal(1500))


@pytest.mark.parametrize("typed", ["0", "-5"])
@pytest.mark.parametrize("rules", [{}, {"parts": True}, {"parts": True, "over": True}])
def test_nothing_is_no_sum(network, bank, web, rules, typed):
    take(network, **rules)
    answer = web().post(f"/pay/{make_bill(make_client(network.lesnoy)).token}", data={"amount": typed})
    assert "Введите сумму больше нуля." in text_of(answer)


def test_a_paid_bill_has_nothing_left_to_pay(network, bank, web):
    take(network, parts=True)
    bill, browser = make_bill(make_client(network.lesnoy), is_repeatable=True), web()
    pay_at(bank, begin(bill, bank))
    payment = db.session.scalars(select(Payment)).one()
    for path in (f"/pay/{bill.token}?payment={payment.id}", f"/pay/{bill.token}"):
        page = browser.get(path)
        assert has_button(page)
        assert not re.search("остал(?!ись вопросы)", text_of(page).lower())


@pytest.mark.spec("X8")
def test_a_repeatable_bill_paid_twice_stays_paid_and_counts_both(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy), is_repeatable=True), web()
    for _ in range(2):
        payment = begin(bill, bank)
        pay_at(bank, payment)
        assert "Спасибо" in text_of(browser.get(f"/pay/{bill.token}?payment={payment.id}"))
        db.session.expire_all()
    assert (bill.status, bill.payments_count, bill.account.balance) == (BillStatus.PAID, 2, Decimal(3000))
    assert "Оплачен" in text_of(browser.get(f"/pay/{bill.token}"))
