"""Excel in: upload → match the columns → dry run → apply → result, undo. A base view for entities with an importer.

Files and jobs belong to who started them; a run of an import is seen by its author, and by who sees the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import Flask, Response, abort, flash, g, redirect, request, url_for
from flask_admin import expose
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm.admin.base import KontoraView, permission
from crm.admin.bulk import job_url, run_or_queue
from crm.audit.operations import record_export
from crm.background.models import BackgroundJob
from crm.background.operations import cancel_job
from crm.db import db, reading, transaction
from crm.errors import Conflict, DomainError
from crm.exchange import excel
from crm.exchange.importers import UPDATING, make_importer
from crm.exchange.importing import Importer, Tally
from crm.exchange.models import Fate, ImportLine, ImportRun, ImportUpload, UploadStatus
from crm.exchange.reading import MAX_BYTES, MAX_LINES
from crm.exchange.undoing import start_undo
from crm.exchange.uploads import (
    receive_upload,
    refused_cells,
    start_apply,
    start_check,
    told,
    upload_of,
    upload_of_run,
)

LINES_PER_PAGE = 100
RUNS_SHOWN = 20
FORM_ROOM = 2**19  # what a posted form has besides its file

# What becomes of lines of each fate, said of what is to come and of what has been.
PROMISES = {
    Fate.CREATE: _l("Will be created"),
    Fate.UPDATE: _l("Will be changed"),
    Fate.SKIP: _l("Will be left out"),
    Fate.DUPLICATE: _l("Duplicates"),
    Fate.ERROR: _l("Errors"),
}
RESULTS = PROMISES | {Fate.CREATE: _l("Created"), Fate.UPDATE: _l("Changed"), Fate.SKIP: _l("Left out")}


class ImportableView(KontoraView):
    """A grid whose rows can be brought in from Excel; the importer is that of its entity."""

    imports: ClassVar[bool] = True

    # --- the file ---------------------------------------------------------------------------------------------------

    @expose("/import/", methods=("GET", "POST"))
    @permission("import")
    def import_view(self) -> Any:
        error = None
        if request.method == "POST":
            file = request.files.get("file")
            if file is None or not file.filename:
                error = _("Choose a file.")
            else:
                try:
                    with transaction():
                        upload = receive_upload(self.entity, file.filename, file.save, by=current_user)
                    return redirect(self._url("upload_view", upload))
                except DomainError as refusal:
                    error = str(refusal)
        importer = make_importer(self.entity, by=current_user)
        page = self.render(
            "admin/import_file.html",
            error=error,
            importer=importer,
            runs=self._runs(),
            max_megabytes=MAX_BYTES // 2**20,
            max_lines=MAX_LINES,
        )
        return page, 422 if error else 200

    @expose("/import/<token>/", methods=("GET", "POST"))
    @permission("import")
    def upload_view(self, token: str) -> Any:
        """The file at the step where it is: matching, job, dry run, result. POST: the columns, for a dry run."""
        upload = self._upload(token)
        if request.method == "POST":
            return self._match(upload)
        job = upload.job
        if job is not None and not job.status.is_over:
            return self.render("admin/import_job.html", upload=upload, job=job)
        if upload.status is UploadStatus.APPLIED:
            return redirect(url_for(".result_view", run=upload.run_id))
        is_checked = upload.status in {UploadStatus.CHECKED, UploadStatus.STOPPED, UploadStatus.APPLYING}
        if is_checked and request.args.get("step") != "columns":
            return self._report(upload, job)
        error = job.error if job is not None and upload.status is not UploadStatus.CHECKED else None
        return self._matching(upload, error)

    def _match(self, upload: ImportUpload) -> Any:
        count = len(upload.headings)
        columns = {index: name for index in range(count) if (name := request.form.get(f"column-{index}"))}
        try:
            with transaction():
                job = start_check(
                    upload,
                    columns,
                    is_updating=request.form.get("is_updating") == "y",
                    by=current_user,
                    **_here(),
                )
        except Conflict as error:
            flash(str(error), "warning")
            return redirect(self._url("upload_view", upload))
        except DomainError as error:
            db.session.refresh(upload)
            chosen = {str(index): name for index, name in columns.items()}
            return self._matching(upload, str(error), chosen), 422
        run_or_queue(job)
        return redirect(self._url("upload_view", upload))

    def _matching(self, upload: ImportUpload, error: str | None, columns: dict[str, Any] | None = None) -> str:
        importer = make_importer(self.entity, by=current_user)
        return self.render(
            "admin/import_columns.html",
            upload=upload,
            importer=importer,
            error=error,
            columns=upload.columns if columns is None else columns,
            may_update=self.entity in UPDATING and self.may("edit"),
        )

    # --- the dry run ------------------------------------------------------------------------------------------------

    def _report(self, upload: ImportUpload, job: BackgroundJob | None) -> str:
        fate = next((fate for fate in Fate if fate.value == request.args.get("fate")), None)
        text = request.args.get("page", "1")
        page = max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else 1
        query = _lines_of(upload, fate).offset((page - 1) * LINES_PER_PAGE).limit(LINES_PER_PAGE + 1)
        lines = list(db.session.scalars(query))
        tally = Tally.from_json(upload.figures) if upload.figures else None
        return self.render(
            "admin/import_check.html",
            upload=upload,
            job=job,
            fate=fate,
            fates=Fate,
            page=page,
            lines=lines[:LINES_PER_PAGE],
            has_next=len(lines) > LINES_PER_PAGE,
            words=PROMISES,
            tally=tally,
            is_stopped=upload.status is not UploadStatus.CHECKED,
            to_do=tally.fates["create"] + tally.fates["update"] if tally else 0,
            **self._figures(tally),
        )

    def _figures(self, tally: Tally | None) -> dict[str, Any]:
        """totals: (label, sums by fate, sum of the file) of each money column."""
        importer = make_importer(self.entity, by=current_user)
        labels = {field.name: field.title for field in importer.fields}
        totals: list[Any] = [
            (labels[name], tally.totals.get(name, {}), sum(tally.totals.get(name, {}).values(), Decimal(0)))
            for name in importer.money
            if tally and name in labels
        ]
        return {"totals": totals, "labels": labels}

    @expose("/import/<token>/lines.xlsx")
    @permission("import")
    def lines_view(self, token: str) -> Any:
        """Every line with its fate."""
        upload = self._upload(token)
        fate = next((fate for fate in Fate if fate.value == request.args.get("fate")), None)
        columns = [
            excel.Column(_("Line"), "integer"),
            excel.Column(_("Record"), "text", 40),
            excel.Column(_("What will be done"), "text", 20),
            excel.Column(_("Why"), "text", 60),
            excel.Column(_("Changes"), "text", 60),
        ]
        labels = self._labels(make_importer(self.entity, by=current_user))

        def rows() -> Iterator[list[Any]]:
            for line in db.session.scalars(_lines_of(upload, fate).execution_options(yield_per=1000)):
                changes = "\n".join(
                    f"{labels.get(name, name)}: {old or '—'} → {new}"
                    for name, (old, new) in (line.changes or {}).items()
                )
                yield [line.number, line.label, str(line.fate.label), told(line.reasons) or None, changes or None]

        return self._file(upload, _("Check"), columns, rows())

    @expose("/import/<token>/rejected.xlsx")
    @permission("import")
    def rejected_view(self, token: str) -> Any:
        """The refused lines as they stand in the file, with the reasons: to be mended and sent again."""
        upload = self._upload(token)
        columns = [excel.Column(heading, "text") for heading in upload.headings]
        columns.append(excel.Column(_("Why it was refused"), "text", 60))
        return self._file(upload, _("Rejected lines"), columns, refused_cells(upload))

    def _file(self, upload: ImportUpload, title: str, columns: list[excel.Column], rows: Iterator[list[Any]]) -> Any:
        with transaction():
            count = db.session.scalar(sa.select(sa.func.count()).where(ImportLine.upload_id == upload.id)) or 0
            what = f"{title}: {upload.file_name}"
            record_export(self.model.__tablename__, rows=count, description=what, by=current_user)
        with reading():
            chunks = excel.export_file(columns, rows, title=title, time_zone=None)
        name = f"{upload.file_name.rsplit('.', 1)[0]} — {title.lower()}.xlsx"
        return Response(chunks, mimetype=excel.XLSX, headers={"Content-Disposition": excel.content_disposition(name)})

    # --- the import -------------------------------------------------------------------------------------------------

    @expose("/import/<token>/apply/", methods=("POST",))
    @permission("import")
    def apply_view(self, token: str) -> Any:
        upload = self._upload(token)
        try:
            with transaction():
                job = start_apply(upload, by=current_user, **_here())
            run_or_queue(job)
        except Conflict as error:
            flash(str(error), "info")
        return redirect(self._url("upload_view", upload))

    @expose("/import/<token>/stop/", methods=("POST",))
    @permission("import")
    def stop_view(self, token: str) -> Any:
        upload = self._upload(token)
        if upload.job is not None:
            with transaction():
                cancel_job(upload.job)
            flash(_("The job will stop at its next step; what is done stays done."), "info")
        return redirect(self._url("upload_view", upload))

    @expose("/import/run/<run>/")
    @permission("import")
    def result_view(self, run: str) -> Any:
        """What an import has brought, and what has been taken back since."""
        found = self._run(run)
        tally = Tally.from_json(found.figures) if found.figures else None
        return self.render(
            "admin/import_run.html",
            run=found,
            tally=tally,
            words=RESULTS,
            fates=Fate,
            upload=upload_of_run(found, by=current_user),
            refused=tally.fates["duplicate"] + tally.fates["error"] if tally else 0,
            **self._figures(tally),
        )

    @expose("/import/run/<run>/undo/", methods=("GET", "POST"))
    @permission("import")
    def undo_view(self, run: str) -> Any:
        found = self._run(run)
        if request.method == "GET":
            return self.render("admin/import_undo.html", run=found)
        try:
            with transaction():
                job = start_undo(found, by=current_user, **_here())
        except Conflict as error:
            flash(str(error), "info")
            return redirect(url_for(".result_view", run=found.id))
        run_or_queue(job)
        return redirect(job_url(job))

    # --- what is looked at ------------------------------------------------------------------------------------------

    def _upload(self, token: str) -> ImportUpload:
        return upload_of(token, self.entity, by=current_user) or abort(404)

    def _visible_runs(self) -> Any:
        query = sa.select(ImportRun).where(ImportRun.entity == self.entity)
        is_everywhere = g.scope.branch_ids is None
        return query if is_everywhere else query.where(ImportRun.author_id == current_user.id)

    def _run(self, run: str) -> ImportRun:
        is_number = run.isascii() and run.isdigit() and len(run) < 19
        query = self._visible_runs().where(ImportRun.id == (int(run) if is_number else 0))
        return db.session.scalar(query) or abort(404)

    def _runs(self) -> list[ImportRun]:
        return list(db.session.scalars(self._visible_runs().order_by(ImportRun.id.desc()).limit(RUNS_SHOWN)))

    def _url(self, endpoint: str, upload: ImportUpload, **arguments: Any) -> str:
        return url_for(f".{endpoint}", token=upload.token, **arguments)

    @staticmethod
    def _labels(importer: Importer) -> dict[str, str]:
        return {field.name: field.title for field in importer.fields}


def _lines_of(upload: ImportUpload, fate: Fate | None) -> Any:
    query = sa.select(ImportLine).where(ImportLine.upload_id == upload.id).order_by(ImportLine.number)
    return query if fate is None else query.where(ImportLine.fate == fate)


def _here() -> dict[str, Any]:
    """Where and in which language a job is to run: as the person sees things now."""
    return {"branch_id": g.scope.branch_id, "locale": str(get_locale())}


def admit_large_files(app: Flask) -> None:
    """Let the upload form, and no other, send as much as an import may hold; told before anything reads the form."""

    @app.url_value_preprocessor
    def _admit(endpoint: str | None, _values: Any) -> None:
        if endpoint and endpoint.endswith(".import_view"):
            request.max_content_length = MAX_BYTES + FORM_ROOM
