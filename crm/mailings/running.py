"""Executing a run: one short transaction per payer makes the bill, the letter and the line that says so, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import structlog
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor
from crm.access.mailing_option import MAILINGS_OFF, mailings_off
from crm.audit.operations import transition
from crm.bell import ring
from crm.bills.models import Bill, BillMethod
from crm.bills.operations import issue_bill
from crm.bills.queries import generations_of, payable_bill_of, without_billed
from crm.clients.models import Client, ClientStatus
from crm.db import db, give_way, transaction
from crm.errors import DomainError, report_exception
from crm.ledger.models import Account
from crm.mailings.models import RUN_MOVES, Channel, MailingRun, MailingRunLine, RunResult, RunStatus
from crm.mailings.operations import DELIVER, EXECUTE_RUN, address_of, queue_message
from crm.mailings.schedule import month_of
from crm.mailings.tags import render
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.operations import account_of
from crm.subscriptions.queries import subscriptions_paid_by, sum_to_ask, without_paid

# Renewed with every payer, so it only has to outlast the slowest one.
LEASE = timedelta(minutes=2)
# Payers per turn: between the turns of a long run its worker sends the letters there are, and hears it is to stop.
TURN = 200

_NO_ADDRESS = {
    Channel.EMAIL: _l("The client has no e-mail address."),
    Channel.SMS: _l("The client has no mobile phone."),
}

log = structlog.get_logger()


@dataclass(frozen=True)
class _Claim:
    """A run in this worker's hands, and the month it bills. `lease_until` is the proof: another worker changes it."""

    run_id: int
    lease_until: datetime
    period_from: date
    period_to: date


class _LeaseLost(Exception):
    """Another worker has taken the run over."""


class _OptionOff(Exception):
    """The company's mailing option has ended in the middle of the run; says why."""


class _Skip(Exception):
    """Nothing is to be sent to this payer; the text says why."""


def execute_run(run_id: int, *, by: Actor, limit: int = TURN) -> bool:
    """Do up to `limit` payers of a run and ring for the rest; True when the run is done by this.

    False too when another worker has it, or it was done before. Commits by itself, payer by payer: whatever a worker
    that died had committed stays as it is and is not done again.
    """
    claim = _claim(run_id)
    if claim is None:
        return False
    try:
        if note := _why_off(claim):
            return _end_turn(claim, is_done=True, by=by, note=note)
        payers = _payers_left(claim)
        for payer_id in payers[:limit]:
            try:
                claim = _do_payer(claim, payer_id, by=by)
            except _OptionOff as off:
                return _end_turn(claim, is_done=True, by=by, note=str(off))
            give_way()
        return _end_turn(claim, is_done=len(payers) <= limit, by=by)
    except _LeaseLost:
        log.warning("mailing_run_lease_lost", run_id=run_id)
        return False


def _why_off(claim: _Claim) -> str:
    """Why nothing is done: the company has no mailing option, or the rule has been switched off since the run was
    planned, which one by hand does not mind. Empty when the run goes on.
    """
    with transaction():
        run = db.session.get_one(MailingRun, claim.run_id, populate_existing=True)
        db.session.refresh(run.rule)
        if not run.is_manual and not run.rule.is_active:
            return _("The mailing was switched off before this run ended.")
        return mailings_off(run.branch)


def _end_turn(claim: _Claim, *, is_done: bool, by: Actor, note: str = "") -> bool:
    with transaction():
        _renew(claim)
        run = db.session.get_one(MailingRun, claim.run_id, populate_existing=True)
        ring(DELIVER)
        if is_done:
            transition(
                run, RUN_MOVES, RunStatus.DONE, by=by, finished_at=clock.now(), lease_until=None, note=note[:200]
            )
        else:
            run.lease_until = clock.now()  # free for the next turn, whoever takes it
            ring(EXECUTE_RUN, run.id)
    return is_done


def _claim(run_id: int) -> _Claim | None:
    now = clock.now()
    lease_until = now + LEASE
    with transaction():
        free = or_(
            MailingRun.status == RunStatus.PLANNED,
            (MailingRun.status == RunStatus.RUNNING) & (MailingRun.lease_until <= now),
        )
        won = db.session.execute(
            update(MailingRun)
            .where(MailingRun.id == run_id, free)
            .values(
                status=RunStatus.RUNNING, lease_until=lease_until, started_at=func.coalesce(MailingRun.started_at, now)
            )
            .execution_options(synchronize_session=False)
        )
        if won.rowcount != 1:  # type: ignore[attr-defined]
            return None
        run = db.session.get_one(MailingRun, run_id, populate_existing=True)
        # The month of the planned moment, not of this one: a run resumed after midnight bills what it began to bill.
        period_from, period_to = month_of(clock.local(run.planned_at, run.branch).date())
        return _Claim(run_id, lease_until, period_from, period_to)


def _renew(claim: _Claim) -> _Claim:
    """Hold the run on; its row stays locked until the payer's transaction ends. Raises _LeaseLost."""
    lease_until = clock.now() + LEASE
    held = db.session.execute(
        update(MailingRun)
        .where(
            MailingRun.id == claim.run_id,
            MailingRun.status == RunStatus.RUNNING,
            MailingRun.lease_until == claim.lease_until,
        )
        .values(lease_until=lease_until)
        .execution_options(synchronize_session=False)
    )
    if held.rowcount != 1:  # type: ignore[attr-defined]
        raise _LeaseLost
    return _Claim(claim.run_id, lease_until, claim.period_from, claim.period_to)


def _payers_left(claim: _Claim) -> list[int]:
    """Ids of the active payers with a subscription in the branch and the period and without a line yet, wherever their
    cards are; notes the total.
    """
    with transaction():
        run = db.session.get_one(MailingRun, claim.run_id)
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
        done = select(MailingRunLine.client_id).where(MailingRunLine.run_id == run.id)
        ids = list(
            db.session.scalars(
                select(Client.id)
                .where(
                    Client.id.in_(paying),
                    Client.status == ClientStatus.ACTIVE,
                    Client.id.not_in(done),
                )
                .order_by(Client.id)
            )
        )
        lines = db.session.scalar(select(func.count()).select_from(done.subquery())) or 0
        run.total = lines + len(ids)
        return ids


def _do_payer(claim: _Claim, payer_id: int, *, by: Actor) -> _Claim:
    """Bill one payer and note what came of it. Only the loss of the lease or of the database stops the run."""
    try:
        with transaction():
            held = _renew(claim)
            try:
                bill, reason = _bill_payer(held, payer_id, by=by)
            except _Skip as skip:
                _add_line(held, payer_id, RunResult.SKIPPED, reason=str(skip))
            else:
                _add_line(held, payer_id, RunResult.ISSUED, bill=bill, reason=reason)
            return held
    except (_LeaseLost, OperationalError):
        raise
    except DomainError as error:
        if error.code == MAILINGS_OFF:
            raise _OptionOff(str(error)) from None
        reason = str(error)
    except Exception as error:  # one broken card must not keep the others from their bills
        reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
    with transaction():
        held = _renew(claim)
        _add_line(held, payer_id, RunResult.FAILED, reason=reason)
    return held


def _add_line(claim: _Claim, payer_id: int, result: RunResult, *, bill: Bill | None = None, reason: str = "") -> None:
    db.session.add(
        MailingRunLine(
            run_id=claim.run_id,
            client_id=payer_id,
            bill_id=bill.id if bill else None,
            result=result,
            reason=reason[:500],
        )
    )


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
    if not address_of(payer, run.rule.channel):
        raise _Skip(_NO_ADDRESS[run.rule.channel])
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
        payable_until=today + timedelta(days=rule.term_days - 1) if rule.term_days else None,
        is_repeatable=rule.is_repeatable,
        subscriptions=subscriptions,
        dedupe_key=generations.next_key,
        by=by,
    )
    recipient = address_of(payer, rule.channel)
    assert recipient, "the caller has checked the address"
    queue_message(
        payer,
        channel=rule.channel,
        recipient=recipient,
        subject=render(rule.template.subject, client=payer, bill=bill, field="subject"),
        body=render(rule.template.body, client=payer, bill=bill),
        dedupe_key=f"bill:{bill.id}:{rule.channel.value}",
        bill=bill,
        run=run,
        by=by,
    )
    return bill
