"""Executing a run: one short transaction per payer makes the bill, the letter and the line that says so, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import structlog
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import SYSTEM, Actor
from crm.access.mailing_option import MAILINGS_OFF, mailings_off
from crm.audit.operations import transition
from crm.bell import ring
from crm.bills.models import Bill, BillMethod
from crm.bills.operations import issue_bill
from crm.bills.queries import generations_of, payable_bill_of, without_billed
from crm.clients.models import Client, ClientStatus
from crm.contacts.models import Channel
from crm.db import db, give_way, transaction
from crm.errors import DomainError, report_exception
from crm.ledger.models import Account
from crm.mailings.models import RUN_MOVES, MailingRun, MailingRunLine, RunResult, RunStatus
from crm.mailings.operations import DELIVER, address_of, queue_message
from crm.mailings.runs import EXECUTE_RUN
from crm.mailings.schedule import last_payable_day, month_of
from crm.mailings.tags import render
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.operations import account_of
from crm.subscriptions.queries import subscriptions_paid_by, sum_to_ask, without_paid

# Lines per turn: between the turns of a long run its worker sends the messages there are, and hears it is to stop.
TURN = 200

_NO_ADDRESS = {
    Channel.EMAIL: _l("The client has no e-mail address."),
    Channel.SMS: _l("The client has no mobile phone."),
}

log = structlog.get_logger()


@dataclass(frozen=True)
class _Claim:
    """A run, and the period it bills."""

    run_id: int
    period_from: date
    period_to: date


class _OptionOff(Exception):
    """The company's mailing option has ended in the middle of the run; says why."""


class _Skip(Exception):
    """Nothing is to be sent to this payer; the text says why."""


def execute_run(run_id: int, *, by: Actor, limit: int = TURN) -> bool:
    """Do up to `limit` lines of a run and ring for the rest; True when the run is done by this.

    False too when it was done before, rests or has been cancelled. Commits by itself, line by line; workers share a
    run, and a line is in the hands of the transaction that does it alone: what a worker that died had not committed is
    done by another.
    """
    claim = _begin(run_id)
    if claim is None:
        return False
    for _number in range(limit):
        try:
            if not _do_line(claim, by=by):
                return _end(claim, by=by)
        except _OptionOff as off:
            return _end(claim, by=by, note=str(off))
        give_way()
    with transaction():
        ring(DELIVER)
        ring(EXECUTE_RUN, run_id)
    return False


def _begin(run_id: int) -> _Claim | None:
    """Write the lines of a planned run; None when there is nothing to do for it (now)."""
    with transaction():
        query = select(MailingRun).where(MailingRun.id == run_id).with_for_update()
        run = db.session.scalars(query.execution_options(populate_existing=True)).one()
        if run.status not in (RunStatus.PLANNED, RunStatus.RUNNING):
            return None
        if note := _why_off(run):
            _close(run, note=note, by=SYSTEM)
            return None
        # The month of the planned moment, not of this one: a run resumed after midnight bills what it began to bill.
        claim = _Claim(run_id, *month_of(clock.local(run.planned_at, run.branch).date()))
        if run.status is RunStatus.PLANNED:
            run.total = _write_lines(run, claim)
            transition(run, RUN_MOVES, RunStatus.RUNNING, by=SYSTEM, started_at=clock.now())
        return claim


def _why_off(run: MailingRun) -> str:
    """Why nothing is done: the company has no mailing option, or the rule has been switched off since the run was
    planned, which one by hand does not mind. Empty when the run goes on.
    """
    db.session.refresh(run.rule)
    if not run.is_manual and not run.rule.is_active:
        return _("The mailing was switched off before this run ended.")
    return mailings_off(run.branch)


def _end(claim: _Claim, *, by: Actor, note: str = "") -> bool:
    """Close the run when no line waits, in nobody's hands either; or with a note on why the rest gets nothing."""
    with transaction():
        run = db.session.get_one(MailingRun, claim.run_id, with_for_update=True, populate_existing=True)
        waiting = select(MailingRunLine.id).where(
            MailingRunLine.run_id == run.id, MailingRunLine.result == RunResult.WAITING
        )
        ring(DELIVER)
        if run.status is not RunStatus.RUNNING or (not note and db.session.scalar(waiting.limit(1)) is not None):
            return False
        _close(run, note=note, by=by)
    return True


def _close(run: MailingRun, *, note: str, by: Actor) -> None:
    if run.status is RunStatus.PLANNED:
        transition(run, RUN_MOVES, RunStatus.RUNNING, by=by, started_at=clock.now())
    transition(run, RUN_MOVES, RunStatus.DONE, by=by, finished_at=clock.now(), note=note[:200])


def _write_lines(run: MailingRun, claim: _Claim) -> int:
    """A waiting line for each of the active payers with a subscription in the branch and the period, wherever their
    cards are; how many there are.
    """
    student = aliased(Client)
    paying = (
        select(func.coalesce(student.payer_id, student.id))
        .join_from(Subscription, student, student.id == Subscription.client_id)
        .where(
            Subscription.branch_id == run.branch_id,
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.starts_on <= claim.period_to,
            Subscription.ends_on >= claim.period_from,
        )
    )
    query = select(Client.id).where(Client.id.in_(paying), Client.status == ClientStatus.ACTIVE).order_by(Client.id)
    ids = db.session.scalars(query).all()
    db.session.add_all(MailingRunLine(run_id=run.id, client_id=id) for id in ids)
    return len(ids)


def _do_line(claim: _Claim, *, by: Actor) -> bool:
    """Bill the payer of the next waiting line and note what came of it; False when none is free."""
    line_id: int | None = None
    try:
        with transaction():
            running = select(MailingRun.id).where(MailingRun.id == claim.run_id, MailingRun.status == RunStatus.RUNNING)
            if db.session.scalar(running.with_for_update(read=True)) is None:
                return False
            waiting = (
                select(MailingRunLine)
                .where(MailingRunLine.run_id == claim.run_id, MailingRunLine.result == RunResult.WAITING)
                .order_by(MailingRunLine.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            line = db.session.scalar(waiting)
            if line is None:
                return False
            line_id = line.id
            try:
                bill, reason = _bill_payer(claim, line.client_id, by=by)
            except _Skip as skip:
                _settle(line, RunResult.SKIPPED, reason=str(skip))
            else:
                _settle(line, RunResult.ISSUED, bill=bill, reason=reason)
            return True
    except OperationalError:
        raise
    except DomainError as error:
        if error.code == MAILINGS_OFF:
            raise _OptionOff(str(error)) from None
        reason = str(error)
    except Exception as error:  # one broken card must not keep the others from their bills
        reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
    with transaction():
        _settle(db.session.get_one(MailingRunLine, line_id), RunResult.FAILED, reason=reason)
    return True


def _settle(line: MailingRunLine, result: RunResult, *, bill: Bill | None = None, reason: str = "") -> None:
    line.result, line.bill_id, line.reason = result, bill.id if bill else None, reason[:500]
    line.done_at = clock.now()


def _bill_payer(claim: _Claim, payer_id: int, *, by: Actor) -> tuple[Bill, str]:
    """Issue the payer's bills for the period, one for each account he is to pay to, and queue their letters. The first
    of them, and what is to be said besides; raises _Skip with the reason when there is none.
    """
    # The card's lock makes two runs take turns: the second sees the bill of the first.
    payer = db.session.scalars(select(Client).where(Client.id == payer_id).with_for_update(key_share=True)).one()
    run = db.session.get_one(MailingRun, claim.run_id)
    subscriptions = _held(
        subscriptions_paid_by(payer, branch_id=run.branch_id, period_from=claim.period_from, period_to=claim.period_to)
    )
    if not subscriptions or payer.status is not ClientStatus.ACTIVE:
        raise _Skip(_("No active subscription in this period."))
    channel = run.rule.ways[0].channel
    if not address_of(payer, channel):
        raise _Skip(str(_NO_ADDRESS[channel]))
    bills, skips = list[Bill](), list[_Skip]()
    for account, charged in _by_account(subscriptions, payer):
        try:
            bills.append(_bill_account(claim, run, payer, account, charged, by=by))
        except _Skip as skip:
            skips.append(skip)
    if not bills:
        raise skips[0]
    said = [str(skip) for skip in skips]
    if len(bills) > 1:
        said.insert(0, _("Also issued: %(numbers)s.", numbers=", ".join(bill.title for bill in bills[1:])))
    return bills[0], " ".join(said)


def _held(subscriptions: list[Subscription]) -> list[Subscription]:
    """Those still active once they are locked: what is being returned at this moment is not asked for."""
    query = select(Subscription).where(Subscription.id.in_([one.id for one in subscriptions])).order_by(Subscription.id)
    locked = query.with_for_update(key_share=True, of=Subscription)
    db.session.scalars(locked.execution_options(populate_existing=True)).all()
    return [one for one in subscriptions if one.status is SubscriptionStatus.ACTIVE]


def _by_account(subscriptions: list[Subscription], payer: Client) -> list[tuple[Account, list[Subscription]]]:
    """The subscriptions by the account they are charged to, the base account first."""
    base, apart = list[Subscription](), list[tuple[Account, list[Subscription]]]()
    for subscription in subscriptions:
        if subscription.account is PlanAccount.SEPARATE:
            apart.append((account_of(subscription, payer), [subscription]))
        else:
            base.append(subscription)
    return [*([(account_of(base[0], payer), base)] if base else []), *apart]


def _bill_account(
    claim: _Claim, run: MailingRun, payer: Client, account: Account, subscriptions: list[Subscription], *, by: Actor
) -> Bill:
    """One bill and its letter. Raises _Skip with the reason."""
    rule = run.rule
    if account.client_id != payer.id:
        raise _Skip(_("This account belongs to another client."))
    key = f"mailing:{rule.id}:{payer.id}:{account.id}:{claim.period_from}:{claim.period_to}"
    today = clock.today(run.branch)
    generations = generations_of(payer.id, key, today=today)
    if generations.standing:
        raise _Skip(_("This period has already been billed: bill %(number)s.", number=generations.standing.title))
    if unpaid := payable_bill_of(payer.id, run.branch, account):
        raise _Skip(_("There is an earlier unpaid bill: %(number)s.", number=unpaid.title))
    # A subscription that lasts into the next month is asked for once, not in both.
    subscriptions = without_billed(subscriptions, today=today)
    if not subscriptions:
        raise _Skip(_("Every subscription of this period has been billed already."))
    subscriptions = without_paid(subscriptions)
    if not subscriptions:
        raise _Skip(_("Every subscription of this period was paid for at the sale."))
    total = sum_to_ask(subscriptions)
    if not total:
        raise _Skip(_("There is nothing to pay: the subscriptions cost nothing."))
    bill = issue_bill(
        payer,
        amount=total,
        period_from=claim.period_from,
        period_to=claim.period_to,
        account=account,
        method=BillMethod.SUBSCRIPTION,
        payable_until=last_payable_day(rule.term, today, days=rule.term_days),
        is_repeatable=rule.is_repeatable,
        subscriptions=subscriptions,
        dedupe_key=generations.next_key,
        by=by,
    )
    way = rule.ways[0]
    recipient = address_of(payer, way.channel)
    assert recipient, "the caller has checked the address"
    subject, body = way.text
    queue_message(
        payer,
        channel=way.channel,
        recipient=recipient,
        subject=render(subject, client=payer, bill=bill, field="subject"),
        body=render(body, client=payer, bill=bill),
        dedupe_key=f"bill:{bill.id}:{way.channel.value}",
        bill=bill,
        run=run,
        by=by,
    )
    return bill
