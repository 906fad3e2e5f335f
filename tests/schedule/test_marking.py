"""Marks of a lesson, what they write off, and holding it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Employee
from crm.access.scope import Scope, scoped_to
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.db import db, transaction
from crm.debts.operations import write_off_bad_debt, write_off_debt
from crm.debts.queries import debts_of_subscriptions, forgiven_of_subscription
from crm.errors import Conflict, DomainError, Forbidden
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post, reverse
from crm.ledger.queries import check_ledger
from crm.sales.returning import ReturnWay, check_returnable, return_subscription
from crm.schedule.attendance import hold_lesson, mark_attendance, reopen_lesson
from crm.schedule.enrolment import enrol, take_off
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark, Waiting
from crm.subscriptions.coverage import find_coverage
from crm.subscriptions.models import ChargeMoment, PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.operations import lessons_of, lock_subscription
from tests.factories import (
    house_balance,
    make_child,
    make_client,
    make_employee,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


def at_noon(network: Any, *clients: Client, **changes: Any) -> Lesson:
    """A lesson that begins now, with these enrolled."""
    return make_lesson(network.lesnoy, *clients, **{"starts_at": NOON, **changes})


@contextlib.contextmanager
def refused(code: str) -> Iterator[Any]:
    with pytest.raises(DomainError) as error:
        yield error
    assert error.value.code == code


def rows_of(lesson: Lesson) -> Sequence[Attendance]:
    query = select(Attendance).where(Attendance.lesson_id == lesson.id).order_by(Attendance.id)
    return db.session.scalars(query.execution_options(populate_existing=True)).all()


def row_of(lesson: Lesson, client: Client) -> Attendance:
    return next(row for row in rows_of(lesson) if row.client_id == client.id)


def mark(lesson: Lesson, marks: dict[Client, Mark], *, by: Any = SYSTEM, seen: Any = None) -> list[Attendance]:
    with transaction():
        return mark_attendance(
            lesson, {row_of(lesson, client).id: wanted for client, wanted in marks.items()}, by=by, seen=seen
        )


def left(subscription: Subscription) -> Any:
    db.session.refresh(subscription)
    return subscription.lessons_left


def base_of(client: Client) -> Any:
    account = base_account(client.payer_id or client.id, client.branch_id)
    db.session.refresh(account)
    return account.balance


def attended() -> Any:
    query = select(func.coalesce(func.sum(Entry.amount), 0)).join(Entry.account)
    return Decimal(db.session.scalar(query.where(Account.kind == AccountKind.ATTENDED)) or 0)


def posted(lesson: Lesson) -> list[Transaction]:
    return list(
        db.session.scalars(select(Transaction).where(Transaction.lesson_id == lesson.id).order_by(Transaction.id))
    )


# --- what is written off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "taken"), [(Mark.PRESENT, 1), (Mark.ABSENT, 1), (Mark.EXCUSED, 0), (Mark.PLANNED, 0)]
)
def test_present_and_absent_are_written_off_the_others_are_not(network: Any, wanted: Mark, taken: int) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    lesson = at_noon(network, client)
    changed = mark(lesson, {client: wanted})
    assert len(changed) == (wanted is not Mark.PLANNED)
    assert left(subscription) == 8 - taken
    assert attended() == taken
    row = row_of(lesson, client)
    assert (row.mark, row.subscription_id, row.price) == (wanted, subscription.id if taken else None, None)
    assert row.transaction_id == (posted(lesson)[0].id if taken else None)


def test_the_write_off_names_lesson_subscription_client_and_instructor(network: Any) -> None:
    child = make_child(make_client(network.lesnoy))
    subscription = make_subscription(child)
    lesson = at_noon(network, child, instructor_id=network.employee.id)
    mark(lesson, {child: Mark.PRESENT}, by=network.director)
    (written,) = posted(lesson)
    assert written.kind is TransactionKind.LESSON
    assert (written.subscription_id, written.client_id) == (subscription.id, child.id)
    assert (written.employee_id, written.author_name) == (network.employee.id, network.director.name)
    assert written.idempotency_key == f"attendance:{row_of(lesson, child).id}:1"


def test_nobody_to_cover_it_a_single_visit_is_the_payers_debt(network: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    lesson = at_noon(network, child, lesson_type=make_lesson_type(single_price=Decimal("733.33")))
    mark(lesson, {child: Mark.PRESENT})
    assert base_of(payer) == Decimal("-733.33")
    row = row_of(lesson, child)
    assert (row.price, row.subscription_id) == (Decimal("733.33"), None)
    assert attended() == 0


def test_a_free_single_visit_is_no_transaction(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client, lesson_type=make_lesson_type(single_price=Decimal(0)))
    mark(lesson, {client: Mark.PRESENT})
    assert posted(lesson) == []
    assert row_of(lesson, client).price is None


def test_an_unlimited_subscription_is_named_and_nothing_posted(network: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client, make_plan(lessons=None))
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    assert posted(lesson) == []
    assert row_of(lesson, client).subscription_id == subscription.id
    mark(lesson, {client: Mark.EXCUSED})
    assert row_of(lesson, client).subscription_id is None


def test_extra_lessons_are_taken_before_money(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client)
    extra = lessons_account(client.id, client.branch_id, lesson.lesson_type_id)
    granted = house_account(AccountKind.SERVICE, client.branch_id, Unit.LESSON)
    with transaction():
        lines = [Line(extra, Decimal(1)), Line(granted, Decimal(-1))]
        post(TransactionKind.GRANT, lines, branch_id=client.branch_id, by=SYSTEM)
    mark(lesson, {client: Mark.PRESENT})
    db.session.refresh(extra)
    assert extra.balance == 0
    assert attended() == 1
    assert row_of(lesson, client).subscription_id is None


@pytest.mark.parametrize("account", [PlanAccount.BASE, PlanAccount.SEPARATE])
def test_lesson_by_lesson_the_parts_add_up_to_the_cost(network: Any, account: PlanAccount) -> None:
    child = make_child(make_client(network.lesnoy))
    plan = make_plan(price=Decimal("1000.00"), lessons=3, charge=ChargeMoment.PER_LESSON, account=account)
    subscription = make_subscription(child, plan, discount=Decimal("0.01"))
    prices = []
    for days in (3, 2, 1):
        lesson = at_noon(network, child, starts_at=NOON)
        mark(lesson, {child: Mark.PRESENT})
        prices.append(row_of(lesson, child).price)
        assert days
    assert prices == [Decimal("333.33"), Decimal("333.33"), Decimal("333.33")]
    kind = AccountKind.BASE if account is PlanAccount.BASE else AccountKind.SUBSCRIPTION
    charged = db.session.scalars(select(Account).where(Account.kind == kind)).one()
    assert (charged.balance, charged.client_id) == (Decimal("-999.99"), child.payer_id)
    assert left(subscription) == 0


def test_lesson_by_lesson_after_a_mark_was_taken_back(network: Any) -> None:
    client = make_client(network.lesnoy)
    plan = make_plan(price=Decimal("100.00"), lessons=3, charge=ChargeMoment.PER_LESSON)
    make_subscription(client, plan)
    lessons = [at_noon(network, client) for _ in range(4)]
    for lesson in lessons[:2]:
        mark(lesson, {client: Mark.PRESENT})
    mark(lessons[0], {client: Mark.EXCUSED})
    for lesson in (lessons[2], lessons[0]):
        mark(lesson, {client: Mark.ABSENT})
    assert base_of(client) == Decimal("-100.00")
    mark(lessons[3], {client: Mark.PRESENT})  # used up: a single visit
    assert base_of(client) == Decimal("-800.00")


# --- changing a mark -------------------------------------------------------------------------------------------------


def test_a_changed_mark_gives_back_and_writes_off_anew(network: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    lesson = at_noon(network, client)
    for wanted, remains in (
        (Mark.PRESENT, 7),
        (Mark.EXCUSED, 8),
        (Mark.ABSENT, 7),
        (Mark.PLANNED, 8),
        (Mark.PRESENT, 7),
    ):
        mark(lesson, {client: wanted})
        assert left(subscription) == remains
    keys = [one.idempotency_key for one in posted(lesson) if one.kind is TransactionKind.LESSON]
    id = row_of(lesson, client).id
    assert keys == [f"attendance:{id}:{number}" for number in (1, 2, 3)]


def test_present_or_absent_what_was_written_off_stays(network: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    with transaction():
        subscription.starts_on = NOON.date() + timedelta(days=1)  # it would not cover the lesson now
    mark(lesson, {client: Mark.ABSENT})
    assert (len(posted(lesson)), left(subscription)) == (1, 7)
    assert row_of(lesson, client).subscription_id == subscription.id


def test_a_single_visit_given_back(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.ABSENT})
    assert base_of(client) == -700
    mark(lesson, {client: Mark.EXCUSED})
    assert base_of(client) == 0
    assert (row_of(lesson, client).price, row_of(lesson, client).transaction_id) == (None, None)


@pytest.mark.parametrize("is_bad", [True, False])
def test_what_was_forgiven_of_a_visit_is_not_given_back(network: Any, is_bad: bool) -> None:
    """300 of 700 were paid, 400 forgiven; a subscription sold and forgiven since stays forgiven."""
    client = make_client(network.lesnoy)
    lesson, account = at_noon(network, client), base_account(client.id, client.branch_id)
    mark(lesson, {client: Mark.PRESENT})
    sold = make_subscription(client, make_plan(lesson_types=[make_lesson_type()]))  # good for others
    make_payment(account, 300)
    with transaction():
        if is_bad:
            write_off_bad_debt(account, by=network.director)
        else:
            write_off_debt(account, amount=Decimal(4400), reason="Ошибка", by=network.director)
    borne = AccountKind.BAD_DEBT if is_bad else AccountKind.REVENUE
    before = house_balance(borne, network.lesnoy)
    mark(lesson, {client: Mark.EXCUSED}, by=network.administrator)
    assert base_of(client) == 300
    change = house_balance(borne, network.lesnoy) - before  # what is there, as of cash
    assert change == (-400 if is_bad else 300)
    assert forgiven_of_subscription(sold.id) == 4000
    mark(lesson, {client: Mark.PRESENT})  # anew: what was forgiven was forgiven once
    assert base_of(client) == -400
    mark(lesson, {client: Mark.EXCUSED})
    assert base_of(client) == 300
    assert check_ledger() == []


@pytest.mark.parametrize("order", ["forgiven first", "merged first"])
def test_nor_after_a_merge_of_cards(network: Any, order: str) -> None:
    kept, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    with transaction():
        own = base_account(kept.id, kept.branch_id)
        account = base_account(gone.id, gone.branch_id)
    lesson = at_noon(network, gone)
    mark(lesson, {gone: Mark.PRESENT})
    sold = make_subscription(gone)
    if order == "forgiven first":
        with transaction():
            write_off_bad_debt(account, by=network.director)
    with transaction():
        merge_clients(kept, gone, by=network.director)
    if order == "merged first":
        with transaction():
            write_off_bad_debt(own, by=network.director)
    mark(lesson, {kept: Mark.EXCUSED})
    assert (base_of(kept), forgiven_of_subscription(sold.id), debts_of_subscriptions([sold.id])) == (0, 4000, {})


def test_a_mark_is_not_taken_back_over_an_account_out_of_sight(network: Any) -> None:
    """It was written off from a subscription of another branch: who does not see it is told so."""
    client, gone = make_client(network.lesnoy), make_client(network.rechnoy)
    subscription = make_subscription(gone)
    with transaction():
        merge_clients(client, gone, by=SYSTEM)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT}, by=network.regional)
    assert left(subscription) == 7
    db.session.expire_all()
    with scoped_to(Scope(frozenset({network.lesnoy.id}), network.lesnoy.id)), refused("foreign_branch"):
        mark(lesson, {client: Mark.EXCUSED}, by=network.administrator)
    db.session.expire_all()
    mark(lesson, {client: Mark.EXCUSED}, by=network.regional)
    assert left(subscription) == 8


def test_a_lesson_goes_back_to_a_frozen_subscription(network: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    with transaction():
        subscription.status = SubscriptionStatus.FROZEN
    mark(lesson, {client: Mark.EXCUSED})
    assert left(subscription) == 8


@pytest.mark.parametrize("lessons", [8, None])
@pytest.mark.parametrize("status", [SubscriptionStatus.RETURNED, SubscriptionStatus.ARCHIVED])
def test_a_lesson_does_not_go_back_to_a_subscription_that_is_over(
    network: Any, status: SubscriptionStatus, lessons: int | None
) -> None:
    """Nobody could use it there, and the mark made again would be charged as a single visit."""
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    subscription, others = make_subscription(client, make_plan(lessons=lessons)), make_subscription(other)
    lesson = at_noon(network, client, other)
    mark(lesson, {client: Mark.PRESENT, other: Mark.PRESENT})
    before = left(subscription)
    with transaction():
        subscription.status = status
    with refused("subscription_over") as error:
        mark(lesson, {client: Mark.EXCUSED, other: Mark.EXCUSED})
    assert client.shown_name in str(error.value)
    assert str(status.label) in str(error.value)
    assert (row_of(lesson, client).mark, row_of(lesson, other).mark) == (Mark.PRESENT, Mark.PRESENT)
    assert (left(subscription), left(others)) == (before, 7)
    mark(lesson, {client: Mark.ABSENT, other: Mark.EXCUSED})  # what is written off stays
    assert (row_of(lesson, client).subscription_id, left(others)) == (subscription.id, 8)


def test_after_a_merge_of_cards_a_mark_is_changed_on_the_heirs_accounts(network: Any) -> None:
    kept, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    subscription = make_subscription(gone)
    lesson, single = at_noon(network, gone), at_noon(network, gone)
    mark(lesson, {gone: Mark.PRESENT})
    use_up(subscription)
    mark(single, {gone: Mark.PRESENT})
    with transaction():
        merge_clients(kept, gone, by=network.owner)
    assert base_of(kept) == -4700
    mark(lesson, {kept: Mark.EXCUSED})
    mark(single, {kept: Mark.EXCUSED})
    assert (left(subscription), base_of(kept)) == (1, -4000)
    mark(lesson, {kept: Mark.PRESENT})
    assert left(subscription) == 0


def test_an_account_closed_since_says_so(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    account = base_account(client.id, client.branch_id)
    with transaction():
        given = house_account(AccountKind.BAD_DEBT, client.branch_id)
        lines = [Line(account, Decimal(700)), Line(given, Decimal(-700))]
        post(TransactionKind.BAD_DEBT, lines, branch_id=client.branch_id, by=SYSTEM)
        account.closed_at = clock.now()
    with refused("account_closed"):
        mark(lesson, {client: Mark.EXCUSED})
    assert row_of(lesson, client).mark is Mark.PRESENT


def test_a_write_off_is_not_reversed_past_its_mark(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    with refused("by_mark"), transaction():
        reverse(posted(lesson)[0], by=network.owner, comment="")
    assert base_of(client) == -700


def use_up(subscription: Subscription) -> None:
    account = lessons_of(subscription)
    db.session.refresh(account)
    granted = house_account(AccountKind.SERVICE, account.branch_id, Unit.LESSON)
    with transaction():
        lines = [Line(account, -account.balance), Line(granted, account.balance)]
        post(TransactionKind.GRANT, lines, branch_id=account.branch_id, by=SYSTEM)


# --- when and by whom ------------------------------------------------------------------------------------------------


def test_the_future_is_not_marked_but_all_of_the_day_is(network: Any) -> None:
    client = make_client(network.lesnoy)
    later, tomorrow = (
        at_noon(network, client, starts_at=clock.local(NOON, network.lesnoy).replace(hour=0, minute=0) + ahead)
        for ahead in (timedelta(hours=23, minutes=59), timedelta(days=1))
    )
    mark(later, {client: Mark.PRESENT})
    with refused("lesson_ahead"):
        mark(tomorrow, {client: Mark.PRESENT})
    with refused("lesson_ahead"):
        hold_lesson(tomorrow, by=SYSTEM)


def test_the_day_is_the_branchs_own(network: Any) -> None:
    """00:30 of the 11th in Samara is 23:30 of the 10th in Moscow."""
    with clock.frozen(datetime(2027, 3, 10, 20, 10, tzinfo=UTC)):
        for branch, is_ahead in ((network.mira, False), (network.lesnoy, True)):
            client = make_client(branch)
            lesson = make_lesson(branch, client, starts_at=datetime(2027, 3, 10, 21, 5, tzinfo=UTC))
            row = row_of(lesson, client)
            if is_ahead:
                with refused("lesson_ahead"):
                    mark_attendance(lesson, {row.id: Mark.PRESENT}, by=SYSTEM)
            else:
                mark(lesson, {client: Mark.PRESENT})


def test_an_instructor_marks_his_own_lessons_only(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        db.session.get_one(Employee, network.employee.id).user_id = network.instructor.id
    own = at_noon(network, client, instructor_id=network.employee.id)
    others = [
        at_noon(network, client, instructor_id=make_employee(network.lesnoy).id),
        at_noon(network, client),
    ]
    mark(own, {client: Mark.EXCUSED}, by=network.instructor)
    with transaction():
        hold_lesson(own, by=network.instructor)
    for lesson in others:
        with refused("not_your_lesson"):
            mark(lesson, {client: Mark.EXCUSED}, by=network.instructor)
        with pytest.raises(Forbidden):
            mark(lesson, {client: Mark.EXCUSED}, by=network.manager)
        mark(lesson, {client: Mark.EXCUSED}, by=network.administrator)


def test_who_is_taken_off_or_enrolled_elsewhere_is_not_marked(network: Any) -> None:
    client, other = make_client(network.lesnoy), make_client(network.lesnoy)
    lesson = at_noon(network, client)
    with transaction():
        take_off(row_of(lesson, client), by=SYSTEM)
    with refused("not_enrolled"):
        mark(lesson, {client: Mark.PRESENT})
    foreign = row_of(at_noon(network, other), other)
    with refused("not_found"):
        mark_attendance(lesson, {foreign.id: Mark.PRESENT}, by=SYSTEM)
    staying = at_noon(network, client)
    with refused("not_enrolled"):
        mark(staying, {client: Mark.CANCELED})


def test_a_canceled_lesson_is_not_marked(network: Any) -> None:
    client = make_client(network.lesnoy)
    lesson = at_noon(network, client)
    with transaction():
        lesson.status = LessonStatus.CANCELED
    with refused("lesson_canceled"):
        mark(lesson, {client: Mark.PRESENT})


# --- holding ---------------------------------------------------------------------------------------------------------


def status_of(lesson: Lesson) -> str:
    return lesson.status.value


def test_held_when_everybody_is_marked_and_open_again_by_a_change(network: Any) -> None:
    client, second = make_client(network.lesnoy), make_client(network.lesnoy, name="Ещё Неотмеченный")
    lesson = at_noon(network, client, second)
    mark(lesson, {client: Mark.EXCUSED})
    with refused("not_all_marked") as error:
        hold_lesson(lesson, by=SYSTEM)
    assert "Ещё Неотмеченный" in str(error.value)
    mark(lesson, {second: Mark.EXCUSED})
    with transaction():
        hold_lesson(lesson, by=SYSTEM)
    assert status_of(lesson) == "held"
    with refused("lesson_over"):
        enrol(lesson, make_client(network.lesnoy), by=SYSTEM)
    mark(lesson, {client: Mark.EXCUSED})  # as it was: nothing to open it for
    assert status_of(lesson) == "held"
    mark(lesson, {client: Mark.PRESENT})
    assert status_of(lesson) == "planned"
    with transaction():
        hold_lesson(lesson, by=SYSTEM)
        reopen_lesson(lesson, by=SYSTEM)
    assert status_of(lesson) == "planned"
    with refused("not_held"):
        reopen_lesson(lesson, by=SYSTEM)


@pytest.mark.spec("C31")
def test_a_lesson_with_the_wanted_instructor_ends_the_waiting(network: Any) -> None:
    wanted, other = make_employee(network.lesnoy), make_employee(network.lesnoy)
    client = make_client(network.lesnoy)
    with transaction():
        db.session.add(
            Waiting(branch_id=client.branch_id, client_id=client.id, instructor_id=wanted.id, added_at=clock.now())
        )
    at_noon(network, client, instructor_id=other.id)
    assert db.session.scalar(select(func.count()).select_from(Waiting)) == 1
    at_noon(network, client, instructor_id=wanted.id)
    assert db.session.scalar(select(func.count()).select_from(Waiting)) == 0


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_clerks_mark_the_same_group_and_nothing_is_written_off_twice(network: Any, in_parallel: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    subscriptions = [make_subscription(client) for client in clients]
    lesson = at_noon(network, *clients)
    rows = rows_of(lesson)
    seen = {row.id: row.version for row in rows}
    ids, lesson_id = list(seen), lesson.id

    def one(index: int) -> int:
        with transaction():
            own = db.session.get_one(Lesson, lesson_id)
            return len(mark_attendance(own, dict.fromkeys(ids, Mark.PRESENT), by=SYSTEM, seen=seen))

    results = in_parallel(one, 2)
    db.session.expire_all()
    assert sorted(str(type(result).__name__) for result in results) == ["Conflict", "int"]
    refused = next(result for result in results if isinstance(result, Conflict))
    assert refused.code == "marked_meanwhile"
    assert all(client.shown_name in str(refused) for client in clients)
    assert [left(one) for one in subscriptions] == [7, 7, 7]


def test_a_conflict_says_who_has_marked_what_and_when(network: Any) -> None:
    client = make_client(network.lesnoy, name="Анна Ёжикова")
    lesson = at_noon(network, client)
    row = row_of(lesson, client)
    seen = {row.id: row.version}
    mark(lesson, {client: Mark.ABSENT}, by=network.administrator)
    with pytest.raises(Conflict) as refused:
        mark(lesson, {client: Mark.PRESENT}, by=network.director, seen=seen)
    for said in ("Анна Ёжикова", str(Mark.ABSENT.label), network.administrator.name, "15:00"):
        assert said in str(refused.value)


def test_the_last_lesson_goes_to_one_of_two_marks_the_other_pays(network: Any, in_parallel: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client, make_plan(lessons=1, price=Decimal(0)))
    lessons = [at_noon(network, client) for _ in range(2)]
    ids = [(lesson.id, row_of(lesson, client).id) for lesson in lessons]

    def one(index: int) -> None:
        lesson_id, row_id = ids[index]
        with transaction():
            mark_attendance(db.session.get_one(Lesson, lesson_id), {row_id: Mark.PRESENT}, by=SYSTEM)

    assert in_parallel(one, 2) == [None, None]
    db.session.expire_all()
    assert (left(subscription), base_of(client)) == (0, -700)


def test_siblings_marked_at_two_lessons_at_once_share_the_payers_account(network: Any, in_parallel: Any) -> None:
    payer = make_client(network.lesnoy)
    children = [make_child(payer) for _ in range(4)]
    ids = []
    for child in children:
        lesson = at_noon(network, child)
        ids.append((lesson.id, row_of(lesson, child).id))

    def one(index: int) -> None:
        lesson_id, row_id = ids[index]
        with transaction():
            mark_attendance(db.session.get_one(Lesson, lesson_id), {row_id: Mark.PRESENT}, by=SYSTEM)

    assert in_parallel(one, 4) == [None] * 4
    db.session.expire_all()
    assert base_of(payer) == -2800


def test_a_mark_given_back_waits_for_the_return_that_counts_it(network: Any, in_parallel: Any) -> None:
    client = make_client(network.lesnoy)
    subscription = make_subscription(client)
    lesson = at_noon(network, client)
    mark(lesson, {client: Mark.PRESENT})
    lesson_id, row_id, number = lesson.id, row_of(lesson, client).id, subscription.id
    is_counted = threading.Event()

    def one(index: int) -> str:
        if index == 0:
            with transaction():
                own = db.session.get_one(Subscription, number)
                lock_subscription(own)
                figures = check_returnable(own)
                is_counted.set()
                time.sleep(0.3)  # the other one comes meanwhile
                return_subscription(own, way=ReturnWay.KEEP, seen=figures.seen, by=SYSTEM)
            return "returned"
        is_counted.wait(10)
        try:
            with transaction():
                mark_attendance(db.session.get_one(Lesson, lesson_id), {row_id: Mark.EXCUSED}, by=SYSTEM)
        except DomainError as error:
            return error.code
        return "given back"

    assert in_parallel(one, 2) == ["returned", "subscription_over"]
    db.session.expire_all()
    assert row_of(lesson, client).mark is Mark.PRESENT
    assert (left(subscription), base_of(client)) == (0, -700)


def test_lessons_given_back_and_written_off_together_lock_in_one_order(
    network: Any, in_parallel: Any, monkeypatch: Any
) -> None:
    """Each lesson gives back to the one whom the other writes off."""
    clients = [make_client(network.lesnoy) for _ in range(2)]
    for client in clients:
        base_account(client.id, client.branch_id)
    lessons = [at_noon(network, *clients) for _ in range(2)]
    changes = []
    for lesson, present, coming in zip(lessons, clients, reversed(clients), strict=True):
        mark(lesson, {present: Mark.PRESENT})
        rows = {row_of(lesson, present).id: Mark.EXCUSED, row_of(lesson, coming).id: Mark.PRESENT}
        changes.append((lesson.id, rows))

    def slow(*args: Any, **more: Any) -> Any:
        found = find_coverage(*args, **more)
        time.sleep(0.3)  # both hold what they have locked
        return found

    monkeypatch.setattr("crm.schedule.attendance.find_coverage", slow)

    def one(index: int) -> int:
        lesson_id, marks = changes[index]
        with transaction():
            return len(mark_attendance(db.session.get_one(Lesson, lesson_id), marks, by=SYSTEM))

    assert in_parallel(one, 2) == [2, 2]
    db.session.expire_all()
    assert [base_of(client) for client in clients] == [-700, -700]


# --- many ------------------------------------------------------------------------------------------------------------


def test_a_group_of_thirty_takes_as_many_statements_as_one_of_three(network: Any, statements: Any) -> None:
    counts = []
    for size in (3, 30):
        clients = [make_client(network.lesnoy) for _ in range(size)]
        for number, client in enumerate(clients):
            if number % 3:
                make_subscription(client, make_plan(charge=ChargeMoment.PER_LESSON) if number % 3 == 2 else None)
        lesson = at_noon(network, *clients)
        ids = [row.id for row in rows_of(lesson)]
        house_account(AccountKind.REVENUE, network.lesnoy.id)
        house_account(AccountKind.ATTENDED, network.lesnoy.id, Unit.LESSON)
        for client in clients:
            base_account(client.id, client.branch_id)
        db.session.commit()
        for wanted in (Mark.PRESENT, Mark.EXCUSED):
            lesson = db.session.get_one(Lesson, lesson.id)
            with statements() as sent, transaction():
                assert len(mark_attendance(lesson, dict.fromkeys(ids, wanted), by=SYSTEM)) == size
            counts.append(len(sent))
            db.session.expire_all()
    assert counts[2:] == counts[:2]


# --- any sequence of marks -------------------------------------------------------------------------------------------

MARKS = (Mark.PLANNED, Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED)


@hypothesis.settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(
    lessons=strategies.integers(1, 3),
    cents=strategies.integers(1, 100_000),
    is_per_lesson=strategies.booleans(),
    sequence=strategies.lists(
        strategies.tuples(strategies.integers(0, 3), strategies.sampled_from(MARKS)), min_size=1, max_size=14
    ),
)
def test_any_sequence_of_marks_agrees_with_a_model(
    network: Any, lessons: int, cents: int, is_per_lesson: bool, sequence: list[tuple[int, Mark]]
) -> None:
    """Granted = left + attended, and the payer owes what a model of the rules says."""
    client, cost = make_client(network.lesnoy), Decimal(cents) / 100
    charge = ChargeMoment.PER_LESSON if is_per_lesson else ChargeMoment.AT_SALE
    subscription = make_subscription(client, make_plan(price=cost, lessons=lessons, charge=charge))
    held = [at_noon(network, client) for _ in range(4)]
    before = attended()
    covered: dict[int, bool] = {}  # by lesson: was it written off from the subscription, else a single visit
    taken: dict[int, Decimal] = {}
    for number, wanted in sequence:
        mark(held[number], {client: wanted})
        if not wanted.is_written_off:
            covered.pop(number, None)
            taken.pop(number, None)
        elif number not in covered:
            used = sum(covered.values())
            covered[number] = used < lessons
            part = (cost * (used + 1) / lessons).quantize(Decimal("0.01"), "ROUND_HALF_UP")
            so_far = sum((sum_ for key, sum_ in taken.items() if covered[key]), Decimal(0))
            owed = part - so_far if is_per_lesson else Decimal(0)
            taken[number] = max(owed, Decimal(0)) if covered[number] else Decimal(700)
    used = sum(covered.values())
    assert left(subscription) == lessons - used
    assert attended() - before == used
    assert base_of(client) == -sum(taken.values(), Decimal(0) if is_per_lesson else cost)
    assert check_ledger() == []
