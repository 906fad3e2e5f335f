"""Roles the owner has changed: what then holds, for whom, from when on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.fields import NO_RULES, FieldRules, field_rules
from crm.access.models import FieldRule, Role, RoleSettings, User
from crm.access.operations import change_user, may_manage
from crm.access.permissions import ACTION_NAMES, ACTIONS, PERMISSIONS, RESERVED, ROLES, permissions_of
from crm.access.roles import change_role, reset_role
from crm.audit.models import AuditEntry
from crm.audit.origin import acting
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import DomainError
from crm.security import on_behalf_of
from tests.factories import Network, make_client, make_user


def settings_of(role: Role) -> RoleSettings:
    return db.session.scalars(select(RoleSettings).where(RoleSettings.role == role)).one()


def change(role: Role, permissions: dict[str, bool] | None = None, *, by: Any = SYSTEM, **fields: FieldRule) -> None:
    """Change a role; fields: client__phone=FieldRule.HIDE."""
    with transaction():
        change_role(
            settings_of(role),
            permissions=permissions or {},
            fields={name.replace("__", "."): rule for name, rule in fields.items()},
            by=by,
        )


def facts_of(user: User) -> dict[str, Any]:
    """What change_user() takes to change nothing."""
    names = ("email", "name", "role", "branches", "cities", "is_active")
    return {"password": None, **{name: getattr(user, name) for name in names}}


def refused(function: Any, *args: Any, **kwargs: Any) -> DomainError:
    with pytest.raises(DomainError) as caught, transaction():
        function(*args, **kwargs)
    return caught.value


def test_every_role_has_its_settings_and_begins_as_built_in(network: Network) -> None:
    assert {row.role for row in db.session.scalars(select(RoleSettings))} == set(Role)
    for user in network.users:
        assert permissions_of(user.role.value) == {name for name in PERMISSIONS if user.may(name)}


def test_what_the_owner_allows_and_denies_holds_at_once(network: Network) -> None:
    assert not network.manager.may("client.archive")
    assert network.manager.may("client.export")
    change(Role.MANAGER, {"client.archive": True, "client.export": False}, by=network.owner)
    assert network.manager.may("client.archive")
    assert not network.manager.may("client.export")
    assert not network.administrator.may("client.delete")
    assert network.administrator.may("client.export")
    client = make_client(network.lesnoy)
    with transaction():
        archive_client(client, by=network.manager)
    change(Role.MANAGER, {"client.archive": False})
    assert refused(archive_client, make_client(network.lesnoy), by=network.manager).code == "forbidden"


def test_it_holds_in_other_processes_too(network: Network, in_parallel: Any) -> None:
    """A process that has asked before the change asks again in its next transaction."""

    manager_id = network.manager.id
    asked, changed = threading.Event(), threading.Event()

    def ask() -> tuple[bool, bool]:
        user = db.session.get_one(User, manager_id)
        before = user.may("client.export")
        db.session.commit()
        asked.set()
        changed.wait(30)
        return before, user.may("client.export")

    def change_meanwhile() -> None:
        asked.wait(30)
        change(Role.MANAGER, {"client.export": False})
        changed.set()

    assert in_parallel(lambda index: change_meanwhile() if index else ask(), 2)[0] == (True, False)


def test_only_what_differs_is_kept(network: Network) -> None:
    change(Role.MANAGER, {"client.view": True, "client.edit": False, "client.export": False})
    assert settings_of(Role.MANAGER).permissions == {"client.export": False}


def test_back_to_the_built_in(network: Network) -> None:
    change(Role.MANAGER, {"client.export": False}, client__phone=FieldRule.HIDE)
    with transaction():
        reset_role(settings_of(Role.MANAGER), by=network.owner)
    assert network.manager.may("client.export")
    assert field_rules(network.manager, "client") == NO_RULES


def test_each_change_is_written_down_by_its_name(network: Network) -> None:
    with acting(network.owner, "request:1"):
        change(
            Role.MANAGER, {"client.export": False, "client.edit": True}, by=network.owner, client__phone=FieldRule.HIDE
        )
        change(Role.MANAGER, {"client.edit": True}, by=network.owner, client__phone=FieldRule.FREEZE)
    first, second = db.session.scalars(
        select(AuditEntry).where(AuditEntry.entity == "role_settings").order_by(AuditEntry.id)
    )
    assert first.actor_id == network.owner.id
    assert first.changes == {
        "permissions.client.edit": [None, True],
        "permissions.client.export": [None, False],
        "fields.client.phone": [None, "hide"],
    }
    assert second.changes == {"permissions.client.export": [False, None], "fields.client.phone": ["hide", "freeze"]}


# --- the owner ------------------------------------------------------------------------------------------------------


def test_the_owner_holds_everything_whatever_is_written(network: Network) -> None:
    assert (
        refused(change_role, settings_of(Role.OWNER), permissions={}, fields={}, by=network.owner).code == "owners_role"
    )
    with transaction():  # by hand, in the database
        settings_of(Role.OWNER).permissions = {"client.view": False}
        settings_of(Role.OWNER).fields = {"client.phone": "hide"}
    assert network.owner.may("client.view")
    assert field_rules(network.owner, "client") == NO_RULES
    assert may_manage(network.owner, Role.OWNER)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OWNER])
def test_nobody_else_edits_roles(network: Network, role: Role) -> None:
    by = make_user(role, branches=[network.lesnoy])
    assert refused(change_role, settings_of(Role.MANAGER), permissions={}, fields={}, by=by).code == "forbidden"


@pytest.mark.parametrize("permission", sorted(RESERVED))
def test_what_is_reserved_is_not_given(network: Network, permission: str) -> None:
    assert refused(change, Role.REGIONAL_DIRECTOR, {permission: True}, by=network.owner).code == "not_held"
    with transaction():
        settings_of(Role.REGIONAL_DIRECTOR).permissions = {permission: True}
    assert not network.regional.may(permission)


def test_what_does_not_exist_is_not_given(network: Network) -> None:
    assert refused(change, Role.MANAGER, {"client.fly": True}).code == "unknown_permission"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"role": Role.SUPPORT}, "role"),
        ({"is_active": False}, "is_active"),
        ({"role": Role.MANAGER, "is_active": False}, "role"),
    ],
)
def test_the_last_active_owner_stays_one(network: Network, changes: dict[str, Any], field: str) -> None:
    make_user(Role.OWNER, is_active=False)
    facts = facts_of(network.owner)
    error = refused(change_user, network.owner, **{**facts, **changes}, by=SYSTEM)
    assert (error.code, error.field) == ("last_owner", field)


def test_two_owners_who_remove_each_other_leave_one(network: Network, in_parallel: Any) -> None:
    owners = [network.owner.id, make_user(Role.OWNER).id]

    def remove(index: int) -> None:
        with transaction():
            user = db.session.get_one(User, owners[index])
            change_user(user, **{**facts_of(user), "is_active": False}, by=SYSTEM)

    answers = in_parallel(remove, 2)
    assert [type(answer) for answer in answers].count(DomainError) == 1, answers
    active = select(User).where(User.role == Role.OWNER, User.is_active)
    assert len(db.session.scalars(active).all()) == 1


# --- nobody gives what he does not hold -----------------------------------------------------------------------------


def test_a_role_made_mightier_is_out_of_reach(network: Network) -> None:
    assert may_manage(network.director, Role.ADMINISTRATOR)
    change(Role.ADMINISTRATOR, {"company.edit": True})
    assert not may_manage(network.director, Role.ADMINISTRATOR)
    change(Role.DIRECTOR, {"company.edit": True})
    assert may_manage(network.director, Role.ADMINISTRATOR)


def test_a_role_made_weaker_reaches_less(network: Network) -> None:
    change(Role.DIRECTOR, {"client.archive": False})
    assert not may_manage(network.director, Role.ADMINISTRATOR)
    assert may_manage(network.director, Role.INSTRUCTOR)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (FieldRule.HIDE, None, False),
        (FieldRule.HIDE, FieldRule.FREEZE, False),
        (FieldRule.HIDE, FieldRule.HIDE, True),
        (FieldRule.FREEZE, None, False),
        (FieldRule.FREEZE, FieldRule.FREEZE, True),
        (FieldRule.FREEZE, FieldRule.HIDE, True),
    ],
)
def test_nor_does_he_give_a_field_he_does_not_see(
    network: Network, mine: FieldRule, theirs: Any, expected: bool
) -> None:
    change(Role.DIRECTOR, client__phone=mine)
    if theirs:
        change(Role.ADMINISTRATOR, client__phone=theirs)
    assert may_manage(network.director, Role.ADMINISTRATOR) is expected


def test_a_changed_role_goes_with_the_person(network: Network) -> None:
    """In the transaction that gives the role, too."""
    change(Role.INSTRUCTOR, {"client.export": True})
    user = network.administrator
    assert user.may("bill.issue")
    with transaction():
        change_user(user, **{**facts_of(user), "role": Role.INSTRUCTOR}, by=SYSTEM)
        assert user.may("client.export")
        assert not user.may("bill.issue")


# --- fields ---------------------------------------------------------------------------------------------------------


def test_rules_of_fields_are_those_of_the_role_and_the_entity(network: Network) -> None:
    change(Role.MANAGER, client__phone=FieldRule.HIDE, client__email=FieldRule.FREEZE, bill__amount=FieldRule.FREEZE)
    assert field_rules(network.manager, "client") == FieldRules(frozenset({"phone"}), frozenset({"email"}))
    assert field_rules(network.manager, "bill") == FieldRules(frozenset(), frozenset({"amount"}))
    assert field_rules(network.manager, "account") == NO_RULES
    assert field_rules(network.administrator, "client") == NO_RULES
    assert field_rules(SYSTEM, "client") == NO_RULES


def test_a_field_within_a_field_keeps_its_dots(network: Network) -> None:
    change(Role.MANAGER, client__custom__source=FieldRule.HIDE)
    assert field_rules(network.manager, "client").hidden == {"custom.source"}


# --- the registry ---------------------------------------------------------------------------------------------------


def test_every_action_has_a_name_and_none_is_left_over() -> None:
    assert set(ACTION_NAMES) == {action for actions in ACTIONS.values() for action in actions}


def test_the_built_in_table_speaks_of_known_actions() -> None:
    for role, entities in ROLES.items():
        for entity, actions in entities.items():
            known = set(ACTIONS[entity]) if entity != "*" else set()
            assert set(actions) - {"*"} <= known, (role, entity)


def test_two_people_one_after_the_other_in_one_job(app: Any, network: Network) -> None:
    """What a view remembers of the one is not believed of the other."""
    change(Role.MANAGER, client__phone=FieldRule.HIDE)
    view = next(item for item in app.extensions["admin"][0]._views if getattr(item, "entity", "") == "client")
    db.session.commit()
    shown = []
    for user_id in (network.owner.id, network.manager.id, network.owner.id):
        with on_behalf_of(user_id, branch_id=None, locale="ru", source="test"):
            shown.append("phone" in {column.name for column in view.available_columns()})
    assert shown == [True, False, True]
