"""Texts of contracts."""

from __future__ import annotations

from sqlalchemy import Boolean, ForeignKey, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import Company
from crm.db import Model, PrimaryKey, Text200


class ContractTemplate(Model):
    """A contract of one company, with tags in place of the client's data."""

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    name: Mapped[Text200]
    body: Mapped[str] = mapped_column(Text)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    company: Mapped[Company] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name
