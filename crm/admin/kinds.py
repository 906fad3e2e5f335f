"""Kinds: how a value of a column type is shown, filtered, totalled, edited and exported. One small class each.

A view never repeats what its columns' types already say; kind_of() finds the kind from the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from markupsafe import Markup
from sqlalchemy.orm import InstrumentedAttribute
from wtforms import BooleanField, IntegerField, StringField, TextAreaField, TimeField, validators

from crm import clock
from crm.access.actors import author_shown
from crm.admin.fields import (
    REQUIRED,
    DateField,
    EnumField,
    MoneyField,
    NumberedRowField,
    PhoneField,
    ReferenceField,
    rows_on_offer,
)
from crm.admin.periods import PERIODS, days_of
from crm.db import LabelEnum, Money, Phone, UtcDateTime
from crm.exchange.excel import ColumnType
from crm.i18n import day, moment, money, read_money
from crm.phones import format_phone, search_digits

NOTHING = Markup('<span class="text-body-tertiary">—</span>')


class BadFilter(ValueError):
    """A filter's value cannot be read; the text is for the person."""


class Place:
    """Time zone values are shown and filtered in, when the row has no branch of its own."""

    def __init__(self, time_zone: str) -> None:
        self.time_zone = time_zone


# What a filter's suffix is called where it is offered; a kind may name it otherwise.
OPERATOR_LABELS: dict[str, Any] = {
    "is": _lp("filter", "is any of"),
    "not": _lp("filter", "is none of"),
    "has": _l("contains"),
    "from": _l("from"),
    "to": _l("to"),
    "empty": _lp("filter", "is empty"),
    "period": _lp("filter", "in the period"),
}


class Kind:
    """Text and anything else without a better kind.

    excel: column type of exchange/excel.py; css: classes of the cell; operators: filter suffixes the kind understands,
    in the order they are offered; operator_labels: what they are called; is_sortable: whether the database can order by
    the column as people expect; is_editable: whether a form made from the schema holds it.
    """

    excel: ClassVar[ColumnType] = "text"
    css: ClassVar[str] = ""
    width: ClassVar[int] = 24
    is_sortable: ClassVar[bool] = True
    is_editable: ClassVar[bool] = True
    operators: ClassVar[tuple[str, ...]] = ("has", "is", "not", "empty")
    operator_labels: ClassVar[dict[str, Any]] = OPERATOR_LABELS
    input_type: ClassVar[str] = "text"

    def show(self, value: Any, place: Place) -> str | Markup:
        """The cell's HTML; plain text is escaped by the template."""
        return NOTHING if value is None or value == "" else str(value)

    def export(self, value: Any) -> Any:
        """The value as exchange/excel.py takes it."""
        return None if value is None else str(value)

    def exporter(self) -> Callable[[Any], Any]:
        """export() for the many values of one file, in the language of the person who asks for it."""
        return self.export

    def recall(self, value: Any) -> Any:
        """A value from the audit log, where it was kept as JSON."""
        return value

    def choices(self) -> Sequence[tuple[str, Any]]:
        """Options of an "any of" filter; empty when it has none."""
        return ()

    def condition(self, column: Any, operator: str, values: list[str], place: Place) -> sa.ColumnElement[bool]:
        """SQL condition of one filter; of several values any will do. Raises BadFilter, or KeyError for an operator."""
        if operator == "empty":
            if values[0] not in {"0", "1"}:
                raise BadFilter(_("“%(text)s” is not one of the choices.", text=values[0]))
            return self.blank(column) if values[0] == "1" else sa.not_(self.blank(column))
        if operator == "not":  # a blank is none of them
            return sa.or_(column.is_(None), sa.not_(self.condition(column, "is", values, place)))
        if operator == "is":
            return self.any_of(column, [value.strip() for value in values], place)
        conditions: dict[str, Callable[..., Any]] = {
            "has": self.contains,
            "from": self.begins,
            "to": self.ends,
            "period": self.within,
        }
        return sa.or_(*(conditions[operator](column, value.strip(), place) for value in values))

    def blank(self, column: Any) -> sa.ColumnElement[bool]:
        """Condition of "nothing there"."""
        return sa.or_(column.is_(None), column == "") if isinstance(column.type, sa.String) else column.is_(None)

    def read(self, text: str, place: Place) -> Any:
        """A value from the text of a filter, to compare the column with. Raises BadFilter."""
        return text.replace("\x00", "")

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        return column.in_([self.read(text, place) for text in texts])

    def contains(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return column.icontains(text.replace("\x00", ""), autoescape=True)

    def begins(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return column >= self.read(text, place)

    def ends(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return column <= self.read(text, place)

    def within(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        """Condition of a period of periods.py."""
        raise BadFilter(_("“%(text)s” is not one of the choices.", text=text))

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        """A form field for the column."""
        rules: list[Any] = [] if column.nullable else [REQUIRED]
        if isinstance(column.type, sa.Text):
            return TextAreaField(label, [validators.Optional()])
        length = getattr(column.type, "length", None)
        if length:
            rules.append(validators.Length(max=length))
        if column.default is not None and not column.nullable:
            rules[0] = validators.Optional()
        return StringField(label, rules)


class AuthorKind(Kind):
    """Who did a thing, or which payment service: what is no person has a name that people read."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return author_shown(value) if value else NOTHING

    def export(self, value: Any) -> Any:
        return author_shown(value) if value else None


class PhoneKind(Kind):
    css = "text-nowrap"
    width = 18
    operators = ("has", "empty")

    def show(self, value: Any, place: Place) -> str | Markup:
        return format_phone(value) if value else NOTHING

    def export(self, value: Any) -> Any:
        return format_phone(value) or None

    def contains(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        digits = search_digits(text)
        if not digits:
            raise BadFilter(_("Enter at least three digits of the number."))
        return sa.or_(*(sa.type_coerce(column, sa.String).contains(part) for part in digits))

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        return PhoneField(label, [validators.Optional() if column.nullable else REQUIRED])


class RangeKind(Kind):
    """Kinds of things that can be more or less."""

    operators: ClassVar[tuple[str, ...]] = ("from", "to", "is", "not", "empty")


class MoneyKind(RangeKind):
    excel = "money"
    css = "text-end tabular text-nowrap"
    width = 14
    input_type = "text"

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else money(value)

    def export(self, value: Any) -> Any:
        return value

    def read(self, text: str, place: Place) -> Decimal:
        try:
            return read_money(text)
        except ValueError:
            raise BadFilter(_("“%(text)s” is not a sum.", text=text)) from None

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        rules = [validators.NumberRange(min=0)]
        return MoneyField(label, [validators.Optional() if column.nullable else REQUIRED, *rules])

    def recall(self, value: Any) -> Any:
        return Decimal(value)


class BalanceKind(MoneyKind):
    """Money of a client's account: red when the client owes, green when he is ahead."""

    def show(self, value: Any, place: Place) -> str | Markup:
        if not value:
            return super().show(value, place)
        css = "debt" if value < 0 else "prepaid"
        return Markup('<span class="{}">{}</span>').format(css, money(value))


class IntegerKind(RangeKind):
    excel = "integer"
    css = "text-end tabular"
    width = 10
    input_type = "number"

    def export(self, value: Any) -> Any:
        return value

    def read(self, text: str, place: Place) -> int:
        try:
            number = int(text)
        except ValueError:
            raise BadFilter(_("“%(text)s” is not a whole number.", text=text)) from None
        if abs(number) >= 2**31:
            raise BadFilter(_("“%(text)s” is not a whole number.", text=text))
        return number

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        is_optional = column.nullable or column.default is not None
        rule = validators.Optional() if is_optional else REQUIRED
        return IntegerField(label, [rule, validators.NumberRange(0, 1_000_000)])


class LimitKind(IntegerKind):
    """How many at most; nothing: as many as there are."""

    width = 16

    def show(self, value: Any, place: Place) -> str | Markup:
        return _("no limit") if value is None else super().show(value, place)


class DateKind(RangeKind):
    operators = ("from", "to", "is", "period", "empty")
    operator_labels = {**OPERATOR_LABELS, "from": _lp("date", "from"), "to": _lp("date", "to")}
    excel: ClassVar[ColumnType] = "date"
    css = "text-nowrap tabular"
    width = 12
    input_type = "date"

    def show(self, value: Any, place: Place) -> str | Markup:
        return day(value) if value else NOTHING

    def export(self, value: Any) -> Any:
        return value

    def read(self, text: str, place: Place) -> date:
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise BadFilter(_("“%(text)s” is not a date.", text=text)) from None

    def periods(self) -> Sequence[tuple[str, Any]]:
        """Options of the filter by a period."""
        return list(PERIODS.items())

    def within(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        if text not in PERIODS:
            return super().within(column, text, place)
        return self.between(column, *days_of(text, clock.today(place)), place)

    def between(self, column: Any, first: date, last: date, place: Place) -> sa.ColumnElement[bool]:
        """Condition of the days from `first` to `last`, both included."""
        return sa.and_(column >= first, column <= last)

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        rule = validators.Optional() if column.nullable else REQUIRED
        return DateField(label, [rule])

    def recall(self, value: Any) -> Any:
        return date.fromisoformat(value)


class MomentKind(DateKind):
    """An instant, on the wall clock of the row's branch. Operations set it; nobody types it."""

    is_editable = False
    excel = "datetime"
    width = 17

    def show(self, value: Any, place: Place) -> str | Markup:
        return moment(value, place.time_zone) if value else NOTHING

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        days = [self.read(text, place) for text in texts]
        return sa.or_(*(self.between(column, day, day, place) for day in days))

    def begins(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return column >= self._midnight(self.read(text, place), place)

    def ends(self, column: Any, text: str, place: Place) -> sa.ColumnElement[bool]:
        return column < self._midnight(self.read(text, place), place, days=1)

    def between(self, column: Any, first: date, last: date, place: Place) -> sa.ColumnElement[bool]:
        return sa.and_(column >= self._midnight(first, place), column < self._midnight(last, place, days=1))

    @staticmethod
    def _midnight(day: date, place: Place, *, days: int = 0) -> datetime:
        """When the day so many days later begins at `place`."""
        try:
            return clock.at(day + timedelta(days), time(0), place)
        except OverflowError:
            raise BadFilter(_("“%(text)s” is not a date.", text=day.isoformat())) from None

    def recall(self, value: Any) -> Any:
        return datetime.fromisoformat(value)


class TimeKind(Kind):
    operators = ()
    css = "tabular"
    width = 8

    def show(self, value: Any, place: Place) -> str | Markup:
        return f"{value:%H:%M}" if value else NOTHING

    def recall(self, value: Any) -> Any:
        return time.fromisoformat(value)

    def export(self, value: Any) -> Any:
        return f"{value:%H:%M}" if value else None

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        return TimeField(label, [validators.Optional() if column.nullable else REQUIRED])


class BoolKind(Kind):
    excel = "bool"
    width = 8
    operators: ClassVar[tuple[str, ...]] = ("is",)

    def show(self, value: Any, place: Place) -> str | Markup:
        return _("yes") if value else _("no")

    def export(self, value: Any) -> Any:
        return value

    def choices(self) -> Sequence[tuple[str, Any]]:
        return [("1", _l("yes")), ("0", _l("no"))]

    def read(self, text: str, place: Place) -> bool:
        if text not in {"0", "1"}:
            raise BadFilter(_("“%(text)s” is not one of the choices.", text=text))
        return text == "1"

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        return BooleanField(label)


class EnumKind(Kind):
    """A LabelEnum, shown as quiet coloured text: class `is-<value>` is coloured by static/app.css."""

    operators: ClassVar[tuple[str, ...]] = ("is", "not", "empty")
    width = 18

    def __init__(self, cls: type[LabelEnum]) -> None:
        self.cls = cls

    def recall(self, value: Any) -> Any:
        return next((member for member in self.cls if member.value == value), None)

    def show(self, value: Any, place: Place) -> str | Markup:
        if value is None:
            return NOTHING
        return Markup('<span class="status is-%s">%s</span>') % (value.value, str(value.label))

    def export(self, value: Any) -> Any:
        return None if value is None else str(value.label)

    def exporter(self) -> Callable[[Any], Any]:
        return {member: self.export(member) for member in self.cls}.get

    def choices(self) -> Sequence[tuple[str, Any]]:
        return [(member.value, member.label) for member in self.cls]

    def read(self, text: str, place: Place) -> LabelEnum:
        for member in self.cls:
            if member.value == text:
                return member
        raise BadFilter(_("“%(text)s” is not one of the choices.", text=text))

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        return EnumField(self.cls, label, is_optional=bool(column.nullable))


class ReferenceKind(Kind):
    """A row of another table, shown by its str(). small: few enough to choose from a list."""

    operators = ("is", "not", "empty")

    def __init__(self, target: type[Any], *, small: bool) -> None:
        self.target, self.small = target, small

    def choices(self) -> Sequence[tuple[str, Any]]:
        if not self.small:
            return ()
        return [(str(row.id), str(row)) for row in rows_on_offer(self.target)]

    def read(self, text: str, place: Place) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise BadFilter(_("“%(text)s” is not one of the choices.", text=text))
        return int(text)

    def field(self, column: sa.Column[Any], label: Any) -> Any:
        field = ReferenceField if self.small else NumberedRowField
        return field(self.target, label, is_optional=bool(column.nullable))


class ListKind(Kind):
    """Several rows of another table, comma-separated."""

    operators: ClassVar[tuple[str, ...]] = ()
    is_sortable = False

    def show(self, value: Any, place: Place) -> str | Markup:
        return ", ".join(str(item) for item in value) or NOTHING

    def export(self, value: Any) -> Any:
        return ", ".join(str(item) for item in value)


class NamedListKind(ListKind):
    """A list that says something when it is empty: "everywhere" for no branch named."""

    def __init__(self, blank: Any) -> None:
        self.blank_text = blank

    def show(self, value: Any, place: Place) -> str | Markup:
        return super().show(value, place) if value else str(self.blank_text)


class JsonKind(Kind):
    """What changed, as the audit keeps it: {field: [old, new]}."""

    operators = ()
    is_sortable = is_editable = False
    css = "wrap"
    width = 60

    def show(self, value: Any, place: Place) -> str | Markup:
        lines = [
            Markup("{}: <del>{}</del> → {}").format(name, old, new)
            if old not in (None, "")
            else Markup("{}: {}").format(name, new)
            for name, (old, new) in (value or {}).items()
        ]
        return Markup("<br>").join(lines) or NOTHING

    def export(self, value: Any) -> Any:
        return "; ".join(f"{name}: {old} → {new}" for name, (old, new) in (value or {}).items())


# Tables small enough for a drop-down; anything else is found by search.
SMALL_TABLES = frozenset(
    {"branch", "city", "company", "plan", "account_type", "template", "mailing_rule", "employee", "user", "till"}
    | {"subject", "lesson_type", "room", "client_group"}
)


def kind_of(attribute: Any) -> Kind:
    """The kind the schema implies for a mapped column, a relationship, or a plain property."""
    if isinstance(attribute, InstrumentedAttribute):
        prop = attribute.property
        if isinstance(prop, sa.orm.RelationshipProperty):
            if prop.uselist:
                return ListKind()
            return ReferenceKind(prop.mapper.class_, small=prop.mapper.class_.__tablename__ in SMALL_TABLES)
        kind = prop.columns[0].type
        if isinstance(kind, sa.Enum) and kind.enum_class and issubclass(kind.enum_class, LabelEnum):
            return EnumKind(kind.enum_class)
        for cls, found in _BY_TYPE:
            if isinstance(kind, cls):
                return found
    return Kind()


_BY_TYPE: list[tuple[type[Any], Kind]] = [
    (Money, MoneyKind()),
    (UtcDateTime, MomentKind()),
    (Phone, PhoneKind()),
    (sa.Boolean, BoolKind()),
    (sa.Integer, IntegerKind()),
    (sa.Date, DateKind()),
    (sa.Time, TimeKind()),
    (sa.JSON, JsonKind()),
]
