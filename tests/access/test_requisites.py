"""A company's requisites: what may be typed, and what a typing error breaks."""

from __future__ import annotations

import re

import pytest

from crm.access.requisites import set_payment_rules, set_requisites
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from tests.admin.world import send

# Numbers whose check digits agree with each other.
GOOD = {
    "name": "Школа «Ромашка»",
    "legal_name": "ООО «Ромашка»",
    "inn": "7707083893",
    "kpp": "770701001",
    "ogrn": "1027700132195",
    "address": "Москва, Лесная ул., 1",
    "bank_name": "АО «Пример Банк»",
    "bic": "044525225",
    "settlement_account": "40702810438000060473",
    "correspondent_account": "30101810400000000225",
    "phone": "8 (495) 000-00-02",
    "email": "School@Demo.Test",
    "offer_url": "https://school.example/offer",
}


@pytest.mark.spec("B46")
def test_everything_a_client_sees_is_kept(network):
    with transaction():
        set_requisites(network.company, by=network.owner, **GOOD)
    db.session.expire_all()
    kept = {name: getattr(network.company, name) for name in GOOD}
    assert kept == GOOD | {"phone": "+74950000002", "email": "school@demo.test"}


def test_only_what_is_given_changes_and_empty_clears(network):
    with transaction():
        set_requisites(network.company, by=network.owner, **GOOD)
        set_requisites(network.company, by=network.owner, kpp=" ", phone="", offer_url="", email="")
    company = network.company
    assert (company.kpp, company.phone, company.offer_url, company.email) == ("", None, None, "")
    assert company.inn == GOOD["inn"]


def test_spaces_within_numbers_are_dropped(network):
    with transaction():
        set_requisites(network.company, by=network.owner, **GOOD)
        set_requisites(
            network.company, by=network.owner, settlement_account="40702 810 4 3800 0060473", inn="77 07083893"
        )
    assert network.company.settlement_account == GOOD["settlement_account"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("name", "  "),
        ("legal_name", "x" * 201),
        ("inn", "7707083894"),
        ("inn", "770708389"),
        ("inn", "500100732258"),
        ("inn", "77070838 9a"),
        ("inn", "٧٧٠٧٠٨٣٨٩٣"),
        ("kpp", "77070100"),
        ("ogrn", "1027700132196"),
        ("ogrn", "102770013219"),
        ("bic", "04452522"),
        ("bic", "144525225"),
        ("settlement_account", "40702810438000060474"),
        ("settlement_account", "4070281043800006047"),
        ("correspondent_account", "30101810400000000226"),
        ("phone", "12"),
        ("email", "school@"),
    ],
)
def test_a_typing_error_is_told_beside_its_field(network, field, text):
    with pytest.raises(DomainError) as refused:
        set_requisites(network.company, by=network.owner, **(GOOD | {field: text}))
    assert refused.value.field == field
    db.session.rollback()
    assert network.company.name != GOOD["name"]


def test_a_sole_proprietors_numbers(network):
    with transaction():
        set_requisites(network.company, by=network.owner, inn="500100732259", ogrn="304500116000157", kpp="")
    assert network.company.ogrn == "304500116000157"


def test_accounts_are_checked_against_the_bank(network):
    with pytest.raises(DomainError) as refused:
        set_requisites(network.company, by=network.owner, **(GOOD | {"bic": ""}))
    assert refused.value.field == "bic"
    with pytest.raises(DomainError) as refused:
        set_requisites(network.company, by=network.owner, **(GOOD | {"bic": "044525226"}))
    assert refused.value.code == "account_key"


@pytest.mark.spec("B47")
@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", "JavaScript://x/%0aalert(1)", "data:text/html,x", "ftp://school.example/offer"),
        *("//school.example", "school.example/offer", "https://", "https:///offer", "https://a b.example"),
        *("https://me:secret@school.example", 'https://x.example/"onclick=', "https://[x", "https://x\n.example"),
        "https://school.example/" + "x" * 500,
    ],
)
def test_the_offer_is_a_web_address_or_nothing(network, url):
    with pytest.raises(DomainError) as refused:
        set_requisites(network.company, by=network.owner, offer_url=url)
    assert (refused.value.code, refused.value.field) == ("url_invalid", "offer_url")


@pytest.mark.spec("B47")
@pytest.mark.parametrize(
    "url", ["https://school.example/offer?v=2#top", "http://xn--e1afmkfd.xn--p1ai/", "https://школа.рф"]
)
def test_web_addresses_are_taken(network, url):
    with transaction():
        set_requisites(network.company, by=network.owner, offer_url=url)
    assert network.company.offer_url == url


def test_only_those_who_may_edit_the_company(network):
    with pytest.raises(Forbidden):
        set_requisites(network.company, by=network.administrator, legal_name="x")


def test_a_misspelt_field_is_a_mistake_of_the_program(network):
    with pytest.raises(TypeError):
        set_requisites(network.company, by=network.owner, okpo="1")


@pytest.mark.spec("B46", "B47", "B48")
def test_the_form_in_the_panel_saves_them_and_shows_mistakes_beside_their_fields(network, web):
    browser, path = web(network.owner), f"/admin/company/edit/?id={network.company.id}"
    page = browser.get(path).text
    assert re.search(r"<button[^>]*>\s*Сохранить\s*</button>", page)
    assert re.search(r'<label[^>]*for="offer_url"[^>]*>\s*публичная оферта', page, re.IGNORECASE)
    refused = send(browser, path, **GOOD | {"offer_url": "javascript:alert(1)"})
    assert re.search(r'id="offer_url"[^>]*is-invalid|is-invalid[^>]*id="offer_url"', refused.text)
    db.session.expire_all()
    assert network.company.offer_url is None
    assert send(browser, path, **GOOD).status_code == 302
    db.session.expire_all()
    assert (network.company.offer_url, network.company.inn) == (GOOD["offer_url"], GOOD["inn"])


def test_how_bills_may_be_paid_is_said_by_who_edits_the_company(network):
    assert (network.company.takes_part_payments, network.company.takes_overpayments) == (False, False)
    assert network.company.takes_deposits
    with transaction():
        set_payment_rules(network.company, takes_part_payments=True, takes_deposits=False, by=network.owner)
    assert (network.company.takes_part_payments, network.company.takes_deposits) == (True, False)
    with pytest.raises(Forbidden), transaction():
        set_payment_rules(network.company, takes_overpayments=True, by=network.director)
    with transaction():  # nothing differs
        set_payment_rules(network.company, takes_part_payments=True, by=network.director)


def test_the_form_of_the_company_has_its_rules_of_payment(network, web):
    browser = web(network.owner, None)
    path = f"/admin/company/edit/?id={network.company.id}"
    page = browser.get(path).text
    for label in (
        "Счета можно оплачивать частями",
        "Счёт можно оплатить с излишком",
        "Счета можно оплачивать с депозита",
    ):
        assert label in page
    send(browser, path, takes_part_payments="y")
    db.session.expire_all()
    assert (network.company.takes_part_payments, network.company.takes_deposits) == (True, True)
