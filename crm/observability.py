"""What a running installation says of itself: structured logs, ids of requests and errors, health, figures."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import structlog
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Blueprint, Flask, Response, abort, current_app, g, jsonify, render_template, request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from redis.exceptions import RedisError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.wrappers import Response as BaseResponse

from crm import clock
from crm.access.scope import EVERYWHERE, scoped_to
from crm.config import ROOT
from crm.db import db
from crm.errors import DomainError, report_exception
from crm.mailings.models import Message, MessageStatus

REQUESTS = Counter("kontora_requests", "Requests answered", ["endpoint", "status"])
SECONDS = Histogram("kontora_request_seconds", "Seconds a request took", ["endpoint"])

# Asked every few seconds by machines; in the log they would hide what matters.
_QUIET = frozenset({"health.healthz", "health.readyz", "health.metrics", "static"})
READ_OFF = 2**30  # bytes of a body too large to be taken, thrown away as they come
_LOOPBACK = frozenset({"127.0.0.1", "::1", "", None})  # no address: a unix socket

log = structlog.get_logger()
health = Blueprint("health", __name__)


# --- logs ------------------------------------------------------------------------------------------------------------


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is at that moment (test runners exchange it)."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _value: Any) -> None:
        raise AttributeError("always sys.stderr")


@cache
def configure_logs() -> None:
    """One JSON object per line on stderr, ours and the libraries' alike; once per process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    for name in ("alembic", "rq", "httpx", "werkzeug", "mail.log"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


# --- requests --------------------------------------------------------------------------------------------------------


def _name_request() -> None:
    here = g._get_current_object()
    # Nobody gains by guessing it; uuid4() asks the system, and the thread then waits for its turn among the others.
    here.request_id = f"{random.getrandbits(64):016x}"
    here.began = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=here.request_id)


def _note_response(response: Response) -> Response:
    here, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - here.get("began", time.perf_counter())
    endpoint = asked.endpoint or "none"
    requests, duration = _figures(endpoint, response.status_code)
    requests.inc()
    duration.observe(seconds)
    request_id = here.get("request_id", "")
    if endpoint not in _QUIET:
        # The rule, not the path: a bill's token is in the path.
        rule = asked.url_rule.rule if asked.url_rule else None
        _write_line(
            method=asked.method,
            rule=rule,
            status=response.status_code,
            milliseconds=round(seconds * 1000, 1),
            event="request",
            request_id=request_id,
        )
    if "X-Request-ID" not in response.headers:
        response.headers.add("X-Request-ID", request_id)
    return response


@cache
def _figures(endpoint: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(endpoint, status), SECONDS.labels(endpoint)


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _write_line(**event: Any) -> None:
    """As log.info() would, without its machinery: of all lines this is written most often, and that takes longer than
    the query of a bill.
    """
    at = clock.now().isoformat().replace("+00:00", "Z")
    line = {**event, "level": "info", "logger": __name__, "timestamp": at}
    sys.stderr.write(_encode(line) + "\n")  # a whole line: Python hands it over at once


def _log_exception(
    exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
) -> None:
    """In the place of Flask's own line: the same traceback, under an id."""
    g.error_id = report_exception(exc_info[1] or RuntimeError("unknown"))


def _show_unexpected(error: InternalServerError) -> tuple[Response | str, int]:
    """The id and nothing else of what went wrong. Needs no database: that may be what broke."""
    error_id = g.get("error_id") or report_exception(error.original_exception or error)
    if request.accept_mimetypes.best == "application/json":
        return jsonify(error="unexpected", id=error_id), 500
    try:
        return render_template("components/unexpected.html", error_id=error_id), 500
    except Exception as failure:
        report_exception(failure)
        return Response(f"Error {error_id}\n", content_type="text/plain; charset=utf-8"), 500


# code: (what it is about, what to do)
_REFUSALS: dict[int, tuple[Any, Any]] = {
    400: (
        _l("The form could not be accepted"),
        _l("This page has been open for too long. Open it again and repeat."),
    ),
    401: (_l("Please sign in"), _l("Sign in and open the page again.")),
    403: (_l("There is no access here"), _l("Your role does not allow this action.")),
    404: (
        _l("There is no such page"),
        _l("Nothing found at this address, or it belongs to another branch."),
    ),
    405: (_l("This address is not opened like this"), _l("Go back and use the buttons of the page.")),
    410: (_l("This is no longer kept"), _l("Files are kept for a few days only. Make it anew.")),
    413: (_l("That is too large"), _l("Send less at once.")),
    429: (_l("Too often"), _l("Wait a minute and try again.")),
}
_OTHER_REFUSAL = (_l("This did not work"), _l("Go back and try again."))


def _show_refusal(error: HTTPException) -> BaseResponse:
    """Our page, in the person's language, in place of the server's bare English one; headers such as Allow stay."""
    answer = error.get_response()
    if error.code is None or error.code < 400:
        return answer
    heading, advice = _REFUSALS.get(error.code, _OTHER_REFUSAL)
    if error.code == 413 and request.max_content_length:
        advice = _("Send less at once: no more than %(size)s megabytes.", size=request.max_content_length >> 20)
        _read_off()
    if request.accept_mimetypes.best == "application/json":
        word = error.name.lower().replace(" ", "_")
        answer.data, answer.content_type = jsonify(error=word, message=str(heading)).data, "application/json"
    else:
        page = render_template("components/refused.html", heading=heading, advice=advice, back=_own_referrer())
        answer.data, answer.content_type = page.encode(), "text/html; charset=utf-8"
    return answer


def _show_broken_rule(error: DomainError) -> tuple[Response | str, int]:
    """A rule that no form stood ready to show beside a field: the same page, with the rule's own words."""
    db.session.rollback()
    if request.accept_mimetypes.best == "application/json":
        return jsonify(error=error.code, message=str(error)), error.status
    heading, _advice = _REFUSALS.get(error.status, _OTHER_REFUSAL)
    page = render_template("components/refused.html", heading=heading, advice=str(error), back=_own_referrer())
    return page, error.status


def _read_off() -> None:
    """Take what is still being sent, within reason: a connection closed before shows an error of the browser's own in
    place of our answer.
    """
    left = min(request.content_length or 0, READ_OFF)
    stream = request.environ["wsgi.input"]
    while left > 0 and (chunk := stream.read(min(left, 2**20))):
        left -= len(chunk)


def _own_referrer() -> str | None:
    """The page of ours the person comes from, if it is another one."""
    came_from = urlsplit(request.referrer or "")
    is_ours = came_from.scheme in {"http", "https"} and came_from.netloc == request.host
    return request.referrer if is_ours and request.referrer != request.url else None


# --- health ----------------------------------------------------------------------------------------------------------


@health.get("/healthz")
def healthz() -> Response:
    """This process answers."""
    return jsonify(status="ok")


@health.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Database, migrations and queue are in order; 503 with the reasons when not."""
    reasons = [reason for reason in (_database_reason(), _queue_reason()) if reason]
    return jsonify(status="unready" if reasons else "ready", reasons=reasons), 503 if reasons else 200


def _database_reason() -> str | None:
    try:
        current = set(MigrationContext.configure(db.session.connection()).get_current_heads())
    except SQLAlchemyError:
        db.session.rollback()
        return "the database does not answer"
    return None if current == _migration_heads() else "the migrations are not at their head: flask --app app db upgrade"


@cache
def _migration_heads() -> frozenset[str]:
    return frozenset(ScriptDirectory(str(ROOT / "migrations")).get_heads())


def _queue_reason() -> str | None:
    try:
        next(iter(current_app.extensions["queues"].values())).connection.ping()
    except RedisError:
        return "the queue does not answer"
    return None


# --- figures ---------------------------------------------------------------------------------------------------------


class _Waiting:
    """What waits in the database and the queue, asked when the figures are."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        messages = GaugeMetricFamily("kontora_messages", "Messages by status", labels=["status"])
        with scoped_to(EVERYWHERE):
            query = select(Message.status, func.count().label("total")).group_by(Message.status)
            counts = {row.status: row.total for row in db.session.execute(query)}
        for status in MessageStatus:
            messages.add_metric([status.value], counts.get(status, 0))
        yield messages
        lengths = GaugeMetricFamily("kontora_queue_length", "Jobs that wait for a worker", labels=["queue"])
        try:
            for name, queue in current_app.extensions["queues"].items():
                lengths.add_metric([name], queue.count)
        except RedisError:
            return  # no figure is truer than a zero
        yield lengths


@health.get("/metrics")
def metrics() -> Response:
    """Figures in Prometheus' text format; summed over the web processes when they share a folder.

    For this machine only: to whom a proxy leads here, there is nothing at this address.
    """
    if {"X-Forwarded-For", "Forwarded"} & {*request.headers.keys()} or request.remote_addr not in _LOOPBACK:
        abort(404)
    waiting = CollectorRegistry()
    waiting.register(_Waiting())
    requests = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        requests = CollectorRegistry()
        MultiProcessCollector(requests)
    return Response(generate_latest(requests) + generate_latest(waiting), content_type=CONTENT_TYPE_LATEST)


def register(app: Flask) -> None:
    configure_logs()
    app.log_exception = _log_exception  # type: ignore[method-assign]
    app.before_request(_name_request)
    app.after_request(_note_response)
    app.register_error_handler(InternalServerError, _show_unexpected)
    app.register_error_handler(HTTPException, _show_refusal)
    app.register_error_handler(DomainError, _show_broken_rule)
    app.register_blueprint(health)
