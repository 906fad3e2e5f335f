"""«Интернет-эквайринг»: shops are connected and checked in the panel."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from crm.db import db
from crm.payments.models import GatewayKind, Shop
from tests.admin.test_grids import plain
from tests.factories import make_shop
from tests.gateways.fixtures import local_tbank, local_yookassa  # noqa: F401

NEW = {
    "form_key": "1" * 32,
    "gateway": "yookassa",
    "shop_id": "100001",
    "secret": "test_secret",
    "name": "Основной магазин",
    "is_active": "y",
    "tax_system": "usn_income",
    "vat": "none",
    "payment_mode": "advance",
    "payment_subject": "payment",
    "receipt_email": "",
}


def edited(shop, **changes):
    return {**NEW, "id": str(shop.id), "version": str(shop.version), "secret": "", **changes}


def check(browser, shop):
    """What the page says after «Проверить подключение»."""
    return browser.get(browser.post("/admin/shop/check/", data={"id": str(shop.id)}).location).text


@pytest.fixture(params=["owner", "support"])
def staff(request, network, web):
    return web(getattr(network, request.param))


def test_a_shop_is_connected(network, staff):
    answer = staff.post("/admin/shop/new/", data={**NEW, "company": str(network.company.id), "sends_receipts": "y"})
    assert answer.status_code == 302, answer.text
    shop = db.session.scalars(select(Shop)).one()
    assert (shop.company, shop.branch, shop.gateway, shop.secret) == (
        network.company,
        None,
        GatewayKind.YOOKASSA,
        "test_secret",
    )
    assert shop.options["tax_system"] == "usn_income"
    page = staff.get(answer.location).text
    assert "https://kontora.test/webhooks/yookassa" in page
    assert "Проверить подключение" in page
    history = page.partition("История")[2]
    assert "Система налогообложения: usn_income" in plain(history)
    assert "Секретный ключ или пароль терминала" in history


def test_the_key_is_never_shown_again(network, staff):
    shop = make_shop(network.lesnoy, secret="live_qwerty")
    pages = ("/admin/shop/", f"/admin/shop/edit/?id={shop.id}", f"/admin/shop/details/?id={shop.id}")
    pages += (f"/admin/shop/history/?id={shop.id}", "/admin/audit/")
    for path in pages:
        answer = staff.get(path)
        assert answer.status_code == 200, path
        assert "live_qwerty" not in answer.text, path
    assert 'type="password"' in staff.get(f"/admin/shop/edit/?id={shop.id}").text


def test_saved_without_a_key_it_stays(network, staff):
    shop = make_shop(network.lesnoy)
    answer = staff.post(f"/admin/shop/edit/?id={shop.id}", data=edited(shop, name="Новое имя"))
    assert answer.status_code == 302, answer.text
    db.session.expire_all()
    assert (shop.name, shop.secret) == ("Новое имя", "test_secret")


def test_a_wrong_number_is_told_beside_its_field(network, staff):
    answer = staff.post("/admin/shop/new/", data={**NEW, "company": str(network.company.id), "shop_id": "abc"})
    assert answer.status_code == 422
    assert "состоит только из цифр" in answer.text
    assert "test_secret" not in answer.text  # typed again rather than sent back
    assert db.session.scalars(select(Shop)).all() == []


def test_switched_off(network, staff):
    shop = make_shop(network.lesnoy)
    facts = edited(shop)
    del facts["is_active"]
    staff.post(f"/admin/shop/edit/?id={shop.id}", data=facts)
    db.session.expire_all()
    assert not shop.is_active


def test_the_connection_is_checked(network, staff, local_yookassa):  # noqa: F811
    shop = make_shop(network.lesnoy)
    said = check(staff, shop)
    assert "принимает платежи" in said
    local_yookassa.shops = {"100001": "another"}
    said = check(staff, shop)
    assert "не принимает ключи магазина" in said
    local_yookassa.faults = ["html"]
    said = check(staff, shop)
    assert "сейчас не работает" in said


def test_the_address_of_t_bank_goes_with_the_payments(network, staff, local_tbank):  # noqa: F811
    shop = make_shop(network.lesnoy, gateway=GatewayKind.TBANK)
    page = staff.get(f"/admin/shop/details/?id={shop.id}").text
    assert "https://kontora.test/webhooks/tbank" in page
    assert "в личном кабинете ничего указывать не нужно" in page
    said = check(staff, shop)
    assert "пароль верный" in said


@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_others_do_not_see_shops(network, web, role):
    make_shop(network.lesnoy)
    assert web(getattr(network, role)).get("/admin/shop/").status_code == 403
