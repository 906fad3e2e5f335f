"""What is undone with an operation besides its entries. Each domain says it of its own: a payment awaits again, a visit
is unpaid again.
"""

from __future__ import annotations

from collections.abc import Callable

from crm.access.actors import Actor
from crm.ledger.models import Transaction

# Called with the operation and who reverses it, before its mirror image is posted: rows are locked before the tills and
# the accounts. Each looks at what the operation is of (its kind, its links) and leaves alone what is not its own.
Consequence = Callable[[Transaction, Actor], None]
CONSEQUENCES: list[Consequence] = []


def on_reversal(consequence: Consequence) -> Consequence:
    """Register a function as a consequence of reversals."""
    CONSEQUENCES.append(consequence)
    return consequence
