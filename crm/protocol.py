"""What a bulk operation says of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask_babel import lazy_pgettext as _lp

from crm.db import LabelEnum
from crm.errors import DomainError, NothingToDo


class Outcome(LabelEnum):
    """What became of a row. SKIPPED: it is as asked already, or there was nothing to do; nobody need look at it."""

    DONE = "done", _lp("outcome", "Done")
    SKIPPED = "skipped", _lp("outcome", "Nothing to do")
    FAILED = "failed", _lp("outcome", "Error")


@dataclass(frozen=True)
class ProtocolLine:
    """What became of one row of a bulk action; reason: why it was left as it is, in words, None when it was done.

    changes: {field: [old, new]} as the audit keeps them, of an action that can be undone.
    """

    id: int
    label: str
    outcome: Outcome = Outcome.DONE
    reason: str | None = None
    changes: dict[str, Any] | None = None

    @classmethod
    def after(cls, id: int, label: str, error: DomainError | None) -> ProtocolLine:
        """Of a row a verb was called for; error: what it raised, None when it was done."""
        if error is None:
            return cls(id, label)
        return cls(id, label, Outcome.SKIPPED if isinstance(error, NothingToDo) else Outcome.FAILED, str(error))

    @property
    def is_done(self) -> bool:
        return self.outcome is Outcome.DONE
