"""Migrations: one line of history, equal to the models, reversible with rows in the tables."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import flask_migrate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Enum, inspect, select, text
from sqlalchemy.exc import DatabaseError

from crm.access.actors import SYSTEM
from crm.background.models import BackgroundJob, JobLine, JobStatus
from crm.bills.models import Bill
from crm.config import ROOT
from crm.contacts.models import Channel
from crm.db import LabelEnum, db, is_modelled, transaction
from crm.ledger.models import Account, AccountKind, Transaction
from crm.ledger.queries import check_ledger, lessons_left
from crm.mailings.models import MailingKind, MailingRun, Message
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.protocol import Outcome
from crm.subscriptions.models import PlanAccount, Subscription
from crm.tills.models import Till, TillKind
from tests.factories import (
    make_account,
    make_client,
    make_job,
    make_message,
    make_network,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)


def history() -> ScriptDirectory:
    return ScriptDirectory(str(ROOT / "migrations"))


def test_history_has_one_head_and_one_base() -> None:
    assert len(history().get_heads()) == 1
    assert len(history().get_bases()) == 1


def test_files_are_named_by_number_and_verb() -> None:
    for revision in history().walk_revisions():
        assert re.fullmatch(r"\d{4}", revision.revision), revision.path
        assert re.search(rf"/{revision.revision}_[a-z]+(_[a-z0-9]+)+\.py$", revision.path), revision.path


def test_models_equal_migrations(app: Any) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_name": is_modelled}
        )
        assert compare_metadata(context, db.metadata) == []


def _checks_in_models() -> dict[tuple[str, str], CheckConstraint]:
    return {
        (table.name, str(constraint.name)): constraint
        for table in db.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }


def test_database_has_the_checks_of_the_models(app: Any) -> None:
    """Alembic does not compare CHECKs, so we do."""
    inspector = inspect(db.engine)
    there = {
        (table, check["name"])
        for table in inspector.get_table_names()
        for check in inspector.get_check_constraints(table)
    }
    expected = {
        (table, name if name.startswith("ck_") else f"ck_{table}_{name}") for table, name in _checks_in_models()
    }
    assert there == expected


def _enum_columns() -> list[tuple[str, str, type[LabelEnum]]]:
    return [
        (table.name, column.name, column.type.enum_class)
        for table in db.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Enum) and column.type.enum_class is not None
    ]


def test_every_label_enum_column_is_checked_by_the_database(app: Any) -> None:
    inspector = inspect(db.engine)
    assert _enum_columns()
    for table, column, enum in _enum_columns():
        values = {member.value for member in enum}
        checked = [
            set(re.findall(r"'([^']*)'", check["sqltext"]))
            for check in inspector.get_check_constraints(table)
            if re.match(rf"\(*\"?{column}\"?\)*(::text)?\)* *(IN\b|=)", check["sqltext"])
        ]
        assert values in checked, f"{table}.{column} takes other values than {sorted(values)}: {checked}"


def test_a_value_the_code_does_not_know_is_refused(app: Any) -> None:
    network = make_network()
    client_id = make_client(network.lesnoy).id
    db.session.commit()
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(text("UPDATE client SET status = 'sleeping' WHERE id = :id"), {"id": client_id})


def test_down_and_up_again_keeps_rows_and_guards(app: Any) -> None:
    """Each migration after the first can be taken back and repeated in a database that is in use."""
    network = make_network()
    account_id = make_account(make_client(network.lesnoy), balance=700).id
    db.session.commit()
    before, posted = _balances(), _posted()
    first = history().get_bases()[0]
    flask_migrate.downgrade(revision=first)
    assert (_balances(), _posted()) == (before, posted)
    flask_migrate.upgrade()
    assert (_balances(), _posted()) == (before, posted)
    assert db.session.get_one(Account, account_id).balance == Decimal(700)
    db.session.commit()
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(text("DELETE FROM ledger_entry"))


def test_lessons_left_of_a_client_become_those_of_his_subscriptions(app: Any) -> None:
    network = make_network()
    client, other = make_client(network.lesnoy), make_client(network.mira)
    for owner in (client, client, other):
        make_subscription(owner, network.plan)
    db.session.commit()
    before, posted = _balances(), _posted()
    flask_migrate.downgrade(revision="0012")
    assert _balances() == before
    assert _posted() > posted
    flask_migrate.upgrade()
    assert _balances() == before
    assert [sold.lessons_left for sold in db.session.scalars(select(Subscription))] == [8, 8, 8]
    assert check_ledger() == []


def test_lessons_owed_are_taken_from_subscriptions_and_forgiven_beyond(app: Any) -> None:
    """Imports brought negative numbers of lessons as long as an account might fall below zero."""
    network = make_network()
    debtor, member, regular, overdrawn = (make_client(network.lesnoy) for _number in range(4))
    for owner in (member, regular, regular, overdrawn):
        make_subscription(owner, network.plan)
    ids, branch_id = [debtor.id, member.id, regular.id, overdrawn.id], network.lesnoy.id
    db.session.commit()
    flask_migrate.downgrade(revision="0012")
    for client_id, owed in zip(ids, (2, 3, 3, 9), strict=True):
        _bring_lessons_owed(client_id, branch_id, owed)
    db.session.commit()
    flask_migrate.upgrade()
    sold = db.session.scalars(select(Subscription).order_by(Subscription.id)).all()
    assert [one.lessons_left for one in sold] == [5, 5, 8, 0]
    assert [int(lessons_left(client_id)) for client_id in ids] == [0, 5, 13, 0]
    given = db.session.scalars(select(Transaction).where(Transaction.comment != "").order_by(Transaction.client_id))
    assert [(one.client_id, abs(one.entries[0].amount)) for one in given] == [(debtor.id, 2), (overdrawn.id, 1)]
    assert check_ledger() == []


def _bring_lessons_owed(client_id: int, branch_id: int, count: int) -> None:
    """Lessons below zero, as an import posted them at 0012."""
    facts = {"client": client_id, "branch": branch_id, "owed": count * 100, "key": f"import:{client_id}"}
    is_whole = "client_id = :client AND kind = 'lessons' AND closed_at IS NULL"
    posted = "(SELECT id FROM ledger_transaction WHERE idempotency_key = :key)"
    house = "(SELECT id FROM account WHERE branch_id = :branch AND kind = 'service')"
    with db.engine.begin() as connection:
        for statement in (
            "INSERT INTO account (branch_id, kind, unit, client_id, opened_at, balance, credited, debited, custom) "
            "SELECT :branch, 'lessons', 'lesson', :client, CURRENT_TIMESTAMP, 0, 0, 0, '{}' "
            f"WHERE NOT EXISTS (SELECT 1 FROM account WHERE {is_whole})",
            "INSERT INTO ledger_transaction (kind, happened_at, branch_id, author_name, client_id, comment, "
            "idempotency_key) VALUES ('opening', CURRENT_TIMESTAMP, :branch, 'system', :client, '', :key)",
            f"UPDATE account SET balance = balance - :owed, debited = debited + :owed WHERE {is_whole}",
            "INSERT INTO ledger_entry (transaction_id, account_id, amount, balance_after) "
            f"SELECT {posted}, id, -:owed, balance FROM account WHERE {is_whole}",
            f"INSERT INTO ledger_entry (transaction_id, account_id, amount) VALUES ({posted}, {house}, :owed)",
        ):
            names = {name: value for name, value in facts.items() if f":{name}" in statement}
            connection.execute(text(statement), names)


def test_the_cash_desk_a_branch_had_becomes_its_first_till(app: Any) -> None:
    network = make_network()
    make_account(make_client(network.lesnoy), balance=700)  # in cash
    db.session.commit()
    till = db.session.scalars(select(Till)).one()
    before = (till.branch_id, till.kind, till.name, till.account_id, till.uses_shifts)
    db.session.commit()
    flask_migrate.downgrade(revision="0009")
    assert "till" not in inspect(db.engine).get_table_names()
    flask_migrate.upgrade()
    till = db.session.scalars(select(Till)).one()
    assert (till.branch_id, till.kind, till.name, till.account_id, till.uses_shifts) == before
    assert (till.kind, till.account.kind) == (TillKind.CASH, AccountKind.CASH)


def test_old_operations_go_on_after_the_new_kinds(app: Any) -> None:
    """The CHECKs of kinds are rewritten without copying the tables: what is not a kind is refused as before."""
    client = make_client(make_network().lesnoy)
    account_id = make_account(client, balance=700).id
    db.session.commit()
    flask_migrate.downgrade(revision="0009")
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(text("UPDATE account SET kind = 'bad_debt' WHERE id = :id"), {"id": account_id})
    flask_migrate.upgrade()
    with pytest.raises(DatabaseError), db.engine.begin() as connection:
        connection.execute(text("UPDATE account SET kind = 'piggy' WHERE id = :id"), {"id": account_id})
    with pytest.raises(DatabaseError), db.engine.begin() as connection:  # closed, with money on it
        connection.execute(text("UPDATE account SET closed_at = opened_at WHERE id = :id"), {"id": account_id})
    assert make_account(client, balance=5).balance == 5


def test_a_mailing_that_runs_meanwhile_goes_on_with_those_who_wait(app: Any) -> None:
    """Runs of before had lines of those alone who were done."""
    network = make_network()
    for _number in range(3):
        make_subscription(make_client(network.lesnoy))
    with transaction():
        run_id = run_now(make_rule(network.lesnoy), by=SYSTEM).id
    assert not execute_run(run_id, by=SYSTEM, limit=1)
    db.session.commit()
    flask_migrate.downgrade(revision="0014")
    flask_migrate.upgrade()
    assert execute_run(run_id, by=SYSTEM)
    query = select(Bill.client_id).order_by(Bill.client_id)
    assert len(db.session.scalars(query).all()) == len(set(db.session.scalars(query))) == 3
    assert db.session.get_one(MailingRun, run_id, populate_existing=True).total == 3


def test_what_former_releases_cannot_send_bills_nobody_and_leaves_over_no_other_channel(app: Any) -> None:
    network = make_network()
    client = make_client(network.lesnoy)
    make_message(client, channel=Channel.TELEGRAM, recipient="4711")
    make_message(client, channel=Channel.SMS, recipient=client.phone)
    rules = [make_rule(network.lesnoy, kind=kind) for kind in (MailingKind.TEXT, MailingKind.BILLS)]
    with transaction():
        for rule in rules:
            run_now(rule, by=SYSTEM)
    db.session.commit()
    flask_migrate.downgrade(revision="0014")
    with db.engine.connect() as connection:
        runs = connection.execute(text("SELECT status FROM mailing_run ORDER BY rule_id")).scalars().all()
        messages = connection.execute(text("SELECT status FROM message ORDER BY id")).scalars().all()
    assert (runs, messages) == (["done", "planned"], ["skipped", "pending"])
    flask_migrate.upgrade()


def test_a_line_of_former_releases_has_the_first_of_the_bills_it_was_told_of(app: Any) -> None:
    network = make_network()
    payer, other = make_client(network.lesnoy), make_client(network.lesnoy)
    for account in (PlanAccount.BASE, PlanAccount.SEPARATE):
        make_subscription(payer, make_plan(account=account))
    rule = make_rule(network.lesnoy, template=make_template(body="{customer.bills}"))
    make_subscription(other)
    with transaction():
        other.email = None
        run_id = run_now(rule, by=SYSTEM).id
    assert execute_run(run_id, by=SYSTEM)
    told = {line.client_id: None for line in db.session.get_one(MailingRun, run_id).lines}
    first, second = db.session.scalars(select(Bill).order_by(Bill.id)).all()
    (message,) = db.session.scalars(select(Message)).all()
    assert message.bills == [first, second]
    told[payer.id] = first.id
    db.session.commit()
    flask_migrate.downgrade(revision="0014")
    with db.engine.connect() as connection:
        lines = connection.execute(text("SELECT client_id, bill_id FROM mailing_run_line ORDER BY client_id")).all()
    assert dict(tuple(line) for line in lines) == told
    flask_migrate.upgrade()
    assert db.session.scalars(select(Message)).one().bills == [first]


def test_lines_of_former_releases_keep_what_they_said(app: Any) -> None:
    """A line without an error was done, or, where fields were changed, had nothing to change."""
    network = make_network()
    edit, issue = (make_job(network.director, entity="bill", params=params) for params in ({"is_undoable": True}, {}))
    done, skipped, failed = Outcome
    changed = {"payable_until": ["2027-01-31", "2027-02-28"]}
    facts: list[tuple[BackgroundJob, dict[str, Any]]] = [
        (edit, {"outcome": done, "changes": changed}),
        (edit, {"outcome": skipped, "reason": "Уже так"}),
        (edit, {"outcome": failed, "reason": "Нельзя"}),
        (issue, {"outcome": done}),
        (issue, {"outcome": skipped, "reason": "Платить нечего"}),
        (issue, {"outcome": failed, "reason": "Не найден"}),
    ]
    with transaction():
        for job, line in facts:
            db.session.add(JobLine(job_id=job.id, row_id=1, **line))
        for job in (edit, issue):
            job.status, job.done, job.skipped, job.failed = JobStatus.DONE, 3, 1, 1
    ids = [edit.id, issue.id]
    db.session.commit()
    flask_migrate.downgrade(revision="0015")
    with db.engine.connect() as connection:
        errors = connection.execute(text("SELECT error FROM job_line ORDER BY id")).scalars().all()
        counts = connection.execute(text("SELECT done, failed FROM background_job ORDER BY id")).all()
    assert errors == [None, None, "Нельзя", None, "Платить нечего", "Не найден"]
    assert [tuple(row) for row in counts] == [(3, 1), (3, 2)]
    flask_migrate.upgrade()
    lines = db.session.scalars(select(JobLine).order_by(JobLine.id)).all()
    assert [line.outcome for line in lines] == [done, skipped, failed, done, failed, failed]
    assert [line.reason for line in lines] == errors
    jobs = [db.session.get_one(BackgroundJob, id, populate_existing=True) for id in ids]
    assert [(job.done, job.skipped, job.failed) for job in jobs] == [(3, 1, 1), (3, 0, 2)]


def test_down_to_nothing_and_up_again(app: Any) -> None:
    make_account(make_client(make_network().lesnoy), balance=700)
    db.session.commit()
    flask_migrate.downgrade(revision="base")
    assert set(inspect(db.engine).get_table_names()) <= {"alembic_version"}
    flask_migrate.upgrade()
    assert make_network().lesnoy.id


def _balances() -> dict[tuple[int, int, str], int]:
    """What each client has in a branch, by unit."""
    sums = "SELECT client_id, branch_id, unit, sum(balance) FROM account WHERE client_id IS NOT NULL GROUP BY 1, 2, 3"
    with db.engine.connect() as connection:
        found = {(row[0], row[1], row[2]): int(row[3]) for row in connection.execute(text(sums))}
    assert found
    return found


def _posted() -> set[tuple[int, int, int]]:
    with db.engine.connect() as connection:
        rows = connection.execute(text("SELECT transaction_id, account_id, amount FROM ledger_entry"))
        return {(row[0], row[1], row[2]) for row in rows}
