"""Selection: which rows of a grid are meant — a search, filters and an order, or ticked ids, or all that match.

The list, its totals, the export, bulk actions and jobs all take one, so they can never disagree. It travels in the
address: `q=` search; `f.<column>.<operator>=` filters (repeatable: any of the values), all of which must hold, those
with `any1.` … `any9.` before them being alternatives to the others of their group; `as_of=` a past day, in grids that
know it; `sort=[-]<column>,…`; `size=`; `page=` for the first 10 000 rows, and beyond them `after=` / `before=` with the
place of a row (`before=end`: the last page).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import sqlalchemy as sa
from flask_babel import gettext as _
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.admin import cursors
from crm.admin.column import GridColumn, LoadedColumn
from crm.admin.kinds import BadFilter, DateKind, Place
from crm.admin.ordering import Order, Ordering, Range, SortKey
from crm.db import db
from crm.errors import DomainError

if TYPE_CHECKING:
    from crm.admin.columns import ColumnsView

PAGE_SIZES = (25, 50, 100, 200)
COUNT_LIMIT = 10_000
MAX_OFFSET = 10_000
SAMPLE = 1_000  # rows looked at to tell a frequent text from a rare one
MAX_VALUES = 500  # of one filter
AS_OF = "as_of"
EARLIEST = 1900  # year of a day to look back to

_FILTER = re.compile(r"(?:(any[1-9])\.)?f\.(.{1,100})\.([a-z]{1,10})", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """One filter in force; error is set when it could not be read (it is then not applied).

    group: "" or the name of the alternatives it is one of ("any1"). column: None when there is no such column (any
    more).
    """

    name: str
    operator: str
    values: tuple[str, ...]
    error: str | None = None
    group: str = ""
    column: GridColumn | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Its name in the address."""
        if self.name == AS_OF:
            return AS_OF
        key = f"f.{self.name}.{self.operator}"
        return f"{self.group}.{key}" if self.group else key

    @property
    def label(self) -> Any:
        return self.column.label if self.column else self.name


@dataclass(frozen=True)
class Sort:
    """A column rows are ordered by."""

    name: str
    is_descending: bool = False

    def __str__(self) -> str:
        return f"-{self.name}" if self.is_descending else self.name


@dataclass(frozen=True)
class Page:
    """Rows of a page and what lies beside it. start: number of its first row, from 1; None when nobody has counted."""

    rows: list[Any]
    start: int | None
    first_key: str | None
    last_key: str | None
    has_previous: bool
    has_next: bool


@dataclass(frozen=True)
class PageLinks:
    """Addresses of the pages around one; None where there is nothing to go to."""

    first: str | None
    previous: str | None
    next: str | None
    last: str | None


@dataclass(frozen=True)
class Summary:
    """How many rows, and their sums by column. Of more rows than were counted (COUNT_LIMIT) the sums that nobody knows
    are left out; None when that is all of them.
    """

    count: int
    is_exact: bool
    totals: dict[str, Any] | None


@dataclass(frozen=True)
class Selection:
    """See the module. sort: empty for the view's default; as_of: the day at whose end the rows are looked at, None for
    now; notices: what of the address was not understood; standing:
    arguments all its addresses carry, which say nothing of the rows.
    """

    view: ColumnsView
    place: Place
    search: str = ""
    filters: tuple[Filter, ...] = ()
    ids: tuple[int, ...] | None = None
    sort: tuple[Sort, ...] = ()
    page: int = 1
    size: int = 50
    after: str | None = None
    before: str | None = None
    as_of: date | None = None
    notices: tuple[str, ...] = ()
    standing: tuple[tuple[str, str], ...] = ()
    _conditions: tuple[Any, ...] = field(default=(), repr=False)

    # --- reading ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_args(cls, view: ColumnsView, args: MultiDict[str, str], place: Place) -> Selection:
        """Read an address. What cannot be read is dropped or marked; nothing raises."""
        notices: list[str] = []
        as_of, bad_day = _read_day(args.get(AS_OF, "").strip(), view, place, notices)
        filters, conditions = _read_filters(view, args, place, is_past=as_of is not None)
        sort, unknown = _read_sort(args.get("sort", ""), view, is_past=as_of is not None)
        if unknown:
            notices.append(_("There is no column “%(name)s” to sort by.", name=", ".join(unknown)))
        size = size if (size := _read_int(args.get("size"), 50)) in PAGE_SIZES else 50
        page, last = max(1, _read_int(args.get("page"), 1)), MAX_OFFSET // size
        if page > last:
            notices.append(_("Pages are numbered up to %(page)s. Go on from here, or to the last page.", page=last))
            page = last
        selection = cls(
            view,
            place,
            search=args.get("q", "").replace("\x00", "").strip()[:200] if view.has_search else "",
            filters=(*filters, *bad_day),
            sort=sort,
            as_of=as_of,
            page=page,
            size=size,
            notices=tuple(notices),
            _conditions=conditions,
        )
        return selection._at(args.get("after"), args.get("before"))

    def _at(self, after: str | None, before: str | None) -> Selection:
        """The same at the page after or before a row; on the first page when nobody can tell where that is."""
        if not after and not before:
            return self
        found = replace(self, after=after or None, before=None if after else before, page=1)
        try:
            if before != "end" or after:
                self.ordering.beyond(cursors.read(str(after or before), self._cursor_purpose))
        except ValueError:
            notice = _("The link to this page no longer holds; here is the first one.")
            return replace(self, page=1, notices=(*self.notices, notice))
        return found

    def only(self, ids: Iterable[str | int]) -> Selection:
        """The same, narrowed to ticked rows; ids that are no numbers are dropped."""
        texts = (str(i) for i in ids)
        return replace(self, ids=tuple(int(i) for i in texts if i.isascii() and i.isdigit() and len(i) < 19))

    @property
    def doubt(self) -> str | None:
        """Why nothing may be done to the rows, or sent away: a filter could not be read, and without it they are others
        than was meant. A grid shows them all the same, and says so. None when all is clear, or the rows are ticked.
        """
        bad = next((item for item in self.filters if item.error), None)
        if bad is None or self.ids is not None:
            return None
        reason = (bad.error or "").rstrip(".")
        return _(
            "The filter “%(name)s” cannot be applied: %(reason)s. Without it, other rows would be taken than meant.",
            name=bad.label,
            reason=reason,
        )

    def as_meant(self) -> Selection:
        """The same. Raises DomainError when there is a doubt."""
        if self.doubt is not None:
            raise DomainError("filter_unreadable", self.doubt)
        return self

    def to_params(self) -> list[list[str]]:
        """What is selected and in which order, as JSON keeps it: for a job, a saved view. Not the page."""
        ids = [["id", str(row_id)] for row_id in self.ids or ()]
        marker = [["ticked", "1"]] if self.ids is not None else []
        return [[key, value] for key, value in self.args(page=None, after=None, before=None)] + marker + ids

    @classmethod
    def from_params(cls, view: ColumnsView, params: Iterable[Sequence[str]], place: Place) -> Selection:
        """What to_params() gave; relative dates are seen from now."""
        args: MultiDict[str, str] = MultiDict([(key, value) for key, value in params])
        selection = cls.from_args(view, args, place)
        return selection.only(args.getlist("id")) if "ticked" in args else selection

    # --- queries ----------------------------------------------------------------------------------------------------

    def _where(self, query: Any) -> Any:
        query = self.view.within_sight(query)
        if self.ids is not None:
            query = query.where(self.view.model.id.in_(self.ids))
        elif self.search:
            query = query.where(self.view.search_condition(self.search))
        query = query.where(*self._conditions)
        base = self.view.base_condition(self)
        return query if base is None else query.where(base)

    @property
    def order(self) -> tuple[Sort, ...]:
        """What the rows are ordered by: as asked for, or as the view has it."""
        return self.sort or self.view.default_sort()

    @cached_property
    def ordering(self) -> Ordering:
        """The order in SQL. The primary key breaks ties, so that pages never show a row twice."""
        orders = [Order(key, sort.is_descending) for sort in self.order for key in self.view.sort_keys(sort.name)]
        descending = orders[-1].is_descending if orders else False
        return Ordering([*orders, Order(SortKey(self.view.model.id), descending)])

    @property
    def _cursor_purpose(self) -> str:
        return f"{self.view.entity}:{','.join(map(str, self.order))}"

    def query(self) -> Any:
        """SELECT of all the rows, ordered, with what the columns show loaded along."""
        query = self._where(sa.select(self.view.model)).options(*self.view.loader_options())
        return self.ordering.apply(query)

    def select(self, *expressions: Any) -> Any:
        """SELECT of the rows' ids and these expressions, ordered, without the rows themselves."""
        return self.ordering.apply(
            self._where(sa.select(self.view.model.id, *expressions).select_from(self.view.model))
        )

    def columns(self, columns: Sequence[GridColumn]) -> list[GridColumn]:
        """The columns as they are on the selection's day."""
        return [self.view.column_as_of(column, self.as_of) for column in columns]

    def filter_columns(self) -> dict[str, GridColumn]:
        """What the rows can be filtered by, on that day."""
        return _not_past(self.view.filter_columns(), self.view, is_past=self.as_of is not None)

    def sortable_columns(self) -> dict[str, GridColumn]:
        """What the rows can be ordered by, on that day."""
        return _not_past(self.view.sortable_columns(), self.view, is_past=self.as_of is not None)

    def read_page(self, columns: Sequence[GridColumn] = ()) -> Page:
        """The page's rows: their keys by an index, then what the columns show of them."""
        is_backwards = self.before is not None
        if self.before == "end":
            ranges = self.ordering.all_rows(is_backwards=True)
        elif self.after or self.before:
            values = cursors.read(str(self.after or self.before), self._cursor_purpose)
            ranges = self.ordering.beyond(values, is_backwards=is_backwards)
        else:
            ranges = self.ordering.all_rows()
        offset = (self.page - 1) * self.size
        statement = self.ordering.select(
            self._where(sa.select()),
            ranges,
            limit=self.size + 1,
            offset=offset,
            is_backwards=is_backwards,
            is_sparse=self._is_sparse(ranges, is_backwards),
        )
        found = list(db.session.execute(statement))
        has_more, found = len(found) > self.size, found[: self.size]
        if is_backwards:
            found.reverse()
        is_numbered = not self.after and not self.before
        return Page(
            rows=self._load([keys[-1] for keys in found], columns),
            start=offset + 1 if is_numbered else None,
            first_key=self._cursor(found[0]) if found else None,
            last_key=self._cursor(found[-1]) if found else None,
            has_previous=has_more if is_backwards else bool(self.after) or self.page > 1,
            has_next=(bool(found) and self.before != "end") if is_backwards else has_more,
        )

    def _is_sparse(self, ranges: Sequence[Range], is_backwards: bool) -> bool:
        """Whether so few rows are found by the search that the next ones in the order do not fill a page.

        No statistics of the database say so: surnames stand together in the order of names.
        """
        if not self.search or self.ids is not None:
            return False
        model = self.view.model
        query = self.ordering.select(
            self.view.within_sight(sa.select()), ranges, limit=SAMPLE, is_backwards=is_backwards
        )
        near = query.subquery()
        count = self._where(sa.select(sa.func.count()).select_from(model)).join(near, list(near.c)[-1] == model.id)
        return (db.session.scalar(count) or 0) <= self.size

    def _load(self, ids: list[int], columns: Sequence[GridColumn]) -> list[Any]:
        """The rows, in the order of their ids, with what the columns show."""
        model = self.view.model
        query = sa.select(model).where(model.id.in_(ids)).options(*self.view.loader_options())
        rows = {row.id: row for row in db.session.scalars(query).unique()}
        if loaded := {column.name: column.sql for column in columns if isinstance(column, LoadedColumn)}:
            for row_id, *values in db.session.execute(sa.select(model.id, *loaded.values()).where(model.id.in_(ids))):
                rows[row_id].loaded = dict(zip(loaded, values, strict=True))
        return [rows[row_id] for row_id in ids if row_id in rows]

    def _cursor(self, keys: Sequence[Any]) -> str:
        return cursors.write(keys, self._cursor_purpose)

    def summary(self, columns: Sequence[GridColumn] = (), *, exact: bool = False) -> Summary:
        """Number of rows and the sums of the columns over the rows that count.

        Counted no further than COUNT_LIMIT + 1 rows, and summed only when there are no more, unless it must be exact
        or the sums are known without that.
        """
        known = self.view.known_totals(self) or {} if columns else {}
        counted = self.view.counted_in_totals()
        summed = [column for column in columns if column.sql is not None and column.name not in known]
        values = [column.sql if counted is None else sa.case((counted, column.sql)) for column in summed]
        inner = self._where(
            sa.select(self.view.model.id, *(value.label(f"t{place}") for place, value in enumerate(values)))
        )
        rows = (inner if exact else inner.limit(COUNT_LIMIT + 1)).subquery()
        sums = [sa.func.coalesce(sa.func.sum(rows.c[f"t{place}"]), 0) for place in range(len(values))]
        count, *totals = db.session.execute(sa.select(sa.func.count(), *sums).select_from(rows)).one()
        is_exact = exact or count <= COUNT_LIMIT
        found = {column.name: known[column.name] for column in columns if column.name in known}
        if is_exact:
            found |= {column.name: total for column, total in zip(summed, totals, strict=True)}
            if any(column.sql is None for column in columns):
                found |= self.view.computed_totals(self)
        return Summary(count, is_exact, found if is_exact or found else None)

    def count(self, *, is_exact: bool = False) -> int:
        """Number of rows, counted no further than COUNT_LIMIT + 1 unless it must be exact."""
        return self.summary(exact=is_exact).count

    def row_ids(self) -> list[int]:
        """Ids of all rows, in the grid's order."""
        return list(db.session.scalars(self.ordering.apply(self._where(sa.select(self.view.model.id)))))

    def aggregate(self, *expressions: Any) -> Any:
        """SELECT of sums, counts and the like over all rows; group it as you please."""
        return self._where(sa.select(*expressions).select_from(self.view.model))

    def id_batches(self, size: int, *, after: int = 0, until: int | None = None) -> Iterator[list[int]]:
        """Ids of all rows, so many at a time, in the order of their ids; each batch is asked for when it is needed, so
        rows may change or go meanwhile. after, until: only ids above and not above these.
        """
        key, last = self.view.model.id, after
        while True:
            query = self._where(sa.select(key)).where(key > last).order_by(key).limit(size)
            batch = list(db.session.scalars(query if until is None else query.where(key <= until)))
            if not batch:
                return
            yield batch
            last = batch[-1]

    # --- addresses --------------------------------------------------------------------------------------------------

    def args(self, **changes: Any) -> list[tuple[str, str]]:
        """Query arguments of this selection with some replaced; None drops one."""
        values: dict[str, Any] = {
            "q": self.search or None,
            **{item.key: list(item.values) for item in self.filters},
            "sort": ",".join(map(str, self.sort)) or None,
            "size": self.size if self.size != 50 else None,
            AS_OF: self.as_of.isoformat() if self.as_of else None,
            "page": self.page if self.page > 1 else None,
            "after": self.after,
            "before": self.before,
        }
        values |= dict(self.standing)
        if "page" in changes:  # a page by its number is not a page by its place
            values |= {"after": None, "before": None}
        values.update(changes)
        return [
            (key, str(item))
            for key, value in values.items()
            if value is not None
            for item in (value if isinstance(value, list) else [value])
        ]

    def url(self, **changes: Any) -> str:
        """Relative address of the grid for this selection with some arguments replaced."""
        return "?" + urlencode(self.args(**changes))

    def page_links(self, page: Page) -> PageLinks:
        """Where to go from a page that read_page() gave."""
        is_first = not page.has_previous and page.start == 1
        following = (self.page + 1) if page.start is not None and self.page * self.size < MAX_OFFSET else None
        previous: str | None = None
        if page.has_previous and page.start is not None:
            previous = self.url(page=self.page - 1 if self.page > 2 else None)
        elif page.has_previous and page.first_key:
            previous = self.url(page=None, before=page.first_key)
        return PageLinks(
            first=None if is_first else self.url(page=None),
            previous=previous,
            next=None
            if not page.has_next
            else self.url(page=following)
            if following
            else self.url(page=None, after=page.last_key),
            last=self.url(page=None, before="end") if page.has_next else None,
        )

    def sort_url(self, name: str) -> str:
        """Address of the grid ordered by a column alone; by the other direction when it is already."""
        first = self.order[0]
        is_turned = first.name == name and not first.is_descending
        return self.url(page=None, sort=str(Sort(name, is_turned)))

    def sorted_by(self, name: str) -> Literal["ascending", "descending"] | None:
        """How the rows are ordered by a column, if they are: what aria-sort says."""
        found = next((sort for sort in self.order if sort.name == name), None)
        return None if found is None else "descending" if found.is_descending else "ascending"

    def filters_by(self, name: str) -> bool:
        """Whether the column is filtered by."""
        return any(item.name == name for item in self.filters)

    def values(self, name: str, operator: str) -> tuple[str, ...]:
        """What is filtered by now, for the filter form."""
        return next((f.values for f in self.filters if (f.group, f.name, f.operator) == ("", name, operator)), ())


def _not_past(columns: dict[str, GridColumn], view: ColumnsView, *, is_past: bool) -> dict[str, GridColumn]:
    """The columns, on a past day without those the database knows of today only."""
    return {name: column for name, column in columns.items() if not is_past or name not in view.column_past}


def _read_day(text: str, view: ColumnsView, place: Place, notices: list[str]) -> tuple[date | None, tuple[Filter, ...]]:
    """The past day meant by `text`, None for today; one that cannot be read is like a filter that cannot."""
    if not text or not view.column_past:
        return None, ()
    try:
        day = DateKind().read(text, place)
        if day.year < EARLIEST:
            raise BadFilter(_("“%(text)s” is not a date.", text=text))
    except BadFilter as bad:
        column = GridColumn(AS_OF, _("As of the date"), DateKind(), None)
        return None, (Filter(AS_OF, "is", (text[:100],), str(bad), column=column),)
    today = clock.today(place)
    if day > today:
        notices.append(_("That day is yet to come: this is today."))
    return (day if day < today else None), ()


def _read_filters(
    view: ColumnsView, args: MultiDict[str, str], place: Place, *, is_past: bool
) -> tuple[tuple[Filter, ...], tuple[Any, ...]]:
    """The filters of an address, and the conditions of those that could be read."""
    columns = view.filter_columns()
    filters: list[Filter] = []
    required: list[Any] = []
    alternatives: dict[str, list[Any]] = defaultdict(list)
    for key in args:
        match = _FILTER.fullmatch(key)
        values = tuple(value for value in args.getlist(key) if value.strip())
        if match is None or not values:
            continue
        group, name, operator = match[1] or "", match[2], match[3]
        column = columns.get(name)
        error: str | None = None
        if column is None:
            error = _("there is no such column")
        elif is_past and name in view.column_past:
            error = _("it filters by today's values, not by those of a past day")
        elif operator not in column.kind.operators:
            error = _("this column cannot be filtered so")
        elif len(values) > MAX_VALUES:
            error = _("too many values")
        else:
            try:
                condition = column.kind.condition(column.sql, operator, list(values), place)
                (alternatives[group] if group else required).append(condition)
            except BadFilter as bad:
                error = str(bad)
        filters.append(Filter(name, operator, values[:MAX_VALUES], error, group, column))
    return tuple(filters), (*required, *(sa.or_(*group) for group in alternatives.values()))


def _read_int(text: str | None, default: int) -> int:
    if text is None or not text.isascii() or not text.isdigit():
        return default
    return int(text[:20])


def _read_sort(text: str, view: ColumnsView, *, is_past: bool) -> tuple[tuple[Sort, ...], list[str]]:
    """The columns of `text` to sort by, each once, and names that are none."""
    sortable = _not_past(view.sortable_columns(), view, is_past=is_past)
    sorts: dict[str, Sort] = {}
    unknown = []
    for part in text.split(",")[:9]:
        name = part.removeprefix("-")
        if name in sortable:
            sorts.setdefault(name, Sort(name, part.startswith("-")))
        elif name:
            unknown.append(name[:100])
    return tuple(sorts.values()), unknown
