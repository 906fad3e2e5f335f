"""Shops: a company's contracts with payment services, and which of them the payments of a branch go through."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import exists, or_, select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, Company
from crm.access.operations import normalise_email
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import db, end_reading
from crm.errors import DomainError
from crm.payments.gateways import open_gateway
from crm.payments.gateways.base import Gateway, KeysRefused, ShopKeys, unreadable_key
from crm.payments.gateways.demo import DemoGateway
from crm.payments.gateways.fiscal import Receipts
from crm.payments.models import GatewayKind, Payment, Shop

MAX_SECRET = 200
_SHOP_ID = {
    GatewayKind.YOOKASSA: re.compile(r"[0-9]{3,20}"),
    GatewayKind.TBANK: re.compile(r"[0-9A-Za-z_-]{4,20}"),
}


@dataclass(frozen=True)
class OpenShop:
    """A gateway ready to be asked, and whose contract it is; None: the demo bank."""

    gateway: Gateway
    shop: Shop | None = None


def shop_for(branch: Branch) -> OpenShop | None:
    """Where new payments of the branch go: its own shop, else its company's, the latest first; else the demo bank where
    there is one. None: no bank is connected, money is taken at the desk only.
    """
    query = (
        select(Shop)
        .where(
            Shop.company_id == branch.company_id,
            Shop.is_active,
            or_(Shop.branch_id == branch.id, Shop.branch_id.is_(None)),
        )
        .order_by(Shop.branch_id.is_(None), Shop.id.desc())
        .limit(1)
    )
    if shop := db.session.scalar(query):
        return OpenShop(open_shop(shop), shop)
    settings = current_app.config["SETTINGS"]
    return OpenShop(DemoGateway(settings)) if settings.is_demo else None


def open_shop(shop: Shop) -> Gateway:
    """The gateway of a shop, whether new payments go through it or no more."""
    return open_gateway(shop.gateway.value, ShopKeys(shop.shop_id, shop.secret, shop.options))


def gateway_of(payment: Payment) -> Gateway:
    """The gateway a payment was begun at. Raises LookupError when it is not to be had any more."""
    if payment.shop_id is not None:
        return open_shop(db.session.get_one(Shop, payment.shop_id))
    return open_gateway(payment.gateway or "")


# --- verbs ----------------------------------------------------------------------------------------------------------


def create_shop(
    *,
    company: Company,
    branch: Branch | None,
    gateway: GatewayKind,
    name: str,
    shop_id: str,
    secret: str,
    receipts: Receipts | None,
    is_active: bool = True,
    by: Actor,
) -> Shop:
    """Connect a company to a payment service. branch: payments of this one only; receipts: how receipts by 54-FZ are
    made out, None: the service sends none. The caller commits.

    Raises DomainError beside `branch`, `name`, `shop_id`, `secret` or `receipt_email`.
    """
    require(by, "shop.create")
    if not secret.strip():
        raise DomainError("secret_required", _("Enter the key: without it the service does not let us in."), "secret")
    shop = Shop(company=company, secret="", created_at=clock.now())
    _fill(shop, branch, gateway, name, shop_id, secret, receipts, is_active)
    db.session.add(shop)
    db.session.flush()
    return shop


def change_shop(
    shop: Shop,
    *,
    branch: Branch | None,
    gateway: GatewayKind,
    name: str,
    shop_id: str,
    secret: str,
    receipts: Receipts | None,
    is_active: bool,
    by: Actor,
) -> Shop:
    """Change a shop, or switch it off: new payments go another way, those begun and their refunds still through it.
    secret: "" keeps the present one. The caller commits.

    Raises DomainError as create_shop() does; "shop_in_use" when payments went through it and it shall be another.
    """
    require(by, "shop.edit", shop)
    if (gateway, shop_id.strip()) != (shop.gateway, shop.shop_id) and _has_payments(shop):
        raise DomainError(
            "shop_in_use",
            _(
                "Payments went through this shop, and they are asked about and refunded there. "
                "Add another shop and switch this one off."
            ),
            "shop_id" if gateway is shop.gateway else "gateway",
        )
    _fill(shop, branch, gateway, name, shop_id, secret, receipts, is_active)
    db.session.flush()
    return shop


def check_shop(shop: Shop, *, by: Actor) -> str:
    """Ask the service whether the keys are right; its answer in words. Raises GatewayError. Writes nothing."""
    require(by, "shop.edit", shop)
    if not shop.secret:
        raise KeysRefused(unreadable_key())
    gateway = open_shop(shop)
    end_reading()  # the service takes its time
    return gateway.check()


def _fill(
    shop: Shop,
    branch: Branch | None,
    gateway: GatewayKind,
    name: str,
    shop_id: str,
    secret: str,
    receipts: Receipts | None,
    is_active: bool,
) -> None:
    name, shop_id, secret = name.strip(), shop_id.strip(), secret.strip()
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if branch is not None and branch.company_id != shop.company.id:
        raise DomainError("branch_foreign", _("This branch belongs to another company."), "branch")
    if not _SHOP_ID[gateway].fullmatch(shop_id):
        raise DomainError(
            "shop_id_invalid",
            _("The shop ID of YooKassa is digits only: see “Settings” → “Shop” in its cabinet.")
            if gateway is GatewayKind.YOOKASSA
            else _("A terminal key of T-Bank is up to 20 digits and Latin letters, for example 1111111111111DEMO."),
            "shop_id",
        )
    with db.session.no_autoflush:
        taken = select(Shop.id).where(Shop.gateway == gateway, Shop.shop_id == shop_id, Shop.id != (shop.id or 0))
        if db.session.scalar(taken):
            raise DomainError("shop_taken", _("This shop is connected already."), "shop_id")
    if len(secret) > MAX_SECRET or any(not sign.isprintable() for sign in secret):
        raise DomainError("secret_invalid", _("This is not a key: copy it from the service's cabinet."), "secret")
    if receipts is not None and receipts.email:
        normalise_email(receipts.email, field="receipt_email")
    shop.branch, shop.gateway, shop.name, shop.shop_id, shop.is_active = branch, gateway, name, shop_id, is_active
    shop.options = receipts.options() if receipts is not None else {}
    if secret and secret != shop.secret:
        shop.secret = secret


def _has_payments(shop: Shop) -> bool:
    with scoped_to(EVERYWHERE):  # of branches this person does not see, too
        return bool(db.session.scalar(select(exists().where(Payment.shop_id == shop.id))))
