"""Files in: each line becomes a typed row or a list of refusals, is judged, and has a fate. A dry run stops there.

An importer says what its lines are (clients.py, accounts.py); here is what all of them share. Lines are read, judged
and written batch by batch, so memory stays flat. A row is known again by its content (ImportedRow), so repeating a
file, or a file that has grown, adds only what is new. `apply_import` brings in all or nothing, in one transaction;
uploads.py does the same batch by batch, as a job.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from itertools import islice
from typing import Any, Protocol

from flask_babel import gettext as _
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.exchange.models import Fate, ImportedRow, ImportRun
from crm.exchange.reading import Field, Line, Sheet, Source, read_sheet

BATCH = 400  # rows judged and written by one statement

Figures = dict[str, int | str]
Measures = dict[str, int | Decimal]
Changes = dict[str, list[Any]]  # {field: [old, new]}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line is left out. column: as the file calls it; code: the figure the line counts under."""

    line: int
    column: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line as typed values. key: its content, the same however the values are spelled."""

    line: int
    values: Any
    key: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a row became: the id of its record, and what an undo has to know (ImportedRow.details)."""

    id: int
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A line and its fate. row: None for a line that cannot be read; changes: of an update."""

    line: Line
    fate: Fate
    row: Row | None = None
    refusals: Sequence[Refusal] = ()
    changes: Changes | None = None
    notes: Sequence[str] = ()


@dataclass
class Tally:
    """Figures of a file, added up batch by batch. measures: what the importer counts of its rows; refused: by code.

    totals: sums of the money columns, by field and fate, of the lines where the sum can be read.
    """

    lines: int = 0
    empty: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    measures: Counter[str] = field(default_factory=Counter)
    totals: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def good(self) -> int:
        return self.lines - self.refused.total()

    def measure(self, name: str) -> int:
        return self.measures[name]

    def sum_of(self, name: str) -> str:
        return str(self.measures[name] + Decimal("0.00"))

    def to_json(self) -> dict[str, Any]:
        def plain(counter: Mapping[str, Any]) -> dict[str, Any]:
            return {key: str(value) if isinstance(value, Decimal) else value for key, value in counter.items()}

        return {
            "lines": self.lines,
            "empty": self.empty,
            "fates": plain(self.fates),
            "refused": plain(self.refused),
            "measures": plain(self.measures),
            "totals": {name: plain(sums) for name, sums in self.totals.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tally:
        def counter(values: Mapping[str, Any]) -> Counter[str]:
            numbers = {key: Decimal(value) if isinstance(value, str) else value for key, value in values.items()}
            return Counter(numbers)

        return cls(
            data["lines"],
            data["empty"],
            counter(data["fates"]),
            counter(data["refused"]),
            counter(data["measures"]),
            {name: counter(sums) for name, sums in data["totals"].items()},
        )


class Importer(Protocol):
    """What differs between entities. Made anew for each run, within the scope of the one who imports; it remembers
    what the lines so far have taken.
    """

    entity: str
    permission: str
    fields: tuple[Field, ...]
    codes: tuple[str, ...]  # refusals that are reported even when there are none
    duplicates: frozenset[str]  # refusals of what is here already, or stands in the file twice
    money: tuple[str, ...]  # fields whose columns are totalled
    run_id: int | None  # the run under way: what it has made itself is in nobody's way

    def typed(self, values: dict[str, Any]) -> Any:
        """The values of a line's fields as a frozen dataclass of plain values. Raises DomainError beside the field for
        values that do not go together.
        """
        ...

    def label(self, values: Mapping[str, Any]) -> str:
        """What a person knows the line by, of parsed or raw values."""
        ...

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterable[Refusal]:
        """Refuse rows that are sound in themselves, for other rows or for the database; not those applied before."""
        ...

    def recall(self, rows: Sequence[Row]) -> None:
        """Rows that were good before this importer was made: they are taken as refusals() would have taken them."""
        ...

    def changes(self, rows: Sequence[Row]) -> Mapping[int, Changes]:
        """By line: what a row would change of a record that is here already; {} for nothing. Others are new."""
        ...

    def notes(self, rows: Sequence[Row]) -> Iterable[tuple[int, str]]:
        """What is worth telling of lines that are taken: (line, text)."""
        ...

    def measures(self, read: Sequence[Row], good: Sequence[Row]) -> Measures:
        """What to add to the figures. read: rows sound in themselves; good: those of them not refused."""
        ...

    def figures(self, tally: Tally) -> Figures:
        """The figures of the report, in order."""
        ...

    def create(self, rows: Sequence[Row], *, run_id: int, by: Actor) -> list[Made]:
        """Write the rows; what each became."""
        ...

    def update(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        """Change the records that are here; the id of each."""
        ...


class Columns:
    """Field names as the file's own headings."""

    def __init__(self, known: Sequence[Field], headings: dict[str, str]) -> None:
        self._names = {field_.name: headings.get(field_.name, field_.title) for field_ in known}

    def __call__(self, name: str) -> str:
        return self._names[name]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A line read as far as it can be without the database."""

    line: Line
    values: dict[str, Any]
    row: Row | None
    refusals: Sequence[Refusal]


class Examination:
    """A sheet's lines with their fates, batch by batch, and the figures so far."""

    def __init__(self, importer: Importer, sheet: Sheet, tally: Tally | None = None) -> None:
        self.importer, self.sheet, self.tally = importer, sheet, tally or Tally()
        self._column = Columns(importer.fields, sheet.headings)

    def batches(self) -> Iterator[list[Parsed]]:
        """The lines of the file; asks nothing of the database."""
        lines = iter(self.sheet)
        while batch := [self._parse(line) for line in islice(lines, BATCH)]:
            yield batch

    def judge(self, batch: Sequence[Parsed]) -> list[Verdict]:
        """The fates of a batch, in order; counts them."""
        importer, tally = self.importer, self.tally
        read = [parsed.row for parsed in batch if parsed.row]
        applied = _applied(importer.entity, [row.key for row in read])
        refusals: dict[int, list[Refusal]] = {parsed.line.number: [*parsed.refusals] for parsed in batch}
        for refusal in importer.refusals(read, applied, self._column):
            refusals[refusal.line].append(refusal)
        good = [row for row in read if not refusals[row.line]]
        fresh = [row for row in good if row.key not in applied]
        changes = importer.changes(fresh)
        notes: dict[int, list[str]] = {}
        for number, text in importer.notes([row for row in fresh if row.line not in changes]):
            notes.setdefault(number, []).append(text)
        verdicts = []
        for parsed in batch:
            number = parsed.line.number
            if found := refusals[number]:
                # a line with several faults counts once, under the first
                tally.refused[found[0].code] += 1
                fate = Fate.DUPLICATE if found[0].code in importer.duplicates else Fate.ERROR
                verdict = Verdict(parsed.line, fate, parsed.row, found)
            elif parsed.row and parsed.row.key in applied:
                verdict = Verdict(parsed.line, Fate.SKIP, parsed.row, notes=[_("This line was imported before.")])
            elif (changed := changes.get(number)) is not None:
                fate, said = (Fate.UPDATE, []) if changed else (Fate.SKIP, [_("Nothing in it is new.")])
                verdict = Verdict(parsed.line, fate, parsed.row, changes=changed or None, notes=said)
            else:
                verdict = Verdict(parsed.line, Fate.CREATE, parsed.row, notes=notes.get(number, ()))
            verdicts.append(verdict)
            tally.fates[verdict.fate.value] += 1
            for name in importer.money:
                if parsed.values.get(name):
                    tally.totals.setdefault(name, Counter())[verdict.fate.value] += parsed.values[name]
        tally.lines += len(batch)
        tally.empty = self.sheet.empty
        for name, value in importer.measures(read, good).items():
            tally.measures[name] += value  # type: ignore[assignment]
        return verdicts

    def figures(self) -> Figures:
        """The report's figures: the importer's, then every other reason lines were refused for."""
        found = self.importer.figures(self.tally)
        return found | {code: count for code, count in sorted(self.tally.refused.items()) if code not in found}

    def _parse(self, line: Line) -> Parsed:
        values: dict[str, Any] = {}
        faults: list[Refusal] = []
        for field_ in self.importer.fields:
            try:
                values[field_.name] = field_.parse(line.cells.get(field_.name, ""))
            except DomainError as error:
                faults.append(Refusal(line.number, self._column(field_.name), field_.code, str(error)))
        if faults:
            return Parsed(line, values, None, faults)
        try:
            typed = self.importer.typed(values)
        except DomainError as error:
            code = next(field_.code for field_ in self.importer.fields if field_.name == error.field)
            fault = Refusal(line.number, self._column(str(error.field)), code, str(error))
            return Parsed(line, values, None, [fault])
        return Parsed(line, values, Row(line.number, typed, content_key(typed)), ())


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


def dry_run(importer: Importer, source: Source, *, by: Actor) -> Report:
    """Read the file and say what an import would do; nothing is changed. Raises DomainError for an unusable file."""
    require(by, importer.permission)
    examination = Examination(importer, read_sheet(source, importer.fields))
    report = Report(importer.entity, {}, [], ignored=examination.sheet.ignored)
    for batch in examination.batches():
        _report(report, examination.judge(batch))
    report.figures = examination.figures()
    return report


def apply_import(importer: Importer, source: Source, *, file_name: str, by: Actor) -> Report:
    """Bring in the good lines that have not been brought in before. The caller commits: all of them or none.

    Raises DomainError as dry_run() does, Conflict when the same lines are being imported at this moment.
    """
    require(by, importer.permission)
    examination = Examination(importer, read_sheet(source, importer.fields))
    report = Report(importer.entity, {}, [], ignored=examination.sheet.ignored, created=0)
    run: ImportRun | None = None
    for batch in examination.batches():
        verdicts = examination.judge(batch)
        _report(report, verdicts)
        if run is None and any(verdict.fate in {Fate.CREATE, Fate.UPDATE} for verdict in verdicts):
            run = begin_run(importer, file_name=file_name, sha256=digest(source), by=by)
        if run is not None:
            write_batch(importer, run.id, verdicts, by=by)
    report.figures = examination.figures()
    report.created = examination.tally.fates[Fate.CREATE.value]
    if run is not None:
        run.created, run.updated = report.created, examination.tally.fates[Fate.UPDATE.value]
        run.figures = examination.tally.to_json()
    return report


def begin_run(importer: Importer, *, file_name: str, sha256: str, by: Actor) -> ImportRun:
    """A run that has brought in nothing yet. The caller commits."""
    run = ImportRun(
        entity=importer.entity,
        file_name=file_name[-255:],
        sha256=sha256,
        applied_at=clock.now(),
        author_id=by.id,
        author_name=str(by.name),
    )
    db.session.add(run)
    db.session.flush()
    importer.run_id = run.id
    return run


def write_batch(importer: Importer, run_id: int, verdicts: Sequence[Verdict], *, by: Actor) -> None:
    """Bring in what a batch holds to create and to update. Raises Conflict when somebody else is bringing in the same.
    The caller commits.
    """
    new = [verdict.row for verdict in verdicts if verdict.fate is Fate.CREATE and verdict.row]
    changed = [verdict for verdict in verdicts if verdict.fate is Fate.UPDATE and verdict.row]
    rows: list[dict[str, Any]] = []
    try:
        for row, made in zip(new, importer.create(new, run_id=run_id, by=by) if new else (), strict=True):
            rows.append({"key": row.key, "line": row.line, "row_id": made.id, "details": made.details})
        records = [verdict.row for verdict in changed if verdict.row]
        for verdict, row_id in zip(changed, importer.update(records, by=by) if records else (), strict=True):
            # An update leaves no memory of its content: the same line may be meant again when the card has changed.
            line = verdict.line.number
            key = f"update:{run_id}:{line}"
            rows.append({"key": key, "line": line, "row_id": row_id, "details": {"changes": verdict.changes}})
        if rows:
            common = {"run_id": run_id, "entity": importer.entity, "undone_at": None}
            db.session.execute(insert(ImportedRow), [common | row for row in rows])
    except IntegrityError as error:
        raise Conflict(
            "import_runs", _("The same lines are being imported at this moment. Try again later.")
        ) from error


def _report(report: Report, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        report.refusals += verdict.refusals
        if verdict.fate is Fate.SKIP:
            report.applied_before += 1
        else:
            for text in verdict.notes:
                report.notes.setdefault(text, []).append(verdict.line.number)


def digest(source: Source) -> str:
    """SHA-256 of a file, in hex."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_key(typed: Any) -> str:
    """A hash of a dataclass's values, stable between databases and spellings of the file; fields that are not compared
    are no content.
    """
    content = {
        part.name: value
        for part in fields(typed)
        # optional: fields of later versions, which say nothing of the lines imported before
        if part.compare and ((value := getattr(typed, part.name)) or not part.metadata.get("optional"))
    }
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def ledger_key(run_id: int, row: Row) -> str:
    """Idempotency key of the transaction a row causes. With the run: what was undone may be imported again."""
    return f"{ledger_prefix(run_id)}{row.key}"


def ledger_prefix(run_id: int) -> str:
    return f"import:{run_id}:"


def _applied(entity: str, keys: Sequence[str]) -> frozenset[str]:
    query = select(ImportedRow.key).where(ImportedRow.entity == entity, ImportedRow.key.in_(keys))
    return frozenset(db.session.scalars(query)) if keys else frozenset()


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
