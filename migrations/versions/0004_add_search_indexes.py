"""Indexes that keep every grid page flat: search, sort, filters."""

from __future__ import annotations

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Filled in with the capability."""


def downgrade() -> None:
    """Nothing to undo yet."""
