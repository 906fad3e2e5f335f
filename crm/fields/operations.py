"""Verbs on custom fields, on the visibility of built-in ones, and on the values a row keeps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import func, select

from crm.access.actors import Actor, require
from crm.access.models import Branch, Company
from crm.access.scope import EVERYWHERE, current_scope, scoped_to
from crm.audit.bulk import Refusal
from crm.db import db
from crm.errors import Conflict, DomainError, Forbidden
from crm.fields.models import CustomField, FieldSetting, FieldType, customised
from crm.fields.queries import Definitions, all_fields, company_of, forget_settings
from crm.fields.values import VALUES

MAX_FIELDS = 100  # of an entity of a company
MAX_OPTIONS = 200

_LATIN = dict(zip("абвгдеёзийклмнопрстуфхцыэ", "abvgdeezijklmnoprstufhcye", strict=True)) | {
    "ж": "zh",
    "ч": "ch",
    "ш": "sh",
    "щ": "sch",
    "ъ": "",
    "ь": "",
    "ю": "yu",
    "я": "ya",
}


@dataclass(frozen=True)
class Option:
    """An option of a choice as it is to be; key None: a new one."""

    key: str | None
    label: str


def add_field(
    company: Company,
    entity: str,
    *,
    label: str,
    type: FieldType,
    by: Actor,
    options: Sequence[str] = (),
    is_required: bool = False,
    is_hidden: bool = False,
    is_in_grid: bool = True,
    description: str = "",
) -> CustomField:
    """Add a field at the end of the company's. Raises DomainError beside `label`, `new_options` or `is_hidden`.
    The caller commits.
    """
    require(by, "field.create")
    if entity not in customised():
        raise DomainError("entity_unknown", _("No fields can be added to this kind of record."))
    every = all_fields(entity)
    own = [field for field in every if field.company_id == company.id]
    if sum(not field.is_archived for field in own) >= MAX_FIELDS:
        raise DomainError("too_many_fields", _("There are %(count)s fields already: no more fit.", count=MAX_FIELDS))
    label = _read_label(label, [field for field in own if not field.is_archived])
    key = _new_key(label, type, every, own)
    field = CustomField(
        company_id=company.id,
        entity=entity,
        key=key,
        label=label,
        type=type,
        position=max((field.position for field in own), default=0) + 1,
    )
    siblings = [other for other in every if other.key == key]
    field.options = _read_options(type, [Option(None, option) for option in options], siblings)
    _describe(field, is_required=is_required, is_hidden=is_hidden, is_in_grid=is_in_grid, description=description)
    db.session.add(field)
    db.session.flush()
    return field


def edit_field(
    field: CustomField,
    *,
    label: str,
    by: Actor,
    options: Sequence[Option] = (),
    is_required: bool = False,
    is_hidden: bool = False,
    is_in_grid: bool = True,
    description: str = "",
) -> CustomField:
    """Change how a field looks; its key and type stay. An option keeps its key when it is renamed, so what is kept
    stays chosen; one that is chosen somewhere is not removed: DomainError "option_in_use" says in how many. The caller
    commits.
    """
    require(by, "field.edit")
    every = all_fields(field.entity)
    own = [other for other in every if other.company_id == field.company_id and other is not field]
    field.label = _read_label(label, [other for other in own if not other.is_archived])
    new = _read_options(field.type, options, [other for other in every if other.key == field.key])
    _refuse_used_options(field, {option["key"] for option in field.options} - {option["key"] for option in new})
    if new != field.options:
        field.options = new
    _describe(field, is_required=is_required, is_hidden=is_hidden, is_in_grid=is_in_grid, description=description)
    db.session.flush()
    return field


def move_field(field: CustomField, *, up: bool, by: Actor) -> CustomField:
    """One place up or down among the company's; at the end it stays. The caller commits."""
    require(by, "field.edit")
    row = [other for other in all_fields(field.entity, {field.company_id}) if not other.is_archived]
    if field in row:
        old = row.index(field)
        new = min(max(old + (-1 if up else 1), 0), len(row) - 1)
        row.insert(new, row.pop(old))
    for position, other in enumerate(row, start=1):
        if other.position != position:
            other.position = position
    db.session.flush()
    return field


def hide_field(field: CustomField, *, is_hidden: bool, by: Actor) -> CustomField:
    """Take a field out of everybody's sight, or show it again; values stay. The caller commits.

    Raises DomainError "field_required" for one that must be filled in.
    """
    require(by, "field.edit")
    _refuse_hiding_required(is_required=field.is_required, is_hidden=is_hidden)
    field.is_hidden = is_hidden
    db.session.flush()
    return field


def archive_field(field: CustomField, *, by: Actor) -> CustomField:
    """Delete a field, for all staff see; its values stay and come back with restore_field(). The caller commits."""
    require(by, "field.archive")
    if field.is_archived:
        raise Conflict("archived", _("The field is in the archive already."))
    field.is_archived = True
    db.session.flush()
    return field


def restore_field(field: CustomField, *, by: Actor) -> CustomField:
    """Bring a field back, at the end. Raises DomainError when its name has been taken since. The caller commits."""
    require(by, "field.archive")
    own = [other for other in all_fields(field.entity, {field.company_id}) if other is not field]
    _read_label(field.label, [other for other in own if not other.is_archived])
    field.is_archived = False
    field.position = max((other.position for other in own), default=0) + 1
    db.session.flush()
    return field


def hide_built_in(company: Company, entity: str, name: str, *, is_hidden: bool, by: Actor) -> FieldSetting:
    """Hide or show a built-in field in a company. Raises Forbidden for one that the work needs. The caller commits."""
    require(by, "field.edit")
    model = customised().get(entity)
    if model is None or name not in model.__optional_fields__:
        raise Forbidden("field_needed", _("This field cannot be hidden: the work needs it."))
    query = select(FieldSetting).where(
        FieldSetting.company_id == company.id, FieldSetting.entity == entity, FieldSetting.name == name
    )
    setting = db.session.scalar(query)
    if setting is None:
        setting = FieldSetting(company_id=company.id, entity=entity, name=name, is_hidden=is_hidden)
        db.session.add(setting)
    setting.is_hidden = is_hidden
    db.session.flush()
    forget_settings()
    return setting


# --- values -----------------------------------------------------------------------------------------------------------


def set_custom(row: Any, values: Mapping[str, Any], definitions: Definitions | None = None) -> None:
    """Check and set custom values of a row, by key; None or nothing empties one, keys not given stay as they are.

    Values are as VALUES of their types load them. definitions: the fields, for who sets many rows. Called by operations
    that have asked for the permission. Raises DomainError beside `custom.<key>`; a field the row's company does not
    have is refused.
    """
    if not values:
        return
    fields = (definitions or Definitions(row.__tablename__)).of(company_of(row))
    kept = dict(row.custom or {})
    for key, value in values.items():
        raw = _dumped(fields.get(key), key, value)
        if raw is not None:
            kept[key] = raw
        else:
            kept.pop(key, None)
    if kept != (row.custom or {}):
        row.custom = kept


def custom_change(model: type[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Refusal]]:
    """For an audit.bulk.Change: of values by name those named `custom.<key>`, as they are kept, and the refusals of
    rows whose company does not have the field, the option, or lets it be empty. Raises DomainError beside
    `custom.<key>` when every company refuses.
    """
    own: dict[str, Any] = {}
    refusals: list[Refusal] = []
    definitions = Definitions(model.__tablename__)
    companies: dict[int, list[int]] = {}
    for branch in db.session.scalars(select(Branch)):
        if current_scope().covers(branch.id):
            companies.setdefault(branch.company_id, []).append(branch.id)
    for name, value in values.items():
        key = name.removeprefix("custom.")
        if key == name:
            continue
        refused: dict[str, list[int]] = {}
        last = _unknown(key)
        for company_id, branch_ids in companies.items():
            try:
                own[name] = _dumped(definitions.of(company_id).get(key), key, value)
            except DomainError as error:
                last = error
                refused.setdefault(str(error), []).extend(branch_ids)
        if name not in own:
            raise last
        refusals += [Refusal(model.branch_id.in_(ids), text, is_of_value=True) for text, ids in refused.items()]
    return own, refusals


def _unknown(key: str) -> DomainError:
    return DomainError("field_unknown", _("The company has no field “%(name)s”.", name=key), f"custom.{key}")


def _dumped(field: CustomField | None, key: str, value: Any) -> Any:
    """A value as it is kept, None for nothing. Raises DomainError beside its field."""
    place = f"custom.{key}"
    if field is None:
        raise _unknown(key)
    try:
        raw = VALUES[field.type].dump(value, field)
    except (DomainError, ValueError) as error:
        raise DomainError("field_invalid", str(error), place) from None
    if raw is None and field.is_required and not field.is_hidden:
        raise DomainError("field_required", _("Fill in this field."), place)
    return raw


def edit_custom(row: Any, values: Mapping[str, Any], *, by: Actor) -> Any:
    """Change the custom values of a row that has no edit of its own (bills, accounts, subscriptions).
    The caller commits.
    """
    require(by, f"{row.__tablename__}.edit", row)
    set_custom(row, values)
    db.session.flush()
    return row


# --- checks -----------------------------------------------------------------------------------------------------------


def _describe(field: CustomField, *, is_required: bool, is_hidden: bool, is_in_grid: bool, description: str) -> None:
    _refuse_hiding_required(is_required=is_required, is_hidden=is_hidden)
    field.is_required, field.is_hidden, field.is_in_grid = is_required, is_hidden, is_in_grid
    field.description = description.strip()


def _refuse_hiding_required(*, is_required: bool, is_hidden: bool) -> None:
    if is_required and is_hidden:
        raise DomainError("field_required", _("A field that must be filled in cannot be hidden."), "is_hidden")


def _read_label(label: str, others: Sequence[CustomField]) -> str:
    label = " ".join(label.split())
    if not label:
        raise DomainError("label_empty", _("Fill in this field."), "label")
    if len(label) > 200:
        raise DomainError("label_long", _("Longer than %(count)s characters.", count=200), "label")
    if label.casefold() in {other.label.casefold() for other in others}:
        raise DomainError("label_taken", _("There is a field of this name already."), "label")
    return label


def _read_options(type: FieldType, options: Sequence[Option], siblings: Sequence[CustomField]) -> list[dict[str, str]]:
    """The options as they are kept. An option other companies have under the same name gets the key it has there."""
    if not type.has_options:
        return []
    elsewhere = {o["label"].casefold(): o["key"] for sibling in siblings for o in sibling.options}
    labels: set[str] = set()
    taken = {option.key for option in options if option.key} | set(elsewhere.values())
    found: list[dict[str, str]] = []
    for option in options:
        label = " ".join(option.label.split())
        if not label:
            continue
        if len(label) > 200:
            raise DomainError("option_long", _("Longer than %(count)s characters.", count=200), "new_options")
        if label.casefold() in labels:
            raise DomainError("option_twice", _("“%(label)s” is there twice.", label=label), "new_options")
        labels.add(label.casefold())
        key, used = option.key, {item["key"] for item in found}
        if key is None:
            known = elsewhere.get(label.casefold())
            key = known if known and known not in used else _free(_slug(label), taken | used)
        taken.add(key)
        found.append({"key": key, "label": label})
    if not found:
        raise DomainError("options_empty", _("Enter at least one option."), "new_options")
    if len(found) > MAX_OPTIONS:
        raise DomainError("too_many_options", _("More than %(count)s options.", count=MAX_OPTIONS), "new_options")
    return found


def _refuse_used_options(field: CustomField, removed: Collection[str]) -> None:
    model = customised()[field.entity]
    value = VALUES[FieldType.CHOICE].sql(model.custom, field.key)
    labels = {option["key"]: option["label"] for option in field.options}
    for key in sorted(removed):
        chosen = value == key if field.type is FieldType.CHOICE else value.contains(f'"{key}"', autoescape=True)
        branches = select(Branch.id).where(Branch.company_id == field.company_id)
        with scoped_to(EVERYWHERE):
            count = db.session.scalar(
                select(func.count()).select_from(model).where(model.branch_id.in_(branches), chosen)
            )
        if count:
            text = ngettext(
                "“%(label)s” is chosen in %(num)s record and cannot be removed.",
                "“%(label)s” is chosen in %(num)s records and cannot be removed.",
                count,
                label=labels[key],
            )
            raise DomainError("option_in_use", text, f"option.{key}")


def _new_key(label: str, type: FieldType, every: Sequence[CustomField], own: Sequence[CustomField]) -> str:
    """A key no other type has anywhere, and no other field of the company. A field of the same name and type of another
    company lends its own: in the network both are one column.
    """
    used = {field.key for field in own}
    for field in every:
        if field.key not in used and field.type is type and field.label.casefold() == label.casefold():
            return field.key
    return _free(_slug(label), {field.key for field in every})


def _slug(text: str) -> str:
    latin = "".join(_LATIN.get(letter, letter) for letter in unicodedata.normalize("NFC", text.lower()))
    plain = unicodedata.normalize("NFKD", latin).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:32].strip("_") or "field"


def _free(key: str, taken: Collection[str | None]) -> str:
    number, found = 2, key
    while found in taken:
        number, found = number + 1, f"{key}_{number}"
    return found
