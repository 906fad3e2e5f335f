"""Files on their way in, and what has been imported: the memory that makes a second run change nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import JSON, Boolean, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.background.models import BackgroundJob
from crm.db import BigId, LabelEnum, Model, PrimaryKey, label_enum


class ImportRun(Model):
    """One applied import of a file. figures: what became of its lines (Tally.to_json), {} for runs of older versions.

    undone: rows taken back since; what is left is created + updated - undone.
    """

    id: Mapped[PrimaryKey]
    entity: Mapped[str] = mapped_column(String(40))
    file_name: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    applied_at: Mapped[datetime]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    author_name: Mapped[str] = mapped_column(String(200))
    created: Mapped[int] = mapped_column(Integer, default=0)
    updated: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    undone: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    figures: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    @property
    def left(self) -> int:
        """Rows of this run that stand."""
        return self.created + self.updated - self.undone


class ImportedRow(Model):
    """One line of a file that has been applied: key says which, by content, so a repeated line is known again.

    details: {"child": card id} of a card made with the row, {"changes": {field: [old, new]}} of a card changed by it;
    None for rows of older versions. An undone row gives its key back.
    """

    __audited__ = False
    __table_args__ = (Index("uq_imported_row_entity_key", "entity", "key", unique=True),)

    id: Mapped[PrimaryKey]
    run_id: Mapped[int] = mapped_column(ForeignKey("import_run.id"), index=True)
    entity: Mapped[str] = mapped_column(String(40))
    key: Mapped[str] = mapped_column(String(200))
    line: Mapped[int] = mapped_column(Integer)
    row_id: Mapped[int] = mapped_column(Integer)
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    undone_at: Mapped[datetime | None]


class UploadStatus(LabelEnum):
    NEW = "new", _lp("import", "Columns to be matched")
    CHECKING = "checking", _lp("import", "Being checked")
    CHECKED = "checked", _lp("import", "Checked")
    APPLYING = "applying", _lp("import", "Being imported")
    STOPPED = "stopped", _lp("import", "Stopped half-way")
    APPLIED = "applied", _lp("import", "Imported")


class ImportUpload(Model):
    """A file somebody has sent and not yet brought in. token names the file below DATA_DIR/imports, and its pages.

    part, header: where the header stands (reading.Table); headings: its cells; samples: some values of each column;
    columns: {column index as text: field name}; figures: Tally.to_json of the last check or import.
    job: the check or the import under way; run: what it became.
    """

    __audited__ = False

    id: Mapped[PrimaryKey]
    token: Mapped[str] = mapped_column(String(32), unique=True)
    entity: Mapped[str] = mapped_column(String(40))
    author_id: Mapped[int] = mapped_column(ForeignKey("user.id"), index=True)
    file_name: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)
    status: Mapped[UploadStatus] = mapped_column(label_enum(UploadStatus), default=UploadStatus.NEW)
    part: Mapped[str] = mapped_column(String(255))
    header: Mapped[int] = mapped_column(Integer)
    headings: Mapped[list[str]] = mapped_column(JSON)
    samples: Mapped[list[list[str]]] = mapped_column(JSON)
    columns: Mapped[dict[str, Any]] = mapped_column(default=dict)
    is_updating: Mapped[bool] = mapped_column(Boolean, default=False)
    figures: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("background_job.id", ondelete="SET NULL"))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("import_run.id"), index=True)

    job: Mapped[BackgroundJob | None] = relationship()
    run: Mapped[ImportRun | None] = relationship()


class Fate(LabelEnum):
    """What an import does with a line."""

    CREATE = "create", _lp("line", "Created")
    UPDATE = "update", _lp("line", "Changed")
    SKIP = "skip", _lp("line", "Left out")
    DUPLICATE = "duplicate", _lp("line", "Duplicate")
    ERROR = "error", _lp("line", "Error")

    @property
    def is_refused(self) -> bool:
        return self in {Fate.DUPLICATE, Fate.ERROR}


class ImportLine(Model):
    """A line of an upload and its fate. number: as Excel shows it. reasons: [[column, text], …]; the column may be "".

    changes: {field: [old, new]} of a card that is here already; cells: the line as it stands, of refused lines only.
    """

    __audited__ = False
    __table_args__ = (Index(None, "upload_id", "fate", "number"), Index(None, "upload_id", "number"))

    id: Mapped[PrimaryKey]
    upload_id: Mapped[int] = mapped_column(ForeignKey("import_upload.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(BigId)
    fate: Mapped[Fate] = mapped_column(label_enum(Fate))
    label: Mapped[str] = mapped_column(String(300))
    reasons: Mapped[list[list[str]] | None] = mapped_column(JSON(none_as_null=True))
    changes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    cells: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))


class ImportMatching(Model):
    """How a person matched the columns of files with these headings: {heading as compared: field name, "" for none}."""

    __audited__ = False
    __table_args__ = (Index(None, "user_id", "entity", "headings_key", unique=True),)

    id: Mapped[PrimaryKey]
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))
    entity: Mapped[str] = mapped_column(String(40))
    headings_key: Mapped[str] = mapped_column(String(64))
    columns: Mapped[dict[str, Any]]
    is_updating: Mapped[bool] = mapped_column(Boolean, default=False)
    used_at: Mapped[datetime]
