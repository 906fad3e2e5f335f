"""Who does a thing. Every operation takes `by`, a User or the system; nothing reads it from the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm.access.scope import current_scope
from crm.errors import Forbidden, NotFound


class Actor(Protocol):
    """What operations need to know of the one who acts."""

    @property
    def id(self) -> Any: ...
    @property
    def name(self) -> Any: ...
    def may(self, permission: str) -> bool: ...


@dataclass(frozen=True)
class System:
    """Kontora itself: jobs, gateways' notices, the command line. May do everything; authors as `name`."""

    name: str = "system"
    id: None = None

    def may(self, permission: str) -> bool:
        return True


SYSTEM = System()

# What acts without a person, as people read it: payment services go by the names of their gateways.
_SHOWN: dict[str, Any] = {
    SYSTEM.name: _l("System"),
    "public page": _lp("author", "Page of the bill"),
    "client": _lp("author", "The client himself"),
    "demo": _l("Demo bank"),
    "yookassa": _l("YooKassa"),
    "tbank": _l("T-Bank"),
}


def author_shown(name: str) -> str:
    """An author's name as people read it."""
    return str(_SHOWN.get(name, name))


def require(by: Actor, permission: str, subject: Any = None) -> None:
    """Raise Forbidden unless `by` holds `permission`, NotFound when `subject` lies outside the current scope."""
    if not by.may(permission):
        raise Forbidden("forbidden", _("Your role does not allow this action."))
    branch_id = getattr(subject, "branch_id", None)
    if branch_id is not None and not current_scope().covers(branch_id):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
