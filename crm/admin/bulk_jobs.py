"""What the jobs of bulk actions do: batch by batch, each with its protocol lines and the place to go on, committed as
one. A killed worker's job goes on after its last batch, and no row is done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from flask import current_app
from flask_babel import gettext as _
from flask_login import current_user

from crm.admin.bulk import BulkView, action_of
from crm.admin.selection import Selection
from crm.audit.bulk import put_back
from crm.background.models import BackgroundJob, JobLine
from crm.background.operations import JobLost, Progress, executor
from crm.db import db, give_way, transaction
from crm.errors import DomainError, Forbidden, report_exception
from crm.protocol import Outcome, ProtocolLine

# Rows per transaction: long enough to be fast, short enough that nobody who waits for SQLite's one lock notices.
BATCH = 1000

Item = Any  # what a batch is made of: an id, or an id with what was done to it
Work = Callable[[Sequence[Item]], Sequence[ProtocolLine]]


@executor("bulk")
def run_action(job: BackgroundJob, progress: Progress) -> None:
    """Carry out a BulkAction over the rows that were confirmed."""
    view, params, total = view_of(job), dict(job.params), job.total
    after, is_begun = job.state.get("after", 0), bool(job.state)
    action, values = action_of(view, params)
    selection = Selection.from_params(view, params["selection"], view.here()).as_meant()
    if not is_begun:
        found = selection.aggregate(sa.func.count()).where(view.model.id <= params["until"])
        if (db.session.scalar(found) or 0) > (total or 0):
            raise DomainError("rows_changed", _("More rows match now than were confirmed. Choose them again."))
    if action.knows_start:
        values = {**values, "since": job.created_at}
    batches = selection.id_batches(BATCH, after=after, until=params["until"])
    _work_off(batches, lambda ids: action.run(list(ids), **values), int, int, progress)


@executor("bulk.undo")
def undo_action(job: BackgroundJob, progress: Progress) -> None:
    """Put back what another job of the same person has changed, where it still is as that job left it."""
    view, of, after = view_of(job), job.params["of"], job.state.get("after", 0)
    original = db.session.get_one(BackgroundJob, of)
    action, values = action_of(view, dict(original.params))
    if original.author_id != current_user.id or action.change is None or not action.is_undoable:
        raise Forbidden("forbidden", _("This cannot be undone."))
    change = action.change(**values)

    def undo(lines: Sequence[Item]) -> Sequence[ProtocolLine]:
        return put_back(change, [(row_id, changes) for _line, row_id, changes in lines], by=current_user)

    _work_off(_changed_lines(of, after), undo, lambda line: line[1], lambda line: line[0], progress)


def view_of(job: BackgroundJob) -> BulkView:
    """The grid a job was started from."""
    views = (view for view in current_app.extensions["admin"][0]._views if isinstance(view, BulkView))
    return next(view for view in views if view.entity == job.entity)


def undoable_lines(job_id: int) -> Any:
    """Condition of the lines of a job that changed something."""
    return sa.and_(JobLine.job_id == job_id, JobLine.outcome == Outcome.DONE, JobLine.changes.is_not(None))


def _changed_lines(job_id: int, after: int) -> Iterator[list[tuple[int, int, dict[str, Any]]]]:
    """(line id, row id, changes) of a job's protocol, batch by batch."""
    while True:
        query = sa.select(JobLine.id, JobLine.row_id, JobLine.changes).where(undoable_lines(job_id), JobLine.id > after)
        batch = [(row[0], row[1], row[2]) for row in db.session.execute(query.order_by(JobLine.id).limit(BATCH))]
        if not batch:
            return
        yield batch
        after = batch[-1][0]


def _work_off(
    batches: Iterator[Sequence[Item]],
    work: Work,
    row_of: Callable[[Item], int],
    place_of: Callable[[Item], int],
    progress: Progress,
) -> None:
    """row_of: the id of an item's row; place_of: the number after which a resumed job goes on."""
    for batch in batches:
        progress.check()
        _do(batch, work, row_of, place_of, progress)
        give_way()


def _do(
    batch: Sequence[Item],
    work: Work,
    row_of: Callable[[Item], int],
    place_of: Callable[[Item], int],
    progress: Progress,
) -> None:
    """A batch in a transaction of its own. One that fails is tried by halves, so that the rows beside the one at fault
    are done all the same.
    """
    state = {"after": place_of(batch[-1])}
    try:
        with transaction():
            lines = work(batch)
            progress.advance(len(batch), lines=lines, state=state)
    except (JobLost, Forbidden):
        raise
    except Exception as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                _do(half, work, row_of, place_of, progress)
            return
        reason = str(error)
        if not isinstance(error, DomainError):
            reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
        row_id = row_of(batch[0])
        line = ProtocolLine(row_id, f"#{row_id}", Outcome.FAILED, reason)
        with transaction():
            progress.advance(1, lines=[line], state=state)
