"""«Движение денег»: every movement of the branches' own money, and its totals by whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import Response, abort, g, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from crm import clock
from crm.access.fields import FieldRules, field_rules
from crm.access.models import Branch
from crm.admin.base import KontoraView, QuickFilter, permission
from crm.admin.exporting import labels_of
from crm.admin.kinds import EnumKind, Kind, MomentKind, Place, ReferenceKind
from crm.admin.periods import PERIODS, days_of
from crm.admin.selection import Selection
from crm.audit.operations import record_export
from crm.clients.queries import client_matches
from crm.db import day_of, db, transaction
from crm.exchange import excel
from crm.i18n import day
from crm.tills.models import Till, TillKind
from crm.tills.movements import Movement, of_tills

# Of each, what it holds could be added up from the rest.
SUMS = ("came_in", "went_out", "amount")
# What totals can be grouped by: "day" and columns of the grid.
DIMENSIONS = ("day", "branch", "till", "method", "kind", "author_name", "employee")
BY_DEFAULT = ("day", "method")
ROWS_SHOWN = 1000


def zones_in_sight() -> dict[str, list[int]]:
    """The branches a person sees now, by their time zone."""
    zones: dict[str, list[int]] = {}
    for branch in g.branches:
        if g.scope.covers(branch.id):
            zones.setdefault(branch.time_zone, []).append(branch.id)
    return zones


class BranchMomentKind(MomentKind):
    """An instant whose days are those of the row's own branch, wherever the reader sits."""

    def begins(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return self._days(column, self.read(text, place), None, place)

    def ends(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return self._days(column, None, self.read(text, place), place)

    def between(self, column: Any, first: date, last: date, place: Place) -> sa.ColumnElement[bool]:
        return self._days(column, first, last, place)

    def _days(self, column: Any, first: date | None, last: date | None, place: Place) -> sa.ColumnElement[bool]:
        """Condition of the days from `first` to `last`, both included; None for without end on that side."""

        def span(*zones: str) -> sa.ColumnElement[bool]:
            """From where the first of the zones begins to where the last one ends."""
            places = [Place(zone) for zone in zones]
            ends = []
            if first is not None:
                ends.append(column >= min(self._midnight(first, there) for there in places))
            if last is not None:
                ends.append(column < max(self._midnight(last, there, days=1) for there in places))
            return sa.and_(*ends)

        zones = zones_in_sight()
        if len(zones) < 2:
            return span(next(iter(zones), place.time_zone))
        of_each = (sa.and_(Movement.branch_id.in_(ids), span(zone)) for zone, ids in zones.items())
        return sa.and_(span(*zones), sa.or_(*of_each))  # the span of them all is what an index can find


class BranchTillKind(ReferenceKind):
    """A till; in the network its branch is said where it is chosen: each has a «Касса»."""

    def __init__(self) -> None:
        super().__init__(Till, small=True)

    def choices(self) -> Sequence[tuple[str, Any]]:
        tills = db.session.scalars(
            sa.select(Till).options(sa.orm.selectinload(Till.branch)).order_by(Till.branch_id, Till.kind, Till.position)
        )
        is_one = g.scope.branch_id is not None
        return [(str(till.id), till.title if is_one else f"{till.branch.name}: {till.title}") for till in tills]


class OfTill(Kind):
    """A column of the movement's till: movements are found by the tills it holds for. told_by: which of Till's."""

    told_by: ClassVar[str]

    def of(self, texts: Sequence[str], place: Place) -> sa.ColumnElement[bool]:
        """Condition on Till: it is one of these."""
        return super().any_of(getattr(Till, self.told_by), list(texts), place)

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        return of_tills(self.of(texts, place))


class MovedTillKind(OfTill, BranchTillKind):
    told_by = "id"


class MovedMethodKind(OfTill, EnumKind):
    told_by = "kind"


class MovedBranchKind(OfTill, ReferenceKind):
    told_by = "branch_id"


@dataclass(frozen=True)
class Flow:
    """A line of the totals: values it is grouped by, and what moved."""

    keys: tuple[Any, ...]
    count: int
    came_in: Decimal
    went_out: Decimal

    @property
    def amount(self) -> Decimal:
        return self.came_in - self.went_out


@dataclass(frozen=True)
class Standing:
    """The money there at the beginning of the first day and at the end of the last one."""

    first: date
    last: date
    opening: Decimal
    closing: Decimal


class MovementView(KontoraView):
    entity = "cashflow"
    icon = "arrow-down-up"
    column_list = (
        *("happened_at", "till", "kind", "came_in", "went_out", "client", "comment", "author_name", "employee"),
        *("bill", "branch"),
    )
    column_details_list = ("transaction_id", "id", "happened_at", "till", "method", "kind", *SUMS, *column_list[5:])
    column_labels = {
        "id": _l("Entry"),
        "transaction_id": _l("Operation No."),
        "kind": _l("Operation"),
        "method": _l("Cash or cashless"),
        "amount": _l("Change"),
        "author_name": _l("Author of the operation"),
    }
    column_kinds = {
        "happened_at": BranchMomentKind(),
        "till": MovedTillKind(),
        "method": MovedMethodKind(TillKind),
        "branch": MovedBranchKind(Branch, small=True),
    }
    column_filters = (
        *(
            "happened_at",
            "till",
            "method",
            "kind",
            "came_in",
            "went_out",
            "author_name",
            "employee",
            "client",
            "branch",
        ),
    )
    # What an index holds: twenty million rows are not sorted for a page.
    column_sortable_list = ("id", "happened_at")
    column_totals = SUMS
    column_default_sort = "-happened_at"
    list_template = "admin/cashflow.html"
    empty_hint = _l("Money moves when clients pay, when it is refunded, and when it is moved between tills.")
    has_search = True

    def field_rules(self, row: Any = None) -> FieldRules:
        """Who does not see what clients pay, or what is in a till, does not see it here either."""
        rules = super().field_rules(row)
        hides_payments = "amount" in field_rules(current_user, "payment").hidden
        counts_blind = "balance" in field_rules(current_user, "till").hidden
        if not (hides_payments or counts_blind or {*SUMS} & rules.hidden):
            return rules
        return FieldRules(rules.hidden | {*SUMS}, rules.frozen)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Today"), (("f.happened_at.period", "today"),)),
            QuickFilter(_l("This month"), (("f.happened_at.period", "this_month"),)),
            QuickFilter(_l("In cash"), (("f.method.is", "cash"),)),
        ]

    def search_condition(self, text: str) -> Any:
        """The client, or the number of the operation."""
        of_client = client_matches(Movement.client_id, text, by=current_user)
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            return of_client
        # Not by OR: each has its own index.
        ways = (of_client, Movement.transaction_id == int(text))
        return Movement.id.in_(sa.union_all(*(sa.select(Movement.id).where(way).correlate(None) for way in ways)))

    def within_sight(self, query: Any) -> Any:
        return super().within_sight(query).where(of_tills())

    def loader_options(self) -> list[Any]:
        return [*super().loader_options(), sa.orm.selectinload(Movement.branch)]

    # --- totals -----------------------------------------------------------------------------------------------------

    @expose("/totals/")
    @permission("view")
    def totals_view(self) -> Any:
        """The totals of what the grid's filters leave, by day, branch, kind and so on: the rows add up to them."""
        selection, by = self._asked()
        flows = self._flows(selection, by)
        return self.render(
            "admin/cashflow_totals.html",
            selection=selection,
            by=by,
            dimensions=self._dimensions(),
            columns=[self._dimension_label(name) for name in by],
            flows=[(self._shown(flow, by), flow) for flow in flows[:ROWS_SHOWN]],
            total=_sum(flows),
            standing=self._standing(selection, _sum(flows)),
            is_cut=len(flows) > ROWS_SHOWN,
            periods=self._periods(selection, by),
            days_url=self._days_url(selection, by),
        )

    @expose("/totals/xlsx/")
    @permission("export")
    def totals_export(self) -> Any:
        """The same as Excel."""
        selection, by = self._asked()
        flows, title = self._flows(selection.as_meant(), by), f"{self.name}: {_('totals')}"
        columns = [
            excel.Column(
                str(self._dimension_label(name)), "date" if name == "day" else "text", 14 if name == "day" else 26
            )
            for name in by
        ]
        columns += [excel.Column(_("Operations"), "integer")]
        columns += [excel.Column(str(self.column(name).label), "money") for name in SUMS]
        with transaction():
            record_export(Movement.__tablename__, rows=len(flows), description=selection.url(), by=current_user)
        total = _sum(flows)
        rows: Iterator[list[Any]] = (
            [*self._values(flow, by), flow.count, flow.came_in, flow.went_out, flow.amount] for flow in flows
        )
        last = [_("Total"), *[None] * (len(by) - 1), total.count, total.came_in, total.went_out, total.amount]
        chunks = excel.export_file(columns, rows, title=title[:31], time_zone=None, totals=lambda: last)
        stamp = clock.local(clock.now(), self.here()).strftime("%Y-%m-%d")
        headers = {"Content-Disposition": excel.content_disposition(f"{title} {stamp}.xlsx".replace(":", ""))}
        return Response(chunks, mimetype=excel.XLSX, headers=headers)

    def _asked(self) -> tuple[Selection, list[str]]:
        """The rows and what they are grouped by; without any filter, of this month."""
        if {*SUMS} & self.field_rules().hidden:
            abort(403)
        args = MultiDict((key, value) for key, value in request.args.items(multi=True) if key != "by")
        if not args:
            args["f.happened_at.period"] = "this_month"
        known = self._dimensions()
        by = [name for name in known if name in request.args.getlist("by")]
        return Selection.from_args(self, args, self.here()), by or [name for name in BY_DEFAULT if name in known]

    @staticmethod
    def _periods(selection: Selection, by: Sequence[str]) -> list[tuple[Any, str, bool]]:
        """Periods a click away: (label, address, whether it is this one)."""
        others = {f"f.happened_at.{operator}": None for operator in ("from", "to", "is", "period")}
        asked = selection.values("happened_at", "period")
        return [
            (
                PERIODS[name],
                selection.url(**{**others, "f.happened_at.period": name, "page": None, "by": list(by)}),
                asked == (name,),
            )
            for name in ("today", "yesterday", "this_week", "this_month", "last_month", "this_year")
        ]

    def _days_url(self, selection: Selection, by: Sequence[str]) -> str:
        """The same days, told from one to another, to be changed."""
        first, last = _days_asked(selection, self.here()) or (None, None)
        days = {"from": first, "to": last, "is": None, "period": None}
        ends = {f"f.happened_at.{name}": end.isoformat() if end else None for name, end in days.items()}
        return selection.url(**{**ends, "page": None, "by": list(by)})

    def _dimensions(self) -> dict[str, Any]:
        """What this person may group by here: {name: label}."""
        hidden = self.field_rules().hidden
        names = [name for name in DIMENSIONS if name not in hidden and (name != "branch" or g.scope.branch_id is None)]
        return {name: self._dimension_label(name) for name in names if name != "day" or "happened_at" not in hidden}

    def _dimension_label(self, name: str) -> Any:
        return _l("Day") if name == "day" else self.column(name).label

    def _flows(self, selection: Selection, by: Sequence[str]) -> list[Flow]:
        """The sums of each group: latest day first, then as the groups are called."""
        keys = [
            (self._day(selection) if name == "day" else self.column(name).sql).label(f"by{place}")
            for place, name in enumerate(by)
        ]
        sums = [sa.func.coalesce(sa.func.sum(self.column(name).sql), 0) for name in ("came_in", "went_out")]
        found = db.session.execute(selection.aggregate(*keys, sa.func.count(), *sums).group_by(*keys))
        flows = [
            Flow(tuple(values), count, Decimal(came_in), Decimal(went_out))
            for *values, count, came_in, went_out in found
        ]

        def order(flow: Flow) -> list[Any]:
            shown = zip(flow.keys, self._values(flow, by), strict=True)
            return [-key.toordinal() if isinstance(key, date) else str(value or "") for key, value in shown]

        return sorted(flows, key=order)

    def _day(self, selection: Selection) -> Any:
        """SQL of the day of a movement in its branch's time zone."""
        begin, end = db.session.execute(
            selection.aggregate(sa.func.min(Movement.happened_at), sa.func.max(Movement.happened_at))
        ).one()
        begin = begin or clock.now()
        end = max(end or begin, begin)
        zones = zones_in_sight() or {self.here().time_zone: []}
        days = {zone: day_of(Movement.happened_at, begin, end, ZoneInfo(zone)) for zone in zones}
        *others, last = zones
        cases = [(Movement.branch_id.in_(zones[zone]), days[zone]) for zone in others]
        return sa.case(*cases, else_=days[last]) if cases else days[last]

    def _values(self, flow: Flow, by: Sequence[str]) -> list[Any]:
        """What a group is called, as values of a sheet."""
        names: dict[str, Any] = g.setdefault("flow_names", {})
        values = []
        for name, key in zip(by, flow.keys, strict=True):
            kind = None if name == "day" else self.column(name).kind
            if isinstance(kind, ReferenceKind):
                if name not in names:
                    names[name] = dict(kind.choices()) if name == "till" else labels_of(kind.target)
                key = names[name].get(str(key) if name == "till" else key)
            elif isinstance(kind, EnumKind):
                key = str(key.label)
            values.append(key)
        return values

    def _shown(self, flow: Flow, by: Sequence[str]) -> list[str | Markup]:
        return [day(value) if isinstance(value, date) else value or "—" for value in self._values(flow, by)]

    def _standing(self, selection: Selection, total: Flow) -> Standing | None:
        """The money there before and after the days asked for; None unless whole tills are asked for, from a day on.

        Counted back from what there is now, so that only the movements since then are read.
        """
        days = _days_asked(selection, self.here())
        others = [item for item in selection.filters if item.name != "happened_at"]
        kinds = [item.column.kind for item in others if item.column and isinstance(item.column.kind, OfTill)]
        is_whole = len(kinds) == len(others) and all(item.operator == "is" and not item.group for item in others)
        if days is None or selection.search or not is_whole:
            return None
        there = sa.select(Till.balance).select_from(Till)
        for item, kind in zip(others, kinds, strict=True):
            there = there.where(kind.of(item.values, self.here()))
        column = there.subquery().c[0]
        now = Decimal(db.session.scalar(sa.select(sa.func.coalesce(sa.func.sum(column), 0))) or 0)
        first, last = days
        pairs = [(key, value) for key, value in selection.args(page=None) if not key.startswith("f.happened_at.")]
        since_args = MultiDict([*pairs, ("f.happened_at.from", first.isoformat())])
        since = Selection.from_args(self, since_args, self.here())
        moved = Decimal(db.session.scalar(since.aggregate(sa.func.coalesce(sa.func.sum(Movement.amount), 0))) or 0)
        opening = now - moved
        return Standing(first, last, opening, opening + total.amount)


def _days_asked(selection: Selection, place: Place) -> tuple[date, date] | None:
    """First and last day of a selection whose only filter of time is a period, or from a day on."""
    today = clock.today(place)
    filters = {f"{item.group}{item.operator}": item.values for item in selection.filters if item.name == "happened_at"}
    if selection.doubt is not None or any(len(values) != 1 for values in filters.values()):
        return None
    if filters.keys() == {"period"}:
        return days_of(filters["period"][0], today)
    if filters.keys() == {"is"}:
        return date.fromisoformat(filters["is"][0]), date.fromisoformat(filters["is"][0])
    if filters.keys() in ({"from"}, {"from", "to"}):
        first = date.fromisoformat(filters["from"][0])
        last = date.fromisoformat(filters["to"][0]) if "to" in filters else max(first, today)
        return (first, last) if first <= last else None
    return None


def _sum(flows: Sequence[Flow]) -> Flow:
    nothing = Decimal(0)
    return Flow(
        (),
        sum(flow.count for flow in flows),
        sum((flow.came_in for flow in flows), nothing),
        sum((flow.went_out for flow in flows), nothing),
    )
