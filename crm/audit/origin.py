"""Who and what the current flush happens for: set by adapters (request, job, command line), read by the audit alone."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

from crm.access.actors import SYSTEM, Actor


@dataclass(frozen=True)
class Origin:
    actor: Actor
    source: str  # "request:<id>", "job:<id>", "cli"


_COMMAND_LINE = Origin(SYSTEM, "cli")
_current: contextvars.ContextVar[Origin] = contextvars.ContextVar("origin", default=_COMMAND_LINE)


def current_origin() -> Origin:
    return _current.get()


def set_origin(origin: Origin) -> None:
    """For a request, which always sets its own: a server's thread outlives it."""
    _current.set(origin)


@contextlib.contextmanager
def acting(actor: Actor, source: str) -> Iterator[None]:
    """Attribute the changes of a block to `actor`."""
    token = _current.set(Origin(actor, source))
    try:
        yield
    finally:
        _current.reset(token)
