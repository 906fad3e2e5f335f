"""A hundred thousand bills changed and archived by jobs, with protocol and audit, while somebody looks at the grid."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html import unescape
from statistics import quantiles
from typing import Any

from bench import kontora
from bench.contestants import Contestant
from bench.databases import Ground
from bench.report import figure_line, megabytes, within
from bench.sizes import BULK_SECONDS, FASTER_THAN_ORM

LOOP = 500  # bills of the loop over ORM objects, a transaction each
PER = 100_000
PAUSE = 0.25  # seconds between the pages somebody looks at meanwhile


def bulk(ground: Ground) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where a row was left out, or its protocol or its audit."""
    chosen = {"all": "1", "f.status.is": "pending", "f.issued_at.to": ground.full.changed_until}
    yield f"\n{ground.name}, bulk changes of the bills issued by {ground.full.changed_until}"
    with (
        Contestant(kontora.worker, ground.full_url, ground.home, ground.full.session_user) as worker,
        Contestant(kontora.site, ground.full_url, ground.home, ground.full.session_user) as site,
    ):
        site.run("get", "/admin/bill/")
        for name, fields in (
            ("edit", {"filled": "1", "set.change": "is_repeatable", "set.is_repeatable": "1"}),
            ("archive", {}),
        ):
            job_id = start(worker, {"action": name, **chosen, **fields})
            worker.begin("perform", job_id)
            pages = []
            while not worker.is_ready():
                pages.append(site.run("get", "/admin/bill/").seconds)
                time.sleep(PAUSE)
            seconds = worker.finish().seconds
            facts = json.loads(worker.run("facts", job_id).content)
            rows = facts["done"]
            if not rows or facts != {"done": rows, "total": rows, "failed": 0, "lines": rows, "audited": rows}:
                raise SystemExit(f"bulk {name}: not all was done, or not all was written down: {facts}")
            alone = worker.run("loop", name, LOOP).seconds / LOOP
            yield figure_line(
                f"{name} of {rows:,} bills",
                f"{seconds:.1f} s, {rows / seconds:,.0f}/s; a loop {1 / alone:,.0f}/s",
                within(f"s per {PER:,}", seconds * PER / rows, at_most=BULK_SECONDS),
                within("faster than a loop", alone * rows / seconds, at_least=FASTER_THAN_ORM),
            )
            slow = quantiles(pages, n=20)[-1] if len(pages) > 1 else pages[0]
            yield figure_line("  a grid page meanwhile, p95", f"{slow * 1000:.0f} ms of {len(pages)} pages")
        yield figure_line("  memory of the worker at most", megabytes(worker.peak_memory()))


def start(worker: Contestant, fields: dict[str, str]) -> int:
    """Choose, see what will change, confirm; the id of the job."""
    page = worker.run("post", "/admin/bill/action/", list(fields.items())).content.decode()
    form = next(part for part in re.findall(r"<form.*?</form>", page, re.S) if 'name="confirmed"' in part)
    answer = worker.run("post", "/admin/bill/action/", [*hidden_fields(form)])
    return int(re.findall(rb"\d+", answer.content)[-1])


def hidden_fields(form: str) -> Iterator[tuple[str, Any]]:
    """What a form sends along by itself, and the value of its button."""
    for tag in re.findall(r"<input[^>]*type=\"hidden\"[^>]*>", form):
        name, value = re.search(r"name=\"([^\"]*)\"", tag), re.search(r"value=\"([^\"]*)\"", tag)
        if name:
            yield name[1], unescape(value[1]) if value else ""
