"""What can be imported, by the name the command line and the panel call it."""

from __future__ import annotations

from collections.abc import Callable

from crm.exchange.accounts import AccountImport
from crm.exchange.clients import ClientImport
from crm.exchange.importing import Importer

IMPORTERS: dict[str, Callable[[], Importer]] = {"client": ClientImport, "account": AccountImport}
