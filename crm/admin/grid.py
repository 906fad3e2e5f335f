"""The grid: one page of a selection with its totals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import abort, redirect, request
from flask_admin import expose
from flask_babel import format_decimal
from werkzeug.datastructures import MultiDict

from crm.admin.filtering import FilteringView
from crm.admin.selection import COUNT_LIMIT, PAGE_SIZES, Selection, Summary


class GridView(FilteringView):
    """See the module."""

    @expose("/")
    def index_view(self) -> Any:
        if not request.args and (default := self.default_view()) is not None:
            return redirect(f"?view={default.id}")
        view, args, gone = self.open_view(), request.args, list[str]()
        if view is None and request.args.get("view"):
            abort(404)
        if view is not None and request.args.get("view"):
            args, gone = self.arguments_of(view)
            args.update(MultiDict((key, value) for key, value in request.args.items(multi=True) if key != "view"))
        selection = self._selection(args, view)
        columns = selection.columns(self.columns)
        page = selection.read_page(columns)
        totalled = [column for column in columns if self.is_totalled(column)]
        exact = request.args.get("count") == "1"
        summary = selection.summary(totalled, exact=exact)
        # Of more rows than are counted, nobody asks what stands behind a chip unless he asks for all.
        notes = self.chip_notes(selection, exact=exact) if summary.is_exact else {}
        return self.render(
            self.list_template,
            selection=selection,
            columns=columns,
            layout=self.layout,
            page=page,
            rows=page.rows,
            links=selection.page_links(page),
            summary=summary,
            totalled=totalled,
            count=_counted(summary),
            page_sizes=PAGE_SIZES,
            actions=self.possible_actions(),
            chips=self.quick_chips(selection, notes),
            open_view=view,
            is_changed=view is not None and not request.args.get("view"),
            gone=gone,
            views=self.saved_views(),
        )

    def _selection(self, args: MultiDict[str, str], view: Any) -> Selection:
        """The selection of an address, in pages of the layout's size; its links stay within the open view."""
        layout, standing = self.layout, []
        if "size" not in args and layout.size != 50:
            args = MultiDict(args)
            args["size"] = str(layout.size)
        selection = Selection.from_args(self, args, self.here())
        if view is not None:
            standing.append(("in", str(view.id)))
        if layout.size != 50:
            standing.append(("size", str(selection.size)))
        return replace(selection, standing=tuple(standing))


def _counted(summary: Summary) -> str:
    """The number of rows as it is shown: honest where nobody has counted to the end."""
    return format_decimal(summary.count) if summary.is_exact else f"{COUNT_LIMIT // 1000} 000+"
