"""Runs of mailings: how far each is, what was done for whom; paused, gone on with, cancelled, sent once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import abort, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import ngettext
from flask_login import current_user

from crm import clock
from crm.admin.base import KontoraView, permission
from crm.admin.cells import SqlCell
from crm.admin.fields import Form
from crm.admin.views.messages import error_shown
from crm.errors import DomainError
from crm.mailings.models import MailingRun, RunStatus
from crm.mailings.progress import AGAIN, LineFate, fates_of, lines_of, messages_of_lines, resend_lines
from crm.mailings.runs import cancel_run, pause_run, resume_run

PAGE = 100  # lines of a run at once


class MailingRunView(KontoraView):
    entity = "mailingrun"
    icon = "list-check"
    column_list = ("id", "rule", "planned_at", "status", "is_manual", "total", "started_at", "finished_at", "branch")
    column_filters = ("status", "planned_at", "branch")
    column_default_sort = "-id"
    list_template = "admin/runs.html"
    details_template = "admin/run.html"
    empty_hint = _l("Every execution of a mailing appears here, with what was done for each client.")

    def sql_label(self, row: Any) -> SqlCell | None:
        return SqlCell((row.id,), lambda id: f"#{id}")

    def details_context(self, row: Any) -> dict[str, Any]:
        """Counts and a page of lines: ?fate= of these only, ?page= from 1."""
        fates = fates_of(row)
        fate = next((one for one in LineFate if one.value == request.args.get("fate")), None)
        text = request.args.get("page", "")
        page = max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else 1
        found = lines_of(row, fate=fate, limit=PAGE + 1, offset=(page - 1) * PAGE)
        lines = found[:PAGE]
        messages = messages_of_lines(row, [line.id for line, _fate in lines])
        may_send = self.may("message.send")
        again = [line.id for line, one in lines if one in AGAIN and line.id in messages] if may_send else []
        total = sum(fates.values())
        return {
            "fates": fates,
            "fate": fate,
            "page": page,
            "lines": lines,
            "has_more": len(found) > PAGE,
            "messages": messages,
            "bills": {
                id: sorted({bill for message in own for bill in message.bills}, key=lambda bill: bill.id)
                for id, own in messages.items()
            },
            "error_shown": error_shown,
            "again": again,
            "all_lines": total,
            "settled": total - fates[LineFate.WAITING] - fates[LineFate.QUEUED],
            "is_waiting": _waits(row),
            "is_moving": not _waits(row)
            and (row.status in {RunStatus.PLANNED, RunStatus.RUNNING} or fates[LineFate.QUEUED] > 0),
            "steps": self._steps(row) if self.may("mailingrule.run") else [],
        }

    @staticmethod
    def _steps(run: MailingRun) -> list[str]:
        if _waits(run):
            return ["cancel"]
        if run.status in {RunStatus.PLANNED, RunStatus.RUNNING}:
            return ["pause", "cancel"]
        return ["resume", "cancel"] if run.status is RunStatus.PAUSED else []

    @expose("/pause/", methods=("POST",))
    @permission("mailingrule.run")
    def pause_view(self) -> Any:
        return self._move(pause_run, _("Pause"), _("The mailing is paused: letters queued already still go out."))

    @expose("/resume/", methods=("POST",))
    @permission("mailingrule.run")
    def resume_view(self) -> Any:
        return self._move(resume_run, _("Go on"), _("The mailing goes on."))

    @expose("/cancel/", methods=("GET", "POST"))
    @permission("mailingrule.run")
    def cancel_view(self) -> Any:
        """Asks first: a cancelled run is not gone on with."""
        fates = fates_of(self.get_one(request.values.get("id")))
        warning = ngettext(
            "%(num)s client who waits will get nothing. What is queued already goes out. This cannot be undone.",
            "%(num)s clients who wait will get nothing. What is queued already goes out. This cannot be undone.",
            fates[LineFate.WAITING],
        )
        if not sum(fates.values()):  # its lines are not written yet
            warning = _("The mailing has not begun: nobody will get anything. This cannot be undone.")
        return self._move(cancel_run, _("Cancel the mailing"), _("The mailing is cancelled."), warning=warning)

    def _move(self, change: Callable[..., Any], label: str, said: str, **context: Any) -> Any:
        run = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form if request.method == "POST" else None),
            lambda: change(run, by=current_user),
            title=f"{label}: {run.rule.name}",
            back=self.row_url(run),
            row=run,
            done=lambda _run: self.row_url(run),
            said=said,
            submit=label,
            **context,
        )

    @expose("/again/", methods=("POST",))
    @permission("message.send")
    def again_view(self) -> Any:
        """Send once more what the lines named (`line`, one or many) could not, or may not have: a person's decision."""
        run = self.get_one(request.form.get("id"))
        texts = request.form.getlist("line")[:PAGE]
        if any(not (text.isascii() and text.isdigit() and len(text) < 19) for text in texts):
            abort(404)
        ids = {int(text) for text in texts}

        def send() -> int:
            if not (queued := resend_lines(run, ids, by=current_user)):
                raise DomainError("nothing_again", _("There is nothing to send again: it has been sent or is queued."))
            return queued

        return self.answer(
            Form(request.form),
            send,
            title=f"{_('Send once more')}: {run.rule.name}",
            back=self.row_url(run),
            done=lambda _queued: f"{self.row_url(run)}",
            said=lambda queued: ngettext("%(num)s message is queued.", "%(num)s messages are queued.", queued),
            submit=_("Send once more"),
        )


def _waits(run: MailingRun) -> bool:
    """For a moment that is to come: a message to a selection."""
    return run.status is RunStatus.PLANNED and run.planned_at > clock.now()
