"""Planning lessons: one or a series, for a client, for a group, or for whoever enrols; changing and canceling them.
Bookings of rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from babel.dates import format_date
from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import get_locale, ngettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, IntegerField, SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import Length, NumberRange, Optional

from crm import clock
from crm.access.models import Branch, Employee
from crm.admin.base import DEFAULT_ZONE, KontoraView, QuickFilter, permission
from crm.admin.fields import (
    REQUIRED,
    DateField,
    EnumField,
    Form,
    MomentField,
    ReferenceField,
    ReferencesField,
    TimeField,
)
from crm.admin.views.schedules import WeekdaysField
from crm.catalogue.models import LessonType, Room, Subject
from crm.catalogue.queries import hours_on, instructors_of, lesson_types_on_offer, rooms_of, subjects_on_offer
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.once import fingerprint_of
from crm.protocol import ProtocolLine
from crm.schedule.bookings import create_booking, delete_booking, edit_booking
from crm.schedule.lessons import (
    PRESENT,
    cancel_following,
    cancel_lesson,
    change_following,
    change_lesson,
    following,
    further_rooms_of,
)
from crm.schedule.models import ClientGroup, Lesson
from crm.schedule.planning import (
    LessonPlan,
    Moved,
    Planned,
    PlannedLine,
    lesson_types_for,
    plan_lessons,
    preview_plan,
)
from crm.schedule.recurrence import MAX_INTERVAL, Recurrence, RepeatUnit
from crm.security import chosen_branch

# What fits on a screen to be looked through: a year of daily lessons.
MAX_LINES = 400
_CHANGED_SINCE = _l(
    "The lessons were changed since they were checked, and nothing has been planned yet. They are checked anew below: "
    "look at them and plan them again."
)


def _branch() -> Branch | None:
    """Of what is planned, changed or booked."""
    return g.get("lesson_branch")


def _zone() -> ZoneInfo:
    branch = _branch()
    return ZoneInfo(branch.time_zone if branch is not None else DEFAULT_ZONE)


def _with(rows: list[Any], present: Any) -> list[Any]:
    """What is on offer, and what the lesson has already."""
    return rows if present is None or present in rows else [present, *rows]


def _rooms() -> list[Room]:
    branch = _branch()
    present = getattr(g.get("lesson_in_hand"), "room", None)
    return [] if branch is None else _with(rooms_of(branch), present)


def _instructors() -> list[Employee]:
    branch = _branch()
    present = getattr(g.get("lesson_in_hand"), "instructor", None)
    return [] if branch is None else _with(instructors_of(branch), present)


def _minutes(is_optional: bool = False, **options: Any) -> IntegerField:
    rules = [Optional()] if is_optional else [REQUIRED]
    return IntegerField(_l("Duration, minutes"), [*rules, NumberRange(min=1, max=24 * 60)], **options)


def _capacity() -> IntegerField:
    return IntegerField(
        _l("Places"),
        [Optional(), NumberRange(min=1, max=10_000)],
        description=_l("Empty: as many as the room holds; an individual lesson takes one."),
    )


def _takes_nobody() -> BooleanField:
    return BooleanField(_l("Never add anyone to the lesson"))


def _room(**options: Any) -> ReferenceField:
    return ReferenceField(Room, _l("Room"), query=_rooms, is_optional=True, **options)


def _further_rooms(**options: Any) -> ReferencesField:
    return ReferencesField(
        Room,
        _l("Parallel rooms"),
        query=_rooms,
        description=_l("The lesson goes on there as well: a booking is made in each."),
        **options,
    )


def _instructor(**options: Any) -> ReferenceField:
    return ReferenceField(Employee, _l("Instructor"), query=_instructors, is_optional=True, **options)


def _further_rooms_in_hand() -> list[Room]:
    lesson = g.get("lesson_in_hand")
    return [] if lesson is None else further_rooms_of(lesson)


def _minutes_in_hand() -> int | None:
    lesson = g.get("lesson_in_hand")
    return None if lesson is None else PRESENT["minutes"](lesson)


class PlanForm(Form):
    lesson_type = ReferenceField(LessonType, _l("Type of lessons"), query=lambda: g.get("lesson_types") or [])
    subject = ReferenceField(Subject, _l("Subject of lessons"), query=subjects_on_offer, is_optional=True)
    instructor = _instructor(description=_l("Will be set for all the lessons planned."))
    room = _room()
    further_rooms = _further_rooms()
    starts_on = DateField(_l("First day"), [REQUIRED])
    time = TimeField(_l("Time"), [REQUIRED])
    minutes = _minutes(is_optional=True, description=_l("Empty: as the lesson type has it."))
    unit = EnumField(RepeatUnit, _l("Periodicity"), default=RepeatUnit.WEEK)
    interval = IntegerField(
        _l("Interval"), [REQUIRED], default=1, render_kw={"min": 1, "max": MAX_INTERVAL, "inputmode": "numeric"}
    )
    weekdays = WeekdaysField(_l("Days of the week"))
    until = DateField(_l("Until the day"), [Optional()])
    count = IntegerField(
        _l("Number of lessons"), [Optional()], description=_l("Without the last day and the number: one lesson.")
    )
    capacity = _capacity()
    takes_nobody = _takes_nobody()

    @property
    def rule(self) -> Recurrence:
        """Raises DomainError beside the field that is wrong, "too_many_lines" beside count."""
        minutes = self.minutes.data or g.lesson_minutes or self.lesson_type.data.duration_minutes
        rule = Recurrence(
            self.starts_on.data,
            self.time.data,
            minutes,
            unit=self.unit.data,
            interval=self.interval.data,
            weekdays=tuple(sorted(self.weekdays.data or ())),
            until=self.until.data,
            count=self.count.data if self.count.data is not None or self.until.data is not None else 1,
        )
        if len(rule.days()) > MAX_LINES:
            raise DomainError(
                "too_many_lines",
                _("Plan %(count)s lessons at once at most.", count=MAX_LINES),
                "until" if self.until.data else "count",
            )
        return rule


class LessonForm(Form):
    """Of one that is there. scope: only where more of its series follow."""

    scope = SelectField(
        _l("What is changed"),
        choices=[
            SelectChoice("one", _l("This lesson only")),
            SelectChoice("following", _l("This lesson and the following of the series")),
        ],
    )
    starts_at = MomentField(_l("Date and time"), [REQUIRED], tz=_zone)
    minutes = _minutes(default=_minutes_in_hand)
    room = _room()
    further_rooms = _further_rooms(
        default=lambda: further_rooms_of(g.lesson_in_hand) if g.get("lesson_in_hand") else []
    )
    instructor = _instructor()
    capacity = _capacity()
    takes_nobody = _takes_nobody()
    topic = TextAreaField(_l("Topic"), [Length(max=5000)], render_kw={"rows": 3})


class LoneLessonForm(LessonForm):
    scope = None


class CancelForm(Form):
    scope = SelectField(
        _l("What is canceled"),
        choices=[
            SelectChoice("one", _l("This lesson only")),
            SelectChoice("following", _l("This lesson and the following of the series")),
        ],
    )


@dataclass(frozen=True)
class PlanFor:
    """Whom lessons are planned for: a client, a group, or whoever enrols; and of which type, if that is known."""

    branch: Branch
    client: Client | None = None
    group: ClientGroup | None = None
    lesson_type: LessonType | None = None


@dataclass(frozen=True)
class ShownLine:
    """A line of the preview: what the rule says, what became of it, and what was chosen instead."""

    on: date
    line: PlannedLine | None
    moved: Moved
    starts_at: datetime
    ends_at: datetime
    room: Room | None

    @property
    def weekday(self) -> str:
        return format_date(self.starts_at, "EEE", locale=get_locale())

    @property
    def is_open(self) -> bool:
        """Whether another room, day and time are offered."""
        return self.line is None or not self.line.is_ok or self.moved != Moved()


class LessonPlanningView(KontoraView):
    """Of the view of lessons: the forms that plan, change and cancel them."""

    form = LessonForm
    creates = edits = True
    create_label = _l("Plan lessons")

    # --- planning ---------------------------------------------------------------------------------------------------

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        if not self.may_create:
            abort(403)
        return self._plan()

    @expose("/plan/", methods=("GET", "POST"))
    @permission("create")
    def plan_view(self) -> Any:
        """«В расписание»: ?client= or ?group= says for whom, ?room=, ?day= and ?time= where and when to begin."""
        return self._plan()

    def _plan(self) -> Any:
        whom = self._whom()
        if whom is None:
            return self.render("admin/schedule/plan_branch.html", title=self.create_label)
        form = self._plan_form(whom)

        def plan() -> LessonPlan:
            return self._plan_of(form, whom)

        def preview() -> list[ShownLine]:
            """What stands below the form: as things are when the page is made. What is wrong has been said."""
            if request.method == "GET" or any(field.errors for field in form):
                return []
            try:
                return list(_shown(plan()))
            except DomainError:
                return []

        context = {"title": self.create_label, "whom": whom, "back": self._back_to(whom)}
        if request.method == "POST":
            if "plan" not in request.form:
                return self._checked(form, plan, **context)
            if form.validate() and not _is_checked(plan):
                return self._checked(form, plan, notice=_CHANGED_SINCE, **context)
        return self.answer(
            form,
            lambda: plan_lessons(plan(), by=current_user, shown=request.form.getlist("shown")),
            done=lambda planned: self._planned_url(whom, planned),
            said=_said_of_plan,
            template="admin/schedule/plan.html",
            preview=preview,
            checked=lambda: _fingerprint(plan()),
            **context,
        )

    def _checked(self, form: Any, plan: Callable[[], LessonPlan], **context: Any) -> Any:
        """The form again, with what would become of each lesson, or with what is wrong."""
        lines: list[ShownLine] = []
        if form.validate():
            try:
                lines = list(_shown(plan()))
            except DomainError as error:
                self.show_error(form, error)
        page = self.render(
            "admin/schedule/plan.html",
            form=form,
            row=None,
            stale=[],
            preview=lambda: lines,
            checked=lambda: _fingerprint(plan()),
            **context,
        )
        return page, 200 if lines else 422

    def _whom(self) -> PlanFor | None:
        """None where the branch has yet to be chosen."""
        client = group = None
        if number := request.args.get("client"):
            client = self.view_of(Client).get_one(number)  # type: ignore[union-attr]
        elif number := request.args.get("group"):
            group = self.view_of(ClientGroup).get_one(number)  # type: ignore[union-attr]
        subject = client or group or _room_asked_for()
        branch = db.session.get(Branch, subject.branch_id) if subject is not None else _branch_asked_for()
        if branch is None:
            return None
        g.lesson_branch, g.lesson_types = branch, lesson_types_on_offer()
        lesson_type = group.lesson_type if group is not None else None
        if client is not None:
            offered = lesson_types_for(client, g.lesson_types)
            g.lesson_types = offered.types
            if offered.types and not (branch.company.binds_instructor and offered.is_asked):
                lesson_type = offered.types[0]
        g.lesson_minutes = lesson_type.duration_minutes if lesson_type is not None else None
        return PlanFor(branch, client, group, lesson_type)

    def _plan_form(self, whom: PlanFor) -> Any:
        form: Any = PlanForm(request.form if request.method == "POST" else None)
        company = whom.branch.company
        if whom.lesson_type is not None:
            del form.lesson_type
        if whom.group is not None:
            del form.subject
        if not company.binds_instructor:
            del form.instructor
        if not company.has_parallel_rooms:
            del form.further_rooms
        if request.method == "GET":
            self._prefill(form, whom)
        return form

    @staticmethod
    def _prefill(form: Any, whom: PlanFor) -> None:
        form.starts_on.data, form.time.data = _next_hour(whom.branch)
        for name, read in (("day", date.fromisoformat), ("time", time.fromisoformat)):
            try:
                given: Any = read(request.args.get(name, ""))
            except ValueError:
                continue
            (form.starts_on if name == "day" else form.time).data = given
        form.room.data = form.room.rows.get(request.args.get("room", ""))
        if "instructor" in form:
            form.instructor.data = form.instructor.rows.get(request.args.get("instructor", ""))
        if (group := whom.group) is not None:
            form.room.data, form.capacity.data = form.room.data or group.room, group.capacity
            if "instructor" in form:
                form.instructor.data = form.instructor.data or group.instructor

    @staticmethod
    def _plan_of(form: Any, whom: PlanFor) -> LessonPlan:
        group = whom.group
        rule = form.rule
        return LessonPlan(
            whom.branch,
            rule,
            whom.lesson_type or form.lesson_type.data,
            subject=group.subject if group is not None else form.subject.data,
            room=form.room.data,
            further_rooms=tuple(form.further_rooms.data) if "further_rooms" in form else (),
            instructor=form.instructor.data if "instructor" in form else group.instructor if group else None,
            capacity=form.capacity.data,
            takes_nobody=form.takes_nobody.data,
            client=whom.client,
            group=group,
            moved=dict(_moved(rule, form.room)),
        )

    def _back_to(self, whom: PlanFor) -> str:
        if whom.client is not None:
            return url_for("client.card_view", id=whom.client.id)
        return self.view_of(ClientGroup).row_url(whom.group) if whom.group else self.get_url(".index_view")  # type: ignore[union-attr]

    def _planned_url(self, whom: PlanFor, planned: Planned) -> str:
        if whom.client is None and whom.group is None and len(planned.lessons) == 1:
            return self.row_url(planned.lessons[0])
        if whom.client is not None:
            return url_for("client.card_view", id=whom.client.id, tab="planned")
        return self._back_to(whom)

    # --- changing ---------------------------------------------------------------------------------------------------

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        if row is not None:
            g.lesson_branch, g.lesson_in_hand = row.branch, row
        return super().form_class(row, companies)

    def declared_form(self) -> type[Form]:
        lesson = g.get("lesson_in_hand")
        declared = LessonForm if lesson is not None and following(lesson) else LoneLessonForm
        if lesson is None or lesson.branch.company.has_parallel_rooms:
            return declared
        return type(declared.__name__, (declared,), {"further_rooms": None})

    def save(self, form: Any, row: Any) -> Any:
        facts = form.data
        is_series = facts.pop("scope", "one") == "following"
        if facts["starts_at"] == row.starts_at.replace(second=0, microsecond=0):
            facts["starts_at"] = row.starts_at  # the form knows minutes only
        if is_series:
            return change_following(row, **facts, by=current_user)[0]
        return change_lesson(row, **facts, by=current_user)

    # --- canceling --------------------------------------------------------------------------------------------------

    @expose("/cancel/", methods=("GET", "POST"))
    @permission("cancel")
    def cancel_view(self) -> Any:
        """«Отменить занятие»: it, or it and the following of its series."""
        lesson = self.get_one(request.values.get("id"))
        form: Any = CancelForm(request.form if request.method == "POST" else None)
        if not following(lesson):
            del form.scope

        def cancel() -> list[ProtocolLine]:
            if "scope" in form and form.scope.data == "following":
                return cancel_following(lesson, by=current_user)
            cancel_lesson(lesson, by=current_user)
            return []

        return self.answer(
            form,
            cancel,
            title=_("Cancel the lesson “%(lesson)s”?", lesson=lesson.title),
            subtitle=self._when_is(lesson),
            warning=_("Nobody will be expected at it, and booked rooms will be free."),
            back=self.row_url(lesson),
            done=lambda lines: self.row_url(lesson),
            said=_said_of_cancel,
            submit=_("Cancel the lesson"),
        )

    @staticmethod
    def _when_is(lesson: Lesson) -> str:
        begins = clock.local(lesson.starts_at, lesson.branch)
        return f"{begins:%d.%m.%Y %H:%M}–{clock.local(lesson.ends_at, lesson.branch):%H:%M}"


def _room_asked_for() -> Room | None:
    """The room a calendar's empty slot is in (?room=), if it is in sight."""
    number = request.args.get("room", "")
    is_number = number.isascii() and number.isdigit() and len(number) < 19
    return db.session.scalar(sa.select(Room).where(Room.id == int(number))) if is_number else None


def _branch_asked_for() -> Branch | None:
    """The one of ?branch=, the chosen one, or the only one in sight."""
    in_sight = [branch for branch in g.branches if g.scope.covers(branch.id)]
    asked = [branch for branch in in_sight if str(branch.id) == request.args.get("branch")]
    only = in_sight if len(in_sight) == 1 else []
    return next((branch for branch in (*asked, chosen_branch(), *only) if branch is not None), None)


def _next_hour(branch: Branch) -> tuple[date, time]:
    """The next full hour the branch is open at by its working hours, as a form begins with it."""
    begins = clock.local(clock.now(), branch).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    for number in range(8):
        day = begins.date() + timedelta(days=number)
        hours = hours_on(branch, day)
        if hours is None:
            continue
        opens, closes = hours
        at = max(opens, begins.time()) if number == 0 else opens
        if closes == time(0) or at < closes:
            return day, at
    return begins.date(), begins.time()


def _moved(rule: Recurrence, rooms: ReferenceField) -> Iterator[tuple[date, Moved]]:
    """What was chosen for single lessons, as the fields of the preview send it. Raises DomainError "day_invalid"."""
    for on in rule.days():
        key = on.isoformat()
        try:
            day = date.fromisoformat(request.form.get(f"day-{key}") or key)
            at = time.fromisoformat(request.form.get(f"time-{key}") or rule.time.isoformat())
        except ValueError:
            raise DomainError("day_invalid", _("Enter a day and a time.")) from None
        if not date(1990, 1, 1) <= day < date(2200, 1, 1):
            raise DomainError("day_invalid", _("Enter a day that can be meant."))
        room = rooms.rows.get(request.form.get(f"room-{key}", ""))
        moved = Moved(
            None if day == on else day,
            None if at == rule.time else at,
            None if room is rooms.data else room,
            f"skip-{key}" in request.form,
        )
        if moved != Moved():
            yield on, moved


def _fingerprint(plan: LessonPlan) -> str:
    """Of all that was chosen: what the preview was made of, and what is planned only as long as it stays so."""
    chosen = [(name, str(value)) for name, value in plan.rule.as_json().items()]
    chosen += [(name, repr(getattr(plan, name))) for name in ("capacity", "takes_nobody")]
    chosen += [(name, _id(getattr(plan, name))) for name in ("lesson_type", "subject", "room", "instructor")]
    chosen += [("further_rooms", _id(room)) for room in plan.further_rooms]
    for on, moved in plan.moved.items():
        chosen.append((on.isoformat(), f"{moved.day} {moved.time} {_id(moved.room)} {moved.is_skipped}"))
    return fingerprint_of(request.path, chosen)


def _is_checked(plan: Callable[[], LessonPlan]) -> bool:
    """Whether it is what the preview was of; one that is wrong says so itself."""
    try:
        return request.form.get("checked") == _fingerprint(plan())
    except DomainError:
        return True


def _id(row: Any) -> str:
    return "" if row is None else str(row.id)


def _shown(plan: LessonPlan) -> Iterator[ShownLine]:
    """Every day of the rule, those to be left out as well."""
    lines = {line.on: line for line in preview_plan(plan, by=current_user)}
    for on in plan.rule.days():
        moved, line = plan.moved.get(on, Moved()), lines.get(on)
        starts_at = clock.at(moved.day or on, moved.time or plan.rule.time, plan.branch)
        ends_at = starts_at + timedelta(minutes=plan.rule.minutes)
        here = (clock.local(starts_at, plan.branch), clock.local(ends_at, plan.branch))
        yield ShownLine(on, line, moved, *here, moved.room or plan.room)


def _said_of_plan(planned: Planned) -> str:
    said = [ngettext("%(num)s lesson is planned.", "%(num)s lessons are planned.", planned.count)]
    if planned.joined:
        said.append(_("Enrolled in lessons that stood already: %(count)s.", count=len(planned.joined)))
    if planned.tasks:
        said.append(_("Tasks for the administrator to correct the schedule: %(count)s.", count=planned.tasks))
    if planned.refused:
        said.append(_("Not planned: %(count)s.", count=len(planned.refused)))
    return " ".join(said)


def _said_of_cancel(lines: list[ProtocolLine]) -> str:
    if not lines:
        return _("The lesson is canceled.")
    done = sum(1 for line in lines if line.is_done)
    said = [ngettext("%(num)s lesson is canceled.", "%(num)s lessons are canceled.", done)]
    return " ".join([*said, *(f"{line.label}: {line.reason}" for line in lines if not line.is_done)])


# --- bookings -------------------------------------------------------------------------------------------------------


class BookingForm(Form):
    room = ReferenceField(Room, _l("Room"), query=_rooms)
    starts_at = MomentField(_l("Begins"), [REQUIRED], tz=_zone)
    ends_at = MomentField(_l("Ends"), [REQUIRED], tz=_zone)
    comment = StringField(_l("What for"), [Length(max=500)])


class BookingView(KontoraView):
    entity = "booking"
    icon = "bookmark"
    column_list = ("starts_at", "ends_at", "room", "comment", "lesson", "branch")
    column_details_list = ("starts_at", "ends_at", "room", "comment", "lesson", "branch")
    column_labels = {
        "starts_at": _l("Begins"),
        "ends_at": _l("Ends"),
        "comment": _l("What for"),
        "lesson": _l("Lesson"),
    }
    column_filters = ("starts_at", "room", "branch")
    column_searchable_list = ("comment",)
    column_default_sort = "-starts_at"
    form = BookingForm
    creates = edits = True
    create_label = _l("Book a room")
    empty_hint = _l("Rooms kept free of lessons for a time.")
    details_template = "admin/schedule/booking.html"

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("Today"), (("f.starts_at.period", "today"),))]

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        if self.may_create and self._place() is None:
            leads_to = "booking.create_view"
            return self.render("admin/schedule/plan_branch.html", title=self.create_label, leads_to=leads_to)
        return super().create_view()

    @staticmethod
    def _place() -> Branch | None:
        room = _room_asked_for()
        return db.session.get(Branch, room.branch_id) if room is not None else _branch_asked_for()

    def may_edit_row(self, row: Any) -> bool:
        return bool(self.may_edit and row.lesson_id is None)

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        g.lesson_branch = row.branch if row is not None else self._place()
        g.lesson_in_hand = row
        return super().form_class(row, companies)

    def prefill(self, form: Any) -> None:
        """From the calendar: ?room=, ?day=, ?time=."""
        assert g.lesson_branch is not None
        begins = clock.local(clock.now(), g.lesson_branch).replace(minute=0, second=0, microsecond=0)
        begins, ends = begins + timedelta(hours=1), begins + timedelta(hours=2)
        try:
            day, at = date.fromisoformat(request.args["day"]), time.fromisoformat(request.args["time"])
            asked = clock.local(clock.at(day, at, g.lesson_branch), g.lesson_branch)
            begins, ends = asked, asked + timedelta(hours=1)
        except (KeyError, ValueError, OverflowError):
            pass
        form.starts_at.data, form.ends_at.data = begins, ends
        form.room.data = form.room.rows.get(request.args.get("room", ""))

    def save_new(self, form: Any) -> Any:
        return create_booking(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return edit_booking(row, **form.data, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        return {"may_delete": self.may("delete") and row.lesson_id is None}

    @expose("/remove/", methods=("GET", "POST"))
    @permission("delete")
    def remove_view(self) -> Any:
        booking = self.get_one(request.values.get("id"))
        index = self.get_url(".index_view")
        return self.answer(
            Form(request.form),
            lambda: delete_booking(booking, by=current_user),
            title=_("Give the room “%(room)s” free?", room=booking.room.name),
            back=self.row_url(booking),
            done=lambda _nothing: index,
            said=_l("Deleted."),
            submit=_("Delete"),
        )
