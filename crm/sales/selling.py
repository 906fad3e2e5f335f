"""A sale with its payment: money taken at the desk, from a deposit, or later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l

from crm.access.actors import Actor, require
from crm.clients.models import Client
from crm.db import LabelEnum
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.subscriptions.models import Plan, Subscription
from crm.subscriptions.operations import charge_sale, draw_up_sale
from crm.tills.models import Till


class WayToPaySale(LabelEnum):
    """How a subscription is paid: with money given at the desk, from a deposit of the payer, or later."""

    CASH = "cash", _l("In cash")
    CARD = "card", _l("By card")
    ACCOUNT = "account", _l("From the client's account")
    DEBT = "debt", _l("On credit")


_DESK = {WayToPaySale.CASH: PaymentMethod.CASH, WayToPaySale.CARD: PaymentMethod.CARD}


def sell_paid(
    client: Client,
    plan: Plan,
    *,
    way: WayToPaySale | None,
    starts_on: date,
    by: Actor,
    discount: Decimal | None = None,
    account: Account | None = None,
    till: Till | None = None,
    is_trial: bool | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Subscription:
    """sell_subscription() with its payment, both or neither. The caller commits.

    CASH, CARD: its cost is taken at the desk (till: where it goes, the first by default) onto the account it is charged
    to, now or lesson by lesson. ACCOUNT: the payer's deposit `account` holds it. DEBT: it is charged to his base
    account, or to its own, below zero if need be.
    Raises DomainError as sell_subscription() does, or beside `way`, `account`, `till`.
    """
    require(by, "subscription.sell", client)
    if way is None:
        raise DomainError("way_required", _("Choose how the subscription is paid."), "way")
    if way is WayToPaySale.ACCOUNT and (account is None or account.kind is not AccountKind.DEPOSIT):
        raise DomainError("account_required", _("Choose the account to pay from."), "account")
    if way is not WayToPaySale.ACCOUNT and account is not None:
        raise DomainError(
            "way_differs", _("An account is chosen: choose to pay from it, or leave the account empty."), "way"
        )
    subscription, paying = draw_up_sale(
        client, plan, starts_on=starts_on, discount=discount, account=account, is_trial=is_trial, custom=custom, by=by
    )
    if (method := _DESK.get(way)) and subscription.cost:
        top_up(
            paying,
            amount=subscription.cost,
            method=method,
            till=till,
            subscription_id=subscription.id,
            comment=str(subscription),
            by=by,
        )
    return charge_sale(subscription, paying, by=by)
