"""Saved views and each person's layout of a grid."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Filled in with the capability."""


def downgrade() -> None:
    """Nothing to undo yet."""
