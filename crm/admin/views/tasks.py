"""«Мои дела»: planned calls, corrections of the schedule, what else is to be done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import TextAreaField
from wtforms.validators import Length

from crm import clock
from crm.access.models import Branch, User
from crm.admin.base import GridColumn, KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, DateField, Form, ReferenceField
from crm.admin.selection import Selection
from crm.clients.models import Client
from crm.clients.queries import client_matches
from crm.security import chosen_branch
from crm.tasks.models import TASK_MOVES, Task, TaskKind, TaskStatus
from crm.tasks.operations import cancel_task, change_task, create_task, finish_task, reopen_task
from crm.tasks.queries import staff_of, tasks_seen_by


def _who_does_it() -> list[User]:
    return staff_of(g.get("task_branches") or [])


def assignee_field() -> ReferenceField:
    return ReferenceField(
        User, _l("Who does it"), query=_who_does_it, is_optional=True, blank=_l("Whoever comes to it first")
    )


class TaskForm(Form):
    text = TextAreaField(_l("What is to be done"), [Length(max=5000)], render_kw={"rows": 3, "autofocus": True})
    due_on = DateField(_l("Due"), [REQUIRED])
    assignee = assignee_field()


class NewTaskForm(TaskForm):
    branch = ReferenceField(Branch, _l("Branch"), query=lambda: g.get("task_branches") or [])


class CallForm(Form):
    due_on = DateField(_l("Date of the call"), [REQUIRED], render_kw={"autofocus": True})
    text = TextAreaField(_l("What about"), [Length(max=5000)], render_kw={"rows": 3})
    assignee = assignee_field()


class FinishForm(Form):
    result = TextAreaField(
        _l("Result"),
        [Length(max=5000)],
        render_kw={"rows": 3, "autofocus": True},
        description=_l("What came of it. May be left empty."),
    )


_MOVES = {TaskStatus.CANCELED: cancel_task, TaskStatus.OPEN: reopen_task}


class TaskView(KontoraView):
    entity = "task"
    icon = "check2-square"
    column_list = ("due_on", "kind", "text", "client", "assignee", "status", "branch")
    column_details_list = (
        *("kind", "text", "due_on", "client", "assignee", "status", "result", "done_at", "done_by"),
        *("branch", "author_name", "created_at"),
    )
    column_labels = {
        "text": _l("What is to be done"),
        "due_on": _l("Due"),
        "assignee": _l("Who does it"),
        "result": _l("Result"),
        "done_at": _l("Finished"),
        "done_by": _l("Who has done it"),
    }
    column_filters = ("status", "due_on", "kind", "client", "assignee", "branch")
    column_searchable_list = ("text", "result")
    column_default_sort = "due_on"
    details_template = "admin/task.html"
    form = TaskForm
    creates = edits = True
    create_label = _l("Add a task")
    empty_hint = _l("Everything is done. Add a task, or set a call date in a client's card.")

    def within_sight(self, query: Any) -> Any:
        return query.where(tasks_seen_by(current_user))

    def base_condition(self, selection: Selection) -> Any:
        """What is over is seen only when asked for by the status filter."""
        return None if selection.filters_by("status") else Task.status == TaskStatus.OPEN

    def search_condition(self, text: str) -> Any:
        return sa.or_(super().search_condition(text), client_matches(Task.client_id, text, by=current_user))

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Today"), (("f.due_on.period", "today"),)),
            QuickFilter(_l("Calls"), (("f.kind.is", "call"),)),
            QuickFilter(_l("Done"), (("f.status.is", "done"),)),
        ]

    def may_edit_row(self, row: Any) -> bool:
        return super().may_edit_row(row) and row.status is TaskStatus.OPEN

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        return self._warned(row, column, super().cell(row, column))

    def plain_cell(self, row: Any, column: GridColumn) -> str | Markup:
        return self._warned(row, column, super().plain_cell(row, column))

    @staticmethod
    def _warned(row: Any, column: GridColumn, shown: str | Markup) -> str | Markup:
        if column.name == "due_on" and row.is_overdue:
            return Markup('<span class="debt" title="{}">{}</span>').format(_("Overdue"), shown)
        return shown

    # --- adding and changing ----------------------------------------------------------------------------------------

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        """From a card, with ?client=, a call to that client; else whatever is to be done in a branch."""
        if not self.may_create:
            abort(403)
        client = self._client()
        branch = client.branch if client is not None else chosen_branch()
        g.task_branches = [branch] if branch is not None else list(g.branches)
        declared = CallForm if client is not None else TaskForm if branch is not None else NewTaskForm
        form = declared(request.form if request.method == "POST" else None)
        if request.method == "GET":
            day = clock.today(branch or next(iter(g.branches), None) or self.here())
            form.due_on.data = day + timedelta(days=1) if client is not None else day
        return self.answer(
            form,
            lambda: self._create(form, branch, client),
            title=self.create_label if client is None else _("Set a call date"),
            subtitle=client.shown_name if client is not None else None,
            back=self.view_of(Client).row_url(client) if client is not None else self.get_url(".index_view"),  # type: ignore[union-attr]
            done=lambda task: self._whence(task, "card" if client is not None else "grid"),
            said=_l("The task is added.") if client is None else _l("The call is planned."),
        )

    def _client(self) -> Client | None:
        if not request.args.get("client"):
            return None
        return self.view_of(Client).get_one(request.args["client"])  # type: ignore[union-attr]

    @staticmethod
    def _create(form: Any, branch: Branch | None, client: Client | None) -> Task:
        facts = dict(form.data)
        place = facts.pop("branch", branch)
        kind = TaskKind.CALL if client is not None else TaskKind.OTHER
        return create_task(place, kind=kind, client=client, **facts, by=current_user)

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        if row is not None:
            g.task_branches = [row.branch]
        return super().form_class(row, companies)

    def declared_form(self) -> type[Form]:
        return TaskForm

    def save(self, form: Any, row: Any) -> Any:
        return change_task(row, **form.data, by=current_user)

    # --- what becomes of it -----------------------------------------------------------------------------------------

    def details_context(self, row: Any) -> dict[str, Any]:
        return {
            "moves": [to for to in TaskStatus if to in TASK_MOVES[row.status]] if self.may("edit") else [],
            "lesson_url": lesson_url(self.admin, row),
        }

    @expose("/finish/", methods=("GET", "POST"))
    @permission("edit")
    def finish_view(self) -> Any:
        """«Выполнено», with what came of it; the buttons of the home page and the card post here without a form."""
        task = self.get_one(request.values.get("id"))
        form = FinishForm(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: finish_task(task, **form.data, by=current_user),
            title=_("Done: %(task)s", task=task),
            subtitle=task.client.shown_name if task.client is not None else None,
            back=self._whence(task, request.args.get("from", "")),
            done=lambda done: self._whence(done, request.args.get("from", "")),
            said=_l("Done."),
            submit=_("Done"),
        )

    @expose("/mark/", methods=("GET", "POST"))
    @permission("edit")
    def mark_view(self) -> Any:
        """Not to be done after all, or to be done again."""
        task = self.get_one(request.values.get("id"))
        to = next((status for status in _MOVES if status.value == request.values.get("to")), None)
        if to is None:
            abort(404)
        return self.answer(
            Form(request.form),
            lambda: _MOVES[to](task, by=current_user),
            title=_("Cancel the task “%(task)s”?", task=task)
            if to is TaskStatus.CANCELED
            else _("Take up the task “%(task)s” again?", task=task),
            back=self.row_url(task),
            done=lambda moved: self.row_url(moved),
            submit=_("Cancel the task") if to is TaskStatus.CANCELED else _("Take it up again"),
        )

    def _whence(self, task: Task, origin: str) -> str:
        """Where it was begun and leads back: the home page, the client's card, the task itself."""
        if origin == "home":
            return url_for("admin.index")
        if origin == "card" and task.client is not None:
            return self.view_of(Client).row_url(task.client)  # type: ignore[union-attr]
        return self.get_url(".index_view") if origin == "grid" else self.row_url(task)


def lesson_url(admin: Any, task: Task) -> str | None:
    """The lesson to be put right, for who may see lessons."""
    view = next((view for view in admin._views if getattr(view, "entity", None) == "lesson"), None)
    if task.lesson_id is None or view is None or not view.is_accessible():
        return None
    return url_for(f"{view.endpoint}.details_view", id=task.lesson_id)
