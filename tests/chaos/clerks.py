"""Clerks at work: a program that moves money between the same few accounts as fast as it can, in processes and threads.

`python -m tests.chaos.clerks FOLDER` reads FOLDER/work.json (see Work), builds the application as a server does, forks
the processes, and ends with 0 when the time is over. Each thread notes what was acknowledged to it in a journal of its
own, FOLDER/<number>.journal: one line per committed operation, on the disk before the next one begins. What no person
should ever see goes to FOLDER/errors.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from crm import clock, create_app
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.debts.operations import write_off_debt
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, Transaction
from crm.ledger.operations import base_account
from crm.payments import desk
from crm.payments.models import DESK_METHODS, Payment
from crm.payments.operations import pay_bill_from_account, top_up
from crm.subscriptions.models import Plan
from crm.subscriptions.operations import sell_subscription
from crm.visits.models import WayToPay
from crm.visits.operations import book_visit, pay_visit

# What a clerk may be told; anything else is a defect.
REFUSALS = {"not_enough", "till_short", "account_same", "no_debt", "above_debt", "irreversible", "already_reversed"}

# Signed amounts by account id.
Moves = dict[int, Decimal]


@dataclass(frozen=True)
class Work:
    """accounts: the client accounts everybody uses; bills: repeatable ones of their clients; plans: to be sold.

    may_lose_server: a broken connection is an answer, too: nothing was acknowledged.
    """

    accounts: list[int]
    bills: list[int]
    plans: list[int]
    processes: int
    threads: int
    seconds: float
    seed: int
    may_lose_server: bool = False


@dataclass(frozen=True)
class Acknowledged:
    """One operation that was committed. key: of its ledger transaction; moves: what it did to client accounts."""

    key: str
    moves: Moves


# --- what clerks do -------------------------------------------------------------------------------------------------


@dataclass
class Clerk:
    """One thread's person."""

    work: Work
    chance: random.Random

    def act(self) -> Acknowledged | None:
        """One operation in a transaction of its own; None when there was nothing to do."""
        do = self.chance.choice(_OPERATIONS)
        with transaction():
            return do(self)

    def account(self) -> Account:
        return db.session.get_one(Account, self.chance.choice(self.work.accounts))

    def amount(self) -> Decimal:
        return Decimal(self.chance.randint(1, 30_000)) / 100


def _top_up(clerk: Clerk) -> Acknowledged:
    account, amount = clerk.account(), clerk.amount()
    payment = top_up(account, amount=amount, method=clerk.chance.choice(DESK_METHODS), by=SYSTEM)
    return Acknowledged(_key(payment), {account.id: amount})


def _pay_bill(clerk: Clerk) -> Acknowledged | None:
    bill = db.session.get_one(Bill, clerk.chance.choice(clerk.work.bills))
    theirs = select(Account.id).where(Account.id.in_(clerk.work.accounts), Account.client_id == bill.client_id)
    sources = sorted(set(db.session.scalars(theirs)) - {bill.account_id})
    source = db.session.get_one(Account, clerk.chance.choice(sources))
    payment = pay_bill_from_account(bill, source, by=SYSTEM)
    return Acknowledged(_key(payment), {source.id: -bill.amount, bill.account_id: bill.amount})


def _transfer(clerk: Clerk) -> Acknowledged:
    """Within a family or to another client, in the next branch."""
    source, target, amount = clerk.account(), clerk.account(), clerk.amount()
    return _done(desk.transfer(source, target, amount=amount, by=SYSTEM), {source.id: -amount, target.id: amount})


def _write_off(clerk: Clerk) -> Acknowledged:
    account, amount = clerk.account(), clerk.amount()
    return _done(desk.write_off(account, amount=amount, reason="Прокат", by=SYSTEM), {account.id: -amount})


def _refund(clerk: Clerk) -> Acknowledged:
    account, amount, method = clerk.account(), clerk.amount(), clerk.chance.choice(desk.REFUND_METHODS)
    return _done(desk.refund(account, amount=amount, method=method, by=SYSTEM), {account.id: -amount})


def _forgive(clerk: Clerk) -> Acknowledged | None:
    account, amount = clerk.account(), clerk.amount()
    if account.kind is not AccountKind.BASE:
        return None
    return _done(write_off_debt(account, amount=amount, reason="Ошибка", by=SYSTEM), {account.id: amount})


def _sell(clerk: Clerk) -> Acknowledged:
    client = db.session.get_one(Client, clerk.account().client_id)
    plan = db.session.get_one(Plan, clerk.chance.choice(clerk.work.plans))
    today = clock.today(db.session.get_one(Branch, client.branch_id))
    sold = sell_subscription(client, plan, starts_on=today, by=SYSTEM)
    payer_account = base_account(client.id, client.branch_id)
    return Acknowledged(f"subscription:{sold.id}:sale", {payer_account.id: -plan.price})


def _visit(clerk: Clerk) -> Acknowledged:
    account, price = clerk.account(), clerk.amount()
    client = db.session.get_one(Client, account.client_id)
    visit = book_visit(client, service="Занятие", starts_at=clock.now(), price=price, by=SYSTEM)
    paid = pay_visit(visit, WayToPay.ACCOUNT, account=account, by=SYSTEM)
    return _done(paid, {account.id: -price})


def _reverse(clerk: Clerk) -> Acknowledged | None:
    """One of the latest operations, whoever did it: two may want to reverse the same one."""
    latest = select(Transaction.id).order_by(Transaction.id.desc()).limit(8)
    ids = db.session.scalars(latest).all()
    wrong = db.session.get_one(Transaction, clerk.chance.choice(ids))
    moves = _added(*({entry.account_id: -entry.amount} for entry in wrong.entries if entry.balance_after is not None))
    undone = desk.reverse_operation(wrong, by=SYSTEM, comment="Ошибка")
    return _done(undone, moves)


_OPERATIONS: tuple[Callable[[Clerk], Acknowledged | None], ...] = (
    *(_top_up, _top_up, _top_up, _pay_bill, _pay_bill, _transfer, _transfer, _transfer),
    *(_write_off, _refund, _forgive, _sell, _visit, _reverse),
)


def _done(posted: Transaction, moves: Moves) -> Acknowledged:
    return Acknowledged(posted.idempotency_key, moves)


def _key(payment: Payment) -> str:
    return f"payment:{payment.id}"


def _added(*moves: Moves) -> Moves:
    sums: Moves = {}
    for move in moves:
        for account_id, amount in move.items():
            sums[account_id] = sums.get(account_id, Decimal(0)) + amount
    return sums


# --- the program ----------------------------------------------------------------------------------------------------


def journals(folder: Path) -> Iterator[Acknowledged]:
    """What was acknowledged to all clerks so far; the line a killed one was just writing does not count."""
    for path in sorted(folder.glob("*.journal")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                facts: dict[str, Any] = json.loads(line)
                yield Acknowledged(facts["key"], {int(at): Decimal(sum_) for at, sum_ in facts["moves"].items()})


def write_work(folder: Path, work: Work) -> None:
    (folder / "work.json").write_text(json.dumps(asdict(work)))


def _work_through(app: Any, folder: Path, work: Work, number: int, until: float) -> None:
    """One thread until the time is over, and one operation is done at least."""
    clerk, is_idle = Clerk(work, random.Random(work.seed + number)), True
    with (folder / f"{work.seed}-{number}.journal").open("a") as journal:
        while is_idle or time.monotonic() < until:
            try:
                with app.app_context(), scoped_to(EVERYWHERE):
                    done = clerk.act()
            except DomainError as refusal:
                if refusal.code not in REFUSALS:
                    _complain(folder)
                continue
            except DBAPIError as error:
                if not (work.may_lose_server and _is_lost(error)):
                    _complain(folder)
                time.sleep(0.1)
                continue
            except Exception:
                _complain(folder)
                return
            if done is not None:
                moves = {account_id: str(amount) for account_id, amount in done.moves.items()}
                journal.write(json.dumps({"key": done.key, "moves": moves}) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
                is_idle = False


def _is_lost(error: DBAPIError) -> bool:
    """The server went away, or is not there yet."""
    return error.connection_invalidated or "connection" in str(error.orig) or "recovery" in str(error.orig)


def _complain(folder: Path) -> None:
    with (folder / "errors").open("a") as errors:
        errors.write(traceback.format_exc() + "\n")


def main(folder: Path) -> None:
    work = Work(**json.loads((folder / "work.json").read_text()))
    app = create_app()
    children = []
    for process in range(work.processes):
        if child := os.fork():
            children.append(child)
            continue
        until = time.monotonic() + work.seconds
        threads = [
            threading.Thread(target=_work_through, args=(app, folder, work, process * work.threads + at, until))
            for at in range(work.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
