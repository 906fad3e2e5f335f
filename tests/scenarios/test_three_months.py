"""Three months of a centre with three branches in two time zones, and a spring in a zone whose clock is changed.

Lived through the panel day by day with a moved clock; a model of the test's own (centre.py) tells at every month's end,
and at the end, what each subscription, account and sum has to be.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.catalogue.models import LessonFormat
from crm.clients.models import Client
from crm.db import db, transaction
from crm.jobs.tasks import perform
from crm.ledger.models import AccountKind
from crm.schedule.groups import join_group, leave_group
from crm.schedule.models import ClientGroup, GroupMember, Lesson, LessonStatus, Mark
from crm.schedule.planning import LessonPlan, plan_lessons
from crm.schedule.recurrence import Recurrence, RepeatUnit
from crm.schedule.trials import plan_trial
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus
from tests.factories import make_child, make_client, make_group, make_lesson_type, make_plan
from tests.scenarios.centre import OFF, Centre, Sold

FIRST, LAST = date(2026, 1, 5), date(2026, 4, 5)
HOUR = time(18)
CHANCES = ((Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED), (70, 12, 18))


class Branchful:
    """Those of one branch: who attends, and what each buys whenever nothing he has is good for the group."""

    def __init__(
        self, centre: Centre, branch: Branch, plans: dict[str, Plan], types: Any, chance: random.Random
    ) -> None:
        self.centre, self.branch, self.plans, self.types, self.chance = centre, branch, plans, types, chance
        payer = make_client(branch)
        self.students = [
            *(payer, make_child(payer), make_child(payer)),
            *(make_client(branch), make_client(branch), make_client(branch)),
        ]
        self.buys = [plans[name] for name in ("eight", "sevenths", "own", "unlimited", "own thirds")]
        self.group: ClientGroup = make_group(branch, lesson_type_id=types["group"].id)
        with transaction():
            for student in self.students:
                join_group(self.group, student, by=SYSTEM)
            rule = Recurrence(FIRST, HOUR, 60, weekdays=(1, 3), until=LAST)
            plan_lessons(LessonPlan(branch, rule, types["group"], group=self.group), by=SYSTEM)
            alone = Recurrence(date(2026, 1, 31), time(10), 45, unit=RepeatUnit.MONTH, count=3)
            plan_lessons(LessonPlan(branch, alone, types["alone"], client=self.students[0]), by=SYSTEM)

    def live(self, day: date) -> None:
        """Noon: who has nothing for today buys; evening: who came is marked; on Fridays debts and marks are mended."""
        lessons = self.lessons_of(day)
        with clock.frozen(clock.at(day, time(12), self.branch)):
            if any(lesson.group_id for lesson in lessons):
                self.sell_what_is_missing(day)
            if day.weekday() == 4:
                self.pay_debts()
                self.mend_marks(day)
        with clock.frozen(clock.at(day, time(20), self.branch)):
            for lesson in lessons:
                there = [one.client_id for one in lesson.attendances if one.mark is Mark.PLANNED]
                is_first = day < FIRST + timedelta(days=3)
                marks = {id: Mark.PRESENT if is_first else self.any_mark() for id in there}
                self.centre.mark(lesson, marks, then="hold")

    def lessons_of(self, day: date) -> list[Lesson]:
        begin = clock.at(day, time(0), self.branch)
        query = select(Lesson).where(
            Lesson.branch_id == self.branch.id,
            Lesson.status == LessonStatus.PLANNED,
            Lesson.starts_at >= begin,
            Lesson.starts_at < begin + timedelta(days=1),
        )
        return list(db.session.scalars(query.order_by(Lesson.starts_at, Lesson.id)))

    def any_mark(self) -> Mark:
        return self.chance.choices(*CHANCES)[0]

    def sell_what_is_missing(self, day: date) -> None:
        for student, plan in zip(self.students, self.buys, strict=False):
            living = [
                sold for sold in self.centre.sold.values() if sold.student == student.id and self.lasts(sold, day)
            ]
            if not living:
                way = self.chance.choice(("debt", "cash"))
                off = self.chance.choice((Decimal(0), Decimal("99.99")))
                is_off = plan.account is PlanAccount.BASE
                self.centre.sell(
                    student,
                    plan,
                    way=way if plan.charge is ChargeMoment.AT_SALE else "debt",
                    discount=off if is_off else Decimal(0),
                )

    def lasts(self, sold: Sold, day: date) -> bool:
        """Whether it is good, or will be again after its freeze."""
        is_frozen = bool(sold.freezes) and (sold.freezes[-1][1] is None or sold.freezes[-1][1] >= day)
        return sold.is_living and (is_frozen or sold.covers(self.types["group"].id, day))

    def pay_debts(self) -> None:
        for payer in {student.payer_id or student.id: student for student in self.students}.values():
            owed = -self.centre.base[payer.payer_id or payer.id, self.branch.id]
            if owed > 0 and self.chance.random() < 0.5:
                self.centre.pay(payer, (owed / 2).quantize(Decimal("0.01")))
        for sold in list(self.centre.sold.values()):
            if sold.branch == self.branch.id and self.centre.own[sold.id] < 0 and sold.is_living:
                self.centre.pay(db.session.get_one(Client, sold.student), Decimal("1500.25"), sold)

    def mend_marks(self, day: date) -> None:
        """Two marks of the past weeks were wrong; a trial lesson stays what it was."""
        begin = clock.at(day, time(0), self.branch)
        query = select(Lesson).where(
            Lesson.group_id == self.group.id, Lesson.starts_at < begin, Lesson.starts_at > begin - timedelta(days=15)
        )
        for lesson in db.session.scalars(query.order_by(Lesson.id)).all()[::2]:
            one = self.chance.choice([one for one in lesson.attendances if one.mark is not Mark.CANCELED])
            source = self.centre.sources.get(one.id)
            is_over = source is not None and (source.is_free or (source.sold is not None and not source.sold.is_living))
            others = [mark for mark in (*OFF, Mark.EXCUSED) if mark is not one.mark]
            if not is_over:
                self.centre.mark(lesson, {one.client_id: self.chance.choice(others)})

    def sold_to(self, number: int) -> Sold:
        """The latest of a student that lives."""
        student = self.students[number]
        return [one for one in self.centre.sold.values() if one.student == student.id and one.is_living][-1]


def keep_freezes() -> None:
    """As the scheduler does in the night."""
    db.session.commit()
    perform("subscriptions.freezes")
    db.session.expire_all()


@pytest.fixture
def types(network: Any) -> dict[str, Any]:
    return {
        "group": make_lesson_type(),
        "alone": make_lesson_type(LessonFormat.INDIVIDUAL, single_price=Decimal("1500.55")),
    }


@pytest.fixture
def plans(types: Any) -> dict[str, Plan]:
    group = [types["group"]]
    return {
        "eight": make_plan(price=Decimal(4000), lessons=8, lesson_types=group),
        "sevenths": make_plan(price=Decimal("5000.01"), lessons=7, charge=ChargeMoment.PER_LESSON),
        "own": make_plan(price=Decimal("6100.50"), lessons=6, account=PlanAccount.SEPARATE, lesson_types=group),
        "unlimited": make_plan(price=Decimal(7900), lessons=None, lesson_types=group),
        "own thirds": make_plan(
            price=Decimal(1000), lessons=3, charge=ChargeMoment.PER_LESSON, account=PlanAccount.SEPARATE
        ),
        "twenty": make_plan(price=Decimal(9000), lessons=20, lesson_types=group),
    }


@pytest.mark.spec("C153", "E31", "X19")
def test_three_months_of_three_branches(network: Any, web: Any, types: Any, plans: Any) -> None:
    chance = random.Random(7)
    centre = Centre(network, web)
    with clock.frozen(datetime(2026, 1, 5, 6, tzinfo=UTC)):
        lesnoy, rechnoy, mira = branches = [
            Branchful(centre, branch, plans, types, chance)
            for branch in (network.lesnoy, network.rechnoy, network.mira)
        ]
        centre.set_discount(lesnoy.students[2], Decimal("300.33"))
        newcomer = make_child(mira.students[3])
    regional = web(network.regional, network.lesnoy)

    events = {
        (lesnoy, date(2026, 1, 15)): lambda day: centre.freeze(lesnoy.sold_to(0), day),
        (rechnoy, date(2026, 1, 16)): lambda day: centre.freeze(rechnoy.sold_to(2), day, day + timedelta(days=9)),
        (mira, date(2026, 1, 19)): lambda day: try_out(mira, newcomer, day),
        (mira, date(2026, 1, 31)): lambda day: centre.sell(newcomer, plans["eight"]),
        (lesnoy, date(2026, 1, 31)): lambda day: centre.resume(lesnoy.sold_to(0), day),
        (rechnoy, date(2026, 2, 4)): lambda day: centre.recalculate(rechnoy.sold_to(0), plans["twenty"]),
        (lesnoy, date(2026, 2, 11)): lambda day: centre.recalculate(
            lesnoy.sold_to(2), plans["twenty"], amount=Decimal("7777.77")
        ),
        (mira, date(2026, 2, 13)): lambda day: give_back(centre, mira, 2, "keep"),
        (mira, date(2026, 2, 20)): lambda day: give_back(centre, mira, 3, "cash"),
        (rechnoy, date(2026, 2, 25)): lambda day: centre.add_lessons(rechnoy.students[0], 2, sold=rechnoy.sold_to(0)),
        (lesnoy, date(2026, 2, 25)): lambda day: centre.add_lessons(lesnoy.students[5], 3, type_=types["group"]),
        (mira, date(2026, 2, 28)): lambda day: centre.cancel(centre.sell(mira.students[0], plans["twenty"])),
        (rechnoy, date(2026, 3, 1)): lambda day: leave(rechnoy, 4),
        (lesnoy, date(2026, 3, 11)): lambda day: centre.transfer_lessons(
            lesnoy.students[2], lesnoy.students[4], types["group"], 2, regional
        ),
    }
    day = FIRST
    while day <= LAST:
        with clock.frozen(datetime.combine(day, time(0, 5), UTC)):
            keep_freezes()
        for branch in branches:
            if (event := events.pop((branch, day), None)) is not None:
                with clock.frozen(clock.at(day, time(11), branch.branch)):
                    event(day)
            branch.live(day)
        if (day + timedelta(days=1)).day == 1:
            centre.agree()
        day += timedelta(days=1)
    assert events == {}
    with clock.frozen(datetime(2026, 4, 6, 9, tzinfo=UTC)):
        centre.agree()
    assert centre.used > 150
    assert centre.debts == {AccountKind.BASE, AccountKind.SUBSCRIPTION}
    assert {row.status for row in db.session.scalars(select(Subscription))} >= {
        *(SubscriptionStatus.ACTIVE, SubscriptionStatus.RETURNED, SubscriptionStatus.CANCELED)
    }
    alone = select(Lesson.starts_at).where(Lesson.lesson_type_id == types["alone"].id)
    starts = db.session.scalars(alone.where(Lesson.branch_id == network.mira.id).order_by(Lesson.starts_at))
    month_ends = [date(2026, 1, 31), date(2026, 2, 28), date(2026, 3, 31)]
    assert [clock.local(at, network.mira).date() for at in starts] == month_ends


def test_the_week_the_clock_is_changed(network: Any, web: Any, types: Any, plans: Any) -> None:
    """On 29 March Berlin skips from two to three: lessons keep their hour of the wall, days their midnight."""
    branch = network.lesnoy
    branch.time_zone = "Europe/Berlin"
    with transaction():
        student, sleeper = make_client(branch), make_client(branch)
    centre, sunday = Centre(network, web), date(2026, 3, 29)
    with clock.frozen(clock.at(date(2026, 2, 28), time(12), branch)):
        sold = centre.sell(student, plans["eight"])  # its thirtieth day is that Sunday
    with clock.frozen(clock.at(date(2026, 3, 27), time(12), branch)):
        frozen = centre.sell(sleeper, plans["eight"], way="cash")
        centre.freeze(frozen, date(2026, 3, 27), sunday)
        daily = [Recurrence(date(2026, 3, 28), at, 30, unit=RepeatUnit.DAY, count=3) for at in (HOUR, time(2, 30))]
        with transaction():
            for rule in daily:
                plan_lessons(LessonPlan(branch, rule, types["group"], client=student), by=SYSTEM)
            late = Recurrence(sunday, time(23, 40), 15, unit=RepeatUnit.DAY, count=2)
            plan_lessons(LessonPlan(branch, late, types["group"], client=sleeper), by=SYSTEM)
            plan_lessons(LessonPlan(branch, late, types["alone"], client=student), by=SYSTEM)
    hours = select(Lesson.starts_at).order_by(Lesson.starts_at)
    local = [
        clock.local(at, branch) for at in db.session.scalars(hours.where(Lesson.lesson_type_id == types["group"].id))
    ]
    assert sold.ends == sunday
    assert [f"{at:%d %H:%M}" for at in local] == [
        *("28 02:30", "28 18:00", "29 03:30", "29 18:00", "29 23:40", "30 02:30", "30 18:00", "30 23:40")
    ]
    with clock.frozen(datetime(2026, 3, 29, 21, 59, tzinfo=UTC)):  # a minute to midnight in summer time
        keep_freezes()
        assert db.session.get_one(Subscription, frozen.id).status is SubscriptionStatus.FROZEN
    with clock.frozen(datetime(2026, 3, 29, 22, 1, tzinfo=UTC)):
        keep_freezes()
        assert db.session.get_one(Subscription, frozen.id).status is SubscriptionStatus.ACTIVE
    with clock.frozen(datetime(2026, 3, 31, 9, tzinfo=UTC)):
        for lesson in db.session.scalars(select(Lesson).order_by(Lesson.starts_at)).all():
            marks = {one.client_id: Mark.PRESENT for one in lesson.attendances}
            centre.mark(lesson, marks, then="hold")
        centre.agree()
    assert (sold.used, frozen.used) == (4, 1)  # of the student's group lessons two are after his last day
    single = 2 * types["alone"].single_price + 2 * types["group"].single_price
    assert centre.base[student.id, branch.id] == -(sold.cost + single)
    assert centre.base[sleeper.id, branch.id] == -types["group"].single_price  # on Sunday it was frozen still


def try_out(branch: Branchful, student: Client, day: date) -> None:
    """A free lesson of the group, planned for the next time it meets."""
    lesson = branch.lessons_of(day + timedelta(days=(1 - day.weekday()) % 7))[0]
    with transaction():
        plan_trial(student, lesson, by=SYSTEM)


def leave(branch: Branchful, number: int) -> None:
    query = select(GroupMember).where(
        GroupMember.group_id == branch.group.id, GroupMember.client_id == branch.students[number].id
    )
    with transaction():
        leave_group(db.session.scalars(query).one(), by=SYSTEM)
    del branch.students[number + 1 :]
    branch.students.pop()


def give_back(centre: Centre, branch: Branchful, number: int, way: str) -> None:
    """Return what a student has, once nothing else is owed on its account."""
    sold = branch.sold_to(number)
    if not sold.is_separate:
        owed = -centre.base[sold.payer, sold.branch]
        if owed > 0:
            centre.pay(branch.students[number], owed)
    centre.give_back(sold, single_price=branch.types["group"].single_price, way=way)
