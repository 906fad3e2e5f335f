"""Who may make and change whom: nobody reaches above himself."""

from __future__ import annotations

from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.models import Role, User
from crm.access.operations import LoginFailed, change_user, create_user, may_manage, sign_in
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from tests.access.test_roles import settings_of
from tests.admin.world import fields, send
from tests.factories import PASSWORD, Network, make_user

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def changed(user: User, *, by: Any, **changes: Any) -> User:
    """`user` with these changes and all else as it was."""
    facts = {name: getattr(user, name) for name in ("email", "name", "role", "branches", "cities", "is_active")}
    with transaction():
        return change_user(user, **{**facts, "password": None, **changes}, by=by)


def refused(code: str, function: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(DomainError) as caught, transaction():
        function(*args, **kwargs)
    assert (caught.value.code, caught.value.field) == (code, "role")


def test_who_may_manage_whom(network: Network) -> None:
    reach = {user.role.value: {role.value for role in Role if may_manage(user, role)} for user in network.users}
    everybody = {role.value for role in Role}
    assert reach["owner"] == everybody
    assert reach["regional_director"] == everybody - {"owner", "support"}
    assert reach["director"] == {"director", "administrator", "instructor"}
    assert reach["administrator"] == {"administrator", "instructor"}
    assert reach["support"] == {"support"}
    assert all(may_manage(SYSTEM, role) for role in Role)
    network.owner.is_active = False
    assert not any(may_manage(network.owner, role) for role in Role)
    db.session.rollback()


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.SUPPORT])
def test_support_gives_no_role_that_may_more(network: Network, role: Role) -> None:
    new: Any = {"email": "new@demo.test", "name": "Новый", "password": "demo"}
    refused("mightier_role", create_user, **new, role=role, by=network.support)
    colleague = make_user(Role.SUPPORT)
    refused("mightier_role", changed, colleague, role=role, by=network.support)
    assert db.session.get_one(User, colleague.id).role is Role.SUPPORT


@pytest.mark.parametrize("changes", [{"password": "mine"}, {"is_active": False}, {"email": "mine@demo.test"}, {}])
def test_who_may_more_is_out_of_reach(network: Network, changes: dict[str, Any]) -> None:
    for user in (network.owner, network.director):
        refused("mightier_role", changed, user, **changes, by=network.support)
    make_user(Role.OWNER)
    refused("mightier_role", changed, network.owner, role=Role.SUPPORT, by=network.support)
    assert sign_in(network.owner.email, PASSWORD, address="192.0.2.1") is network.owner


def test_nobody_changes_his_own_role(network: Network) -> None:
    make_user(Role.OWNER)
    refused("own_role", changed, network.owner, role=Role.SUPPORT, by=network.owner)
    assert changed(network.owner, name="Новое Имя", by=network.owner).name == "Новое Имя"
    assert changed(network.owner, role=Role.SUPPORT, by=make_user(Role.OWNER)).role is Role.SUPPORT


def test_the_panel_neither_offers_nor_takes_it(network: Network, web: Any) -> None:
    support = web(network.support)
    path = f"/admin/user/edit/?id={network.owner.id}"
    assert "/admin/user/edit/" not in support.get(f"/admin/user/details/?id={network.owner.id}").text
    assert support.get(path).status_code == 403
    facts = {"email": network.owner.email, "name": "Х", "role": "owner", "password": "mine"}
    assert support.post(path, data=facts).status_code == 403
    page = support.get("/admin/user/new/").text
    assert fields(page)["role"] == "support"
    assert 'value="owner"' not in page
    new = {"email": "new@demo.test", "name": "Новый", "password": "demo"}
    assert send(support, "/admin/user/new/", **new, role="owner").status_code == 422
    assert send(support, "/admin/user/new/", **new).status_code == 302
    mine = f"/admin/user/edit/?id={network.support.id}"
    assert send(support, mine, role="owner").status_code == 422
    assert send(support, mine, name="Другое Имя").status_code == 302
    assert network.support.role is Role.SUPPORT


def test_one_may_be_added_who_does_not_sign_in_yet(network: Network, web: Any) -> None:
    new = {"email": "new@demo.test", "name": "Новый", "password": "demo", "role": "manager"}
    assert send(web(network.owner), "/admin/user/new/", **new, is_active=None).status_code == 302
    with pytest.raises(LoginFailed):
        sign_in("new@demo.test", "demo", address="192.0.2.1")


def test_operations_say_forbidden_not_wrong_input(network: Network) -> None:
    with pytest.raises(Forbidden):
        changed(network.owner, by=network.support)


def test_nobody_opens_places_that_are_closed_to_himself(network: Network) -> None:
    """As a network where regional directors manage people."""
    with transaction():
        change_role(
            settings_of(Role.REGIONAL_DIRECTOR),
            permissions={"user.create": True, "user.edit": True},
            fields={},
            by=SYSTEM,
        )
    regional, elsewhere = network.regional, network.mira
    new: Any = {"email": "new@demo.test", "name": "Новый", "password": "demo"}
    with pytest.raises(Forbidden) as city, transaction():
        create_user(**new, role=Role.REGIONAL_DIRECTOR, cities=[elsewhere.city], by=regional)
    assert (city.value.code, city.value.field) == ("foreign_city", "cities")
    with pytest.raises(Forbidden) as branch, transaction():
        create_user(**new, role=Role.DIRECTOR, branches=[elsewhere], by=regional)
    assert (branch.value.code, branch.value.field) == ("foreign_branch", "branches")
    with transaction():
        user = create_user(**new, role=Role.DIRECTOR, branches=[network.lesnoy], by=regional)
    with pytest.raises(Forbidden):
        changed(user, branches=[network.lesnoy, elsewhere], by=regional)
    changed(user, branches=[network.lesnoy, elsewhere], by=network.owner)
    with pytest.raises(Forbidden) as both:
        changed(user, password="mine", by=regional)
    assert both.value.code == "works_elsewhere"


def test_the_form_offers_the_cities_one_answers_for(network: Network, web: Any) -> None:
    with transaction():
        change_role(settings_of(Role.REGIONAL_DIRECTOR), permissions={"user.create": True}, fields={}, by=SYSTEM)
    theirs = network.mira.city.name
    assert theirs not in web(network.regional).get("/admin/user/new/").text.split("<form", 2)[-1]
    for branch in (None, network.lesnoy):
        assert theirs in web(network.owner, branch).get("/admin/user/new/").text
