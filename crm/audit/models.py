"""The audit log: append-only rows, one per changed record per flush."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask_babel import lazy_gettext as _l
from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.actors import author_shown
from crm.access.models import Branch, User
from crm.db import BigId, LabelEnum, Model, PrimaryKey, label_enum


class AuditAction(LabelEnum):
    CREATE = "create", _l("Created")
    UPDATE = "update", _l("Changed")
    DELETE = "delete", _l("Deleted")
    TRANSITION = "transition", _l("Status changed")
    EXPORT = "export", _l("Exported")
    LOGIN = "login", _l("Signed in")


class AuditEntry(Model):
    """changes: {field: [old, new]} as text; origin: where it came from (`request:…`, `job:…`, `cli`)."""

    __audited__ = False
    __table_args__ = (
        Index(None, "entity", "entity_id"),
        *(Index(None, name, "id") for name in ("at", "actor_id", "actor_name", "branch_id")),
    )

    id: Mapped[PrimaryKey]
    at: Mapped[datetime]
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    actor_name: Mapped[str] = mapped_column(String(200))
    origin: Mapped[str] = mapped_column(String(80))
    action: Mapped[AuditAction] = mapped_column(label_enum(AuditAction))
    entity: Mapped[str] = mapped_column(String(40))
    entity_id: Mapped[int | None] = mapped_column(BigId)
    entity_label: Mapped[str] = mapped_column(String(200), default="")
    branch_id: Mapped[int | None] = mapped_column(ForeignKey("branch.id"))
    changes: Mapped[dict[str, Any]]

    actor: Mapped[User | None] = relationship()
    branch: Mapped[Branch | None] = relationship()

    @property
    def who(self) -> str:
        """The name of who did it, as people read it."""
        return author_shown(self.actor_name) if self.actor_id is None else self.actor_name

    def __str__(self) -> str:
        return f"#{self.id}"
