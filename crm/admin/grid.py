"""The grid: one page of a selection with its totals."""

from __future__ import annotations

from typing import Any

from flask import request
from flask_admin import expose

from crm.admin.inline import InlineView
from crm.admin.selection import COUNT_LIMIT, PAGE_SIZES, Selection


class GridView(InlineView):
    """See the module."""

    @expose("/")
    def index_view(self) -> Any:
        selection = Selection.from_args(self, request.args, self.here())
        rows, has_next = selection.rows()
        count = selection.count() if has_next or selection.page > 1 else len(rows)
        totalled = [column for column in self.columns if column.name in self.column_totals]
        return self.render(
            self.list_template,
            selection=selection,
            rows=rows,
            has_next=has_next,
            count=count,
            count_limit=COUNT_LIMIT,
            page_sizes=PAGE_SIZES,
            totals=selection.totals(totalled) if rows else {},
            actions=[action for action in self.bulk_actions() if self.may(action.permission)],
            filters=self.filter_columns(),
        )
