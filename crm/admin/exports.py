"""Excel files made by workers: exports too large to be waited for, and those sent by the clock.
Registers what runs them.

A job writes its file aside and puts it in its place whole: a worker that is killed leaves no torn file, and the next
one begins anew.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flask import current_app, url_for
from flask_babel import gettext as _
from flask_babel import ngettext
from flask_login import current_user

from crm import clock
from crm.admin.cells import CellRows
from crm.admin.exporting import EXPORT, Export, ExportView
from crm.admin.selection import Selection
from crm.audit.operations import record_export
from crm.background.models import BackgroundJob
from crm.background.operations import KEPT, Progress, executor, files_folder
from crm.db import db, set_read_only, transaction
from crm.errors import DomainError, Forbidden
from crm.exchange import excel
from crm.exchange.schedules.models import DeliveryStatus, ExportDelivery
from crm.exchange.schedules.operations import SCHEDULED_EXPORT, file_is_ready, stop_schedule
from crm.i18n import moment

STEP = 5_000  # rows between two looks at whether the job is still wanted
MAX_ATTACHED = 10 * 2**20  # bytes; larger files are fetched from the job's page
BEAT = 16 * 2**20  # bytes of the finished file between two


@executor(EXPORT)
def run_export(job: BackgroundJob, progress: Progress) -> None:
    """The file of a selection, for whoever started the job."""
    export = export_of(job.entity, job.params["selection"], job.params["columns"])
    make_file(export, job.id, progress)


def export_of(entity: str, selection: Sequence[Sequence[str]], columns: Sequence[str] | None) -> Export:
    """What the current person gets of a view's selection now. columns: their names, None for all there are; those that
    are hidden from him by now are left out. Raises DomainError.
    """
    views = (view for view in current_app.extensions["admin"][0]._views if isinstance(view, ExportView))
    view = next((view for view in views if view.entity == entity), None)
    if view is None or not view.is_accessible() or not view.may_export:
        raise Forbidden("forbidden", _("Your role does not allow this action."))
    found = {column.name: column for column in (*view.columns, *view.available_columns())}
    kept = view.available_columns() if columns is None else [found[name] for name in columns if name in found]
    if not kept:
        raise Forbidden("forbidden", _("None of the chosen columns may be seen any more."))
    return view.export_of(Selection.from_params(view, selection, view.here()).as_meant(), kept)


@executor(SCHEDULED_EXPORT)
def run_scheduled_export(job: BackgroundJob, progress: Progress) -> None:
    """The file of a schedule for a planned moment, and the letters that bring it."""
    delivery = db.session.get_one(ExportDelivery, job.params["delivery"])
    if delivery.status is not DeliveryStatus.PREPARING:
        return  # an earlier worker had got as far as the letters
    schedule = delivery.schedule
    try:
        export = export_of(schedule.entity, schedule.selection, schedule.columns)
    except DomainError as refusal:
        with transaction():
            stop_schedule(schedule, str(refusal))
        raise
    note = f"{schedule.name} → {', '.join(schedule.recipients)}"

    def send(path: Path, rows: int) -> None:
        subject, body, is_attached = letter_of(delivery, path, rows)
        file_is_ready(delivery, rows=rows, subject=subject, body=body, is_attached=is_attached, now=clock.now())

    make_file(export, job.id, progress, note=note, also=send)


def letter_of(delivery: ExportDelivery, path: Path, rows: int) -> tuple[str, str, bool]:
    """Subject and text of the letter, in the language of now, and whether the file goes with it."""
    schedule = delivery.schedule
    there = f"{moment(clock.now(), schedule.time_zone)} ({schedule.time_zone})"
    text = [_("“%(name)s”, as of %(moment)s.", name=schedule.name, moment=there)]
    size = path.stat().st_size
    if rows == 0:
        text.append(_("There are no rows this time, so there is no file."))
    elif size <= MAX_ATTACHED:
        text.append(ngettext("The file holds %(num)s row.", "The file holds %(num)s rows.", rows))
    else:
        url = current_app.config["SETTINGS"].public_url.rstrip("/") + url_for("job.details_view", id=delivery.job_id)
        text.append(ngettext("The file holds %(num)s row.", "The file holds %(num)s rows.", rows))
        text.append(
            _(
                "It is too large for a letter (%(size)s MB). %(owner)s can take it here for %(days)s days: %(url)s",
                size=size // 2**20,
                owner=schedule.owner.name,
                days=KEPT.days,
                url=url,
            )
        )
    text.append(_("It is sent regularly by %(owner)s, who can change or stop that.", owner=schedule.owner.name))
    return schedule.name, "\n\n".join(text), rows > 0 and size <= MAX_ATTACHED


def make_file(
    export: Export,
    job_id: int,
    progress: Progress,
    *,
    note: str = "",
    also: Callable[[Path, int], None] | None = None,
) -> None:
    """Make the file of a job, note its progress and that personal data left. Commits by itself.

    note: what more to say in the audit; also: what is written in the transaction that makes the file known.
    """
    for leftover in files_folder().glob(f"export-{job_id}-*"):  # of a worker that was killed
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    name = f"export-{job_id}-{progress.attempt}"
    aside, path = files_folder() / f"{name}.part", files_folder() / f"{name}.xlsx"
    aside.mkdir()
    with transaction():
        progress.restart()

    def beat(rows: int) -> None:
        progress.check()
        with transaction():
            progress.advance(rows)
        set_read_only(True)  # go on reading beside those who write

    try:
        with export.rows() as rows, (aside / "book.xlsx").open("w+b") as stream:
            excel.write_workbook(
                _Beating(stream, lambda: beat(0)),
                export.sheet_columns,
                _counted(rows, beat),
                title=export.title,
                time_zone=None,
                totals=lambda: export.totals(rows),
                folder=str(aside),
            )
        (aside / "book.xlsx").rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    with transaction():
        record_export(
            export.selection.view.model.__tablename__,
            rows=rows.count,
            description=" ".join(filter(None, (note, export.selection.url()))),
            by=current_user,
        )
        progress.keep_file(path.name, export.file_name)
        job = db.session.get_one(BackgroundJob, job_id)
        job.params = {**job.params, "columns": [column.name for column in export.columns]}
        if also is not None:
            also(path, rows.count)


def _counted(rows: CellRows, beat: Callable[[int], None]) -> Iterator[list[Any]]:
    told = 0
    for row in rows:
        yield row
        if rows.count - told >= STEP:
            beat(rows.count - told)
            told = rows.count
    beat(rows.count - told)


class _Beating(io.BufferedIOBase):
    """A file that tells of every BEAT bytes written to it: packing a million rows takes longer than a lease."""

    def __init__(self, file: Any, beat: Callable[[], None]) -> None:
        self._file, self._beat, self._written = file, beat, 0

    def write(self, data: Any) -> int:
        written: int = self._file.write(data)
        self._written += written
        if self._written >= BEAT:
            self._written = 0
            self._beat()
        return written

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, *where: int) -> int:
        position: int = self._file.seek(*where)
        return position

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def flush(self) -> None:
        self._file.flush()
