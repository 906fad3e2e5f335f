"""Whom a mailing is for, among a million clients; a hundred thousand payers billed in constant memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask_migrate
from sqlalchemy import func, select, text

from bench.contestants import Contestant, Skill
from bench.databases import Place
from bench.kontora import application
from bench.report import figure_line, megabytes, within
from bench.sizes import BILLING_GROWTH, SELECT_SECONDS
from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.origin import acting
from crm.bills.models import Bill
from crm.catalogue.models import LessonType
from crm.clients.models import Client
from crm.db import db, transaction
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRule,
    MailingRun,
    MailingRunLine,
    PeriodType,
    RunResult,
)
from crm.mailings.recipients import recipients as choice_of
from crm.mailings.recipients import write_lines
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.subscriptions.models import Plan
from tests.factories import make_lesson_type, make_network, make_plan, make_rule, make_template

CLIENTS = int(os.environ.get("BENCH_RECIPIENTS") or 1_000_000)
BILLED = int(os.environ.get("BENCH_BILLED") or 100_000)  # payers of a branch of their own
TURN = 1000  # lines a worker does before it looks at its letters
LESSONS_A_DAY, DAYS = 300, 30

# By what the report calls it: a rule's facts.
RULES: dict[str, dict[str, Any]] = {
    "bills, by the cost": {"method": BillingMethod.SUBSCRIPTION},
    "  of a subject, a bill each": {"accounts": BilledAccounts.SUBSCRIPTION},
    "  who was there in 30 days": {"attended_only": True},
    "  who has a lesson that day": {"lesson_only": True},
    "bills, by the forecast": {"method": BillingMethod.FORECAST, "period_type": PeriodType.NEXT},
    "debts": {"kind": MailingKind.DEBT},
    "subscriptions that end, used up": {"kind": MailingKind.SUBSCRIPTION, "days": 7},
    "lessons of tomorrow": {"kind": MailingKind.LESSON, "days": 1},
    "birthdays": {"kind": MailingKind.BIRTHDAY},
    "everybody": {"kind": MailingKind.TEXT},
}
TOLD, EVERYBODY = "subscriptions that end, used up", "everybody"


def recipients(place: Place) -> Iterator[str]:
    """Lines of the report, on both databases."""
    with ExitStack() as stack:
        for system in ("SQLite", "PostgreSQL"):
            name = f"kontora_bench_recipients_{CLIENTS}_{BILLED}"
            url = place.sqlite(name) if system == "SQLite" else stack.enter_context(place.postgresql(name))
            yield f"\n{system}: recipients among {CLIENTS:,} clients"
            with Contestant(school, url, place.home) as contestant:
                contestant.run("wake")
                for what in RULES:
                    yield _chosen(contestant, what, what)
                contestant.run("tell", TOLD)
                yield _chosen(contestant, TOLD, "  told already")
                written = contestant.run("write", EVERYBODY)
                yield figure_line("everybody, as lines of a run", f"{written.seconds:.2f} s")
            with Contestant(school, url, place.home) as contestant:  # whose memory has held nothing else
                contestant.run("begin")
                contestant.run("bill", TURN)
                began = contestant.peak_memory()
                turns = [contestant.run("bill", TURN)]
                while turns[-1].content:
                    turns.append(contestant.run("bill", TURN))
                grown = contestant.peak_memory() - began
                seconds = sum(turn.seconds for turn in turns)
                count = int(contestant.run("proof").content) - TURN
                yield figure_line(
                    f"{count + TURN:,} billed",
                    f"{count / seconds:.0f} /s, {megabytes(began)}, {megabytes(grown)} more at the end",
                    within("MB more", grown / 1e6, at_most=BILLING_GROWTH / 1e6),
                )


def _chosen(contestant: Contestant, what: str, shown: str) -> str:
    turns = [contestant.run("select", what) for _ in range(3)]
    seconds = min(turn.seconds for turn in turns)
    figures = f"{seconds:.2f} s, {int(turns[0].content):,} of them"
    return figure_line(shown, figures, within("s", seconds, at_most=SELECT_SECONDS))


# --- the contestant ---------------------------------------------------------------------------------------------------


def school(url: str, home: Path) -> Mapping[str, Skill]:
    """select(what) finds whom that rule is for; write(what) writes the lines of a run and forgets them; tell(what)
    keeps them, as told; begin() a run that bills the payers of the second branch, bill(count) does so many of its
    lines, proof().
    """
    app = application(url, home)
    with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
        flask_migrate.upgrade()
        if db.session.scalar(select(User.id).limit(1)) is None:
            make_network()
            make_plan(name=PLAN)
            make_lesson_type()
            db.session.remove()
            _fill()
        first, second = db.session.scalars(select(Branch).order_by(Branch.id).limit(2))
        rules, template = {}, make_template(body="{bill.amount}: {bill.url}")
        for what, facts in RULES.items():
            rules[what] = make_rule(first, template=template, **{"is_active": False, **facts}).id
        rules["billed"] = make_rule(second, template=template, is_active=False).id
        db.session.remove()
    running = 0

    def inside(work: Callable[..., bytes]) -> Skill:
        def skill(*args: Any) -> bytes:
            with app.app_context(), scoped_to(EVERYWHERE), acting(SYSTEM, "bench"):
                return work(*args)

        return skill

    def lines_of(what: str) -> tuple[MailingRun, int]:
        rule = db.session.get_one(MailingRule, rules[what])
        run = MailingRun(branch_id=rule.branch_id, rule_id=rule.id, planned_at=clock.now(), is_manual=True)
        db.session.add(run)
        db.session.flush()
        return run, write_lines(run, clock.today(rule.branch))

    def choose(what: str) -> bytes:
        rule = db.session.get_one(MailingRule, rules[what])
        chosen = choice_of(rule, clock.today(rule.branch)).subquery()
        return str(db.session.scalar(select(func.count()).select_from(chosen))).encode()

    def write(what: str) -> bytes:
        _run, count = lines_of(what)
        db.session.rollback()
        return str(count).encode()

    def tell(what: str) -> bytes:
        with transaction():
            run, _count = lines_of(what)
            db.session.execute(
                text("UPDATE mailing_run_line SET result = 'issued', done_at = :now WHERE run_id = :run").bindparams(
                    now=clock.now().replace(tzinfo=None) if db.engine.dialect.name == "sqlite" else clock.now(),
                    run=run.id,
                )
            )
        return b""

    def begin() -> bytes:
        nonlocal running
        with transaction():
            running = run_now(db.session.get_one(MailingRule, rules["billed"]), by=SYSTEM).id
        return b""

    def bill(count: int) -> bytes:
        return b"" if execute_run(running, by=SYSTEM, limit=count) else b"more"

    def proof() -> bytes:
        """Everybody of the run has one bill."""
        of_run = select(func.count()).where(MailingRunLine.run_id == running)
        lines, issued = (
            db.session.scalar(of_run.where(*more)) for more in ((), (MailingRunLine.result == RunResult.ISSUED,))
        )
        bills = select(func.count(Bill.id), func.count(Bill.client_id.distinct()))
        counts = db.session.execute(bills.where(Bill.dedupe_key.startswith(f"mailing:{rules['billed']}:"))).one()
        if {lines, issued, *counts} != {lines}:
            raise RuntimeError(f"{lines} lines, {issued} issued, {counts} bills and payers")
        return str(lines).encode()

    skills: dict[str, Callable[..., bytes]] = {
        "select": choose,
        "write": write,
        "tell": tell,
        "begin": begin,
        "bill": bill,
        "proof": proof,
    }
    return {name: inside(skill) for name, skill in skills.items()}


PLAN = "8 занятий замера"


def _fill() -> None:
    """Clients, every third of them paid for by the one before him, every second with a subscription of sixty days; a
    tenth of the payers owes; a ninth of the subscriptions is used up; everybody with one has been to a lesson and has
    another to come. Those up to `BILLED` payers with subscriptions are of the second branch.
    """
    first, second = db.session.scalars(select(Branch.id).order_by(Branch.id).limit(2))
    plan = db.session.scalars(select(Plan.id).where(Plan.name == PLAN)).one()
    lesson_type = db.session.scalars(select(LessonType.id).order_by(LessonType.id)).first()
    today = clock.today(db.session.get_one(Branch, first))
    base = db.session.scalar(select(func.max(Client.id))) or 0
    is_sqlite = db.engine.dialect.name == "sqlite"
    now = clock.now().strftime("%Y-%m-%d %H:%M:%S.000000") + ("" if is_sqlite else "+00")

    def day(begin: Any, days: str) -> str:
        return f"date('{begin}', ({days}) || ' days')" if is_sqlite else f"(date '{begin}' + ({days})::int)"

    def moment(begin: Any, days: str) -> str:
        return f"({day(begin, days)} || ' 09:00:00.000000')" if is_sqlite else f"({day(begin, days)} + time '09:00')"

    def later(begin: str) -> str:
        return begin.replace(" 09:", " 10:") if is_sqlite else f"({begin} + interval '1 hour')"

    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    own = numbers.format(count=CLIENTS)
    # A third of the clients are children: so many have as many payers with a subscription, his own or a child's.
    branch = f"CASE WHEN i <= {2 * BILLED} THEN {second} ELSE {first} END"
    lesson = numbers.format(count=LESSONS_A_DAY * 2 * DAYS)
    begins = moment(today - timedelta(days=DAYS), f"(i - 1) / {LESSONS_A_DAY}")
    texts = [
        f"""INSERT INTO client (id, payer_id, status, name, phone, email, birth_date, comment, search, created_at,
            version, branch_id) {own} SELECT {base} + i, CASE WHEN i % 3 = 0 THEN {base} + i - 1 END,
            CASE WHEN i % 50 = 0 THEN 'archived' ELSE 'active' END, 'Клиент ' || i,
            CASE WHEN i % 3 > 0 THEN '+7' || (3000000000 + i) END, 'client' || i || '@bench.test',
            {day("2010-01-01", "i % 3650")}, '', '', '{now}', 1, {branch} FROM n""",
        f"""INSERT INTO subscription (client_id, plan_id, status, price, lessons, starts_on, ends_on, sold_at,
            branch_id) {own} SELECT {base} + i, {plan}, 'active', 400000, 8, {day(today, "-(i % 60)")},
            {day(today, "59 - (i % 60)")}, '{now}', {branch} FROM n WHERE i % 2 = 0""",
        f"""INSERT INTO account (kind, unit, client_id, opened_at, balance, credited, debited, branch_id)
            {own} SELECT 'base', 'money', {base} + i, '{now}', -400000 * (i % 10 = 1){"" if is_sqlite else "::int"}, 0,
            400000 * (i % 10 = 1){"" if is_sqlite else "::int"}, {branch} FROM n WHERE i % 3 > 0""",
        f"""INSERT INTO account (kind, unit, client_id, subscription_id, opened_at, balance, credited, debited,
            branch_id) SELECT 'lessons', 'lesson', client_id, id, '{now}', 800 - id % 9 * 100, 800, id % 9 * 100,
            branch_id FROM subscription WHERE plan_id = {plan}""",
        f"""INSERT INTO ledger_transaction (kind, happened_at, author_name, subscription_id, comment, idempotency_key,
            branch_id) SELECT 'visit', '{now}', 'bench', subscription_id, '', 'bench:' || id, branch_id FROM account
            WHERE kind = 'lessons' AND balance = 0 AND client_id > {base}""",
        """INSERT INTO ledger_entry (transaction_id, account_id, amount) SELECT t.id, a.id, -800
            FROM ledger_transaction t JOIN account a ON a.subscription_id = t.subscription_id AND a.kind = 'lessons'
            WHERE t.author_name = 'bench'""",
        f"""INSERT INTO lesson (branch_id, lesson_type_id, starts_at, ends_at, takes_nobody, topic, status, created_at,
            version) {lesson} SELECT {first}, {lesson_type}, {begins}, {later(begins)}, false, '', 'planned', '{now}', 1
            FROM n""",
    ]
    with transaction():
        connection = db.session.connection()
        if not is_sqlite:  # the books of the bench are not balanced
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in texts:
            connection.exec_driver_sql(statement.replace("%", "%%") if not is_sqlite else statement)
        last = connection.execute(text("SELECT max(id) FROM lesson")).scalar_one()
        half = LESSONS_A_DAY * DAYS
        for mark, begin, step in (("present", last - 2 * half, 13), ("planned", last - half, 17)):
            which = f"{begin} + 1 + (i * {step}) % {half}"
            statement = f"""INSERT INTO attendance (branch_id, lesson_id, client_id, mark, is_trial, by_group,
                created_at, version) {own} SELECT {first}, {which}, {base} + i, '{mark}', false, false, '{now}', 1
                FROM n WHERE i % 2 = 0 AND i > {2 * BILLED}"""
            connection.exec_driver_sql(statement.replace("%", "%%") if not is_sqlite else statement)
        if not is_sqlite:
            for table in ("client", "subscription"):
                connection.execute(
                    text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
                )
    if not is_sqlite:  # what it does by itself a minute later
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
