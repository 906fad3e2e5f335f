"""The PDF of a bill: what a payer and his bank read on it."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from io import BytesIO

import pypdf
import pytest
from flask_babel import force_locale

from crm.access.actors import SYSTEM
from crm.access.requisites import set_requisites
from crm.bills.document import amount_in_words, bill_data, bill_pdf
from crm.bills.links import bill_url
from crm.bills.models import BillLine, BillLineKind
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from tests.factories import make_bill, make_client


def pages_of(pdf: bytes) -> list[str]:
    pages = pypdf.PdfReader(BytesIO(pdf)).pages
    return [" ".join(page.extract_text().replace("\u200b", "").split()) for page in pages]


def text_of(bill, language="ru") -> str:
    with force_locale(language):
        return " ".join(pages_of(bill_pdf(bill)))


def lessons(count: int) -> list[BillLine]:
    first = date(2027, 1, 11)
    return [
        BillLine(
            position=i,
            kind=BillLineKind.LESSON,
            day=first + timedelta(days=i),
            student="Соня",
            title=f"Занятие {i + 1}",
            amount=Decimal(100),
        )
        for i in range(count)
    ]


@pytest.fixture
def payer(network):
    return make_client(network.lesnoy, name="Иванова Анна Сергеевна")


@pytest.mark.spec("B40")
def test_it_shows_the_requisites_the_number_and_the_sum_in_words(app, network, payer):
    bill = make_bill(payer, amount=Decimal("1234.50"), purpose="Занятия в январе")
    text = text_of(bill)
    company = network.company
    for fact in (
        *(company.legal_name, company.inn, company.kpp, company.bank_name, company.bic),
        *(company.settlement_account, company.correspondent_account, bill.title, "Занятия в январе"),
        *("Анна Сергеевна И.", "1 234,50 ₽", "Одна тысяча двести тридцать четыре рубля 50 копеек"),
    ):
        assert fact in text, fact
    assert bill_url(bill) in text.replace(" ", "")


def test_the_address_can_be_copied(app, network, payer):
    with force_locale("ru"):
        page = pypdf.PdfReader(BytesIO(bill_pdf(bill := make_bill(payer)))).pages[0]
    assert bill_url(bill) in page.extract_text().splitlines()


def test_what_is_on_the_account_has_no_number_of_a_line(app, network, payer):
    kept = BillLine(position=3, kind=BillLineKind.BALANCE, title="Долг на счёте", amount=Decimal(100))
    rows = bill_data(make_bill(payer, amount=Decimal(300), lines=[*lessons(2), kept]))["lines"]
    assert [row[0] for row in rows] == ["1", "2", ""]


def test_it_tells_no_more_of_the_payer_than_the_page(app, network, payer):
    text = text_of(make_bill(payer))
    assert "Иванова" not in text
    assert payer.phone not in text.replace(" ", "")
    assert payer.email not in text


def test_it_speaks_english_too(app, network, payer):
    text = text_of(make_bill(payer, amount=Decimal("21.01")), "en")
    assert "Twenty-one roubles 01 kopek" in text
    assert "Bank of the payee" in text


def test_an_ordinary_bill_is_one_page(app, network, payer):
    bill = make_bill(payer, amount=Decimal(800), lines=lessons(8))
    (page,) = pages_of(bill_pdf(bill))
    assert "Занятие 8" in page


def test_a_long_bill_flows_over_with_its_head_on_each_page(app, network, payer):
    bill = make_bill(payer, amount=Decimal(6000), lines=lessons(60))
    pages = pages_of(bill_pdf(bill))
    assert len(pages) > 1
    assert all("Кто занимается" in page for page in pages if "Занятие" in page)
    text = " ".join(pages)
    assert all(f"Занятие {i}" in text for i in range(1, 61))


def test_what_was_paid_already_is_taken_off(app, network, payer):
    with transaction():
        bill = make_bill(payer, amount=Decimal(1500))
        bill.paid_amount = Decimal(500)
    text = text_of(bill)
    assert "Уже оплачено: 500,00 ₽" in text
    assert "Одна тысяча рублей 00 копеек" in text


def test_an_archived_bill_says_so_and_offers_no_way_to_pay(app, network, payer):
    bill = make_bill(payer)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    text = text_of(bill)
    assert "Этот счёт больше не действует" in text
    assert bill.token not in text.replace(" ", "")


def test_without_bank_details_there_is_a_bill_all_the_same(app, network, payer):
    with transaction():
        empty = dict.fromkeys(("bank_name", "bic", "settlement_account", "correspondent_account"), "")
        set_requisites(network.company, by=SYSTEM, **empty)
    text = text_of(make_bill(payer))
    assert "Тысяча пятьсот рублей 00 копеек" in text or "Одна тысяча пятьсот рублей 00 копеек" in text


def test_nothing_typed_is_taken_for_markup(app, network, payer):
    typed = '#panic("x") *b* $x^2$ <b> @a \\n'
    assert typed in text_of(make_bill(payer, purpose=typed))


@pytest.mark.parametrize(
    ("amount", "currency", "language", "words"),
    [
        ("0.05", "RUB", "ru", "Ноль рублей 05 копеек"),
        ("1002003.22", "RUB", "ru", "Один миллион две тысячи три рубля 22 копейки"),
        ("112.01", "KZT", "ru", "Сто двенадцать тенге 01 тиын"),
        ("112.01", "KZT", "en", ""),
    ],
)
def test_sums_in_words(app, amount, currency, language, words):
    with force_locale(language):
        assert amount_in_words(Decimal(amount), currency) == words


def test_the_session_is_left_as_it_was(app, network, payer):
    bill = make_bill(payer)
    bill_pdf(bill)
    assert not db.session.dirty
