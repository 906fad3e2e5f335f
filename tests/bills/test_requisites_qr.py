"""The payment QR by GOST R 56042-2014: what is written into it, and what a reader gets out of the picture."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import zxingcpp
from flask_babel import force_locale
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from crm.access.actors import SYSTEM
from crm.access.requisites import set_requisites
from crm.bills.models import BillLine, BillLineKind
from crm.bills.operations import archive_bill
from crm.bills.requisites_qr import (
    BLOCK_BYTES,
    SEPARATORS,
    company_payload,
    missing_requisites,
    qr_payload,
    qr_picture,
    qr_svg,
)
from crm.db import transaction
from tests.factories import make_bill, make_child, make_client, make_subscription

REQUIRED = ["Name", "PersonalAcc", "BankName", "BIC", "CorrespAcc"]


def fields_of(payload: str) -> dict[str, str]:
    """Read as a bank reads it: the separator is the sign after the head."""
    assert payload.startswith("ST00012")
    separator = payload[len("ST00012")]
    pairs = [pair.partition("=")[::2] for pair in payload[len("ST00012") + 1 :].split(separator)]
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def scan(svg: str) -> str:
    """What a camera reads off the drawing: it is painted from its path, as a browser would."""
    size = int(re.search(r'viewBox="0 0 (\d+) \1"', svg)[1])
    path = re.search(r'<path stroke="#000" d="([^"]+)"', svg)[1]
    scale, x, y = 6, 0.0, 0.0
    image = Image.new("L", (size * scale, size * scale), 255)
    draw = ImageDraw.Draw(image)
    for command, numbers in re.findall(r"([Mmh])([-\d. ]+)", path):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if command == "M":
            x, y = values
        elif command == "m":
            x, y = x + values[0], y + values[1]
        else:
            top = (y - 0.5) * scale
            draw.rectangle((x * scale, top, (x + values[0]) * scale - 1, top + scale - 1), fill=0)
            x += values[0]
    (found,) = zxingcpp.read_barcodes(image)
    assert found.format == zxingcpp.BarcodeFormat.QRCode
    return bytes(found.bytes).decode()


@pytest.fixture
def payer(network):
    return make_client(network.lesnoy, name="Иванова Анна Сергеевна")


def company(**changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "name": "Лесная школа",
            "legal_name": "ООО «Лесная школа»",
            "inn": "7700000009",
            "kpp": "770001001",
            "bank_name": "АО «Пример Банк»",
            "bic": "044525999",
            "settlement_account": "40702810600000000001",
            "correspondent_account": "30101810600000000999",
            "currency": "RUB",
            **changes,
        }
    )


def test_a_reader_gets_the_requisites_and_the_sum_out_of_the_picture(network, payer):
    bill = make_bill(
        payer,
        amount=Decimal("1500.50"),
        purpose="Занятия в январе",
        period_from=date(2027, 1, 1),
        period_to=date(2027, 1, 31),
    )
    svg = qr_svg(bill)
    fields = fields_of(scan(svg))
    assert fields == {
        "Name": "ООО «Лесная школа»",
        "PersonalAcc": "40702810600000000001",
        "BankName": "АО «Пример Банк»",
        "BIC": "044525999",
        "CorrespAcc": "30101810600000000999",
        "Sum": "150050",
        "Purpose": f"Оплата по счёту № {bill.title}. Занятия в январе",
        "PaymPeriod": "01.2027",
        "PayeeINN": "7700000009",
        "KPP": "770001001",
    }
    assert list(fields)[:5] == REQUIRED


def test_the_picture_needs_no_script_and_has_a_title(network, payer):
    svg = qr_svg(make_bill(payer))
    assert svg.startswith("<svg ")
    assert "<title>QR-код для оплаты" in svg
    assert 'role="img"' in svg
    assert not re.search(r"<script|style=|on\w+=", svg)


def test_the_payload_is_russian_whoever_looks(network, payer):
    bill = make_bill(payer)
    with force_locale("en"):
        assert fields_of(qr_payload(bill))["Purpose"].startswith("Оплата по счёту")


def test_nothing_says_the_payers_whole_name_phone_or_mail(network, payer):
    payload = qr_payload(make_bill(payer))
    for fact in ("Иванова", payer.phone, payer.email, "LastName", "FirstName", "PayerAddress"):
        assert fact not in payload


def test_what_is_left_is_asked_for(network, payer):
    bill = make_bill(payer, amount=Decimal(1500))
    with transaction():
        bill.paid_amount = Decimal(600)
    assert fields_of(qr_payload(bill))["Sum"] == "90000"


def test_a_bill_that_cannot_be_paid_has_none(network, payer):
    bill = make_bill(payer)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert qr_svg(bill) is None


def test_the_payers_only_child_is_named_discreetly(network, payer):
    make_child(payer, name="Петрова Соня")
    assert fields_of(qr_payload(make_bill(payer)))["ChildFio"] == "Петрова С."


def test_of_several_children_none_is_named(network, payer):
    make_child(payer)
    make_child(payer)
    assert "ChildFio" not in fields_of(qr_payload(make_bill(payer)))


def test_the_child_and_the_service_are_those_of_the_subscription(network, payer):
    sonya, _other = make_child(payer, name="Соня"), make_child(payer, name="Петя")
    subscription = make_subscription(sonya, network.plan)
    fields = fields_of(qr_payload(make_bill(payer, subscriptions=[subscription])))
    assert (fields["ChildFio"], fields["ServiceName"]) == ("Соня", "8 занятий")


def test_the_child_is_the_one_of_the_lines(network, payer):
    lines = [
        BillLine(position=i, kind=BillLineKind.LESSON, student="Соня", title="Гимнастика", amount=Decimal(750))
        for i in range(2)
    ]
    assert fields_of(qr_payload(make_bill(payer, lines=lines)))["ChildFio"] == "Соня"


def test_a_period_over_months_has_both_days(network, payer):
    bill = make_bill(payer, period_from=date(2027, 1, 15), period_to=date(2027, 2, 14))
    assert fields_of(qr_payload(bill))["PaymPeriod"] == "15.01.2027-14.02.2027"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, []),
        ({"inn": ""}, ["ИНН"]),
        ({"bank_name": " "}, ["Банк"]),
        ({"bic": ""}, ["БИК"]),
        ({"settlement_account": ""}, ["Расчётный счёт"]),
        ({"settlement_account": "00000000000000000000"}, ["Расчётный счёт"]),
        ({"correspondent_account": ""}, ["Корреспондентский счёт"]),
        ({"correspondent_account": "", "bic": "044525000"}, []),
        ({"name": "", "legal_name": ""}, ["Название компании"]),
        ({"kpp": ""}, []),
        ({"currency": "KZT"}, ["Счета в рублях"]),
    ],
)
def test_staff_are_told_what_is_missing(app, changes, missing):
    with force_locale("ru"):
        assert missing_requisites(company(**changes)) == missing
        assert (company_payload(company(**changes), Decimal(1), {}) is None) == bool(missing)


def test_a_bank_without_a_correspondent_account_has_a_nought(app):
    payload = company_payload(company(correspondent_account="", bic="044525000"), Decimal(1), {})
    assert fields_of(payload)["CorrespAcc"] == "0"


def test_without_requisites_there_is_no_picture(network, payer):
    with transaction():
        set_requisites(network.company, by=SYSTEM, settlement_account="", correspondent_account="", bic="")
    assert qr_svg(make_bill(payer)) is None


def test_a_registered_name_is_shortened_by_its_legal_form_first(app):
    full = "Общество с ограниченной ответственностью «Центр дополнительного образования детей и взрослых Радуга»"
    fields = fields_of(company_payload(company(legal_name=full, bank_name="Б" * 60), Decimal(1), {}))
    assert fields["Name"].startswith("ООО «Центр дополнительного")


@pytest.mark.parametrize(("amount", "kopecks"), [("0.01", "1"), ("0.1", "10"), ("100", "10000"), ("1234.56", "123456")])
def test_the_sum_is_whole_kopecks(app, amount, kopecks):
    assert fields_of(company_payload(company(), Decimal(amount), {}))["Sum"] == kopecks


def test_where_every_separator_is_taken_the_usual_one_gives_way(app):
    fields = fields_of(company_payload(company(legal_name=f"А{SEPARATORS}Б"), Decimal(1), {}))
    assert fields["Name"] == f"А {SEPARATORS[1:]}Б"


_ODD = st.text(
    alphabet=st.one_of(
        st.sampled_from("|;#:^_~{}!$%&()*+,/@=\"'«»ЁёЖй№ \n\t\u00a0\u200d😀👨‍👩‍👧"),
        st.characters(codec="utf-8", exclude_categories=["Cs"]),
    ),
    max_size=220,
)


@settings(max_examples=200, deadline=None)
@given(legal_name=_ODD, name=_ODD, bank_name=_ODD, purpose=_ODD, child=_ODD, kopecks=st.integers(1, 10**10))
def test_whatever_is_typed_the_standard_is_kept(legal_name, name, bank_name, purpose, child, kopecks):
    payee = company(legal_name=legal_name, name=name, bank_name=bank_name)
    facts = {"Purpose": purpose, "ChildFio": child}
    payload = company_payload(payee, Decimal(kopecks) / 100, facts)
    if missing_requisites(payee):
        assert payload is None
        return
    fields = fields_of(payload)
    separator = payload[7]
    assert separator in SEPARATORS
    assert list(fields)[:5] == REQUIRED
    block = separator.join(["ST00012", *(f"{key}={fields[key]}" for key in REQUIRED)])
    assert len(block.encode()) <= BLOCK_BYTES
    assert 1 <= len(fields["Name"]) <= 160
    assert 1 <= len(fields["BankName"]) <= 45
    assert len(fields.get("Purpose", "")) <= 160
    assert fields["Sum"] == str(kopecks)
    assert (fields["BIC"], fields["PersonalAcc"]) == (payee.bic, payee.settlement_account)
    assert fields["PayeeINN"] == payee.inn
    assert not any(sign in payload for sign in "\n\r\t\x00")


@settings(max_examples=15, deadline=None)
@given(legal_name=_ODD.filter(lambda text: text.isprintable() and text.strip()), purpose=_ODD)
def test_whatever_is_typed_is_read_out_of_the_picture(legal_name, purpose):
    payload = company_payload(company(legal_name=legal_name), Decimal(1500), {"Purpose": purpose})
    assert scan(qr_picture(payload, title="QR")) == payload
