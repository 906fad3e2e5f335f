"""Which role may do what: one table, read top to bottom. What is not listed is denied.

A permission is `entity.action`. Entities are those of the panel's views (`admin/views/`), actions what views and
operations ask for. ROLES is what a role may when nobody has changed it; what the owner changed in the panel is kept in
RoleSettings and goes before it. `*` stands for any entity or any action.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

READ = ("view", "export")
SEEN = (*READ, "share")
EDITED = (*SEEN, "create", "edit")

# Everything that can be allowed: what a view or an operation asks for and is not here, fails a test.
ACTIONS: dict[str, tuple[str, ...]] = {
    "client": (*EDITED, "archive", "import", "merge", "discount"),
    "account": (
        *(*SEEN, "edit", "open", "top_up", "spend", "import"),
        *("write_off", "refund", "transfer", "transfer_out", "reverse", "close", "debt", "bad_debt"),
    ),
    "accounttype": EDITED,
    "entry": SEEN,
    "debtor": SEEN,
    "till": (*EDITED, "shift", "move"),
    "shift": SEEN,
    "cashflow": SEEN,
    "visit": (*EDITED, "pay"),
    "bill": (*SEEN, "edit", "issue", "archive"),
    "payment": (*SEEN, "refund", "resolve"),
    "refund": SEEN,
    "shop": EDITED,
    "notice": (*SEEN, "again"),
    "subscription": (
        *(*SEEN, "edit", "sell", "freeze", "prolong", "archive", "recalculate", "return", "cancel"),
        *("add_lessons", "transfer_lessons"),
    ),
    "plan": EDITED,
    "lesson": (*EDITED, "all", "past", "enrol", "mark", "cancel"),
    "attendance": SEEN,
    "clientgroup": (*EDITED, "enrol"),
    "booking": (*EDITED, "delete"),
    "waiting": (*SEEN, "edit"),
    "task": (*EDITED, "all"),
    "subject": EDITED,
    "lessontype": EDITED,
    "room": EDITED,
    "holiday": (*EDITED, "delete"),
    "mailingrule": (*EDITED, "run"),
    "mailingrun": SEEN,
    "template": EDITED,
    "message": (*SEEN, "send"),
    "messagecharge": SEEN,
    "provider": EDITED,
    "exportschedule": (*EDITED, "run", "delete"),
    "user": EDITED,
    "employee": EDITED,
    "branch": EDITED,
    "city": EDITED,
    "company": (*EDITED, "switch"),
    "field": ("view", "create", "edit", "archive"),
    "contract": EDITED,
    "role": (*SEEN, "edit"),
    "audit": SEEN,
}
PERMISSIONS = tuple(f"{entity}.{action}" for entity, actions in ACTIONS.items() for action in actions)

ACTION_NAMES: dict[str, Any] = {
    "view": _lp("permission", "See"),
    "export": _lp("permission", "Export"),
    "create": _lp("permission", "Add"),
    "edit": _lp("permission", "Change"),
    "delete": _lp("permission", "Delete"),
    "archive": _l("Archive and restore"),
    "add_lessons": _l("Add lessons"),
    "again": _l("Read once more"),
    "all": _l("Everybody's, not only one's own"),
    "cancel": _lp("permission", "Cancel"),
    "discount": _l("Set a client's discount"),
    "enrol": _l("Enrol and take off"),
    "freeze": _l("Freeze and resume"),
    "mark": _l("Mark attendance"),
    "past": _l("Plan into the past"),
    "prolong": _lp("permission", "Prolong"),
    "recalculate": _lp("permission", "Recalculate"),
    "resolve": _l("Settle what needs attention"),
    "return": _l("Return to the client"),
    "transfer_lessons": _l("Transfer lessons to another client"),
    "import": _l("Import from files"),
    "bad_debt": _l("Write off bad debts"),
    "close": _l("Close and reopen"),
    "debt": _l("Accrue and write off debts"),
    "issue": _l("Issue"),
    "merge": _l("Merge cards of one person"),
    "move": _l("Move cash, other cash in and out"),
    "open": _lp("permission", "Open"),
    "pay": _l("Take the payment"),
    "refund": _l("Refund to the client"),
    "reverse": _l("Reverse operations"),
    "run": _l("Run by hand"),
    "sell": _lp("permission", "Sell"),
    "shift": _l("Open and close shifts"),
    "share": _l("Share views of the grid"),
    "send": _lp("permission", "Send"),
    "spend": _l("Pay bills from"),
    "switch": _l("Switch settings"),
    "top_up": _l("Top up and take payments"),
    "transfer": _l("Transfer within the family"),
    "transfer_out": _l("Transfer to another client"),
    "write_off": _lp("permission", "Write off"),
}

# Held by whom the table says, whatever else is changed: who could give the first could give himself everything, and the
# other is technical support's (and the owner's) alone.
RESERVED = frozenset({"role.edit", "company.switch"})

DESK = {
    "client": (*READ, "create", "edit", "archive"),
    "accounttype": READ,
    "account": (*READ, "open", "top_up", "spend", "write_off", "transfer"),
    "entry": READ,
    "debtor": READ,
    "till": ("view", "shift"),
    "shift": READ,
    "cashflow": ("view",),
    "visit": (*READ, "create", "edit", "pay"),
    "bill": (*READ, "issue", "edit", "archive"),
    "subscription": (*READ, "sell", "freeze", "prolong", "archive", "recalculate"),
    "lesson": (*READ, "create", "edit", "all", "enrol", "mark", "cancel"),
    "attendance": READ,
    "clientgroup": (*READ, "create", "edit", "enrol"),
    "booking": (*READ, "create", "edit", "delete"),
    "waiting": (*READ, "edit"),
    "task": (*READ, "create", "edit", "all"),
    **dict.fromkeys(("subject", "lessontype", "room", "holiday"), ("view",)),
    "plan": ("view",),
    "payment": READ,
    "refund": READ,
    "message": (*READ, "send"),
    "mailingrun": ("view",),
    "employee": ("view",),
    "branch": ("view",),
    "contract": ("view",),
}
DIRECTOR = DESK | {
    "client": ("*",),
    **dict.fromkeys(("account", "entry", "debtor", "till", "shift", "cashflow", "visit"), ("*",)),
    "bill": ("*",),
    # Lessons are given to another client by the regional director alone.
    "subscription": tuple(action for action in ACTIONS["subscription"] if action != "transfer_lessons"),
    **dict.fromkeys(("lesson", "attendance", "clientgroup", "booking", "waiting", "task", "holiday"), ("*",)),
    "room": EDITED,
    **dict.fromkeys(("subject", "lessontype"), READ),
    "payment": ("*",),
    "refund": ("*",),
    "plan": READ,
    "template": READ,
    "contract": READ,
    "mailingrule": ("*",),
    "mailingrun": ("*",),
    "messagecharge": READ,
    "exportschedule": ("*",),
    "employee": ("*",),
    "user": READ,
    "audit": READ,
}

# A manager reads the business, not the settings.
CLOSED_TO_MANAGERS = frozenset({"user", "company", "city", "role", "field", "shop", "notice", "provider"})

OWNER = "owner"
ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    OWNER: {"*": ("*",)},
    "regional_director": DIRECTOR
    | dict.fromkeys(("accounttype", "plan", "template", "subscription", "subject", "lessontype"), ("*",))
    | {"branch": (*READ, "edit"), "city": READ, "company": ("view",)},
    "director": DIRECTOR,
    "administrator": DESK,
    "manager": {entity: READ for entity in ACTIONS if entity not in CLOSED_TO_MANAGERS}
    | {"exportschedule": ("*",), **dict.fromkeys(("task", "lesson"), (*READ, "all"))},
    "instructor": {
        **dict.fromkeys(("client", "subscription", "employee", "clientgroup", "attendance"), ("view",)),
        "lesson": ("view", "mark"),
        "task": ("view", "edit"),
    },
    "support": dict.fromkeys(
        (
            *("accounttype", "company", "city", "branch", "user", "employee", "template", "plan", "field", "contract"),
            *("subject", "lessontype", "room", "holiday", "shop", "provider"),
        ),
        ("*",),
    )
    | {
        "till": EDITED,
        "audit": READ,
        "notice": (*READ, "again"),
        "client": ("view",),
        "mailingrule": READ,
        "mailingrun": READ,
        "message": ("view",),
    },
}

# Sees every branch without being attached to any.
NETWORK_WIDE_ROLES = frozenset({OWNER, "support"})


_UNCHANGED: Mapping[str, bool] = MappingProxyType({})


@lru_cache(maxsize=4096)
def is_built_in(role: str, permission: str) -> bool:
    """Does the table give `permission` to `role`? Unknown roles hold nothing; nobody what is not `entity.action`."""
    entity, _, action = permission.partition(".")
    return bool(entity and action) and any(
        fnmatchcase(entity, entity_pattern) and any(fnmatchcase(action, pattern) for pattern in actions)
        for entity_pattern, actions in ROLES.get(role, {}).items()
    )


def may(role: str, permission: str, changes: Mapping[str, bool] = _UNCHANGED) -> bool:
    """Does `role` hold `permission`, given what the owner `changes` of the table? His own role nothing changes."""
    if role == OWNER or permission in RESERVED:
        return is_built_in(role, permission)
    return bool(changes.get(permission, is_built_in(role, permission)))


def permissions_of(role: str, changes: Mapping[str, bool] = _UNCHANGED) -> frozenset[str]:
    """All that `role` holds of what there is."""
    return frozenset(permission for permission in PERMISSIONS if may(role, permission, changes))
