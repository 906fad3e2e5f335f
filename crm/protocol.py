"""What a bulk operation says of each row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProtocolLine:
    """What became of one row of a bulk action; error is the text to show, None when it was done."""

    id: int
    label: str
    error: str | None
