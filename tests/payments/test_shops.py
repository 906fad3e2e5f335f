"""Shops: contracts with payment services, their keys, which of them a payment goes through."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select, text

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.audit.models import AuditEntry
from crm.bills.links import bill_url
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.payments.gateways import open_gateway
from crm.payments.gateways.base import GatewayError, KeysRefused, RemoteStatus
from crm.payments.gateways.fiscal import Receipts, TaxSystem, Vat
from crm.payments.gateways.tbank import TbankGateway
from crm.payments.gateways.yookassa import YookassaGateway
from crm.payments.models import GatewayKind, Payment, PaymentMethod, PaymentStatus, Shop
from crm.payments.operations import start_payment
from crm.payments.outcomes import reference_of
from crm.payments.shops import change_shop, check_shop, create_shop, gateway_of, open_shop, shop_for
from tests.factories import make_account, make_account_type, make_bill, make_client, make_shop, make_user
from tests.gateways.fixtures import local_tbank, local_yookassa  # noqa: F401

YOOKASSA, TBANK = GatewayKind.YOOKASSA, GatewayKind.TBANK


def facts(shop, **changes):
    """Those of a form that changes nothing."""
    return {
        "branch": shop.branch,
        "gateway": shop.gateway,
        "name": shop.name,
        "shop_id": shop.shop_id,
        "secret": "",
        "receipts": Receipts.read(shop.options),
        "is_active": shop.is_active,
        "by": SYSTEM,
    } | changes


def refused(call, **changes):
    with pytest.raises(DomainError) as caught, transaction():
        call(**changes)
    return caught.value.code, caught.value.field


def begun(shop, branch):
    """A payment that went through the shop."""
    account = make_account(make_client(branch), make_account_type(branch))
    with transaction():
        payment = Payment(
            branch_id=branch.id,
            client_id=account.client_id,
            account_id=account.id,
            method=PaymentMethod.ONLINE,
            amount=Decimal(100),
            shop_id=shop.id,
            gateway=shop.gateway.value,
            external_id="x",
            created_at=clock.now(),
            author_name="",
        )
        db.session.add(payment)
    return payment


# --- the key --------------------------------------------------------------------------------------------------------


def test_the_table_holds_no_key(network):
    shop = make_shop(network.lesnoy, secret="live_qwerty")
    row = db.session.execute(text("SELECT * FROM shop WHERE id = :id"), {"id": shop.id}).mappings().one()
    assert "live_qwerty" not in repr(dict(row))
    db.session.expire_all()
    assert db.session.get_one(Shop, shop.id).secret == "live_qwerty"


def test_with_another_secret_key_it_is_entered_anew(network, app):
    shop = make_shop(network.lesnoy, secret="live_qwerty")
    db.session.expire_all()
    before = app.config["SETTINGS"]
    app.config["SETTINGS"] = replace(before, secret_key="another")
    try:
        assert shop.secret == ""
        with pytest.raises(GatewayError, match="заново"):
            check_shop(shop, by=SYSTEM)
        with transaction():
            change_shop(shop, **facts(shop, secret="live_new"))
        db.session.expire_all()
        assert shop.secret == "live_new"
    finally:
        app.config["SETTINGS"] = before


def test_the_same_key_is_stored_otherwise_each_time(network):
    make_shop(network.lesnoy, secret="same")
    make_shop(network.lesnoy, gateway=TBANK, secret="same")
    assert len(set(db.session.scalars(text("SELECT secret FROM shop")))) == 2


def test_histories_and_audit_do_not_tell_it(network):
    shop = make_shop(network.lesnoy, secret="live_qwerty")
    with transaction():
        change_shop(shop, **facts(shop, secret="live_second", name="Новое"))
    kept = db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "shop", AuditEntry.entity_id == shop.id))
    lines = [entry.changes for entry in kept]
    assert len(lines) == 2
    assert "live_" not in repr(lines)
    assert "secret" in lines[1]  # that it was changed is told
    assert "live_" not in repr(shop.__dict__ | {"secret": ""})


def test_left_empty_the_key_stays(network):
    shop = make_shop(network.lesnoy, secret="live_qwerty")
    with transaction():
        change_shop(shop, **facts(shop, name="Другое"))
    db.session.expire_all()
    assert (shop.secret, shop.name) == ("live_qwerty", "Другое")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"secret": " "}, ("secret_required", "secret")),
        ({"secret": "two\nlines"}, ("secret_invalid", "secret")),
        ({"secret": "x" * 201}, ("secret_invalid", "secret")),
        ({"name": " "}, ("name_empty", "name")),
        ({"shop_id": "12a"}, ("shop_id_invalid", "shop_id")),
        ({"shop_id": "ТЕРМИНАЛ", "gateway": TBANK}, ("shop_id_invalid", "shop_id")),
        ({"receipts": Receipts(TaxSystem.OSN, Vat.NONE, email="nobody")}, ("email_invalid", "receipt_email")),
    ],
)
def test_what_a_shop_cannot_be(network, changes, expected):
    given = {
        "company": network.company,
        "branch": None,
        "gateway": YOOKASSA,
        "name": "Магазин",
        "shop_id": "100001",
        "secret": "key",
        "receipts": None,
        "by": SYSTEM,
    }
    assert refused(create_shop, **given | changes) == expected
    assert db.session.scalars(select(Shop)).all() == []


def test_a_shop_is_connected_once(network):
    make_shop(network.lesnoy)
    with pytest.raises(DomainError, match="уже подключён"):
        make_shop(network.lesnoy)


def test_who_may_not(network):
    shop = make_shop(network.lesnoy)
    director = make_user(Role.DIRECTOR, branches=[network.lesnoy])
    for call in (lambda: change_shop(shop, **facts(shop, by=director)), lambda: check_shop(shop, by=director)):
        with pytest.raises(Forbidden):
            call()


def test_a_shop_payments_went_through_stays_the_same_shop(network):
    shop = make_shop(network.lesnoy)
    begun(shop, network.lesnoy)
    for changes, field in (({"shop_id": "200002"}, "shop_id"), ({"gateway": TBANK, "shop_id": "DEMO"}, "gateway")):
        assert refused(change_shop, shop=shop, **facts(shop, **changes)) == ("shop_in_use", field)
        db.session.rollback()
    with transaction():
        change_shop(shop, **facts(shop, name="Имя", secret="another key", is_active=False))
    assert shop.secret == "another key"


# --- which shop -----------------------------------------------------------------------------------------------------


def test_a_branchs_own_shop_goes_before_the_companys(network):
    common = make_shop(network.lesnoy)
    own = make_shop(network.lesnoy, gateway=TBANK, is_own=True)
    assert shop_for(network.lesnoy).shop is own
    assert isinstance(shop_for(network.lesnoy).gateway, TbankGateway)
    assert shop_for(network.rechnoy).shop is common
    assert isinstance(shop_for(network.rechnoy).gateway, YookassaGateway)


@pytest.mark.spec("B4")
def test_switched_off_there_is_nothing_to_press_but_refunds_still_go(network):
    shop = make_shop(network.lesnoy)
    payment = begun(shop, network.lesnoy)
    with transaction():
        change_shop(shop, **facts(shop, is_active=False))
    assert shop_for(network.lesnoy) is None
    assert isinstance(gateway_of(payment), YookassaGateway)


def test_a_gateway_without_a_shop_is_not_to_be_had(app):
    for name in ("yookassa", "tbank", "demo"):
        with pytest.raises(LookupError):
            open_gateway(name)


# --- the whole way --------------------------------------------------------------------------------------------------


@pytest.mark.spec("B44", "X13")
@pytest.mark.parametrize("kind", [YOOKASSA, TBANK])
def test_a_bill_is_paid_through_the_companys_shop(network, local_yookassa, local_tbank, kind):  # noqa: F811
    service = {YOOKASSA: local_yookassa, TBANK: local_tbank}[kind]
    shop = make_shop(network.lesnoy, gateway=kind)
    bill = make_bill(make_client(network.lesnoy))
    db.session.commit()
    found = shop_for(bill.branch)
    payment = start_payment(bill, gateway=found.gateway, shop=found.shop, return_url=bill_url(bill))
    assert (payment.status, payment.shop_id, payment.gateway) == (PaymentStatus.PENDING, shop.id, kind.value)
    assert payment.external_id in service.payments
    assert payment.confirmation_url.startswith("https://")
    service.pay(payment.external_id)
    remote = gateway_of(payment).fetch(payment.external_id)
    assert (remote.status, remote.amount) == (RemoteStatus.SUCCEEDED, payment.amount)
    assert remote.reference == reference_of(payment)


# --- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [YOOKASSA, TBANK])
def test_check(network, local_yookassa, local_tbank, kind):  # noqa: F811
    shop = make_shop(network.lesnoy, gateway=kind)
    assert check_shop(shop, by=SYSTEM)
    with transaction():
        change_shop(shop, **facts(shop, secret="wrong"))
    with pytest.raises(KeysRefused, match="не принимает ключи магазина"):
        check_shop(shop, by=SYSTEM)


def test_receipts_are_kept_as_entered(network):
    receipts = Receipts(TaxSystem.PATENT, Vat.VAT22, email="office@example.test")
    shop = make_shop(network.lesnoy, receipts=receipts)
    db.session.expire_all()
    assert Receipts.read(shop.options) == receipts
    assert open_shop(shop)._receipts == receipts
