"""Long jobs people start from the panel: an export, a bulk action, an import. The row is the truth, rq only runs it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import JSON, Boolean, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import User
from crm.db import BigId, LabelEnum, Model, PrimaryKey, Text40, Text200, label_enum
from crm.protocol import Outcome


class JobStatus(LabelEnum):
    WAITING = "waiting", _lp("job", "Waiting")
    RUNNING = "running", _lp("job", "Running")
    DONE = "done", _lp("job", "Done")
    FAILED = "failed", _lp("job", "Failed")
    CANCELED = "canceled", _lp("job", "Cancelled")

    @property
    def is_over(self) -> bool:
        return self in {JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELED}


class BackgroundJob(Model):
    """kind: which executor runs it (operations.executor); entity: the view it was started from, "" for none.

    It belongs to its author, who alone sees it, and runs as him, in the branch he had chosen, in his language.
    params: what the executor needs; state: where it has got to, so that a killed one goes on and does nothing twice.
    attempt: how often a worker has taken it; the latest one alone may write its progress.
    total: rows to do, None while unknown; done: rows seen, of them skipped had nothing to do and failed were refused.
    file: path below DATA_DIR.
    """

    __audited__ = False
    __table_args__ = (Index(None, "author_id", "id"), Index(None, "status", "lease_until"))

    id: Mapped[PrimaryKey]
    kind: Mapped[Text40]
    entity: Mapped[Text40] = mapped_column(default="")
    title: Mapped[Text200]
    status: Mapped[JobStatus] = mapped_column(label_enum(JobStatus), default=JobStatus.WAITING)
    author_id: Mapped[int] = mapped_column(ForeignKey("user.id"))
    branch_id: Mapped[int | None] = mapped_column(ForeignKey("branch.id"))
    locale: Mapped[str] = mapped_column(String(5), default="ru")
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)
    total: Mapped[int | None] = mapped_column(Integer)
    done: Mapped[int] = mapped_column(Integer, default=0)
    skipped: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    failed: Mapped[int] = mapped_column(Integer, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    is_cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    error: Mapped[str] = mapped_column(Text, default="")
    file: Mapped[str | None] = mapped_column(String(300))
    file_name: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[datetime] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)

    author: Mapped[User] = relationship()

    @property
    def changed(self) -> int:
        """Rows something was done to."""
        return self.done - self.skipped - self.failed

    def __str__(self) -> str:
        return self.title


class JobLine(Model):
    """One line of a job's protocol: what became of a row, as ProtocolLine tells it."""

    __audited__ = False
    __table_args__ = (Index(None, "job_id", "id"), Index(None, "job_id", "row_id"))

    id: Mapped[PrimaryKey]
    job_id: Mapped[int] = mapped_column(ForeignKey("background_job.id", ondelete="CASCADE"))
    row_id: Mapped[int | None] = mapped_column(BigId)
    label: Mapped[str] = mapped_column(String(300), default="")
    outcome: Mapped[Outcome] = mapped_column(
        label_enum(Outcome), default=Outcome.DONE, server_default=Outcome.DONE.value
    )
    reason: Mapped[str | None] = mapped_column(Text)
    changes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
