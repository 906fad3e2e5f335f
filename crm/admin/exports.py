"""Excel files made by workers: exports too large to be waited for. Registers their executor.

A job writes its file aside and puts it in its place whole: a worker that is killed leaves no torn file, and the next one
begins anew.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flask import current_app
from flask_babel import gettext as _
from flask_login import current_user

from crm.admin.cells import CellRows
from crm.admin.exporting import EXPORT, Export, ExportView
from crm.admin.selection import Selection
from crm.audit.operations import record_export
from crm.background.models import BackgroundJob
from crm.background.operations import Progress, executor, files_folder
from crm.db import set_read_only, transaction
from crm.errors import Forbidden
from crm.exchange import excel

STEP = 5_000  # rows between two looks at whether the job is still wanted
BEAT = 16 * 2**20  # bytes of the finished file between two


@executor(EXPORT)
def run_export(job: BackgroundJob, progress: Progress) -> None:
    """The file of a selection, for whoever started the job."""
    export = export_of(job.entity, job.params["selection"], job.params["columns"])
    make_file(export, job.id, progress)


def export_of(entity: str, selection: Sequence[Sequence[str]], columns: Sequence[str] | None) -> Export:
    """What the current person gets of a view's selection now. columns: their names, None for all there are; those that
    are hidden from him by now are left out. Raises Forbidden.
    """
    views = (view for view in current_app.extensions["admin"][0]._views if isinstance(view, ExportView))
    view = next((view for view in views if view.entity == entity), None)
    if view is None or not view.is_accessible() or not view.may_export:
        raise Forbidden("forbidden", _("Your role does not allow this action."))
    found = {column.name: column for column in (*view.columns, *view.available_columns())}
    kept = view.available_columns() if columns is None else [found[name] for name in columns if name in found]
    if not kept:
        raise Forbidden("forbidden", _("None of the chosen columns may be seen any more."))
    return view.export_of(Selection.from_params(view, selection, view.here()), kept)


def make_file(export: Export, job_id: int, progress: Progress, *, note: str = "") -> tuple[Path, int]:
    """Make the file of a job, note its progress and that personal data left; return the file and its rows. Commits by
    itself. note: what more to say in the audit.
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
    return path, rows.count


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
