"""One's own long jobs: how far they are, what became of every row, their files. Nobody sees another's."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import Response, abort, flash, g, jsonify, redirect, request, send_file, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup

from crm import clock
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.admin.base import GridColumn, KontoraView, permission
from crm.admin.bulk import job_url, run_or_queue
from crm.admin.bulk_jobs import undoable_lines
from crm.admin.exporting import EXPORT
from crm.admin.history import FieldChange
from crm.audit.models import AuditEntry
from crm.audit.operations import record_export
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.background.operations import cancel_job, file_of
from crm.db import db, reading, transaction
from crm.exchange import excel
from crm.exchange.schedules.operations import SCHEDULED_EXPORT
from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of
from crm.protocol import Outcome

LINES_PER_PAGE = 100


class JobView(KontoraView):
    entity = "job"
    icon = "hourglass-split"
    is_in_menu: ClassVar[bool] = False  # in the person's own menu instead
    column_list = ("title", "status", "done", "skipped", "failed", "created_at", "finished_at")
    column_labels: Any = {
        "title": _lp("job", "Job"),
        "done": _l("Rows done"),
        "skipped": _lp("outcome", "Nothing to do"),
        "failed": _l("With errors"),
        "total": _l("Rows in all"),
    }
    column_filters = ("status", "created_at")
    column_default_sort = "-id"
    details_template = "admin/job.html"
    empty_hint = _l("Exports, imports and actions over many rows appear here.")

    # A job belongs to its author whatever his role: no role is asked, and nobody else is shown it.

    def may(self, action: str) -> bool:
        return action == "view"

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if current_user.is_authenticated and self.permission_for(name) == f"{self.entity}.view":
            return None
        return super()._handle_view(name, **kwargs)

    def within_sight(self, query: Any) -> Any:
        return query.where(BackgroundJob.author_id == current_user.id)

    def may_read(self, job: BackgroundJob) -> bool:
        """Whether its maker may still see what is in it: roles and branches change while a job is kept."""
        view = self._target(job)
        mine = {branch.id for branch in g.branches}
        if (view is not None and not view.is_accessible()) or job.branch_id not in {None, *mine}:
            return False
        if "branches" not in job.params:  # not begun
            return True
        seen = job.params["branches"]
        return current_user.role.value in NETWORK_WIDE_ROLES if seen is None else mine.issuperset(seen)

    def may_take(self, job: BackgroundJob) -> bool:
        """Whether its maker might have the file made now: of rows he may export, in columns he may see."""
        view = self._target(job)
        if view is None or job.kind not in {EXPORT, SCHEDULED_EXPORT}:
            return True
        known = {column.name for column in (*view.columns, *view.available_columns())}
        return view.may_export and known.issuperset(job.params.get("columns") or ())

    def get_one(self, id: Any) -> Any:
        job = super().get_one(id)
        if not self.may_read(job):
            abort(403)
        return job

    def details_context(self, row: Any) -> dict[str, Any]:
        text = request.args.get("page", "")
        page = max(1, int(text)) if re.fullmatch("[0-9]{1,6}", text) else 1
        outcome = next((one for one in Outcome if one.value == request.args.get("outcome")), None)
        lines = self._lines(row, outcome=outcome, offset=(page - 1) * LINES_PER_PAGE)
        return {
            "progress_text": progress_text,
            "may_undo": self.may_undo(row),
            "lines": lines[:LINES_PER_PAGE],
            "has_next": len(lines) > LINES_PER_PAGE,
            "page": page,
            "outcome": outcome,
            "counts": [(Outcome.DONE, row.changed), (Outcome.SKIPPED, row.skipped), (Outcome.FAILED, row.failed)],
            "target": self._target(row),
            "has_file": row.file is not None and not self._is_expired(row),
        }

    @staticmethod
    def _lines(job: BackgroundJob, *, outcome: Outcome | None, offset: int) -> list[JobLine]:
        """A page of the protocol, or of its lines of one outcome, and one line more."""
        query = _protocol_of(job)
        if outcome is not None:
            query = query.where(JobLine.outcome == outcome)
        return list(db.session.scalars(query.offset(offset).limit(LINES_PER_PAGE + 1)))

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        return self.status_text(row) if column.name == "status" else super().cell(row, column)

    @staticmethod
    def status_text(job: BackgroundJob) -> Markup:
        """How it stands; "done" is not said of a job that did nothing, nor "failed" of one that had nothing to do."""
        css, label = job.status.value, job.status.label
        if job.status is JobStatus.DONE and job.done and not job.changed:
            css = "failed" if job.failed == job.done else "skipped"
            label = Outcome.SKIPPED.label if job.skipped == job.done else _("Nothing was done")
        return Markup('<span class="status is-{}">{}</span>').format(css, label)

    def _target(self, job: BackgroundJob) -> KontoraView | None:
        """The grid the job was started from."""
        views = (view for view in self.admin._views if isinstance(view, KontoraView) and view is not self)
        return next((view for view in views if view.entity == job.entity), None)

    def line_changes(self, job: BackgroundJob, line: JobLine) -> list[FieldChange]:
        """What a line's row was changed in, as the grid of the job shows such values."""
        view = self._target(job)
        return [] if view is None or not line.changes else view.changes_of(AuditEntry(changes=line.changes))

    @staticmethod
    def _is_expired(job: BackgroundJob) -> bool:
        return job.expires_at is not None and job.expires_at < clock.now()

    def may_undo(self, job: BackgroundJob) -> bool:
        """Whether what the job did can still be put back, by this person."""
        view, params = self._target(job), job.params
        if view is None or not (job.status.is_over and params.get("is_undoable")) or params.get("undone_by"):
            return False
        return any(action.name == params["action"] for action in view.possible_actions())

    @expose("/undo/", methods=("POST",))
    @permission("view")
    def undo_view(self) -> Any:
        """Put the old values back, as a job of its own."""
        job = self.get_one(request.form.get("id"))
        key, sent = request.form.get("form_key"), fingerprint_of(request.path, request.form.items(multi=True))
        try:
            with transaction():
                once = SubmittedForm.claim(key, sent)
                view = self._target(job)
                if view is None or not self.may_undo(job):
                    abort(403)
                total = db.session.scalar(sa.select(sa.func.count()).where(undoable_lines(job.id))) or 0
                params = {"of": job.id, "back": job.params.get("back", "")}
                title = _("Undo: %(title)s", title=job.title)
                undo = view.start_rows_job("bulk.undo", title, params, total=total, branch_id=job.branch_id)
                job.params = {**job.params, "undone_by": undo.id}
                once.url = job_url(undo)
        except AlreadySubmitted as first:
            return redirect(first.url)
        run_or_queue(undo)
        return redirect(job_url(undo))

    @expose("/status/<id>")
    @permission("view")
    def status_view(self, id: str) -> Any:
        """What the bar shows, for static/jobs.js."""
        job = self.get_one(id)
        return jsonify(
            status=job.status.value,
            is_over=job.status.is_over,
            done=job.done,
            skipped=job.skipped,
            failed=job.failed,
            total=job.total,
            text=progress_text(job),
        )

    @expose("/cancel/", methods=("POST",))
    @permission("view")
    def cancel_view(self) -> Any:
        job = self.get_one(request.form.get("id"))
        with transaction():
            cancel_job(job)
        flash(_("The job will stop at its next step; what is done stays done."), "info")
        return redirect(url_for("job.details_view", id=job.id))

    @expose("/file/<id>")
    @permission("view")
    def file_view(self, id: str) -> Any:
        """The job's file, for its maker, as long as it is kept."""
        job = self.get_one(id)
        if job.file is None:
            abort(404)
        if not self.may_take(job):
            abort(403)
        path = file_of(job)
        if self._is_expired(job) or not path.exists():
            abort(410)
        return send_file(path, as_attachment=True, download_name=job.file_name or path.name, max_age=0)

    @expose("/protocol/<id>.xlsx")
    @permission("view")
    def protocol_view(self, id: str) -> Any:
        """Every line of the protocol as Excel."""
        job = self.get_one(id)
        columns = [
            excel.Column(_("Record"), "text", 40),
            excel.Column(_("Result"), "text", 16),
            excel.Column(_("Reason"), "text", 60),
            excel.Column(_("Changes"), "text", 60),
        ]
        with transaction():
            count = db.session.scalar(sa.select(sa.func.count()).where(JobLine.job_id == job.id)) or 0
            record_export(BackgroundJob.__tablename__, rows=count, description=job.title, by=current_user)
        title = _("Protocol of executed operations")
        with reading():
            chunks = excel.export_file(columns, self._protocol_rows(job), title=_("Protocol"), time_zone=None)
        name = f"{title} {job.id}.xlsx"
        headers = {"Content-Disposition": excel.content_disposition(name)}
        return Response(chunks, mimetype=excel.XLSX, headers=headers)

    def _protocol_rows(self, job: BackgroundJob) -> Iterator[list[Any]]:
        for line in db.session.scalars(_protocol_of(job).execution_options(yield_per=1000)):
            changes = [
                f"{change.label}: {_plain(change.old) or '—'} → {_plain(change.new) or '—'}"
                for change in self.line_changes(job, line)
            ]
            yield [line.label, str(line.outcome.label), line.reason, "\n".join(changes) or None]


def _protocol_of(job: BackgroundJob) -> sa.Select[JobLine]:
    """Errors first, then what there was nothing to do with."""
    ranks = {Outcome.FAILED: 0, Outcome.SKIPPED: 1, Outcome.DONE: 2}
    rank = sa.case(ranks, value=JobLine.outcome)
    return sa.select(JobLine).where(JobLine.job_id == job.id).order_by(rank, JobLine.id)


def progress_text(job: BackgroundJob) -> str:
    """How far a job is, in words."""
    if job.total is None:
        return _("Processed: %(done)s", done=job.done)
    return _("Processed: %(done)s of %(total)s", done=job.done, total=job.total)


def _plain(shown: Any) -> str:
    """A cell's HTML as text."""
    return html.unescape(re.sub("<[^>]+>", "", shown)) if isinstance(shown, Markup) else str(shown)
