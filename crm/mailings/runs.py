"""Verbs on runs of rules: planned by the clock or by hand, paused, gone on with, cancelled; what the bell missed."""

from __future__ import annotations

from datetime import datetime

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.mailing_option import check_mailings
from crm.audit.operations import transition
from crm.bell import ring
from crm.db import db
from crm.errors import Conflict
from crm.mailings.models import RUN_MOVES, MailingRule, MailingRun, Message, MessageStatus, RunStatus
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
    for rule in db.session.scalars(select(MailingRule).where(MailingRule.is_active).order_by(MailingRule.id)):
        moment = latest_planned(rule, now=now)
        if (
            moment is not None
            and moment >= rule.schedule_since
            and (run := _new_run(rule, moment, by=SYSTEM)) is not None
        ):
            planned.append(run)
    return planned


def run_now(rule: MailingRule, *, by: Actor) -> MailingRun:
    """Run a rule at once, whatever its schedule. The caller commits.

    A run of this rule that is still on its way is returned instead of a second one. Raises DomainError "mailings_off".
    """
    require(by, "mailingrule.run", rule)
    check_mailings(rule.branch_id)
    now = clock.now()
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


def _new_run(rule: MailingRule, moment: datetime, *, by: Actor, is_manual: bool = False) -> MailingRun | None:
    """The run of `rule` for `moment`, with its bell; None when it exists."""
    if db.session.scalar(select(MailingRun.id).where(MailingRun.rule_id == rule.id, MailingRun.planned_at == moment)):
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
    """Let a run rest after the batch its workers have in hand; messages queued already go out. The caller commits."""
    require(by, "mailingrule.run", run)
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
    return run


def ring_for_waiting(*, now: datetime) -> None:
    """Ring again for every run and message that waits: their bell may have been lost. The caller commits."""
    waiting = select(MailingRun.id).where(MailingRun.status.in_([RunStatus.PLANNED, RunStatus.RUNNING]))
    for run_id in db.session.scalars(waiting.order_by(MailingRun.id)):
        ring(EXECUTE_RUN, run_id)
    due = select(Message.id).where(Message.status == MessageStatus.PENDING, Message.next_try_at <= now).limit(1)
    if db.session.scalar(due) is not None:
        ring(DELIVER)
