"""Custom fields and visibility of built-in ones, per company; the column their values are kept in."""

from __future__ import annotations

from typing import Any, ClassVar

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import JSON, Boolean, ForeignKey, Integer, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import Company
from crm.db import LabelEnum, Model, PrimaryKey, Text40, Text200, label_enum


class FieldType(LabelEnum):
    """What a custom field holds; fields/values.py says how."""

    TEXT = "text", _lp("field", "Text")
    NUMBER = "number", _lp("field", "Number")
    MONEY = "money", _lp("field", "Money")
    DATE = "date", _lp("field", "Date")
    CHOICE = "choice", _lp("field", "Choice")
    CHOICES = "choices", _lp("field", "Several choices")
    YES_NO = "yes_no", _lp("field", "Yes or no")
    LINK = "link", _lp("field", "Link")
    PHONE = "phone", _lp("field", "Phone")

    @property
    def has_options(self) -> bool:
        return self in (FieldType.CHOICE, FieldType.CHOICES)


class HasCustomFields:
    """Mixin of tables staff may add fields to: their values by key, as fields/values.py writes them. A field left
    empty has no key. Changed by fields.operations.set_custom() alone.

    __optional_fields__: built-in fields a company may hide or show: name → whether it is shown unless it says so.
    """

    __optional_fields__: ClassVar[dict[str, bool]] = {}

    custom: Mapped[dict[str, Any]] = mapped_column(
        JSON().with_variant(JSONB(), "postgresql"), default=dict, server_default=text("'{}'")
    )


def customised() -> dict[str, type[Any]]:
    """The tables staff may add fields to, by entity."""
    return {model.__tablename__: model for model in HasCustomFields.__subclasses__()}  # type: ignore[attr-defined]


class CustomField(Model):
    """A field of one entity of one company. Its key and type never change, so what is kept keeps its meaning: a key
    used by several companies is of one type everywhere.

    options: [{"key": …, "label": …}] of a choice, in order. is_archived: deleted, for all staff see; its values stay.
    is_in_grid: a column of the grid unless a person chooses otherwise.
    """

    __table_args__ = (UniqueConstraint("company_id", "entity", "key"),)

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    entity: Mapped[Text40]
    key: Mapped[Text40]
    label: Mapped[Text200]
    type: Mapped[FieldType] = mapped_column(label_enum(FieldType))
    options: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)
    is_required: Mapped[bool] = mapped_column(Boolean, default=False)
    is_hidden: Mapped[bool] = mapped_column(Boolean, default=False)
    is_in_grid: Mapped[bool] = mapped_column(Boolean, default=True)
    description: Mapped[str] = mapped_column(Text, default="")
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    company: Mapped[Company] = relationship()

    __mapper_args__ = {"version_id_col": version}

    @property
    def name(self) -> str:
        """What grids, forms, filters and files call it."""
        return f"custom.{self.key}"

    def __str__(self) -> str:
        return self.label


class FieldSetting(Model):
    """What a company says of a built-in field; without a row it is as __optional_fields__ says."""

    __table_args__ = (UniqueConstraint("company_id", "entity", "name"),)

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    entity: Mapped[Text40]
    name: Mapped[Text40]
    is_hidden: Mapped[bool] = mapped_column(Boolean)

    company: Mapped[Company] = relationship()

    def __str__(self) -> str:
        return self.name
