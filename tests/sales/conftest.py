"""Clients with subscriptions that have been used, and what the books say of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.catalogue.models import LessonType
from crm.clients.models import Client
from crm.db import db, transaction
from crm.ledger.models import Account, AccountKind, Entry
from crm.ledger.operations import base_account
from crm.schedule.attendance import mark_attendance
from crm.schedule.models import Mark
from crm.subscriptions.models import Plan, Subscription
from tests.factories import make_client, make_lesson, make_lesson_type, make_payment, make_plan, make_subscription

AttendType = Callable[..., None]


@pytest.fixture
def client(network: Any) -> Client:
    return make_client(network.lesnoy)


@pytest.fixture
def group_type(network: Any) -> LessonType:
    return make_lesson_type(name="Английский в группе")


@pytest.fixture
def plan(group_type: LessonType) -> Plan:
    """8 lessons for 4 000, a single visit is 700."""
    return make_plan(lesson_types=[group_type])


def attend(client: Client, lesson_type: LessonType, count: int) -> None:
    """The client comes to `count` lessons that are over, and is marked."""
    for number in range(count):
        lesson = make_lesson(
            db.session.get_one(Branch, client.branch_id),
            client,
            lesson_type_id=lesson_type.id,
            starts_at=clock.now() - timedelta(hours=2 + number),
        )
        with transaction():
            mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=SYSTEM)


def used_subscription(
    client: Client, plan: Plan, lesson_type: LessonType, *, used: int, paid: Decimal | int | None = None, **sale: Any
) -> Subscription:
    """A subscription that began a few days ago, paid for (wholly by default), with `used` lessons attended."""
    today = clock.today(db.session.get_one(Branch, client.branch_id))
    sold = make_subscription(client, plan, starts_on=today - timedelta(days=5), **sale)
    paid = sold.cost if paid is None else paid
    if paid and "account" not in sale:
        make_payment(base_account(client.payer_id or client.id, client.branch_id), Decimal(paid))
    attend(client, lesson_type, used)
    db.session.refresh(sold)
    return sold


def base_of(client: Client) -> Decimal:
    """What is on the client's base account."""
    return base_account(client.id, client.branch_id).balance


def extra_of(client: Client, lesson_type: LessonType | None) -> int:
    """The client's lessons of a type that belong to no subscription."""
    query = select(func.coalesce(func.sum(Account.balance), 0)).where(
        Account.client_id == client.id,
        Account.kind == AccountKind.LESSONS,
        Account.subscription_id.is_(None),
        Account.lesson_type_id == (lesson_type.id if lesson_type else None),
    )
    return int(Decimal(db.session.scalar(query) or 0))


def lessons_of_house(kind: AccountKind) -> int:
    """The sum of a kind of house account over all branches: SERVICE is below zero by what was granted."""
    query = select(func.coalesce(func.sum(Entry.amount), 0)).join(Entry.account).where(Account.kind == kind)
    return int(Decimal(db.session.scalar(query) or 0))


def lessons_agree() -> bool:
    """Granted = left with clients + attended."""
    left = db.session.scalar(select(func.sum(Account.balance)).where(Account.kind == AccountKind.LESSONS)) or 0
    return -lessons_of_house(AccountKind.SERVICE) == int(left) + lessons_of_house(AccountKind.ATTENDED)
