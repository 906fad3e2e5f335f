"""Excel by the clock."""

from __future__ import annotations

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Filled in with the capability."""


def downgrade() -> None:
    """Nothing to undo yet."""
