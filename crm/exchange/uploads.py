"""A file on its way in from the panel: received, its columns matched, checked, applied. The last two are jobs.

The file lies below DATA_DIR/imports until it is applied, or a day old; the fates of its lines are rows (ImportLine).
Both jobs walk the file batch by batch, each in a transaction of its own, and note where they are in the same one: a
killed job goes on there. A line is brought in once whoever repeats what: ImportedRow says so.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import delete, select, update

from crm import clock
from crm.access.actors import Actor
from crm.background.models import BackgroundJob
from crm.background.operations import JobCanceled, Progress, executor, start_job
from crm.db import db, end_reading, give_way, insert_rows, transaction
from crm.errors import Conflict, DomainError
from crm.exchange.importers import make_importer
from crm.exchange.importing import Examination, Importer, Tally, Verdict, begin_run, digest, write_batch
from crm.exchange.models import Fate, ImportLine, ImportMatching, ImportRun, ImportUpload, UploadStatus
from crm.exchange.reading import (
    Field,
    Sheet,
    Table,
    cell_text,
    check_columns,
    comparable,
    count_rows,
    find_table,
    match_columns,
    sample_values,
)

CHECK, APPLY = "import.check", "import.apply"
FILE_KEPT = timedelta(days=1)
LINES_KEPT = timedelta(days=7)

SaveFile = Callable[[Path], Any]


# --- verbs ----------------------------------------------------------------------------------------------------------


def receive_upload(entity: str, file_name: str, save: SaveFile, *, by: Actor) -> ImportUpload:
    """Keep a file (save() writes it to a path), find its header, and match its columns as this person did before or by
    their names. Raises DomainError for an unusable file, which is not kept. The caller commits.
    """
    importer = make_importer(entity, by=by)
    token = secrets.token_hex(16)
    path = folder() / token
    try:
        save(path)
        table = find_table(path, importer.fields, is_guessing=True)
        upload = ImportUpload(
            token=token,
            entity=entity,
            author_id=by.id,
            file_name=Path(file_name).name[-255:],
            sha256=digest(path),
            created_at=clock.now(),
            part=table.part,
            header=table.header,
            headings=list(table.headings),
            samples=sample_values(path, table),
        )
        columns, upload.is_updating = _suggest(importer, table.headings, by)
        upload.columns = columns
        db.session.add(upload)
        db.session.flush()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return upload


def start_check(
    upload: ImportUpload,
    columns: Mapping[int, str],
    *,
    is_updating: bool,
    by: Actor,
    branch_id: int | None,
    locale: str,
) -> BackgroundJob:
    """Match the columns ({index: field name}) as told, remember it, and start the dry run.

    Raises DomainError "column_missing" or "column_twice", Conflict when a job is at work on the file. The caller
    commits.
    """
    importer = make_importer(upload.entity, by=by, is_updating=is_updating)
    check_columns(upload.headings, _fields(importer, columns), importer.fields)
    _claim(upload, UploadStatus.CHECKING, UploadStatus.NEW, UploadStatus.CHECKED)
    upload.columns = {str(index): name for index, name in columns.items()}
    upload.is_updating, upload.figures = is_updating, None
    _remember(upload, columns, by)
    job = start_job(
        CHECK,
        by=by,
        title=_("Check of “%(file)s”", file=upload.file_name),
        entity=upload.entity,
        params=_params(upload),
        branch_id=branch_id,
        locale=locale,
        total=count_rows(path_of(upload), _table(upload)),
    )
    upload.job = job
    return job


def start_apply(upload: ImportUpload, *, by: Actor, branch_id: int | None, locale: str) -> BackgroundJob:
    """Start bringing the file in, or go on where it was stopped. Raises Conflict unless it has been checked and nobody
    is at it. The caller commits.
    """
    importer = make_importer(upload.entity, by=by, is_updating=upload.is_updating)
    _claim(upload, UploadStatus.APPLYING, UploadStatus.CHECKED, UploadStatus.STOPPED)
    upload.run = begin_run(importer, file_name=upload.file_name, sha256=upload.sha256, by=by)
    job = start_job(
        APPLY,
        by=by,
        title=_("Import of “%(file)s”", file=upload.file_name),
        entity=upload.entity,
        params=_params(upload) | {"run": upload.run.id},
        branch_id=branch_id,
        locale=locale,
        total=Tally.from_json(upload.figures).lines if upload.figures else None,
    )
    upload.job = job
    return job


def forget_uploads(*, now: datetime) -> None:
    """Drop files a day old, and the lines of uploads a week old. The caller commits."""
    for path in folder().iterdir():
        if path.stat().st_mtime < (now - FILE_KEPT).timestamp():
            path.unlink(missing_ok=True)
    unused = ImportUpload.status.in_([UploadStatus.NEW, UploadStatus.CHECKED])
    old = (unused & (ImportUpload.created_at < now - FILE_KEPT)) | (ImportUpload.created_at < now - LINES_KEPT)
    db.session.execute(delete(ImportUpload).where(old).execution_options(synchronize_session=False))


# --- reading --------------------------------------------------------------------------------------------------------


def upload_of(token: str, entity: str, *, by: Actor) -> ImportUpload | None:
    """A person's own upload."""
    query = select(ImportUpload).where(
        ImportUpload.token == token, ImportUpload.entity == entity, ImportUpload.author_id == by.id
    )
    return db.session.scalar(query)


def upload_of_run(run: ImportRun, *, by: Actor) -> ImportUpload | None:
    """The upload a run was made from, as long as its lines are kept, for the person who sent it."""
    return db.session.scalar(select(ImportUpload).where(ImportUpload.run_id == run.id, ImportUpload.author_id == by.id))


def refused_cells(upload: ImportUpload) -> Iterator[list[str]]:
    """The refused lines as they stand in the file, each followed by the reasons."""
    query = (
        select(ImportLine.cells, ImportLine.reasons)
        .where(ImportLine.upload_id == upload.id, ImportLine.fate.in_([fate for fate in Fate if fate.is_refused]))
        .order_by(ImportLine.number)
    )
    width = len(upload.headings)
    for cells, reasons in db.session.execute(query.execution_options(yield_per=1000)):
        yield [*((cells or []) + [""] * width)[:width], told(reasons)]


def told(reasons: Sequence[Sequence[str]] | None) -> str:
    """Reasons as text: the column each concerns, and what is wrong."""
    return "; ".join(f"{column}: {text}" if column else text for column, text in reasons or ())


def folder() -> Path:
    """Where uploads lie; made at the first use, readable by the server alone."""
    found: Path = Path(current_app.config["SETTINGS"].data_dir) / "imports"
    found.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


def path_of(upload: ImportUpload) -> Path:
    """The file of an upload. Raises DomainError "file_gone" when it has been applied, or is more than a day old."""
    path = folder() / upload.token
    if not path.exists():
        raise DomainError("file_gone", _("The file is no longer kept. Upload it again."))
    return path


# --- jobs -----------------------------------------------------------------------------------------------------------


@executor(CHECK)
def _check(job: BackgroundJob, progress: Progress) -> None:
    """The dry run: what an import would do with each line. Nothing is changed."""
    upload = db.session.get_one(ImportUpload, job.params["upload"])
    importer = make_importer(upload.entity, by=job.author, is_updating=upload.is_updating)
    try:
        tally = _walk(upload, importer, job, progress, lambda verdicts: None)
    except (DomainError, JobCanceled):
        _end(upload, UploadStatus.NEW, None)
        raise
    _end(upload, UploadStatus.CHECKED, tally)


@executor(APPLY)
def _apply(job: BackgroundJob, progress: Progress) -> None:
    upload = db.session.get_one(ImportUpload, job.params["upload"])
    run_id = job.params["run"]
    importer = make_importer(upload.entity, by=job.author, is_updating=upload.is_updating)
    importer.run_id = run_id

    def write(verdicts: Sequence[Verdict]) -> None:
        write_batch(importer, run_id, verdicts, by=job.author)
        counts = [sum(verdict.fate is fate for verdict in verdicts) for fate in (Fate.CREATE, Fate.UPDATE)]
        statement = update(ImportRun).where(ImportRun.id == run_id)
        statement = statement.values(created=ImportRun.created + counts[0], updated=ImportRun.updated + counts[1])
        db.session.execute(statement.execution_options(synchronize_session=False))

    try:
        tally = _walk(upload, importer, job, progress, write)
    except (DomainError, JobCanceled):
        _end(upload, UploadStatus.STOPPED, None)
        raise
    _end(upload, UploadStatus.APPLIED, tally)
    path_of(upload).unlink(missing_ok=True)


def _walk(
    upload: ImportUpload,
    importer: Importer,
    job: BackgroundJob,
    progress: Progress,
    act: Callable[[Sequence[Verdict]], None],
) -> Tally:
    """Judge the lines batch by batch, act on them and keep their fates; go on where a killed job was."""
    columns = {int(index): name for index, name in upload.columns.items()}
    sheet = Sheet(path_of(upload), _table(upload), _fields(importer, columns), importer.fields)
    state = job.state
    seen, upload_id = state.get("line", 0), upload.id
    examination = Examination(importer, sheet, Tally.from_json(state["tally"]) if state else None)
    if not state:
        with transaction():
            earlier = delete(ImportLine).where(ImportLine.upload_id == upload_id)
            db.session.execute(earlier.execution_options(synchronize_session=False))
    end_reading()
    for batch in examination.batches():
        behind = list(takewhile(lambda parsed: parsed.line.number <= seen, batch))
        if behind:
            _recall(importer, upload_id, behind)
        if not (ahead := batch[len(behind) :]):
            continue
        progress.check()
        with transaction():
            verdicts = examination.judge(ahead)
            act(verdicts)
            _keep(importer, upload_id, verdicts)
            refused = sum(verdict.fate.is_refused for verdict in verdicts)
            state = {"line": ahead[-1].line.number, "tally": examination.tally.to_json()}
            progress.advance(len(ahead), failed=refused, state=state)
        give_way()
    if examination.tally.lines:
        with transaction():
            progress.expect(examination.tally.lines)  # blank lines were none
    return examination.tally


def _keep(importer: Importer, upload_id: int, verdicts: Sequence[Verdict]) -> None:
    rows = [
        {
            "upload_id": upload_id,
            "number": verdict.line.number,
            "fate": verdict.fate,
            "label": importer.label(verdict.line.cells)[:300],
            "reasons": [
                *([refusal.column, refusal.reason] for refusal in verdict.refusals),
                *(["", note] for note in verdict.notes),
            ]
            or None,
            "changes": verdict.changes,
            "cells": [cell_text(cell) for cell in verdict.line.raw] if verdict.fate.is_refused else None,
        }
        for verdict in verdicts
    ]
    insert_rows(ImportLine, rows)


def _recall(importer: Importer, upload_id: int, batch: Sequence[Any]) -> None:
    first, last = batch[0].line.number, batch[-1].line.number
    query = select(ImportLine.number).where(
        ImportLine.upload_id == upload_id,
        ImportLine.number.between(first, last),
        ImportLine.fate.not_in([fate for fate in Fate if fate.is_refused]),
    )
    good = set(db.session.scalars(query))
    end_reading()
    importer.recall([parsed.row for parsed in batch if parsed.row and parsed.line.number in good])


def _end(upload: ImportUpload, status: UploadStatus, tally: Tally | None) -> None:
    """Note how a job has ended. Commits by itself."""
    db.session.rollback()
    with transaction():
        upload.status = status
        if tally is not None:
            upload.figures = tally.to_json()
            if upload.run is not None:
                upload.run.figures = upload.figures


# --- columns --------------------------------------------------------------------------------------------------------


def _suggest(importer: Importer, headings: Sequence[str], by: Actor) -> tuple[dict[str, str], bool]:
    """The field of each column: as remembered for files with these headings, else by name, the first of twins."""
    names = {field.name for field in importer.fields}
    remembered = _remembered(importer.entity, headings, by)
    known = remembered.columns if remembered else {}
    by_name = {index: field.name for index, field in match_columns(headings, importer.fields).items()}
    found: dict[str, str] = {}
    for index, heading in enumerate(headings):
        name = known.get(comparable(heading), by_name.get(index, ""))
        if name in names and name not in found.values():
            found[str(index)] = name
    return found, bool(remembered and remembered.is_updating)


def _remembered(entity: str, headings: Sequence[str], by: Actor) -> ImportMatching | None:
    """The matching of the same headings, or of the most of them where a file has grown by some columns."""
    here = {comparable(heading) for heading in headings if heading}
    query = (
        select(ImportMatching)
        .where(ImportMatching.user_id == by.id, ImportMatching.entity == entity)
        .order_by(ImportMatching.used_at.desc())
        .limit(100)
    )
    known = [matching for matching in db.session.scalars(query) if here >= set(matching.columns)]
    return max(known, key=lambda matching: len(matching.columns), default=None)


def _remember(upload: ImportUpload, columns: Mapping[int, str], by: Actor) -> None:
    told = {
        comparable(heading): columns.get(index, "") for index, heading in enumerate(upload.headings) if heading.strip()
    }
    key = hashlib.sha256(json.dumps(sorted(told)).encode()).hexdigest()
    known = db.session.scalar(
        select(ImportMatching).where(
            ImportMatching.user_id == by.id,
            ImportMatching.entity == upload.entity,
            ImportMatching.headings_key == key,
        )
    )
    if known is None:
        known = ImportMatching(user_id=by.id, entity=upload.entity, headings_key=key)
        db.session.add(known)
    known.columns, known.is_updating, known.used_at = told, upload.is_updating, clock.now()


def _fields(importer: Importer, columns: Mapping[int, str]) -> dict[int, Field]:
    """Fields by column; those a person may no longer fill are left out."""
    known = {field.name: field for field in importer.fields}
    return {index: known[name] for index, name in sorted(columns.items()) if name in known}


def _table(upload: ImportUpload) -> Table:
    return Table(upload.part, upload.header, tuple(upload.headings))


def _params(upload: ImportUpload) -> dict[str, Any]:
    """back: where the job's page leads from the grid of its entity."""
    return {"upload": upload.id, "back": f"import/{upload.token}/"}


def _claim(upload: ImportUpload, status: UploadStatus, *expected: UploadStatus) -> None:
    """Move an upload on; of two at once one does. An upload whose job has died for good counts as stopped."""
    db.session.flush()
    allowed = [*expected]
    if upload.job is None or upload.job.status.is_over:
        allowed += [UploadStatus.CHECKING, UploadStatus.STOPPED] if status is UploadStatus.CHECKING else []
        allowed += [UploadStatus.APPLYING] if status is UploadStatus.APPLYING else []
    statement = update(ImportUpload).where(ImportUpload.id == upload.id, ImportUpload.status.in_(allowed))
    result: Any = db.session.execute(statement.values(status=status).execution_options(synchronize_session=False))
    db.session.refresh(upload)
    if not result.rowcount:
        raise Conflict("import_runs", _("This file is being worked on, or has been imported already."))
