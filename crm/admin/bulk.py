"""Actions over many rows: choose → fill in its form, if it has one → confirm → a job with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import abort, flash, g, redirect, request, url_for
from flask_admin import expose
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from wtforms import BooleanField, SelectField
from wtforms.fields.choices import SelectChoice
from wtforms.fields.core import UnboundField

from crm.admin.fields import Form
from crm.admin.forms import FormsView
from crm.admin.kinds import NOTHING
from crm.admin.selection import Selection
from crm.audit.bulk import Change, Preview, change_many, preview_of
from crm.background.models import BackgroundJob
from crm.background.operations import AT_ONCE, claim_job, execute_job, start_job
from crm.db import LabelEnum, db, transaction
from crm.errors import DomainError
from crm.i18n import day, money
from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of
from crm.protocol import ProtocolLine

# What the pages of an action send along beside the choice itself.
_OWN_FIELDS = frozenset({"csrf_token", "form_key", "confirmed", "count", "back"})
PREFIX = "set."  # of the action's own form: a field may be called as the grid's arguments are


@dataclass(frozen=True)
class BulkAction:
    """Something done to many rows. run(ids, **values of its form) returns one ProtocolLine per id.

    permission: the action part (`bill.<permission>`), or another entity's whole; warning: what the person must know
    before confirming.
    form: class of its own form, asked for when it is needed. change(**values): what it comes to, for the preview and
    for the undo of an action that has one (is_undoable).
    """

    name: str
    label: Any
    permission: str
    warning: Any
    run: Callable[..., Sequence[ProtocolLine]] = lambda ids, **values: []
    is_dangerous: bool = True
    form: Callable[[], type[Form]] | None = None
    change: Callable[..., Change] | None = None
    is_undoable: bool = False
    leads_to: Callable[[Selection], str] | None = None
    facts: Callable[..., list[tuple[Any, Any]]] | None = None
    knows_start: bool = False

    def bind(self, sent: MultiDict[str, str] | None) -> Form | None:
        """Its form with what was sent, or as it is first shown; None when it has none."""
        return None if self.form is None else self.form()(sent, prefix=PREFIX)


class FieldChoice(Form):
    """The base of bulk edit's form: the fields ticked in `set.change` are changed, the others are left alone."""

    chosen: tuple[str, ...] = ()
    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, formdata: MultiDict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(formdata, **kwargs)
        ticked = formdata.getlist(f"{PREFIX}change") if formdata else []
        self.chosen = tuple(name for name in self.names if name in ticked)
        self.is_foreign = bool(set(ticked) - set(self.names))

    def validate(self, *args: Any, **kwargs: Any) -> bool:
        super().validate(*args, **kwargs)
        for field in self:
            if field.short_name not in self.chosen:
                field.errors = ()
        if self.is_foreign:
            self.form_errors.append(_("One of these fields cannot be changed."))
        elif not self.chosen:
            self.form_errors.append(_("Tick the fields to change."))
        return not self.errors

    @property
    def data(self) -> dict[str, Any]:
        return {name: self._fields[name].data for name in self.chosen}


def job_url(job: BackgroundJob) -> str:
    """The page of a job: its bar, its protocol, its file."""
    return url_for("job.details_view", id=job.id)


def run_or_queue(job: BackgroundJob) -> None:
    """After the transaction that started the job: few rows are done here and now, many by the worker."""
    if _is_for_here(job.total, job.branch_id) and claim_job(job.id):
        execute_job(job.id)


def _is_for_here(total: int | None, branch_id: int | None) -> bool:
    """Whether a job of so many rows, started in that branch, can be done within this request."""
    return total is not None and total <= AT_ONCE and branch_id == g.scope.branch_id


class BulkView(FormsView):
    """See the module."""

    bulk_edit_columns: ClassVar[tuple[str, ...]] = ()

    # --- hooks for entities -----------------------------------------------------------------------------------------

    def bulk_actions(self) -> list[BulkAction]:
        """Actions over ticked rows or all that match."""
        return []

    def bulk_change(self, **values: Any) -> Change:
        """What new values for bulk_edit_columns and the fields staff have added come to, by the rules of the entity."""
        raise NotImplementedError

    # --- what there is to do ----------------------------------------------------------------------------------------

    def possible_actions(self) -> list[BulkAction]:
        """What this person may do to many rows here: change fields, and the entity's own actions."""
        actions = self.bulk_actions()
        if self.bulk_edit_names():
            actions = [self._edit_action(), *actions]
        return [action for action in actions if self.may(action.permission)]

    def bulk_edit_names(self) -> tuple[str, ...]:
        """The fields this person may change in many rows."""
        own = (column.name for column in self.custom_columns())
        return tuple(name for name in (*self.bulk_edit_columns, *own) if not self.is_frozen(name))

    def _edit_action(self) -> BulkAction:
        return BulkAction(
            "edit",
            _l("Change fields"),
            "edit",
            _l("The protocol keeps the old values: the change can be undone from it."),
            lambda ids, **values: change_many(self.bulk_change(**values), ids, by=current_user),
            is_dangerous=False,
            form=self._edit_form,
            change=self.bulk_change,
            is_undoable=True,
        )

    def _edit_form(self) -> type[Form]:
        """A field per column, as the entity's own form has it, else by its kind; yes and no are chosen, not ticked."""
        own, fields = self.form_class() if self.form or self.edits else None, {}
        for name in self.bulk_edit_names():
            field = getattr(own, name, None)
            if not isinstance(field, UnboundField):
                column = self.column(name)
                field = column.kind.field(column.sql.property.columns[0], column.label)
            if field.field_class is BooleanField:
                choices = [SelectChoice("1", _("yes")), SelectChoice("0", _("no"))]
                field = SelectField(self.column(name).label, choices=choices, coerce=_is_yes)
            fields[name] = field
        return type(f"{self.model.__name__}BulkForm", (FieldChoice,), {**fields, "names": self.bulk_edit_names()})

    # --- choose, confirm, start -------------------------------------------------------------------------------------

    @expose("/action/", methods=("POST",))
    def action_view(self) -> Any:
        """Choose (ids, or all=1 with the grid's arguments) → its form → confirm → a job."""
        name = request.form.get("action")
        action = next((item for item in self.possible_actions() if item.name == name), None)
        if action is None:
            known = {item.name for item in self.bulk_actions()} | (
                {"edit"} if self.bulk_edit_columns or self.is_customised else set()
            )
            abort(403 if name in known else 404)
        selection = Selection.from_args(self, request.form, self.here())
        if request.form.get("all") != "1":
            selection = selection.only(request.form.getlist("id"))
        if selection.doubt is not None:
            flash(selection.doubt, "danger")
            return redirect(self.get_url(".index_view") + selection.url())
        counted = selection.aggregate(sa.func.count(), sa.func.max(self.model.id))
        count, until = db.session.execute(counted).one()
        if not count:
            flash(_("Tick the rows first."), "warning")
            return redirect(self.get_url(".index_view") + selection.url())
        if action.leads_to is not None:
            return redirect(action.leads_to(selection))
        form = action.bind(request.form if request.form.get("filled") == "1" else None)
        is_back = request.form.get("back") == "1"
        if form is not None and (is_back or request.form.get("filled") != "1" or not form.validate()):
            page = self._ask("admin/bulk_form.html", action, selection, count, form=form)
            return page, 422 if form.errors else 200
        values = form.data if form is not None else {}
        try:
            preview = self._preview(action, selection, values)
        except DomainError as error:
            if form is None:
                raise
            self.show_error(form, error)
            return self._ask("admin/bulk_form.html", action, selection, count, form=form), 422
        # What was confirmed is a number of rows; when it is another by now, the person is asked again.
        if request.form.get("confirmed") != "1" or request.form.get("count", str(count)) != str(count):
            shown = [] if form is None else self._filled_in(form, values)
            if action.facts is not None:
                shown += action.facts(selection, count, **values)
            return self._ask("admin/confirm.html", action, selection, count, preview=preview, shown=shown)
        key, sent = request.form.get("form_key"), fingerprint_of(request.full_path, request.form.items(multi=True))
        try:
            with transaction():
                once = SubmittedForm.claim(key, sent)
                job = self._start(action, selection, count=count, until=until)
                once.url = job_url(job)
        except AlreadySubmitted as first:
            return redirect(first.url)
        run_or_queue(job)
        return redirect(job_url(job))

    def _ask(self, template: str, action: BulkAction, selection: Selection, count: int, **context: Any) -> str:
        """A page that sends what was chosen along."""
        form = context.get("form")
        own = {f"{PREFIX}change", "filled", *(field.name for field in form)} if form is not None else set()
        kept = [(k, v) for k, v in request.form.items(multi=True) if k not in _OWN_FIELDS and k not in own]
        page: str = self.render(template, action=action, selection=selection, count=count, kept=kept, **context)
        return page

    @staticmethod
    def _preview(action: BulkAction, selection: Selection, values: dict[str, Any]) -> Preview | None:
        if action.change is None:
            return None
        change = action.change(**values)
        verdict = change.verdict().label("verdict")
        counts = db.session.execute(selection.aggregate(verdict, sa.func.count()).group_by("verdict"))
        return preview_of(change, [(row[0], row[1]) for row in counts])

    def _filled_in(self, form: Form, values: dict[str, Any]) -> list[tuple[Any, Any]]:
        """(label, value) of what was filled in: of the grid's columns as it shows such values."""
        is_of_columns = isinstance(form, FieldChoice)
        return [
            (
                form[name].label.text,
                self.column(name).kind.show(value, self.here()) if is_of_columns else _shown(value),
            )
            for name, value in values.items()
            if name in form
        ]

    def _start(self, action: BulkAction, selection: Selection, *, count: int, until: int) -> BackgroundJob:
        values = [[key, value] for key, value in request.form.items(multi=True) if key.startswith(PREFIX)]
        return self.start_rows_job(
            "bulk",
            f"{self.name}: {action.label}",
            {
                "action": action.name,
                "selection": selection.to_params(),
                "until": until,
                "values": values,
                "is_undoable": action.is_undoable,
                "back": selection.url(),
            },
            total=count,
            branch_id=g.scope.branch_id,
        )

    def start_rows_job(
        self, kind: str, title: str, params: dict[str, Any], *, total: int, branch_id: int | None
    ) -> BackgroundJob:
        """A job over rows of this grid, of this person, in his language. The caller commits, then run_or_queue(job)."""
        return start_job(
            kind,
            by=current_user,
            title=title,
            entity=self.entity,
            params=params,
            branch_id=branch_id,
            locale=str(get_locale()),
            total=total,
            at_once=_is_for_here(total, branch_id),
        )


def action_of(view: BulkView, params: dict[str, Any]) -> tuple[BulkAction, dict[str, Any]]:
    """The action a job was started for, and the values of its form, asked and checked anew: rights and rules may have
    changed since. Raises DomainError.
    """
    action = next((item for item in view.possible_actions() if item.name == params["action"]), None)
    if action is None:
        raise DomainError("forbidden", _("Your role does not allow this action."))
    form = action.bind(MultiDict(_pairs(params["values"])))
    if form is not None and not form.validate():
        raise DomainError("form_invalid", " ".join(str(text) for texts in form.errors.values() for text in texts))
    return action, form.data if form is not None else {}


def _pairs(values: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in values]


def _is_yes(value: Any) -> bool:
    if value not in (True, False, "1", "0"):
        raise ValueError(value)
    return value in (True, "1")


def _shown(value: Any) -> Any:
    """What was filled in, in words."""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, LabelEnum):
        return value.label
    if isinstance(value, date):
        return day(value)
    if isinstance(value, Decimal):
        return money(value)
    return NOTHING if value in (None, "") else value
