"""The floors: what Kontora's export and bill page cannot beat, because they do the same with nothing around it."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import xlsxwriter
from flask import Flask, abort, render_template_string, request
from markupsafe import Markup
from sqlalchemy.engine import URL, make_url

from bench.contestants import Skill, browser, getting
from crm.public import frame

# --- export ---------------------------------------------------------------------------------------------------------

CELLS = """
SELECT bill.year, bill.number, client.name, bill.amount, bill.status, bill.period_from, bill.period_to,
       bill.payable_until, bill.issued_at, bill.paid_at, branch.name, branch.time_zone
FROM bill JOIN client ON client.id = bill.client_id JOIN branch ON branch.id = bill.branch_id
WHERE bill.branch_id = {branch:d} ORDER BY bill.id DESC
"""
HEADERS = (*("Number", "Client", "Amount", "Status", "From", "To", "Payable until", "Issued", "Paid", "Branch"),)


def xlsx(database_url: str, labels: dict[str, str]) -> Mapping[str, Skill]:
    """export(branch, file): the cells of Kontora's export of a branch's bills, by bare xlsxwriter and a bare cursor."""
    url = make_url(database_url)
    is_text = url.drivername == "sqlite"  # the driver leaves dates as text
    as_date: Callable[[Any], date] = date.fromisoformat if is_text else lambda day: day
    as_moment: Callable[[Any], datetime] = (
        (lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC)) if is_text else lambda instant: instant
    )

    def export(branch: int, file: Path) -> bytes:
        book = xlsxwriter.Workbook(str(file), {"constant_memory": True})
        sheet = book.add_worksheet("Bills")
        money = book.add_format({"num_format": "#,##0.00"})
        day = book.add_format({"num_format": "dd.mm.yyyy"})
        moment = book.add_format({"num_format": "dd.mm.yyyy hh:mm"})
        sheet.write_row(0, 0, HEADERS)
        with closing(_connect(url)) as connection, _cursor(connection) as cursor:
            zones = [name for (name,) in connection.execute("SELECT DISTINCT time_zone FROM branch").fetchall()]
            today = {name: datetime.now(ZoneInfo(name)).date() for name in zones}
            cursor.execute(CELLS.format(branch=branch))
            total = 0
            for at, row in enumerate(cursor, 1):
                year, number, client, amount, status, start, end, until, issued, paid, branch, zone_name = row
                zone = ZoneInfo(zone_name)
                start, end, until = (as_date(day) if day is not None else None for day in (start, end, until))
                if status == "pending" and until is not None and until < today[zone_name]:
                    status = "overdue"
                sheet.write_string(at, 0, f"{year}-{number:06d}")
                sheet.write_string(at, 1, client)
                sheet.write_number(at, 2, amount / 100, money)
                total += amount
                sheet.write_string(at, 3, labels[status])
                sheet.write_datetime(at, 4, start, day)
                sheet.write_datetime(at, 5, end, day)
                if until is not None:
                    sheet.write_datetime(at, 6, until, day)
                for column, instant in ((7, issued), (8, paid)):
                    if instant is not None:
                        there = as_moment(instant).astimezone(zone).replace(tzinfo=None, microsecond=0)
                        sheet.write_datetime(at, column, there, moment)
                sheet.write_string(at, 9, branch)
            sheet.write_string(at + 1, 0, labels["total"])
            sheet.write_number(at + 1, 2, total / 100, money)
        book.close()
        return b""

    return {"export": export}


# --- bill page ------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="ru"><head><meta charset="utf-8"><title>{{ number }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><main><h1>{{ number }}</h1><p>{{ amount }}</p><p>{{ start }} – {{ end }}</p>
<form method="post"><button>Оплатить</button></form></main></body></html>"""


def page(database_url: str) -> Mapping[str, Skill]:
    """get("/pay/<token>"): one SELECT by token on a connection that stays open, one small template."""
    app = Flask(__name__)
    url = make_url(database_url)
    connection = _connect(url)
    mark = "?" if url.drivername == "sqlite" else "%s"
    query = f"SELECT year, number, amount, period_from, period_to FROM bill WHERE token = {mark}"

    @app.get("/pay/<token>")
    def pay(token: str) -> str:
        row = connection.execute(query, (token,)).fetchone()
        if row is None:
            abort(404)
        year, number, amount, start, end = row
        return render_template_string(
            PAGE, number=f"{year}-{number:06d}", amount=f"{amount / 100:.2f}", start=start, end=end
        )

    return {"get": getting(browser(app))}


SHOWN = """
SELECT bill.year, bill.number, bill.status, bill.amount, bill.paid_amount, bill.purpose, bill.period_from,
       bill.period_to, bill.payable_from, bill.payable_until, client.name, branch.name, branch.phone, company.name,
       company.legal_name, company.inn, company.kpp, company.ogrn, company.bank_name, company.bic,
       company.settlement_account, company.correspondent_account, company.address, company.email, company.offer_url
FROM bill JOIN client ON client.id = bill.client_id JOIN branch ON branch.id = bill.branch_id
JOIN company ON company.id = branch.company_id
WHERE bill.token = {mark}
"""
FACTS = """<!doctype html>
<html lang="ru"><head><meta charset="utf-8"><title>{{ number }} · {{ company }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ style }}</style></head>
<body><header><p>{{ company }}</p><p>{{ branch }}</p></header>
<main><section><h1>Счёт № {{ number }}</h1><p>{{ status }}</p><p>{{ due }} ₽</p>
<form method="post"><button>Перейти к оплате</button></form>
<dl><dt>Назначение</dt><dd>{{ purpose }}</dd><dt>Плательщик</dt><dd>{{ payer }}</dd>
<dt>За период</dt><dd>{{ start }} – {{ end }}</dd>
<dt>Срок оплаты</dt><dd>{% if until %}с {{ since }} по {{ until }}{% else %}не задан{% endif %}</dd></dl>
<p><a href="{{ offer or "/offer" }}">публичная оферта</a></p></section>
<section><h2>Реквизиты получателя</h2><dl>
{%- for label, value in requisites if value %}<dt>{{ label }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<p><a href="tel:{{ phone }}">{{ phone }}</a> <a href="mailto:{{ email }}">{{ email }}</a></p>
</section></main></body></html>"""
REQUISITES = ("Получатель", "ИНН", "КПП", "ОГРН", "Банк", "БИК", "Расчётный счёт", "Корр. счёт", "Адрес")


def served() -> Flask:
    """A view for a server, over DATABASE_URL, that shows what Kontora's page does: one SELECT on a connection of the
    thread, one template; in one language, as the values come, with no rules, log or figures.
    """
    app = Flask(__name__)
    url = make_url(os.environ["DATABASE_URL"])
    query = SHOWN.format(mark="?" if url.drivername == "sqlite" else "%s")
    template = app.jinja_env.from_string(FACTS)
    style = Markup(frame.style())
    here = threading.local()

    @app.get("/pay/<token>")
    def pay(token: str) -> str:
        if not hasattr(here, "connection"):
            here.connection = _connect(url)
        row = here.connection.execute(query, (token,)).fetchone()
        if row is None:
            abort(404)
        year, number, status, amount, paid, purpose, start, end, since, until, payer, branch, phone, company = row[:14]
        *requisites, email, offer = row[14:]
        return template.render(
            style=style,
            number=f"{year}-{number:06d}",
            status=status,
            due=f"{(amount - paid) / 100:.2f}",
            purpose=purpose,
            start=start,
            end=end,
            since=since,
            until=until,
            payer=payer,
            branch=branch,
            phone=phone,
            company=company,
            requisites=zip(REQUISITES, requisites, strict=True),
            email=email,
            offer=offer,
        )

    return app


# --- posts ----------------------------------------------------------------------------------------------------------

TRANSACTION = """
INSERT INTO ledger_transaction (kind, happened_at, branch_id, author_id, author_name, employee_id, client_id,
                                payment_id, bill_id, subscription_id, visit_id, comment, idempotency_key, reverses_id)
VALUES ('top_up', ?, ?, NULL, 'system', NULL, ?, NULL, NULL, NULL, NULL, '', ?, NULL) RETURNING id
"""
ENTRIES = """
INSERT INTO ledger_entry (transaction_id, account_id, amount, balance_after) VALUES (?, ?, ?, ?), (?, ?, ?, ?)
"""


def poster(database_url: str) -> Mapping[str, Skill]:
    """top_up(count): the rows of so many top-ups and a commit after each, nothing read, locked, checked or added up.

    Both accounts are the branch's own, of which no balance is cached: so the ledger stays true.
    """
    url = make_url(database_url)
    connection = _connect(url)
    transaction, entries = TRANSACTION, ENTRIES
    if url.drivername == "sqlite":
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")
    else:
        transaction, entries = TRANSACTION.replace("?", "%s"), ENTRIES.replace("?", "%s")
    cash, branch = connection.execute("SELECT id, branch_id FROM account WHERE kind = 'cash' ORDER BY id").fetchone()
    revenue = connection.execute(
        f"SELECT id FROM account WHERE kind = 'revenue' AND branch_id = {branch:d} AND client_id IS NULL"
    ).fetchone()[0]
    client = connection.execute("SELECT min(id) FROM client").fetchone()[0]

    def top_up(count: int) -> bytes:
        for _ in range(count):
            moment = datetime.now(UTC)
            happened_at = moment.replace(tzinfo=None).isoformat(" ") if url.drivername == "sqlite" else moment
            connection.execute("BEGIN")
            row = connection.execute(transaction, (happened_at, branch, client, f"once:{uuid.uuid4()}")).fetchone()
            connection.execute(entries, (row[0], revenue, 10000, None, row[0], cash, -10000, None))
            connection.execute("COMMIT")
        return b""

    return {"top_up": top_up}


# --- drivers --------------------------------------------------------------------------------------------------------


def _connect(url: URL) -> Any:
    if url.drivername == "sqlite":
        return sqlite3.connect(url.database or "")
    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True)


@contextmanager
def _cursor(connection: Any) -> Iterator[Any]:
    """A cursor that holds a thousand rows at a time, not the whole answer."""
    if isinstance(connection, sqlite3.Connection):
        yield connection.cursor()
    else:
        with connection.transaction(), connection.cursor("cells") as cursor:
            cursor.itersize = 1000
            yield cursor


def webhook() -> Flask:
    """A view for a server that takes what comes to a webhook and keeps it: one INSERT and its commit on a connection of
    the thread. No signature, no repeats, no log, no ring.
    """
    app = Flask(__name__)
    url = make_url(os.environ["DATABASE_URL"])
    here = threading.local()
    with closing(_connect(url)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bare_notice (id serial PRIMARY KEY, body text)")
        connection.commit()

    @app.post("/webhooks/<name>")
    def receive(name: str) -> str:
        if not hasattr(here, "connection"):
            here.connection = _connect(url)
        body = request.get_data().decode()
        here.connection.execute("INSERT INTO bare_notice (body) VALUES (%s)", (body,))
        here.connection.commit()
        return "ok"

    return app
