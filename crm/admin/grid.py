"""The grid: one page of a selection with its totals."""

from __future__ import annotations

from typing import Any

from flask import request
from flask_admin import expose

from crm.admin.restoring import RestoringView
from crm.admin.selection import COUNT_LIMIT, PAGE_SIZES, Selection, Summary


class GridView(RestoringView):
    """See the module."""

    @expose("/")
    def index_view(self) -> Any:
        selection = Selection.from_args(self, request.args, self.here())
        page = selection.read_page()
        totalled = [column for column in self.columns if self.is_totalled(column)]
        summary = selection.summary(totalled, exact=request.args.get("count") == "1")
        return self.render(
            self.list_template,
            selection=selection,
            page=page,
            rows=page.rows,
            links=selection.page_links(page),
            summary=summary,
            count=_counted(summary),
            page_sizes=PAGE_SIZES,
            actions=self.possible_actions(),
            filters=self.filter_columns(),
        )


def _counted(summary: Summary) -> str:
    """The number of rows as it is shown: honest where nobody has counted to the end."""
    return str(summary.count) if summary.is_exact else f"{COUNT_LIMIT // 1000} 000+"
