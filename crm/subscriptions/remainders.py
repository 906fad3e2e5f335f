"""What lessons a client has left, by what they are good for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.catalogue.models import LessonFormat, LessonType
from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account, AccountKind
from crm.subscriptions.models import Plan, Subscription
from crm.subscriptions.queries import is_living


@dataclass
class Remainder:
    """Lessons of one format, by what they are called; format None: good for lessons of several. left: by type, or
    types; has_unlimited: there is a subscription without a limit besides.
    """

    format: LessonFormat | None
    left: dict[str, int] = field(default_factory=dict)
    has_unlimited: bool = False

    @property
    def total(self) -> int:
        return sum(self.left.values())


def remainders_of(client: Client) -> list[Remainder]:
    """Individual and group lessons, always both, then others there are any of. Of subscriptions that are still good
    today, or will be, and of lessons that belong to none. A fixed number of queries.
    """
    found: dict[LessonFormat | None, Remainder] = {one: Remainder(one) for one in _ALWAYS}
    subscriptions = (
        select(Subscription)
        .where(Subscription.client_id == client.id, is_living(clock.today(client.branch)))
        .options(joinedload(Subscription.plan).selectinload(Plan.lesson_types))
        .order_by(Subscription.ends_on, Subscription.id)
    )
    for subscription in db.session.scalars(subscriptions):
        left = None if subscription.is_unlimited else int(subscription.lessons_left)
        _add(found, subscription.plan.lesson_types, left)
    extra = (
        select(Account)
        .where(
            Account.client_id == client.id,
            Account.kind == AccountKind.LESSONS,
            Account.subscription_id.is_(None),
            Account.balance > 0,
        )
        .options(joinedload(Account.lesson_type))
        .order_by(Account.id)
    )
    for account in db.session.scalars(extra):
        _add(found, [account.lesson_type] if account.lesson_type is not None else [], int(account.balance))
    order = [*LessonFormat, None]
    return sorted(found.values(), key=lambda one: order.index(one.format))


_ALWAYS = (LessonFormat.INDIVIDUAL, LessonFormat.GROUP)


def _add(found: dict[LessonFormat | None, Remainder], types: Collection[LessonType], left: int | None) -> None:
    """left: None for a subscription without a limit."""
    if left == 0:
        return
    formats = {one.format for one in types}
    format = formats.pop() if len(formats) == 1 else None
    shown = found.setdefault(format, Remainder(format))
    if left is None:
        shown.has_unlimited = True
        return
    name = ", ".join(sorted(one.name for one in types)) or _("Of any type")
    shown.left[name] = shown.left.get(name, 0) + left
