"""What roles may, as people read it: the matrix on a role's page, and "what can this person do and why".

What can be allowed comes from access/permissions.py, the entities' names and fields from the registered views: nothing
is listed here again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import g
from flask_babel import gettext as _
from wtforms import Field, SelectField, SelectMultipleField

from crm.access.models import Branch, FieldRule, Role, RoleSettings, User
from crm.access.permissions import ACTION_NAMES, ACTIONS, NETWORK_WIDE_ROLES, RESERVED, is_built_in, may
from crm.access.queries import branches_of
from crm.admin.base import DEFAULT_ZONE, KontoraView
from crm.audit.models import AuditEntry
from crm.db import db


@dataclass(frozen=True)
class ActionRight:
    """One permission of a role. change: the audit line that made it differ from the built-in table."""

    permission: str
    label: Any
    is_allowed: bool
    is_built_in: bool
    change: AuditEntry | None = None

    @property
    def is_reserved(self) -> bool:
        return self.permission in RESERVED

    @property
    def is_changed(self) -> bool:
        return self.is_allowed is not self.is_built_in


@dataclass(frozen=True)
class FieldRight:
    """What a role may of one field. rules: those that can be chosen."""

    key: str  # "client.phone"
    label: Any
    rule: FieldRule | None
    rules: tuple[FieldRule, ...]
    change: AuditEntry | None = None


@dataclass(frozen=True)
class EntityRights:
    """section: the menu's heading the entity stands under, None for the first ones."""

    entity: str
    name: Any
    section: Any
    actions: list[ActionRight]
    fields: list[FieldRight]

    @property
    def denied_fields(self) -> list[FieldRight]:
        return [field for field in self.fields if field.rule is not None]


def entity_views(views: Iterable[Any]) -> Iterator[KontoraView]:
    """The registered views, one per entity roles speak of, in the menu's order."""
    seen = set()
    for view in views:
        if isinstance(view, KontoraView) and view.entity in ACTIONS and view.entity not in seen:
            seen.add(view.entity)
            yield view


def rights_of_role(
    views: Iterable[Any],
    role: Role,
    permissions: Mapping[str, bool],
    fields: Mapping[str, str],
    changes: Mapping[str, AuditEntry] | None = None,
) -> list[EntityRights]:
    """Everything there is, and what of it `role` may with these changes of the built-in table."""
    changes = changes or {}
    return [
        EntityRights(
            view.entity,
            view.name,
            view.category,
            [
                ActionRight(
                    name,
                    ACTION_NAMES[action],
                    may(role.value, name, permissions),
                    is_built_in(role.value, name),
                    changes.get(f"permissions.{name}"),
                )
                for action in ACTIONS[view.entity]
                for name in (f"{view.entity}.{action}",)
            ],
            [
                FieldRight(
                    key,
                    label,
                    FieldRule(fields[key]) if key in fields else None,  # type: ignore[call-arg]
                    rules,
                    changes.get(f"fields.{key}"),
                )
                for key, label, rules in _fields_of(view)
            ],
        )
        for view in entity_views(views)
    ]


def _fields_of(view: KontoraView) -> Iterator[tuple[str, Any, tuple[FieldRule, ...]]]:
    """(key, label, rules) of the fields a role can be denied: those of the grid, the details and the form.

    What names a row stays visible, and so does what a form cannot be sent without; only what a form has can be frozen.
    """
    form: Any = view.form_class()() if view.edits or view.creates else {}
    columns = {column.name: column.label for column in view.available_columns()}
    for field in form:
        if hasattr(view.model, field.name):
            columns.setdefault(field.name, field.label.text)
    title = next(iter(columns), None)
    for name, label in columns.items():
        can_hide = name != title and not (name in form and _is_required(form[name]))
        can_freeze = name in form and view.edits
        rules = (*([FieldRule.FREEZE] if can_freeze else []), *([FieldRule.HIDE] if can_hide else []))
        if rules:
            yield f"{view.entity}.{name}", label, rules


def _is_required(field: Field) -> bool:
    is_choice = isinstance(field, SelectField) and not isinstance(field, SelectMultipleField)
    return bool(field.flags.required or (is_choice and not field.flags.optional))


def changes_of_role(settings: RoleSettings) -> dict[str, AuditEntry]:
    """Who changed what of a role last: {"permissions.client.edit" or "fields.client.phone": line}."""
    query = sa.select(AuditEntry).where(
        AuditEntry.entity == RoleSettings.__tablename__, AuditEntry.entity_id == settings.id
    )
    return {key: line for line in db.session.scalars(query.order_by(AuditEntry.id)) for key in line.changes}


@dataclass(frozen=True)
class Reach:
    """A branch somebody works in, and why he does."""

    branch: Branch
    reason: str


def reach_of(user: User) -> list[Reach]:
    """Whose rows `user` sees, branch by branch, with the reason."""
    if user.role.value in NETWORK_WIDE_ROLES:
        reason = _("The role sees the whole network.")
        return [Reach(branch, reason) for branch in branches_of(user)]
    if user.role is Role.REGIONAL_DIRECTOR:
        return [
            Reach(branch, _("Every branch of the city is his: %(city)s.", city=branch.city.name))
            for branch in branches_of(user)
        ]
    return [Reach(branch, _("The branch is ticked at the user.")) for branch in branches_of(user)]


def rights_of_person(views: Iterable[Any], user: User) -> dict[str, Any]:
    """What the page "what can this person do and why" shows."""
    settings = user.role_settings
    if settings is None or user.role is Role.OWNER:
        rights = rights_of_role(views, user.role, {}, {})
    else:
        rights = rights_of_role(views, user.role, settings.permissions, settings.fields, changes_of_role(settings))
    zone = next((branch.time_zone for branch in g.branches), DEFAULT_ZONE)
    return {"person": user, "settings": settings, "reach": reach_of(user), "rights": rights, "zone": zone}
