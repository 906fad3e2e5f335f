"""What people make of a grid: how each has it before him, and the views they save."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.models import User
from crm.db import Model, PrimaryKey, Text40, Text200

# SavedView.shared_with: everybody who may see the grid.
EVERYBODY = "*"


class SavedView(Model):
    """A selection of a grid and its layout under a name.

    shared_with: a role, EVERYBODY, or None for the owner alone. params: [[argument, value], …] of the grid's address;
    layout: shaping.Layout as JSON.
    """

    __audited__ = False
    __table_args__ = (Index(None, "entity", "owner_id"),)

    id: Mapped[PrimaryKey]
    entity: Mapped[Text40]
    name: Mapped[Text200]
    owner_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    shared_with: Mapped[str | None] = mapped_column(String(40))
    params: Mapped[list[list[str]]] = mapped_column(JSON, default=list)
    layout: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)

    owner: Mapped[User] = relationship(lazy="joined")

    def __str__(self) -> str:
        return self.name


class GridLayout(Model):
    """One person's layout of one grid, and the view it opens with."""

    __audited__ = False
    __table_args__ = (UniqueConstraint("user_id", "entity"),)

    id: Mapped[PrimaryKey]
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    entity: Mapped[Text40]
    layout: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    default_view_id: Mapped[int | None] = mapped_column(ForeignKey("saved_view.id", ondelete="SET NULL"))
