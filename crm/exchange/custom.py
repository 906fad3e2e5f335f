"""Columns for the fields staff have added: found by their names, read by their types."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from functools import partial
from typing import Any

from flask_babel import gettext as _

from crm.errors import DomainError
from crm.exchange import values
from crm.exchange.reading import Field, cell_text, comparable, is_blank
from crm.fields.models import CustomField, FieldType
from crm.fields.queries import shown_fields
from crm.fields.values import VALUES

BAD = "bad_field"
_YES, _NO = frozenset({"да", "yes", "true", "1", "есть"}), frozenset({"нет", "no", "false", "0"})


def custom_fields(entity: str, company_ids: Collection[int]) -> tuple[Field, ...]:
    """A column for each field all of these companies have, named `custom.<key>`; cells become what set_custom takes."""
    by_key: dict[str, list[CustomField]] = {}
    for field in shown_fields(entity, company_ids):
        by_key.setdefault(field.key, []).append(field)
    return tuple(
        Field(
            fields[0].name,
            tuple(dict.fromkeys(field.label for field in fields)),
            partial(_parse, fields),
            BAD,
            is_required=any(field.is_required for field in fields),
            label=fields[0].label,
        )
        for fields in by_key.values()
        if {field.company_id for field in fields} == set(company_ids)
    )


def _parse(fields: Sequence[CustomField], cell: Any) -> Any:
    if is_blank(cell):
        if any(field.is_required for field in fields):
            raise DomainError("empty", _("Fill in this field."))
        return None
    value = _read(fields, cell)
    for field in fields:
        try:
            VALUES[field.type].dump(value, field)
        except ValueError as error:
            raise DomainError("field_invalid", str(error)) from None
    return value


def _read(fields: Sequence[CustomField], cell: Any) -> Any:
    kind = fields[0].type
    if kind is FieldType.MONEY:
        return values.parse_amount(cell)
    if kind is FieldType.NUMBER:
        return values.parse_number(cell)
    if kind is FieldType.DATE:
        return values.parse_day(cell, today=date(2199, 12, 31))
    if kind is FieldType.PHONE:
        return values.parse_phone(cell)
    if kind is FieldType.YES_NO:
        word = comparable(cell_text(cell))
        if word not in _YES | _NO:
            raise DomainError("field_invalid", _("“%(value)s” is neither yes nor no.", value=cell_text(cell)[:60]))
        return word in _YES
    if kind is FieldType.CHOICE:
        return _option(fields, cell_text(cell))
    if kind is FieldType.CHOICES:
        return [_option(fields, part) for part in cell_text(cell).replace(";", ",").split(",") if part.strip()]
    return values.parse_text(cell)


def _option(fields: Sequence[CustomField], text: str) -> str:
    known = {comparable(option["label"]): option["key"] for field in fields for option in field.options}
    if (key := known.get(comparable(text))) is None:
        raise DomainError("field_invalid", _("There is no option “%(value)s”.", value=text.strip()[:60]))
    return key
