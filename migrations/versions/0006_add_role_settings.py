"""Roles changed in the panel."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Filled in with the capability."""


def downgrade() -> None:
    """Nothing to undo yet."""
