"""The payment forecast («Прогноз оплаты»): what the lessons planned until a day will take off an account, and so what
is to be paid onto it. forecast() is a pure function of facts; forecast_of() loads them for many accounts at once.

It says beforehand what marking everybody present will write off (schedule/attendance.py, subscriptions/coverage.py),
lesson by lesson in the order of time; a property test compares the two to the kopeck.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from flask_babel import gettext as _
from sqlalchemy import and_, or_, select

from crm import clock
from crm.access.models import Branch
from crm.bills.models import BillLineKind
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import Client
from crm.clients.names import first_name
from crm.db import amount as to_amount
from crm.db import db
from crm.i18n import day as shown_day
from crm.ledger.models import Account, AccountKind
from crm.schedule.models import Attendance, ClientGroup, Lesson, LessonStatus, Mark, Trial
from crm.subscriptions.coverage import IN_USE, taken_so_far
from crm.subscriptions.models import (
    ChargeMoment,
    Plan,
    PlanAccount,
    Subscription,
    SubscriptionFreeze,
    SubscriptionStatus,
    plan_lesson_type,
    plan_subject,
)

_ONE_DAY = timedelta(days=1)
_Own = TypeVar("_Own", "PlannedLesson", "Held", "Extra")  # what belongs to a client


# --- facts -----------------------------------------------------------------------------------------------------------


class Purse(NamedTuple):
    """Which account of a payer is meant: BASE in a branch, SUBSCRIPTION of one, or another."""

    kind: AccountKind
    of: int | None  # branch id, subscription id

    @classmethod
    def of_account(cls, account: Account) -> Purse:
        if account.kind is AccountKind.SUBSCRIPTION:
            return cls(account.kind, account.subscription_id)
        return cls(account.kind, account.branch_id if account.kind is AccountKind.BASE else account.id)


class PlannedLesson(NamedTuple):
    """Somebody at a lesson to come. day: in the branch of the lesson. has_trial: the family's one trial lesson is this;
    is_trial: it is to be; by_group: he comes as a member of the group.
    """

    attendance_id: int
    lesson_id: int
    client_id: int
    student: str
    title: str
    day: date
    branch_id: int
    lesson_type_id: int
    subject_id: int | None
    single_price: Decimal
    has_trial: bool = False
    is_trial: bool = False
    by_group: bool = False


@dataclass(frozen=True)
class Freeze:
    """Days of rest, both ends included; until None: it lasts. is_counted: the subscription's end has been moved on by
    it; one that is not does so when it is over.
    """

    from_on: date
    until: date | None
    is_counted: bool

    def rests(self, on: date) -> bool:
        return self.from_on <= on and (self.until is None or on <= self.until)

    def moves_end(self, on: date) -> timedelta:
        """By how much it will have moved the end on that day, besides what it has."""
        if self.is_counted or self.until is None or self.until >= on:
            return timedelta(0)
        return self.until - self.from_on + _ONE_DAY


@dataclass(frozen=True)
class Held:
    """A subscription as it is now. lessons: granted, None without a limit; left: of them; used, taken: lessons written
    off and money taken for them so far. lesson_types, subjects: good for these, for all when empty.
    """

    id: int
    client_id: int
    title: str
    purse: Purse
    starts_on: date
    ends_on: date
    cost: Decimal
    charge: ChargeMoment = ChargeMoment.AT_SALE
    lessons: int | None = None
    left: int = 0
    used: int = 0
    taken: Decimal = Decimal(0)
    lesson_types: frozenset[int] = frozenset()
    subjects: frozenset[int] = frozenset()
    freezes: tuple[Freeze, ...] = ()

    def last_day(self, on: date) -> date:
        """Its end, as it will be known on that day."""
        return sum((one.moves_end(on) for one in self.freezes), timedelta(0)) + self.ends_on

    def is_good_for(self, lesson: PlannedLesson) -> bool:
        return (
            self.starts_on <= lesson.day <= self.last_day(lesson.day)
            and (self.lessons is None or self.left > 0)
            and (not self.lesson_types or lesson.lesson_type_id in self.lesson_types)
            and (not self.subjects or lesson.subject_id in self.subjects)
            and not any(one.rests(lesson.day) for one in self.freezes)
        )

    @property
    def is_per_lesson(self) -> bool:
        return self.charge is ChargeMoment.PER_LESSON and bool(self.lessons)

    @property
    def next_price(self) -> Decimal:
        """What the next lesson takes: after lesson k of n, k/n of the cost have been taken."""
        if not self.is_per_lesson or not self.lessons:
            return Decimal(0)
        price = to_amount(self.cost * min(self.used + 1, self.lessons) / self.lessons) - self.taken
        return max(price, Decimal(0))

    def after_lesson(self) -> Held:
        if self.lessons is None:
            return self
        return replace(self, left=self.left - 1, used=self.used + 1, taken=self.taken + self.next_price)


@dataclass(frozen=True)
class Extra:
    """Lessons of a client that belong to no subscription; lesson_type_id None: good for any type."""

    id: int
    client_id: int
    lesson_type_id: int | None
    left: int


@dataclass(frozen=True)
class Family:
    """What is known of a payer and of those he pays for. lessons: to come, in the order of time. has_had_trial: its one
    trial lesson is held or planned; is_known: somebody has come, or bought something.
    """

    lessons: tuple[PlannedLesson, ...] = ()
    subscriptions: tuple[Held, ...] = ()
    extras: tuple[Extra, ...] = ()
    has_had_trial: bool = False
    is_known: bool = True

    def since(self, today: date) -> Family:
        return replace(self, lessons=tuple(one for one in self.lessons if one.day >= today))


# --- the forecast ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForecastLine:
    """A step of a sum, as models.BillLine keeps it."""

    kind: BillLineKind
    amount: Decimal
    day: date | None = None
    student: str = ""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Forecast:
    """What is to be paid. lines: what each lesson takes, in order, then the balance, when there is one; they add up to
    total, unless there is nothing to pay: then total is 0 and reason says why, in words.
    """

    lines: tuple[ForecastLine, ...]
    total: Decimal
    reason: str = ""

    @property
    def need(self) -> Decimal:
        """What the planned lessons will take off the account."""
        return sum((line.amount for line in self.lines if line.kind is not BillLineKind.BALANCE), Decimal(0))


def forecast(family: Family, purse: Purse, balance: Decimal, *, period_to: date) -> Forecast:
    """What is to be paid onto an account of the family's payer, so that it lasts for the lessons until period_to."""
    lines = [
        ForecastLine(BillLineKind.LESSON, off.amount, lesson.day, lesson.student[:200], lesson.title[:300], off.note)
        for lesson, off in write_offs(family)
        if off.purse == purse and lesson.day <= period_to
    ]
    need = sum((line.amount for line in lines), Decimal(0))
    if balance:
        said = _("Debt on the account") if balance < 0 else _("Already on the account")
        lines.append(ForecastLine(BillLineKind.BALANCE, -balance, title=said))
    total = max(Decimal(0), need - balance)
    reason = "" if total else _why_nothing(purse, lines, need, period_to)
    return Forecast(tuple(lines), total, reason)


def _why_nothing(purse: Purse, lines: Sequence[ForecastLine], need: Decimal, period_to: date) -> str:
    if purse.kind not in {AccountKind.BASE, AccountKind.SUBSCRIPTION}:
        return _("Nothing to pay: lessons are not written off from this account.")
    if not any(line.kind is BillLineKind.LESSON for line in lines):
        return _("Nothing to pay: no lessons are planned until %(day)s.", day=shown_day(period_to))
    if not need:
        return _("Nothing to pay: all the lessons until %(day)s are paid for.", day=shown_day(period_to))
    # Without the figures: not everybody who reads the protocol of a mailing sees balances.
    return _("Nothing to pay: what is on the account covers the lessons until %(day)s.", day=shown_day(period_to))


class WriteOff(NamedTuple):
    """What a lesson takes, off which account. note: by what it is covered, in words."""

    purse: Purse
    amount: Decimal
    note: str


def write_offs(family: Family) -> Iterator[tuple[PlannedLesson, WriteOff]]:
    """What each of the lessons will be written off from, when everybody comes to all of them."""
    held = {one.id: one for one in family.subscriptions}
    extras = {one.id: one for one in family.extras}
    own: dict[int, list[int]] = defaultdict(list)
    for subscription in family.subscriptions:
        own[subscription.client_id].append(subscription.id)
    has_had_trial, is_known = family.has_had_trial, family.is_known
    single_visit, by_subscription = _("Single visit"), _Notes()  # asked for once: a translation takes its time
    for _id, at_lesson in groupby(family.lessons, key=lambda one: one.lesson_id):
        lessons = list(at_lesson)
        free = {one.attendance_id for one in lessons if one.has_trial}
        # As trials.settle_trials(): the first of those who want it, or come new, has the one of the family.
        wanting = [one for one in lessons if one.is_trial or (one.by_group and not is_known)]
        if wanting and not has_had_trial:
            free.add(min(one.attendance_id for one in wanting))
            has_had_trial = True
        is_known = True
        for one in lessons:
            base = Purse(AccountKind.BASE, one.branch_id)
            if one.attendance_id in free:
                yield one, WriteOff(base, Decimal(0), _("Trial lesson, free of charge"))
                continue
            good = [held[id] for id in own[one.client_id] if held[id].is_good_for(one)]
            if good:
                chosen = min(good, key=lambda known: (known.last_day(one.day), known.id))
                held[chosen.id] = chosen.after_lesson()
                yield one, WriteOff(chosen.purse, chosen.next_price, by_subscription.of(chosen))
            elif extra := _extra_for(one, extras.values()):
                extras[extra.id] = replace(extra, left=extra.left - 1)
                yield one, WriteOff(base, Decimal(0), _("Covered by lessons added apart"))
            else:
                yield one, WriteOff(base, one.single_price, single_visit)


class _Notes:
    """By what a lesson is covered, in words."""

    def __init__(self) -> None:
        self._per_lesson = _("Lesson %(number)s of %(count)s, %(name)s")
        self._paid = _("Covered by %(name)s")

    def of(self, chosen: Held) -> str:
        if not chosen.is_per_lesson:
            return (self._paid % {"name": chosen.title})[:300]
        count = chosen.lessons or 1
        return (self._per_lesson % {"number": min(chosen.used + 1, count), "count": count, "name": chosen.title})[:300]


def _extra_for(lesson: PlannedLesson, extras: Iterable[Extra]) -> Extra | None:
    """Those of the lesson's type first, then those of any."""
    good = [
        one
        for one in extras
        if one.client_id == lesson.client_id and one.left > 0 and one.lesson_type_id in {lesson.lesson_type_id, None}
    ]
    return min(good, key=lambda one: (one.lesson_type_id is None, one.id), default=None)


# --- loading ---------------------------------------------------------------------------------------------------------


def forecast_of(accounts: Sequence[Account], *, period_to: date) -> dict[int, Forecast]:
    """The forecasts of many accounts, by account id, each from today of its branch on; as many statements for one as
    for hundreds. What is out of the row scope is not seen, as who marks there does not see it.
    """
    return dict(zip((one.id for one in accounts), forecasts(accounts, period_to=period_to), strict=True))


def forecasts(accounts: Sequence[Account], *, period_to: date) -> list[Forecast]:
    """forecast_of(), in the order given. An account that is not made yet (id None) is an empty one."""
    if not accounts:
        return []
    zones = {branch.id: branch for branch in db.session.scalars(select(Branch))}
    # Asked of the database: what the session knows may be older than the locks of who issues bills.
    balances: Any = select(Account.id, Account.balance).where(Account.id.in_([one.id for one in accounts if one.id]))
    known: dict[int, Decimal] = dict(db.session.execute(balances).all())
    todays = {one.branch_id: clock.today(zones[one.branch_id]) for one in accounts}
    payers = {one.client_id for one in accounts if one.client_id is not None}
    families = _families(payers, zones, since=min(todays.values()), until=period_to)
    return [
        forecast(
            families.get(one.client_id or 0, Family()).since(todays[one.branch_id]),
            Purse.of_account(one),
            known.get(one.id, Decimal(0)),
            period_to=period_to,
        )
        for one in accounts
    ]


def _families(
    payer_ids: Collection[int], zones: Mapping[int, Branch], *, since: date, until: date
) -> dict[int, Family]:
    """The facts of payers and of those they pay for, by payer: lessons from one day to the other."""
    people = _people(payer_ids)
    lessons = _lessons(people, zones, since, until)
    held, extras = _held(people, since), _extras(people)
    newcomers = {people[one.client_id] for one in lessons if one.by_group or one.is_trial}
    with_trial, known = _known_families(newcomers)
    planned, sold, apart = _by_payer(lessons, people), _by_payer(held, people), _by_payer(extras, people)
    return {
        payer_id: Family(
            tuple(planned.get(payer_id, ())),
            tuple(sold.get(payer_id, ())),
            tuple(apart.get(payer_id, ())),
            has_had_trial=payer_id in with_trial,
            is_known=payer_id in known,
        )
        for payer_id in payer_ids
    }


def _by_payer(rows: Iterable[_Own], people: Mapping[int, int]) -> dict[int, list[_Own]]:
    found: dict[int, list[_Own]] = defaultdict(list)
    for row in rows:
        found[people[row.client_id]].append(row)
    return found


def _people(payer_ids: Collection[int]) -> dict[int, int]:
    """{client id: payer id} of the payers and those they pay for."""
    query = select(Client.id, Client.payer_id).where(or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids)))
    # Who pays for himself is of his own family, whoever else asks.
    return {id: payer_id or id for id, payer_id in db.session.execute(query) if (payer_id or id) in set(payer_ids)}


def _lessons(people: Mapping[int, int], zones: Mapping[int, Branch], since: date, until: date) -> list[PlannedLesson]:
    # A day of any zone lies within these; which it is, is told below.
    begin = datetime.combine(since, time(), UTC) - _ONE_DAY
    end = datetime.combine(until, time(), UTC) + 2 * _ONE_DAY
    query = (
        select(
            Attendance.id.label("attendance_id"),
            *(Attendance.client_id, Attendance.is_trial, Attendance.by_group),
            Client.name.label("student"),
            Lesson.id.label("lesson_id"),
            *(Lesson.starts_at, Lesson.branch_id, Lesson.lesson_type_id, Lesson.subject_id),
            LessonType.single_price,
            LessonType.name.label("of_type"),
            Subject.name.label("of_subject"),
            ClientGroup.name.label("of_group"),
            Trial.id.label("trial_id"),
        )
        .select_from(Attendance)
        .join(Lesson, Lesson.id == Attendance.lesson_id)
        .join(LessonType, LessonType.id == Lesson.lesson_type_id)
        .join(Client, Client.id == Attendance.client_id)
        .outerjoin(Subject, Subject.id == Lesson.subject_id)
        .outerjoin(ClientGroup, ClientGroup.id == Lesson.group_id)
        .outerjoin(Trial, Trial.attendance_id == Attendance.id)
        .where(
            Attendance.client_id.in_(people),
            Attendance.mark == Mark.PLANNED,
            Lesson.status == LessonStatus.PLANNED,
            Lesson.starts_at >= begin,
            Lesson.starts_at < end,
        )
        .order_by(Lesson.starts_at, Lesson.id, Attendance.id)
    )
    found = []
    days: dict[tuple[datetime, int], date] = {}  # a group begins at once
    for row in db.session.execute(query):
        begins = row.starts_at, row.branch_id
        if (on := days.get(begins)) is None:
            on = days[begins] = clock.local(row.starts_at, zones[row.branch_id]).date()
        if since <= on <= until:
            found.append(
                PlannedLesson(
                    row.attendance_id,
                    row.lesson_id,
                    row.client_id,
                    first_name(row.student),
                    row.of_group or row.of_subject or row.of_type,
                    on,
                    row.branch_id,
                    row.lesson_type_id,
                    row.subject_id,
                    row.single_price,
                    has_trial=row.trial_id is not None,
                    is_trial=row.is_trial,
                    by_group=row.by_group,
                )
            )
    return found


def _held(people: Mapping[int, int], since: date) -> list[Held]:
    """Subscriptions that are in use; one that is over may be moved on by a freeze that ends."""
    lessons = and_(Account.subscription_id == Subscription.id, Account.kind == AccountKind.LESSONS)
    columns = (
        *(Subscription.id, Subscription.client_id, Subscription.plan_id, Subscription.branch_id, Subscription.account),
        *(Subscription.starts_on, Subscription.ends_on, Subscription.charge, Subscription.lessons),
        *(Subscription.price, Subscription.discount, Subscription.frozen_on),
    )
    rows = db.session.execute(
        select(*columns, Plan.name.label("title"), Account.balance)
        .join(Plan, Plan.id == Subscription.plan_id)
        .outerjoin(Account, lessons)
        .where(
            Subscription.client_id.in_(people),
            Subscription.status.in_(IN_USE),
            or_(Subscription.ends_on >= since, Subscription.status == SubscriptionStatus.FROZEN),
        )
    ).all()
    freezes: dict[int, list[Freeze]] = defaultdict(list)
    ids, plans = [row.id for row in rows], {row.plan_id for row in rows}
    for freeze in db.session.scalars(select(SubscriptionFreeze).where(SubscriptionFreeze.subscription_id.in_(ids))):
        rest = Freeze(freeze.from_on, freeze.until_on or freeze.planned_until, freeze.until_on is not None)
        freezes[freeze.subscription_id].append(rest)
    types = _good_for(plan_lesson_type.c.lesson_type_id, plans)
    subjects = _good_for(plan_subject.c.subject_id, plans)
    taken = taken_so_far([row.id for row in rows if row.charge is ChargeMoment.PER_LESSON])
    found = []
    for row in rows:
        is_separate = row.account is PlanAccount.SEPARATE
        used, money_taken = taken.get(row.id, (0, Decimal(0)))
        found.append(
            Held(
                row.id,
                row.client_id,
                row.title,
                Purse(AccountKind.SUBSCRIPTION, row.id) if is_separate else Purse(AccountKind.BASE, row.branch_id),
                row.starts_on,
                row.ends_on,
                row.price - row.discount,
                row.charge,
                row.lessons,
                int(row.balance or 0),
                used,
                money_taken,
                types.get(row.plan_id, frozenset()),
                subjects.get(row.plan_id, frozenset()),
                tuple(freezes[row.id]),
            )
        )
    return found


def _good_for(column: Any, plan_ids: Collection[int]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for plan_id, id in db.session.execute(
        select(column.table.c.plan_id, column).where(column.table.c.plan_id.in_(plan_ids))
    ):
        found[plan_id].add(id)
    return {plan_id: frozenset(ids) for plan_id, ids in found.items()}


def _extras(people: Mapping[int, int]) -> list[Extra]:
    query = select(Account.id, Account.client_id, Account.lesson_type_id, Account.balance).where(
        Account.client_id.in_(people),
        Account.kind == AccountKind.LESSONS,
        Account.subscription_id.is_(None),
        Account.balance > 0,
    )
    rows = db.session.execute(query)
    return [Extra(id, client_id or 0, type_id, int(left)) for id, client_id, type_id, left in rows]


def _known_families(payer_ids: Collection[int]) -> tuple[set[int], set[int]]:
    """Of these families: those whose trial lesson is held or planned, and those that have come or bought before, as
    trials.newcomers() asks.
    """
    with_trial = set(db.session.scalars(select(Trial.payer_id).where(Trial.payer_id.in_(payer_ids))))
    person: Any = select(Client.id, Client.payer_id).where(
        or_(Client.id.in_(payer_ids), Client.payer_id.in_(payer_ids))
    )
    bought = person.join(Subscription, Subscription.client_id == Client.id).where(
        Subscription.status != SubscriptionStatus.CANCELED
    )
    came = person.join(Attendance, Attendance.client_id == Client.id).where(Attendance.mark == Mark.PRESENT)
    known = {payer_id or id for query in (bought, came) for id, payer_id in db.session.execute(query.distinct()).all()}
    return with_trial, known
