"""Which fields of an entity a person's role does not see, or sees and cannot change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crm.access.models import FieldRule, Role


@dataclass(frozen=True)
class FieldRules:
    """hidden: fields that are nowhere for this person; frozen: shown, and refused when written. Names of columns."""

    hidden: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()


NO_RULES = FieldRules()


def field_rules(user: Any, entity: str) -> FieldRules:
    """What `user`'s role is denied of the fields of `entity` (a view's name: "client"). Nothing is denied the owner,
    nor an actor without a role, such as the system.
    """
    settings = getattr(user, "role_settings", None)
    if settings is None or not settings.fields or user.role is Role.OWNER:
        return NO_RULES
    of_entity = {
        name: rule
        for of, _dot, name, rule in ((*key.partition("."), rule) for key, rule in settings.fields.items())
        if of == entity
    }
    hidden = frozenset(name for name, rule in of_entity.items() if rule == FieldRule.HIDE.value)
    return FieldRules(hidden, frozenset(of_entity) - hidden)
