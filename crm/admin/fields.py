"""Form fields for our column types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import sqlalchemy as sa
from flask_babel import gettext as _
from wtforms import Field, SelectField, SelectMultipleField, validators
from wtforms.fields.choices import Choice, SelectChoice
from wtforms.widgets import CheckboxInput, ListWidget, TextInput

from crm.db import LabelEnum, db
from crm.i18n import money


class MoneyField(Field):
    """A sum as people type it: `1 234,50`, `1234.5`, with or without ₽. Data: Decimal of two decimals, or None."""

    widget = TextInput()

    def __init__(self, label: Any = None, rules: Sequence[Any] = (), **kwargs: Any) -> None:
        kwargs.setdefault("render_kw", {"inputmode": "decimal", "autocomplete": "off", "class": "text-end"})
        super().__init__(label, rules or [validators.Optional()], **kwargs)

    def _value(self) -> str:
        if self.raw_data:
            return str(self.raw_data[0])
        return money(self.data) if self.data is not None else ""

    def process_formdata(self, valuelist: list[str]) -> None:
        text = (valuelist[0] if valuelist else "").strip()
        if not text:
            self.data = None
            return
        plain = text.replace("\xa0", "").replace("\u202f", "").replace(" ", "").replace("₽", "").replace(",", ".")
        try:
            value = Decimal(plain)
        except InvalidOperation:
            raise ValueError(_("Enter a sum in numbers, for example 1500 or 99,90.")) from None
        if not value.is_finite() or value != value.quantize(Decimal("0.01")):
            raise ValueError(_("A sum has two digits after the comma at most."))
        if abs(value) > Decimal("100000000"):
            raise ValueError(_("Enter a sum above zero and not above 100 000 000."))
        self.data = value


class EnumField(SelectField):
    """One member of a LabelEnum (of `members`, all by default)."""

    def __init__(
        self,
        cls: type[LabelEnum],
        label: Any = None,
        *,
        members: Iterable[LabelEnum] | None = None,
        is_optional: bool = False,
        **kwargs: Any,
    ) -> None:
        self.cls = cls
        choices = [SelectChoice(member.value, member.label) for member in members or cls]
        super().__init__(
            label,
            [validators.Optional()] if is_optional else [],
            choices=[SelectChoice("", "—"), *choices] if is_optional else choices,
            coerce=self._member,
            **kwargs,
        )

    def _member(self, value: Any) -> LabelEnum | None:
        if value is None or value == "":
            return None
        return value if isinstance(value, self.cls) else self.cls(value)  # type: ignore[call-arg]

    def iter_choices(self) -> Any:
        current = self.data.value if isinstance(self.data, self.cls) else self.data or ""
        return [Choice(item.value, item.label, item.value == current, {}) for item in self.choices]

    def pre_validate(self, form: Any) -> None:
        allowed = {item.value for item in self.choices}
        if (self.data.value if self.data else "") not in allowed:
            raise validators.ValidationError(_("Choose one of the options."))


def _rows(target: type[Any], query: Callable[[], Iterable[Any]] | None) -> list[Any]:
    return list(query() if query else db.session.scalars(sa.select(target).order_by(target.name)))


class ReferenceField(SelectField):
    """A row of a small table; `query` narrows what is offered and accepted. Data: the row or None."""

    def __init__(
        self,
        target: type[Any],
        label: Any = None,
        *,
        query: Callable[[], Iterable[Any]] | None = None,
        is_optional: bool = False,
        **kwargs: Any,
    ) -> None:
        self.rows = {str(row.id): row for row in _rows(target, query)}
        choices = [SelectChoice(key, str(row)) for key, row in self.rows.items()]
        super().__init__(
            label,
            [validators.Optional()] if is_optional else [],
            choices=[SelectChoice("", "—"), *choices] if is_optional or len(choices) != 1 else choices,
            coerce=self._row,
            **kwargs,
        )
        self.is_optional = is_optional

    def _row(self, value: Any) -> Any:
        return value if value is None or not isinstance(value, str) else self.rows.get(value)

    def iter_choices(self) -> Any:
        current = str(self.data.id) if self.data is not None else ""
        return [Choice(item.value, item.label, item.value == current, {}) for item in self.choices]

    def pre_validate(self, form: Any) -> None:
        if self.data is None and not self.is_optional:
            raise validators.StopValidation(_("Choose one of the options."))
        if self.data is not None and str(self.data.id) not in self.rows:
            raise validators.StopValidation(_("Choose one of the options."))


class ReferencesField(SelectMultipleField):
    """Several rows of a small table as checkboxes. Data: list of rows."""

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()

    def __init__(
        self, target: type[Any], label: Any = None, *, query: Callable[[], Iterable[Any]] | None = None, **kwargs: Any
    ) -> None:
        self.rows = {str(row.id): row for row in _rows(target, query)}
        super().__init__(
            label, choices=[SelectChoice(key, str(row)) for key, row in self.rows.items()], coerce=self._row, **kwargs
        )

    def _row(self, value: Any) -> Any:
        return self.rows.get(value) if isinstance(value, str) else value

    def process_data(self, value: Any) -> None:
        self.data = list(value or [])

    def process_formdata(self, valuelist: list[str]) -> None:
        self.data = [self.rows[key] for key in valuelist if key in self.rows]

    def iter_choices(self) -> Any:
        current = {str(row.id) for row in self.data or []}
        return [Choice(item.value, item.label, item.value in current, {}) for item in self.choices]

    def pre_validate(self, form: Any) -> None:
        """Unknown keys never reach the data."""
