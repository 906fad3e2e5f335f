"""What lessons are made of: subjects, lesson types, rooms, days off."""

from __future__ import annotations

from datetime import date
from typing import Any

from flask import g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, IntegerField, StringField
from wtforms.validators import Length, NumberRange, Optional

from crm.access.models import Branch
from crm.admin.base import KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, DateField, EnumField, Form, MoneyField, ReferenceField
from crm.admin.kinds import LimitKind
from crm.admin.selection import Selection
from crm.catalogue.models import Holiday, LessonFormat
from crm.catalogue.operations import (
    MAX_MINUTES,
    change_holiday,
    change_lesson_type,
    change_room,
    change_subject,
    create_holiday,
    create_lesson_type,
    create_room,
    create_subject,
    delete_holiday,
)
from crm.i18n import day
from crm.schedule.queries import lessons_in_sight, planned_between
from crm.security import chosen_branch


def _branches() -> list[Branch]:
    """Where this person may put a row here: the chosen branch, in the network all of his."""
    return [branch for branch in g.branches if g.scope.covers(branch.id)]


class DictionaryView(KontoraView):
    """Rows that are offered until they are archived; the archive is asked for."""

    column_searchable_list = ("name",)
    column_default_sort = "position,name"
    creates = edits = True

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("In the archive"), (("f.is_archived.is", "1"),))]

    def base_condition(self, selection: Selection) -> Any:
        return None if selection.filters_by("is_archived") else self.model.is_archived.is_(False)


class DictionaryForm(Form):
    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    position = IntegerField(_l("Order"), [Optional(), NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"), description=_l("Stays where it is used and is offered no more."))


class SubjectView(DictionaryView):
    entity = "subject"
    icon = "book"
    column_list = ("name", "position", "is_archived")
    form = DictionaryForm
    create_label = _l("Add a subject")
    empty_hint = _l("Add what is taught here: English, swimming, drawing.")

    def save_new(self, form: Any) -> Any:
        return create_subject(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_subject(row, **form.data, by=current_user)


class LessonTypeForm(Form):
    PAIRS = {"single_price": "duration_minutes"}

    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    format = EnumField(LessonFormat, _l("Format"))
    single_price = MoneyField(
        _l("Price of a single visit"),
        [REQUIRED, NumberRange(min=0)],
        description=_l("Of a visit without a subscription; a return of a subscription is reckoned by it."),
    )
    duration_minutes = IntegerField(_l("Duration, minutes"), [REQUIRED, NumberRange(1, MAX_MINUTES)], default=60)
    position = IntegerField(_l("Order"), [Optional(), NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"), description=_l("Stays where it is used and is offered no more."))


class LessonTypeView(DictionaryView):
    entity = "lessontype"
    icon = "collection"
    column_list = ("name", "format", "single_price", "duration_minutes", "position", "is_archived")
    column_filters = ("format", "single_price")
    form = LessonTypeForm
    create_label = _l("Add a lesson type")
    empty_hint = _l("Add the kinds of lessons you give, an individual and a group one at least.")

    def save_new(self, form: Any) -> Any:
        return create_lesson_type(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_lesson_type(row, **form.data, by=current_user)


class RoomForm(Form):
    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    capacity = IntegerField(
        _l("Holds, people"),
        [Optional(), NumberRange(1, 10_000)],
        description=_l("Leave empty when it does not matter."),
    )
    position = IntegerField(_l("Order"), [Optional(), NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"), description=_l("Stays where it is used and is offered no more."))


class NewRoomForm(RoomForm):
    """A room stays in its branch."""

    branch = ReferenceField(Branch, _l("Branch"), query=_branches)


class RoomView(DictionaryView):
    entity = "room"
    icon = "door-open"
    column_list = ("name", "capacity", "position", "is_archived", "branch")
    column_labels = {"capacity": _l("Holds, people")}
    column_kinds = {"capacity": LimitKind()}
    column_filters = ("branch", "capacity")
    create_label = _l("Add a room")
    empty_hint = _l("Add the rooms lessons are held in, branch by branch.")

    def declared_form(self) -> type[Form]:
        return NewRoomForm if request.endpoint == "room.create_view" else RoomForm

    def prefill(self, form: Any) -> None:
        form.branch.data = next((branch for branch in g.branches if branch.id == g.scope.branch_id), None)

    def save_new(self, form: Any) -> Any:
        return create_room(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_room(row, **form.data, by=current_user)


class HolidayForm(Form):
    day = DateField(_l("Day"), [REQUIRED])
    name = StringField(_l("Occasion"), [Length(max=200)])


class NewHolidayForm(Form):
    branch = ReferenceField(Branch, _l("Branch"), query=_branches)
    day = DateField(_l("Day"), [REQUIRED])
    until = DateField(_l("Last day"), [Optional()], description=_l("To close several days in a row."))
    name = StringField(_l("Occasion"), [Length(max=200)])

    PAIRS = {"day": "until"}


def _said_of_closing(closed: Holiday, last: date | None) -> str:
    """Lessons planned from this day to `last` stay where they are: who closes it is told of them."""
    count, first = 0, None
    if current_user.may("lesson.view"):
        own = lessons_in_sight(current_user)
        count, first = planned_between(closed.branch, closed.day, last or closed.day, only=own)
    if first is None:
        return _("Saved.")
    branch = None if chosen_branch() else closed.branch_id
    calendar = url_for("calendar.index_view", span="day", day=first.isoformat(), branch=branch)
    link = Markup('<a class="alert-link" href="{}">{}</a>').format(calendar, _("To the calendar"))
    if last is not None and last != closed.day:
        said = _("Lessons planned on these days: %(count)s.", count=count)
    else:
        said = _("Lessons planned on this day: %(count)s.", count=count)
    return Markup("{} {} {}").format(_("Saved."), said, link)


class HolidayView(KontoraView):
    entity = "holiday"
    icon = "calendar-x"
    column_list = ("day", "name", "branch")
    column_labels = {"name": _l("Occasion")}
    column_filters = ("day", "branch")
    column_searchable_list = ("name",)
    column_default_sort = "-day"
    creates = edits = True
    create_label = _l("Add a day off")
    details_template = "admin/holiday.html"
    empty_hint = _l("Days on which a branch is closed, whatever its working hours say.")

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("This year"), (("f.day.period", "this_year"),))]

    def declared_form(self) -> type[Form]:
        return NewHolidayForm if request.endpoint == "holiday.create_view" else HolidayForm

    def prefill(self, form: Any) -> None:
        form.branch.data = next((branch for branch in g.branches if branch.id == g.scope.branch_id), None)

    def answer(self, form: Any, change: Any, **kwargs: Any) -> Any:
        last = form.until.data if "until" in form else None
        return super().answer(form, change, **{"said": lambda closed: _said_of_closing(closed, last), **kwargs})

    def save_new(self, form: Any) -> Any:
        return create_holiday(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_holiday(row, **form.data, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        return {"may_delete": self.may("delete")}

    @expose("/remove/", methods=("GET", "POST"))
    @permission("delete")
    def remove_view(self) -> Any:
        holiday = self.get_one(request.values.get("id"))
        index = self.get_url(".index_view")
        return self.answer(
            Form(request.form),
            lambda: delete_holiday(holiday, by=current_user),
            title=_("Delete “%(name)s”?", name=f"{day(holiday.day)} {holiday.name}".strip()),
            warning=_("The branch will be open that day by its working hours."),
            back=self.row_url(holiday),
            done=lambda _nothing: index,
            said=_l("Deleted."),
            submit=_("Delete"),
        )
