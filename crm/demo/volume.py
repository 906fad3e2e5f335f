"""Any number of clients and bills, fast: rows as the operations would have left them, written by bulk INSERT.

For measuring only. It bypasses post(), so it keeps by itself what post() keeps: entries that sum to zero, caches that
equal their entries, a payment's transaction under its key. `flask ledger check` is the proof, and a test runs it.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select, text

from crm import clock
from crm.access.models import Branch, User
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.models import Bill, BillCounter, BillMethod, BillStatus
from crm.clients.models import Client, ClientStatus, search_text
from crm.db import Model, db, insert_rows, transaction
from crm.demo.names import Person, child_of, grown_up, surname_of_many
from crm.demo.network import DemoNetwork
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.tills.models import TillKind
from crm.tills.operations import hold_till

FAMILIES_AT_ONCE = 1500
DAYS = 720  # over which things are spread
_ZERO = Decimal("0.00")
_CARD: dict[str, Any] = {
    "payer_id": None,
    "status": ClientStatus.ACTIVE,
    "phone": None,
    "extra_phone": None,
    "email": None,
    "birth_date": None,
    "comment": "",
}


def add_volume(network: DemoNetwork, *, clients: int, bills: int, chance: random.Random) -> None:
    """Add so many cards, and so many bills dealt out evenly among the new payers. Commits chunk by chunk."""
    with transaction():
        number = db.session.scalar(select(func.count()).where(Client.payer_id.is_(None))) or 0
        writer = _Writer(network, chance)
    done = issued = 0
    while done < clients:
        with transaction():
            for _ in range(FAMILIES_AT_ONCE):
                if done == clients:
                    break
                number += 1
                children = min(number % 3, clients - done - 1)
                done += 1 + children
                due = bills * done // clients - issued
                issued += due
                writer.add_family(number, children, due)
            writer.write()
    if done:
        with transaction():
            _restart_sequences(writer.tables)


class _Writer:
    """Rows of one chunk, by table in the order of their foreign keys; ids are given here."""

    tables: Sequence[type[Model]] = (Client, Account, Bill, Payment, Transaction, Entry, AuditEntry)

    def __init__(self, network: DemoNetwork, chance: random.Random) -> None:
        self._network = network
        self._terminals = {branch.id: hold_till(TillKind.TERMINAL, branch.id).id for branch in network.branches}
        self._chance = chance
        self._now = clock.now()
        self._ids: dict[type[Model], int] = {
            model: db.session.scalar(select(func.coalesce(func.max(model.id), 0))) or 0  # type: ignore[attr-defined]
            for model in self.tables
        }
        self._rows: dict[type[Model], list[dict[str, Any]]] = defaultdict(list)
        self._numbers: dict[tuple[int, int], int] = {
            (counter.company_id, counter.year): counter.last for counter in db.session.scalars(select(BillCounter))
        }

    def add_family(self, number: int, children: int, bills: int) -> None:
        """A payer, his children, his base account, and bills to it of which a third is paid."""
        chance = self._chance
        branch = self._network.branches[number % len(self._network.branches)]
        joined = self._moment(branch, chance.randrange(DAYS // 2, DAYS))
        parent = grown_up(chance, surname_of_many(chance))
        payer_id = self._add_card(
            branch,
            parent,
            joined,
            status=ClientStatus.ARCHIVED if chance.random() < 0.07 else ClientStatus.ACTIVE,
            phone=_phone(number) if chance.random() < 0.95 else None,
            extra_phone=_phone(10**7 - number) if chance.random() < 0.15 else None,
            email=f"client{number}@example.{chance.choice(('org', 'com', 'net'))}" if chance.random() < 0.7 else None,
            comment=chance.choice(("Просили звонить после шести", "Ходят всей семьёй", "")),
        )
        for _ in range(children):
            born = self._now.date() - timedelta(days=chance.randrange(4 * 365, 15 * 365))
            self._add_card(branch, child_of(parent, chance), joined, payer_id=payer_id, birth_date=born)
        account = self._add(
            Account,
            kind=AccountKind.BASE,
            unit=Unit.MONEY,
            branch_id=branch.id,
            client_id=payer_id,
            opened_at=joined,
            balance=_ZERO,
            credited=_ZERO,
            debited=_ZERO,
        )
        for _ in range(bills):
            self._add_bill(branch, payer_id, account)

    def _add_card(self, branch: Branch, person: Person, at: datetime, **facts: Any) -> int:
        row = self._add(
            Client,
            **{**_CARD, **facts},
            branch_id=branch.id,
            name=person.name,
            created_at=at,
            version=1,
        )
        row["search"] = search_text([person.name], row["email"], (row["phone"], row["extra_phone"]))
        self._note(row, "client", person.name, branch, at, {"name": [None, person.name]})
        return int(row["id"])

    def _add_bill(self, branch: Branch, payer_id: int, account: dict[str, Any]) -> None:
        chance, clerk = self._chance, self._network.clerks[branch.id]
        issued = self._moment(branch, chance.randrange(1, DAYS // 2))
        day = clock.local(issued, branch).date()
        fate = chance.choices((BillStatus.PAID, BillStatus.PENDING, BillStatus.ARCHIVED), (35, 50, 15))[0]
        paid_at = min(issued + timedelta(hours=chance.randrange(1, 72)), self._now) if fate is BillStatus.PAID else None
        price, discount = chance.choice(self._network.plans).price, chance.choice((0, 0, 0, 5, 10, 25))
        amount = (price * (100 - discount) / 100).quantize(_ZERO)
        number = self._numbers[branch.company_id, day.year] = self._numbers.get((branch.company_id, day.year), 0) + 1
        bill = self._add(
            Bill,
            branch_id=branch.id,
            company_id=branch.company_id,
            year=day.year,
            number=number,
            token=secrets.token_urlsafe(24),
            client_id=payer_id,
            account_id=account["id"],
            status=fate,
            method=chance.choice(tuple(BillMethod)),
            amount=amount,
            period_from=day,
            period_to=day + timedelta(days=29),
            payable_from=day,
            payable_until=day + timedelta(days=13) if number % 3 else None,
            is_repeatable=False,
            payments_count=int(paid_at is not None),
            issued_at=issued,
            paid_at=paid_at,
            author_id=clerk.id,
            version=1,
        )
        label = f"{day.year}-{number:06d}"
        self._note(bill, "bill", label, branch, issued, {"amount": [None, str(amount)], "client_id": [None, payer_id]})
        if paid_at is not None:
            self._add_payment(branch, bill, account, paid_at, clerk)

    def _add_payment(
        self, branch: Branch, bill: dict[str, Any], account: dict[str, Any], at: datetime, clerk: User
    ) -> None:
        amount = bill["amount"]
        payment = self._add(
            Payment,
            branch_id=branch.id,
            client_id=bill["client_id"],
            account_id=account["id"],
            bill_id=bill["id"],
            method=PaymentMethod.CARD,
            status=PaymentStatus.SUCCEEDED,
            amount=amount,
            created_at=at,
            received_at=at,
            author_id=clerk.id,
            author_name=clerk.name,
            comment="",
        )
        row = self._add(
            Transaction,
            kind=TransactionKind.TOP_UP,
            happened_at=at,
            branch_id=branch.id,
            author_id=clerk.id,
            author_name=clerk.name,
            client_id=bill["client_id"],
            payment_id=payment["id"],
            bill_id=bill["id"],
            comment="",
            idempotency_key=f"payment:{payment['id']}",
        )
        account["balance"] += amount
        account["credited"] += amount
        terminal = self._terminals[branch.id]
        for account_id, change, after in ((account["id"], amount, account["balance"]), (terminal, -amount, None)):
            self._add(Entry, transaction_id=row["id"], account_id=account_id, amount=change, balance_after=after)

    def _note(
        self, row: dict[str, Any], entity: str, label: str, branch: Branch, at: datetime, changes: dict[str, Any]
    ) -> None:
        clerk = self._network.clerks[branch.id]
        self._add(
            AuditEntry,
            at=at,
            actor_id=clerk.id,
            actor_name=clerk.name,
            origin="demo",
            action=AuditAction.CREATE,
            entity=entity,
            entity_id=row["id"],
            entity_label=label,
            branch_id=branch.id,
            changes=changes,
        )

    def _moment(self, branch: Branch, days_ago: int) -> datetime:
        opening = time(self._chance.randrange(9, 20), self._chance.randrange(60))
        return clock.at(clock.today(branch) - timedelta(days=days_ago), opening, branch)

    def _add(self, model: type[Model], **values: Any) -> dict[str, Any]:
        self._ids[model] += 1
        row = {"id": self._ids[model], **values}
        self._rows[model].append(row)
        return row

    def write(self) -> None:
        """Send the chunk."""
        for model in self.tables:
            if rows := self._rows.pop(model, []):
                insert_rows(model, rows)
        for (company_id, year), last in self._numbers.items():
            db.session.merge(BillCounter(company_id=company_id, year=year, last=last))


def _phone(number: int) -> str:
    """The phone of the number-th payer, none of his neighbours' alike."""
    return f"+7902{number * 7_654_321 % 10**7:07d}"


def _restart_sequences(models: Iterable[type[Model]]) -> None:
    """PostgreSQL gave none of these ids itself; let it go on after them."""
    if db.session.connection().dialect.name != "postgresql":
        return
    for model in models:
        name = model.__tablename__
        db.session.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}"))  # noqa: S608
