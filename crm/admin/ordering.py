"""Orders of a grid that a database reads straight from an index, at any depth.

Blanks come last in both directions, enums in the order they are declared, references by the name of what they point at.
No index holds such an order; but it is a few *ranges*, one after another, each of which an index does hold: the
filled rows, then the blank ones; one status, then the next. A page is the first rows of its ranges, a cursor (the keys
of a row) cuts off the ranges before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, eq=False)
class SortKey:
    """What rows are ordered by.

    expression: SQL of the value. blank: SQL condition of "nothing there"; None when there always is something.
    ranks: all values in their order, when that is not the database's own. join: (table, condition) the value is in,
    with one row at most for each row of the grid.
    """

    expression: Any
    blank: Any = None
    ranks: tuple[Any, ...] | None = None
    join: tuple[Any, Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the order is the database's own."""
        return self.blank is None and self.ranks is None

    def is_blank(self, value: Any) -> bool:
        return self.blank is not None and (value is None or value == "")

    def terms(self, expression: Any, *, is_descending: bool, is_backwards: bool) -> list[Any]:
        """ORDER BY of `expression`, which holds this key's value; backwards, the blanks come first."""
        terms: list[Any] = []
        if self.blank is not None:
            blank = sa.or_(expression.is_(None), expression == "") if _is_text(expression) else expression.is_(None)
            place = sa.case((blank, 1), else_=0)
            terms.append(place.desc() if is_backwards else place.asc())
        if self.ranks is not None:
            places = [(expression == value, place) for place, value in enumerate(self.ranks)]
            expression = sa.case(*places, else_=len(self.ranks)) if places else sa.literal(0)
        terms.append(expression.desc() if is_descending != is_backwards else expression.asc())
        return terms


def _is_text(expression: Any) -> bool:
    return isinstance(expression.type, sa.String) and not isinstance(expression.type, sa.Enum)


@dataclass(frozen=True)
class Order:
    """A key and its direction."""

    key: SortKey
    is_descending: bool


@dataclass(frozen=True)
class Range:
    """Rows that fulfil `conditions`, ordered by `orders`; the keys in `fixed` have one value there, those in `blank`
    none.
    """

    conditions: tuple[Any, ...]
    orders: tuple[Order, ...]
    fixed: tuple[SortKey, ...] = ()
    blank: tuple[SortKey, ...] = ()

    def where(self, key: SortKey, condition: Any) -> Range:
        return replace(self, conditions=(condition, *self.conditions), fixed=(key, *self.fixed))

    def where_blank(self, keys: Sequence[SortKey]) -> Range:
        return replace(self, conditions=(keys[0].blank, *self.conditions), blank=(*keys, *self.blank))


class Ordering:
    """The order of a grid: its keys, the last of which is unique."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = tuple(orders)

    def all_rows(self, *, is_backwards: bool = False) -> list[Range]:
        """Ranges of all rows; backwards from the last one, each in reverse order."""
        return list(_all(self.orders, is_backwards))

    def beyond(self, values: Sequence[Any], *, is_backwards: bool = False) -> list[Range]:
        """Ranges of the rows after the one with these keys; backwards, of those before it, nearest first.

        Raises ValueError when no row can have them.
        """
        if len(values) != len(self.orders):
            raise ValueError("another number of keys")
        return list(_beyond(self.orders, values, is_backwards))

    def select(
        self,
        query: Any,
        ranges: Sequence[Range],
        *,
        limit: int,
        offset: int = 0,
        is_backwards: bool = False,
        is_sparse: bool = False,
    ) -> Any:
        """SELECT of the keys k0, k1, … of the first rows of the ranges, out of `query`, a SELECT of nothing yet.

        It reads the ranges in their order until there are enough rows; is_sparse: it finds the rows first, by whatever
        index their conditions have, and sorts them, for rows so rare that one would read on and on.
        """
        parts = [self._part(query, item) for item in ranges]
        if not is_sparse:
            parts = [
                part.order_by(*_terms(((order, order.key.expression) for order in item.orders), is_backwards, True))
                for part, item in zip(parts, ranges, strict=True)
            ]
            if len(parts) == 1:
                return parts[0].limit(limit).offset(offset or None)
            parts = [part.limit(limit + offset) for part in parts]
        united = sa.union_all(
            *(
                sa.select(part.subquery(), sa.literal_column(str(number)).label("part"))
                for number, part in enumerate(parts)
            )
        )
        found: Any = united.cte().prefix_with("MATERIALIZED") if is_sparse else united.subquery()
        keys = [found.c[f"k{place}"] for place in range(len(self.orders))]
        return (
            sa.select(*keys)
            .order_by(found.c.part, *_terms(zip(self.orders, keys, strict=True), is_backwards))
            .limit(limit)
            .offset(offset or None)
        )

    def _part(self, query: Any, item: Range) -> Any:
        columns = []
        for place, order in enumerate(self.orders):
            key = order.key
            value = sa.cast(sa.null(), key.expression.type) if key in item.blank else key.expression
            columns.append(value.label(f"k{place}"))
        query = query.add_columns(*columns).where(*item.conditions)
        first, *rest = (order.key for order in item.orders)
        return _join(query, certain=[*item.fixed, first], others=rest)

    def apply(self, query: Any) -> Any:
        """`query` ordered, all of it: no index helps."""
        query = _join(query, certain=(), others=[order.key for order in self.orders])
        return query.order_by(*_terms(((order, order.key.expression) for order in self.orders), False))


def _join(query: Any, *, certain: Sequence[SortKey], others: Sequence[SortKey]) -> Any:
    """Join the tables of the keys; where something is certain to be there, the database may begin from that table."""
    joined: list[Any] = []
    for is_certain, keys in ((True, certain), (False, others)):
        for key in keys:
            if key.join is None or any(key.join[0] is table for table in joined):
                continue
            table, condition = key.join
            joined.append(table)
            query = query.join(table, condition, isouter=key.blank is not None and not is_certain)
    return query


def _terms(orders: Iterable[tuple[Order, Any]], is_backwards: bool, is_first_filled: bool = False) -> list[Any]:
    """ORDER BY of the keys at their expressions; is_first_filled: the first key has no blanks and no ranks here."""
    terms: list[Any] = []
    for place, (order, expression) in enumerate(orders):
        key = SortKey(order.key.expression) if is_first_filled and place == 0 else order.key
        terms += key.terms(expression, is_descending=order.is_descending, is_backwards=is_backwards)
    return terms


def _all(orders: Sequence[Order], is_backwards: bool) -> Iterator[Range]:
    key = orders[0].key
    if key.is_plain:
        yield Range((), tuple(orders))
        return
    if is_backwards:
        yield from _blank(orders, is_backwards)
    yield from _filled(orders, is_backwards)
    if not is_backwards:
        yield from _blank(orders, is_backwards)


def _filled(orders: Sequence[Order], is_backwards: bool) -> Iterator[Range]:
    """Ranges of the rows where the first key has a value."""
    (first, *rest) = orders
    key = first.key
    if key.ranks is None:
        yield Range(_not_blank(key), tuple(orders))
        return
    for value in _in_order(first, is_backwards):
        yield from (item.where(key, key.expression == value) for item in _all(rest, is_backwards))


def _blank(orders: Sequence[Order], is_backwards: bool) -> Iterator[Range]:
    """Ranges of the rows where the first key has none; nor have the others of the table it is joined from."""
    gone, rest = _split(orders)
    if gone[0].blank is not None:
        yield from (item.where_blank(gone) for item in _all(rest, is_backwards))


def _split(orders: Sequence[Order]) -> tuple[list[SortKey], list[Order]]:
    """The keys that are blank with the first one, and the orders that are left."""
    (first, *rest) = orders
    gone = [order.key for order in rest if order.key.join is not None and order.key.join is first.key.join]
    return [first.key, *gone], [order for order in rest if order.key not in gone]


def _not_blank(key: SortKey) -> tuple[Any, ...]:
    return () if key.blank is None else (sa.not_(key.blank),)


def _in_order(order: Order, is_backwards: bool) -> Sequence[Any]:
    ranks = order.key.ranks or ()
    return ranks[::-1] if order.is_descending != is_backwards else ranks


def _beyond(orders: Sequence[Order], values: Sequence[Any], is_backwards: bool) -> Iterator[Range]:
    (first, *rest), (value, *others) = orders, values
    key = first.key
    if not rest:
        yield Range((_further(first, value, is_backwards),), tuple(orders))
        return
    if key.is_blank(value):
        gone, left = _split(orders)
        kept = [part for order, part in zip(rest, others, strict=True) if order in left]
        yield from (item.where_blank(gone) for item in _beyond(left, kept, is_backwards))
        if is_backwards:
            yield from _filled(orders, is_backwards)
        return
    if value is None:
        raise ValueError("a key that is never blank")
    if key.ranks is not None:
        sequence = _in_order(first, is_backwards)
        place = sequence.index(value)
        yield from (item.where(key, key.expression == sequence[place]) for item in _beyond(rest, others, is_backwards))
        for later in sequence[place + 1 :]:
            yield from (item.where(key, key.expression == later) for item in _all(rest, is_backwards))
    elif all(item.key.is_plain and item.is_descending == first.is_descending for item in rest):
        # One comparison of rows, which an index over the keys answers with a single descent.
        here = sa.tuple_(*(item.key.expression for item in orders))
        there = sa.tuple_(
            *(sa.bindparam(None, part, item.key.expression.type) for item, part in zip(orders, values, strict=True))
        )
        conditions = [here < there if first.is_descending != is_backwards else here > there, *_not_blank(key)]
        if key.join is not None or _of_several_tables(orders):  # no index spans two: begin at the right place at least
            conditions.append(_further(first, value, is_backwards, is_inclusive=True))
        yield Range(tuple(conditions), tuple(orders))
    else:
        yield from (item.where(key, key.expression == value) for item in _beyond(rest, others, is_backwards))
        yield Range((_further(first, value, is_backwards), *_not_blank(key)), tuple(orders))
    if not is_backwards:
        yield from _blank(orders, is_backwards)


def _of_several_tables(orders: Sequence[Order]) -> bool:
    """Whether the keys are of several tables, as those of a model mapped onto a join can be."""
    columns = [getattr(getattr(order.key.expression, "property", None), "columns", [None])[0] for order in orders]
    return len({table for column in columns if (table := getattr(column, "table", None)) is not None}) > 1


def _further(order: Order, value: Any, is_backwards: bool, *, is_inclusive: bool = False) -> Any:
    """Condition: the value lies further in the order than `value`."""
    expression = order.key.expression
    value = sa.bindparam(None, value, expression.type)  # SQLAlchemy takes yes and no for words of SQL, and refuses them
    if order.is_descending != is_backwards:
        return expression <= value if is_inclusive else expression < value
    return expression >= value if is_inclusive else expression > value
