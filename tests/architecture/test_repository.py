"""Rules about the text of the repository itself."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from crm.config import ROOT

DOMAINS = ("access", "audit", "ledger", "clients", "subscriptions", "bills", "payments", "mailings", "exchange")


@cache
def files() -> list[Path]:
    """Every text file that is, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # unpacked from an archive
        paths = [path for path in ROOT.rglob("*") if not any(part in {".venv", "var"} for part in path.parts)]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


def code(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in files():
        place = path.relative_to(ROOT)
        if path.suffix == ".py" and place.parts[0] in folders:
            yield place, ast.parse(path.read_text())


def test_only_the_clock_asks_for_the_time() -> None:
    asked = {
        f"{place}:{node.lineno}"
        for place, tree in code("crm")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"now", "utcnow", "today"}
        and ast.unparse(node.func.value) in {"datetime", "datetime.datetime", "date", "datetime.date"}
    }
    assert {place.split(":")[0] for place in asked} == {"crm/clock.py"}, asked


def test_domains_do_not_read_the_request() -> None:
    """Adapters pass in who, what and when; a domain that asks the request cannot run in a job."""
    found = [
        f"{place}: {alias.name}"
        for place, tree in code("crm")
        if place.parts[1] in DOMAINS
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"flask", "flask_login"}
        for alias in node.names
        if alias.name in {"request", "session", "g", "current_user", "has_request_context", "flash", "url_for"}
    ]
    assert found == []


def test_operations_do_not_commit() -> None:
    """Adapters own the transaction; those few operations that talk to the outside say so by transaction()."""
    found = [
        f"{place}:{node.lineno}"
        for place, tree in code("crm")
        if place.parts[1] in DOMAINS
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    ]
    assert found == []


def test_ledger_tables_are_written_by_the_ledger_alone() -> None:
    found = []
    for place, tree in code("crm"):
        if place.parts[1] == "ledger":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                is_row = node.func.id in {"Entry", "Transaction"}
                first = ast.unparse(node.args[0]) if node.args else ""
                is_bulk = node.func.id in {"insert", "update", "delete"} and first in {
                    "Entry",
                    "Transaction",
                    "Account",
                }
                if is_row or is_bulk:
                    found.append(f"{place}:{node.lineno}")
            is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if is_set and node.attr in {"balance", "credited", "debited"}:
                found.append(f"{place}:{node.lineno}")
    assert found == []


INLINE = {
    "a script in the page": re.compile(r"<script(?![^>]*\bsrc=)[^>]*>", re.I),
    "an event handler": re.compile(r"<[a-z][^>]*\son[a-z]+\s*=", re.I),
    "a style attribute": re.compile(r"<[a-z][^>]*\sstyle\s*=", re.I),
    "a style element": re.compile(r"<style\b", re.I),
    "a javascript: address": re.compile(r"javascript:", re.I),
}


@pytest.mark.parametrize("what", INLINE)
def test_templates_hold_nothing_the_security_policy_blocks(what: str) -> None:
    pages = [path for path in files() if path.suffix == ".html" and path.is_relative_to(ROOT / "templates")]
    assert pages
    # Letters are no pages of ours: mail programs know style attributes and nothing else.
    are_letters = what == "a style attribute"
    found = [
        str(path.relative_to(ROOT))
        for path in pages
        if INLINE[what].search(path.read_text())
        and not (are_letters and path.is_relative_to(ROOT / "templates" / "mail"))
    ]
    assert found == []


def test_nothing_names_a_registry_or_a_place_on_a_machine() -> None:
    """Where packages come from, and where the work was done, is the machine's affair."""
    # Put together here, so that this file does not find itself.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "--extra-" + "index-url"]
    folders = ["/" + name + "/" for name in ("work", "root", "home")]
    pattern = re.compile(
        "|".join([*map(re.escape, hosts), *(rf"(?<![\w.~)}}\]]){re.escape(name)}" for name in folders)])
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_nothing_is_left_to_do() -> None:
    """A stub or a note to oneself is no part of a finished product."""
    pattern = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files()
        if path.suffix in {".py", ".html", ".js", ".css"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_requirements_are_pinned_by_hash() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        pins = re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==\S+.*\\$", text, re.M | re.I)
        assert len(pins) > 20
        assert text.count("--hash=sha256:") >= len(pins)
        assert "http" + "s://" not in text
