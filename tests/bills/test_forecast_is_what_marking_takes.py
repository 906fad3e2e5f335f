"""Whatever a family has bought, the forecast says beforehand what marking everybody present takes, to the kopeck."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.forecast import forecast_of
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import Client
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post
from crm.schedule.attendance import mark_attendance
from crm.schedule.enrolment import enrol
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.schedule.trials import plan_trial
from crm.subscriptions.freezing import due_freezes, freeze_subscription, keep_freeze
from crm.subscriptions.models import ChargeMoment, PlanAccount
from tests.factories import (
    make_child,
    make_client,
    make_group,
    make_lesson,
    make_lesson_type,
    make_plan,
    make_subject,
    make_subscription,
)

TODAY = date(2027, 1, 25)  # so that the end of a month lies amid the days
DAYS = 14
UNTIL = TODAY + timedelta(days=DAYS)


def at(day: int, hour: int = 9) -> datetime:
    return datetime(TODAY.year, TODAY.month, TODAY.day, hour, tzinfo=UTC) + timedelta(days=day)


class World:
    """A family drawn by chance: what it has bought, and where it is expected."""

    def __init__(self, network: Any, seed: int) -> None:
        self.dice = random.Random(seed)
        self.network = network
        self.types = [make_lesson_type(single_price=Decimal(self.dice.choice([0, 500, 70033])) / 100) for _ in range(2)]
        self.subjects = [make_subject() for _ in range(2)]
        self.payer = make_client(network.lesnoy)
        self.family = [self.payer, *(make_child(self.payer) for _ in range(self.dice.randint(0, 2)))]
        for student in self.family:
            for _ in range(self.dice.choice([0, 0, 1, 2, 3])):
                self._buy(student)
            if self.dice.random() < 0.4:
                self._grant(student, self.dice.choice([None, self.types[0]]))
        group = make_group(network.lesnoy)
        # Some are marked at once, so that something has been taken already.
        for day in (0, 0, *(self.dice.randint(0, DAYS - 1) for _ in range(10))):
            self._plan(day, group)
        if self.dice.random() < 0.5:
            self._trial()

    def _buy(self, student: Client) -> None:
        dice = self.dice
        charge = dice.choice(list(ChargeMoment))
        lessons: int | None = dice.randint(1, 6)
        if charge is ChargeMoment.AT_SALE and dice.random() < 0.2:
            lessons = None
        plan = make_plan(
            price=Decimal(dice.randint(0, 500_000)) / 100,
            lessons=lessons,
            charge=charge,
            account=dice.choice(list(PlanAccount)),
            duration_days=dice.randint(3, 20),
        )
        with transaction():
            plan.lesson_types = dice.choice([[], [], self.types[:1], self.types])
            plan.subjects = dice.choice([[], [], self.subjects[:1]])
        sold = make_subscription(
            student,
            plan,
            starts_on=TODAY + timedelta(days=dice.randint(-2, 4)),
            discount=(plan.price * dice.randint(0, 30) / 100).quantize(Decimal("0.01")),
        )
        if dice.random() < 0.4:
            from_on = sold.starts_on + timedelta(days=dice.randint(0, (sold.ends_on - sold.starts_on).days))
            until_on = from_on + timedelta(days=dice.randint(0, 5)) if dice.random() < 0.8 else None
            with transaction():
                freeze_subscription(sold, from_on=from_on, until_on=until_on, by=SYSTEM)

    def _grant(self, student: Client, of_type: LessonType | None) -> None:
        count = Decimal(self.dice.randint(1, 3))
        with transaction():
            account = lessons_account(student.id, student.branch_id, of_type.id if of_type else None)
            granted = house_account(AccountKind.SERVICE, student.branch_id, Unit.LESSON)
            lines = [Line(account, count), Line(granted, -count)]
            post(TransactionKind.GRANT, lines, branch_id=student.branch_id, by=SYSTEM)

    def _plan(self, day: int, group: Any) -> Lesson:
        subject: Subject | None = self.dice.choice([None, *self.subjects])
        lesson = make_lesson(
            self.network.lesnoy,
            lesson_type=self.dice.choice(self.types),
            subject=subject,
            group_id=group.id,
            starts_at=at(day, self.dice.randint(9, 16)),
        )
        with transaction():
            for student in self.family:
                if self.dice.random() < 0.7:
                    enrol(lesson, student, by=SYSTEM, by_group=self.dice.random() < 0.5)
        return lesson

    def _trial(self) -> None:
        lesson = make_lesson(self.network.lesnoy, lesson_type=self.types[0], starts_at=at(2, 17))
        with transaction():
            plan_trial(self.family[-1], lesson, by=SYSTEM)

    def mark(self, lesson: Lesson) -> None:
        with transaction():
            expected = [one.id for one in lesson.attendances if one.mark is Mark.PLANNED]
            mark_attendance(lesson, dict.fromkeys(expected, Mark.PRESENT), by=SYSTEM)

    def to_come(self) -> list[Lesson]:
        query = (
            select(Lesson)
            .where(
                Lesson.status == LessonStatus.PLANNED,
                select(Attendance.id)
                .where(Attendance.lesson_id == Lesson.id, Attendance.mark == Mark.PLANNED)
                .exists(),
            )
            .order_by(Lesson.starts_at, Lesson.id)
        )
        return list(db.session.scalars(query))


def taken() -> dict[int, Decimal]:
    """What lessons have taken so far, by money account of a client."""
    query = (
        select(Entry.account_id, -func.sum(Entry.amount, type_=Entry.amount.type))
        .join(Account, Account.id == Entry.account_id)
        .join(Transaction, Transaction.id == Entry.transaction_id)
        .where(Transaction.kind == TransactionKind.LESSON, Account.unit == Unit.MONEY, Account.client_id.is_not(None))
        .group_by(Entry.account_id)
    )
    return dict(db.session.execute(query).all())


@pytest.mark.spec("B13", "X19")
@pytest.mark.parametrize("seed", range(10))
def test_the_need_is_what_marking_takes(network: Any, seed: int) -> None:
    with clock.frozen(at(0)):
        world = World(network, seed)
        for lesson in world.to_come()[: world.dice.randint(0, 2)]:
            if clock.local(lesson.starts_at, network.lesnoy).date() == TODAY:
                world.mark(lesson)
        with transaction():
            base_account(world.payer.id, network.lesnoy.id)
        accounts = list(
            db.session.scalars(select(Account).where(Account.client_id == world.payer.id, Account.unit == Unit.MONEY))
        )
        foreseen = forecast_of(accounts, period_to=UNTIL)
        assert sum(len(one.lines) for one in foreseen.values()) > 0
        before = taken()
        balances = {one.id: one.balance for one in accounts}
    for day in range(DAYS + 1):
        with clock.frozen(at(day, 8)):
            for subscription_id in due_freezes():
                with transaction():
                    keep_freeze(subscription_id)
            for lesson in world.to_come():
                if lesson.starts_at < at(day + 1, 0):
                    world.mark(lesson)
    after = taken()
    assert {id for id in after if id not in foreseen} == set()
    for account in accounts:
        found = foreseen[account.id]
        assert found.need == after.get(account.id, Decimal(0)) - before.get(account.id, Decimal(0))
        assert found.total == max(Decimal(0), found.need - balances[account.id])
        if found.total:
            assert sum(line.amount for line in found.lines) == found.total
