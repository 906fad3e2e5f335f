"""Reports: what staff did, by person and day; the archived clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import Response, abort, g, redirect, request, url_for
from flask_admin import BaseView, expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm import clock
from crm.access.models import User
from crm.admin.base import DEFAULT_ZONE, grid_url, permission
from crm.admin.kinds import Place
from crm.admin.periods import PERIODS, days_of
from crm.admin.views.audit import people_in_sight, within_sight
from crm.audit.models import AuditAction, AuditEntry
from crm.audit.operations import record_export
from crm.audit.queries import StaffDay, staff_actions
from crm.db import db, transaction
from crm.exchange import excel
from crm.security import chosen_branch

MAX_DAYS = 366
ROWS_SHOWN = 1000
PAST = tuple(name for name in PERIODS if not name.startswith(("next", "tomorrow")))

# The report's columns: heading, the actions it counts.
COLUMNS: tuple[tuple[Any, tuple[AuditAction, ...]], ...] = (
    (_l("Created"), (AuditAction.CREATE,)),
    (_l("Changed and deleted"), (AuditAction.UPDATE, AuditAction.DELETE)),
    (_l("Statuses changed"), (AuditAction.TRANSITION,)),
    (_l("Exports"), (AuditAction.EXPORT,)),
    (_l("Sign-ins"), (AuditAction.LOGIN,)),
)


class ReportView(BaseView):
    """A page of the menu that is no entity's grid. Deny by default, as everywhere: needs is what it takes to open it,
    and a method may ask for more by @permission("entity.action").
    """

    icon: ClassVar[str] = "bar-chart"
    is_in_menu: ClassVar[bool] = True
    needs: ClassVar[str]

    def permission_for(self, method: str) -> str:
        return str(getattr(getattr(type(self), method), "_permission", self.needs))

    def is_accessible(self) -> bool:
        return bool(current_user.is_authenticated and current_user.may(self.needs))

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if not current_user.is_authenticated:
            return redirect(url_for("access.login", next=request.full_path))
        if not current_user.may(self.needs) or not current_user.may(self.permission_for(name)):
            abort(403)
        return None


class ArchivedClientsView(ReportView):
    """The grid of clients with the archived ones: search, filters, export and restoring are the grid's."""

    icon = "archive"
    needs = "client.view"

    @expose("/")
    def index_view(self) -> Any:
        return redirect(grid_url("client", **{"f.status.is": "archived"}))


class StaffActionsView(ReportView):
    """«Отчёт о действиях сотрудников»."""

    icon = "activity"
    needs = "audit.view"

    @expose("/")
    def index_view(self) -> Any:
        asked = self._asked()
        days = self._days(asked)
        return self.render(
            "admin/staff_actions.html",
            asked=asked,
            days=days[:ROWS_SHOWN],
            is_cut=len(days) > ROWS_SHOWN,
            columns=[heading for heading, _actions in COLUMNS],
            counts=_counts,
            totals=[sum(column) for column in zip(*map(_counts, days), strict=True)] if days else [],
            people=people_in_sight(),
            names=self._names(days),
            periods={name: PERIODS[name] for name in PAST},
            log_url=self._log_url,
        )

    @expose("/export/xlsx/")
    @permission("audit.export")
    def export(self) -> Any:
        asked = self._asked()
        days, title = self._days(asked), str(self.name)
        names = self._names(days)
        headings = [*(heading for heading, _actions in COLUMNS), _("Total")]
        columns = [
            excel.Column(_("Day"), "date"),
            excel.Column(_("Employee"), "text", 30),
            *(excel.Column(str(heading), "integer") for heading in headings),
        ]
        sums = [sum(column) for column in zip(*map(_counts, days), strict=True)] if days else None
        rows: Iterator[list[Any]] = ([day.day, names[day.person_id], *_counts(day)] for day in days)
        totals = [_("Total"), None, *sums] if sums else None
        return workbook(AuditEntry.__tablename__, title, asked, columns, rows, totals=totals, count=len(days))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _asked(self) -> dict[str, Any]:
        return {**asked_days("last_7_days"), "person": _read_id("person")}

    def _days(self, asked: dict[str, Any]) -> list[StaffDay]:
        def narrow(query: Any) -> Any:
            query = within_sight(query, self.admin._views)
            if asked["person"] is not None:
                query = query.where(AuditEntry.actor_id == asked["person"])
            if asked["branch"] is not None:
                query = query.where(AuditEntry.branch_id == asked["branch"])
            return query

        return staff_actions(asked["first"], asked["last"], asked["zone"], narrow=narrow)

    @staticmethod
    def _names(days: list[StaffDay]) -> dict[int, str]:
        ids = {day.person_id for day in days}
        query = sa.select(User.id, User.name).where(User.id.in_(ids))
        return dict(iter(db.session.execute(query))) if ids else {}

    @staticmethod
    def _log_url(asked: dict[str, Any], day: StaffDay, column: int | None = None) -> str:
        """The lines of the change log a number stands for; all of the day's without a column."""
        actions = COLUMNS[column][1] if column is not None else ()
        args = [("f.actor.is", day.person_id), ("f.at.from", day.day), ("f.at.to", day.day)]
        args += [("f.action.is", action.value) for action in actions]
        if asked["branch"] is not None:
            args.append(("f.branch.is", asked["branch"]))
        return url_for("audit.index_view") + "?" + "&".join(f"{key}={value}" for key, value in args)


def asked_days(default: str) -> dict[str, Any]:
    """What a report's address asks for: period, first and last day, zone, branch; what cannot be read is as if it were
    not there. default: of PERIODS.
    """
    branch = chosen_branch() or next(iter(g.branches), None)
    zone = branch.time_zone if branch else DEFAULT_ZONE
    today = clock.today(Place(zone))
    period = request.args.get("period", "")
    first, last = _read_day("from"), _read_day("to")
    if first or last:
        period = ""
        first, last = first or last or today, last or max(first or today, today)
    else:
        period = period if period in PAST else default
        first, last = days_of(period, today)
    first, last = min(first, last), max(first, last)
    last = min(last, first + timedelta(days=MAX_DAYS - 1))
    branch_id = _read_id("branch")
    return {
        "zone": zone,
        "period": period,
        "first": first,
        "last": last,
        "branch": branch_id if branch_id in {branch.id for branch in g.branches} else None,
    }


def workbook(
    entity: str,
    title: str,
    asked: dict[str, Any],
    columns: list[excel.Column],
    rows: Iterable[Sequence[Any]],
    *,
    totals: Sequence[Any] | None,
    count: int,
) -> Response:
    """A report as an Excel file, named by its title and days; whose personal data left is in the audit."""
    with transaction():
        record_export(entity, rows=count, description=title, by=current_user)
    chunks = excel.export_file(columns, rows, title=title, time_zone=None, totals=lambda: totals)
    name = f"{title} {asked['first']:%Y-%m-%d}–{asked['last']:%Y-%m-%d}.xlsx"
    headers = {"Content-Disposition": excel.content_disposition(name)}
    return Response(chunks, mimetype=excel.XLSX, headers=headers)


def _counts(day: StaffDay) -> list[int]:
    """The numbers of a row of the report, the last one their sum."""
    return [*(sum(day.counts.get(action, 0) for action in actions) for _heading, actions in COLUMNS), day.total]


def _read_day(name: str) -> date | None:
    try:
        day = date.fromisoformat(request.args.get(name, ""))
    except ValueError:
        return None
    return day if 1900 <= day.year < 2200 else None


def _read_id(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
