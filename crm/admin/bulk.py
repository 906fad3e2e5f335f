"""Actions over many rows: choose, confirm, protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import abort, flash, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _

from crm.admin.forms import FormsView
from crm.admin.selection import Selection
from crm.background.models import BackgroundJob
from crm.background.operations import AT_ONCE, claim_job, execute_job
from crm.db import give_way, transaction
from crm.errors import Forbidden, report_exception
from crm.protocol import ProtocolLine

# Rows per transaction of a bulk action.
BATCH = 200


@dataclass(frozen=True)
class BulkAction:
    """Something done to many rows: choose, confirm, protocol. run(ids) returns one ProtocolLine per row.

    permission: the action part (`bill.<permission>`); warning: what the person must know before confirming.
    """

    name: str
    label: Any
    permission: str
    warning: Any
    run: Callable[[list[int]], list[ProtocolLine]]
    is_dangerous: bool = True


def job_url(job: BackgroundJob) -> str:
    """The page of a job: its bar, its protocol, its file."""
    return url_for("job.details_view", id=job.id)


def run_or_queue(job: BackgroundJob) -> None:
    """After the transaction that started the job: few rows are done here and now, many by the worker."""
    if job.total is not None and job.total <= AT_ONCE and claim_job(job.id):
        execute_job(job.id)


class BulkView(FormsView):
    """See the module."""

    def bulk_actions(self) -> list[BulkAction]:
        """Actions over ticked rows or all that match."""
        return []

    @expose("/action/", methods=("POST",))
    def action_view(self) -> Any:
        """Choose (ids or all=1 with the grid's arguments) → confirm → run → protocol."""
        action = next((item for item in self.bulk_actions() if item.name == request.form.get("action")), None)
        if action is None:
            abort(404)
        if not self.may(action.permission):
            abort(403)
        selection = Selection.from_args(self, request.form, self.here())
        if request.form.get("all") != "1":
            selection = selection.only(request.form.getlist("id"))
        ids = selection.row_ids()
        if not ids:
            flash(_("Tick the rows first."), "warning")
            return redirect(self.get_url(".index_view") + selection.url())
        # What was confirmed is a number of rows; when it is another by now, the person is asked again.
        if request.form.get("confirmed") != "1" or request.form.get("count", str(len(ids))) != str(len(ids)):
            return self.render(
                "admin/confirm.html", action=action, selection=selection, count=len(ids), fields=request.form
            )
        return self.render(
            "admin/protocol.html", action=action, selection=selection, lines=self._run_in_batches(action, ids)
        )

    @staticmethod
    def _run_in_batches(action: BulkAction, ids: list[int]) -> list[ProtocolLine]:
        """Carry out an action batch by batch, each in a transaction of its own: a hundred thousand rows hold up nobody.

        In id order, so that two people's actions queue up and do not deadlock; the lines come in the order of `ids`. A
        batch that fails is undone and says so line by line; those before it are done.
        """
        lines: list[ProtocolLine] = []
        ordered = sorted(ids)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            try:
                with transaction():
                    done = action.run(batch)
            except Forbidden as error:
                if not lines:
                    abort(403)
                done = [ProtocolLine(row_id, f"#{row_id}", str(error)) for row_id in batch]
            except Exception as error:
                if not lines:  # nothing has been done: an error like any other
                    raise
                reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
                done = [ProtocolLine(row_id, f"#{row_id}", reason) for row_id in batch]
            lines += done
            give_way()
        place = {row_id: at for at, row_id in enumerate(ids)}
        return sorted(lines, key=lambda line: place[line.id])
