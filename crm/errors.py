"""One family of errors a person may be shown. Adapters (panel, public pages, jobs, CLI) turn them into text once."""

from __future__ import annotations

import secrets

import structlog


class DomainError(Exception):
    """A rule of the business was broken. `message` is already in the person's language.

    code: stable English word for logs, tests and the API; field: form field the text belongs beside.
    """

    status = 422

    def __init__(self, code: str, message: object, field: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return str(self.message)


class Conflict(DomainError):
    """Somebody else changed the thing first; nothing was done."""

    status = 409


class NothingToDo(Conflict):
    """What was asked for is so already, or there is nothing to do it to: of many rows such a one is skipped."""


class Forbidden(DomainError):
    """The actor's role or branches do not allow this."""

    status = 403


class NotFound(DomainError):
    """No such thing, or not within the actor's scope; the two are not told apart."""

    status = 404


def report_exception(error: BaseException) -> str:
    """Log an unexpected exception with its traceback and return the id a person is shown instead of it."""
    error_id = secrets.token_hex(4)
    structlog.get_logger().error("unexpected_error", error_id=error_id, exc_info=error)
    return error_id
