"""What a card tells of lessons: those planned, with «Отменить занятия»; the trial one; the visits there were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

import sqlalchemy as sa
from flask import redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import ngettext
from flask_login import current_user

from crm import clock
from crm.access.models import Branch
from crm.admin.base import KontoraView, permission
from crm.admin.fields import Form
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import payer_of
from crm.db import db
from crm.errors import DomainError
from crm.ledger.models import TransactionKind
from crm.sales.journal import JournalLine, journal_of
from crm.schedule.enrolment import seats_taken
from crm.schedule.marks import LessonMark, marks_in_sight
from crm.schedule.models import ClientGroup, Lesson, LessonStatus, Mark, Trial
from crm.schedule.planned import cancel_planned, planned_of
from crm.schedule.trials import is_movable, plan_trial, trial_of
from crm.visits.models import Visit, VisitStatus
from crm.visits.queries import visits_of

# The latest rows of a history that a card shows.
ROWS = 100
# How many lessons of a group the window of the trial offers.
LESSONS_OFFERED = 30


# --- the trial lesson ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialLine:
    """«Дата посещения пробного занятия». attendance: None while there is none, or when it is out of sight."""

    trial: Trial | None
    may_plan: bool

    @property
    def attendance(self) -> Any:
        return self.trial.attendance if self.trial is not None else None


def trial_line(client: Client) -> TrialLine | None:
    """The line of a card; None for who does not see lessons."""
    if not current_user.may("lesson.view"):
        return None
    trial = trial_of(client)
    is_open = trial is None or is_movable(trial)
    return TrialLine(trial, is_open and current_user.may("lesson.enrol") and client.status is ClientStatus.ACTIVE)


@dataclass(frozen=True)
class TrialChoice:
    """What the window of the trial offers: schools, who of the family comes, groups, and lessons of the chosen one."""

    schools: Sequence[Branch]
    school: Branch
    people: Sequence[Client]
    groups: Sequence[ClientGroup]
    group: ClientGroup | None
    lessons: Sequence[Lesson]
    taken: dict[int, int]

    def is_full(self, lesson: Lesson) -> bool:
        return lesson.capacity is not None and self.taken.get(lesson.id, 0) >= lesson.capacity


def _one(rows: Iterable[Any], text: str | None) -> Any:
    return next((row for row in rows if str(row.id) == text), None)


def _family(client: Client) -> list[Client]:
    """Who could come: whoever has it planned already, else the card's own person first, then the rest of the family."""
    payer = payer_of(client)
    people = [client, *(one for one in (payer, *payer.family) if one is not client)]
    trial = trial_of(client)
    if trial is not None and trial.attendance is not None:
        people = [one for one in people if one.id == trial.attendance.client_id]
    return [one for one in people if one.status is ClientStatus.ACTIVE]


def _choice(client: Client) -> TrialChoice:
    """By what has been asked for so far: school and group come with the address."""
    family = _family(client)
    schools = list({one.branch.id: one.branch for one in family}.values()) or [client.branch]
    school = _one(schools, request.args.get("school")) or schools[0]
    groups_of_school = sa.select(ClientGroup).where(
        ClientGroup.branch_id == school.id, ClientGroup.is_archived.is_(False)
    )
    groups = db.session.scalars(groups_of_school.order_by(ClientGroup.name)).all()
    group = _one(groups, request.args.get("group"))
    lessons: Sequence[Lesson] = []
    if group is not None:
        since = clock.at(clock.today(school), time(0), school)
        planned = sa.select(Lesson).where(
            Lesson.group_id == group.id, Lesson.status == LessonStatus.PLANNED, Lesson.starts_at >= since
        )
        planned = planned.options(sa.orm.joinedload(Lesson.instructor), sa.orm.joinedload(Lesson.room))
        lessons = db.session.scalars(planned.order_by(Lesson.starts_at, Lesson.id).limit(LESSONS_OFFERED)).all()
    people = [one for one in family if one.branch_id == school.id]
    taken = seats_taken([lesson.id for lesson in lessons]) if lessons else {}
    return TrialChoice(schools, school, people, groups, group, lessons, taken)


# --- the history of visits -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VisitLine:
    """A line of «История посещений». who: the instructor of the lesson; of other operations, who did them. count:
    lessons given (+) or taken (-), where any were.
    """

    at: datetime
    kind: Any
    client: Client
    service: str
    subscription: Any
    who: Any
    css: str = ""
    count: int | None = None
    url: str | None = None


_CSS = {Mark.PRESENT: "is-done", Mark.ABSENT: "is-overdue", Mark.EXCUSED: "is-skipped"}


def visits_history(client: Client) -> list[VisitLine]:
    """Visits and absences of a client (of his family's too when he pays), lessons added, sold and returned, latest
    first.
    """
    if not current_user.may("attendance.view"):
        return []
    lines = [*_marked(client), *_lessons_moved(client), *_services(client)]
    return sorted(lines, key=lambda line: line.at, reverse=True)[:ROWS]


def _marked(client: Client) -> list[VisitLine]:
    names = (LessonMark.lesson_type, LessonMark.subject, LessonMark.group, LessonMark.instructor)
    query = (
        sa.select(LessonMark)
        .join(LessonMark.client)
        .where(
            sa.or_(Client.id == client.id, Client.payer_id == client.id),
            LessonMark.mark.in_(_CSS),
            *marks_in_sight(current_user),
        )
        .options(
            *map(sa.orm.selectinload, names),
            sa.orm.joinedload(LessonMark.client),
            sa.orm.joinedload(LessonMark.subscription),
        )
        .order_by(LessonMark.starts_at.desc(), LessonMark.id.desc())
        .limit(ROWS)
    )
    return [
        VisitLine(
            at=one.starts_at,
            kind=_("Trial lesson: %(mark)s", mark=one.mark.label) if one.is_trial else one.mark.label,
            client=one.client,
            service=" · ".join(dict.fromkeys(str(part) for part in (one.lesson_type, one.subject, one.group) if part)),
            subscription=one.subscription,
            who=one.instructor,
            css=_CSS[one.mark],
            count=-1 if one.takes_lesson else None,
            url=url_for("attendance.details_view", id=one.id),
        )
        for one in db.session.scalars(query)
    ]


def _lessons_moved(client: Client) -> list[VisitLine]:
    """Lessons sold, added, transferred, returned; those written off stand as visits."""
    return [
        VisitLine(
            at=line.at,
            kind=line.what,
            client=client,
            service=str(line.service or ""),
            subscription=line.subscription,
            who=line.who,
            count=line.count,
        )
        for line in journal_of(client, by=current_user)
        if line.count is not None and not _is_of_mark(line)
    ]


def _is_of_mark(line: JournalLine) -> bool:
    return line.lesson is not None or (line.transaction is not None and line.transaction.kind is TransactionKind.LESSON)


def _services(client: Client) -> list[VisitLine]:
    if not current_user.may("visit.view"):
        return []
    return [
        VisitLine(
            at=visit.starts_at,
            kind=visit.status.label,
            client=visit.client,
            service=visit.service,
            subscription=None,
            who=visit.employee,
            url=url_for("visit.details_view", id=visit.id),
        )
        for visit in visits_of(client, limit=ROWS)
        if _has_been(visit)
    ]


def _has_been(visit: Visit) -> bool:
    return visit.status in {VisitStatus.CAME, VisitStatus.MISSED}


# --- the card --------------------------------------------------------------------------------------------------------


class CardAttendingView(KontoraView):
    """Of the view of clients."""

    @expose("/card/<id>/trial/", methods=("GET", "POST"))
    @permission("lesson.enrol")
    def trial_view(self, id: str) -> Any:
        """The pencil of «Дата посещения пробного занятия»: school, group, then the date of the lesson."""
        client: Client = self.get_one(id)
        choice = _choice(client)
        form = Form(request.form)
        line = trial_line(client)
        if request.method == "GET" and (line is None or not line.may_plan):
            form.form_errors.append(_("The family has its free trial lesson already: there is one per payer."))
        return self.answer(
            form,
            lambda: self._plan_trial(choice),
            title=_("Trial lesson"),
            subtitle=client.shown_name,
            back=self.row_url(client),
            done=lambda attendance: self.row_url(client),
            said=_("Enrolled in the trial lesson."),
            template="admin/card/trial_form.html",
            client=client,
            choice=choice,
        )

    @staticmethod
    def _plan_trial(choice: TrialChoice) -> Any:
        lesson = _one(choice.lessons, request.form.get("lesson"))
        student = _one(choice.people, request.form.get("student")) or (
            choice.people[0] if len(choice.people) == 1 else None
        )
        if student is None:
            raise DomainError("student_required", _("Choose who comes."))
        if lesson is None:
            raise DomainError("lesson_required", _("Choose the date of the lesson."))
        return plan_trial(student, lesson, by=current_user)

    @expose("/card/<id>/lessons/cancel/", methods=("GET", "POST"))
    @permission("lesson.enrol")
    def cancel_lessons_view(self, id: str) -> Any:
        """«Отменить занятия»: those ticked in the tab of planned lessons."""
        client: Client = self.get_one(id)
        back = url_for("client.card_view", id=client.id, tab="planned")
        numbers = [text for text in request.form.getlist("attendance") if text.isascii() and text.isdigit()]
        ticked = planned_of(client, {int(text) for text in numbers if len(text) < 19}, by=current_user)
        if request.method == "GET":
            return redirect(back)

        def cancel() -> int:
            if not ticked:
                raise DomainError("nothing_ticked", _("Tick the lessons to cancel."))
            return cancel_planned(ticked, by=current_user)

        return self.answer(
            Form(request.form),
            cancel,
            title=_("Cancel lessons"),
            subtitle=client.shown_name,
            back=back,
            done=lambda count: back,
            said=lambda count: ngettext("%(num)d lesson canceled.", "%(num)d lessons canceled.", count),
            template="admin/card/cancel_lessons.html",
            client=client,
            planned=planned_of(client, by=current_user),
            ticked={one.id for one in ticked},
            now=clock.now(),
            submit=_("Cancel lessons"),
        )
