"""Marks of a lesson: who came, in one list, and closing the lesson; the grid of all marks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import ngettext
from flask_login import current_user

from crm.access.fields import field_rules
from crm.admin.base import BulkAction, KontoraView, QuickFilter, permission
from crm.admin.fields import Form
from crm.admin.selection import Selection
from crm.admin.views.mailing_selection import mailing_actions
from crm.clients.queries import client_matches
from crm.db import db
from crm.errors import DomainError
from crm.i18n import moment, money
from crm.schedule.attendance import (
    check_markable,
    facts_of,
    hold_lesson,
    mark_attendance,
    name_of,
    reopen_lesson,
)
from crm.schedule.marks import LessonMark, marks_in_sight
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.schedule.trials import newcomers
from crm.subscriptions.coverage import Coverage, find_coverage

# In the order of the buttons.
MARKS = (Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED, Mark.PLANNED)


@dataclass(frozen=True)
class MarkLine:
    """Somebody at the lesson as the page shows him. chosen: the mark that is ticked; note: what he has left and what is
    written off, or was; is_changed: it is another by now than it was shown before.
    """

    attendance: Attendance
    name: str
    chosen: Mark
    note: str
    is_changed: bool = False


@dataclass(frozen=True)
class Saved:
    """What one sending of the page has done."""

    marks: int
    is_held: bool
    is_reopened: bool = False

    @property
    def said(self) -> str:
        parts = [ngettext("Saved: %(num)d mark.", "Saved: %(num)d marks.", self.marks)] if self.marks else []
        if self.is_held:
            parts.append(_("The lesson is held."))
        elif self.is_reopened:
            parts.append(_("The lesson is open again: hold it once more."))
        return " ".join(parts) or _("Nothing has changed.")


class LessonMarkingView(KontoraView):
    """Of the view of lessons: the page where a lesson is marked and held."""

    def details_context(self, row: Any) -> dict[str, Any]:
        may_mark = self.may("mark") and row.status is not LessonStatus.CANCELED
        marks_url = url_for("lesson.marks_view", id=row.id) if may_mark else None
        return {**super().details_context(row), "marks_url": marks_url}

    @expose("/<id>/marks/", methods=("GET", "POST"))
    @permission("mark")
    def marks_view(self, id: str) -> Any:
        """Everybody in one list; saved at once, and held if that button was pressed."""
        lesson: Lesson = self.get_one(id)
        form = Form(request.form)
        refusal = _refusal(lesson)
        if refusal is not None and request.method == "GET":
            form.form_errors.append(refusal)
        return self.answer(
            form,
            lambda: self._save_marks(lesson),
            title=lesson.title,
            subtitle=moment(lesson.starts_at, lesson.branch.time_zone),
            back=self.row_url(lesson),
            done=lambda saved: self.row_url(lesson) if saved.is_held else url_for("lesson.marks_view", id=lesson.id),
            said=lambda saved: saved.said,
            template="admin/schedule/marks.html",
            lesson=lesson,
            lines=lambda: self._lines(lesson),  # after a refusal, as it is by then
            marks=MARKS,
            is_open=refusal is None,
        )

    @expose("/<id>/reopen/", methods=("GET", "POST"))
    @permission("mark")
    def reopen_view(self, id: str) -> Any:
        """A held lesson is planned again: people are enrolled, marks stay."""
        lesson: Lesson = self.get_one(id)
        return self.answer(
            Form(request.form),
            lambda: reopen_lesson(lesson, by=current_user),
            title=_("Open the lesson “%(lesson)s” again?", lesson=lesson.title),
            subtitle=moment(lesson.starts_at, lesson.branch.time_zone),
            back=url_for("lesson.marks_view", id=lesson.id),
            done=lambda opened: url_for("lesson.marks_view", id=lesson.id),
            said=_l("The lesson is open again."),
            submit=_("Open again"),
        )

    @staticmethod
    def _save_marks(lesson: Lesson) -> Saved:
        seen = _sent("seen-", int)
        marks = _sent("mark-", lambda text: next((mark for mark in Mark if mark.value == text), None))
        was_held = lesson.status is LessonStatus.HELD
        changed = mark_attendance(lesson, {id: marks[id] for id in seen if id in marks}, by=current_user, seen=seen)
        is_held = request.form.get("then") == "hold"
        if is_held and lesson.status is not LessonStatus.HELD:
            hold_lesson(lesson, by=current_user)
        return Saved(len(changed), is_held, was_held and lesson.status is LessonStatus.PLANNED)

    def _lines(self, lesson: Lesson) -> list[MarkLine]:
        query = (
            sa.select(Attendance)
            .where(Attendance.lesson_id == lesson.id, Attendance.mark != Mark.CANCELED)
            .options(sa.orm.joinedload(Attendance.client), sa.orm.joinedload(Attendance.subscription))
            .execution_options(populate_existing=True)
        )
        rows = sorted(db.session.scalars(query), key=lambda one: (name_of(one).casefold(), one.id))
        expected = [one for one in rows if not one.mark.is_written_off and one.client is not None]
        coverage = find_coverage([one.client_id for one in expected], facts_of(lesson))
        free = {one.id for one in newcomers([one for one in expected if one.by_group], but=())}
        seen = _sent("seen-", int)
        sent = _sent("mark-", lambda text: next((mark for mark in MARKS if mark.value == text), None))
        is_everybody = request.method == "GET" and "all" in request.args
        lines = []
        for one in rows:
            is_changed = one.id in seen and seen[one.id] != one.version
            chosen = one.mark if is_changed else sent.get(one.id, one.mark)
            if is_everybody and chosen is Mark.PLANNED:
                chosen = Mark.PRESENT
            note = self._note(one, lesson, coverage.get(one.client_id), is_free=one.is_trial or one.id in free)
            lines.append(MarkLine(one, name_of(one), chosen, note, is_changed))
        return lines

    def _note(self, one: Attendance, lesson: Lesson, coverage: Coverage | None, *, is_free: bool) -> str:
        """What was written off, or will be, and what he has left."""
        if is_free:
            return _("trial lesson, free")
        if one.mark.is_written_off:
            return self._note_of_past(one, lesson)
        if not self.may("subscription.view"):
            return ""
        if coverage is None:
            price = lesson.lesson_type.single_price
            if not price:
                return _("single visit, free")
            return (
                _("single visit: %(price)s", price=self._money(price, lesson))
                if self._sees_prices()
                else _("single visit")
            )
        name = coverage.subscription.plan.name if coverage.subscription is not None else _("extra lessons")
        if coverage.left is None:
            return _("%(name)s: without a limit", name=name)
        return _("%(name)s: %(count)s left", name=name, count=coverage.left)

    def _note_of_past(self, one: Attendance, lesson: Lesson) -> str:
        parts = []
        if one.subscription is not None and self.may("subscription.view"):
            parts.append(str(one.subscription))
        if one.price and self._sees_prices():
            parts.append(self._money(one.price, lesson))
        if one.subscription_id is None and one.transaction_id is not None and not one.price:
            parts.append(_("extra lessons"))
        return _("written off: %(what)s", what=", ".join(parts)) if parts else ""

    def _sees_prices(self) -> bool:
        return self.may("lessontype.view") and "price" not in field_rules(current_user, "attendance").hidden

    @staticmethod
    def _money(price: Any, lesson: Lesson) -> str:
        return money(price, lesson.branch.company.currency)


def _refusal(lesson: Lesson) -> str | None:
    """Why nothing can be marked now."""
    try:
        check_markable(lesson)
    except DomainError as refused:
        return str(refused)
    return None


def _sent(prefix: str, read: Any) -> Mapping[int, Any]:
    """What was sent of each attendance under `<prefix><id>`; what cannot be read is left out."""
    found: dict[int, Any] = {}
    for name, text in request.form.items():
        number = name.removeprefix(prefix)
        if name == number or not _is_number(number):
            continue
        value = read(text) if read is not int or _is_number(text) else None
        if value is not None:
            found[int(number)] = value
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


class AttendanceView(KontoraView):
    entity = "attendance"
    icon = "check2-square"
    column_list = (
        *("starts_at", "client", "mark", "lesson_type", "group", "subject", "instructor", "subscription", "price"),
        *("is_trial", "branch"),
    )
    column_details_list = (
        *("starts_at", "client", "mark", "is_trial", "lesson_type", "group", "subject", "instructor", "room"),
        *("lesson_status", "subscription", "price", "marked_by", "marked_at", "created_at", "by_group", "branch"),
    )
    column_labels = {
        "starts_at": _l("Date and time"),
        "subject": _l("Subject of lessons"),
        "created_at": _l("Enrolled"),
        "price": _l("Written off in money"),
        "mark": _l("Mark"),
        "subscription": _l("Subscription"),
        "is_trial": _l("Trial lesson"),
        "lesson_status": _l("Status of the lesson"),
        "marked_by": _l("Marked by"),
        "marked_at": _l("Marked"),
        "by_group": _l("With the group"),
    }
    column_filters = (
        *("starts_at", "client", "mark", "instructor", "group", "subscription", "lesson_type", "subject", "is_trial"),
        *("lesson_status", "marked_at", "branch"),
    )
    column_sortable_list = ("starts_at",)
    column_totals = ("price",)
    column_default_sort = "-starts_at"
    details_template = "admin/schedule/mark.html"
    empty_hint = _l("Marks appear when people are enrolled in lessons.")
    has_search = True

    def bulk_actions(self) -> list[BulkAction]:
        return mailing_actions()

    def within_sight(self, query: Any) -> Any:
        return query.where(*marks_in_sight(current_user))

    def base_condition(self, selection: Selection) -> Any:
        """Canceled enrolments are seen only when asked for by the filter of marks."""
        return None if selection.filters_by("mark") else LessonMark.mark != Mark.CANCELED

    def search_condition(self, text: str) -> Any:
        return client_matches(LessonMark.client_id, text, by=current_user)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Today"), (("f.starts_at.period", "today"),)),
            QuickFilter(_l("Not marked"), (("f.mark.is", "planned"), ("f.starts_at.period", "last_30_days"))),
            QuickFilter(_l("Trial lessons"), (("f.is_trial.is", "1"),)),
        ]

    def loader_options(self) -> list[Any]:
        return [
            *map(
                sa.orm.selectinload,
                (LessonMark.lesson_type, LessonMark.subject, LessonMark.group, LessonMark.instructor),
            ),
            sa.orm.selectinload(LessonMark.branch),
            sa.orm.joinedload(LessonMark.client),
            sa.orm.joinedload(LessonMark.subscription),
        ]

    def details_context(self, row: Any) -> dict[str, Any]:
        lesson = self.view_of(Lesson)
        return {"lesson_url": lesson.row_url(row.lesson) if lesson is not None and lesson.is_accessible() else None}
