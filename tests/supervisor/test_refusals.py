"""What keeps Kontora from starting is said in one line, and nothing is left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.servers import ROOT, free_port


def start(tmp_path, **env):
    """Run the supervisor to its end: (exit code, lines on stderr)."""
    inherited = {name: text for name, text in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    done = subprocess.run(
        [sys.executable, "-m", "crm.supervisor"],
        cwd=ROOT,
        env=inherited | {"DATA_DIR": str(tmp_path / "var"), "PORT": str(free_port()), **env},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == ""
    assert not (tmp_path / "var" / "valkey.sock").exists()
    return done.returncode, done.stderr.splitlines()


def test_a_taken_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, lines = start(tmp_path, PORT=str(port))
    assert (code, len(lines)) == (1, 1)
    assert f"PORT: {port}" in lines[0]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PORT": "eighty"}, "PORT: 'eighty'"),
        ({"DATABASE_URL": "mysql://root@host/db"}, "DATABASE_URL: mysql"),
        ({"REDIS_URL": "http://127.0.0.1"}, "REDIS_URL: 'http://127.0.0.1'"),
        ({"SMTP_URL": "mail.test"}, "SMTP_URL: 'mail.test'"),
        ({"KONTORA_DEMO": "yes"}, "KONTORA_DEMO: 'yes'"),
    ],
)
def test_a_bad_setting(tmp_path, env, said):
    code, lines = start(tmp_path, **env)
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]


def test_a_database_server_that_is_not_there(tmp_path):
    url = f"postgresql+psycopg://kontora:secret@127.0.0.1:{free_port()}/kontora"
    code, lines = start(tmp_path, DATABASE_URL=url)
    assert (code, len(lines)) == (1, 1)
    assert "DATABASE_URL: postgresql+psycopg://kontora:***@127.0.0.1" in lines[0]
    assert "refused" in lines[0]
    assert "secret" not in lines[0]


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"no database at all " * 100)
    code, lines = start(tmp_path, DATABASE_URL=f"sqlite:///{path}")
    assert (code, len(lines)) == (1, 1)
    assert "not a database" in lines[0]


def test_a_queue_server_that_is_not_there(tmp_path):
    code, lines = start(tmp_path, REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert (code, len(lines)) == (1, 1)
    assert "REDIS_URL: 127.0.0.1" in lines[0]
    assert "secret" not in lines[0]
