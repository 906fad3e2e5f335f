"""The base view of every entity, put together from its parts.

columns.py: declarations, permissions, columns, hooks · grid.py: the page of rows · bulk.py: actions over many rows ·
exporting.py: Excel out · history.py: details and history · forms.py: create and edit · inline.py: one cell ·
shaping.py: layouts and saved views · filtering.py: filters as people see them. An entity's view is a declarative
Flask-Admin class over it (views/<domain>.py). Deny by default: an exposed method runs only when `permission_for` maps
it to a permission its user holds.

The parts inherit in one line, each from the one before: Flask-Admin's metaclass copies every exposed method into each
class it meets, so of two parents the first would bring Flask-Admin's own methods over the second's.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import url_for

from crm.admin.bulk import BulkAction
from crm.admin.columns import DEFAULT_ZONE, GridColumn, permission
from crm.admin.filtering import QuickFilter
from crm.admin.grid import GridView

__all__ = ["DEFAULT_ZONE", "BulkAction", "GridColumn", "KontoraView", "QuickFilter", "grid_url", "permission"]


class KontoraView(GridView):
    """What is common to all entities; see the module."""


def grid_url(endpoint: str, **args: Any) -> str:
    """Address of another grid with filters: grid_url("bill", **{"f.status.is": "pending"})."""
    return f"{url_for(f'{endpoint}.index_view')}?{urlencode(args)}"
