"""The running tree: what dies comes back, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import wait_until


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    group: int
    command: str


def processes() -> list[Process]:
    """All that run, zombies aside; from /proc, or ps where there is none."""
    found = []
    if Path("/proc/self/stat").exists():
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
                command = path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile
            if state != "Z":
                found.append(Process(int(path.parent.name), int(parent), int(group), command))
        return found
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,pgid=,stat=,command="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, parent, group, state, command = line.split(None, 4)
        if not state.startswith("Z"):
            found.append(Process(int(pid), int(parent), int(group), command))
    return found


PARTS = {
    "queue": "valkey",
    "web": "gunicorn",
    "worker": r" --queue kontora\s*$",
    "worker-long": r" --queue kontora-long\s*$",
    "scheduler": " scheduler",
}


def parts_of(supervisor: int) -> dict[str, int]:
    """Process id of each running part of this supervisor, by name."""
    own = [process for process in processes() if process.parent == supervisor]
    return {name: process.pid for name, word in PARTS.items() for process in own if re.search(word, process.command)}


def left_of(groups: set[int]) -> list[str]:
    """Command lines of what still runs in these process groups."""
    return [process.command for process in processes() if process.group in groups]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_every_killed_part_comes_back_and_ctrl_c_leaves_nothing(live):
    kontora = live(demo=False)
    wait_until(lambda: set(parts_of(kontora.process.pid)) == set(PARTS), seconds=20, what="not every part runs")
    before = parts_of(kontora.process.pid)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def is_whole():
        now = parts_of(kontora.process.pid)
        return set(now) == set(PARTS) and not set(now.values()) & set(before.values())

    wait_until(is_whole, seconds=30, what="a killed part did not come back")
    wait_until(lambda: get(f"{kontora.url}/readyz")[0] == 200, seconds=30, what="not ready again")
    groups = set(parts_of(kontora.process.pid).values())

    began = time.monotonic()
    kontora.process.send_signal(signal.SIGINT)
    assert kontora.process.wait(20) == 0
    assert time.monotonic() - began < 10
    assert left_of(groups) == []
    said = kontora.log.read_text()
    assert "Traceback" not in said
    assert said.rstrip().endswith("Kontora has stopped.")
    assert not (kontora.data_dir / "valkey.sock").exists()


def test_no_part_outlives_a_killed_supervisor(live):
    kontora = live(demo=False)
    wait_until(lambda: set(parts_of(kontora.process.pid)) == set(PARTS), seconds=20, what="not every part runs")
    groups = set(parts_of(kontora.process.pid).values())
    kontora.process.kill()
    kontora.process.wait()
    wait_until(lambda: left_of(groups) == [], seconds=20, what="parts were left running")


def test_it_keeps_one_data_folder_to_itself(live):
    first = live(demo=False)
    figures = set((first.data_dir / "metrics").iterdir())
    assert figures
    with pytest.raises(RuntimeError, match="DATA_DIR: Kontora is running in .* already"):
        live(demo=False, env={"DATA_DIR": str(first.data_dir)})
    assert figures <= set((first.data_dir / "metrics").iterdir())
    assert get(f"{first.url}/healthz")[0] == 200
