"""Groups: the grid, the form, the page with its members; joining and leaving from there and from a client's card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from flask import abort, g, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import ngettext
from flask_login import current_user
from wtforms import BooleanField, IntegerField, StringField, TextAreaField
from wtforms.validators import Length, NumberRange, Optional

from crm import clock
from crm.access.models import Branch, Employee
from crm.admin.base import BulkAction, GridColumn, KontoraView, QuickFilter, grid_url, permission
from crm.admin.column import LoadedColumn
from crm.admin.fields import REQUIRED, DateField, Form, ReferenceField
from crm.admin.finding import found_clients
from crm.admin.kinds import IntegerKind, LimitKind
from crm.admin.selection import Selection
from crm.admin.views.mailing_selection import mailing_actions
from crm.catalogue.models import LessonType, Room, Subject
from crm.catalogue.queries import instructors_of, lesson_types_on_offer, rooms_of, subjects_on_offer
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.schedule.groups import MAX_CAPACITY, Joined, Left, change_group, create_group, join_group, leave_group
from crm.schedule.models import ClientGroup, GroupMember
from crm.schedule.queries import groups_to_join, lessons_in_sight, lessons_left_to, lessons_of_group, members_of
from crm.security import chosen_branch


def _group_in_hand() -> Any:
    return g.get("group_in_hand")


def _branch_in_hand() -> Branch | None:
    """Of the group that is changed; of a new one, the branch it is put in."""
    group = _group_in_hand()
    if group is not None:
        return db.session.get(Branch, group.branch_id)
    if (chosen := chosen_branch()) is not None:
        return chosen
    offered = [branch for branch in g.branches if str(branch.id) == request.values.get("branch")]
    return next(iter([*offered, *g.branches]), None)


def _with_present(rows: Sequence[Any], name: str) -> list[Any]:
    """What is on offer, and what the group has already."""
    group = _group_in_hand()
    present = getattr(group, name) if group is not None else None
    return [*rows] if present is None or present in rows else [present, *rows]


def _rooms() -> list[Any]:
    branch = _branch_in_hand()
    return _with_present(rooms_of(branch) if branch is not None else [], "room")


def _instructors() -> list[Any]:
    branch = _branch_in_hand()
    return _with_present(instructors_of(branch) if branch is not None else [], "instructor")


class GroupForm(Form):
    PAIRS = {"lesson_type": "subject", "instructor": "room"}

    name = StringField(_l("Name"), [REQUIRED, Length(max=200)], render_kw={"autofocus": True})
    lesson_type = ReferenceField(
        LessonType, _l("Lesson type"), query=lambda: _with_present(lesson_types_on_offer(), "lesson_type")
    )
    subject = ReferenceField(
        Subject, _l("Subject of lessons"), query=lambda: _with_present(subjects_on_offer(), "subject"), is_optional=True
    )
    instructor = ReferenceField(Employee, _l("Instructor"), query=_instructors, is_optional=True)
    room = ReferenceField(Room, _l("Room"), query=_rooms, is_optional=True)
    capacity = IntegerField(
        _l("Places"),
        [Optional(), NumberRange(1, MAX_CAPACITY)],
        description=_l("How many people the group takes; leave empty when it does not matter."),
    )
    comment = TextAreaField(_l("Comment"), [Length(max=2000)])
    is_archived = BooleanField(
        _l("In the archive"), description=_l("Nobody joins it and no lessons are planned for it any more.")
    )


class NewGroupForm(GroupForm):
    """In the network, the branch is chosen first: rooms and instructors are its own."""

    is_archived = None


class OnForm(Form):
    """Who of the group, and from which day on."""

    on = DateField(_l("From the day"), [Optional()], description=_l("Lessons before this day stay as they are."))


def said_of_joining(joined: Joined) -> str:
    """What the page says after somebody has joined: lessons to come, and those he is not at."""
    said = _("In the group.")
    if joined.lessons:
        said += " " + ngettext(
            "Enrolled in %(num)d lesson to come.", "Enrolled in %(num)d lessons to come.", joined.lessons
        )
    if joined.left_out:
        reasons = dict.fromkeys(left.reason for left in joined.left_out)
        said += " " + ngettext(
            "Left out of %(num)d lesson: %(reasons)s",
            "Left out of %(num)d lessons: %(reasons)s",
            len(joined.left_out),
            reasons=" ".join(reasons),
        )
    return said


def said_of_leaving(left: Left) -> str:
    said = _("Out of the group.")
    if left.lessons:
        said += " " + ngettext("Taken off %(num)d lesson to come.", "Taken off %(num)d lessons to come.", left.lessons)
    return said


class ClientGroupView(KontoraView):
    entity = "clientgroup"
    icon = "people"
    column_list = (
        "name",
        "lesson_type",
        "subject",
        "instructor",
        "room",
        "members",
        "capacity",
        "is_archived",
        "branch",
    )
    column_details_list = (
        *("lesson_type", "subject", "instructor", "room", "capacity", "comment", "is_archived", "branch"),
    )
    column_labels = {"members": _l("In the group"), "capacity": _l("Places"), "subject": _l("Subject of lessons")}
    column_kinds = {"members": IntegerKind(), "capacity": LimitKind()}
    column_searchable_list = ("name",)
    column_filters = ("lesson_type", "subject", "instructor", "room", "capacity", "is_archived", "branch")
    column_default_sort = "name"
    form = GroupForm
    creates = edits = True
    create_label = _l("Add a group")
    empty_hint = _l("Add the first group: what it learns, with whom, and how many places it has.")
    details_template = "admin/schedule/group.html"

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("In the archive"), (("f.is_archived.is", "1"),))]

    def bulk_actions(self) -> list[BulkAction]:
        """To who is in the groups today."""
        return mailing_actions()

    def base_condition(self, selection: Selection) -> Any:
        return None if selection.filters_by("is_archived") else ClientGroup.is_archived.is_(False)

    def column_as_of(self, column: GridColumn, day: Any) -> GridColumn:
        if column.name != "members":
            return column
        today = clock.today(self.here())
        count = (
            sa.select(sa.func.count())
            .where(
                GroupMember.group_id == ClientGroup.id,
                GroupMember.left_on.is_(None) | (GroupMember.left_on > today),
            )
            .correlate(ClientGroup)
            .scalar_subquery()
        )
        return LoadedColumn(column.name, column.label, column.kind, count)

    # --- the form ---------------------------------------------------------------------------------------------------

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        g.group_in_hand = row
        return super().form_class(row, companies)

    def declared_form(self) -> type[Form]:
        return GroupForm if _group_in_hand() is not None else NewGroupForm

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        """A group is of one branch: in the network the first one's unless told otherwise."""
        if not self.may_create:
            abort(403)
        branch = _branch_in_hand()
        if branch is None:
            abort(404)
        form = self.form_class()(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: create_group(branch, **form.data, by=current_user),
            title=self.create_label,
            subtitle=None if chosen_branch() else branch.name,
            back=self.get_url(".index_view"),
            template="admin/schedule/group_form.html",
            branch=branch,
            branches=[] if chosen_branch() else g.branches,
        )

    def save(self, form: Any, row: Any) -> Any:
        return change_group(row, **form.data, by=current_user)

    # --- the page ---------------------------------------------------------------------------------------------------

    def details_context(self, row: Any) -> dict[str, Any]:
        today = clock.today(row.branch)
        members = members_of(row, day=today) if self.may("client.view") else []
        sees_left, sees_lessons = self.may("subscription.view"), self.may("lesson.view")
        own = lessons_in_sight(current_user)
        return {
            "members": members,
            "today": today,
            "sees_left": sees_left,
            "left": lessons_left_to([member.client_id for member in members], day=today) if sees_left else {},
            "sees_lessons": sees_lessons,
            "attendance_url": grid_url("attendance", **{"f.group.is": row.id}) if self.may("attendance.view") else None,
            "planned": lessons_of_group(row, since=clock.now(), only=own) if sees_lessons else [],
        }

    @expose("/add/", methods=("GET", "POST"))
    @permission("enrol")
    def add_view(self) -> Any:
        """Who joins, found by a search."""
        group = self.get_one(request.values.get("id"))
        form = Form(request.form)
        return self.answer(
            form,
            lambda: join_group(group, client_chosen(self), by=current_user),
            title=_("Add to the group “%(group)s”", group=group.name),
            back=self.row_url(group),
            done=lambda joined: self.row_url(group),
            said=said_of_joining,
            template="admin/schedule/find_client.html",
            submit=_("Add to the group"),
            **found_clients(),
        )

    @expose("/leave/", methods=("GET", "POST"))
    @permission("enrol")
    def leave_view(self) -> Any:
        """«Х»: at once from the page of the group or the card; opened by itself, it asks from which day on."""
        group = self.get_one(request.values.get("id"))
        member = self._member(group)
        if member is None or member.client is None:
            return redirect(self.row_url(group))
        form = OnForm(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.on.data = clock.today(group.branch)
        back = self._card_url(member.client) if request.args.get("from") == "card" else self.row_url(group)
        return self.answer(
            form,
            lambda: leave_group(member, on=form.on.data, by=current_user),
            title=_("Take %(client)s out of the group “%(group)s”?", client=member.client.shown_name, group=group.name),
            back=back,
            done=lambda left: back,
            said=said_of_leaving,
            submit=_("Take out of the group"),
        )

    @staticmethod
    def _member(group: ClientGroup) -> GroupMember | None:
        number = request.values.get("member", "")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        query = sa.select(GroupMember).where(GroupMember.group_id == group.id, GroupMember.id == int(number))
        return db.session.scalar(query)

    @expose("/join/", methods=("GET", "POST"))
    @permission("enrol")
    def join_view(self) -> Any:
        """From a card: the group is chosen from a list and saved."""
        if not request.args.get("client"):
            return redirect(self.get_url(".index_view"))
        client = self.view_of(Client).get_one(request.args["client"])  # type: ignore[union-attr]
        form = join_form(client)(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: join_group(form.group.data, client, on=form.on.data, by=current_user),
            title=_("To a group"),
            subtitle=client.shown_name,
            back=self._card_url(client),
            done=lambda joined: self._card_url(client),
            said=said_of_joining,
        )

    @staticmethod
    def _card_url(client: Client) -> str:
        return url_for("client.card_view", id=client.id, tab="groups")


def join_form(client: Client) -> type[Form]:
    """The form that puts a client into a group: those of his branch he is not in, with their places."""
    today = clock.today(client.branch)
    places = groups_to_join(client, day=today)
    titles = {group.id: _with_places(group, taken) for group, taken in places}

    class JoinForm(Form):
        group = ReferenceField(
            ClientGroup,
            _l("Group"),
            query=lambda: [group for group, _taken in places],
            title=lambda row: titles[row.id],
        )
        on = DateField(_l("From the day"), [Optional()], description=_l("From today when it is left empty."))

    return JoinForm


def _with_places(group: ClientGroup, taken: int) -> str:
    if group.capacity is None:
        return group.name
    if taken >= group.capacity:
        return _("%(group)s (full)", group=group.name)
    return f"{group.name} ({taken}/{group.capacity})"


def client_chosen(view: KontoraView) -> Client:
    """The client whose button was pressed on that page. Raises DomainError when none was."""
    number = request.form.get("client", "")
    if not number:
        raise DomainError("client_required", _("Choose a client."))
    client: Client = view.view_of(Client).get_one(number)  # type: ignore[union-attr]
    return client
