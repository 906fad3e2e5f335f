"""What a bulk operation says of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProtocolLine:
    """What became of one row of a bulk action; error is the text to show, None when it was done.

    changes: {field: [old, new]} as the audit keeps them, of an action that can be undone.
    """

    id: int
    label: str
    error: str | None
    changes: dict[str, Any] | None = None
