"""«Лист ожидания»: the list, and a client's place in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from flask import abort, g, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, TextAreaField
from wtforms.validators import Length

from crm.access.fields import FieldRules, field_rules
from crm.access.models import Branch, Company, Employee
from crm.admin.base import BulkAction, GridColumn, KontoraView, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.exporting import Export
from crm.admin.fields import Form, ReferenceField
from crm.admin.kinds import NOTHING
from crm.admin.selection import Selection
from crm.admin.views.mailing_selection import mailing_actions
from crm.clients.models import Client
from crm.clients.queries import client_matches
from crm.db import db
from crm.schedule.models import Waiting
from crm.schedule.waiting import (
    add_to_waiting_list,
    change_waiting,
    has_waiting_list,
    remove_from_waiting_list,
    waiting_of,
)
from crm.security import chosen_branch


def _instructors() -> list[Employee]:
    """Who teaches in the client's branch, and who was wished for already."""
    if (branch_id := g.get("waiting_branch_id")) is None:
        return []
    is_offered = (Employee.branch_id == branch_id) & Employee.is_active & Employee.teaches
    query = sa.select(Employee).where(is_offered | (Employee.id == g.wished_id)).order_by(Employee.name)
    return list(db.session.scalars(query))


class PlaceForm(Form):
    is_waiting = BooleanField(_l("Put into the waiting list"))
    instructor = ReferenceField(
        Employee,
        _l("Wanted instructor"),
        query=_instructors,
        is_optional=True,
        blank=_l("Any"),
        description=_l("For information only: the schedule does not depend on it."),
    )
    comment = TextAreaField(
        _l("Comment"),
        [Length(max=2000)],
        render_kw={"rows": 2},
        description=_l("Seen in the card and in the waiting list only; cleared when the client leaves the list."),
    )


def place_form(client: Client, formdata: Any = None) -> PlaceForm:
    """The client's place in the list as a form."""
    waiting = waiting_of(client)
    g.waiting_branch_id, g.wished_id = client.branch_id, waiting.instructor_id if waiting is not None else None
    return PlaceForm(formdata, obj=waiting, data=None if waiting is None else {"is_waiting": True})


def plan_url(client: Client) -> str | None:
    """Where lessons are put for the client, for who may."""
    may_plan = current_user.may("lesson.create") and current_user.may("lesson.enrol")
    return url_for("lesson.plan_view", client=client.id) if may_plan else None


class WaitingView(KontoraView):
    entity = "waiting"
    icon = "hourglass-split"
    column_list = ("client", "client.phone", "instructor", "comment", "added_at", "schedule", "branch")
    column_labels = {
        "instructor": _l("Wanted instructor"),
        "added_at": _l("Waits since"),
        "schedule": _l("Schedule"),
    }
    column_filters = ("instructor", "added_at", "branch")
    column_sortable_list = ("client", "instructor", "added_at", "branch")
    column_default_sort = "added_at"
    empty_hint = _l("Nobody waits. Clients are put into the waiting list in their cards.")
    hint = _l("A client leaves the list when a lesson with the wanted instructor is put for him.")
    has_search = True

    # --- where there is a list at all -------------------------------------------------------------------------------

    @property
    def is_kept(self) -> bool:
        """Whether a company in sight keeps a waiting list; one yet to come would."""
        branch = chosen_branch()
        places = [branch] if branch is not None else g.get("branches", ())
        return not places or any(has_waiting_list(place) for place in places)

    def is_accessible(self) -> bool:
        return super().is_accessible() and self.is_kept

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        answer = super()._handle_view(name, **kwargs)
        if answer is None and not self.is_kept:
            abort(404)
        return answer

    def within_sight(self, query: Any) -> Any:
        keeping = sa.select(Branch.id).join(Branch.company).where(Company.has_waiting_list)
        return query.where(Waiting.branch_id.in_(keeping))

    # --- the list ---------------------------------------------------------------------------------------------------

    def field_rules(self, row: Any = None) -> FieldRules:
        """What is hidden of clients is hidden here."""
        rules = super().field_rules(row)
        of_clients = {f"client.{name}" for name in field_rules(current_user, "client").hidden}
        return FieldRules(rules.hidden | of_clients, rules.frozen)

    def bulk_actions(self) -> list[BulkAction]:
        return mailing_actions()

    def search_condition(self, text: str) -> Any:
        return client_matches(Waiting.client_id, text, by=current_user)

    def row_url(self, row: Any) -> str:
        return url_for("client.card_view", id=row.client_id)

    @expose("/details/")
    def details_view(self) -> Any:
        return redirect(self.row_url(self.get_one(request.args.get("id"))))

    def loader_options(self) -> list[Any]:
        return [*super().loader_options(), sa.orm.defaultload(Waiting.client).joinedload(Client.payer)]

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        if column.name == "client.phone":
            return lambda row: column.kind.exporter()(_phone(row))
        return super().exporter(column)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return None if column.name == "client.phone" else super().sql_cell(column, joins)

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "client.phone":
            return column.kind.show(_phone(row), self.place_of(row))
        if column.name != "schedule":
            return super().cell(row, column)
        if row.client is None or (url := plan_url(row.client)) is None:
            return NOTHING
        whose = Markup('<span class="visually-hidden">: {}</span>').format(row.client)
        link = Markup('<a class="btn btn-sm btn-outline-primary" href="{}">{}{}</a>')
        return link.format(url, _("To the schedule"), whose)

    def export_of(self, selection: Selection, columns: Sequence[GridColumn]) -> Export:
        """Comments are read here and in the card, and leave in no file."""
        return super().export_of(selection, [c for c in columns if c.name not in {"comment", "schedule"}])

    # --- a client's place -------------------------------------------------------------------------------------------

    @expose("/client/<id>/", methods=("GET", "POST"))
    @permission("edit")
    def place_view(self, id: str) -> Any:
        """The tick «Внести в лист ожидания» of the card, with the wanted instructor and the comment."""
        client = self.view_of(Client).get_one(id)  # type: ignore[union-attr]
        form = place_form(client, request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: _place(client, form),
            title=_("Waiting list"),
            subtitle=client.shown_name,
            back=url_for("client.card_view", id=client.id),
            done=lambda _waiting: url_for("client.card_view", id=client.id),
        )


def _phone(waiting: Waiting) -> str | None:
    """Of who waits, or of who pays for him: whom to call about a free place."""
    people = (waiting.client, waiting.client and waiting.client.payer)
    return next((person.phone for person in people if person is not None and person.phone), None)


def _place(client: Client, form: PlaceForm) -> None:
    waiting, wanted = waiting_of(client), {"instructor": form.instructor.data, "comment": form.comment.data or ""}
    if not form.is_waiting.data:
        if waiting is not None:
            remove_from_waiting_list(waiting, by=current_user)
    elif waiting is None:
        add_to_waiting_list(client, **wanted, by=current_user)
    else:
        change_waiting(waiting, **wanted, by=current_user)
