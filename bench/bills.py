"""Bills: ten thousand by the payment forecast in one action, batch by batch as the job of a bulk action does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import flask_migrate
from sqlalchemy import delete, func, select, text

from bench.contestants import Contestant, Skill
from bench.databases import Place
from bench.kontora import application
from bench.report import figure_line, within
from bench.sizes import BILLS_PER_SECOND
from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.admin.bulk_jobs import BATCH
from crm.audit.origin import acting
from crm.bills.issuing import Terms, issue_many
from crm.bills.models import Bill, BillLine, BillMethod
from crm.catalogue.models import LessonFormat, LessonType
from crm.clients.models import Client, ClientStatus, search_text
from crm.db import db, insert_rows, transaction
from crm.demo import load_demo
from crm.ledger.batch import post_all
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Line, Posting, house_account
from crm.ledger.queries import check_ledger
from crm.schedule.models import Attendance, Lesson, LessonStatus, Mark
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus

PAYERS, LESSONS, GROUP = 10_000, 8, 20
FEW = 50  # bills of the batch whose statements are compared
BOUGHT = 4  # lessons of each subscription: the other half are single visits


def bills(place: Place) -> Iterator[str]:
    """Lines of the report, on both databases."""
    with ExitStack() as stack:
        for system in ("SQLite", "PostgreSQL"):
            name = "kontora_bench_bills"
            url = place.sqlite(name) if system == "SQLite" else stack.enter_context(place.postgresql(name))
            yield f"\n{system}: {PAYERS:,} payers, {LESSONS} lessons each, half of them of a subscription"
            with Contestant(school, url, place.home) as contestant:
                few = contestant.run("issue", 0, FEW)
                done = [
                    contestant.run("issue", first, min(BATCH, PAYERS + FEW - first))
                    for first in range(FEW, PAYERS + FEW, BATCH)
                ]
                contestant.run("proof")
            seconds = sum(one.seconds for one in done)
            slowest = max(one.seconds for one in done)
            more = max(one.queries for one in done) - few.queries
            yield figure_line(
                "bills issued by the forecast",
                f"{PAYERS / seconds:.0f} /s, batch of {BATCH} ≤ {slowest * 1000:.0f} ms, {done[0].queries} SQL",
                within("bills/s", PAYERS / seconds, at_least=BILLS_PER_SECOND),
                within(f"SQL more than for {FEW}", more, at_most=0),
            )


# --- the contestant ---------------------------------------------------------------------------------------------------


def school(url: str, home: Path) -> Mapping[str, Skill]:
    """A branch of so many payers, without a bill: issue(first, count) bills those payers; proof()."""
    app = application(url, home)
    with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
        flask_migrate.upgrade()
        if db.session.scalar(select(User.id).limit(1)) is None:
            load_demo(clients=2000, bills=6000)  # they are not the first bills
            for fill in (_fill, _plan, _enrol):
                with transaction():
                    fill()
                db.session.remove()
                # Else PostgreSQL looks for each key of the next in a table it takes to be empty.
                with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("ANALYZE"))
        with transaction():  # of an earlier run
            earlier = select(Bill.id).where(Bill.purpose == PURPOSE)
            db.session.execute(delete(BillLine).where(BillLine.bill_id.in_(earlier)))
            db.session.execute(delete(Bill).where(Bill.purpose == PURPOSE))
        ids = _payers()
        until = clock.today(_branch()) + timedelta(days=30)
        db.session.remove()
    terms = Terms(BillMethod.FORECAST, until, None, False, PURPOSE)

    def issue(first: int, count: int) -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"), transaction():
            lines = issue_many(ids[first : first + count], terms, by=SYSTEM)
            if errors := [line.reason for line in lines if not line.is_done]:
                raise RuntimeError(f"{len(errors)} bills of {count} were not issued: {errors[0]}")
        return b""

    def proof() -> bytes:
        """As many bills as were asked for, of consecutive numbers, each of the sum of its lines; books that balance."""
        with app.app_context(), scoped_to(EVERYWHERE):
            own = select(Bill).where(Bill.purpose == PURPOSE).subquery()
            count, first, last = db.session.execute(
                select(func.count(), func.min(own.c.number), func.max(own.c.number)).select_from(own)
            ).one()
            if count != len(ids) or last - first + 1 != count:
                raise RuntimeError(f"{count} bills, numbers {first} to {last}")
            lines = select(func.sum(BillLine.amount)).where(BillLine.bill_id == Bill.id).scalar_subquery()
            if db.session.scalar(select(func.count()).where(Bill.purpose == PURPOSE, Bill.amount != lines)):
                raise RuntimeError("the lines of bills do not add up")
            if problems := check_ledger():
                raise RuntimeError(f"the ledger check found {problems[:3]}")
        return b""

    return {"issue": issue, "proof": proof}


PAYER, PURPOSE = "плательщик замера", "Замер"


def _branch() -> Branch:
    return db.session.scalars(select(Branch).order_by(Branch.id)).first() or Branch()


def _payers() -> list[int]:
    return list(db.session.scalars(select(Client.id).where(Client.comment == PAYER).order_by(Client.id)))


def _groups() -> list[list[int]]:
    ids = _payers()
    return [ids[first : first + GROUP] for first in range(0, len(ids), GROUP)]


def _fill() -> None:
    """Payers, each with a subscription that is charged lesson by lesson."""
    branch, now = _branch(), clock.now()
    plan = Plan(name="4 занятия замера", price=Decimal(1000), lessons=BOUGHT, charge=ChargeMoment.PER_LESSON)
    db.session.add(plan)
    db.session.flush()
    rows: list[dict[str, Any]] = [
        {
            "branch_id": branch.id,
            "status": ClientStatus.ACTIVE,
            "name": f"Плательщик {number:05d}",
            "phone": f"+7998{number:07d}",
            "comment": PAYER,
            "search": search_text([f"Плательщик {number:05d}"], None, [f"+7998{number:07d}"]),
            "created_at": now,
            "version": 1,
        }
        for number in range(PAYERS + FEW)
    ]
    insert_rows(Client, rows)
    ids = _payers()
    _sell(branch, plan, ids)
    base = {"branch_id": branch.id, "opened_at": now, "balance": Decimal(0), "credited": Decimal(0)}
    base |= {"debited": Decimal(0), "unit": Unit.MONEY, "kind": AccountKind.BASE}
    insert_rows(Account, [base | {"client_id": id} for id in ids[::2]])  # of the others they are made with the bills


def _plan() -> None:
    """Lessons to come of groups, every third day."""
    branch, now = _branch(), clock.now()
    lesson_type = db.session.scalars(select(LessonType).where(LessonType.format == LessonFormat.GROUP)).first()
    assert lesson_type is not None
    first = datetime.combine(clock.today(branch), time(8), now.tzinfo) + timedelta(days=1)
    starts = [first + timedelta(days=3 * number) for number in range(LESSONS)]
    lesson = {"branch_id": branch.id, "lesson_type_id": lesson_type.id, "takes_nobody": False, "topic": PAYER}
    lesson |= {"status": LessonStatus.PLANNED, "created_at": now, "version": 1}
    insert_rows(
        Lesson,
        [
            lesson | {"starts_at": starts_at, "ends_at": starts_at + timedelta(minutes=45)}
            for starts_at in starts
            for _group in _groups()
        ],
    )


def _enrol() -> None:
    """Everybody at the lessons of his group."""
    groups = _groups()
    planned = db.session.scalars(select(Lesson.id).where(Lesson.topic == PAYER).order_by(Lesson.id)).all()
    expected = {"branch_id": _branch().id, "mark": Mark.PLANNED, "is_trial": False, "by_group": False}
    expected |= {"created_at": clock.now(), "version": 1}
    insert_rows(
        Attendance,
        [
            expected | {"lesson_id": lesson_id, "client_id": client_id}
            for number, lesson_id in enumerate(planned)
            for client_id in groups[number % len(groups)]
        ],
    )


def _sell(branch: Branch, plan: Plan, client_ids: list[int]) -> None:
    """A subscription for each, its lessons granted by the ledger."""
    today, now, zero = clock.today(branch), clock.now(), Decimal(0)
    sold = {
        "branch_id": branch.id,
        "plan_id": plan.id,
        "status": SubscriptionStatus.ACTIVE,
        "price": plan.price,
        "lessons": BOUGHT,
        "charge": ChargeMoment.PER_LESSON,
        "account": PlanAccount.BASE,
        "starts_on": today,
        "ends_on": today + timedelta(days=60),
        "sold_at": now,
        "version": 1,
    }
    insert_rows(Subscription, [sold | {"client_id": id} for id in client_ids])
    owners = select(Subscription.id, Subscription.client_id).where(Subscription.plan_id == plan.id)
    account = {"branch_id": branch.id, "kind": AccountKind.LESSONS, "unit": Unit.LESSON, "opened_at": now}
    account |= {"balance": zero, "credited": zero, "debited": zero}
    insert_rows(
        Account,
        [account | {"subscription_id": id, "client_id": owner} for id, owner in db.session.execute(owners)],
    )
    own = select(Account).join(Subscription, Subscription.id == Account.subscription_id)
    kept = list(db.session.scalars(own.where(Subscription.plan_id == plan.id).order_by(Account.id)))
    granted = house_account(AccountKind.SERVICE, branch.id, Unit.LESSON)
    count = Decimal(BOUGHT)
    for first in range(0, len(kept), 500):
        post_all(
            [
                Posting(
                    TransactionKind.GRANT,
                    [Line(one, count), Line(granted, -count)],
                    branch.id,
                    f"bench:{one.id}",
                )
                for one in kept[first : first + 500]
            ],
            by=SYSTEM,
        )
