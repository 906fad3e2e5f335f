"""Custom fields as columns of a view: one kind and one form field per type, so grids, forms, filters, files and cells
take them like any other column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from markupsafe import Markup
from wtforms import SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import Length, Optional

from crm.admin.column import GridColumn
from crm.admin.fields import REQUIRED, ChoicesField, DateField, MoneyField, NumberField, PhoneField
from crm.admin.kinds import NOTHING, BadFilter, BoolKind, DateKind, Kind, MoneyKind, PhoneKind, Place, RangeKind
from crm.fields.models import CustomField, FieldType
from crm.fields.values import MAX_TEXT, VALUES, labels_of, read_number


class NumberKind(RangeKind):
    """An exact number, whole or not."""

    excel = "number"
    css = "text-end tabular text-nowrap"
    width = 14

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else VALUES[FieldType.NUMBER].text(value, ())

    def export(self, value: Any) -> Any:
        return value

    def read(self, text: str, place: Place) -> Decimal:
        try:
            return read_number(text)
        except ValueError:
            raise BadFilter(_("“%(text)s” is not a number.", text=text)) from None

    def recall(self, value: Any) -> Any:
        return VALUES[FieldType.NUMBER].load(value)


class CustomMoneyKind(MoneyKind):
    def recall(self, value: Any) -> Any:
        return VALUES[FieldType.MONEY].load(value)


class ChoiceKind(Kind):
    """One of the options of a field."""

    operators = ("is", "not", "empty")
    width = 18

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels

    def show(self, value: Any, place: Place) -> str | Markup:
        return self.labels.get(value, value) if value else NOTHING

    def export(self, value: Any) -> Any:
        return self.labels.get(value, value)

    def choices(self) -> Sequence[tuple[str, Any]]:
        return list(self.labels.items())

    def read(self, text: str, place: Place) -> str:
        if text not in self.labels:
            raise BadFilter(_("“%(text)s” is not one of the choices.", text=text))
        return text


class ChoicesKind(ChoiceKind):
    """Several of the options; a filter finds who has any of them."""

    is_sortable = False
    width = 24

    def show(self, value: Any, place: Place) -> str | Markup:
        return self.export(value) or NOTHING

    def export(self, value: Any) -> Any:
        return ", ".join(self.labels.get(key, key) for key in value or ()) or None

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        text = sa.type_coerce(column, sa.String)
        return sa.or_(*(text.contains(f'"{self.read(key, place)}"', autoescape=True) for key in texts))


class YesNoKind(BoolKind):
    """Yes, no, or not known."""

    operators: ClassVar[tuple[str, ...]] = ("is", "empty")

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else super().show(value, place)


class LinkKind(Kind):
    """An address, which the row's own cell opens in a new window."""

    operators = ("has", "empty")
    is_sortable = True

    def show(self, value: Any, place: Place) -> str | Markup:
        if not value:
            return NOTHING
        name = value.partition("://")[2].removesuffix("/")
        short = name if len(name) <= 40 else f"{name[:39]}…"
        return Markup('<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>').format(value, short)


_KINDS: dict[FieldType, Callable[[Sequence[CustomField]], Kind]] = {
    FieldType.TEXT: lambda fields: Kind(),
    FieldType.NUMBER: lambda fields: NumberKind(),
    FieldType.MONEY: lambda fields: CustomMoneyKind(),
    FieldType.DATE: lambda fields: DateKind(),
    FieldType.CHOICE: lambda fields: ChoiceKind(labels_of(fields)),
    FieldType.CHOICES: lambda fields: ChoicesKind(labels_of(fields)),
    FieldType.YES_NO: lambda fields: YesNoKind(),
    FieldType.LINK: lambda fields: LinkKind(),
    FieldType.PHONE: lambda fields: PhoneKind(),
}
SUMMABLE = frozenset({FieldType.NUMBER, FieldType.MONEY})


@dataclass(frozen=True, eq=False)
class CustomColumn(GridColumn):
    """A column of the fields under one key: one of a company, or those of several companies in the network."""

    key: str = ""
    fields: tuple[CustomField, ...] = ()

    @property
    def type(self) -> FieldType:
        return self.fields[0].type

    @property
    def is_summable(self) -> bool:
        return self.type in SUMMABLE

    def value(self, row: Any) -> Any:
        return None if row is None else VALUES[self.type].load((row.custom or {}).get(self.key))

    def form_field(self) -> Any:
        """The field of a form, with the field's rules."""
        field = self.fields[0]
        is_required = all(item.is_required for item in self.fields)
        rules: list[Any] = [REQUIRED if is_required else Optional()]
        facts: dict[str, Any] = {"description": field.description}
        options = list(labels_of(self.fields).items())
        match self.type:
            case FieldType.TEXT:
                facts["render_kw"] = {"rows": 1, "class": "one-line"}
                return TextAreaField(field.label, [*rules, Length(max=MAX_TEXT)], **facts)
            case FieldType.LINK:
                facts["render_kw"] = {"inputmode": "url", "placeholder": "https://", "autocomplete": "off"}
                return StringField(field.label, [*rules, Length(max=MAX_TEXT)], **facts)
            case FieldType.CHOICE:
                choices = [SelectChoice("", "—"), *(SelectChoice(key, label) for key, label in options)]
                return SelectField(field.label, rules, choices=choices, coerce=lambda key: key or None, **facts)
            case FieldType.YES_NO:
                choices = [SelectChoice("", "—"), SelectChoice("1", _l("yes")), SelectChoice("0", _l("no"))]
                return SelectField(field.label, rules, choices=choices, coerce=_yes_or_no, **facts)
            case FieldType.CHOICES:
                return ChoicesField(field.label, rules, options=options, **facts)
        plain = {
            FieldType.NUMBER: NumberField,
            FieldType.MONEY: MoneyField,
            FieldType.DATE: DateField,
            FieldType.PHONE: PhoneField,
        }
        return plain[self.type](field.label, rules, **facts)


def _yes_or_no(value: Any) -> bool | None:
    return {"1": True, "0": False, True: True, False: False}.get(value)


def custom_columns(model: type[Any], fields: Iterable[CustomField]) -> list[CustomColumn]:
    """A column for each key, in the order of the fields."""
    by_key: dict[str, list[CustomField]] = {}
    for field in fields:
        by_key.setdefault(field.key, []).append(field)
    return [
        CustomColumn(
            name=f"custom.{key}",
            label=same[0].label,
            kind=_KINDS[same[0].type](same),
            sql=VALUES[same[0].type].sql(model.custom, key),
            is_custom=True,
            key=key,
            fields=tuple(same),
        )
        for key, same in by_key.items()
    ]
