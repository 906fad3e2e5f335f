"""Files in: dry run first, then all or nothing, once.

An importer says what its lines are (clients.py, accounts.py); here is what all of them share. Each line becomes a typed
row or a list of refusals. An import is one transaction: the person gets the figures the dry run showed, or no change at
all. A row is known again by its content (ImportedRow), so repeating a file, or a file that has grown, adds only what
is new.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from flask_babel import gettext as _
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.exchange.models import ImportedRow, ImportRun
from crm.exchange.reading import Field, Line, Sheet, read_sheet

BATCH = 400  # rows written by one statement

Figures = dict[str, int | str]


@dataclass(frozen=True)
class Refusal:
    """Why a line is left out. column: as the file calls it; code: the figure the line counts under."""

    line: int
    column: str
    code: str
    reason: str


@dataclass(frozen=True)
class Row:
    """A line as typed values. key: its content, the same however the values are spelled."""

    line: int
    values: Any
    key: str


class Importer(Protocol):
    """What differs between entities. Made anew for each run, within the scope of the one who imports."""

    entity: str
    permission: str
    fields: tuple[Field, ...]
    codes: tuple[str, ...]  # refusals that are reported even when there are none

    def typed(self, values: dict[str, Any]) -> Any:
        """The values of a line's fields as a frozen dataclass of plain values."""
        ...

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterable[Refusal]:
        """Refuse rows that are sound in themselves, for other rows or for the database; not those applied before."""
        ...

    def notes(self, rows: Sequence[Row]) -> Iterable[tuple[int, str]]:
        """What is worth telling of lines that are taken: (line, text)."""
        ...

    def figures(self, read: Sequence[Row], good: Sequence[Row], sheet: Sheet, refused: Counter[str]) -> Figures:
        """The figures of the report. read: rows sound in themselves; good: those to be applied."""
        ...

    def create(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        """Write the rows; the id of what each became."""
        ...


class Columns:
    """Field names as the file's own headings."""

    def __init__(self, known: Sequence[Field], headings: dict[str, str]) -> None:
        self._names = {field_.name: headings.get(field_.name, field_.aliases[0]) for field_ in known}

    def __call__(self, name: str) -> str:
        return self._names[name]


@dataclass
class Report:
    """What a file holds, what of it is refused and why. created: None for a dry run.

    applied_before: good lines an earlier run has brought in already. ignored: columns nobody asked for.
    """

    entity: str
    figures: Figures
    refusals: list[Refusal]
    notes: dict[str, list[int]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    applied_before: int = 0
    created: int | None = None


def dry_run(importer: Importer, content: bytes, *, by: Actor) -> Report:
    """Read the file and say what an import would do; nothing is changed. Raises DomainError for an unusable file."""
    return _plan(importer, content, by=by)[0]


def apply_import(importer: Importer, content: bytes, *, file_name: str, by: Actor) -> Report:
    """Bring in the good lines that have not been brought in before. The caller commits: all of them or none.

    Raises DomainError as dry_run() does, Conflict when the same lines are being imported at this moment.
    """
    report, fresh = _plan(importer, content, by=by)
    report.created = len(fresh)
    if not fresh:
        return report
    run = ImportRun(
        entity=importer.entity,
        file_name=file_name[-255:],
        sha256=hashlib.sha256(content).hexdigest(),
        applied_at=clock.now(),
        author_id=by.id,
        author_name=str(by.name),
        created=len(fresh),
    )
    db.session.add(run)
    db.session.flush()
    try:
        for start in range(0, len(fresh), BATCH):
            _create_batch(importer, run.id, fresh[start : start + BATCH], by=by)
    except IntegrityError as error:
        raise Conflict(
            "import_runs", _("The same lines are being imported at this moment. Try again later.")
        ) from error
    return report


def _create_batch(importer: Importer, run_id: int, rows: Sequence[Row], *, by: Actor) -> None:
    ids = importer.create(rows, by=by)
    db.session.execute(
        insert(ImportedRow),
        [
            {"run_id": run_id, "entity": importer.entity, "key": row.key, "line": row.line, "row_id": row_id}
            for row, row_id in zip(rows, ids, strict=True)
        ],
    )


def _plan(importer: Importer, content: bytes, *, by: Actor) -> tuple[Report, list[Row]]:
    """The report, and the good rows that are not in yet."""
    require(by, importer.permission)
    sheet = read_sheet(content, importer.fields)
    column = Columns(importer.fields, sheet.headings)
    read: list[Row] = []
    refusals: list[Refusal] = []
    for line in sheet.lines:
        values, faults = _parse(line, importer.fields, column)
        if faults:
            refusals += faults
        else:
            typed = importer.typed(values)
            read.append(Row(line.number, typed, content_key(typed)))
    applied = _applied(importer.entity, [row.key for row in read])
    refusals += importer.refusals(read, applied, column)
    refusals.sort(key=lambda refusal: refusal.line)
    refused: dict[int, str] = {}
    for refusal in refusals:  # a line with several faults counts once, under the first
        refused.setdefault(refusal.line, refusal.code)
    good = [row for row in read if row.line not in refused]
    counts = Counter(refused.values())
    figures = importer.figures(read, good, sheet, counts)
    figures |= {code: count for code, count in sorted(counts.items()) if code not in figures}
    fresh = [row for row in good if row.key not in applied]
    notes: dict[str, list[int]] = {}
    for number, text in importer.notes(fresh):
        notes.setdefault(text, []).append(number)
    return Report(importer.entity, figures, refusals, notes, sheet.ignored, len(good) - len(fresh)), fresh


def _parse(line: Line, wanted: Sequence[Field], column: Columns) -> tuple[dict[str, Any], list[Refusal]]:
    values: dict[str, Any] = {}
    faults: list[Refusal] = []
    for field_ in wanted:
        try:
            values[field_.name] = field_.parse(line.cells.get(field_.name, ""))
        except DomainError as error:
            faults.append(Refusal(line.number, column(field_.name), field_.code, str(error)))
    return values, faults


def content_key(typed: Any) -> str:
    """A hash of a dataclass's values, stable between databases and spellings of the file; fields that are not compared
    are no content.
    """
    content = {part.name: getattr(typed, part.name) for part in fields(typed) if part.compare}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def ledger_key(entity: str, row: Row) -> str:
    """Idempotency key of the transaction a row causes."""
    return f"import:{entity}:{row.key}"


def _applied(entity: str, keys: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for start in range(0, len(keys), 1000):
        query = select(ImportedRow.key).where(
            ImportedRow.entity == entity, ImportedRow.key.in_(keys[start : start + 1000])
        )
        found.update(db.session.scalars(query))
    return frozenset(found)


def report_lines(report: Report) -> list[str]:
    """The report as text for a terminal: figures in a stable order, then each refusal, then notes."""
    lines = [f"{name} {value}" for name, value in report.figures.items()]
    lines.append(f"applied_before {report.applied_before}")
    if report.created is not None:
        lines.append(f"created {report.created}")
    if report.refusals:
        lines += ["", _("Refused:")]
        lines += [
            _(
                "line %(line)s, “%(column)s”: %(reason)s",
                line=refusal.line,
                column=refusal.column,
                reason=refusal.reason,
            )
            for refusal in report.refusals
        ]
    if report.notes or report.ignored:
        lines += ["", _("Note:")]
    for text, numbers in report.notes.items():
        some = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
        lines.append(_("%(text)s (lines: %(count)s, namely %(some)s)", text=text, count=len(numbers), some=some))
    if report.ignored:
        lines.append(_("Columns left out: %(names)s", names=", ".join(report.ignored)))
    return lines
