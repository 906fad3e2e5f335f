"""What can be imported, by the name the command line and the panel call it."""

from __future__ import annotations

from collections.abc import Callable

from flask_babel import gettext as _

from crm.access.actors import Actor, require
from crm.access.fields import field_rules
from crm.errors import Forbidden
from crm.exchange.accounts import AccountImport
from crm.exchange.clients import ClientImport
from crm.exchange.importing import Importer

IMPORTERS: dict[str, Callable[[], Importer]] = {"client": ClientImport, "account": AccountImport}
UPDATING = frozenset({"client"})  # importers that can change what is here already


def make_importer(entity: str, *, by: Actor, is_updating: bool = False) -> Importer:
    """An importer for one run, within the scope of the one who imports, without the fields he may not fill.

    Raises Forbidden when he may not import, or not fill a field every line needs.
    """
    importer: Importer = ClientImport(is_updating=True) if is_updating and entity in UPDATING else IMPORTERS[entity]()
    require(by, importer.permission)
    rules = field_rules(by, entity)
    denied = rules.hidden | rules.frozen
    if any(field.is_required and field.name in denied for field in importer.fields):
        raise Forbidden("forbidden", _("Your role does not allow this action."))
    importer.fields = tuple(field for field in importer.fields if field.name not in denied)
    return importer
