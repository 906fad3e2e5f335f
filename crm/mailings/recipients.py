"""Whom a rule is for on a day: one SELECT of client ids for each kind of mailing, written as the lines of a run by the
database itself, however many they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    exists,
    extract,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import aliased, joinedload

from crm import clock
from crm.clients.models import Client, ClientKind, ClientStatus
from crm.contacts.models import Channel, MessageChoice, MessageKind
from crm.contacts.queries import reach
from crm.db import db
from crm.debts.queries import in_debt
from crm.ledger.models import Account, AccountKind, Entry, Transaction
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRule,
    MailingRun,
    MailingRunLine,
    MailingWay,
    PeriodType,
    PeriodUnit,
    RunResult,
)
from crm.mailings.providers import channels_of
from crm.mailings.schedule import month_of
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.subscriptions.models import PlanAccount, Subscription, SubscriptionStatus, plan_lesson_type, plan_subject

# «Был на уроках за 30 дней»: the day itself and so many before it.
ATTENDED_DAYS = 30


def period_of(rule: MailingRule, day: date) -> tuple[date, date]:
    """First and last day of what a rule bills when it runs on `day`: the day, week (from Monday) or month it lies in;
    PeriodType.NEXT: that and the one after it.
    """
    is_longer = rule.period_type is PeriodType.NEXT
    if rule.period is PeriodUnit.DAY:
        return day, day + timedelta(days=int(is_longer))
    if rule.period is PeriodUnit.WEEK:
        begin = day - timedelta(days=day.weekday())
        return begin, begin + timedelta(days=13 if is_longer else 6)
    begin, end = month_of(day)
    return begin, month_of(end + timedelta(days=1))[1] if is_longer else end


def write_lines(run: MailingRun, day: date) -> int:
    """Write a waiting line for everybody the run's rule is for on `day`, its planned one at the branch, and who has
    none yet (a run that an upgrade has interrupted has lines of those who are done); how many lines there are.

    In one statement: none of them comes to us. The caller commits.
    """
    there = select(MailingRunLine.client_id).where(MailingRunLine.run_id == run.id)
    chosen = recipients(run.rule, day).where(Client.id.not_in(there)).subquery()
    lines = select(literal(run.id), chosen.c.id, literal(RunResult.WAITING.value), literal("")).order_by(chosen.c.id)
    table: Any = MailingRunLine.__table__
    db.session.execute(insert(table).from_select(["run_id", "client_id", "result", "reason"], lines))
    return db.session.scalar(select(func.count()).where(MailingRunLine.run_id == run.id)) or 0


def still_meant(rule: MailingRule, day: date, client_ids: Collection[int]) -> set[int]:
    """Those of these clients the rule is for, asked again when it is their turn."""
    return set(db.session.scalars(recipients(rule, day, client_ids)))


def recipients(rule: MailingRule, day: date, client_ids: Collection[int] | None = None) -> Select[int]:
    """SELECT of the ids of those a rule is for on `day` of its branch: payers, with bills and debts; whoever the
    message is for, with the others. client_ids: only of these.

    Whom a run will leave out when it comes to them (an earlier bill, nothing to pay, no address) is among them: its
    protocol tells why.
    """
    query = select(Client.id).where(*_cards(rule), _OF_KIND[rule.kind](rule, day))
    if rule.attended_only:
        begin = clock.at(day - timedelta(days=ATTENDED_DAYS), time(), rule.branch)
        query = query.where(_family_has(begin, _end_of(rule, day), Attendance.mark == Mark.PRESENT))
    if rule.lesson_only:
        is_on = and_(Attendance.mark != Mark.CANCELED, Lesson.status != LessonStatus.CANCELED)
        query = query.where(_family_has(clock.at(day, time(), rule.branch), _end_of(rule, day), is_on))
    if client_ids is not None:
        query = query.where(Client.id.in_(client_ids))
    return query


def _cards(rule: MailingRule) -> list[ColumnElement[bool]]:
    """Conditions on cards: of these statuses and kinds; one merged into another is nobody's."""
    asked: list[ColumnElement[bool]] = [Client.merged_into_id.is_(None)]
    if rule.statuses:
        asked.append(Client.status.in_([one for one in ClientStatus if one.value in rule.statuses]))
    if rule.client_kinds:
        asked.append(Client.kind.in_([one for one in ClientKind if one.value in rule.client_kinds]))
    return asked


def _end_of(rule: MailingRule, day: date) -> datetime:
    return clock.at(day + timedelta(days=1), time(), rule.branch)


def _family_has(begin: datetime, end: datetime, is_so: ColumnElement[bool]) -> ColumnElement[bool]:
    """Condition: the client, or somebody he pays for, is at a lesson within [begin, end) that is so."""
    person = aliased(Client)
    found: Any = (
        select(Attendance.client_id, person.payer_id)
        .join(Lesson, Lesson.id == Attendance.lesson_id)
        .join(person, person.id == Attendance.client_id)
        .where(Lesson.starts_at >= begin, Lesson.starts_at < end, is_so)
        .subquery()
    )
    paid_for = select(found.c.payer_id).where(found.c.payer_id.is_not(None))
    return Client.id.in_(union_all(select(found.c.client_id), paid_for))


# --- what is told, and over which way -------------------------------------------------------------------------------


def channels_to(rule: MailingRule) -> dict[Channel, MailingWay]:
    """What the rule's messages go over, in the order it is tried, and the way whose text is sent there: where the
    company has WhatsApp, it is tried before SMS with the text of the latter.
    """
    found: dict[Channel, MailingWay] = {}
    for way in rule.ways:
        for channel in channels_of(rule.branch.company_id, way.channel):
            found.setdefault(channel, way)
    return found


def way_to(
    rule: MailingRule, clients: Sequence[Client], channels: Sequence[Channel] | None = None
) -> dict[int, tuple[Channel, str] | str]:
    """By client id: the first of `channels` (None: all the rule's) that reaches him and the address there, or why none
    does. Somebody without an address of his own is reached by his payer. As many statements for one as for hundreds.
    """
    kind = rule.kind.message_kind
    if channels is None:
        channels = list(channels_to(rule))
    found = reach(clients, kind, channels)
    payers = _payers_of([one for one in clients if isinstance(found[one.id], str)], kind)
    if payers:
        by_payer = reach(list({one.id: one for one in payers.values()}.values()), kind, channels)
        found |= {id: by_payer[payer.id] for id, payer in payers.items()}
    return found


def _payers_of(clients: Sequence[Client], kind: MessageKind) -> dict[int, Client]:
    """Who pays for each of these, by client id: of those who have somebody, and have not forbidden such messages."""
    payer_ids = {one.id: one.payer_id for one in clients if one.payer_id is not None}
    if not payer_ids:
        return {}
    forbidding = select(MessageChoice.client_id).where(
        MessageChoice.client_id.in_(sorted(payer_ids)), MessageChoice.kind == kind, ~MessageChoice.is_allowed
    )
    forbidden = set(db.session.scalars(forbidding))
    cards = select(Client).where(Client.id.in_(sorted(set(payer_ids.values()))))
    payers = {one.id: one for one in db.session.scalars(cards)}
    return {id: payers[payer_id] for id, payer_id in payer_ids.items() if id not in forbidden}


def told_to(rule: MailingRule, day: date, client_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """What a reminder tells each of these clients, by client id, as tags.render() takes it: his debt in the branch, the
    subscriptions that run out, the lessons of the day. In one statement; nothing for the other kinds.
    """
    found: dict[int, dict[str, Any]] = {}
    if rule.kind is MailingKind.DEBT:
        debts = (
            select(Account.client_id, func.sum(-Account.balance, type_=Account.balance.type))
            .where(in_debt(), Account.branch_id == rule.branch_id, Account.client_id.in_(client_ids))
            .group_by(Account.client_id)
        )
        return {client_id: {"debt": debt} for client_id, debt in db.session.execute(debts) if client_id is not None}
    if rule.kind is MailingKind.SUBSCRIPTION:
        sold = (
            select(Subscription)
            .where(Subscription.client_id.in_(client_ids), _living(rule, day))
            .where(
                or_(
                    Subscription.ends_on <= day + timedelta(days=rule.days),
                    and_(Subscription.lessons > 0, Subscription.lessons_left == 0),
                )
            )
            .options(joinedload(Subscription.plan))
            .order_by(Subscription.ends_on, Subscription.id)
        )
        for one in db.session.scalars(sold.execution_options(populate_existing=True)):
            found.setdefault(one.client_id, {"subscriptions": []})["subscriptions"].append(one)
    elif rule.kind is MailingKind.LESSON:
        comes = (
            select(Attendance.client_id, Lesson)
            .join(Lesson, Lesson.id == Attendance.lesson_id)
            .where(Attendance.client_id.in_(client_ids), *_is_expected(rule, day + timedelta(days=rule.days)))
            .options(joinedload(Lesson.subject), joinedload(Lesson.lesson_type), joinedload(Lesson.group))
            .order_by(Lesson.starts_at, Lesson.id)
        )
        for client_id, lesson in db.session.execute(comes):
            found.setdefault(client_id, {"lessons": []})["lessons"].append(lesson)
    return found


# --- by kind ---------------------------------------------------------------------------------------------------------


def _billed(rule: MailingRule, day: date) -> ColumnElement[bool]:
    """By the cost: payers of an active subscription of the period. By the forecast: payers of somebody with a lesson
    to come in it, with a subscription that lasts into it, or with a debt: what is to be paid, the forecast tells.
    """
    student = aliased(Client)
    payer = func.coalesce(student.payer_id, student.id)
    begin, end = period_of(rule, day)
    sold = (
        select(payer)
        .select_from(Subscription)
        .join(student, student.id == Subscription.client_id)
        .where(*billed_subscriptions(rule, begin, end))
    )
    if rule.method is BillingMethod.SUBSCRIPTION or rule.accounts is BilledAccounts.SUBSCRIPTION:
        return Client.id.in_(sold)
    owing = select(Account.client_id).where(
        in_debt(),
        Account.branch_id == rule.branch_id,
        Account.kind.in_([AccountKind.BASE, AccountKind.SUBSCRIPTION]),
    )
    comes = (
        select(payer)
        .select_from(Attendance)
        .join(Lesson, Lesson.id == Attendance.lesson_id)
        .join(student, student.id == Attendance.client_id)
        .where(
            Attendance.mark == Mark.PLANNED,
            Lesson.status == LessonStatus.PLANNED,
            Lesson.branch_id == rule.branch_id,
            Lesson.starts_at >= clock.at(day, time(), rule.branch),
            Lesson.starts_at < _end_of(rule, end),
        )
    )
    # Each IN of an OR would be asked card by card where PostgreSQL finds its rows too many to hash.
    return Client.id.in_(union_all(sold, owing, comes))


def billed_subscriptions(rule: MailingRule, begin: date, end: date) -> list[ColumnElement[bool]]:
    """Conditions on Subscription: a rule may bill it for the period. One that is good for any subject (type of
    lessons) is good for the rule's.
    """
    asked: list[ColumnElement[bool]] = [
        Subscription.branch_id == rule.branch_id,
        Subscription.status == SubscriptionStatus.ACTIVE,
        Subscription.starts_on <= end,
        Subscription.ends_on >= begin,
    ]
    if rule.accounts is BilledAccounts.BASE:
        asked.append(Subscription.account == PlanAccount.BASE)
    elif rule.accounts is BilledAccounts.SUBSCRIPTION and rule.method is BillingMethod.FORECAST:
        asked.append(Subscription.account == PlanAccount.SEPARATE)
    if rule.subject_id is not None:
        asked.append(_is_good_for(plan_subject.c.subject_id, rule.subject_id))
    if rule.lesson_type_id is not None:
        asked.append(_is_good_for(plan_lesson_type.c.lesson_type_id, rule.lesson_type_id))
    return asked


def _is_good_for(column: Any, id: int) -> ColumnElement[bool]:
    of_plan = select(column).where(column.table.c.plan_id == Subscription.plan_id).correlate(Subscription)
    return or_(~of_plan.exists(), of_plan.where(column == id).exists())


def _owing(rule: MailingRule, _day: date) -> ColumnElement[bool]:
    return Client.id.in_(select(Account.client_id).where(in_debt(), Account.branch_id == rule.branch_id))


def _running_out(rule: MailingRule, day: date) -> ColumnElement[bool]:
    """Whose subscription in the branch ends within the rule's days, or has no lesson left. Told once by a rule, however
    often it runs: not when he has been told since the day that began, or since the last lesson was taken off.
    """
    told = aliased(MailingRun)
    line = aliased(MailingRunLine)
    lessons = aliased(Account)
    is_told: Any = (
        exists()
        .where(
            line.client_id == Subscription.client_id,
            line.result == RunResult.ISSUED,
            line.run_id == told.id,
            told.rule_id == rule.id,
        )
        .correlate(Subscription)
    )
    living = _living(rule, day)
    # A day at a time: each has an instant of its own it is told since, and databases add no days to a column alike.
    ends = [
        and_(
            Subscription.ends_on == day + timedelta(days=ahead),
            ~is_told.where(told.planned_at >= clock.at(day + timedelta(days=ahead - rule.days), time(), rule.branch)),
        )
        for ahead in range(rule.days + 1)
    ]
    emptied = (
        select(func.max(Transaction.happened_at))
        .join(Entry, Entry.transaction_id == Transaction.id)
        .where(Entry.account_id == lessons.id)
        .correlate(lessons)
        .scalar_subquery()
    )
    used_up = (
        select(Subscription.client_id)
        .join(lessons, and_(lessons.subscription_id == Subscription.id, lessons.kind == AccountKind.LESSONS))
        .where(living, Subscription.lessons > 0, lessons.balance == 0)
        .where(
            ~exists()
            .where(
                line.client_id == Subscription.client_id,
                line.result == RunResult.ISSUED,
                line.run_id == told.id,
                told.rule_id == rule.id,
                line.done_at >= emptied,
            )
            .correlate(Subscription, lessons)
        )
    )
    ending = select(Subscription.client_id).where(living, or_(false(), *ends))
    return Client.id.in_(union_all(ending, used_up))


def _living(rule: MailingRule, day: date) -> ColumnElement[bool]:
    return and_(
        Subscription.branch_id == rule.branch_id,
        Subscription.status == SubscriptionStatus.ACTIVE,
        Subscription.starts_on <= day,
        Subscription.ends_on >= day,
    )


def _expected(rule: MailingRule, day: date) -> ColumnElement[bool]:
    on = day + timedelta(days=rule.days)
    comes = select(Attendance.client_id).join(Lesson, Lesson.id == Attendance.lesson_id).where(*_is_expected(rule, on))
    return Client.id.in_(comes)


def _is_expected(rule: MailingRule, on: date) -> list[ColumnElement[bool]]:
    """Conditions on a visit: it is to come on that day; of what has begun nobody is reminded."""
    return [
        Attendance.mark == Mark.PLANNED,
        Lesson.status == LessonStatus.PLANNED,
        Lesson.branch_id == rule.branch_id,
        Lesson.starts_at >= max(clock.at(on, time(), rule.branch), clock.now()),
        Lesson.starts_at < _end_of(rule, on),
    ]


def _born(rule: MailingRule, day: date) -> ColumnElement[bool]:
    """Who was born on 29 February is congratulated on the 28th when there is no 29th."""
    on = day + timedelta(days=rule.days)
    month, day_of = extract("month", Client.birth_date), extract("day", Client.birth_date)
    is_born = and_(month == on.month, day_of == on.day)
    if (on.month, on.day) == (2, 28) and (on + timedelta(days=1)).month == 3:
        is_born = and_(month == 2, day_of.in_([28, 29]))
    return and_(Client.branch_id == rule.branch_id, Client.birth_date.is_not(None), is_born)


def _of_branch(rule: MailingRule, _day: date) -> ColumnElement[bool]:
    """Payers: what is written to everybody reaches a family once."""
    return and_(Client.branch_id == rule.branch_id, Client.payer_id.is_(None))


_OF_KIND = {
    MailingKind.BILLS: _billed,
    MailingKind.DEBT: _owing,
    MailingKind.SUBSCRIPTION: _running_out,
    MailingKind.LESSON: _expected,
    MailingKind.BIRTHDAY: _born,
    MailingKind.TEXT: _of_branch,
}
