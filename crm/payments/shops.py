"""Which shop at which payment service the payments of a branch go through."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app
from sqlalchemy import or_, select

from crm.access.models import Branch
from crm.db import db
from crm.payments.gateways import open_gateway
from crm.payments.gateways.base import Gateway, ShopKeys
from crm.payments.gateways.demo import DemoGateway
from crm.payments.models import Payment, Shop


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
