"""Contestants: who is measured. Each lives in a process of its own, so that imports, listeners and memory of one never
touch another, and answers one question at a time, so that two of them can be asked in turns.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, event

# What a contestant can do: one piece of work, named by its arguments, which returns the bytes it made.
Skill = Callable[..., bytes]


@dataclass(frozen=True)
class Outcome:
    """One piece of work. seconds: wall clock; queries: SQL statements sent, BEGIN and the like left out."""

    seconds: float
    queries: int
    content: bytes


class Contestant:
    """A process that has the skills `make(*args)` returns and uses them when asked."""

    def __init__(self, make: Callable[..., Mapping[str, Skill]], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pipe.close()  # the process ends when nobody can ask any more
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def run(self, skill: str, *args: Any) -> Outcome:
        """Do one piece of work and wait for it. Raises RuntimeError with the traceback of the other side."""
        self.begin(skill, *args)
        return self.finish()

    def begin(self, skill: str, *args: Any) -> None:
        """Ask for a piece of work and go on; finish() waits for it."""
        self._pipe.send((skill, args))

    def is_ready(self) -> bool:
        """Whether what was begun is done."""
        return self._pipe.poll()

    def finish(self) -> Outcome:
        """What came of the work that was begun. Raises RuntimeError with the traceback of the other side."""
        return self._answer()

    def peak_memory(self) -> int:
        """The most memory the process has held so far, in bytes (resident)."""
        self._pipe.send(None)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, error = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a contestant died") from None
        if error:
            raise RuntimeError(error)
        return answer


def _serve(pipe: Any, make: Callable[..., Mapping[str, Skill]], args: tuple[Any, ...]) -> None:
    queries = 0

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal queries
        queries += not statement.startswith(("BEGIN", "PRAGMA"))

    event.listen(Engine, "before_cursor_execute", count)
    with open(os.devnull, "w") as sys.stderr:  # request logs are written, as in real life, but nobody reads them
        skills: Mapping[str, Skill] = {}
        while True:
            try:
                question = pipe.recv()
            except EOFError:
                return
            try:
                skills = skills or make(*args)
                if question is None:
                    pipe.send((_peak_memory(), None))
                    continue
                skill, about = question
                if skill == "wake":  # what a process does once is done
                    pipe.send((Outcome(0, 0, b""), None))
                    continue
                queries, began = 0, time.perf_counter()
                content = skills[skill](*about)
                pipe.send((Outcome(time.perf_counter() - began, queries, content), None))
            except Exception:
                pipe.send((None, traceback.format_exc()))


def _peak_memory() -> int:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def browser(app: Flask, *, session: Mapping[str, Any] | None = None) -> FlaskClient:
    """Asks `app` in this process, in Russian, with these values in its session."""
    client = app.test_client()
    client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "ru"
    if session:
        with client.session_transaction() as values:
            values.update(session)
    return client


def getting(client: FlaskClient) -> Skill:
    """The skill get(path); anything but 200 is an error."""

    def get(path: str) -> bytes:
        with client.get(path) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{path}: {response.status}")
            return response.data

    return get
