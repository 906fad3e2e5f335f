"""Lessons: the grid and the page of a lesson with who is enrolled. Planning, marking: planning.py, marking.py; the
calendar: calendar.py.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm import clock
from crm.admin.base import GridColumn, QuickFilter, permission
from crm.admin.column import LoadedColumn
from crm.admin.fields import Form
from crm.admin.finding import found_clients
from crm.admin.kinds import IntegerKind, LimitKind
from crm.admin.views.groups import client_chosen
from crm.admin.views.marking import LessonMarkingView
from crm.admin.views.planning import LessonPlanningView
from crm.db import db
from crm.i18n import moment
from crm.schedule.enrolment import enrol, refusal_to_take_more, take_off
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.schedule.queries import enrolments_of, lessons_in_sight, lessons_left_to, waiting_for
from crm.schedule.waiting import has_waiting_list
from crm.security import chosen_branch


class LessonView(LessonPlanningView, LessonMarkingView):
    entity = "lesson"
    icon = "calendar-event"
    column_list = (
        *(
            "starts_at",
            "lesson_type",
            "group",
            "subject",
            "instructor",
            "room",
            "taken",
            "capacity",
            "status",
            "branch",
        ),
    )
    column_details_list = (
        *("starts_at", "ends_at", "lesson_type", "group", "subject", "instructor", "room", "capacity", "takes_nobody"),
        *("topic", "status", "branch", "created_at"),
    )
    column_labels = {
        "starts_at": _l("Begins"),
        "ends_at": _l("Ends"),
        "subject": _l("Subject of lessons"),
        "taken": _l("Enrolled"),
        "capacity": _l("Places"),
    }
    column_kinds = {"taken": IntegerKind(), "capacity": LimitKind()}
    column_filters = (
        *("starts_at", "status", "instructor", "room", "lesson_type", "group", "subject", "takes_nobody", "branch"),
    )
    column_searchable_list = ("topic",)
    column_default_sort = "-starts_at"
    empty_hint = _l("Plan the first lesson: of a group, or of a client.")
    details_template = "admin/schedule/lesson.html"

    def within_sight(self, query: Any) -> Any:
        return query.where(*lessons_in_sight(current_user))

    def quick_filters(self) -> list[QuickFilter]:
        today = (("f.starts_at.period", "today"),)
        return [
            QuickFilter(_l("Today"), today),
            QuickFilter(_l("Tomorrow"), (("f.starts_at.period", "tomorrow"),)),
            QuickFilter(_l("Planned"), (("f.status.is", "planned"),)),
        ]

    def column_as_of(self, column: GridColumn, day: Any) -> GridColumn:
        if column.name != "taken":
            return column
        count = (
            sa.select(sa.func.count())
            .where(Attendance.lesson_id == Lesson.id, Attendance.mark != Mark.CANCELED)
            .correlate(Lesson)
            .scalar_subquery()
        )
        return LoadedColumn(column.name, column.label, column.kind, count)

    # --- the page of a lesson ---------------------------------------------------------------------------------------

    def details_context(self, row: Any) -> dict[str, Any]:
        sees_clients = self.may("client.view")
        enrolled = enrolments_of(row)
        sees_left = self.may("subscription.view")
        full = refusal_to_take_more(row)
        waits = self.may("waiting.view") and self.may("enrol") and full is None and has_waiting_list(row.branch)
        return {
            **super().details_context(row),
            "enrolled": enrolled if sees_clients else [],
            "taken": len(enrolled),
            "sees_left": sees_left,
            "left": lessons_left_to([one.client_id for one in enrolled], day=clock.today(row.branch))
            if sees_left
            else {},
            "refusal": full,
            "waiting": waiting_for(row) if waits and sees_clients else [],
            "has_begun": row.starts_at <= clock.now(),
            "is_planned": row.status is LessonStatus.PLANNED,
            "marks_url": f"{self.url}/{row.id}/marks/" if self.may("mark") else None,
            "cancel_url": self._cancel_url(row),
            "calendar_url": self._calendar_url(row),
        }

    def _cancel_url(self, lesson: Lesson) -> str | None:
        if lesson.status is not LessonStatus.PLANNED or not self.may("cancel"):
            return None
        return url_for("lesson.cancel_view", id=lesson.id)

    @staticmethod
    def _calendar_url(lesson: Lesson) -> str:
        """The calendar on the lesson's day."""
        day = clock.local(lesson.starts_at, lesson.branch).date()
        branch = None if chosen_branch() else lesson.branch_id
        return url_for("calendar.index_view", span="day", day=day.isoformat(), branch=branch)

    @expose("/enrol/", methods=("GET", "POST"))
    @permission("enrol")
    def enrol_view(self) -> Any:
        """Who comes, found by a search."""
        lesson = self.get_one(request.values.get("id"))
        form = Form(request.form)
        refusal = refusal_to_take_more(lesson)
        if refusal is not None and request.method == "GET":
            form.form_errors.append(refusal.text)
        return self.answer(
            form,
            lambda: enrol(lesson, client_chosen(self), by=current_user),
            title=_("Enrol in the lesson “%(lesson)s”", lesson=lesson.title),
            subtitle=self._when(lesson),
            back=self.row_url(lesson),
            done=lambda attendance: self.row_url(lesson),
            said=_l("Enrolled."),
            template="admin/schedule/find_client.html",
            submit=_("Enrol"),
            **found_clients(),
        )

    @expose("/take-off/", methods=("GET", "POST"))
    @permission("enrol")
    def take_off_view(self) -> Any:
        """He is expected at the lesson no longer."""
        lesson = self.get_one(request.values.get("id"))
        attendance = self._attendance(lesson)
        if attendance is None or attendance.client is None:
            return redirect(self.row_url(lesson))
        return self.answer(
            Form(request.form),
            lambda: take_off(attendance, by=current_user),
            title=_("Take %(client)s off the lesson?", client=attendance.client.shown_name),
            subtitle=f"{lesson.title} · {self._when(lesson)}",
            back=self.row_url(lesson),
            done=lambda taken: self.row_url(lesson),
            said=_l("Taken off the lesson."),
            submit=_("Take off the lesson"),
        )

    @staticmethod
    def _attendance(lesson: Lesson) -> Attendance | None:
        number = request.values.get("attendance", "")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        query = sa.select(Attendance).where(Attendance.lesson_id == lesson.id, Attendance.id == int(number))
        return db.session.scalar(query)

    @staticmethod
    def _when(lesson: Lesson) -> str:
        return moment(lesson.starts_at, lesson.branch.time_zone)
