"""A client's own discount: set and removed from the card, let off every subscription sold from then on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.audit.models import AuditAction, AuditEntry
from crm.clients.discount import remove_discount, set_discount
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import TransactionKind
from crm.ledger.operations import base_account, transaction_by_key
from tests.admin.world import errors, send
from tests.factories import Network, make_client, make_plan, make_subscription


def give(client: Client, amount: Any = Decimal("300.50"), reason: str = "Многодетная семья", by: Any = SYSTEM) -> None:
    with transaction():
        set_discount(client, amount=Decimal(amount), reason=reason, by=by)


@pytest.mark.spec("C152")
def test_it_is_let_off_every_next_sale_beside_the_one_of_the_sale(network: Network) -> None:
    client = make_client(network.lesnoy)
    before = make_subscription(client)
    give(client)
    first = make_subscription(client)
    second = make_subscription(client, discount=Decimal(200))
    assert [(sold.client_discount, sold.discount, sold.cost) for sold in (before, first, second)] == [
        (0, 0, 4000),
        (Decimal("300.50"), Decimal("300.50"), Decimal("3699.50")),
        (Decimal("300.50"), Decimal("500.50"), Decimal("3499.50")),
    ]
    posted = transaction_by_key(f"subscription:{second.id}:discount")
    assert posted.kind is TransactionKind.DISCOUNT
    assert base_account(client.id, network.lesnoy.id).balance == Decimal("-11199.00")


def test_a_cheaper_plan_costs_nothing_and_no_less(network: Network) -> None:
    client = make_client(network.lesnoy)
    give(client)
    sold = make_subscription(client, make_plan(price=Decimal(100)))
    assert (sold.discount, sold.cost) == (100, 0)


def test_a_removed_one_is_let_off_no_more(network: Network) -> None:
    client = make_client(network.lesnoy)
    give(client)
    sold = make_subscription(client)
    with transaction():
        remove_discount(client, by=SYSTEM)
    assert make_subscription(client).discount == 0
    assert sold.discount == Decimal("300.50")
    with pytest.raises(DomainError) as refused:
        remove_discount(client, by=SYSTEM)
    assert refused.value.code == "no_discount"


@pytest.mark.parametrize("amount", [Decimal(0), Decimal(-1), Decimal(100000001)])
def test_it_is_a_sum_of_money(network: Network, amount: Decimal) -> None:
    with pytest.raises(DomainError) as refused:
        give(make_client(network.lesnoy), amount)
    assert (refused.value.code, refused.value.field) == ("amount_invalid", "amount")


def test_it_has_a_reason(network: Network) -> None:
    with pytest.raises(DomainError) as refused:
        give(make_client(network.lesnoy), reason="  ")
    assert (refused.value.code, refused.value.field) == ("reason_empty", "reason")


def test_only_who_may_gives_it(network: Network) -> None:
    client = make_client(network.lesnoy)
    with pytest.raises(Forbidden):
        give(client, by=network.administrator)
    with pytest.raises(Forbidden):
        remove_discount(client, by=network.administrator)
    give(client, by=network.director)
    assert client.discount == Decimal("300.50")


@pytest.mark.spec("C120")
def test_it_is_added_from_the_card_and_told_by_the_audit(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    director, card = web(network.director, network.lesnoy), f"/admin/client/card/{client.id}/"
    assert "Добавить скидку" in director.get(card).text
    assert "Снять скидку" not in director.get(card).text
    assert "Добавить скидку" not in web(network.administrator, network.lesnoy).get(card).text
    assert set(errors(send(director, f"{card}discount/", amount="0,001").text)) == {"amount", "reason"}
    assert send(director, f"{card}discount/", amount="300,50", reason="Многодетная семья").status_code == 302
    db.session.expire_all()
    assert (client.discount, client.discount_reason) == (Decimal("300.50"), "Многодетная семья")
    told = select(AuditEntry).where(AuditEntry.entity == "client", AuditEntry.action == AuditAction.UPDATE)
    [line] = db.session.scalars(told)
    assert line.actor_id == network.director.id
    assert line.changes == {"discount": ["0.00", "300.50"], "discount_reason": ["", "Многодетная семья"]}
    page = director.get(card).text.replace("\xa0", " ")
    assert "300,50" in page
    assert "Многодетная семья" in page


@pytest.mark.spec("C121")
def test_it_is_removed_from_the_card(network: Network, web: Any) -> None:
    client = make_client(network.lesnoy)
    give(client)
    director, card = web(network.director, network.lesnoy), f"/admin/client/card/{client.id}/"
    assert "Снять скидку" in director.get(card).text
    assert send(director, f"{card}discount/remove/").status_code == 302
    db.session.expire_all()
    assert (client.discount, client.discount_reason) == (0, "")
    again = send(director, f"{card}discount/remove/")
    assert errors(again.text) == {"": "У клиента нет скидки."}


def test_a_card_of_another_branch_is_not_there(network: Network, web: Any) -> None:
    client = make_client(network.mira)
    assert web(network.director, network.lesnoy).get(f"/admin/client/card/{client.id}/discount/").status_code == 404
