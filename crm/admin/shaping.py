"""How a grid is laid out for a person, and the views saved of it.

A layout says which columns stand in what order, which of them stay in sight, how wide and how dense. Everybody has one
of his own per grid; a saved view brings its own along. `?view=7` opens a view as it was saved; `in=7` in the address of
a page says that its layout is that view's, whatever has been changed of the selection since.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import sqlalchemy as sa
from flask import abort, flash, g, redirect, request
from flask_admin import expose
from flask_babel import format_timedelta
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.access.models import Role
from crm.admin.columns import GridColumn, permission
from crm.admin.kinds import MomentKind
from crm.admin.models import EVERYBODY, GridLayout, SavedView
from crm.admin.restoring import RestoringView
from crm.admin.selection import PAGE_SIZES, Filter, Selection
from crm.db import db, transaction

# Widths people choose from, in rem; static/app.css has a class for each, because the content security policy forbids
# styles in the page.
WIDTHS = tuple(range(4, 42, 2))
DENSITIES = {"comfortable": _l("Comfortable"), "compact": _l("Compact")}
MAX_PINNED = 3
MAX_NAME = 80
# Longer ago, a date says more than "3 months ago".
RELATIVE_UNTIL = timedelta(days=45)
# What is about the page and not about the selection.
_OF_PAGE = frozenset({"page", "after", "before", "count", "view", "in", "csrf_token"})


@dataclass(frozen=True)
class Layout:
    """columns: their names in order, () for the view's own; pinned: those that stay in sight beside the first; widths:
    rem by column; density: of DENSITIES; size: rows of a page; is_relative: whether times read "5 minutes ago".
    """

    columns: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    widths: dict[str, int] = field(default_factory=dict)
    density: str = "comfortable"
    size: int = 50
    is_relative: bool = False

    @classmethod
    def from_json(cls, data: Any) -> Layout:
        """Read what was stored; what no longer makes sense is as if it had never been chosen."""
        data = data if isinstance(data, dict) else {}
        widths = data["widths"] if isinstance(data.get("widths"), dict) else {}
        default = cls()
        return cls(
            columns=_names(data.get("columns")),
            pinned=_names(data.get("pinned"))[:MAX_PINNED],
            widths={name: width for name, width in widths.items() if width in WIDTHS},
            density=data["density"] if data.get("density") in DENSITIES else default.density,
            size=data["size"] if data.get("size") in PAGE_SIZES else default.size,
            is_relative=data.get("is_relative") is True,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ShapingView(RestoringView):
    """See the module."""

    # --- what is in force -------------------------------------------------------------------------------------------

    def _kept(self) -> GridLayout | None:
        """What this person has of this grid; asked once per request."""
        known: dict[str, GridLayout | None] = g.setdefault("grid_layouts", {})
        if self.entity not in known:
            query = sa.select(GridLayout).where(GridLayout.user_id == current_user.id, GridLayout.entity == self.entity)
            known[self.entity] = db.session.scalar(query)
        return known[self.entity]

    def saved_views(self) -> list[SavedView]:
        """The views of this grid this person may open: his own first, then those shared with him."""
        mine, roles = SavedView.owner_id == current_user.id, [EVERYBODY, current_user.role.value]
        query = (
            sa.select(SavedView)
            .where(SavedView.entity == self.entity, sa.or_(mine, SavedView.shared_with.in_(roles)))
            .order_by(mine.desc(), SavedView.name, SavedView.id)
        )
        return list(db.session.scalars(query))

    def saved_view(self, text: str | None) -> SavedView | None:
        """The view with this number, if this person may open it."""
        if not text or not text.isascii() or not text.isdigit() or len(text) > 18:
            return None
        view = db.session.get(SavedView, int(text))
        if view is None or view.entity != self.entity:
            return None
        is_shared = view.shared_with in {EVERYBODY, current_user.role.value}
        return view if view.owner_id == current_user.id or is_shared else None

    def open_view(self) -> SavedView | None:
        """The view this request is about."""
        return self.saved_view(request.values.get("view") or request.values.get("in"))

    def default_view(self) -> SavedView | None:
        """The view the plain address opens for this person."""
        kept = self._kept()
        return self.saved_view(str(kept.default_view_id)) if kept and kept.default_view_id else None

    @property
    def layout(self) -> Layout:
        """The layout in force: of the open view, else this person's; read once per request."""
        known: dict[str, Layout] = g.setdefault("layouts", {})
        if self.entity not in known:
            found = self.open_view() or self._kept()
            known[self.entity] = Layout.from_json(found.layout) if found else Layout()
        return known[self.entity]

    @property
    def columns(self) -> list[GridColumn]:
        """The columns in the order this person chose, those he pinned first; the view's own while he chose none."""
        known: dict[str, list[GridColumn]] = g.setdefault("grid_columns", {})
        if self.entity not in known:
            known[self.entity] = self._laid_out(self.layout)
        return known[self.entity]

    def declared_columns(self) -> list[GridColumn]:
        """The view's own columns, whatever this person made of them."""
        return super().columns

    def _laid_out(self, layout: Layout) -> list[GridColumn]:
        if not layout.columns:
            return self.declared_columns()
        available = {column.name: column for column in self.offered_columns()}
        chosen = [available[name] for name in layout.columns if name in available]
        chosen.sort(key=lambda column: column.name not in layout.pinned)
        return chosen or self.declared_columns()

    def offered_columns(self) -> list[GridColumn]:
        """The columns to choose from here: within one branch its name would only repeat."""
        return [column for column in self.available_columns() if column.name != "branch" or g.scope.branch_id is None]

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if isinstance(column.kind, MomentKind) and self.layout.is_relative and (value := column.value(row)) is not None:
            return self._relative(value, super().cell(row, column))
        return super().cell(row, column)

    @staticmethod
    def _relative(value: datetime, exact: str) -> Markup:
        """How long ago, with the exact time at hand; in words only while that says more than the date."""
        passed = clock.now() - value
        text = format_timedelta(-passed, add_direction=True) if abs(passed) < RELATIVE_UNTIL else exact
        return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), exact, text)

    def column_classes(self, column: GridColumn, layout: Layout) -> str:
        """CSS classes of the column's cells."""
        width = layout.widths.get(column.name)
        return f"{column.kind.css} w{width}".strip() if width else column.kind.css

    def column_width(self, column: GridColumn) -> float:
        """As wide in a sheet as this person made it in the grid; two characters take about a rem."""
        width = self.layout.widths.get(column.name)
        return float(width * 2) if width else super().column_width(column)

    # --- opening a view ---------------------------------------------------------------------------------------------

    def arguments_of(self, view: SavedView) -> tuple[MultiDict[str, str], list[str]]:
        """The arguments a view opens with, and what of it is gone: columns, filters and options that are no more."""
        selection = Selection.from_params(self, view.params, self.here())
        bad = {item.key: f"{item.label}" for item in selection.filters if item.error or self._is_unknown(item)}
        kept = MultiDict([(key, value) for key, value in view.params if key not in bad])
        available = {column.name for column in self.available_columns()}
        lost = [name for name in Layout.from_json(view.layout).columns if name not in available]
        return kept, list(dict.fromkeys([*bad.values(), *(str(self.column(name).label) for name in lost)]))

    @staticmethod
    def _is_unknown(item: Filter) -> bool:
        """Whether a filter names an option that is not on offer any more."""
        choices = dict(item.column.kind.choices()) if item.column and item.operator in {"is", "not"} else {}
        return bool(choices) and any(value not in choices for value in item.values)

    # --- changing the layout ----------------------------------------------------------------------------------------

    @expose("/layout/", methods=("GET", "POST"))
    @permission("view")
    def layout_view(self) -> Any:
        """Choose, order, pin and size the columns. POST: the whole form, or one thing of it (`do`)."""
        if request.method == "GET":
            selection = Selection.from_args(self, request.args, self.here())
            return self._panel(
                "admin/grid/columns.html",
                layout=self.layout,
                chosen=self.columns,
                sorts=[str(sort) for sort in selection.order],
                sortable=self._sortable(),
            )
        self._keep_layout(self._changed(self.layout, request.form))
        if request.headers.get("X-Panel"):
            return "", 204
        return redirect(self._return_to(self._reordered(request.form.get("state", ""), request.form.getlist("sort"))))

    def _sortable(self) -> list[tuple[str, Any]]:
        """Columns rows can be ordered by: those shown here, then the others."""
        names = self.sortable_columns()
        columns = {column.name: column.label for column in (*self.columns, *self.offered_columns())}
        return [(name, label) for name, label in columns.items() if name in names]

    def _reordered(self, state: str, sorts: list[str]) -> str:
        """The grid's address with another order of the rows; the view's own order needs no words."""
        sort = ",".join(item for item in sorts if item)
        if not sort or request.form.get("do") == "reset":
            return state
        kept = [pair for pair in parse_qsl(state[:8000]) if pair[0] != "sort"]
        is_own = sort == ",".join(map(str, self.default_sort()))
        return urlencode(kept if is_own else [*kept, ("sort", sort)])

    def _changed(self, layout: Layout, form: MultiDict[str, str]) -> Layout:
        """The layout after one step: a button of the form (`do=up:phone`, `do=reset`), and all its fields."""
        verb, _colon, name = form.get("do", "").partition(":")
        offered = [column.name for column in self.offered_columns()]
        if verb == "reset":
            return Layout()
        if verb == "width":  # dragged: nothing else of the form is sent
            width = min(WIDTHS, key=lambda item: abs(item - _number(form.get("width"), 12)))
            return replace(layout, widths={**layout.widths, name: width}) if name in offered else layout
        if verb == "density":
            return replace(layout, density=name) if name in DENSITIES else layout
        if verb == "times":
            return replace(layout, is_relative=name == "relative")
        order = [item for item in form.getlist("order") if item in offered]
        shown = [item for item in order if item in form.getlist("column")]
        if verb in {"up", "down"} and name in shown:
            at = shown.index(name)
            to = max(0, min(len(shown) - 1, at + (-1 if verb == "up" else 1)))
            shown.insert(to, shown.pop(at))
        widths = {item: width for item in offered if (width := _number(form.get(f"width.{item}"), 0)) in WIDTHS}
        # Columns of another place (the branch, within one) keep their place at the end.
        elsewhere = [item for item in layout.columns if item not in offered]
        return replace(
            layout,
            columns=(*shown, *elsewhere) if shown else (),
            pinned=tuple(item for item in shown if item in form.getlist("pin"))[:MAX_PINNED],
            widths=widths,
            density=density if (density := form.get("density", "")) in DENSITIES else layout.density,
            size=size if (size := _number(form.get("size"), 0)) in PAGE_SIZES else layout.size,
            is_relative=form.get("times") == "relative",
        )

    def _keep_layout(self, layout: Layout) -> None:
        """In the open view, when it is his own; else as this person's layout of the grid."""
        view = self.open_view()
        with transaction():
            if view is not None and view.owner_id == current_user.id:
                view.layout = layout.to_json()
            else:
                self._own_row().layout = layout.to_json()

    def _own_row(self) -> GridLayout:
        row = self._kept()
        if row is None:
            row = GridLayout(user_id=current_user.id, entity=self.entity, layout={})
            db.session.add(row)
        return row

    # --- saved views ------------------------------------------------------------------------------------------------

    @expose("/views/", methods=("GET", "POST"))
    @permission("view")
    def views_view(self) -> Any:
        """Save the selection and layout as a view; rename, share, delete; choose what the grid opens with."""
        if request.method == "GET":
            default = self.default_view()
            return self._panel(
                "admin/grid/views.html", views=self.saved_views(), default=default, sharing=self._sharing(), error=None
            )
        verb, state = request.form.get("do", ""), request.form.get("state", "")
        if verb == "save":
            return self._save_view(state)
        view = self.saved_view(request.form.get("target"))
        if view is None and not (verb == "default" and not request.form.get("target")):
            abort(404)
        if view is None or verb == "default":
            with transaction():
                self._own_row().default_view_id = view.id if view else None
            flash(
                _("The grid opens with the view “%(name)s”.", name=view.name)
                if view
                else _("The grid opens with everything."),
                "success",
            )
            return redirect(self._return_to(state))
        if not self.may_change_view(view):
            abort(403)
        with transaction():
            if verb == "delete":
                db.session.delete(view)
            elif verb == "update":
                view.params, view.layout = self._state_of(state), self.layout.to_json()
            elif verb == "rename":
                view.name = _clean_name(request.form.get("name")) or view.name
                if (shared := self._read_sharing(view.shared_with)) != view.shared_with:
                    view.shared_with = shared
            else:
                abort(404)
        flash(_("The view is deleted.") if verb == "delete" else _("Saved."), "success")
        is_about_it = verb == "delete" and str(view.id) in {dict(parse_qsl(state)).get(key) for key in ("in", "view")}
        return redirect(self.get_url(".index_view") + "?view=" if is_about_it else self._return_to(state))

    def _save_view(self, state: str) -> Any:
        name = _clean_name(request.form.get("name"))
        if not name:
            return self._panel(
                "admin/grid/views.html",
                views=self.saved_views(),
                default=self.default_view(),
                sharing=self._sharing(),
                error=_("Name the view."),
            ), 422
        with transaction():
            view = SavedView(
                entity=self.entity,
                name=name,
                owner_id=current_user.id,
                shared_with=self._read_sharing(None),
                params=self._state_of(state),
                layout=self.layout.to_json(),
            )
            db.session.add(view)
            db.session.flush()
            if request.form.get("is_default"):
                self._own_row().default_view_id = view.id
        flash(_("The view “%(name)s” is saved.", name=name), "success")
        return redirect(f"{self.get_url('.index_view')}?view={view.id}")

    def _state_of(self, state: str) -> list[list[str]]:
        """The selection of a grid's address as a view keeps it."""
        return Selection.from_args(self, MultiDict(parse_qsl(state[:8000])), self.here()).to_params()

    def may_change_view(self, view: SavedView) -> bool:
        """Its owner; and who may share, so that nobody's leaving strands a shared view."""
        return view.owner_id == current_user.id or (view.shared_with is not None and self.may("share"))

    def _sharing(self) -> list[tuple[str, Any]]:
        """With whom this person may share a view."""
        if not self.may("share"):
            return []
        return [("", _("only me")), (EVERYBODY, _("everybody")), *((role.value, role.label) for role in Role)]

    def _read_sharing(self, present: str | None) -> str | None:
        """With whom the posted form shares; what this person may not change stays."""
        chosen = request.form.get("shared_with", "")
        if chosen == (present or ""):
            return present
        if chosen not in dict(self._sharing()):
            abort(403)
        return chosen or None

    # --- panels -----------------------------------------------------------------------------------------------------

    def _panel(self, template: str, **context: Any) -> str:
        """A form beside the grid: a page of its own, or its inside alone for static/grid.js, which shows it there."""
        state = (
            request.query_string.decode("ascii", "replace")
            if request.method == "GET"
            else request.form.get("state", "")
        )
        return self.render(
            template,
            is_fragment=bool(request.headers.get("X-Panel")),
            state=state,
            open_view=self.open_view(),
            page_sizes=PAGE_SIZES,
            densities=DENSITIES,
            widths=WIDTHS,
            back=self._return_to(state),
            **context,
        )

    def _return_to(self, state: str) -> str:
        """The grid as the person left it."""
        args = [(key, value) for key, value in parse_qsl(state[:8000]) if key not in _OF_PAGE - {"in", "view"}]
        view = self.saved_view(dict(args).get("in") or dict(args).get("view"))
        if view is None:
            args = [pair for pair in args if pair[0] not in {"in", "view"}]
        # Not the plain address, which would open the default view.
        return f"{self.get_url('.index_view')}?{urlencode(args) or 'view='}"


def _names(stored: Any) -> tuple[str, ...]:
    return tuple(name for name in stored if isinstance(name, str)) if isinstance(stored, (list, tuple)) else ()


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else default


def _clean_name(text: str | None) -> str:
    return " ".join((text or "").replace("\x00", "").split())[:MAX_NAME]
