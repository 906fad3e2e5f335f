"""Reports on lessons: attendance by group and instructor, how much of their open hours rooms are in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from flask import redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l

from crm.access.models import Branch
from crm.admin.base import grid_url, permission
from crm.admin.periods import PERIODS
from crm.admin.views.clients import working_branches
from crm.admin.views.reports import PAST, ReportView, asked_days, workbook
from crm.exchange import excel
from crm.i18n import day as shown_day
from crm.schedule.models import Attendance, Lesson
from crm.schedule.reports import (
    AttendanceLine,
    Attended,
    Load,
    attendance_by_day,
    attendance_by_group,
    attendance_by_instructor,
    room_loads,
)

# Beyond so many days a picture is of weeks.
DAYS_DRAWN = 31


@dataclass(frozen=True)
class Bucket:
    """A column of a picture: a day, or a week, of which the ends of the period may cut off a part."""

    first: date
    last: date

    @property
    def title(self) -> str:
        return shown_day(self.first) if self.first == self.last else f"{shown_day(self.first)} – {shown_day(self.last)}"


def buckets(first: date, last: date) -> list[Bucket]:
    """The period in days, or in weeks from Monday on when it is long."""
    if (last - first).days < DAYS_DRAWN:
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        return [Bucket(day, day) for day in days]
    found, begin = [], first
    while begin <= last:
        end = min(begin + timedelta(days=6 - begin.weekday()), last)
        found.append(Bucket(begin, end))
        begin = end + timedelta(days=1)
    return found


class SubscriptionsReportView(ReportView):
    """The grid of subscriptions with the quick filter that is called as the report is."""

    icon = "ticket-perforated"
    needs = "subscription.view"

    @expose("/")
    def index_view(self) -> Any:
        grid = next(view for view in self.admin._views if view.endpoint == "subscription")
        quick = next(one for one in grid.quick_filters() if str(one.label) == str(self.name))
        return redirect(grid_url("subscription", **dict(quick.args)))


class LessonReportView(ReportView):
    """A report over a period in the branches in sight, or one of them."""

    template: str
    default_period = "last_30_days"

    @expose("/")
    def index_view(self) -> Any:
        asked = asked_days(self.default_period)
        return self.render(
            self.template,
            asked=asked,
            periods={name: PERIODS[name] for name in PAST},
            branches={branch.id: branch.name for branch in self.branches(asked)},
            percent=percent,
            **self.found(asked),
        )

    def branches(self, asked: dict[str, Any]) -> list[Branch]:
        """Those the report is about."""
        return [branch for branch in working_branches() if asked["branch"] in {None, branch.id}]

    def found(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the template shows."""
        raise NotImplementedError


def percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.0%}"


# --- attendance -------------------------------------------------------------------------------------------------------

_BY: dict[str, tuple[Any, Any, Callable[[date, date, Sequence[Branch]], list[AttendanceLine]]]] = {
    "group": (_l("By group"), _l("Without a group"), attendance_by_group),
    "instructor": (_l("By instructor"), _l("Without an instructor"), attendance_by_instructor),
}


class AttendanceReportView(LessonReportView):
    """«Посещаемость»: who came to held lessons."""

    icon = "person-check"
    needs = "attendance.export"
    template = "admin/reports/attendance.html"

    def found(self, asked: dict[str, Any]) -> dict[str, Any]:
        first, last, branches = asked["first"], asked["last"], self.branches(asked)
        tables = {by: (title, nobody, find(first, last, branches)) for by, (title, nobody, find) in _BY.items()}
        by_day = attendance_by_day(first, last, branches)
        columns = [
            (bucket, _total(attended for day, attended in by_day.items() if bucket.first <= day <= bucket.last))
            for bucket in buckets(first, last)
        ]
        return {
            "tables": tables,
            "columns": columns,
            "highest": max((attended.marked for _bucket, attended in columns), default=0),
            "total": _total(by_day.values()),
            "sum_of": lambda lines: _total(line.attended for line in lines),
            "marks_url": lambda by, line: _marks_url(by, line, asked),
        }

    @expose("/export/xlsx/")
    @permission("attendance.export")
    def export(self) -> Any:
        asked = asked_days(self.default_period)
        by = request.args.get("by", "")
        title, nobody, find = _BY.get(by, _BY["group"])
        branches = self.branches(asked)
        names = {branch.id: branch.name for branch in branches}
        lines = find(asked["first"], asked["last"], branches)
        columns = [
            excel.Column(_("Group") if find is attendance_by_group else _("Instructor"), "text", 30),
            excel.Column(_("Branch"), "text", 24),
            *(excel.Column(str(heading), "integer") for heading in ATTENDED),
            excel.Column(_("Came, %"), "number"),
        ]
        rows = [[line.name or str(nobody), names[line.branch_id], *numbers(line.attended)] for line in lines]
        totals = [_("Total"), None, *numbers(_total(line.attended for line in lines))] if lines else None
        return workbook(
            Attendance.__tablename__, f"{self.name}, {title}", asked, columns, rows, totals=totals, count=len(rows)
        )


def _marks_url(by: str, line: AttendanceLine, asked: dict[str, Any]) -> str:
    """The marks a line adds up; each leads to a card."""
    whose = {f"f.{by}.empty": 1} if line.id is None else {f"f.{by}.is": line.id}
    days = {"f.starts_at.from": asked["first"].isoformat(), "f.starts_at.to": asked["last"].isoformat()}
    return grid_url("attendance", **whose, **days, **{"f.lesson_status.is": "held", "f.branch.is": line.branch_id})


ATTENDED = (_l("Lessons held"), _l("Came"), _l("Absent, written off"), _l("Absent, not written off"))


def numbers(attended: Attended) -> list[Any]:
    """A line of the file: the counts of ATTENDED and the share."""
    share = attended.share
    return [
        *(attended.lessons, attended.came, attended.absent, attended.excused),
        None if share is None else round(share * 100),
    ]


def _total(parts: Iterable[Attended]) -> Attended:
    return sum(parts, Attended())


# --- rooms ------------------------------------------------------------------------------------------------------------


class RoomLoadView(LessonReportView):
    """«Загрузка помещений»: hours taken of the hours open, by room and day."""

    icon = "grid-3x3"
    needs = "lesson.export"
    template = "admin/reports/room_load.html"
    default_period = "this_week"

    def found(self, asked: dict[str, Any]) -> dict[str, Any]:
        branches = self.branches(asked)
        loads = room_loads(asked["first"], asked["last"], branches)
        columns = buckets(asked["first"], asked["last"])
        cells = [
            [
                sum((load for day, load in room.days.items() if bucket.first <= day <= bucket.last), Load())
                for bucket in columns
            ]
            for room in loads
        ]
        return {
            "loads": loads,
            "columns": columns,
            "cells": cells,
            "total": sum((room.total for room in loads), Load()),
            "hours": hours,
            "heat": heat,
            "without_hours": [branch.name for branch in branches if not branch.working_hours],
        }

    @expose("/export/xlsx/")
    @permission("lesson.export")
    def export(self) -> Any:
        asked = asked_days(self.default_period)
        branches = self.branches(asked)
        names = {branch.id: branch.name for branch in branches}
        loads = room_loads(asked["first"], asked["last"], branches)
        columns = [
            excel.Column(_("Day"), "date"),
            excel.Column(_("Room"), "text", 24),
            excel.Column(_("Branch"), "text", 24),
            excel.Column(_("Hours taken"), "number"),
            excel.Column(_("Hours open"), "number"),
            excel.Column(_("Load, %"), "number"),
        ]
        rows = [
            [day, room.room.name, names[room.room.branch_id], *_figures(load)]
            for room in loads
            for day, load in room.days.items()
        ]
        total = sum((room.total for room in loads), Load())
        totals = [_("Total"), None, None, *_figures(total)] if rows else None
        return workbook(Lesson.__tablename__, str(self.name), asked, columns, rows, totals=totals, count=len(rows))


def _figures(load: Load) -> list[Any]:
    share = load.share
    taken, open_ = (round(Decimal(minutes) / 60, 2) for minutes in (load.taken, load.open))
    return [taken, open_, None if share is None else round(share * 100)]


def hours(minutes: int) -> str:
    """`7:30`"""
    return f"{minutes // 60}:{minutes % 60:02d}"


def heat(load: Load) -> int:
    """How dark a cell of the picture is: 0 to 5."""
    if not load.taken:
        return 0
    return min(5, 1 + int((load.share if load.share is not None else 1) * 5))
