"""Verbs on roles: the owner changes what a role may, and puts it back as it was built in."""

from __future__ import annotations

from collections.abc import Mapping

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.permissions import PERMISSIONS, RESERVED, is_built_in, permissions_of
from crm.db import db
from crm.errors import DomainError, Forbidden


def manageable_roles(by: Actor) -> list[Role]:
    """The roles `by` may give, and whose people he may change: those that hold nothing he does not hold himself, and
    see and change no field he may not. Nobody lifts himself, or a friend, above himself.
    """
    held = {permission for permission in PERMISSIONS if by.may(permission)}
    mine = _denied(getattr(by, "role_settings", None))
    found = []
    for settings in db.session.scalars(select(RoleSettings).order_by(RoleSettings.id)):
        theirs, given = _denied(settings), permissions_of(settings.role.value, settings.permissions)
        is_within = all(
            theirs.get(field) in {rule, FieldRule.HIDE.value} or f"{field.partition('.')[0]}.view" not in given
            for field, rule in mine.items()
        )
        if given <= held and is_within:
            found.append(settings.role)
    return found


def _denied(settings: RoleSettings | None) -> Mapping[str, str]:
    return {} if settings is None or settings.role is Role.OWNER else settings.fields


def change_role(
    settings: RoleSettings, *, permissions: Mapping[str, bool], fields: Mapping[str, FieldRule], by: Actor
) -> RoleSettings:
    """Say what a role may: `permissions` it holds or not, where it differs from the built-in table; what is not named
    is as built in. fields: {"client.phone": rule}; what is not named is seen, and changed by whoever may edit.

    Raises Forbidden for the owner's role and for what `by` does not hold, DomainError for what does not exist. The
    caller commits.
    """
    require(by, "role.edit", settings)
    role = settings.role.value
    if settings.role is Role.OWNER:
        raise Forbidden("owners_role", _("The head of the network may always do everything."), "role")
    unknown = [name for name in permissions if name not in PERMISSIONS]
    if unknown:
        raise DomainError("unknown_permission", _("There is no such permission: %(name)s.", name=unknown[0]))
    changed = {name: allowed for name, allowed in permissions.items() if allowed != is_built_in(role, name)}
    if any(allowed and (name in RESERVED or not by.may(name)) for name, allowed in changed.items()):
        raise Forbidden("not_held", _("Nobody gives what he does not hold himself."))
    settings.permissions = dict(sorted(changed.items()))
    settings.fields = {name: rule.value for name, rule in sorted(fields.items())}
    db.session.flush()
    return settings


def reset_role(settings: RoleSettings, *, by: Actor) -> RoleSettings:
    """Make a role what it was built in as: its table, every field. The caller commits."""
    return change_role(settings, permissions={}, fields={}, by=by)
