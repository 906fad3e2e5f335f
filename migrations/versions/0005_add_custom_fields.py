"""Fields staff add, and what they hide."""

from __future__ import annotations

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Filled in with the capability."""


def downgrade() -> None:
    """Nothing to undo yet."""
