"""Executing a run: its lines are taken in batches, and one transaction makes the bills of a batch, the messages and the
lines that say so, or nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import monotonic
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.mailing_option import MAILINGS_OFF, check_mailings, mailings_off
from crm.audit.operations import transition
from crm.bell import ring
from crm.bills.issuing import hold_families, write_bills
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db, give_way, transaction
from crm.errors import DomainError, report_exception
from crm.mailings.billing import Planned, outlook, wanted
from crm.mailings.models import (
    RUN_MOVES,
    MailingKind,
    MailingRun,
    MailingRunLine,
    MailingWay,
    Message,
    RunResult,
    RunStatus,
)
from crm.mailings.operations import DELIVER
from crm.mailings.recipients import channels_to, still_meant, told_to, way_to, write_lines
from crm.mailings.runs import EXECUTE_RUN, leave_out_waiting
from crm.mailings.wording import message_rows, write_messages
from crm.schedule.enrolment import hold_cards

# Lines per turn: between the turns of a long run its worker sends the messages there are, and hears it is to stop. A
# turn is a job, which has its statements to put together anew.
TURN = 1000
TURN_SECONDS = 20
# Lines per transaction: their cards and families are held while their bills are written.
BATCH = 100


class _OptionOff(Exception):
    """The company's mailing option has ended in the middle of the run; says why."""


def execute_run(run_id: int, *, by: Actor, limit: int = TURN) -> bool:
    """Do up to `limit` lines of a run, for TURN_SECONDS, and ring for the rest; True when the run is done by this.

    False too when it was done before, rests or has been cancelled. Commits by itself, batch by batch; workers share a
    run, and a line is in the hands of the transaction that does it alone: what a worker that died had not committed is
    done by another.
    """
    if (is_over := _begin(run_id)) is not None:
        return is_over
    done, until = 0, monotonic() + TURN_SECONDS
    while done < limit and monotonic() < until:
        try:
            number = _do_lines(run_id, min(BATCH, limit - done), by=by)
        except _OptionOff as off:
            return _end(run_id, by=by, note=str(off))
        if not number:
            return _end(run_id, by=by)
        if not done:
            with transaction():  # another worker may send meanwhile
                ring(DELIVER)
        done += number
        give_way()
    with transaction():
        ring(DELIVER)
        ring(EXECUTE_RUN, run_id)
    return False


def _begin(run_id: int) -> bool | None:
    """Write the lines of a planned run. None when there is something to do for it; else whether this has closed it."""
    with transaction():
        query = select(MailingRun).where(MailingRun.id == run_id).with_for_update()
        run = db.session.scalars(query.execution_options(populate_existing=True)).one()
        if run.status not in (RunStatus.PLANNED, RunStatus.RUNNING):
            return False
        if run.status is RunStatus.PLANNED and run.rule.is_selected and run.planned_at > clock.now():
            return False  # put off since the bell was rung
        if note := _why_off(run):
            _close(run, note=note, by=SYSTEM)
            return True
        if run.started_at is None:  # one paused before it began is running already, without lines
            run.total, run.started_at = _write_lines(run), clock.now()
        if run.status is RunStatus.PLANNED:
            transition(run, RUN_MOVES, RunStatus.RUNNING, by=SYSTEM)
        return None


def _write_lines(run: MailingRun) -> int:
    if not run.rule.is_selected:
        return write_lines(run, Planned.of_run(run).day)
    return db.session.scalar(select(func.count()).where(MailingRunLine.run_id == run.id)) or 0


def _why_off(run: MailingRun) -> str:
    """Why nothing is done: the company has no mailing option, or the rule has been switched off since the run was
    planned, which one by hand does not mind. Empty when the run goes on.
    """
    db.session.refresh(run.rule)
    if not run.is_manual and not run.rule.is_active:
        return _("The mailing was switched off before this run ended.")
    return mailings_off(run.branch)


def _end(run_id: int, *, by: Actor, note: str = "") -> bool:
    """Close the run when no line waits, in nobody's hands either; or with a note on why the rest gets nothing."""
    with transaction():
        run = db.session.get_one(MailingRun, run_id, with_for_update=True, populate_existing=True)
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
    leave_out_waiting(run, note)


# --- lines -----------------------------------------------------------------------------------------------------------


def _do_lines(run_id: int, size: int, *, by: Actor) -> int:
    """Do the next waiting lines, one by one where they cannot be done together; how many, 0 when none is free."""
    taken = list[int]()
    try:
        return _do_together(run_id, size, taken, by=by)
    except Exception as error:
        _raise_if_not_of_one(error)
        if len(taken) == 1:
            _fail(taken[0], error)
            return 1
    for id in taken:
        own = list[int]()
        try:
            _do_together(run_id, 1, own, by=by, line_id=id)
        except Exception as error:  # one broken card must not keep the others from their bills
            _raise_if_not_of_one(error)
            _fail(id, error)
    return len(taken)


def _raise_if_not_of_one(error: Exception) -> None:
    """Go on only where the fault may be that of one client: not the database's, and not the option's."""
    if isinstance(error, OperationalError):
        raise error
    if isinstance(error, DomainError) and error.code == MAILINGS_OFF:
        raise _OptionOff(str(error)) from None


def _fail(line_id: int, error: Exception) -> None:
    if isinstance(error, DomainError):
        reason = str(error)
    else:
        reason = _("Unexpected error %(id)s; it is in the log.", id=report_exception(error))
    with transaction():
        query = select(MailingRunLine).where(MailingRunLine.id == line_id).with_for_update()
        line = db.session.scalars(query.execution_options(populate_existing=True)).one()
        if line.result is RunResult.WAITING:  # another worker may have had more luck
            _settle(line, RunResult.FAILED, reason=reason)


def _do_together(run_id: int, size: int, taken: list[int], *, by: Actor, line_id: int | None = None) -> int:
    """One transaction: take waiting lines (their ids are added to `taken`) and do them. line_id: this one alone."""
    with transaction():
        running = select(MailingRun).where(MailingRun.id == run_id, MailingRun.status == RunStatus.RUNNING)
        run = db.session.scalar(running.with_for_update(read=True, of=MailingRun))
        if run is None:
            return 0
        waiting = (
            select(MailingRunLine)
            .where(MailingRunLine.run_id == run_id, MailingRunLine.result == RunResult.WAITING)
            .order_by(MailingRunLine.id)
            .limit(size)
            .with_for_update(skip_locked=True)
        )
        if line_id is not None:
            waiting = waiting.where(MailingRunLine.id == line_id)
        lines = db.session.scalars(waiting.execution_options(populate_existing=True)).all()
        taken += [line.id for line in lines]
        if lines:
            check_mailings(run.branch_id)
            if run.rule.kind is MailingKind.BILLS:
                _bill(run, lines, by=by)
            else:
                _remind(run, lines, by=by)
        return len(lines)


def _settle(line: MailingRunLine, result: RunResult, *, reason: str = "") -> None:
    line.result, line.reason, line.done_at = result, reason[:500], clock.now()


def _bill(run: MailingRun, lines: Sequence[MailingRunLine], *, by: Actor) -> None:
    """Issue what the payers of these lines owe for the period, a bill for each account, and write to them."""
    require(by, "bill.issue", run)
    planned = Planned.of_run(run)
    ids = sorted(line.client_id for line in lines)
    # The cards' lock makes two runs take turns: the second sees the bills of the first.
    hold_cards(ids)
    hold_families(ids, [])
    views = {view.client.id: view for view in outlook(planned, ids)}
    texts = channels_to(run.rule)
    ways = way_to(run.rule, [view.client for view in views.values()], list(texts))
    due = [
        (client_id, wanted(planned, part))
        for client_id, view in views.items()
        if not isinstance(ways[client_id], str)
        for part in view.due
    ]
    written = _of_session(write_bills([one for _id, one in due], by=by))
    bills: dict[int, list[Bill]] = {}
    for (client_id, _one), bill in zip(due, written, strict=True):
        bills.setdefault(client_id, []).append(bill)
    messages = list[dict[str, Any]]()
    for line in lines:
        view, way = views[line.client_id], ways[line.client_id]
        if view.why_nothing:
            _settle(line, RunResult.SKIPPED, reason=view.why_nothing)
        elif isinstance(way, str):
            _settle(line, RunResult.SKIPPED, reason=_sentence(way))
        else:
            own = bills[line.client_id]
            messages += _rows(run, line, view.client, way, texts, bills=own, by=by)
            # Why an account has no bill, though others have.
            _settle(line, RunResult.ISSUED, reason=" ".join(part.reason for part in view.parts if part.reason))
    write_messages(messages)
    db.session.flush()


def _of_session(bills: Sequence[Bill]) -> list[Bill]:
    """The same, as the session knows them: the texts ask for their accounts and branches."""
    known = {bill.id: bill for bill in db.session.scalars(select(Bill).where(Bill.id.in_([one.id for one in bills])))}
    return [known[bill.id] for bill in bills]


def _remind(run: MailingRun, lines: Sequence[MailingRunLine], *, by: Actor) -> None:
    """Write to the clients of these lines what is so now: nothing where it is no longer."""
    day, rule = Planned.of_run(run).day, run.rule
    ids = sorted(line.client_id for line in lines)
    cards = {card.id: card for card in db.session.scalars(select(Client).where(Client.id.in_(ids)))}
    if rule.is_selected:
        _follow_merges(run, cards)
    meant = set(ids) if rule.is_selected else still_meant(rule, day, ids)
    told = told_to(rule, day, ids)
    texts = channels_to(rule)
    ways = way_to(rule, list(cards.values()), list(texts))
    written = dict[int, list[dict[str, Any]]]()
    for line in lines:
        way = ways[cards[line.client_id].id]
        if line.client_id not in meant or cards[line.client_id].merged_into_id is not None:
            _settle(line, RunResult.SKIPPED, reason=_("There is nothing to write about any more."))
        elif isinstance(way, str):
            _settle(line, RunResult.SKIPPED, reason=_sentence(way))
        else:
            facts = told.get(line.client_id, {})
            written[line.id] = _rows(run, line, cards[line.client_id], way, texts, facts=facts, by=by)
            _settle(line, RunResult.ISSUED)
    if rule.kind is MailingKind.TEXT:
        _leave_out_repeated(run, {line.id: line for line in lines}, written)
    write_messages([row for rows in written.values() for row in rows])
    db.session.flush()


def _follow_merges(run: MailingRun, cards: dict[int, Client]) -> None:
    """Put the card one was merged into since it was chosen in its place (cards: by the line's client id), unless that
    is written to by a line of its own, or is another branch's.
    """
    kept_ids = {id: card.merged_into_id for id, card in cards.items() if card.merged_into_id is not None}
    if not kept_ids:
        return
    own = select(MailingRunLine.client_id).where(MailingRunLine.run_id == run.id)
    kept = select(Client).where(
        Client.id.in_(sorted(set(kept_ids.values()))), Client.branch_id == run.branch_id, Client.id.not_in(own)
    )
    found = {card.id: card for card in db.session.scalars(kept)}
    cards |= {id: found[kept_id] for id, kept_id in kept_ids.items() if kept_id in found}


def _leave_out_repeated(
    run: MailingRun, lines: Mapping[int, MailingRunLine], written: dict[int, list[dict[str, Any]]]
) -> None:
    """Of free texts that are the same word for word, an address gets one: children are written to at their payer's. By
    their keys, so that of two workers with such a text one begins anew and finds it told.
    """
    for rows in written.values():
        for row in rows:
            said = "\0".join((row["recipient"], row["subject"], row["body"]))
            row["dedupe_key"] = f"text:{run.id}:{row['channel'].value}:{sha256(said.encode()).hexdigest()[:32]}"
    keys = [row["dedupe_key"] for rows in written.values() for row in rows]
    told = set(db.session.scalars(select(Message.dedupe_key).where(Message.dedupe_key.in_(keys))))
    for line_id in sorted(written):
        fresh = [row for row in written[line_id] if row["dedupe_key"] not in told]
        told |= {row["dedupe_key"] for row in fresh}
        if not fresh:
            _settle(
                lines[line_id],
                RunResult.SKIPPED,
                reason=_("The same message goes to this address already: it is somebody else's too."),
            )
        written[line_id] = fresh


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _rows(
    run: MailingRun,
    line: MailingRunLine,
    client: Client,
    way: tuple[Channel, str],
    texts: Mapping[Channel, MailingWay],
    *,
    by: Actor,
    **told: Any,
) -> list[dict[str, Any]]:
    channel, recipient = way
    author = (by.id, str(by.name))
    return message_rows(
        client,
        run=run,
        line_id=line.id,
        way=texts[channel],
        channel=channel,
        recipient=recipient,
        author=author,
        **told,
    )
