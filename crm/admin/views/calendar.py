"""«Расписание»: a day by the hour, a week by rooms or instructors, a month as a list.

What is placed by the hour is placed by classes of static/calendar.css: the content security policy knows no styles of a
page's own. Narrow screens show the chosen day as a list, whatever the view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from babel.dates import format_date
from flask import g, request, url_for
from flask_admin import expose
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup, escape

from crm import clock
from crm.access.fields import field_rules
from crm.access.models import Branch, Employee
from crm.admin.views.reports import ReportView
from crm.catalogue.queries import instructors_of, lesson_types_on_offer, rooms_of
from crm.clients.models import Client
from crm.db import db
from crm.fields.queries import is_shown
from crm.schedule.models import ClientGroup, LessonStatus
from crm.schedule.queries import (
    LessonLine,
    bookings_between,
    closed_between,
    lessons_between,
    lessons_in_sight,
)
from crm.security import chosen_branch

SPANS: dict[str, Any] = {
    "day": _lp("calendar", "Day"),
    "week": _lp("calendar", "Week"),
    "month": _lp("calendar", "Month"),
}
LANES: dict[str, Any] = {"room": _l("By rooms"), "instructor": _l("By instructors")}
# Beyond it a month says how many lessons a day has.
LISTED_AT_MOST = 1000
SIDE_BY_SIDE_AT_MOST = 6
MIDNIGHT = time(0)


@dataclass(frozen=True)
class Asked:
    """What the address asks for; what cannot be read is as if it were not there. The ids: 0 for all."""

    branch: Branch
    span: str
    by: str
    day: date
    room: int
    instructor: int
    type: int
    group: int

    @property
    def first(self) -> date:
        if self.span == "week":
            return self.day - timedelta(days=self.day.weekday())
        return self.day.replace(day=1) if self.span == "month" else self.day

    @property
    def last(self) -> date:
        if self.span == "week":
            return self.first + timedelta(days=6)
        return _month_after(self.first) - timedelta(days=1) if self.span == "month" else self.day

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]

    @property
    def is_filtered(self) -> bool:
        return bool(self.room or self.instructor or self.type or self.group)

    def before(self) -> date:
        return (self.first - timedelta(days=1)).replace(day=1) if self.span == "month" else self._moved(-1)

    def after(self) -> date:
        return _month_after(self.first) if self.span == "month" else self._moved(1)

    def _moved(self, step: int) -> date:
        return self.day + timedelta(days=step * (7 if self.span == "week" else 1))

    def url(self, **changes: Any) -> str:
        """The same calendar with something else."""
        new = replace(self, **changes)
        args: dict[str, Any] = {"span": new.span, "by": new.by, "day": new.day.isoformat()}
        args |= {name: value for name in ("room", "instructor", "type", "group") if (value := getattr(new, name))}
        if chosen_branch() is None:
            args["branch"] = new.branch.id
        return url_for("calendar.index_view", **args)


def _month_after(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True)
class Lane:
    """A room or an instructor; id None: lessons without one."""

    id: int | None
    name: str


@dataclass(frozen=True)
class Column:
    """A column of the hours. title: what stands above it; note: a holiday, or that it is closed."""

    title: str
    url: str
    note: str
    html: Markup
    is_today: bool = False


class CalendarView(ReportView):
    icon = "calendar3"
    needs = "lesson.view"

    def __init__(self, name: Any, category: Any = None) -> None:
        super().__init__(name, category, endpoint="calendar", url="lesson/calendar")

    @expose("/")
    def index_view(self) -> Any:
        if (asked := _asked()) is None:
            return self.render("admin/schedule/calendar.html", asked=None)
        page = Page(asked)
        today = clock.today(asked.branch)
        return self.render(
            "admin/schedule/calendar.html",
            asked=asked,
            page=page,
            today=today,
            spans=SPANS,
            ways={name: label for name, label in LANES.items() if name not in page.hidden},
            heading=_heading(asked),
            branches=[] if chosen_branch() else g.branches,
            choices=page.choices(),
            day_name=day_name,
            is_counted=len(page.lessons) > LISTED_AT_MOST,
        )


def _asked() -> Asked | None:
    """None for who has no branch."""
    branch = chosen_branch() or next(
        iter([*(one for one in g.branches if str(one.id) == request.args.get("branch")), *g.branches]), None
    )
    if branch is None:
        return None
    span, by = request.args.get("span", ""), request.args.get("by", "")
    hidden = field_rules(current_user, "lesson").hidden
    by_default = "room" if current_user.may("lesson.all") and "room" not in hidden else "instructor"
    return Asked(
        branch,
        span if span in SPANS else "week",
        by if by in LANES and by not in hidden else by_default,
        _read_day(request.args.get("day", "")) or clock.today(branch),
        *(0 if name in hidden else _read_id(name) for name in ("room", "instructor", "type", "group")),
    )


def _read_day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if 1901 <= day.year < 2199 else None


def _read_id(name: str) -> int:
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def day_name(day: date) -> str:
    """«понедельник, 30 ноября»."""
    return str(format_date(day, "EEEE, d MMMM", locale=get_locale()))


def short_day(day: date) -> str:
    """«пн 30.11»."""
    form = "EEE dd.MM" if get_locale().language == "ru" else "EEE d MMM"
    return str(format_date(day, form, locale=get_locale()))


def _heading(asked: Asked) -> str:
    if asked.span == "day":
        return str(format_date(asked.day, "EEEE, d MMMM y", locale=get_locale()))
    if asked.span == "month":
        return str(format_date(asked.day, "LLLL y", locale=get_locale()))
    ends = [format_date(day, "d MMMM", locale=get_locale()) for day in (asked.first, asked.last)]
    return f"{ends[0]} – {ends[1]} {asked.last.year}"


class Page:
    """What a page of the calendar shows: everything is read once, by a fixed number of statements."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.branch = asked.branch
        self.hidden = field_rules(current_user, "lesson").hidden
        self.is_own = not current_user.may("lesson.all")
        self.lessons = lessons_between(
            asked.branch,
            asked.first,
            asked.last,
            rooms=[asked.room] if asked.room else (),
            instructors=[asked.instructor] if asked.instructor else (),
            lesson_types=[asked.type] if asked.type else (),
            groups=[asked.group] if asked.group else (),
            only=lessons_in_sight(current_user),
        )
        self.closed = closed_between(asked.branch, asked.first, asked.last)
        self.rooms, self.instructors = rooms_of(asked.branch), self._instructors()
        self.bookings = self._bookings()
        self.names = self._names()
        self._lines = {line.id: line for line in self.lessons}
        zone = ZoneInfo(self.branch.time_zone)
        self._starts = {line.id: line.starts_at.astimezone(zone) for line in self.lessons}
        self.by_day: dict[date, list[LessonLine]] = defaultdict(list)
        for line in self.lessons:
            self.by_day[self._starts[line.id].date()].append(line)
        self.short_days = {day: short_day(day) for day in asked.days}
        self.may_plan = current_user.may("lesson.create")
        self._plan_url = url_for("lesson.create_view") if self.may_plan else ""
        self._plan_branch = "" if chosen_branch() else f"&branch={asked.branch.id}"
        self._details_url = url_for("lesson.details_view")
        by_room = asked.by == "room"
        shown = "instructor" not in self.hidden, "room" not in self.hidden
        self._tells = {True: shown, False: (by_room and shown[0], not by_room and shown[1])}
        self._told: dict[tuple[Any, ...], str] = {}
        self._statuses: dict[LessonStatus, tuple[str, str]] = {}
        today, may_past = clock.today(self.branch), current_user.may("lesson.past")
        self._plans_on = {day for day in asked.days if self.may_plan and (may_past or day >= today)}

    # --- what there is ----------------------------------------------------------------------------------------------

    def _instructors(self) -> list[Employee]:
        if self.is_own:
            query = sa.select(Employee).where(Employee.user_id == current_user.id)
            return list(db.session.scalars(query))
        return instructors_of(self.branch)

    def _bookings(self) -> list[Any]:
        """Only rooms are booked: who asks for an instructor's or a group's lessons does not ask for them."""
        asked = self.asked
        if not current_user.may("booking.view") or asked.instructor or asked.type or asked.group:
            return []
        found = bookings_between(self.branch, asked.first, asked.last)
        return [booking for booking in found if asked.room in {0, booking.room_id}]

    def _names(self) -> dict[int, str]:
        """Of clients who have a lesson alone."""
        ids = {line.client_id for line in self.lessons if line.client_id is not None}
        if not ids or not current_user.may("client.view") or "name" in field_rules(current_user, "client").hidden:
            return {}
        has_surname = is_shown(self.branch.company_id, "client", "surname")
        query = sa.select(Client.id, Client.name, Client.surname).where(Client.id.in_(ids))
        return {
            client_id: f"{surname} {name}" if surname and has_surname else name
            for client_id, name, surname in db.session.execute(query)
        }

    def choices(self) -> list[tuple[str, Any, list[tuple[int, str]]]]:
        """Filters: (name, label, options)."""
        groups = sa.select(ClientGroup.id, ClientGroup.name).where(
            ClientGroup.branch_id == self.branch.id,
            ClientGroup.is_archived.is_(False) | (ClientGroup.id == self.asked.group),
        )
        found: list[tuple[str, Any, list[tuple[int, str]]]] = [
            ("room", _l("Room"), [(room.id, room.name) for room in self.rooms]),
            ("instructor", _l("Instructor"), [(one.id, one.name) for one in self.instructors]),
            ("type", _l("Lesson type"), [(one.id, one.name) for one in lesson_types_on_offer()]),
            ("group", _l("Group"), [(id, name) for id, name in db.session.execute(groups.order_by(ClientGroup.name))]),
        ]
        hidden = {"type" if name == "lesson_type" else name for name in self.hidden}
        if self.is_own:
            hidden.add("instructor")
        return [choice for choice in found if choice[0] not in hidden]

    @cached_property
    def lanes(self) -> list[Lane]:
        """Rooms or instructors to show: all there are; with a filter, those with lessons."""
        asked = self.asked
        known: Sequence[Any] = self.rooms if asked.by == "room" else self.instructors
        names: dict[int | None, str] = {one.id: one.name for one in known}
        present = {self._lane_of(line): self._lane_name(line) for line in self.lessons}
        for booking in self.bookings if asked.by == "room" else ():
            present[booking.room_id] = booking.room.name
        chosen = asked.room if asked.by == "room" else asked.instructor
        if chosen:
            names = {id: name for id, name in {**present, **names}.items() if id == chosen}
        elif asked.is_filtered:
            names = {id: name for id, name in names.items() if id in present} | present
        else:
            names = names | {id: name for id, name in present.items() if id not in names}
        without = _("Without a room") if asked.by == "room" else _("Without an instructor")
        named = [Lane(id, name) for id, name in names.items() if id is not None]
        return [*named, *([Lane(None, without)] if None in names else [])]

    def _lane_of(self, line: LessonLine) -> int | None:
        return line.room_id if self.asked.by == "room" else line.instructor_id

    def _lane_name(self, line: LessonLine) -> str:
        return (line.room if self.asked.by == "room" else line.instructor) or ""

    # --- how it is shown --------------------------------------------------------------------------------------------

    @property
    def layout(self) -> str:
        """ "hours" where each column is one lane of one day; "lanes": a week of many; "list": a month."""
        if self.asked.span == "month":
            return "list"
        return "hours" if self.asked.span == "day" or len(self.lanes) == 1 else "lanes"

    def title(self, line: LessonLine) -> str:
        group = line.group if "group" not in self.hidden else None
        subject = line.subject if "subject" not in self.hidden else None
        return group or self.names.get(line.client_id or 0) or subject or line.lesson_type

    def _told_status(self, status: LessonStatus) -> tuple[str, str]:
        """Class and words of a status, translated once a page."""
        found = self._statuses.get(status)
        if found is None:
            found = self._statuses[status] = f" is-{status.value}", f" {escape(str(status.label))}"
        return found

    def lesson(self, line: LessonLine, css: str = "", *, both: bool = False) -> str:
        """HTML of a lesson as a link: when, what, with whom or where, how many. both: with whom and where."""
        starts = self._starts[line.id]
        seats = f"{line.taken}" if line.capacity is None else f"{line.taken}/{line.capacity}"
        full = " full" if line.takes_nobody or (line.capacity is not None and line.taken >= line.capacity) else ""
        state = said = ""
        if line.status is not LessonStatus.PLANNED:
            state, said = self._told_status(line.status)
        return (
            f'<a class="les{css}{state}" href="{self._details_url}?id={line.id}"><b>{starts.hour:02}:{starts.minute:02}'
            f'</b> {self._words(line, both)} <span class="seats{full}">{seats}</span>{said}</small></a>'
        )

    def _words(self, line: LessonLine, both: bool) -> str:
        """HTML of what, with whom and where, put together once a page for all lessons that have it alike."""
        tells_instructor, tells_room = self._tells[both]
        instructor, room = line.instructor if tells_instructor else None, line.room if tells_room else None
        key = (line.group, line.client_id, line.subject, line.lesson_type, instructor, room)
        found = self._told.get(key)
        if found is None:
            told = " · ".join(name for name in (instructor, room) if name)
            found = self._told[key] = f"{escape(self.title(line))} <small>{escape(told)}"
        return found

    def listed(self, day: date) -> list[Markup]:
        """The lessons and bookings of a day in the order of time."""
        found = [(line.starts_at, self.lesson(line, both=True)) for line in self.by_day.get(day, ())]
        found += [(booking.starts_at, self._booked(booking, both=True)) for booking in self._bookings_on(day)]
        return [_whole([html]) for _moment, html in sorted(found, key=lambda item: item[0])]

    def _bookings_on(self, day: date) -> Iterable[Any]:
        return (one for one in self.bookings if clock.local(one.starts_at, self.branch).date() == day)

    def _booked(self, booking: Any, css: str = "", *, both: bool = False) -> str:
        """HTML of a booking as a link; one for a lesson that goes on there as well, to the lesson."""
        starts, ends = (clock.local(moment, self.branch) for moment in (booking.starts_at, booking.ends_at))
        line = self._lines.get(booking.lesson_id)
        url = self._details_url if booking.lesson_id else url_for("booking.details_view")
        room = booking.room.name if both else ""
        where = " ".join(text for text in (f"– {ends:%H:%M}", room, booking.comment) if text)
        title = self.title(line) if line is not None else _("Booking")
        return (
            f'<a class="les booked{css}" href="{url}?id={booking.lesson_id or booking.id}"><b>{starts:%H:%M}</b> '
            f"{escape(title)} <small>{escape(where)}</small></a>"
        )

    @cached_property
    def _notes(self) -> dict[date, str]:
        return {day: closed.name or _("closed") for day, closed in self.closed.items() if closed.is_whole}

    def note(self, day: date) -> str:
        """That a day is a holiday, or the branch closed on it."""
        return self._notes.get(day, "")

    def plan_url(self, day: date, lane: Lane | None = None, at: time | None = None) -> str:
        """Where a lesson is planned at a place and time; empty where nothing can be planned."""
        if day not in self._plans_on:
            return ""
        args = [f"day={day.isoformat()}"]
        if lane is not None and lane.id is not None:
            args.insert(0, f"{self.asked.by}={lane.id}")
        if at is not None:
            args.append(f"time={at:%H:%M}")
        return f"{self._plan_url}?{'&'.join(args)}{self._plan_branch}"

    # --- a week by lanes --------------------------------------------------------------------------------------------

    def week(self) -> list[tuple[Lane, list[tuple[date, Markup, str]]]]:
        """Rows of the week: a lane and, for each day, (day, what is there, where to plan)."""
        cells: dict[tuple[int | None, date], list[tuple[datetime, str]]] = defaultdict(list)
        for day, lines in self.by_day.items():
            for line in lines:
                cells[self._lane_of(line), day].append((line.starts_at, self.lesson(line)))
        if self.asked.by == "room":
            for booking in self.bookings:
                day = clock.local(booking.starts_at, self.branch).date()
                cells[booking.room_id, day].append((booking.starts_at, self._booked(booking)))
        rows = []
        for lane in self.lanes:
            row = []
            for day in self.asked.days:
                found = sorted(cells.get((lane.id, day), ()), key=lambda item: item[0])
                row.append((day, _whole(html for _moment, html in found), self.plan_url(day, lane)))
            rows.append((lane, row))
        return rows

    # --- the hours --------------------------------------------------------------------------------------------------

    @cached_property
    def hours(self) -> tuple[int, int]:
        """The first and the last hour shown: those of work, and of what is there."""
        opens = [closed for closed in self.closed.values() if not closed.is_whole]
        first = min((closed.opens.hour for closed in opens if closed.opens), default=9)
        last = max((_minutes(closed.closes, is_end=True) for closed in opens if closed.closes), default=21 * 60)
        for start, end in self._spans():
            first, last = min(first, start // 60), max(last, end)
        return first, min(24, -(-last // 60))

    def _spans(self) -> Iterable[tuple[int, int]]:
        for thing in (*self.lessons, *self.bookings):
            yield self._minutes_of(thing)

    def _minutes_of(self, thing: Any) -> tuple[int, int]:
        """From which minute of its day to which; what goes on past midnight ends with the day."""
        starts, ends = clock.local(thing.starts_at, self.branch), clock.local(thing.ends_at, self.branch)
        end = _minutes(ends.time(), is_end=True) if ends.date() == starts.date() else 24 * 60
        start = _minutes(starts.time())
        return start, max(end, start + 15)

    def columns(self) -> list[Column]:
        """Of a day, its lanes; of one lane's week, its days."""
        asked, today = self.asked, clock.today(self.branch)
        if asked.span == "day":
            note = self.note(asked.day)
            return [Column(lane.name, self.lane_url(lane), note, self._column(asked.day, lane)) for lane in self.lanes]
        return [
            Column(
                *(self.short_days[day], asked.url(span="day", day=day), self.note(day), self._column(day, lane)),
                is_today=day == today,
            )
            for lane in self.lanes
            for day in asked.days
        ]

    @cached_property
    def _any_lane_url(self) -> str:
        return self.asked.url(span="week", **{self.asked.by: 0})

    def lane_url(self, lane: Lane) -> str:
        """A lane's week."""
        return "" if lane.id is None else f"{self._any_lane_url}&{self.asked.by}={lane.id}"

    def _column(self, day: date, lane: Lane) -> Markup:
        """What is in a column: the hours it is closed, free times, bookings and lessons."""
        first, last = self.hours
        found = [f'<span class="shut{_placed(*span)}"></span>' for span in self._closed_spans(day, first, last)]
        open_from, open_to = self._open(day)
        if day in self._plans_on:
            for start in range(max(first * 60, open_from), min(last * 60, open_to), 30):
                at = time(start // 60, start % 60)
                url = str(escape(self.plan_url(day, lane, at)))
                found.append(f'<a class="slot{_placed(start, start + 30)}" tabindex="-1" href="{url}">{at:%H:%M}</a>')
        things: list[tuple[Any, Callable[[Any, str], str]]] = [
            (line, self.lesson) for line in self.by_day.get(day, ()) if self._lane_of(line) == lane.id
        ]
        if self.asked.by == "room":
            things += [(one, self._booked) for one in self._bookings_on(day) if one.room_id == lane.id]
        return _whole([*found, *_side_by_side([(*self._minutes_of(thing), thing, show) for thing, show in things])])

    def _open(self, day: date) -> tuple[int, int]:
        closed = self.closed.get(day)
        if closed is None:
            return 0, 24 * 60
        if closed.opens is None or closed.closes is None:
            return 0, 0
        return _minutes(closed.opens), _minutes(closed.closes, is_end=True)

    def _closed_spans(self, day: date, first: int, last: int) -> list[tuple[int, int]]:
        begins, ends = self._open(day)
        spans = (
            [(first * 60, min(begins, last * 60)), (max(ends, first * 60), last * 60)]
            if ends
            else [(first * 60, last * 60)]
        )
        return [(start, end) for start, end in spans if start < end]


def _minutes(moment: time, *, is_end: bool = False) -> int:
    """Minutes of a day; as an end, midnight is the day's own."""
    return 24 * 60 if is_end and moment == MIDNIGHT else moment.hour * 60 + moment.minute


def _whole(parts: Iterable[str]) -> Markup:
    """What Page has put together of escaped texts."""
    return Markup("".join(parts))  # noqa: S704 - escaped by Page


def _placed(start: int, end: int) -> str:
    """Classes of static/calendar.css that place something by the hour, to five minutes."""
    start, end = start // 5 * 5, -(-end // 5) * 5
    length = end - start
    return f" h{start // 60} m{start % 60} u{length // 60} v{length % 60}"


def _side_by_side(things: list[tuple[int, int, Any, Callable[[Any, str], str]]]) -> list[str]:
    """HTML of things placed by the hour; those that overlap share the width."""
    found: list[str] = []
    cluster: list[tuple[int, int, int, Any, Any]] = []  # side, start, end, thing, show
    ends: list[int] = []

    def close() -> None:
        sides = min(len(ends), SIDE_BY_SIDE_AT_MOST)
        for side, start, end, thing, show in cluster:
            css = _placed(start, end) + (f" l{min(side, sides - 1)} n{sides}" if sides > 1 else "")
            found.append(show(thing, css))
        cluster.clear()
        ends.clear()

    for start, end, thing, show in sorted(things, key=lambda item: item[:2]):
        if ends and start >= max(ends):
            close()
        side = next((number for number, until in enumerate(ends) if until <= start), len(ends))
        ends[side : side + 1] = [end]
        cluster.append((side, start, end, thing, show))
    close()
    return found
