"""Which fields there are, and which are hidden."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask import g, has_app_context
from sqlalchemy import select

from crm.access.models import Branch
from crm.db import db
from crm.fields.models import CustomField, FieldSetting, customised
from crm.fields.values import VALUES


def company_of(row: Any) -> int:
    """Id of the company a row of a branch belongs to."""
    return db.session.get_one(Branch, row.branch_id).company_id


def all_fields(entity: str, company_ids: Collection[int] | None = None) -> list[CustomField]:
    """Fields of an entity in order, hidden and archived ones too; of all companies by default."""
    query = select(CustomField).where(CustomField.entity == entity)
    if company_ids is not None:
        query = query.where(CustomField.company_id.in_(sorted(company_ids)))
    order = (CustomField.is_archived, CustomField.company_id, CustomField.position, CustomField.id)
    return list(db.session.scalars(query.order_by(*order)))


def shown_fields(entity: str, company_ids: Collection[int] | None = None) -> list[CustomField]:
    """Those of them that staff see."""
    return [field for field in all_fields(entity, company_ids) if not field.is_archived and not field.is_hidden]


class Definitions:
    """Live fields of an entity by company and key, asked for once: for who sets the values of many rows."""

    def __init__(self, entity: str) -> None:
        self.entity = entity
        self._known: dict[int, dict[str, CustomField]] = {}

    def of(self, company_id: int) -> dict[str, CustomField]:
        if company_id not in self._known:
            fields = all_fields(self.entity, {company_id})
            self._known[company_id] = {field.key: field for field in fields if not field.is_archived}
        return self._known[company_id]


def hidden_built_ins(entity: str, company_ids: Collection[int]) -> frozenset[str]:
    """Built-in fields none of the companies shows."""
    shown = _settings()
    return frozenset(
        name
        for name, by_default in _optional(entity).items()
        if company_ids and not any(shown.get((company_id, entity, name), by_default) for company_id in company_ids)
    )


def is_shown(company_id: int, entity: str, name: str) -> bool:
    """Whether a company shows a built-in field."""
    return _settings().get((company_id, entity, name), _optional(entity).get(name, True))


def _optional(entity: str) -> dict[str, bool]:
    model = customised().get(entity)
    return dict(model.__optional_fields__) if model is not None else {}


def _settings() -> dict[tuple[int, str, str], bool]:
    """{(company, entity, name): is shown}, read once per request or job; forget_settings() when one changes."""
    if not has_app_context():
        return {}
    known: dict[tuple[int, str, str], bool] | None = g.get("field_settings")
    if known is None:
        known = {(s.company_id, s.entity, s.name): not s.is_hidden for s in db.session.scalars(select(FieldSetting))}
        g.field_settings = known
    return known


def forget_settings() -> None:
    g.pop("field_settings", None)


def custom_text(row: Any, key: str, fields: list[CustomField]) -> str:
    """A row's value as a person reads it; fields: the definitions under this key, of any company."""
    own = [field for field in fields if field.company_id == company_of(row)] or fields
    value_type = VALUES[own[0].type]
    return value_type.text(value_type.load(row.custom.get(key)), own)
