"""Tasks by name: what the bell rings for and what the scheduler does. Each calls an operation, no more."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog
from flask import current_app
from rq import get_current_job
from sqlalchemy import delete

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.operations import forget_attempts
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.background.models import BackgroundJob, JobStatus
from crm.background.operations import RUN, claim_job, execute_job, finish_job, forget_jobs, ring_for_jobs
from crm.bell import ring
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, report_exception
from crm.exchange.schedules.delivery import deliver_export_letters, give_up_lost_letters, has_due_letters
from crm.exchange.schedules.operations import DELIVER_EXPORTS, plan_due_exports, settle_failed_exports
from crm.exchange.uploads import forget_uploads
from crm.jobs.models import CronTick
from crm.jobs.queues import answer_bell
from crm.ledger.queries import check_ledger
from crm.ledger.turnover import keep_turnover
from crm.mailings.bounces import READ_BOUNCES, read_bounces, ring_for_bounces
from crm.mailings.delivery import deliver_batch, give_up_lost_claims
from crm.mailings.operations import DELIVER
from crm.mailings.running import execute_run
from crm.mailings.runs import EXECUTE_RUN, plan_due_runs, ring_for_waiting
from crm.once import forget_forms
from crm.payments.gateways.base import GatewayError
from crm.payments.models import Payment
from crm.payments.notices import READ_NOTICES, forget_notices, read_notices, ring_for_notices
from crm.payments.outcomes import accept_notice
from crm.payments.polling import give_up_unasked, take_questions
from crm.payments.refunds import ask_refund, take_refunds
from crm.payments.shops import gateway_of
from crm.security import on_behalf_of
from crm.subscriptions.freezing import due_freezes, keep_freeze

TRACES_KEPT = timedelta(days=7)

log = structlog.get_logger()


def perform(task: str, *args: Any) -> None:
    """Run a task in an app context of its own, everywhere in the network, as the system, under the job's id."""
    job = get_current_job()
    job_id = job.id if job is not None else uuid.uuid4().hex
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    with (
        app.app_context(),
        scoped_to(EVERYWHERE),
        acting(SYSTEM, f"job:{job_id}"),
        structlog.contextvars.bound_contextvars(job_id=job_id, task=task),
    ):
        try:
            TASKS[task](*args)
        except Exception as error:
            report_exception(error)
            raise


def _execute_run(run_id: int) -> None:
    execute_run(run_id, by=SYSTEM)


def _deliver() -> None:
    delivered = deliver_batch()
    log.info("delivered", **{fate.value: count for fate, count in delivered.fates.items() if count})
    if delivered.is_more:
        with transaction():
            ring(DELIVER)


def _look_for_bounces() -> None:
    """A worker reads the mailbox: the scheduler waits for no server."""
    with transaction():
        ring_for_bounces()


def _read_bounces() -> None:
    if noted := read_bounces():
        log.info("letters_came_back", count=noted)


def _plan() -> None:
    with transaction():
        plan_due_runs(now=clock.now())


def _plan_exports() -> None:
    """Excel by the clock: what is due, what has failed, letters that wait or were lost."""
    now = clock.now()
    with transaction():
        settle_failed_exports()
        give_up_lost_letters(now=now)
        plan_due_exports(now=now)
        if has_due_letters(now=now):
            ring(DELIVER_EXPORTS)


def _sweep() -> None:
    with transaction():
        now = clock.now()
        give_up_lost_claims(now=now)
        ring_for_waiting(now=now)
        ring_for_jobs(now=now)
        ring_for_notices(now=now)


def _run_background(job_id: int) -> None:
    """A long job somebody started from the panel, with his rights."""
    if not claim_job(job_id):
        return
    job = db.session.get_one(BackgroundJob, job_id)
    author_id, branch_id, locale = job.author_id, job.branch_id, job.locale
    db.session.commit()
    try:
        with on_behalf_of(author_id, branch_id=branch_id, locale=locale, source=f"job:{job_id}"):
            execute_job(job_id)
    except Forbidden as error:
        finish_job(job_id, JobStatus.FAILED, str(error))


def _keep_freezes() -> None:
    """Subscriptions whose freeze begins or ends with the day of their branch."""
    for subscription_id in due_freezes():
        try:
            with transaction():
                keep_freeze(subscription_id)
        except DomainError as error:  # somebody at the desk was first
            log.info("freeze_left", subscription=subscription_id, reason=str(error))


def _read_notices() -> None:
    answer_bell(READ_NOTICES)
    if read_notices():
        with transaction():
            ring(READ_NOTICES)


def _poll_payments() -> None:
    """Ask the gateways about payments whose notice may have been lost, and about refunds they have not answered."""
    now = clock.now()
    with transaction():
        questions = take_questions(now=now)
        refunds = take_refunds(now=now)
        give_up_unasked(now=now)
    for asked in questions:
        with _one_of_many("payment_poll_failed", payment=asked.payment_id):
            accept_notice(gateway_of(db.session.get_one(Payment, asked.payment_id)), asked.external_id)
    for refund_id in refunds:
        with _one_of_many("refund_poll_failed", refund=refund_id):
            ask_refund(refund_id)


@contextmanager
def _one_of_many(event: str, **facts: Any) -> Iterator[None]:
    """Whatever goes wrong with one of them does not take the others' turn."""
    try:
        yield
    except (GatewayError, LookupError, DomainError) as error:
        log.warning(event, **facts, reason=str(error))
    except Exception as error:
        log.error(event, **facts, reason=repr(error))
        report_exception(error)
    else:
        return
    db.session.rollback()


def _sum_ledger() -> None:
    if summed := keep_turnover():
        log.info("ledger_summed", ids=summed)


def _check_ledger() -> None:
    with transaction():
        problems = check_ledger()
    for problem in problems:
        log.error("ledger_problem", what=problem.what, id=problem.id, detail=problem.detail)
    log.info("ledger_checked", problems=len(problems))


def _prune() -> None:
    """Drop what only the last days needed: ticks, keys of sent forms, failed sign-ins."""
    with transaction():
        oldest: datetime = clock.now() - TRACES_KEPT
        db.session.execute(delete(CronTick).where(CronTick.tick < oldest))
        forget_forms(before=oldest)
        forget_attempts(before=oldest)
        forget_jobs(now=clock.now())
        forget_uploads(now=clock.now())
        forget_notices(now=clock.now())


TASKS: dict[str, Callable[..., None]] = {
    EXECUTE_RUN: _execute_run,
    DELIVER: _deliver,
    RUN: _run_background,
    "mailings.plan": _plan,
    "mailings.bounces": _look_for_bounces,
    READ_BOUNCES: _read_bounces,
    "exports.plan": _plan_exports,
    DELIVER_EXPORTS: deliver_export_letters,
    "jobs.sweep": _sweep,
    "subscriptions.freezes": _keep_freezes,
    "payments.poll": _poll_payments,
    READ_NOTICES: _read_notices,
    "ledger.sum": _sum_ledger,
    "ledger.check": _check_ledger,
    "jobs.prune": _prune,
}
