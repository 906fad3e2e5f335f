"""Which fields of an entity a person may not see, or not change."""

from __future__ import annotations

from dataclasses import dataclass

from crm.access.actors import Actor


@dataclass(frozen=True)
class FieldRules:
    """Names of columns (`phone`, `custom.height`): hidden ones are nowhere, frozen ones are shown but not changed."""

    hidden: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()


def field_rules(user: Actor, entity: str) -> FieldRules:
    """What the role of `user` says of the fields of `entity`."""
    return FieldRules()
