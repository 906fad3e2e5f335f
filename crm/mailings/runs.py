"""Verbs on runs of rules: planned by the clock or by hand, paused, gone on with, cancelled; what the bell missed."""

from __future__ import annotations

from datetime import datetime

from flask_babel import gettext as _
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.mailing_option import check_mailings
from crm.audit.operations import transition
from crm.bell import ring
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.mailings.models import (
    RUN_MOVES,
    MailingRule,
    MailingRun,
    MailingRunLine,
    Message,
    MessageStatus,
    RunResult,
    RunStatus,
)
from crm.mailings.operations import DELIVER
from crm.mailings.schedule import latest_planned

# The name of jobs/tasks.py these operations ring for.
EXECUTE_RUN = "mailings.execute_run"
UNDER_WAY = (RunStatus.PLANNED, RunStatus.RUNNING, RunStatus.PAUSED)


def plan_due_runs(*, now: datetime) -> list[MailingRun]:
    """Make the run each active rule is due for and ring for it; what was planned already is left alone.

    After down-time the latest missed moment is caught up once. Two schedulers at once make one run: UNIQUE decides.
    The caller commits.
    """
    planned = []
    # A message to a selection has its run from the first.
    rules = select(MailingRule).where(MailingRule.is_active, ~MailingRule.is_selected).order_by(MailingRule.id)
    for rule in db.session.scalars(rules):
        moment = _due_moment(rule, now=now)
        if moment is None or _has_run(rule, moment):
            continue
        hold_rule(rule)
        # Changed or moved to another branch a moment ago, it may be due at another one, or not at all.
        if _due_moment(rule, now=now) == moment and (run := _new_run(rule, moment, by=SYSTEM)) is not None:
            planned.append(run)
    return planned


def _due_moment(rule: MailingRule, *, now: datetime) -> datetime | None:
    """The latest moment an active rule was planned for since it has its schedule; None when there is none yet."""
    moment = latest_planned(rule, now=now) if rule.is_active else None
    return moment if moment is not None and moment >= rule.schedule_since else None


def run_now(rule: MailingRule, *, by: Actor) -> MailingRun:
    """Run a rule at once, whatever its schedule. The caller commits.

    A run of this rule that is still on its way is returned instead of a second one; that of a message to a selection
    waits for its moment no longer. Raises DomainError "mailings_off", Conflict "selection_over" where such a message
    has its run behind it.
    """
    hold_rule(rule)
    require(by, "mailingrule.run", rule)
    check_mailings(rule.branch_id)
    now = clock.now()
    if rule.is_selected:
        return _hasten(rule, now=now)
    query = (
        select(MailingRun)
        .where(MailingRun.rule_id == rule.id, or_(MailingRun.status.in_(UNDER_WAY), MailingRun.planned_at == now))
        .order_by(MailingRun.id.desc())
        .limit(1)
    )
    run = db.session.scalar(query) or _new_run(rule, now, by=by, is_manual=True)
    if run is None:
        raise Conflict("run_planned", _("This mailing has just been started by somebody else."))
    if run.status in UNDER_WAY:
        ring(EXECUTE_RUN, run.id)
    return run


def _hasten(rule: MailingRule, *, now: datetime) -> MailingRun:
    query = select(MailingRun).where(MailingRun.rule_id == rule.id, MailingRun.status.in_(UNDER_WAY))
    query = query.order_by(MailingRun.id.desc()).limit(1).with_for_update()
    run = db.session.scalar(query.execution_options(populate_existing=True))
    if run is None:
        raise Conflict("selection_over", _("This message has gone out to its selection: it is not sent again."))
    if run.status is RunStatus.PLANNED and run.planned_at > now:
        run.planned_at, run.is_manual = now, True
        db.session.flush()
    ring(EXECUTE_RUN, run.id)
    return run


def hold_rule(rule: MailingRule) -> None:
    """Two who begin a rule at once come one after the other: the second finds the run of the first. So do they and
    whoever moves it to another branch: the rule is read anew, in the branch it is in by now.
    """
    db.session.flush()
    db.session.refresh(rule, with_for_update={"key_share": True})


def _has_run(rule: MailingRule, moment: datetime) -> bool:
    query = select(MailingRun.id).where(MailingRun.rule_id == rule.id, MailingRun.planned_at == moment)
    return db.session.scalar(query) is not None


def _new_run(rule: MailingRule, moment: datetime, *, by: Actor, is_manual: bool = False) -> MailingRun | None:
    """The run of `rule`, which the caller holds, for `moment`, with its bell; None when it exists."""
    if _has_run(rule, moment):
        return None
    run = MailingRun(branch_id=rule.branch_id, rule_id=rule.id, planned_at=moment, is_manual=is_manual, author_id=by.id)
    try:
        with db.session.begin_nested():
            db.session.add(run)
            db.session.flush()
    except IntegrityError:
        return None  # another scheduler was faster
    ring(EXECUTE_RUN, run.id)
    return run


def pause_run(run: MailingRun, *, by: Actor) -> MailingRun:
    """Let a run rest after the batch its workers have in hand; messages queued already go out. The caller commits.

    Raises DomainError "not_begun" of one that waits for its moment.
    """
    require(by, "mailingrule.run", run)
    if run.status is RunStatus.PLANNED and run.planned_at > clock.now():
        raise DomainError("not_begun", _("It waits for its moment: change the mailing or cancel it."))
    transition(run, RUN_MOVES, RunStatus.PAUSED, by=by)
    return run


def resume_run(run: MailingRun, *, by: Actor) -> MailingRun:
    """Go on with a paused run. Raises DomainError "mailings_off". The caller commits."""
    require(by, "mailingrule.run", run)
    check_mailings(run.branch_id)
    transition(run, RUN_MOVES, RunStatus.RUNNING, by=by)
    ring(EXECUTE_RUN, run.id)
    return run


def cancel_run(run: MailingRun, *, by: Actor) -> MailingRun:
    """End a run for good: who waits gets nothing, what is queued already goes out. The caller commits."""
    require(by, "mailingrule.run", run)
    transition(run, RUN_MOVES, RunStatus.CANCELLED, by=by, finished_at=clock.now())
    leave_out_waiting(run, _("The mailing was cancelled before it came to this client."))
    return run


def leave_out_waiting(run: MailingRun, reason: str) -> None:
    """Say beside whoever still waits in a run that is over why he gets nothing. Its row is held by who has ended it, so
    no worker has any of these lines in hand. The caller commits.
    """
    db.session.execute(
        update(MailingRunLine)
        .where(MailingRunLine.run_id == run.id, MailingRunLine.result == RunResult.WAITING)
        .values(result=RunResult.SKIPPED, reason=reason[:500], done_at=clock.now())
        .execution_options(synchronize_session=False)
    )


def ring_for_waiting(*, now: datetime) -> None:
    """Ring again for every run and message that waits: their bell may have been lost. The caller commits."""
    waiting = select(MailingRun.id).where(
        MailingRun.status.in_([RunStatus.PLANNED, RunStatus.RUNNING]), MailingRun.planned_at <= now
    )
    for run_id in db.session.scalars(waiting.order_by(MailingRun.id)):
        ring(EXECUTE_RUN, run_id)
    due = select(Message.id).where(Message.status == MessageStatus.PENDING, Message.next_try_at <= now).limit(1)
    if db.session.scalar(due) is not None:
        ring(DELIVER)
