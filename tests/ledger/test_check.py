"""check_ledger() finds what is wrong, and any sequence of operations leaves it nothing to find."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from crm import clock
from crm.access.actors import SYSTEM
from crm.db import db, transaction
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import Line, base_account, house_account, lessons_account, post, reverse
from crm.ledger.queries import check_ledger
from tests.factories import Network, make_account, make_client
from tests.migrations import triggers

BREAKS = {
    "unbalanced transaction": "UPDATE ledger_entry SET amount = amount + 1"
    " WHERE id = (SELECT max(id) FROM ledger_entry)",
    "transaction without entries": "DELETE FROM ledger_entry",
    "cached balance differs from entries": "UPDATE account SET balance = balance + 1, credited = credited + 1"
    " WHERE client_id IS NOT NULL",
    "house account with a cached balance": "UPDATE account SET balance = 1, credited = 1 WHERE client_id IS NULL",
    "last balance_after differs from the balance": "UPDATE ledger_entry SET balance_after = 1"
    " WHERE balance_after IS NOT NULL",
    "succeeded payment without its transaction": "UPDATE ledger_transaction SET payment_id = NULL",
    "branch out of balance": "UPDATE account SET branch_id = (SELECT max(id) FROM branch) WHERE kind = 'cash'",
    "till without an account of its kind": "UPDATE till SET kind = 'bank'",
    "reversed payment that stands": "UPDATE payment SET status = 'reversed'",
    "closed account not at zero": "UPDATE account SET closed_at = opened_at WHERE client_id IS NOT NULL",
}
# The database itself refuses some of it.
LETS = {
    "sqlite": "PRAGMA ignore_check_constraints = ON",
    "postgresql": "ALTER TABLE account DROP CONSTRAINT ck_account_closed",
}


@pytest.mark.parametrize("what", BREAKS)
def test_each_kind_of_damage_is_found(network: Network, what: str) -> None:
    make_account(make_client(network.lesnoy), balance=1000)
    assert check_ledger() == []
    for statement in triggers().drop_statements(db.engine.dialect.name):
        db.session.execute(text(statement))
    db.session.execute(text(LETS[db.engine.dialect.name]))
    db.session.execute(text(BREAKS[what]))
    assert what in {problem.what for problem in check_ledger()}
    db.session.rollback()


def test_what_was_posted_before_branches_settled_stays(network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=1000)
    for statement in triggers().drop_statements(db.engine.dialect.name):
        db.session.execute(text(statement))
    db.session.execute(text(BREAKS["branch out of balance"]))
    db.session.execute(text("UPDATE till SET branch_id = (SELECT max(id) FROM branch)"))
    assert check_ledger() != []
    db.session.execute(
        text("UPDATE ledger_mark SET at = (SELECT max(id) FROM ledger_transaction) WHERE name = 'settled'")
    )
    assert check_ledger() == []
    db.session.rollback()


def test_the_command_says_so(app: Flask, network: Network) -> None:
    make_account(make_client(network.lesnoy), balance=1000)
    db.session.commit()
    # In a context of its own, as from a shell: not in the test's scope.
    result = contextvars.Context().run(app.test_cli_runner().invoke, args=["ledger", "check"])
    assert (result.exit_code, result.output) == (0, "ledger: clean\n")


KINDS = ("top_up", "write_off", "charge", "lessons", "transfer", "reverse", "repeat")
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 2),
        st.integers(0, 2),
        st.decimals(Decimal("0.01"), Decimal("500"), places=2),
    ),
    max_size=25,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_sequence_of_operations_leaves_the_ledger_clean(
    network: Network, steps: list[tuple[str, int, int, Decimal]]
) -> None:
    """Against a model: the sums the operations that were accepted ought to leave."""
    branch_id = network.lesnoy.id
    clients = [make_client(network.lesnoy) for _ in range(3)]
    deposits = [make_account(client, network.account_type) for client in clients]
    expected = {account.id: Decimal(0) for account in deposits}
    debts, lessons = [Decimal(0)] * 3, [Decimal(0)] * 3
    last_key, last_posted = "none yet", None
    cash, revenue = (house_account(kind, branch_id) for kind in (AccountKind.CASH, AccountKind.REVENUE))
    granted = house_account(AccountKind.SERVICE, branch_id, Unit.LESSON)

    for number, (kind, who, whom, sum_) in enumerate(steps):
        account, other = deposits[who], deposits[(who + 1 + whom % 2) % 3]
        key = f"step:{clients[0].id}:{number}"
        moves: list[tuple[Account, Decimal]]
        if kind == "top_up":
            moves = [(account, sum_), (cash, -sum_)]
        elif kind == "write_off":
            moves = [(account, -sum_), (revenue, sum_)]
        elif kind == "transfer":
            moves = [(account, -sum_), (other, sum_)]
        elif kind == "charge":
            moves = [(base_account(clients[who].id, branch_id), -sum_), (revenue, sum_)]
        elif kind == "lessons":
            moves = [(lessons_account(clients[who].id, branch_id), Decimal(whom + 1)), (granted, -Decimal(whom + 1))]
        elif kind == "repeat":
            if last_posted is not None:
                with transaction():
                    again = post(
                        TransactionKind.TOP_UP,
                        [Line(account, sum_), Line(cash, -sum_)],
                        branch_id=branch_id,
                        by=SYSTEM,
                        key=last_key,
                    )
                assert again.id == last_posted.id
            continue
        else:
            if last_posted is not None:
                _undo(last_posted, expected, debts, lessons, clients)
                last_posted = None
            continue
        try:
            with transaction():
                last_posted = post(
                    TransactionKind.TOP_UP,
                    [Line(account_, change) for account_, change in moves],
                    branch_id=branch_id,
                    by=SYSTEM,
                    key=key,
                )
        except DomainError as error:
            if error.code != "not_enough":
                raise
            continue
        last_key = key
        _note(moves, expected, debts, lessons, clients, sign=1)

    assert check_ledger() == []
    for account in deposits:
        assert account.balance == expected[account.id] >= 0
    for index, client in enumerate(clients):
        assert base_account(client.id, branch_id).balance == debts[index]
        assert lessons_account(client.id, branch_id).balance == lessons[index]
    db.session.commit()


def _note(
    moves: list[tuple[Account, Decimal]],
    expected: dict[int, Decimal],
    debts: list[Decimal],
    lessons: list[Decimal],
    clients: list[Any],
    *,
    sign: int,
) -> None:
    order = [client.id for client in clients]
    for account, change in moves:
        if account.id in expected:
            expected[account.id] += sign * change
        elif account.kind is AccountKind.BASE:
            debts[order.index(account.client_id)] += sign * change
        elif account.kind is AccountKind.LESSONS:
            lessons[order.index(account.client_id)] += sign * change


def _undo(
    posted: Transaction,
    expected: dict[int, Decimal],
    debts: list[Decimal],
    lessons: list[Decimal],
    clients: list[Any],
) -> None:
    try:
        with transaction():
            reverse(posted, by=SYSTEM, comment="")
    except DomainError as error:
        if error.code != "not_enough":
            raise
        return
    _note([(entry.account, entry.amount) for entry in posted.entries], expected, debts, lessons, clients, sign=-1)


def test_every_instant_has_an_order(network: Network, in_parallel: Callable[..., list[Any]]) -> None:
    """The last entry of an account says its balance, also when many wrote at once."""
    account_id = make_account(make_client(network.lesnoy)).id
    branch_id = network.lesnoy.id

    def pay(_index: int) -> None:
        with transaction():
            account = db.session.get_one(Account, account_id)
            lines = [Line(account, Decimal(1)), Line(house_account(AccountKind.CASH, branch_id), Decimal(-1))]
            post(TransactionKind.TOP_UP, lines, branch_id=branch_id, by=SYSTEM, happened_at=clock.now())

    in_parallel(pay)
    history = select(Entry.balance_after).where(Entry.account_id == account_id).order_by(Entry.id)
    assert list(db.session.scalars(history)) == list(range(1, 9))
    assert db.session.scalar(select(func.count()).select_from(Transaction)) == 8
