"""How far a run is: what has become of each of its lines, by the messages written for them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select
from sqlalchemy.orm import aliased, joinedload, selectinload

from crm.access.actors import Actor
from crm.db import LabelEnum, db
from crm.mailings.models import MailingRun, MailingRunLine, Message, MessageStatus, RunResult, message_bill
from crm.mailings.operations import resend_messages


class LineFate(LabelEnum):
    """What has become of a line, from who waits to who gets nothing."""

    WAITING = "waiting", _lp("line", "Waiting")
    QUEUED = "queued", _lp("line", "Queued")
    SENT = "sent", _lp("line", "Sent")
    FAILED = "failed", _lp("line", "Not sent")
    UNKNOWN = "unknown", _lp("line", "Unknown: may have been sent")
    SKIPPED = "skipped", _lp("line", "Skipped")


AGAIN = (LineFate.FAILED, LineFate.UNKNOWN)

# Of the ways one text was tried over, the happiest tells; of the bills of one line, the saddest.
_OF_WAYS = (LineFate.QUEUED, LineFate.UNKNOWN, LineFate.SENT, LineFate.FAILED, LineFate.SKIPPED)
_OF_BILLS = (LineFate.QUEUED, LineFate.UNKNOWN, LineFate.FAILED, LineFate.SENT, LineFate.SKIPPED)
# Whatever of these was followed by a message that begins with one of its further bills is told by those that follow.
_UNSENT = (MessageStatus.FAILED, MessageStatus.SKIPPED)
_BY_STATUS = {
    MessageStatus.SENT: LineFate.SENT,
    MessageStatus.DELIVERED: LineFate.SENT,
    MessageStatus.READ: LineFate.SENT,
    MessageStatus.FAILED: LineFate.FAILED,
    MessageStatus.UNKNOWN: LineFate.UNKNOWN,
    MessageStatus.SKIPPED: LineFate.SKIPPED,
}


def fates_of(run: MailingRun) -> dict[LineFate, int]:
    """How many lines of a run are where; every fate has its number. One statement."""
    fated = _fated(run.id).subquery()
    rows = db.session.execute(select(fated.c.fate, func.count()).group_by(fated.c.fate))
    counted: dict[str, int] = dict(list(rows))
    return {fate: counted.get(fate.value, 0) for fate in LineFate}


def lines_of(
    run: MailingRun, *, fate: LineFate | None = None, limit: int, offset: int = 0
) -> list[tuple[MailingRunLine, LineFate]]:
    """A page of a run's lines, in their order, of one fate or all, each with its own."""
    fated = _fated(run.id).subquery()
    query = (
        select(MailingRunLine, fated.c.fate)
        .join(fated, fated.c.id == MailingRunLine.id)
        .options(joinedload(MailingRunLine.client))
        .order_by(MailingRunLine.id)
        .limit(limit)
        .offset(offset)
    )
    by_value = {one.value: one for one in LineFate}
    if fate is not None:
        query = query.where(fated.c.fate == fate.value)
    return [(line, by_value[value]) for line, value in db.session.execute(query)]


def messages_of_lines(run: MailingRun, line_ids: Collection[int]) -> dict[int, list[Message]]:
    """The messages written for these lines of a run, oldest first, by line, with the bills they tell of."""
    line, own = _line_of_message(run.id)
    query = select(line, Message).outerjoin(*own).where(Message.run_id == run.id, line.in_(line_ids))
    query = query.options(joinedload(Message.bill), selectinload(Message.further_bills))
    found: dict[int, list[Message]] = {}
    for line_id, message in db.session.execute(query.order_by(Message.id)):
        found.setdefault(line_id, []).append(message)
    return found


def resend_lines(run: MailingRun, line_ids: Collection[int], *, by: Actor) -> int:
    """Queue once more what these lines of a run could not send, or may not have sent: the last message tried for each
    text. How many were queued. Raises DomainError "mailings_off". The caller commits.
    """
    chosen: list[Message] = []
    for messages in messages_of_lines(run, line_ids).values():
        by_text: dict[int | None, list[Message]] = {}
        for at, message in enumerate(messages):
            if message.status in _UNSENT and {one.id for one in message.further_bills} & {
                later.bill_id for later in messages[at + 1 :]
            }:
                continue
            by_text.setdefault(message.bill_id, []).append(message)
        for tried in by_text.values():
            fates = {_BY_STATUS.get(message.status, LineFate.QUEUED) for message in tried}
            if next(fate for fate in _OF_WAYS if fate in fates) in AGAIN:
                chosen.append(next(one for one in reversed(tried) if _BY_STATUS.get(one.status) in AGAIN))
    return resend_messages(chosen, by=by)


def _line_of_message(run_id: int) -> tuple[ColumnElement[int], tuple[Any, Any]]:
    """The line a message was written for; runs of former releases tell it by the client alone."""
    own = aliased(MailingRunLine)
    of_client = and_(own.run_id == run_id, own.client_id == Message.client_id, Message.line_id.is_(None))
    return func.coalesce(Message.line_id, own.id), (own, of_client)


def _fated(run_id: int) -> Select[tuple[int, str]]:
    """Id and fate of each line of a run."""
    line, own = _line_of_message(run_id)
    later = aliased(Message)
    followed = exists().where(
        message_bill.c.message_id == Message.id,
        later.line_id == Message.line_id,
        later.id > Message.id,
        later.bill_id == message_bill.c.bill_id,
    )
    ranks = {status: _OF_WAYS.index(_BY_STATUS.get(status, LineFate.QUEUED)) for status in MessageStatus}
    tried = (
        select(
            line.label("line_id"),
            func.min(case(*((Message.status == status, rank) for status, rank in ranks.items()))).label("rank"),
        )
        .select_from(Message)
        .outerjoin(*own)
        .where(Message.run_id == run_id, or_(Message.status.not_in(_UNSENT), ~followed))
        .group_by(line, Message.bill_id)
        .subquery()
    )
    of_bills = case(*((tried.c.rank == at, _OF_BILLS.index(fate)) for at, fate in enumerate(_OF_WAYS)))
    told = select(tried.c.line_id, func.min(of_bills).label("rank")).group_by(tried.c.line_id).subquery()
    fate = case(
        (MailingRunLine.result == RunResult.WAITING, LineFate.WAITING.value),
        (MailingRunLine.result == RunResult.SKIPPED, LineFate.SKIPPED.value),
        (MailingRunLine.result == RunResult.FAILED, LineFate.FAILED.value),
        *((told.c.rank == at, fate.value) for at, fate in enumerate(_OF_BILLS)),
        else_=LineFate.QUEUED.value,
    )
    return (
        select(MailingRunLine.id, fate.label("fate"))
        .outerjoin(told, told.c.line_id == MailingRunLine.id)
        .where(MailingRunLine.run_id == run_id)
    )
