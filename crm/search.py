"""How people search: any part of a text, whatever its case, ё or е; a word of one or two letters begins a word.

What is searched is kept folded and with a space before it, so that the beginning of a word is a part like any other,
and an index over three-letter parts finds both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

BEGINS_WORD = 2  # words as short as that are looked for where words begin


def fold(text: str) -> str:
    """Text as the search compares it: lower case, ё as е, single spaces."""
    plain = unicodedata.normalize("NFC", text).lower().replace("ё", "е")
    return re.sub(r"\s+", " ", plain).strip()


def searchable(*texts: str | None) -> str:
    """Texts as they are kept to be searched."""
    return " " + " ".join(fold(text) for text in texts if text)


def parts_of(text: str) -> list[str]:
    """What must all be part of a searchable() text for it to match what somebody typed."""
    words = fold(text.replace("\x00", "")).split()  # PostgreSQL takes no NUL in a text
    return [f" {word}" if len(word) <= BEGINS_WORD else word for word in words]


def holds(expression: Any, parts: Sequence[str]) -> sa.ColumnElement[bool]:
    """Condition: every part is in `expression`, a searchable() text in SQL."""
    return sa.and_(sa.true(), *(expression.like(f"%{_escaped(part)}%", escape="\\") for part in parts))


def searchable_sql(*columns: Any) -> Any:
    """searchable() of columns, in SQL: for tables small enough to be read."""
    text: Any = sa.literal("", sa.Text)
    for column in columns:
        text = text + " " + sa.func.coalesce(column, "")
    return sa.func.replace(sa.func.replace(sa.func.lower(text), "ё", "е"), "Ё", "е")


def _escaped(part: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", part)
