"""What has been imported: the memory that makes a second run change nothing."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from crm.db import Model, PrimaryKey


class ImportRun(Model):
    """One applied import of a file."""

    id: Mapped[PrimaryKey]
    entity: Mapped[str] = mapped_column(String(40))
    file_name: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    applied_at: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[str] = mapped_column(String(200))
    created: Mapped[int] = mapped_column(Integer, default=0)


class ImportedRow(Model):
    """One line of a file that has been applied: key says which, by content, so a repeated line is known again."""

    __audited__ = False
    __table_args__ = (Index("uq_imported_row_entity_key", "entity", "key", unique=True),)

    id: Mapped[PrimaryKey]
    run_id: Mapped[int] = mapped_column(ForeignKey("import_run.id"), index=True)
    entity: Mapped[str] = mapped_column(String(40))
    key: Mapped[str] = mapped_column(String(200))
    line: Mapped[int] = mapped_column(Integer)
    row_id: Mapped[int] = mapped_column(Integer)
