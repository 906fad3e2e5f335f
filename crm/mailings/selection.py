"""A message to a selection: whoever was chosen in a grid is written to once, at once or at a moment of his branch's
clock. It is kept as a rule of one day and a run that has its lines from the first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from typing import Any

from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import Select, func, insert, select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.mailing_option import check_mailings
from crm.access.models import Branch
from crm.bell import ring
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.mailings.channels.sms import sms_length
from crm.mailings.models import (
    MailingKind,
    MailingRule,
    MailingRun,
    MailingRunLine,
    MailingWay,
    Periodicity,
    RunResult,
    RunStatus,
    Template,
)
from crm.mailings.operations import MAX_SMS_PARTS
from crm.mailings.rules import replace_ways
from crm.mailings.runs import EXECUTE_RUN, hold_rule
from crm.mailings.tags import check_seen, check_tags, check_template_for, check_text_for, hidden_tags, tags_told

# More at once are a matter of a rule: it finds them itself, and by the hundred.
MOST = 200_000
# Ids asked for at once while lines are written.
BATCH = 10_000


@dataclass(frozen=True)
class WrittenWay:
    """A channel and what is sent over it: a template, or without one a text of its own (subject: of letters alone)."""

    channel: Channel
    template: Template | None = None
    subject: str = ""
    text: str = ""


@dataclass(frozen=True)
class SelectionFacts:
    """A message to a selection as the form has it. once_on, send_time: by the clock of each branch; without a day it
    is sent at once.
    """

    name: str | None = None
    ways: Sequence[WrittenWay] = ()
    once_on: date | None = None
    send_time: time | None = None


def cards(clients: Select[Any]) -> Select[int]:
    """SELECT of the ids of those chosen, each once; `clients` gives ids, some of them many times. One merged into
    another is nobody's. The row scope leaves out whom the actor may not see.
    """
    return select(Client.id).where(Client.id.in_(clients), Client.merged_into_id.is_(None))


def branches_of(clients: Select[Any]) -> list[tuple[Branch, int]]:
    """Whose clients were chosen, and how many of each, in the order of the branches' ids."""
    counted = (
        select(Client.branch_id, func.count())
        .where(Client.id.in_(cards(clients)))
        .group_by(Client.branch_id)
        .order_by(Client.branch_id)
    )
    return [(db.session.get_one(Branch, id), number) for id, number in db.session.execute(counted)]


def checked(facts: SelectionFacts, *, by: Actor, kept: Collection[str] = ()) -> SelectionFacts:
    """The same with its texts trimmed. Raises DomainError beside the field: `name`, `once_on`, `send_time`; `way`,
    `template`, `subject`, `text` of the first way, `way_2` … of the second and so on. Texts written here hold no tag of
    what `by` does not see but for those `kept`, which were there; a template's may: who made it has decided that.
    """
    name = " ".join((facts.name or "").split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if facts.once_on is not None and facts.send_time is None:
        raise DomainError("time_required", _("Enter the time."), "send_time")
    if not facts.ways:
        raise DomainError("way_required", _("Choose a way of sending."), "way")
    ways, seen, hidden = list[WrittenWay](), set[Channel](), hidden_tags(by).difference(kept)
    for number, way in enumerate(facts.ways, 1):
        suffix = "" if number == 1 else f"_{number}"
        if way.channel in seen:
            raise DomainError("way_twice", _("This way of sending is chosen already."), f"way{suffix}")
        seen.add(way.channel)
        ways.append(_checked_way(way, suffix, hidden))
    return replace(facts, name=name, ways=ways)


def _checked_way(way: WrittenWay, suffix: str, hidden: Collection[str]) -> WrittenWay:
    is_letter = way.channel is Channel.EMAIL
    if way.template is not None:
        if (way.template.channel is Channel.EMAIL) is not is_letter:
            text = _("This template is for another way of sending.")
            raise DomainError("template_channel", text, f"template{suffix}")
        check_template_for(way.template, MailingKind.TEXT, field=f"template{suffix}")
        return WrittenWay(way.channel, way.template)
    subject, text = " ".join(way.subject.split()) if is_letter else "", way.text.strip().replace("\r\n", "\n")
    if is_letter and not subject:
        raise DomainError("subject_empty", _("Enter the subject of the letter."), f"subject{suffix}")
    if not text:
        raise DomainError("text_empty", _("Enter the text of the message, or choose a template."), f"text{suffix}")
    for field, own in (("subject", subject), ("text", text)):
        check_tags(own, field=f"{field}{suffix}")
        check_text_for(own, MailingKind.TEXT, field=f"{field}{suffix}")
        check_seen(own, hidden, field=f"{field}{suffix}")
    if way.channel is Channel.SMS and (parts := sms_length(text).parts) > MAX_SMS_PARTS:
        raise DomainError(
            "sms_too_long",
            _("This text takes %(parts)s SMS; %(most)s at most are sent.", parts=parts, most=MAX_SMS_PARTS),
            f"text{suffix}",
        )
    return WrittenWay(way.channel, None, subject, text)


def drafted(facts: SelectionFacts, branch: Branch, *, now: datetime) -> MailingRule:
    """The rule of the facts for the clients of one branch, not kept: a dry run looks by it."""
    rule = MailingRule(
        branch_id=branch.id,
        branch=branch,
        kind=MailingKind.TEXT,
        is_selected=True,
        periodicity=Periodicity.DAILY,
        statuses=[],
        client_kinds=[],
        attended_only=False,
        lesson_only=False,
        ways=_ways(facts),
    )
    _set(rule, facts, now=now)
    return rule


def _set(rule: MailingRule, facts: SelectionFacts, *, now: datetime) -> None:
    here = clock.local(now, rule.branch)
    rule.name = facts.name or ""
    rule.once_on = facts.once_on or here.date()
    at = facts.send_time if facts.once_on is not None and facts.send_time is not None else here.time()
    rule.send_time = at.replace(second=0, microsecond=0)


def _ways(facts: SelectionFacts) -> list[MailingWay]:
    return [
        MailingWay(position=position, channel=way.channel, template=way.template, subject=way.subject, body=way.text)
        for position, way in enumerate(facts.ways)
    ]


def mail_selection(facts: SelectionFacts, clients: Select[Any], *, by: Actor) -> list[MailingRun]:
    """Make the rule and the run of a message to the clients chosen, a pair for each of their branches; at once, their
    workers are rung for, else the sweep finds them when it is time. The caller commits.

    clients: SELECT of their ids; see cards(). Raises DomainError as checked() does, "mailings_off", "nobody",
    "too_many", "moment_past".
    """
    require(by, "mailingrule.create")
    facts, now = checked(facts, by=by), clock.now()
    branches = branches_of(clients)
    if not branches:
        raise DomainError(
            "nobody", _("Nobody is chosen: the clients have been archived by merging or moved meanwhile.")
        )
    if sum(number for _branch, number in branches) > MOST:
        text = ngettext(
            "%(num)s client at most is written to at once.", "%(num)s clients at most are written to at once.", MOST
        )
        raise DomainError("too_many", text)
    runs = []
    for branch, _number in branches:
        check_mailings(branch.id)
        rule = drafted(facts, branch, now=now)
        require(by, "mailingrule.create", rule)
        rule.created_at, rule.author_id = now, by.id
        db.session.add(rule)
        db.session.flush()
        is_now = facts.once_on is None
        run = MailingRun(
            branch_id=branch.id,
            rule_id=rule.id,
            planned_at=now if is_now else _moment(rule, now=now),
            is_manual=is_now,
            author_id=by.id,
        )
        db.session.add(run)
        db.session.flush()
        run.total = _write_lines(run, clients)
        if is_now:
            ring(EXECUTE_RUN, run.id)
        runs.append(run)
    db.session.flush()
    return runs


def check_moment(facts: SelectionFacts, branches: list[Branch]) -> None:
    """Raise DomainError "moment_past" where the day and time chosen have passed on the clock of one of the branches."""
    for branch in branches:
        if facts.once_on is not None and facts.send_time is not None:
            _future(clock.at(facts.once_on, facts.send_time, branch), now=clock.now())


def _moment(rule: MailingRule, *, now: datetime) -> datetime:
    assert rule.once_on is not None
    return _future(clock.at(rule.once_on, rule.send_time, rule.branch), now=now)


def _future(moment: datetime, *, now: datetime) -> datetime:
    if moment <= now:
        raise DomainError("moment_past", _("This moment has passed. Choose a later one, or send at once."), "send_time")
    return moment


def _write_lines(run: MailingRun, clients: Select[Any]) -> int:
    """A waiting line for each; asked for in batches through the session, which adds the row scope."""
    table: Any = MailingRunLine.__table__
    chosen = cards(clients).where(Client.branch_id == run.branch_id).order_by(Client.id).limit(BATCH)
    last = total = 0
    while ids := db.session.scalars(chosen.where(Client.id > last)).all():
        lines = [{"run_id": run.id, "client_id": id, "result": RunResult.WAITING, "reason": ""} for id in ids]
        db.session.execute(insert(table), lines)
        last, total = ids[-1], total + len(ids)
    return total


# --- before it has begun ---------------------------------------------------------------------------------------------


def planned_run(rule: MailingRule, *, is_held: bool = False) -> MailingRun | None:
    """The run of a rule of a selection while it waits for its moment; None when it has begun or was cancelled."""
    query = select(MailingRun).where(MailingRun.rule_id == rule.id, MailingRun.status == RunStatus.PLANNED)
    if is_held:
        query = query.with_for_update().execution_options(populate_existing=True)
    return db.session.scalar(query.order_by(MailingRun.id).limit(1))


def change_selection(rule: MailingRule, facts: SelectionFacts, *, by: Actor) -> MailingRule:
    """Change the name, the ways or the moment of a message to a selection; whom it is for stays. The caller commits.

    Raises DomainError as mail_selection() does, Conflict "run_begun" once its run has begun or was cancelled.
    """
    require(by, "mailingrule.edit", rule)
    kept = tags_told(*(text for way in rule.ways if way.template is None for text in way.text))
    facts, now = checked(facts, by=by, kept=kept), clock.now()
    hold_rule(rule)
    run = planned_run(rule, is_held=True)
    if run is None:
        raise Conflict("run_begun", begun_text())
    check_mailings(rule.branch_id)
    _set(rule, facts, now=now)
    replace_ways(rule, _ways(facts), by=by)
    if facts.once_on is None:
        run.planned_at, run.is_manual = now, True
        ring(EXECUTE_RUN, run.id)
    else:
        run.planned_at, run.is_manual = _moment(rule, now=now), False
    db.session.flush()
    return rule


def begun_text() -> str:
    """Why a message to a selection is not changed any more."""
    return _("This message has gone out to its selection, or was cancelled: it cannot be changed or sent again.")
