"""Who pays for whom: one branch, one step, an active card; and nobody becomes his own payer by being looked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.clients.batch import NewClient, create_clients
from crm.clients.models import Client
from crm.clients.operations import archive_client, create_client
from crm.clients.queries import payer_of
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account
from crm.payments.operations import open_account_paid
from crm.subscriptions.operations import sell_subscription
from tests.factories import Network, make_bill, make_child, make_client

Create = Callable[..., Any]


def one(**facts: Any) -> Any:
    return create_client(**facts, by=SYSTEM)


def many(**facts: Any) -> Any:
    return create_clients([NewClient(**facts)], by=SYSTEM)


@pytest.mark.parametrize("create", [one, many])
def test_a_payer_is_an_active_payer_of_the_same_branch(network: Network, create: Create) -> None:
    payer, archived = make_client(network.lesnoy), make_client(network.lesnoy)
    child = make_child(payer)
    with transaction():
        archive_client(archived, by=SYSTEM)
    for branch, wrong, code in (
        (network.rechnoy, payer, "payer_elsewhere"),
        (network.lesnoy, child, "payer_is_paid_for"),
        (network.lesnoy, archived, "payer_archived"),
    ):
        with pytest.raises(DomainError) as refused, transaction():
            create(branch=branch, name="Ребёнок", payer=wrong)
        assert refused.value.code == code
    assert db.session.scalar(select(func.count()).select_from(Client)) == 3
    with transaction():
        create(branch=network.lesnoy, name="Ребёнок", payer=payer)
    assert len(payer.family) == 2


def test_the_payer_of_a_client_is_himself_or_the_card_he_points_at(network: Network) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    assert payer_of(payer) is payer
    assert payer_of(child) is payer


def test_no_money_is_asked_of_a_child_whose_payer_is_out_of_sight(network: Network) -> None:
    """Such a link cannot be made by create_client(); should the database hold one, money says no."""
    payer = make_client(network.rechnoy)
    child = make_client(network.lesnoy)
    child.payer_id = payer.id
    db.session.commit()
    child_id, lesnoy = child.id, network.lesnoy
    db.session.expunge(payer)
    with scoped_to(Scope(frozenset({lesnoy.id}), lesnoy.id)):
        child = db.session.get_one(Client, child_id)
        for ask in (
            lambda: make_bill(child),
            lambda: sell_subscription(child, network.plan, starts_on=date(2026, 11, 1), by=SYSTEM),
            lambda: open_account_paid(
                child, network.account_type, branch=lesnoy, initial_balance=None, method=None, by=SYSTEM
            ),
        ):
            with pytest.raises(NotFound) as refused, transaction():
                ask()
            assert refused.value.code == "payer_not_found"
    assert db.session.scalar(select(func.count()).select_from(Account).where(Account.client_id.is_not(None))) == 0


def test_a_child_is_put_where_its_payer_is(network: Network, web: Any) -> None:
    """The form asks for no branch: in the network interface too, the payer's is the only one there can be."""
    payer = make_client(network.rechnoy)
    payer_id, rechnoy_id = payer.id, network.rechnoy.id
    browser = web(network.owner)
    address = f"/admin/client/new/?payer={payer_id}"
    assert 'name="branch"' not in browser.get(address).text
    answer = browser.post(address, data={"name": "Ребёнок", "branch": str(network.lesnoy.id)})
    assert answer.status_code == 302
    db.session.expire_all()
    child = db.session.scalars(select(Client).where(Client.payer_id == payer_id)).one()
    assert child.branch_id == rechnoy_id
    assert make_bill(child, amount=Decimal(100)).client_id == payer_id


def test_the_form_takes_no_child_and_no_archived_card_for_a_payer(network: Network, web: Any) -> None:
    payer, archived = make_client(network.lesnoy), make_client(network.lesnoy)
    child = make_child(payer)
    with transaction():
        archive_client(archived, by=SYSTEM)
    ids = (child.id, archived.id)
    browser = web(network.administrator, network.lesnoy)
    for wrong in ids:
        assert browser.post(f"/admin/client/new/?payer={wrong}", data={"name": "Внук"}).status_code == 422
    assert db.session.scalar(select(func.count()).select_from(Client).where(Client.name == "Внук")) == 0
