"""Finding anything at once: records of several grids by their own searches, and what can be done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import g, request, url_for
from flask_admin import Admin
from flask_babel import gettext as _
from flask_login import current_user
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from crm.admin.base import KontoraView
from crm.admin.column import LoadedColumn
from crm.admin.selection import Selection
from crm.admin.views.reports import ReportView
from crm.clients.queries import find_clients

# Whose records are found, in this order.
ENTITIES = ("client", "account", "bill", "subscription")
FOUND_AT_MOST = 25  # clients to choose from


@dataclass(frozen=True)
class Found:
    """A line of what was found: url leads there; branch_id and theme are commands that are no address."""

    title: str
    note: str = ""
    icon: str = ""
    url: str = ""
    branch_id: str | None = None
    is_theme: bool = False


@dataclass(frozen=True)
class Group:
    """What was found of one kind. more: address of the rest of it, if there is any."""

    title: Any
    lines: list[Found]
    more: str | None = None


def find_records(admin: Admin, text: str, *, limit: int) -> list[Group]:
    """Records that match, by the search of each grid this person may open and within his branches."""
    if len(text.strip()) < 2:
        return []
    views = {getattr(view, "entity", None): view for view in admin._views}
    groups = []
    for entity in ENTITIES:
        view = views[entity]
        if not view.is_accessible():
            continue
        selection = Selection.from_args(view, MultiDict({"q": text, "size": "25"}), view.here())
        rows = selection.read_page().rows
        if rows:
            url = f"{url_for(f'{entity}.index_view')}{selection.url(size=None)}"
            lines = [line_of(view, row) for row in rows[:limit]]
            groups.append(Group(view.name, lines, url if len(rows) > limit else None))
    return groups


def line_of(view: KontoraView, row: Any) -> Found:
    """A record as one line: what its row is called, and the next columns of its grid its row can tell by itself."""
    columns = [view.column_as_of(column, None) for column in view.declared_columns()]
    told = [column for column in columns if not isinstance(column, LoadedColumn)][:5]
    texts = [str(Markup.escape(view.plain_cell(row, column)).striptags()) for column in told]
    texts = [text for text in texts if text and text != "—"]
    title = str(row)
    return Found(title, " · ".join(text for text in texts if text != title), view.icon, view.row_url(row))


def commands(admin: Admin, text: str) -> list[Found]:
    """What this person can do from here, of that what `text` speaks of."""
    wanted = _plain(text).split()
    return [item for item in _all_commands(admin) if all(word in _plain(item.title) for word in wanted)]


def _all_commands(admin: Admin) -> Iterator[Found]:
    views = [view for view in admin._views if isinstance(view, KontoraView | ReportView) and view.is_accessible()]
    for view in views:
        yield Found(str(view.name), _("open"), view.icon, url_for(f"{view.endpoint}.index_view"))
    for view in views:
        if isinstance(view, KontoraView) and view.may_create:
            yield Found(str(view.create_label), "", "plus-lg", url_for(f"{view.endpoint}.create_view"))
    if g.scope.branch_id is not None:
        yield Found(_("Network: all branches"), _("switch"), "diagram-3", branch_id="")
    for branch in g.branches:
        if branch.id != g.scope.branch_id:
            yield Found(branch.name, _("switch to the branch"), "shop", branch_id=str(branch.id))
    yield Found(_("Central page"), "", "house", url_for("admin.index"))
    if current_user.may("company.view"):
        yield Found(_("Licensing"), "", "patch-check", url_for("company.licensing_view"))
    yield Found(_("Light or dark"), "", "moon-stars", is_theme=True)


def _plain(text: str) -> str:
    return text.casefold().replace("ё", "е")


def found_clients() -> dict[str, Any]:
    """What the page of a search for a client shows: the text asked for and who was found."""
    text = request.values.get("q", "").replace("\x00", "").strip()[:200]
    found = find_clients(text, limit=FOUND_AT_MOST, by=current_user) if current_user.may("client.view") else []
    return {"text": text, "found": found}
