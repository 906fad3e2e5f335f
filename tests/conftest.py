"""Fixtures: an app on a fresh migrated database (SQLite, then PostgreSQL), real Valkey and SMTP, a real browser.

Nothing here leaves the machine: a connection to anything but loopback fails the test that tried it.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import flask_migrate
import hypothesis
import psycopg
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from flask_wtf.csrf import generate_csrf
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from crm import clock, create_app
from crm.access.actors import SYSTEM
from crm.access.models import Branch, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.config import read_settings
from crm.db import db
from crm.ledger.queries import check_ledger
from tests import chromium, servers
from tests.factories import Network, make_network

pytest_plugins = ["tests.acceptance"]

# CI is to fail for a change, not for a new draw of the dice.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

T = TypeVar("T")


# --- nothing leaves the machine -------------------------------------------------------------------------------------

_LOOPBACK = ("127.", "::1", "localhost")
_escapes: list[str] = []


def _guard_network(event: str, args: tuple[Any, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"  # text or bytes: a unix socket
    elif event == "socket.getaddrinfo":
        host = args[0] or "127.0.0.1"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith(_LOOPBACK):
        _escapes.append(f"{event} {host}")
        raise ConnectionRefusedError(f"tests stay on this machine: {event} {host}")


sys.addaudithook(_guard_network)


@pytest.fixture(autouse=True)
def _no_escape() -> Iterator[None]:
    """Even an attempt whose error the code swallowed fails the test."""
    _escapes.clear()
    yield
    assert not _escapes, f"the test tried to leave the machine: {_escapes}"


@pytest.fixture(autouse=True)
def _clock_let_go() -> Iterator[None]:
    """A clock left held would be blamed on whichever test comes next."""
    yield
    assert not clock.is_held(), "the test still holds the clock"


# --- servers, one per run or per worker -----------------------------------------------------------------------------

_stack = pytest.StashKey[contextlib.ExitStack]()
_postgresql = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stack] = contextlib.ExitStack()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_stack].close()


def _postgresql_url(config: pytest.Config) -> str:
    """One server per run: the xdist controller starts it and tells its workers."""
    if told := getattr(config, "workerinput", {}).get("postgresql_url"):
        return str(told)
    if _postgresql not in config.stash:
        config.stash[_postgresql] = config.stash[_stack].enter_context(servers.postgresql())
    return config.stash[_postgresql]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["postgresql_url"] = _postgresql_url(node.config)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey of this worker; emptied before each test that has an app."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def _smtp_server() -> Iterator[servers.Smtp]:
    with servers.smtp_server() as server:
        yield server


@pytest.fixture
def smtp(_smtp_server: servers.Smtp) -> servers.Smtp:
    """The SMTP server the app sends through: .messages, .url, .refuse_temporarily(to), .refuse_for_good(to)."""
    _smtp_server.reset()
    return _smtp_server


# --- databases ------------------------------------------------------------------------------------------------------


@dataclass
class TestDatabase:
    """A database that renew() makes fresh and migrated, at an address that stays."""

    __test__ = False

    url: str
    renew: Callable[[], None]


def _migrate(url: str, home: Path) -> None:
    """Bring the empty database at `url` to the head by the real migrations."""
    app = create_app(read_settings({"DATABASE_URL": url, "DATA_DIR": str(home)}))
    with app.app_context():
        flask_migrate.upgrade()
        db.engine.dispose()


@contextlib.contextmanager
def _sqlite(home: Path) -> Iterator[TestDatabase]:
    template, path = home / "template.db", home / "test.db"
    _migrate(f"sqlite:///{template}", home)

    def renew() -> None:
        # The file as well: a connection some test left open keeps the old file and cannot spoil the new one.
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(template, path)

    yield TestDatabase(f"sqlite:///{path}", renew)


class _Cloned:
    """A PostgreSQL database that renew() makes equal to its template, at an address that stays.

    A clone takes a third of a second, so the rows alone are put back: they are all deleted, those of the template come
    again, the sequences stand where they stood. It is cloned anew when a test has changed the schema (the catalogue's
    row versions tell), when the rows took long to delete, and after so many rounds that dead rows begin to count.
    """

    ROUNDS, SLOW = 200, 0.25  # s

    def __init__(self, server: URL, name: str, template: str) -> None:
        self._name, self._template = name, template
        self._address = server.set(drivername="postgresql")
        self._admin = self._connect(str(server.database))
        self._own: psycopg.Connection | None = None
        self._rounds = 0
        self._clean, self._schema = "", ()

    def _connect(self, database: str) -> psycopg.Connection:
        url = self._address.set(database=database).render_as_string(hide_password=False)
        return psycopg.connect(url, autocommit=True)

    def renew(self) -> None:
        if self._own is None or self._rounds >= self.ROUNDS or not self._is_cleaned(self._own):
            self._clone()
        self._rounds += 1

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
        self._admin.execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')
        self._admin.close()

    def _clone(self) -> None:
        if self._own is not None:
            self._own.close()
        self._admin.execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')
        self._admin.execute(f'CREATE DATABASE "{self._name}" TEMPLATE "{self._template}"')
        self._own, self._rounds = self._connect(self._name), 0
        self._clean, self._schema = self._cleaning(self._own), self._schema_of(self._own)

    def _is_cleaned(self, own: psycopg.Connection) -> bool:
        started = time.monotonic()
        try:
            # Whoever is still connected is of a test that has ended, and may hold locks.
            own.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            if self._schema_of(own) != self._schema:
                return False
            own.execute(self._clean)
        except (
            psycopg.OperationalError,
            psycopg.errors.InsufficientPrivilege,
        ):  # a server given to us, a test that cut
            return False
        return time.monotonic() - started < self.SLOW

    @staticmethod
    def _schema_of(own: psycopg.Connection) -> tuple[Any, ...]:
        """Number and versions of what is ours in the catalogue: any DDL, a TRUNCATE included, changes them."""
        parts = (
            f"(SELECT (count(*), coalesce(sum(xmin::text::bigint), 0))::text FROM {table} WHERE {column} >= 16384)"
            for table, column in (
                *((table, "oid") for table in ("pg_class", "pg_constraint", "pg_trigger", "pg_proc", "pg_attrdef")),
                *(("pg_attribute", "attrelid"), ("pg_index", "indexrelid")),
            )
        )
        return own.execute(f"SELECT {', '.join(parts)}").fetchone() or ()

    @staticmethod
    def _cleaning(own: psycopg.Connection) -> str:
        """One transaction that gives the fresh clone's rows back, whatever was written since."""
        inserts, deletes, restarts = [], [], []
        for table in own.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"):
            deletes.append(f"DELETE FROM {table[0]}")
            rows = own.execute(f"SELECT json_agg(t)::text FROM {table[0]} t").fetchone()
            if rows and rows[0]:
                columns = ", ".join(
                    row[0]
                    for row in own.execute(
                        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass "
                        "AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                        [table[0]],
                    )
                )
                source = sql.SQL("json_populate_recordset(NULL::{}, {})").format(
                    sql.SQL(table[0]), sql.Literal(rows[0])
                )
                inserts.append(
                    f"INSERT INTO {table[0]} ({columns}) OVERRIDING SYSTEM VALUE "
                    f"SELECT {columns} FROM {source.as_string(own)}"
                )
        for name in own.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND oid >= 16384"):
            value = own.execute(f"SELECT last_value, is_called FROM {name[0]}").fetchone()
            assert value is not None
            restarts.append(f"setval('{name[0]}', {value[0]}, {value[1]})")
        # Neither foreign keys nor the triggers that keep the ledger append-only are asked.
        return "; ".join(
            [
                *("BEGIN", "SET LOCAL session_replication_role = replica"),
                *deletes,
                *inserts,
                f"SELECT {', '.join(restarts)}",
                "COMMIT",
            ]
        )


@contextlib.contextmanager
def _postgresql_database(server_url: str, name: str, home: Path) -> Iterator[TestDatabase]:
    server = make_url(server_url)
    template = f"{name}_template"
    admin = psycopg.connect(server.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True)
    with admin, contextlib.ExitStack() as stack:
        admin.execute(f'CREATE DATABASE "{template}" TEMPLATE template0 ENCODING UTF8')
        stack.callback(admin.execute, f'DROP DATABASE IF EXISTS "{template}" WITH (FORCE)')
        _migrate(server.set(database=template).render_as_string(hide_password=False), home)
        cloned = stack.enter_context(contextlib.closing(_Cloned(server, name, template)))
        yield TestDatabase(server.set(database=name).render_as_string(hide_password=False), cloned.renew)


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Which database the test runs on; a test for one only says parametrize("dialect", ["sqlite"], indirect=True)."""
    return str(request.param)


@dataclass
class Prepared:
    """An application, made once per worker and dialect, and the database below it."""

    app: Flask
    database: TestDatabase


@pytest.fixture(scope="session")
def _prepared(
    request: pytest.FixtureRequest,
    valkey_url: str,
    _smtp_server: servers.Smtp,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Prepared]]:
    known: dict[str, Prepared] = {}
    with contextlib.ExitStack() as stack:

        def prepare(dialect: str) -> Prepared:
            if dialect not in known:
                home = tmp_path_factory.mktemp(dialect)
                if dialect == "sqlite":
                    database = stack.enter_context(_sqlite(home))
                else:
                    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
                    database = stack.enter_context(
                        _postgresql_database(
                            _postgresql_url(request.config), f"kontora_test_{os.getpid()}_{worker}", home
                        )
                    )
                settings = read_settings(
                    {
                        "DATABASE_URL": database.url,
                        "REDIS_URL": valkey_url,
                        "SMTP_URL": _smtp_server.url,
                        "PUBLIC_URL": "https://kontora.test",
                        "SECRET_KEY": "a secret of the tests",
                        "DATA_DIR": str(home),
                    }
                )
                known[dialect] = Prepared(create_app(settings), database)
            return known[dialect]

        yield prepare


@pytest.fixture
def database(dialect: str, _prepared: Callable[[str], Prepared]) -> TestDatabase:
    """A fresh migrated database, for tests that bring their own application or process."""
    prepared = _prepared(dialect)
    prepared.database.renew()
    return prepared.database


@pytest.fixture
def app(dialect: str, database: TestDatabase, _prepared: Callable[[str], Prepared], valkey_url: str) -> Iterator[Flask]:
    """The application on a fresh database; app context pushed, scope EVERYWHERE. Ends with a clean ledger check."""
    app = _prepared(dialect).app
    with redis.Redis.from_url(valkey_url) as queue:
        queue.flushall()
    # Whoever acted last in this process is forgotten: what a test does itself is done at the command line.
    with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "cli"):
        try:
            yield app
            db.session.rollback()
            assert check_ledger() == []
        finally:
            db.session.remove()
            db.engine.dispose()


@pytest.fixture
def network(app: Flask) -> Network:
    """A small network with a user of each role; see factories.make_network()."""
    return make_network()


# --- requests -------------------------------------------------------------------------------------------------------


class Client(FlaskClient):
    """A test client whose requests see the test's rows, and share nothing else with the test.

    Each request runs in a context of its own, as in a server's thread: no app context, scope, actor or session of the
    test. What the test wrote is committed first. POSTs carry a valid CSRF token; `with_csrf = False` leaves it out.
    """

    with_csrf = True

    def open(self, *args: Any, **kwargs: Any) -> Any:
        db.session.commit()
        if self.with_csrf and kwargs.get("method", "GET") not in {"GET", "HEAD", "OPTIONS"}:
            kwargs["headers"] = {**dict(kwargs.get("headers") or {}), "X-CSRFToken": self._token()}
            if self.application.config["SETTINGS"].is_https:
                kwargs["headers"].setdefault("Referer", "https://kontora.test/")
        if self.application.config["SETTINGS"].is_https:
            kwargs.setdefault("base_url", "https://kontora.test")
        return contextvars.Context().run(super().open, *args, **kwargs)

    def _token(self) -> str:
        def make() -> str:
            with self.session_transaction(base_url="https://kontora.test") as session:
                raw = session.setdefault("csrf_token", "0" * 40)
                with self.application.test_request_context():
                    from flask import session as inner

                    inner["csrf_token"] = raw
                    return generate_csrf()

        return contextvars.Context().run(make)


@pytest.fixture
def web(app: Flask) -> Callable[..., Client]:
    """web(user=None, branch=None) -> a client signed in as the user, with that branch chosen, in Russian."""

    def sign_in(user: User | None = None, branch: Branch | None = None, *, language: str = "ru") -> Client:
        session_user, branch_id = user.get_id() if user else None, branch.id if branch else None
        client = Client(app, app.response_class, use_cookies=True)
        client.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
        client.environ_base["REMOTE_ADDR"] = "127.0.0.1"
        db.session.commit()

        def fill_session() -> None:
            with client.session_transaction(base_url="https://kontora.test") as session:
                if session_user is not None:
                    session["_user_id"] = session_user
                    session["_fresh"] = True
                if branch_id is not None:
                    session["branch_id"] = branch_id

        contextvars.Context().run(fill_session)
        return client

    return sign_in


# --- many at once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_parallel(app: Flask) -> Callable[..., list[Any]]:
    """in_parallel(function, times=8): call function(0), function(1)… at the same moment, each in a thread with an app
    context, scope EVERYWHERE and a database connection of its own. Results in order; an exception is a result.
    """

    def run(function: Callable[[int], T], times: int = 8) -> list[T | Exception]:
        db.session.commit()
        start = threading.Barrier(times)

        def one(index: int) -> T | Exception:
            with app.app_context(), scoped_to(EVERYWHERE):
                start.wait(30)
                try:
                    return function(index)
                except Exception as error:
                    return error

        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(one, range(times)))

    return run


# --- the whole thing, and a browser ---------------------------------------------------------------------------------


@pytest.fixture
def live() -> Iterator[Callable[..., servers.LiveKontora]]:
    """live(demo=True, database_url=None, env=None): a supervised Kontora of this test; .url, .data_dir, .process."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(servers.kontora(**options))


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """Address of a Kontora with demo data shared by the tests of this worker."""
    with servers.kontora(demo=True) as running:
        yield running.url


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium by Playwright's sync API, one per worker."""
    if os.environ.get("NO_BROWSER") == "1":
        pytest.skip("NO_BROWSER=1: browser tests left out")
    path = chromium.find()
    if path is None:
        pytest.fail(chromium.MISSING, pytrace=False)
    from playwright.sync_api import expect, sync_playwright

    args = [
        *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync"),
    ]
    if os.geteuid() == 0:
        args.append("--no-sandbox")
    expect.set_options(timeout=20_000)  # two tests, three servers and a browser share two cores
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=args)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in a private window, in Russian. Script errors and broken content security policy fail the test."""
    context = browser.new_context(locale="ru-RU")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(30_000)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on(
        "console",
        lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None,
    )
    try:
        yield context.new_page()
    finally:
        context.close()
    assert not complaints, f"the page complained: {complaints}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test in Chromium that fails is tried once more, and the summary tells so (docs/decisions/0032)."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid}", yellow=True)
        terminalreporter.write_line(report.longreprtext)
    if os.environ.get("NO_BROWSER") == "1":
        terminalreporter.write_line("NO_BROWSER=1: the browser tests were left out", yellow=True)
