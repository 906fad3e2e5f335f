"""Clients a mailing bills: made by thousands, each with a subscription of this month that nobody has asked for yet."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import select, text

from crm import clock
from crm.access.models import Branch
from crm.clients.models import Client, ClientStatus, search_text
from crm.db import db, insert_rows, transaction
from crm.ledger.models import Account, AccountKind, Unit
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus

PRICE = Decimal(4500)


def make_recipients(branch: Branch, count: int, *, first: int = 0) -> Sequence[int]:
    """Ids of `count` new payers of a branch, each with an e-mail (recipient<number>@demo.test), a base account and a
    subscription charged lesson by lesson. Commits by itself.
    """
    now, today = clock.now(), clock.today(branch)
    with transaction():
        plan = db.session.scalar(select(Plan).where(Plan.name == "Рассылаемый")) or Plan(
            name="Рассылаемый", price=PRICE, lessons=8, charge=ChargeMoment.PER_LESSON
        )
        db.session.add(plan)
        db.session.flush()
        names = [f"Получатель {number:06d}" for number in range(first, first + count)]
        insert_rows(
            Client,
            [
                {
                    "branch_id": branch.id,
                    "status": ClientStatus.ACTIVE,
                    "name": name,
                    "email": f"recipient{number}@demo.test",
                    "comment": "",
                    "search": search_text([name], f"recipient{number}@demo.test", []),
                    "created_at": now,
                    "version": 1,
                }
                for number, name in enumerate(names, first)
            ],
        )
        of_these = select(Client.id).where(Client.name.between(names[0], names[-1]), Client.branch_id == branch.id)
        ids = db.session.scalars(of_these.order_by(Client.id)).all()
        account: dict[str, Any] = {"branch_id": branch.id, "kind": AccountKind.BASE, "unit": Unit.MONEY}
        account |= {"opened_at": now, "balance": Decimal(0), "credited": Decimal(0), "debited": Decimal(0)}
        insert_rows(Account, [account | {"client_id": id} for id in ids])
        sold = {
            "branch_id": branch.id,
            "plan_id": plan.id,
            "status": SubscriptionStatus.ACTIVE,
            "price": plan.price,
            "charge": ChargeMoment.PER_LESSON,
            "account": PlanAccount.BASE,
            "starts_on": today,
            "ends_on": today,
            "sold_at": now,
            "version": 1,
        }
        insert_rows(Subscription, [sold | {"client_id": id} for id in ids])
    # Else PostgreSQL takes the tables to be empty and looks through all of them.
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return ids
