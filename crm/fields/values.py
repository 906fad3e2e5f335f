"""What a value of each type of field is: in Python, in the JSON column, in SQL, as text. One small class each.

In the JSON column values are such that the database compares them: sums and numbers as integers of their smallest
unit, days as ISO text, phones as E.164, options by key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from babel.numbers import format_decimal
from flask_babel import get_locale
from flask_babel import gettext as _
from sqlalchemy import Dialect
from sqlalchemy.types import TypeDecorator

from crm.db import MAX_AMOUNT, Money, Phone
from crm.fields.models import CustomField, FieldType
from crm.i18n import day, money
from crm.phones import format_phone, parse_phone

MAX_TEXT = 2000
PLACES = 6  # digits after the comma of a number
_UNIT = Decimal(1).scaleb(-PLACES)
_BEYOND = 10**12  # no number reaches it: 18 digits in all fit into the database


class Number(TypeDecorator[Decimal]):
    """Decimal in Python, whole millionths in the database: exact on SQLite too."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        if isinstance(value, float):
            raise TypeError("numbers are Decimal, never float")
        return None if value is None else int(Decimal(value).scaleb(PLACES))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else plain_number(_UNIT * int(value))


class IsoDate(TypeDecorator[date]):
    """A day as ISO text, which sorts as days do."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return value.isoformat() if isinstance(value, date) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> date | None:
        return None if value is None else date.fromisoformat(value)


class OptionKeys(TypeDecorator[list[str]]):
    """Keys of the chosen options; in SQL the text of a JSON list."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> list[str] | None:
        return None if value is None else list(json.loads(value))


def plain_number(value: Decimal) -> Decimal:
    """Without zeros that say nothing: 180 for 180.000000."""
    value = value.normalize()
    return value.quantize(Decimal(1)) if value == value.to_integral_value() else value


# Whole groups of three or no groups: `12 34` is a slip of the finger, not 1234.
_NUMBER = re.compile(r"[-−]?\s?(?:[0-9]{1,15}|[0-9]{1,3}(?:\s[0-9]{3})+)(?:[.,][0-9]*)?|[-−]?[.,][0-9]+")


def read_number(text: str) -> Decimal:
    """A number as people type it: `1 234,5`, `-0.25`. Raises ValueError with the reason."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(_("Enter a number, for example 12 or 0,5."))
    value = Decimal(re.sub(r"\s", "", text).replace(",", ".").replace("−", "-"))
    if abs(value) >= _BEYOND:
        raise ValueError(_("The number is too large."))
    return value


class ValueType:
    """Text, and the base of the others. Methods that refuse raise ValueError with a text for the person."""

    def sql(self, column: Any, key: str) -> Any:
        """Typed SQL expression of the value of `key` in a `custom` column; NULL when it is empty."""
        return column[key].as_string()

    def load(self, raw: Any) -> Any:
        """From the JSON column."""
        return raw

    def dump(self, value: Any, field: CustomField) -> Any:
        """For the JSON column; None for nothing."""
        text = str(value or "").replace("\x00", "").strip()
        if len(text) > MAX_TEXT:
            raise ValueError(_("Longer than %(count)s characters.", count=MAX_TEXT))
        return text or None

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        """As a person reads it in a letter or a contract. fields: the definitions under this key."""
        return "" if value is None else str(value)


class NumberValue(ValueType):
    def sql(self, column: Any, key: str) -> Any:
        return sa.type_coerce(sa.cast(column[key].as_string(), sa.BigInteger), Number)

    def load(self, raw: Any) -> Decimal | None:
        return None if raw is None else plain_number(_UNIT * int(raw))

    def dump(self, value: Any, field: CustomField) -> int | None:
        if value is None:
            return None
        scaled = Decimal(value).scaleb(PLACES)
        if scaled != scaled.to_integral_value():
            raise ValueError(_("A number has six digits after the comma at most."))
        if abs(value) >= _BEYOND:
            raise ValueError(_("The number is too large."))
        return int(scaled)

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return "" if value is None else format_decimal(value, "#,##0.######", locale=get_locale() or "ru")


class MoneyValue(ValueType):
    def sql(self, column: Any, key: str) -> Any:
        return sa.type_coerce(sa.cast(column[key].as_string(), sa.BigInteger), Money)

    def load(self, raw: Any) -> Decimal | None:
        return None if raw is None else Decimal(raw) / 100

    def dump(self, value: Any, field: CustomField) -> int | None:
        if value is None:
            return None
        if isinstance(value, float):
            raise TypeError("amounts are Decimal, never float")
        minor = Decimal(value) * 100
        if minor != minor.to_integral_value():
            raise ValueError(_("A sum has two digits after the comma at most."))
        if abs(minor) > MAX_AMOUNT * 100:
            raise ValueError(_("Enter a sum above zero and not above 100 000 000."))
        return int(minor)

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return money(value)


class DateValue(ValueType):
    def sql(self, column: Any, key: str) -> Any:
        return sa.type_coerce(column[key].as_string(), IsoDate)

    def load(self, raw: Any) -> date | None:
        return None if raw is None else date.fromisoformat(raw)

    def dump(self, value: Any, field: CustomField) -> str | None:
        if value is None:
            return None
        if not date(1900, 1, 1) <= value < date(2200, 1, 1):
            raise ValueError(_("Enter a year between 1900 and 2199."))
        return str(value.isoformat())

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return day(value)


class ChoiceValue(ValueType):
    def dump(self, value: Any, field: CustomField) -> str | None:
        if not value:
            return None
        if value not in {option["key"] for option in field.options}:
            raise ValueError(_("Choose one of the options."))
        return str(value)

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return "" if value is None else labels_of(fields).get(value, value)


class ChoicesValue(ValueType):
    def sql(self, column: Any, key: str) -> Any:
        return sa.type_coerce(column[key].as_string(), OptionKeys)

    def load(self, raw: Any) -> list[str] | None:
        return raw or None

    def dump(self, value: Any, field: CustomField) -> list[str] | None:
        chosen, known = set(value or ()), [option["key"] for option in field.options]
        if chosen - set(known):
            raise ValueError(_("Choose one of the options."))
        return [key for key in known if key in chosen] or None

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        labels = labels_of(fields)
        return ", ".join(labels.get(key, key) for key in value or ())


class YesNoValue(ValueType):
    """Yes, no, or not known."""

    def sql(self, column: Any, key: str) -> Any:
        return column[key].as_boolean()

    def dump(self, value: Any, field: CustomField) -> bool | None:
        return None if value is None else bool(value)

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return "" if value is None else _("yes") if value else _("no")


class LinkValue(ValueType):
    def dump(self, value: Any, field: CustomField) -> str | None:
        text = super().dump(value, field)
        if text is None:
            return None
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", text):
            raise ValueError(_("Enter an address that begins with https:// or http://."))
        return str(text)


class PhoneValue(ValueType):
    def sql(self, column: Any, key: str) -> Any:
        return sa.type_coerce(column[key].as_string(), Phone)

    def dump(self, value: Any, field: CustomField) -> str | None:
        return parse_phone(str(value or ""))

    def text(self, value: Any, fields: Sequence[CustomField]) -> str:
        return format_phone(value)


VALUES: dict[FieldType, ValueType] = {
    FieldType.TEXT: ValueType(),
    FieldType.NUMBER: NumberValue(),
    FieldType.MONEY: MoneyValue(),
    FieldType.DATE: DateValue(),
    FieldType.CHOICE: ChoiceValue(),
    FieldType.CHOICES: ChoicesValue(),
    FieldType.YES_NO: YesNoValue(),
    FieldType.LINK: LinkValue(),
    FieldType.PHONE: PhoneValue(),
}


def labels_of(fields: Sequence[CustomField]) -> dict[str, str]:
    """Labels of the options by key; where companies call one differently, both."""
    found: dict[str, str] = {}
    for field in fields:
        for option in field.options:
            known = found.get(option["key"])
            label = option["label"]
            found[option["key"]] = label if known in (None, label) else f"{known} / {label}"
    return found
