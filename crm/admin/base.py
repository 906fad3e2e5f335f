"""The base view of every entity: grid, search, filters, totals, export, bulk actions, details, forms, history.

An entity's view is a declarative Flask-Admin class over it (views/<domain>.py): columns, filters, a form, actions.
Deny by default: an exposed method runs only when `permission_for` maps it to a permission its user holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, ClassVar
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import Response, abort, flash, g, redirect, request, url_for
from flask_admin import expose
from flask_admin.contrib.sqla import ModelView
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import MANYTOONE, InstrumentedAttribute, RelationshipProperty, joinedload, selectinload
from sqlalchemy.orm.exc import StaleDataError

from crm import clock
from crm.admin.fields import Form, ReferencesField
from crm.admin.kinds import Kind, ListKind, Place, ReferenceKind, kind_of
from crm.admin.labels import LABELS
from crm.admin.selection import COUNT_LIMIT, PAGE_SIZES, Selection
from crm.audit.models import AuditEntry
from crm.audit.operations import record_export
from crm.db import db, give_way, reading, transaction
from crm.errors import DomainError, Forbidden, report_exception
from crm.exchange import excel
from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of
from crm.protocol import ProtocolLine
from crm.security import chosen_branch

DEFAULT_ZONE = "Europe/Moscow"
# Rows per transaction of a bulk action.
BATCH = 200
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True)
class GridColumn:
    """A column of a grid: where its value is (`client.phone` follows relations), and what kind it is of."""

    name: str
    label: Any
    kind: Kind
    sql: Any  # the mapped column to filter, sort and total by; None for a computed value

    def value(self, row: Any) -> Any:
        for part in self.name.split("."):
            if row is None:
                return None
            row = getattr(row, part)
        return row


@dataclass(frozen=True)
class BulkAction:
    """Something done to many rows: choose, confirm, protocol. run(ids) returns one ProtocolLine per row.

    permission: the action part (`bill.<permission>`); warning: what the person must know before confirming.
    """

    name: str
    label: Any
    permission: str
    warning: Any
    run: Callable[[list[int]], list[ProtocolLine]]
    is_dangerous: bool = True


def permission(action: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark an exposed method: it needs `<entity>.<action>`; `other.action` names another entity's permission."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method._permission = action  # type: ignore[attr-defined]
        return method

    return mark


class KontoraView(ModelView):
    """What is common to all entities; see the module."""

    # --- declared by entities; the names are Flask-Admin's where it has one -----------------------------------------
    entity: ClassVar[str]
    column_list: ClassVar[Any] = None
    column_details_list: ClassVar[Any] = None
    column_labels: Any = None
    column_filters: ClassVar[Any] = ()
    column_searchable_list: ClassVar[Any] = ()
    column_default_sort: ClassVar[Any] = "id"
    column_kinds: ClassVar[dict[str, Kind]] = {}
    column_totals: ClassVar[tuple[str, ...]] = ()
    totals_label: ClassVar[Any] = _l("Total")
    form: ClassVar[type[Form] | None] = None
    form_columns: ClassVar[tuple[str, ...]] = ()
    creates: ClassVar[bool] = False
    edits: ClassVar[bool] = False
    create_label: ClassVar[Any] = _l("Add")
    empty_hint: ClassVar[Any] = _l("Nothing here yet.")
    hint: ClassVar[Any] = None
    icon: ClassVar[str] = "table"

    list_template = "admin/list.html"
    create_template = "admin/form.html"
    edit_template = "admin/form.html"
    details_template = "admin/details.html"
    column_auto_select_related = False

    def __init__(self, model: type[Any], name: Any, category: Any = None) -> None:
        super().__init__(model, db, name=name, category=category, endpoint=self.entity)

    # --- permissions ------------------------------------------------------------------------------------------------

    _STANDARD: ClassVar[dict[str, str]] = {
        "index_view": "view",
        "details_view": "view",
        "export": "export",
        "create_view": "create",
        "edit_view": "edit",
        "action_view": "view",  # and the action's own permission, checked by the action
    }

    def permission_for(self, method: str) -> str | None:
        """The permission an exposed method needs; None refuses everybody."""
        function = getattr(type(self), method, None)
        action = getattr(function, "_permission", None) or self._STANDARD.get(method)
        if action is None:
            return None
        return action if "." in action else f"{self.entity}.{action}"

    def may(self, action: str) -> bool:
        return bool(current_user.may(f"{self.entity}.{action}"))

    def is_accessible(self) -> bool:
        return bool(current_user.is_authenticated and self.may("view"))

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if not current_user.is_authenticated:
            return redirect(url_for("access.login", next=request.full_path if request.method == "GET" else None))
        needed = self.permission_for(name)
        if needed is None or not current_user.may(needed):
            abort(403)
        return None

    def inaccessible_callback(self, name: str, **kwargs: Any) -> Any:
        abort(403)

    @property
    def may_create(self) -> bool:
        """Whether the "add" button is shown and its address answers, here and now."""
        return self.creates and self.may("create")

    @property
    def may_edit(self) -> bool:
        return self.edits and self.may("edit")

    def may_edit_row(self, row: Any) -> bool:
        """Whether this one row may be changed by this person, when rows of a table differ in that."""
        return self.may_edit

    # --- scaffolding ------------------------------------------------------------------------------------------------

    def _refresh_cache(self) -> None:
        """Flask-Admin's own scaffolding (forms over all relations, positional filters) is not used."""
        self.column_labels = dict(self.column_labels or {})
        self.can_create, self.can_edit, self.can_delete = self.creates, self.edits, False

    def scaffold_auto_joins(self) -> list[Any]:
        return []

    def init_actions(self) -> None:
        """Bulk actions are declared by bulk_actions()."""

    def column(self, name: str) -> GridColumn:
        """A column by name: from the mapping, or a property of the model (computed, not sortable)."""
        attribute: Any = None
        model = self.model
        for part in name.split("."):
            attribute = getattr(model, part, None)
            if isinstance(attribute, InstrumentedAttribute) and isinstance(attribute.property, RelationshipProperty):
                model = attribute.property.mapper.class_
        kind = self.column_kinds.get(name) or kind_of(attribute)
        sql: Any = None
        if isinstance(attribute, InstrumentedAttribute) and "." not in name:
            if not isinstance(attribute.property, RelationshipProperty):
                sql = attribute
            elif not attribute.property.uselist:
                sql = next(iter(attribute.property.local_columns))
        last = name.rsplit(".", 1)[-1]
        label = (
            self.column_labels.get(name) or LABELS.get(name) or LABELS.get(last) or last.replace("_", " ").capitalize()
        )
        return GridColumn(name, label, kind, sql)

    @property
    def columns(self) -> list[GridColumn]:
        """The grid's columns here and now: within one branch its name would only repeat."""
        return [column for column in self._all_columns if column.name != "branch" or g.scope.branch_id is None]

    @cached_property
    def _all_columns(self) -> list[GridColumn]:
        """The declared columns; those of the schema, when the view names none."""
        return [self.column(name) for name in self.column_list or self.schema_columns()]

    def schema_columns(self) -> list[str]:
        """What the schema says there is to see: rows of other tables in place of their keys, no secrets."""
        mapper = sa.inspect(self.model)
        relations = {
            column: relation.key
            for relation in mapper.relationships
            if relation.direction is MANYTOONE
            for column in relation.local_columns
        }
        hidden = {"version", *getattr(self.model, "__secret__", ())}
        return [relations.get(a.columns[0], a.key) for a in mapper.column_attrs if a.key not in hidden]

    def editable_columns(self) -> list[str]:
        """Columns of a form: those declared, else those of the schema that people can fill in."""
        if self.form_columns:
            return list(self.form_columns)
        columns = [self.column(name) for name in self.schema_columns() if name != "id"]
        keys = {column.name for column in columns if column.name.endswith("_id")}  # of tables without a relation
        return [column.name for column in columns if column.kind.is_editable and column.name not in keys]

    @cached_property
    def details_columns(self) -> list[GridColumn]:
        return [self.column(name) for name in self.column_details_list or [column.name for column in self._all_columns]]

    def filter_columns(self) -> dict[str, GridColumn]:
        names = self.column_filters or [column.name for column in self._all_columns if column.sql is not None]
        return {
            name: column for name in names if (column := self.column(name)).kind.operators and column.sql is not None
        }

    def sortable_columns(self) -> dict[str, Any]:
        found = {
            column.name: column.sql
            for column in self._all_columns
            if column.sql is not None and column.kind.is_sortable
        }
        return {"id": self.model.id, **found}

    def default_sort(self) -> tuple[str, bool]:
        name = self.column_default_sort
        return (name.removeprefix("-"), name.startswith("-"))

    def loader_options(self) -> list[Any]:
        """Load what the columns show along with the rows: the number of queries never depends on the rows.

        Small tables by a query of their own: a thousand rows share a handful of branches, which a join would send, and
        the session unpack, a thousand times.
        """
        options: dict[str, Any] = {}
        for column in self.columns:
            head = column.name.split(".")[0]
            attribute = getattr(self.model, head, None)
            if isinstance(attribute, InstrumentedAttribute) and isinstance(attribute.property, RelationshipProperty):
                is_joined = isinstance(column.kind, ReferenceKind) and not column.kind.small
                options[head] = joinedload(attribute) if is_joined else selectinload(attribute)
        return list(options.values())

    # --- hooks for entities -----------------------------------------------------------------------------------------

    def search_condition(self, text: str) -> Any:
        """SQL condition of the search box: part of any searchable column, or the number."""
        parts = [getattr(self.model, name).icontains(text, autoescape=True) for name in self.column_searchable_list]
        if text.isascii() and text.isdigit() and len(text) < 10:
            parts.append(self.model.id == int(text))
        return sa.or_(*parts) if parts else sa.false()

    @property
    def has_search(self) -> bool:
        return bool(self.column_searchable_list)

    def within_sight(self, query: Any) -> Any:
        """Narrow a query of rows to those this person may see, where the row scope does not know the table: grid,
        export, actions, details and forms all obey.
        """
        return query

    def base_condition(self, selection: Selection) -> Any:
        """Condition every row of the grid fulfils, e.g. not archived unless asked for; None for none."""
        return None

    def counted_in_totals(self) -> Any:
        """Condition of the rows whose sums the totals add up; None for all. Say which in totals_label."""
        return None

    def bulk_actions(self) -> list[BulkAction]:
        """Actions over ticked rows or all that match."""
        return []

    def row_url(self, row: Any) -> str:
        """Where a row's first cell leads."""
        return url_for(f"{self.endpoint}.details_view", id=row.id)

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        """HTML of one cell."""
        value = column.value(row)
        shown = column.kind.show(value, self.place_of(row))
        if isinstance(column.kind, ReferenceKind) and value is not None and not column.kind.small:
            target = self.view_of(type(value))
            if target is not None and target.is_accessible():
                return Markup('<a href="{}">{}</a>').format(target.row_url(value), shown)
        return shown

    def plain_cell(self, row: Any, column: GridColumn) -> str | Markup:
        """The cell without a link of its own: the first cell of a row links to the row."""
        return column.kind.show(column.value(row), self.place_of(row))

    def cells(self, row: Any, columns: list[GridColumn]) -> list[tuple[str, str | Markup]]:
        """(css classes, HTML) of each cell of a row, the first one plain."""
        first, *rest = columns
        return [
            (first.kind.css, self.plain_cell(row, first)),
            *((column.kind.css, self.cell(row, column)) for column in rest),
        ]

    def view_of(self, model: type[Any]) -> KontoraView | None:
        """The view that shows rows of `model`."""
        return next((view for view in self.admin._views if getattr(view, "model", None) is model), None)

    def save_new(self, form: Any) -> Any:
        """Create a row from a valid form, through an operation. Raises DomainError beside a field."""
        row = self.model()
        self._populate(form, row)
        db.session.add(row)
        db.session.flush()
        return row

    def save(self, form: Any, row: Any) -> Any:
        """Change a row from a valid form, through an operation."""
        self._populate(form, row)
        db.session.flush()
        return row

    def prefill(self, form: Any) -> None:
        """Values a new form starts with."""

    def saved_url(self, row: Any) -> str:
        """Where to go after saving."""
        return self.row_url(row)

    def details_context(self, row: Any) -> dict[str, Any]:
        """More for the details page."""
        return {}

    # --- place ------------------------------------------------------------------------------------------------------

    def here(self) -> Place:
        """Time zone of the grid: the chosen branch's, else the first one's."""
        branch = chosen_branch() or next(iter(g.branches), None)
        return Place(branch.time_zone if branch else DEFAULT_ZONE)

    def place_of(self, row: Any) -> Place:
        zone = getattr(getattr(row, "branch", None), "time_zone", None)
        return Place(zone) if zone else self.here()

    # --- grid -------------------------------------------------------------------------------------------------------

    @expose("/")
    def index_view(self) -> Any:
        selection = Selection.from_args(self, request.args, self.here())
        rows, has_next = selection.rows()
        count = selection.count() if has_next or selection.page > 1 else len(rows)
        totalled = [column for column in self.columns if column.name in self.column_totals]
        return self.render(
            self.list_template,
            selection=selection,
            rows=rows,
            has_next=has_next,
            count=count,
            count_limit=COUNT_LIMIT,
            page_sizes=PAGE_SIZES,
            totals=selection.totals(totalled) if rows else {},
            actions=[action for action in self.bulk_actions() if self.may(action.permission)],
            filters=self.filter_columns(),
        )

    # --- export -----------------------------------------------------------------------------------------------------

    @expose("/export/xlsx/")
    def export(self) -> Any:
        """The selection as Excel: the shown columns, in the shown order, all pages."""
        selection = Selection.from_args(self, request.args, self.here())
        title = str(self.name)
        columns = [excel.Column(str(column.label), column.kind.excel, column.kind.width) for column in self.columns]
        with transaction():
            rows = selection.count(is_exact=True)
            record_export(self.model.__tablename__, rows=rows, description=selection.url(), by=current_user)
        with reading():  # a long export holds up nobody who writes
            chunks = excel.export_file(columns, self._export_rows(selection), title=title, time_zone=None)
        stamp = clock.local(clock.now(), self.here()).strftime("%Y-%m-%d")
        return Response(
            chunks,
            mimetype=XLSX,
            headers={"Content-Disposition": excel.content_disposition(f"{title} {stamp}.xlsx")},
        )

    def _export_rows(self, selection: Selection) -> Iterator[list[Any]]:
        cells = [self.exporter(column) for column in self.columns]
        for row in db.session.scalars(selection.query().execution_options(yield_per=1000)):
            yield [cell(row) for cell in cells]

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        """How a row's cell is made for exchange/excel.py: what the grid shows, as a number or a date where it is one.

        Asked once per file: what is the same for all of its rows is found out once.
        """
        value = column.value if "." in column.name else attrgetter(column.name)
        export = column.kind.exporter()
        if column.kind.excel == "datetime":
            return lambda row: self._on_wall_clock(export(value(row)), row)
        return lambda row: export(value(row))

    def _on_wall_clock(self, instant: datetime | None, row: Any) -> datetime | None:
        return None if instant is None else clock.local(instant, self.place_of(row))

    # --- details and history ----------------------------------------------------------------------------------------

    def get_one(self, id: Any) -> Any:
        """The row with this id within the scope; 404 for anything else."""
        text = str(id or "")
        row = None
        if text.isascii() and text.isdigit() and len(text) < 19:
            row = db.session.scalar(self.within_sight(sa.select(self.model).where(self.model.id == int(text))))
        if row is None:
            abort(404)
        return row

    @expose("/details/")
    def details_view(self) -> Any:
        row = self.get_one(request.args.get("id"))
        return self.render(
            self.details_template,
            row=row,
            columns=self.details_columns,
            history_lines=self.history(row),
            **self.details_context(row),
        )

    def history(self, row: Any, limit: int = 50) -> list[AuditEntry]:
        """What the audit knows of a row, newest first."""
        query = (
            sa.select(AuditEntry)
            .where(AuditEntry.entity == self.model.__tablename__, AuditEntry.entity_id == row.id)
            .order_by(AuditEntry.id.desc())
            .limit(limit)
        )
        return list(db.session.scalars(query))

    def changes_of(self, entry: AuditEntry) -> list[tuple[Any, Any, Any]]:
        """(label, old, new) of an audit line as a person reads them; keys and time stamps of creation are left out."""
        lines = []
        for name, (old, new) in entry.changes.items():
            if name.endswith("_id") or name in {
                "token",
                "created_at",
                "issued_at",
                "sold_at",
                "opened_at",
                "year",
                "number",
            }:
                continue
            if not old and not new:  # nothing became nothing
                continue
            column = self.column(name)
            lines.append((column.label, self._recall(column, old), self._recall(column, new)))
        return lines

    def _recall(self, column: GridColumn, value: Any) -> Any:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return "" if value in (None, "") else column.kind.show(column.kind.recall(value), self.here())

    # --- forms ------------------------------------------------------------------------------------------------------

    def form_class(self) -> type[Form]:
        """The declared form, or one made of form_columns by their kinds."""
        if self.form is not None:
            return self.form
        fields: dict[str, Any] = {}
        for name in self.editable_columns():
            column = self.column(name)
            if isinstance(column.kind, ListKind):
                target = getattr(self.model, name).property.mapper.class_
                fields[name] = ReferencesField(target, column.label)
            elif isinstance(column.kind, ReferenceKind):
                fields[name] = column.kind.field(column.sql, column.label)
            else:
                fields[name] = column.kind.field(column.sql.property.columns[0], column.label)
        return type(f"{self.model.__name__}Form", (Form,), fields)

    def _populate(self, form: Any, row: Any) -> None:
        for name, fld in form._fields.items():
            value = fld.data
            if isinstance(value, str):
                value = value.strip()
                column = sa.inspect(self.model).columns.get(name)
                if not value and column is not None and column.nullable:
                    value = None
            elif (
                value is None
                and name in sa.inspect(self.model).columns
                and not sa.inspect(self.model).columns[name].nullable
            ):
                continue  # left empty: the column's default stands
            setattr(row, name, value)

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        if not self.may_create:
            abort(403)
        form = self.form_class()(request.form if request.method == "POST" else None)
        if request.method == "GET":
            self.prefill(form)
        return self.answer(form, lambda: self.save_new(form), title=self.create_label, back=self.get_url(".index_view"))

    @expose("/edit/", methods=("GET", "POST"))
    def edit_view(self) -> Any:
        if not self.may_edit:
            abort(403)
        row = self.get_one(request.values.get("id"))
        if not self.may_edit_row(row):
            abort(403)
        form = self.form_class()(request.form if request.method == "POST" else None, obj=row)
        version = getattr(row, "version", None)
        is_stale = request.method == "POST" and version is not None and request.form.get("version") != str(version)
        return self.answer(
            form, lambda: self.save(form, row), title=str(row), row=row, back=self.row_url(row), is_stale=is_stale
        )

    def answer(
        self,
        form: Any,
        change: Callable[[], Any],
        *,
        title: Any,
        back: str,
        row: Any = None,
        template: str = "admin/form.html",
        done: Callable[[Any], str] | None = None,
        said: Any = None,
        is_stale: bool = False,
        **context: Any,
    ) -> Any:
        """Show a form, or carry out a posted one in a single transaction, once, and go on to `done(result)`.

        A form posted twice (a double click, "back" and again) is carried out once: the second post lands where the
        first did. The same form with other values ("back", something changed) is shown again: he decides whether it is
        meant. A broken rule puts its text beside the field and loses nothing typed. is_stale: `row` is no longer what
        the person was shown; he sees what has changed and decides, as when the change itself loses a race.
        """
        is_resent = False
        if request.method == "POST":
            key, sent = request.form.get("form_key"), fingerprint_of(request.full_path, request.form.items(multi=True))
            try:
                SubmittedForm.check(key, sent)  # before all else: the first sending has made the row look stale
                if not is_stale and form.validate():
                    with transaction():
                        once = SubmittedForm.claim(key, sent)
                        result = change()
                        once.url = (done or self.saved_url)(result)
                    flash(said or _("Saved."), "success")
                    return redirect(once.url)
            except AlreadySubmitted as first:
                if first.is_same:
                    flash(_("This had been done already; it was not done twice."), "info")
                    return redirect(first.url)
                is_resent = True
                form.form_errors.append(
                    _("This form has been sent already, with other values. To save these, send it again.")
                )
            except DomainError as error:
                self.show_error(form, error)
            except StaleDataError:
                is_stale = True
            except IntegrityError as error:
                if (reason := _reason_of(error)) is None:
                    raise
                form.form_errors.append(reason)
        stale = self.history(row, limit=3) if is_stale and row is not None else []
        if is_stale and not stale:
            form.form_errors.append(_("Somebody changed this record at the same moment. Check it and save again."))
        page = self.render(template, form=form, row=row, title=title, back=back, stale=stale, **context)
        return page, 409 if is_stale or is_resent else 422 if request.method == "POST" else 200

    @staticmethod
    def show_error(form: Any, error: DomainError) -> None:
        """Beside its field if the form has it, else above the form."""
        target = form._fields.get(error.field or "")
        if target is None:
            form.form_errors.append(str(error))
        else:
            target.errors = [*target.errors, str(error)]

    # --- bulk actions -----------------------------------------------------------------------------------------------

    @expose("/action/", methods=("POST",))
    def action_view(self) -> Any:
        """Choose (ids or all=1 with the grid's arguments) → confirm → run → protocol."""
        action = next((item for item in self.bulk_actions() if item.name == request.form.get("action")), None)
        if action is None:
            abort(404)
        if not self.may(action.permission):
            abort(403)
        selection = Selection.from_args(self, request.form, self.here())
        if request.form.get("all") != "1":
            selection = selection.only(request.form.getlist("id"))
        ids = selection.row_ids()
        if not ids:
            flash(_("Tick the rows first."), "warning")
            return redirect(self.get_url(".index_view") + selection.url())
        # What was confirmed is a number of rows; when it is another by now, the person is asked again.
        if request.form.get("confirmed") != "1" or request.form.get("count", str(len(ids))) != str(len(ids)):
            return self.render(
                "admin/confirm.html", action=action, selection=selection, count=len(ids), fields=request.form
            )
        return self.render(
            "admin/protocol.html", action=action, selection=selection, lines=self._run_in_batches(action, ids)
        )

    @staticmethod
    def _run_in_batches(action: BulkAction, ids: list[int]) -> list[ProtocolLine]:
        """Carry out an action batch by batch, each in a transaction of its own: a hundred thousand rows hold up nobody.

        In id order, so that two people's actions queue up and do not deadlock; the lines come in the order of `ids`. A
        batch that fails is undone and says so line by line; those before it are done.
        """
        lines: list[ProtocolLine] = []
        ordered = sorted(ids)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            try:
                with transaction():
                    done = action.run(batch)
            except Forbidden as error:
                if not lines:
                    abort(403)
                done = [ProtocolLine(row_id, f"#{row_id}", str(error)) for row_id in batch]
            except Exception as error:
                if not lines:  # nothing has been done: an error like any other
                    raise
                reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
                done = [ProtocolLine(row_id, f"#{row_id}", reason) for row_id in batch]
            lines += done
            give_way()
        place = {row_id: at for at, row_id in enumerate(ids)}
        return sorted(lines, key=lambda line: place[line.id])

    # --- what Flask-Admin exposes and Kontora does not --------------------------------------------------------------

    def delete_view(self) -> Any:
        abort(403)

    def ajax_lookup(self) -> Any:
        abort(403)

    def ajax_update(self) -> Any:
        abort(403)


def _reason_of(error: IntegrityError) -> str | None:
    """What a person can mend when the database refuses a row; None for a mistake of ours."""
    text = str(error.orig).lower()
    if "unique" in text or "duplicate key" in text:
        return _("Such a record exists already.")
    if "check constraint" in text:
        return _("One of the values goes beyond what is allowed.")
    return None


def grid_url(endpoint: str, **args: Any) -> str:
    """Address of another grid with filters: grid_url("bill", **{"f.status.is": "pending"})."""
    return f"{url_for(f'{endpoint}.index_view')}?{urlencode(args)}"
