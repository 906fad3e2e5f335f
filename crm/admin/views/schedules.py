"""Excel by the clock: what one has sent regularly, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import flash, g, redirect, request
from flask_admin import expose
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from wtforms import IntegerField, SelectMultipleField, StringField, TextAreaField, validators
from wtforms.fields.choices import SelectChoice
from wtforms.widgets import CheckboxInput, ListWidget

from crm.admin.base import GridColumn, KontoraView, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.fields import REQUIRED, EnumField, Form, TimeField
from crm.admin.history import FieldChange
from crm.admin.kinds import NOTHING, ListKind, Place
from crm.admin.selection import Selection
from crm.admin.views.mailings import WEEKDAYS
from crm.audit.models import AuditEntry
from crm.db import db
from crm.exchange.schedules.models import ExportDelivery, ExportSchedule
from crm.exchange.schedules.operations import (
    change_schedule,
    create_schedule,
    delete_schedule,
    outcome_of,
    send_now,
    switch_schedule,
)
from crm.mailings.models import Periodicity


class WeekdaysField(SelectMultipleField):
    """Days of the week as checkboxes. Data: numbers, 0 Monday to 6 Sunday."""

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()

    def __init__(self, label: Any = None, **kwargs: Any) -> None:
        choices = [SelectChoice(number, name) for number, name in enumerate(WEEKDAYS)]
        super().__init__(label, choices=choices, coerce=int, **kwargs)


class RecipientsField(TextAreaField):
    """E-mail addresses, one a line."""

    def process_data(self, value: Any) -> None:
        self.data = "\n".join(value) if isinstance(value, list) else value


class ScheduleForm(Form):
    SECTIONS = (
        (_l("What do we send?"), ("name",)),
        (_l("When do we send?"), ("periodicity", "weekdays", "month_day", "send_time")),
        (_l("To whom?"), ("recipients",)),
    )

    name = StringField(
        _l("Name"), [REQUIRED, validators.Length(max=200)], description=_l("Stands in the subject of the letter.")
    )
    periodicity = EnumField(Periodicity, _l("Periodicity"))
    weekdays = WeekdaysField(_l("Days of the week"), description=_l("For a weekly sending."))
    month_day = IntegerField(
        _l("Day of the month"),
        [validators.Optional(), validators.NumberRange(1, 31)],
        description=_l("For a monthly sending; in a shorter month its last day."),
    )
    send_time = TimeField(_l("Time"), [REQUIRED])
    recipients = RecipientsField(
        _l("Addresses"),
        [REQUIRED, validators.Length(max=5000)],
        description=_l("One or several, each on a line of its own. The file may hold personal data."),
        render_kw={"rows": 3, "inputmode": "email", "autocomplete": "off", "spellcheck": "false"},
    )


class ScheduleView(KontoraView):
    entity = "exportschedule"
    icon = "calendar2-week"
    column_list = ("name", "entity", "periodicity", "recipients", "is_active", "last_outcome")
    column_details_list = ("name", "entity", "periodicity", "columns", "recipients", "is_active", "stop_reason")
    column_labels = {
        "entity": _l("What"),
        "periodicity": _l("When"),
        "columns": _l("Columns"),
        "recipients": _l("Addresses"),
        "is_active": _l("On"),
        "last_outcome": _l("Last sending"),
        "stop_reason": _l("Why it stopped"),
    }
    column_kinds = {"recipients": ListKind()}
    column_searchable_list = ("name",)
    column_filters = ("is_active", "periodicity")
    column_default_sort = "name"
    form = ScheduleForm
    creates = edits = True
    create_label = _l("Send regularly")
    details_template = "admin/schedule.html"
    empty_hint = _l("Open a list, find the rows you need, and choose “Send regularly” under “Export”.")

    def within_sight(self, query: Any) -> Any:
        """One's own: a schedule shows what its owner may see."""
        return query.where(ExportSchedule.owner_id == current_user.id)

    # --- cells ------------------------------------------------------------------------------------------------------

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "entity":
            view = self._view(row.entity)
            url = self._grid_url(row)
            return Markup('<a href="{}">{}</a>').format(url, view.name) if view and url else row.entity
        if (text := self._text(row, column)) is not None:
            return text or NOTHING
        return super().cell(row, column)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        if column.name not in {"entity", "periodicity", "columns"}:
            return super().exporter(column)
        return lambda row: self._text(row, column)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return None if column.name in {"entity", "periodicity", "columns"} else super().sql_cell(column, joins)

    def _text(self, row: Any, column: GridColumn) -> str | None:
        """What a column of codes says in words; None for the other columns."""
        if column.name == "entity":
            view = self._view(row.entity)
            return str(view.name) if view else str(row.entity)
        if column.name == "periodicity":
            return when(row)
        if column.name == "columns":
            view = self._view(row.entity)
            if row.columns is None or view is None:
                return _("all")
            return ", ".join(str(view.column(name).label) for name in row.columns)
        return None

    def changes_of(self, entry: AuditEntry, row: Any = None) -> list[FieldChange]:
        """Without what is chosen in the grid and never changes: the page itself shows it."""
        return [change for change in super().changes_of(entry, row) if change.name not in {"columns", "selection"}]

    def _recall(self, column: GridColumn, value: Any, place: Place) -> Any:
        if column.name == "entity" and value:
            return str(view.name) if (view := self._view(value)) else value
        if column.name == "weekdays" and value:
            return ", ".join(str(WEEKDAYS[number]) for number in value)
        return super()._recall(column, value, place)

    def _view(self, entity: str) -> KontoraView | None:
        views = (view for view in self.admin._views if isinstance(view, KontoraView))
        return next((view for view in views if view.entity == entity), None)

    def _grid_url(self, row: Any) -> str | None:
        """The grid with the selection of a schedule, for who may see it."""
        view = self._view(row.entity)
        if view is None or not view.is_accessible():
            return None
        return f"{view.get_url('.index_view')}?{urlencode([tuple(pair) for pair in row.selection])}"

    # --- forms ------------------------------------------------------------------------------------------------------

    @property
    def may_create(self) -> bool:
        """From a grid only, which says what is sent."""
        return super().may_create and "of" in request.args

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        view = self._view(request.args.get("of", ""))
        if view is None or not view.is_accessible() or not view.may_export:
            flash(str(self.empty_hint), "info")
            return redirect(self.get_url(".index_view"))
        form = ScheduleForm(request.form if request.method == "POST" else None)
        if request.method == "GET":
            form.name.data, form.recipients.data = str(view.name), current_user.email
            form.periodicity.data, form.weekdays.data = Periodicity.WEEKLY, [0]
        selection = Selection.from_args(view, MultiDict(request.args), view.here())
        if selection.doubt is not None:
            flash(selection.doubt, "danger")
            return redirect(view.get_url(".index_view") + selection.url())
        columns = None if request.args.get("columns") == "all" else [column.name for column in view.columns]
        return self.answer(
            form,
            lambda: create_schedule(
                **form.data,
                entity=view.entity,
                selection=selection.to_params(),
                columns=columns,
                branch_id=g.scope.branch_id,
                locale=str(get_locale()),
                time_zone=view.here().time_zone,
                by=current_user._get_current_object(),
            ),
            title=_("Send regularly: %(what)s", what=view.name),
            subtitle=_("All columns") if columns is None else _("Shown columns"),
            back=view.get_url(".index_view") + selection.url(),
            said=_l("It will be sent regularly."),
        )

    def save(self, form: Any, row: Any) -> Any:
        return change_schedule(row, **form.data, by=current_user)

    # --- details ----------------------------------------------------------------------------------------------------

    def details_context(self, row: Any) -> dict[str, Any]:
        query = sa.select(ExportDelivery).where(ExportDelivery.schedule_id == row.id)
        recent = query.options(sa.orm.selectinload(ExportDelivery.letters)).order_by(ExportDelivery.id.desc())
        return {
            "deliveries": list(db.session.scalars(recent.limit(30))),
            "outcome_of": outcome_of,
            "may_run": self.may("run"),
            "may_delete": self.may("delete"),
        }

    @expose("/send/", methods=("POST",))
    @permission("run")
    def send_view(self) -> Any:
        schedule = self.get_one(request.form.get("id"))
        return self._do(schedule, lambda: send_now(schedule, by=current_user), said=_l("The file is being prepared."))

    @expose("/switch/", methods=("POST",))
    @permission("edit")
    def switch_view(self) -> Any:
        """Pause a schedule that is on, let run one that is off."""
        schedule = self.get_one(request.form.get("id"))
        turned = not schedule.is_active
        said = _l("It will be sent regularly.") if turned else _l("Sending is paused.")
        return self._do(schedule, lambda: switch_schedule(schedule, on=turned, by=current_user), said=said)

    @expose("/remove/", methods=("GET", "POST"))
    @permission("delete")
    def remove_view(self) -> Any:
        schedule = self.get_one(request.values.get("id"))
        index = self.get_url(".index_view")
        return self.answer(
            Form(request.form),
            lambda: delete_schedule(schedule, by=current_user),
            title=_("Delete “%(name)s”?", name=schedule.name),
            warning=_("It will be sent no more, and the list of what was sent goes with it."),
            back=self.row_url(schedule),
            done=lambda _nothing: index,
            said=_l("Deleted."),
            submit=_("Delete"),
        )

    def _do(self, schedule: ExportSchedule, change: Callable[[], Any], *, said: Any) -> Any:
        back = self.row_url(schedule)
        return self.answer(
            Form(request.form), change, title=schedule.name, back=back, done=lambda _result: back, said=said
        )


def when(schedule: ExportSchedule) -> str:
    """`Every week: Monday, Friday · 09:00`, in the person's language."""
    parts = str(schedule.periodicity.label)
    if schedule.periodicity is Periodicity.WEEKLY:
        parts += ": " + ", ".join(str(WEEKDAYS[number]).lower() for number in schedule.weekdays)
    elif schedule.periodicity is Periodicity.MONTHLY:
        parts += ": " + _("day %(day)s", day=schedule.month_day)
    return f"{parts} · {schedule.send_time:%H:%M}"
