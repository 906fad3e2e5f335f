"""The base of every form of the panel, and fields for our column types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
import wtforms
from babel.numbers import format_decimal
from flask import g
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from flask_wtf.i18n import translations
from wtforms import Field, PasswordField, SelectField, SelectMultipleField, StringField, validators
from wtforms.fields.choices import Choice, SelectChoice
from wtforms.widgets import CheckboxInput, ListWidget, TextInput

from crm.access.models import Branch, City
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.scope import current_scope
from crm.db import MAX_AMOUNT, LabelEnum, db
from crm.errors import DomainError
from crm.fields.values import read_number
from crm.i18n import money, read_money
from crm.phones import format_phone, parse_phone


class Form(wtforms.Form):
    """WTForms' own texts in the person's language; texts are trimmed and never None (PostgreSQL takes no NUL).

    HIDDEN, FROZEN: names of fields this person does not see, or sees and may not change: whatever is sent, they keep
    the value the row has. CUSTOM: columns of the fields staff have added, by name; `data` holds their values apart, by
    key, under "custom".
    """

    HIDDEN: ClassVar[frozenset[str]] = frozenset()
    FROZEN: ClassVar[frozenset[str]] = frozenset()
    CUSTOM: ClassVar[dict[str, Any]] = {}

    class Meta:
        def get_translations(self, form: Any) -> Any:
            return translations

        def bind_field(self, form: Any, unbound_field: Any, options: Any) -> Any:
            field_class = unbound_field.field_class
            if issubclass(field_class, StringField) and not issubclass(field_class, PasswordField):
                options = {**options, "filters": [_clean]}
            return unbound_field.bind(form=form, **options)

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        if obj is not None:
            kwargs |= {name: column.value(obj) for name, column in self.CUSTOM.items()}
        super().process(formdata, obj, *args, **kwargs)
        for name, field in self._fields.items():
            if name in self.HIDDEN or name in self.FROZEN:
                kept = kwargs.get(name, getattr(obj, name, None))
                field.process(None, kept) if obj is not None else field.process(None)
                field.validators = ()
                field.render_kw = {**(field.render_kw or {}), "disabled": True}

    @property
    def data(self) -> dict[str, Any]:
        """Values by field; those staff have added by key, under "custom", where there are any."""
        values = {name: field.data for name, field in self._fields.items() if name not in self.CUSTOM}
        custom = {
            column.key: self._fields[name].data
            for name, column in self.CUSTOM.items()
            if name in self._fields and name not in self.FROZEN
        }
        return {**values, "custom": custom} if custom else values

    def validate(self, *args: Any, **kwargs: Any) -> bool:
        """What could not be read says so, and no more."""
        is_valid = bool(super().validate(*args, **kwargs))
        for field in self:
            if field.errors and field.process_errors:
                field.errors = field.process_errors[:1]
        return is_valid


def _clean(text: str | None) -> str:
    return (text or "").replace("\x00", "").strip()


class Required(validators.InputRequired):
    """Something must be typed; spaces are nothing."""

    def __init__(self) -> None:
        super().__init__(_l("Fill in this field."))

    def __call__(self, form: Any, field: Any) -> None:
        if field.raw_data and isinstance(field.raw_data[0], str) and not _clean(field.raw_data[0]):
            field.raw_data = []
        super().__call__(form, field)


REQUIRED = Required()


class MoneyField(Field):
    """A sum as read_money() takes it, up to `most` above or below zero. Data: Decimal of two decimals, or None."""

    widget = TextInput()

    def __init__(
        self, label: Any = None, rules: Sequence[Any] = (), *, most: Decimal = MAX_AMOUNT, **kwargs: Any
    ) -> None:
        self.most = most
        kwargs["render_kw"] = {
            **{"inputmode": "decimal", "autocomplete": "off", "class": "text-end"},
            **kwargs.get("render_kw", {}),
        }
        super().__init__(label, rules or [validators.Optional()], **kwargs)

    def _value(self) -> str:
        if self.raw_data:
            return str(self.raw_data[0])
        return "" if self.data is None else format_decimal(self.data, "0.00", locale=get_locale())

    def process_formdata(self, valuelist: list[str]) -> None:
        text = (valuelist[0] if valuelist else "").strip()
        self.data = None
        if not text:
            return
        value = read_money(text)
        if abs(value) > self.most:
            text = _("Enter a sum above zero and not above 100 000 000.")
            raise ValueError(text if self.most == MAX_AMOUNT else _("No more than %(sum)s.", sum=money(self.most)))
        self.data = value


class NumberField(Field):
    """A number as read_number() takes it. Data: Decimal, or None."""

    widget = TextInput()

    def __init__(self, label: Any = None, rules: Sequence[Any] = (), **kwargs: Any) -> None:
        kwargs.setdefault("render_kw", {"inputmode": "decimal", "autocomplete": "off", "class": "text-end"})
        super().__init__(label, rules or [validators.Optional()], **kwargs)

    def _value(self) -> str:
        if self.raw_data:
            return str(self.raw_data[0])
        return "" if self.data is None else format_decimal(self.data, "0.######", locale=get_locale())

    def process_formdata(self, valuelist: list[str]) -> None:
        text = (valuelist[0] if valuelist else "").strip()
        self.data = read_number(text) if text else None


class PhoneField(StringField):
    """A number in any usual spelling. Data: E.164, or "" for none."""

    def _value(self) -> str:
        return str(self.raw_data[0]) if self.raw_data else format_phone(self.data)

    def process_formdata(self, valuelist: list[str]) -> None:
        try:
            self.data = parse_phone(_clean(valuelist[0] if valuelist else "")) or ""
        except DomainError as error:
            raise ValueError(str(error)) from None


def _refuse_senseless(field: Any, day: date | None) -> None:
    if day is not None and not date(1900, 1, 1) <= day < date(2200, 1, 1):
        field.data = None
        raise ValueError(_("Enter a year between 1900 and 2199."))


class TimeField(wtforms.TimeField):
    """A time of day."""

    data: Any

    def process_formdata(self, valuelist: list[str]) -> None:
        if not any(text.strip() for text in valuelist):  # nothing typed is no wrong time
            self.data = None
            return
        super().process_formdata(valuelist)


class DateField(wtforms.DateField):
    """A day that can be meant: others overflow when a term is added to them."""

    data: Any

    def process_formdata(self, valuelist: list[str]) -> None:
        if not any(text.strip() for text in valuelist):  # nothing typed is no wrong date
            self.data = None
            return
        super().process_formdata(valuelist)
        _refuse_senseless(self, self.data)


class MomentField(wtforms.DateTimeLocalField):
    """A day that can be meant, as DateField, and a time by the clock of `tz`. Data: an instant, or None."""

    data: Any

    def __init__(self, label: Any = None, rules: Sequence[Any] = (), **kwargs: Any) -> None:
        kwargs["format"] = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
        kwargs["invalid_value_message"] = _l("Enter a day and a time.")
        super().__init__(label, rules, **kwargs)

    def process_formdata(self, valuelist: list[str]) -> None:
        super().process_formdata(valuelist)
        _refuse_senseless(self, self.data and self.data.date())


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
        return next((member for member in self.cls if member.value == value), None)

    def iter_choices(self) -> Any:
        current = self.data.value if isinstance(self.data, self.cls) else self.data or ""
        return [Choice(item.value, item.label, item.value == current, {}) for item in self.choices]

    def pre_validate(self, form: Any) -> None:
        allowed = {item.value for item in self.choices}
        is_unknown = self.data is None and any(self.raw_data or ())
        if is_unknown or (self.data.value if self.data else "") not in allowed:
            raise validators.StopValidation(_("Choose one of the options."))


def rows_on_offer(target: type[Any]) -> list[Any]:
    """The rows of a small table a person may choose from: of branches his own, of a branch's things those in scope."""
    if target is Branch:
        return list(g.branches)
    query, branch_ids = sa.select(target).order_by(target.name), current_scope().branch_ids
    if target is City and current_user.role.value not in NETWORK_WIDE_ROLES:
        query = query.where(City.id.in_([city.id for city in current_user.cities]))
    if hasattr(target, "branch_id") and branch_ids is not None:
        query = query.where(target.branch_id.in_(branch_ids))
    return list(db.session.scalars(query))


class ReferenceField(SelectField):
    """A row of a small table; `query` narrows what is offered and accepted. Data: the row or None.

    blank: what the choice of none is called, when it is optional; title: what a row is called, str() by default.
    """

    def __init__(
        self,
        target: type[Any],
        label: Any = None,
        *,
        query: Callable[[], Iterable[Any]] | None = None,
        is_optional: bool = False,
        blank: Any = "—",
        title: Callable[[Any], str] = str,
        **kwargs: Any,
    ) -> None:
        self.rows = {str(row.id): row for row in (query() if query else rows_on_offer(target))}
        choices = [SelectChoice(key, title(row)) for key, row in self.rows.items()]
        super().__init__(
            label,
            [validators.Optional()] if is_optional else [],
            choices=[SelectChoice("", blank), *choices] if is_optional or len(choices) != 1 else choices,
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
        if self.data is None and (not self.is_optional or any(self.raw_data or ())):
            raise validators.StopValidation(_("Choose one of the options."))
        if self.data is not None and str(self.data.id) not in self.rows:
            raise validators.StopValidation(_("Choose one of the options."))


class ReferencesField(SelectMultipleField):
    """Several rows of a small table as checkboxes. Data: list of rows; those not on offer to this person stay.

    title: what a row is called, str() by default.
    """

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()

    def __init__(
        self,
        target: type[Any],
        label: Any = None,
        *,
        query: Callable[[], Iterable[Any]] | None = None,
        title: Callable[[Any], str] = str,
        **kwargs: Any,
    ) -> None:
        self.rows = {str(row.id): row for row in (query() if query else rows_on_offer(target))}
        super().__init__(
            label, choices=[SelectChoice(key, title(row)) for key, row in self.rows.items()], coerce=self._row, **kwargs
        )

    def _row(self, value: Any) -> Any:
        return self.rows.get(value) if isinstance(value, str) else value

    def process_data(self, value: Any) -> None:
        self.data = list(value or [])

    def process_formdata(self, valuelist: list[str]) -> None:
        kept = [row for row in self.object_data or [] if str(row.id) not in self.rows]
        self.data = kept + [row for key, row in self.rows.items() if key in valuelist]

    def iter_choices(self) -> Any:
        current = {str(row.id) for row in self.data or []}
        return [Choice(item.value, item.label, item.value in current, {}) for item in self.choices]

    def pre_validate(self, form: Any) -> None:
        """Unknown keys never reach the data."""


class ChoicesField(SelectMultipleField):
    """Several of a list, as checkboxes; options: (key, label). Data: list of keys."""

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()

    def __init__(
        self, label: Any = None, rules: Sequence[Any] = (), *, options: Sequence[tuple[str, Any]] = (), **kwargs: Any
    ) -> None:
        super().__init__(label, rules, choices=[SelectChoice(key, name) for key, name in options], **kwargs)


class NumberedRowField(Field):
    """A row of a large table, given by its number. Data: the row or None; rows out of scope do not exist."""

    widget = TextInput()

    def __init__(self, target: type[Any], label: Any = None, *, is_optional: bool = False, **kwargs: Any) -> None:
        self.target = target
        super().__init__(label, [validators.Optional() if is_optional else REQUIRED], **kwargs)

    def _value(self) -> str:
        return str(self.raw_data[0]) if self.raw_data else "" if self.data is None else str(self.data.id)

    def process_formdata(self, valuelist: list[str]) -> None:
        self.data, number = None, (valuelist[0] if valuelist else "").strip()
        if number:
            if re.fullmatch("[0-9]{1,18}", number):
                self.data = db.session.scalar(sa.select(self.target).where(self.target.id == int(number)))
            if self.data is None:
                raise ValueError(_("There is no record with this number."))
