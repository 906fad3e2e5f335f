"""The requisites as clients see them, and what their payment QR lacks."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.requisites import set_requisites
from crm.db import transaction
from tests.bills.test_requisites_qr import fields_of, scan


def preview(browser: Any, company: Any) -> str:
    return str(browser.get(f"/admin/company/preview/?id={company.id}").text)


@pytest.mark.spec("B46")
def test_the_preview_follows_the_requisites(network: Any, web: Any) -> None:
    browser, company = web(network.owner), network.company
    assert company.settlement_account in preview(browser, company)
    with transaction():
        set_requisites(company, by=SYSTEM, legal_name="ООО «Новое имя»")
    assert "ООО «Новое имя»" in html.unescape(preview(browser, company))


def test_the_sample_is_a_qr_of_these_requisites(network: Any, web: Any) -> None:
    page = preview(web(network.owner), network.company)
    fields = fields_of(scan(re.search(r"<svg .*?</svg>", page, re.DOTALL)[0]))
    assert (fields["Name"], fields["PersonalAcc"]) == (
        network.company.legal_name,
        network.company.settlement_account,
    )
    assert fields["Purpose"] == "Образец, не оплачивать"


def test_what_is_missing_is_said_beside_the_company(network: Any, web: Any) -> None:
    browser = web(network.owner)
    assert "Не хватает" not in browser.get("/admin/company/licensing/").text
    with transaction():
        set_requisites(network.company, by=SYSTEM, bic="", settlement_account="", correspondent_account="")
    said = "Не хватает: БИК, Расчётный счёт, Корреспондентский счёт."
    assert said in browser.get("/admin/company/licensing/").text
    page = preview(browser, network.company)
    assert said in page
    assert "qr-sample" not in page


@pytest.mark.spec("B42", "X21")
def test_without_an_offer_of_its_own_the_preview_leads_to_the_standard_one(network: Any, web: Any) -> None:
    browser = web(network.owner)
    assert 'href="/offer"' in preview(browser, network.company)
    text = browser.get("/offer").text
    for part in ("1. Предмет", "6. Отказ от услуг и возврат денег", "8. Персональные данные"):
        assert part in text
    with transaction():
        set_requisites(network.company, by=SYSTEM, offer_url="https://school.example/offer")
    assert 'href="https://school.example/offer"' in preview(browser, network.company)
    assert "6. Giving up the services and refunds" in web(language="en").get("/offer").text
