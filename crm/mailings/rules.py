"""Verbs on mailing rules: kept, with what they lack said beside the field; switched on and off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, time
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, require
from crm.access.fields import field_rules
from crm.access.models import Branch
from crm.audit.models import AuditAction
from crm.audit.operations import record
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import ClientKind, ClientStatus
from crm.contacts.models import Channel
from crm.db import MAX_AMOUNT, db
from crm.errors import DomainError
from crm.ledger.models import ACCOUNT_SUMS
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRule,
    MailingRun,
    MailingWay,
    Periodicity,
    PeriodType,
    PeriodUnit,
    Template,
    Term,
)
from crm.mailings.runs import UNDER_WAY
from crm.mailings.tags import check_template_for

MAX_DAYS = 366


@dataclass(frozen=True)
class Way:
    """A channel and the template of what is sent over it."""

    channel: Channel
    template: Template | None


@dataclass(frozen=True)
class RuleFacts:
    """A rule as the form has it; see MailingRule. What does not apply to the others is forgotten at saving."""

    name: str | None = None
    branch: Branch | None = None
    kind: MailingKind = MailingKind.BILLS
    is_active: bool = True
    method: BillingMethod = BillingMethod.SUBSCRIPTION
    accounts: BilledAccounts = BilledAccounts.ALL
    period_type: PeriodType = PeriodType.CURRENT
    period: PeriodUnit = PeriodUnit.MONTH
    term: Term = Term.UNLIMITED
    term_days: int | None = None
    is_repeatable: bool = False
    issues_again: bool = False
    subject: Subject | None = None
    lesson_type: LessonType | None = None
    lessons_from: int | None = None
    lessons_to: int | None = None
    money_from: Decimal | None = None
    money_to: Decimal | None = None
    days: int | None = None
    statuses: Sequence[ClientStatus] = (ClientStatus.ACTIVE,)
    client_kinds: Sequence[ClientKind] = ()
    attended_only: bool = False
    lesson_only: bool = False
    periodicity: Periodicity = Periodicity.DAILY
    send_time: time | None = None
    weekday: int | None = None
    month_day: int | None = None
    once_on: date | None = None
    ways: Sequence[Way] = ()


def applies(field: str, kind: MailingKind, method: BillingMethod, accounts: BilledAccounts, term: Term) -> bool:
    """Whether a field of RuleFacts means anything to a rule of this kind: the form shows it then, and it is kept."""
    if field in _OF_BILLS:
        return kind is MailingKind.BILLS
    if field in {"subject", "lesson_type"}:
        return kind is MailingKind.BILLS and accounts is BilledAccounts.SUBSCRIPTION
    if field in {"lessons_from", "lessons_to", "money_from", "money_to"}:
        return kind is MailingKind.BILLS and method is BillingMethod.SUBSCRIPTION
    if field == "term_days":
        return kind is MailingKind.BILLS and term is Term.DAYS
    if field == "days":
        return kind in {MailingKind.SUBSCRIPTION, MailingKind.LESSON, MailingKind.BIRTHDAY}
    return True


_OF_BILLS = frozenset({"method", "accounts", "period_type", "period", "term", "is_repeatable", "issues_again"})
_BLANK = RuleFacts()


def save_rule(rule: MailingRule | None, facts: RuleFacts, *, by: Actor) -> MailingRule:
    """Add a rule (None) or change one. Raises DomainError beside the field: beside `branch` "run_under_way" while a run
    of it is not over, which is of the branch the rule had. The caller commits.
    """
    require(by, "mailingrule.edit" if rule else "mailingrule.create", rule)
    name = " ".join((facts.name or "").split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    branch = facts.branch
    if branch is None:
        raise DomainError("branch_empty", _("Choose a branch."), "branch")
    _check_what(facts)
    _check_ranges_seen(rule, facts, by=by)
    _check_when(facts)
    _check_how(facts)
    if rule is not None and rule.branch_id != branch.id:
        _check_movable(rule)
    rule = rule or MailingRule(created_at=clock.now(), author_id=by.id)
    for field in fields(RuleFacts):
        if field.name in _ELSEWHERE:
            continue
        kept = applies(field.name, facts.kind, facts.method, facts.accounts, facts.term)
        setattr(rule, field.name, getattr(facts if kept else _BLANK, field.name))
    assert facts.send_time is not None
    has_days = applies("days", facts.kind, facts.method, facts.accounts, facts.term)
    rule.branch_id, rule.name, rule.days = branch.id, name, (facts.days or 0) if has_days else 0
    rule.statuses = [status.value for status in facts.statuses]
    rule.client_kinds = [kind.value for kind in facts.client_kinds]
    rule.send_time = facts.send_time.replace(second=0, microsecond=0)
    is_once = facts.once_on is not None
    rule.weekday = facts.weekday if facts.periodicity is Periodicity.WEEKLY and not is_once else None
    rule.month_day = facts.month_day if facts.periodicity is Periodicity.MONTHLY and not is_once else None
    db.session.add(rule)
    _set_ways(rule, facts.ways, by=by)
    db.session.flush()
    return rule


def _check_movable(rule: MailingRule) -> None:
    """No run of it is under way, nor begins until the caller commits: runs.py holds the rule, too."""
    db.session.execute(select(MailingRule.id).where(MailingRule.id == rule.id).with_for_update(key_share=True))
    under_way = select(MailingRun.id).where(MailingRun.rule_id == rule.id, MailingRun.status.in_(UNDER_WAY))
    if db.session.scalar(under_way.limit(1)) is not None:
        text = _(
            "A run of this mailing at %(branch)s is not over yet. Another branch can be chosen once it has ended or "
            "has been cancelled.",
            branch=rule.branch.name,
        )
        raise DomainError("run_under_way", text, "branch")


_ELSEWHERE = frozenset(
    {"name", "branch", "days", "statuses", "client_kinds", "send_time", "weekday", "month_day", "ways"}
)


def _set_ways(rule: MailingRule, ways: Sequence[Way], *, by: Actor) -> None:
    replace_ways(
        rule,
        [
            MailingWay(position=position, channel=way.channel, template=way.template, subject="", body="")
            for position, way in enumerate(ways)
        ],
        by=by,
    )


def replace_ways(rule: MailingRule, ways: Sequence[MailingWay], *, by: Actor) -> None:
    """Give a rule these ways of sending in place of its own, where they differ; its history tells so, of a new one as
    it is made. The caller commits.
    """
    if rule.id is None:
        rule.ways = list(ways)
        return
    if [_facts_of(way) for way in rule.ways] == [_facts_of(way) for way in ways]:
        return
    before, after = ([way.told for way in own] for own in (rule.ways, ways))
    rule.ways.clear()
    db.session.flush()  # the new ones may have their channels and places
    rule.version += 1  # by itself it would not notice ways: their table is another
    rule.ways = list(ways)
    db.session.flush()
    record(AuditAction.UPDATE, rule, {"ways": [before, after]}, by=by)


def _facts_of(way: MailingWay) -> tuple[Any, ...]:
    return way.channel, way.template, way.subject, way.body


def _check_what(facts: RuleFacts) -> None:
    if facts.kind is MailingKind.BILLS:
        if facts.term is Term.DAYS and (facts.term_days is None or not 1 <= facts.term_days <= MAX_DAYS):
            raise DomainError("term_invalid", _("The term is one day or more."), "term_days")
        for name in ("lessons", "money"):
            low, high = getattr(facts, f"{name}_from"), getattr(facts, f"{name}_to")
            if low is not None and high is not None and low > high:
                raise DomainError("range_invalid", _("The end of the range is below its beginning."), f"{name}_to")
            for field, bound in ((f"{name}_from", low), (f"{name}_to", high)):
                if bound is not None and abs(bound) > MAX_AMOUNT:
                    raise DomainError("range_invalid", _("This number is too big."), field)
    if facts.days is not None and not 0 <= facts.days <= MAX_DAYS:
        raise DomainError("days_invalid", _("Enter a number of days, 0 to %(most)s.", most=MAX_DAYS), "days")


def _check_ranges_seen(rule: MailingRule | None, facts: RuleFacts, *, by: Actor) -> None:
    """Whoever does not see what is left on an account could find it out by ranges that he narrows: he sets none, and
    keeps those there are.
    """
    hidden = {
        "money": bool(ACCOUNT_SUMS & field_rules(by, "account").hidden),
        "lessons": "lessons_left" in field_rules(by, "subscription").hidden,
    }
    for name in (f"{what}_{end}" for what, is_hidden in hidden.items() if is_hidden for end in ("from", "to")):
        if getattr(facts, name) not in (None, getattr(rule, name, None)):
            text = _("Your role does not see what is left on accounts, so it sets no such range.")
            raise DomainError("range_hidden", text, name)


def _check_when(facts: RuleFacts) -> None:
    if facts.send_time is None:
        raise DomainError("time_required", _("Enter the time."), "send_time")
    if facts.once_on is not None:
        return
    if facts.periodicity is Periodicity.WEEKLY and (facts.weekday is None or not 0 <= facts.weekday <= 6):
        raise DomainError("weekday_required", _("Choose the day of the week."), "weekday")
    if facts.periodicity is Periodicity.MONTHLY and (facts.month_day is None or not 1 <= facts.month_day <= 31):
        raise DomainError("month_day_required", _("Choose the day of the month, 1 to 31."), "month_day")


def _check_how(facts: RuleFacts) -> None:
    """Beside `way` and `template` of the first way, `way_2`, `template_2` of the second and so on."""
    if not facts.ways:
        raise DomainError("way_required", _("Choose a way of sending."), "way")
    seen = set[Channel]()
    for number, way in enumerate(facts.ways, 1):
        suffix = "" if number == 1 else f"_{number}"
        if way.channel in seen:
            raise DomainError("way_twice", _("This way of sending is chosen already."), f"way{suffix}")
        seen.add(way.channel)
        if way.template is None:
            text = _("Choose a template: without it no message is sent.")
            raise DomainError("template_required", text, f"template{suffix}")
        if (way.template.channel is Channel.EMAIL) is not (way.channel is Channel.EMAIL):
            text = _("This template is for another way of sending.")
            raise DomainError("template_channel", text, f"template{suffix}")
        check_template_for(way.template, facts.kind, field=f"template{suffix}")
