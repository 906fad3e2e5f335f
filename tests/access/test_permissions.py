"""Who may do what: the table, spelled out the other way round, and asked again by the operations."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Role, User
from crm.access.operations import create_user
from crm.access.permissions import ACTIONS, ROLES, may
from crm.bills.operations import archive_bill, issue_bill
from crm.clients.operations import archive_client, create_client
from crm.db import db, transaction
from crm.errors import Forbidden
from crm.ledger.operations import create_account_type, open_account
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.subscriptions.operations import sell_subscription
from tests.factories import Network, make_account, make_bill, make_client, make_user

OWNER, REGIONAL, DIRECTOR, ADMINISTRATOR, MANAGER, INSTRUCTOR, SUPPORT = (role.value for role in Role)
DIRECTORS = {OWNER, REGIONAL, DIRECTOR}
DESK = DIRECTORS | {ADMINISTRATOR}

EXPECTED = {
    "client.view": {*DESK, MANAGER, INSTRUCTOR, SUPPORT},
    "client.create": DESK,
    "client.edit": DESK,
    "client.archive": DESK,
    "client.export": {*DESK, MANAGER},
    "client.delete": DIRECTORS,
    "account.open": DESK,
    "account.top_up": DESK,
    "account.view": {*DESK, MANAGER},
    "accounttype.view": {*DESK, MANAGER, SUPPORT},
    "accounttype.create": {OWNER, REGIONAL, SUPPORT},
    "bill.issue": DESK,
    "bill.archive": DESK,
    "bill.view": {*DESK, MANAGER},
    "subscription.sell": DESK,
    "subscription.view": {*DESK, MANAGER, INSTRUCTOR},
    "plan.edit": {OWNER, REGIONAL, SUPPORT},
    "plan.view": {*DESK, MANAGER, SUPPORT},
    "template.edit": {OWNER, REGIONAL, SUPPORT},
    "template.create": {OWNER, REGIONAL, SUPPORT},
    "template.view": {*DIRECTORS, MANAGER, SUPPORT},
    "mailingrule.create": DIRECTORS,
    "message.send": DESK,
    "user.create": {OWNER, SUPPORT},
    "user.view": {*DIRECTORS, SUPPORT},
    "company.edit": {OWNER, SUPPORT},
    "company.switch": {OWNER, SUPPORT},
    "branch.create": {OWNER, SUPPORT},
    "audit.view": {*DIRECTORS, MANAGER, SUPPORT},
}


@pytest.mark.parametrize("permission", EXPECTED)
def test_roles_that_hold(permission: str) -> None:
    assert {role.value for role in Role if may(role.value, permission)} == EXPECTED[permission]


def test_every_role_is_in_the_table_and_no_other() -> None:
    assert set(ROLES) == {role.value for role in Role}
    for role, entities in ROLES.items():
        assert set(entities) - {"*"} <= set(ACTIONS), role


@pytest.mark.parametrize("permission", ["", "client", "client.", ".view", "."])
def test_what_is_no_permission_is_held_by_nobody(permission: str) -> None:
    assert not [role for role in ROLES if may(role, permission)]


def test_what_is_not_listed_is_denied() -> None:
    assert [role for role in ROLES if may(role, "nothing.view")] == ["owner"]
    assert not may("nobody", "client.view")


def test_a_switched_off_user_may_nothing(network: Network) -> None:
    assert network.owner.may("client.view")
    network.owner.is_active = False
    assert not network.owner.may("client.view")
    db.session.rollback()


VERBS: dict[str, Callable[[Network, Any], object]] = {
    "client.create": lambda net, by: create_client(branch=net.lesnoy, name="Новый", by=by),
    "client.archive": lambda net, by: archive_client(make_client(net.lesnoy), by=by),
    "account.open": lambda net, by: open_account(
        client_id=make_client(net.lesnoy).id, account_type=net.account_type, branch=net.lesnoy, by=by
    ),
    "account.top_up": lambda net, by: top_up(
        make_account(make_client(net.lesnoy)), amount=Decimal(100), method=PaymentMethod.CASH, by=by
    ),
    "accounttype.create": lambda net, by: create_account_type(name="Бонусный", branches=[net.lesnoy], by=by),
    "bill.issue": lambda net, by: issue_bill(
        make_client(net.lesnoy),
        amount=Decimal(100),
        period_from=clock.today(net.lesnoy),
        period_to=clock.today(net.lesnoy),
        by=by,
    ),
    "bill.archive": lambda net, by: archive_bill(make_bill(make_client(net.lesnoy)), by=by),
    "subscription.sell": lambda net, by: sell_subscription(
        make_client(net.lesnoy), net.plan, starts_on=clock.today(net.lesnoy), by=by
    ),
    "user.create": lambda net, by: create_user(
        email="new@demo.test", name="Новый", password="demo", role=Role.SUPPORT, by=by
    ),
}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_operations_ask_again(network: Network, verb: str, role: Role) -> None:
    """An adapter that forgets to check is not a hole."""
    by: User = make_user(role, branches=[network.lesnoy])
    if role.value in EXPECTED[verb]:
        with transaction():
            VERBS[verb](network, by)
    else:
        with pytest.raises(Forbidden) as caught, transaction():
            VERBS[verb](network, by)
        assert caught.value.code == "forbidden"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("verb", VERBS)
def test_the_system_may_everything(network: Network, verb: str) -> None:
    with transaction():
        VERBS[verb](network, SYSTEM)
