"""What every part of an entity's view rests on: its columns, permissions and hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from functools import cached_property
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import abort, g, redirect, request, url_for
from flask_admin.contrib.sqla import ModelView
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from sqlalchemy.orm import MANYTOONE, InstrumentedAttribute, RelationshipProperty, joinedload, selectinload

from crm.access.fields import FieldRules, field_rules
from crm.admin.column import GridColumn
from crm.admin.custom import CustomColumn, custom_columns
from crm.admin.kinds import AuthorKind, Kind, Place, ReferenceKind, kind_of
from crm.admin.labels import LABELS
from crm.admin.ordering import SortKey
from crm.admin.selection import Selection, Sort
from crm.admin.sorting import keys_of
from crm.db import db
from crm.fields.models import CustomField, HasCustomFields
from crm.fields.queries import all_fields, company_of, hidden_built_ins
from crm.search import holds, parts_of, searchable_sql
from crm.security import chosen_branch

DEFAULT_ZONE = "Europe/Moscow"
AUTHOR, AUTHORS = AuthorKind(), frozenset({"author_name", "actor_name"})


def permission(action: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark an exposed method: it needs `<entity>.<action>`; `other.action` names another entity's permission."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method._permission = action  # type: ignore[attr-defined]
        return method

    return mark


class ColumnsView(ModelView):
    """Declarations, permissions, columns, hooks; see the module."""

    # --- declared by entities; the names are Flask-Admin's where it has one -----------------------------------------
    entity: ClassVar[str]
    column_list: ClassVar[Any] = None
    column_details_list: ClassVar[Any] = None
    column_labels: Any = None
    column_filters: ClassVar[Any] = ()
    column_searchable_list: ClassVar[Any] = ()
    column_default_sort: ClassVar[Any] = "id"
    column_kinds: ClassVar[dict[str, Kind]] = {}
    column_sortable_list: ClassVar[Any] = None  # all that can be
    column_sorts: ClassVar[dict[str, tuple[str, ...]]] = {}  # columns of the table a computed one is ordered by
    column_totals: ClassVar[tuple[str, ...]] = ()
    column_past: ClassVar[tuple[str, ...]] = ()  # what was different on a past day; with any, a grid asks for the day
    totals_label: ClassVar[Any] = _l("Total")
    form: ClassVar[Any] = None
    form_columns: ClassVar[tuple[str, ...]] = ()
    creates: ClassVar[bool] = False
    edits: ClassVar[bool] = False
    imports: ClassVar[bool] = False  # importing.ImportableView
    edits_own_fields_only: ClassVar[bool] = False  # operations make the rows; what staff have added is filled in here
    create_label: ClassVar[Any] = _l("Add")
    empty_hint: ClassVar[Any] = _l("Nothing here yet.")
    hint: ClassVar[Any] = None
    icon: ClassVar[str] = "table"
    is_in_menu: ClassVar[bool] = True

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
        """Whether his role allows an action here; `other.action` names another entity's permission."""
        return bool(current_user.may(action if "." in action else f"{self.entity}.{action}"))

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
        return self.edits and self.may("edit") and (not self.edits_own_fields_only or bool(self.custom_columns()))

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
        """A column by name: from the mapping, a property of the model (computed, not sortable), or staff's own."""
        if name.startswith("custom."):
            return self._custom_column(name)
        attribute: Any = None
        model = self.model
        for part in name.split("."):
            attribute = getattr(model, part, None)
            if isinstance(attribute, InstrumentedAttribute) and isinstance(attribute.property, RelationshipProperty):
                model = attribute.property.mapper.class_
        kind = self.column_kinds.get(name) or (AUTHOR if name in AUTHORS else kind_of(attribute))
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
        shown = [column for column in self._all_columns if column.name != "branch" or g.scope.branch_id is None]
        own = [column for column in self.custom_columns() if any(field.is_in_grid for field in column.fields)]
        return self.without_hidden([*shown, *own])

    def available_columns(self) -> list[GridColumn]:
        """All this person may have in the grid: those shown by default, those of the details, those staff have added;
        without what the company or his role hides.
        """
        names = dict.fromkeys([*(column.name for column in self._all_columns), *(self.column_details_list or ())])
        return self.without_hidden([*(self.column(name) for name in names), *self.custom_columns()])

    def without_hidden(self, columns: Sequence[GridColumn], row: Any = None) -> list[GridColumn]:
        """The columns this person may see, in their order; of a row, what its company shows."""
        hidden = self.field_rules(row).hidden
        return [column for column in columns if column.name not in hidden]

    def field_rules(self, row: Any = None) -> FieldRules:
        """What the role of this person and the company of a row (those in sight by default) say of the fields."""
        known: dict[Any, FieldRules] = g.setdefault("field_rules", {})
        companies = self.companies_in_sight() if row is None else self.companies_of(row)
        if (self.entity, companies) not in known:
            rules = field_rules(current_user, self.entity)
            hidden = rules.hidden | hidden_built_ins(self.entity, companies)
            known[self.entity, companies] = FieldRules(hidden, rules.frozen)
        return known[self.entity, companies]

    def is_frozen(self, name: str) -> bool:
        """Whether this person sees the column but may not change it: forms, cells, bulk edit and import obey."""
        rules = self.field_rules()
        return name in rules.frozen or name in rules.hidden

    # --- fields staff have added ------------------------------------------------------------------------------------

    @property
    def is_customised(self) -> bool:
        """Whether staff may add fields to the table."""
        return isinstance(self.model, type) and issubclass(self.model, HasCustomFields)

    def companies_in_sight(self) -> frozenset[int]:
        """Of the chosen branch; in the network, of all branches of this person."""
        branches = [chosen_branch() or branch for branch in g.get("branches", ())]
        return frozenset(branch.company_id for branch in branches)

    def companies_of(self, row: Any) -> frozenset[int]:
        return frozenset({company_of(row)}) if self.is_customised else self.companies_in_sight()

    def custom_columns(self, companies: Collection[int] | None = None) -> list[CustomColumn]:
        """Fields of the companies (those in sight by default); of one name and type in several, one column."""
        companies = self.companies_in_sight() if companies is None else companies
        fields = [
            field
            for field in self._custom_fields()
            if field.company_id in companies and not field.is_archived and not field.is_hidden
        ]
        return custom_columns(self.model, fields)

    def _custom_column(self, name: str) -> GridColumn:
        """As above; a field that is hidden or deleted still has a name in the history, but not in grids and forms."""
        own = next((column for column in self.custom_columns() if column.name == name), None)
        same = [field for field in self._custom_fields() if field.name == name]
        if own is not None:
            return own
        if same:
            return custom_columns(self.model, same)[0]
        return GridColumn(name, name.removeprefix("custom."), Kind(), None, is_custom=True)

    def _custom_fields(self) -> list[CustomField]:
        """All of the table's, asked for once per request."""
        if not self.is_customised:
            return []
        known: dict[str, list[CustomField]] = g.setdefault("custom_fields", {})
        if self.entity not in known:
            known[self.entity] = all_fields(self.model.__tablename__)
        return known[self.entity]

    # --- columns of the schema --------------------------------------------------------------------------------------

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
        hidden = {"version", "custom", *getattr(self.model, "__secret__", ())}
        return [relations.get(a.columns[0], a.key) for a in mapper.column_attrs if a.key not in hidden]

    def editable_columns(self) -> list[str]:
        """Columns of a form: those declared, else those of the schema that people can fill in."""
        if self.form_columns:
            return list(self.form_columns)
        columns = [self.column(name) for name in self.schema_columns() if name != "id"]
        keys = {column.name for column in columns if column.name.endswith("_id")}  # of tables without a relation
        return [column.name for column in columns if column.kind.is_editable and column.name not in keys]

    def details_columns(self, row: Any) -> list[GridColumn]:
        """What the details page of a row shows."""
        names = self.column_details_list or [column.name for column in self._all_columns]
        own = self.custom_columns(self.companies_of(row))
        return self.without_hidden([*(self.column(name) for name in names), *own], row)

    def filter_columns(self) -> dict[str, GridColumn]:
        """What the rows can be filtered by: the declared columns first, then all this person may have in the grid."""
        columns = [*self.without_hidden([self.column(name) for name in self.column_filters]), *self.available_columns()]
        return {column.name: column for column in columns if column.kind.operators and column.sql is not None}

    def is_totalled(self, column: GridColumn) -> bool:
        """Whether the grid adds the column up."""
        return column.name in self.column_totals or (isinstance(column, CustomColumn) and column.is_summable)

    def sortable_columns(self) -> dict[str, GridColumn]:
        """What the rows can be ordered by."""
        found = {
            column.name: column
            for column in self.available_columns()
            if column.kind.is_sortable and (column.sql is not None or column.name in self.column_sorts)
        }
        if self.column_sortable_list is not None:
            found = {name: column for name, column in found.items() if name in self.column_sortable_list}
        return {"id": self.column("id"), **found}

    def sort_keys(self, name: str) -> list[SortKey]:
        """Keys that order the rows by a sortable column."""
        if name in self.column_sorts:
            return [key for part in self.column_sorts[name] for key in keys_of(self.column(part))]
        return keys_of(self.column(name))

    def default_sort(self) -> tuple[Sort, ...]:
        hidden = self.field_rules().hidden
        sorts = (Sort(part.removeprefix("-"), part.startswith("-")) for part in self.column_default_sort.split(","))
        return tuple(sort for sort in sorts if sort.name not in hidden) or (Sort("id", True),)

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
        """SQL condition of the search box: every word part of the searchable columns, or the number."""
        columns = [getattr(self.model, name) for name in self.column_searchable_list]
        parts = [holds(searchable_sql(*columns), parts_of(text))] if columns else []
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

    def known_totals(self, selection: Selection) -> dict[str, Any] | None:
        """Sums over all the rows, by column, that are known without reading them; None when they are not."""
        return None

    def column_as_of(self, column: GridColumn, day: date | None) -> GridColumn:
        """The column as it was at the end of a past day (the row's branch's own), for those of column_past; day None:
        now.
        """
        return column

    def computed_totals(self, selection: Selection) -> dict[str, Any]:
        """Sums over the rows that count of those totalled columns the database has no expression for, by name."""
        return {}

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

    def view_of(self, model: type[Any]) -> ColumnsView | None:
        """The view that shows rows of `model`."""
        return next((view for view in self.admin._views if getattr(view, "model", None) is model), None)

    # --- place ------------------------------------------------------------------------------------------------------

    def here(self) -> Place:
        """Time zone of the grid: the chosen branch's, else the first one's."""
        branch = chosen_branch() or next(iter(g.branches), None)
        return Place(branch.time_zone if branch else DEFAULT_ZONE)

    def place_of(self, row: Any) -> Place:
        zone = getattr(getattr(row, "branch", None), "time_zone", None)
        return Place(zone) if zone else self.here()

    # --- rows -------------------------------------------------------------------------------------------------------

    def get_one(self, id: Any) -> Any:
        """The row with this id within the scope; 404 for anything else."""
        text = str(id or "")
        row = None
        if text.isascii() and text.isdigit() and len(text) < 19:
            row = db.session.scalar(self.within_sight(sa.select(self.model).where(self.model.id == int(text))))
        if row is None:
            abort(404)
        return row

    # --- what Flask-Admin exposes and Kontora does not --------------------------------------------------------------

    def delete_view(self) -> Any:
        abort(403)

    def ajax_lookup(self) -> Any:
        abort(403)

    def ajax_update(self) -> Any:
        abort(403)
