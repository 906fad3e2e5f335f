"""Which role may do what: one table, read top to bottom. What is not listed is denied.

A permission is `entity.action`. Entities and actions are those of the panel's views (`admin/views/`), plus verbs that
are no plain edit (`account.open`, `bill.issue`). `*` stands for any entity or any action.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

ENTITIES = (
    *("client", "accounttype", "account", "bill", "subscription", "plan", "payment", "message", "template"),
    *("mailingrule", "mailingrun", "company", "city", "branch", "user", "employee", "audit"),
)

READ = ("view", "export")
DESK = {
    "client": (*READ, "create", "edit", "archive"),
    "accounttype": READ,
    "account": (*READ, "open", "top_up", "spend"),
    "bill": (*READ, "issue", "archive"),
    "subscription": (*READ, "sell"),
    "plan": ("view",),
    "payment": READ,
    "message": (*READ, "send"),
    "mailingrun": ("view",),
    "employee": ("view",),
    "branch": ("view",),
}
DIRECTOR = DESK | {
    "client": ("*",),
    "account": ("*",),
    "bill": ("*",),
    "subscription": ("*",),
    "payment": ("*",),
    "plan": READ,
    "template": READ,
    "mailingrule": ("*",),
    "mailingrun": ("*",),
    "employee": ("*",),
    "user": READ,
    "audit": READ,
}

ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "owner": {"*": ("*",)},
    "regional_director": DIRECTOR
    | {"accounttype": ("*",), "plan": ("*",), "template": ("*",)}
    | {"branch": (*READ, "edit"), "city": READ, "company": ("view",)},
    "director": DIRECTOR,
    "administrator": DESK,
    "manager": {entity: READ for entity in ENTITIES if entity not in {"user", "company", "city"}},
    "instructor": {"client": ("view",), "subscription": ("view",), "employee": ("view",)},
    "support": dict.fromkeys(
        ("accounttype", "company", "city", "branch", "user", "employee", "template", "plan"), ("*",)
    )
    | {"audit": READ, "client": ("view",), "mailingrule": READ, "mailingrun": READ, "message": ("view",)},
}

# Sees every branch without being attached to any.
NETWORK_WIDE_ROLES = frozenset({"owner", "support"})


@lru_cache(maxsize=4096)
def may(role: str, permission: str) -> bool:
    """Does `role` hold `permission`? Unknown roles hold nothing; nobody holds what is not `entity.action`."""
    entity, _, action = permission.partition(".")
    return bool(entity and action) and any(
        fnmatchcase(entity, entity_pattern) and any(fnmatchcase(action, pattern) for pattern in actions)
        for entity_pattern, actions in ROLES.get(role, {}).items()
    )


def permissions_of(role: str) -> frozenset[str]:
    """What `role` holds, as the table writes it: `client.*` is held by those alone who hold it as a whole."""
    return frozenset(f"{entity}.{action}" for entity, actions in ROLES[role].items() for action in actions)
