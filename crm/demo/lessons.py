"""What goes on in the classes of the small network: groups, their weeks, marks; what becomes of subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal

from sqlalchemy import select

from crm import clock
from crm.access.models import Branch
from crm.catalogue.models import Subject
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.db import db
from crm.demo.events import Family, Story
from crm.payments.models import PaymentMethod
from crm.payments.operations import top_up
from crm.sales.canceling import cancel_sale
from crm.sales.lessons import add_lessons, transfer_lessons, types_to_transfer
from crm.sales.recalculation import recalculate
from crm.sales.returning import ReturnWay, return_subscription
from crm.schedule.attendance import hold_lesson, mark_attendance
from crm.schedule.bookings import create_booking
from crm.schedule.groups import create_group, join_group
from crm.schedule.models import ClientGroup, Lesson, LessonStatus, Mark
from crm.schedule.planning import LessonPlan, plan_lessons
from crm.schedule.recurrence import Recurrence
from crm.schedule.trials import plan_trial
from crm.schedule.waiting import add_to_waiting_list
from crm.schedule.wishes import add_wish
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import ChargeMoment, Subscription, SubscriptionState
from crm.subscriptions.operations import account_of, sell_subscription
from crm.tasks.models import TaskKind
from crm.tasks.operations import create_task, finish_task

BEGAN_DAYS_AGO, WEEKS_PLANNED = 22, 7
# Of each branch: (name, subject, weekdays, hour).
_GROUPS = (
    ("Дошколята", "Подготовка к школе", (0, 2), time(10, 30)),
    ("English Kids", "Английский язык", (1, 3), time(17)),
    ("Роботы", "Робототехника", (0, 4), time(18)),
)
_PLACES = 6  # in a group
_MARKS = (Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED)
_CHANCES = (82, 8, 10)


def live_lessons(story: Story, families: list[Family]) -> None:
    """Note the events of all this; each finds for itself who and what there is by then."""
    for branch in story.network.branches:
        there = [family for family in families if family.branch is branch]
        if there:
            _Classes(story, branch, there).note_all()


class _Classes:
    """Of one branch."""

    def __init__(self, story: Story, branch: Branch, families: list[Family]) -> None:
        self.story, self.branch, self.families = story, branch, families
        self.today = clock.today(branch)
        self.network = story.network
        self.clerk, self.head = story.clerk(branch), story.head(branch)
        self.group_type, self.individual, _workshop = self.network.lesson_types.values()
        self.instructors, self.rooms = self.network.instructors[branch.id], self.network.rooms[branch.id]
        self.groups: dict[str, ClientGroup] = {}

    def note_all(self) -> None:
        for number, (name, subject, weekdays, hour) in enumerate(_GROUPS):
            self._group(number, name, self.network.subjects[subject], weekdays, hour)
        self._individual()
        for days_ago, hour, event in (
            (BEGAN_DAYS_AGO, time(11), self._sell_by_lesson),
            (6, time(10), self._add_lessons),
            (5, time(11), self._freeze),
            (4, time(12), self._give_lessons_away),
            (4, time(13), self._recalculate),
            (3, time(12), self._take_back),
            (2, time(11), self._wait),
            (2, time(12), self._try),
            (2, time(13), self._sell_by_mistake),
            (1, time(10), self._ask),
            (1, time(11), self._book),
        ):
            self._at(days_ago, hour, event)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _group(self, number: int, name: str, subject: Subject, weekdays: tuple[int, ...], hour: time) -> None:
        room = self.rooms[number % len(self.rooms)]
        instructor = self.instructors[0]
        begins = self._day(BEGAN_DAYS_AGO - 1)
        rule = Recurrence(begins, hour, 60, weekdays=weekdays, until=begins + timedelta(weeks=WEEKS_PLANNED))

        def make() -> None:
            group = self.groups[name] = create_group(
                self.branch,
                name=name,
                lesson_type=self.group_type,
                subject=subject,
                instructor=instructor,
                room=room,
                capacity=_PLACES,
                by=self.head,
            )
            for student in self._students()[number :: len(_GROUPS) - 1][: _PLACES - 1]:
                join_group(group, student, by=self.head)

        def plan() -> None:
            group = self.groups[name]
            plan_lessons(
                LessonPlan(
                    self.branch,
                    rule,
                    self.group_type,
                    subject,
                    room,
                    instructor=instructor,
                    capacity=_PLACES,
                    group=group,
                ),
                by=self.head,
            )

        self._at(BEGAN_DAYS_AGO, time(9), make)
        self._at(BEGAN_DAYS_AGO, time(10), plan)
        for day in rule.days():
            self._mark(day, hour, 60)

    def _individual(self) -> None:
        """Four lessons of one, on an account of its own, half of it paid so far."""
        plan = next(plan for plan in self.network.plans if self.individual in plan.lesson_types)
        instructor, room, hour = self.instructors[-1], self.rooms[-1], time(15)
        begins = next(day for day in map(self._day, range(16, 9, -1)) if day.weekday() == 2)
        rule = Recurrence(begins, hour, self.individual.duration_minutes, count=5)

        def sell() -> None:
            student = self._students()[-1]
            sold = sell_subscription(student, plan, starts_on=begins, by=self.clerk)
            db.session.flush()
            subject = self.network.subjects["Рисование"]
            plan_lessons(
                LessonPlan(self.branch, rule, self.individual, subject, room, instructor=instructor, client=student),
                by=self.clerk,
            )
            account = account_of(sold, payer_of(student))
            top_up(account, amount=plan.price / 2, method=PaymentMethod.CARD, by=self.clerk)

        self._at(17, time(12), sell)
        for day in rule.days():
            self._mark(day, hour, self.individual.duration_minutes)

    def _mark(self, day: date, hour: time, minutes: int) -> None:
        """Who came is told when the lessons of the hour are over; those of today are still to be marked."""
        if day >= self.today:
            return
        begins = clock.at(day, hour, self.branch)

        def mark() -> None:
            query = select(Lesson).where(
                Lesson.branch_id == self.branch.id, Lesson.starts_at == begins, Lesson.status == LessonStatus.PLANNED
            )
            for lesson in db.session.scalars(query.order_by(Lesson.id)).all():
                self._mark_one(lesson)

        self.story.note_at(begins + timedelta(minutes=minutes), self.clerk, mark)

    def _mark_one(self, lesson: Lesson) -> None:
        expected = [one for one in lesson.attendances if one.mark is Mark.PLANNED]
        marks = {one.id: self.story.chance.choices(_MARKS, _CHANCES)[0] for one in expected}
        mark_attendance(lesson, marks, by=self.clerk)
        hold_lesson(lesson, by=self.clerk)

    # --- subscriptions ------------------------------------------------------------------------------------------------

    def _sell_by_lesson(self) -> None:
        """Each lesson takes its part of the price; one of the centre's English is without a limit."""
        students = self._students()
        by_lesson = next(plan for plan in self.network.plans if plan.charge is ChargeMoment.PER_LESSON)
        unlimited = next(plan for plan in self.network.plans if plan.lessons is None)
        today = clock.today(self.branch)
        sell_subscription(students[0], by_lesson, starts_on=today, by=self.clerk)
        if self.branch in unlimited.branches and len(students) > 1:
            sell_subscription(students[1], unlimited, starts_on=today, discount=Decimal(400), by=self.clerk)

    def _add_lessons(self) -> None:
        if (sold := self._good(0)) is not None:
            add_lessons(sold.client, count=1, subscription=sold, comment="Занятие отменил клуб", by=self.head)

    def _freeze(self) -> None:
        if (sold := self._good(1)) is not None:
            until = clock.today(self.branch) + timedelta(days=12)
            freeze_subscription(
                sold, from_on=clock.today(self.branch), until_on=until, comment="Болезнь, есть справка", by=self.clerk
            )

    def _give_lessons_away(self) -> None:
        """All he has left: his subscription is used up."""
        if (sold := self._good(2)) is None:
            return
        others = [student for student in self._students() if student.id != sold.client_id]
        if others:
            everything = types_to_transfer(sold.client)[self.group_type]
            transfer_lessons(
                sold.client,
                others[0],
                lesson_type=self.group_type,
                count=everything,
                comment="Уезжает, отдаёт брату",
                by=self.network.owner,
            )

    def _recalculate(self) -> None:
        """To a larger one, because he likes it; the difference is paid in cash."""
        sold, larger = self._good(3), self.network.plans[2]
        if sold is not None and sold.cost < larger.price:
            recalculate(sold, larger, received=Decimal(1000), method=PaymentMethod.CASH, by=self.head)

    def _take_back(self) -> None:
        if (sold := self._good(4)) is not None:
            return_subscription(sold, way=ReturnWay.KEEP, comment="Переезд", by=self.network.owner)

    def _sell_by_mistake(self) -> None:
        student, plan = self._students()[0], self.network.plans[2]
        sold = sell_subscription(student, plan, starts_on=clock.today(self.branch), by=self.clerk)
        cancel_sale(sold, comment="Не тот абонемент", by=self.head)

    # --- people -------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        if len(students := self._students()) > 2:
            add_to_waiting_list(
                students[-2], instructor=self.instructors[-1], comment="Только вечером или в субботу", by=self.clerk
            )
            add_wish(
                students[-2], subject=self.network.subjects["Рисование"], wish="Суббота, после 12:00", by=self.clerk
            )

    def _try(self) -> None:
        """A free lesson of one of the next days, for somebody who has not been here yet."""
        lesson = self._next_lesson()
        newcomers = [family.card for family in self.families if family.children]
        if lesson is None or not newcomers:
            return
        there = {one.client_id for one in lesson.attendances}
        free = [client for client in newcomers if client.id not in there]
        if free and len(there) < _PLACES:
            plan_trial(free[-1], lesson, by=self.clerk)

    def _ask(self) -> None:
        """Calls of today and of yesterday, and something else to be done; one call has been made."""
        students = self._students()
        payers = [family.card for family in self.families]
        made = create_task(
            self.branch,
            kind=TaskKind.CALL,
            text="Спросить, как прошло занятие",
            client=payers[0],
            due_on=self._day(1),
            by=self.clerk,
        )
        finish_task(made, result="Всё понравилось, придут ещё", by=self.clerk)
        create_task(
            self.branch,
            kind=TaskKind.CALL,
            text="Предложить продлить абонемент",
            client=payers[-1],
            due_on=self.today,
            by=self.clerk,
        )
        create_task(
            self.branch,
            kind=TaskKind.CALL,
            text="Напомнить об оплате",
            client=students[0],
            due_on=self._day(1),
            by=self.clerk,
        )
        create_task(
            self.branch, kind=TaskKind.OTHER, text="Заказать воду и стаканчики", due_on=self.today, by=self.head
        )

    def _book(self) -> None:
        """A Saturday noon, for something that is no lesson."""
        day = next(day for day in (self.today + timedelta(days=number) for number in range(2, 9)) if day.weekday() == 5)
        begins = clock.at(day, time(12), self.branch)
        create_booking(
            self.rooms[-1], starts_at=begins, ends_at=begins + timedelta(hours=2), comment="День рождения", by=self.head
        )

    # --- parts --------------------------------------------------------------------------------------------------------

    def _at(self, days_ago: int, hour: time, event: Callable[[], object]) -> None:
        self.story.note_at(clock.at(self._day(days_ago), hour, self.branch), self.clerk, event)

    def _day(self, days_ago: int) -> date:
        return self.today - timedelta(days=days_ago)

    def _students(self) -> list[Client]:
        """Who attends: the children, and those who have none themselves."""
        return [student for family in self.families for student in (family.children or [family.card])]

    def _good(self, number: int) -> Subscription | None:
        """One of those that are good now and have lessons left, paid for at the sale from the base account."""
        today = clock.today(self.branch)
        query = select(Subscription).where(
            Subscription.client_id.in_([student.id for student in self._students()]),
            Subscription.plan_id.in_([plan.id for plan in self.network.plans[:3]]),
        )
        found = [
            one
            for one in db.session.scalars(query.order_by(Subscription.id))
            if one.state(today) is SubscriptionState.ACTIVE
        ]
        return found[number] if number < len(found) else None

    def _next_lesson(self) -> Lesson | None:
        """The next one to come of a group that is not full."""
        query = select(Lesson).where(
            Lesson.branch_id == self.branch.id,
            Lesson.starts_at > self.story.now,
            Lesson.group_id.is_not(None),
            Lesson.status == LessonStatus.PLANNED,
        )
        lessons = db.session.scalars(query.order_by(Lesson.starts_at, Lesson.id)).all()
        return next((lesson for lesson in lessons if len(lesson.attendances) < _PLACES), None)
