"""Kontora itself as a contestant, and the database the others are measured on as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import flask_migrate
from flask import Flask
from flask_babel import force_locale, gettext
from sqlalchemy import func, select, text
from werkzeug.datastructures import MultiDict

from bench.contestants import Skill, browser, getting
from crm import create_app
from crm.access.actors import SYSTEM
from crm.access.models import Branch, User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.audit.models import AuditEntry
from crm.audit.origin import acting
from crm.background.models import BackgroundJob, JobLine
from crm.background.operations import RUN, file_of
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bill
from crm.clients.models import Client
from crm.config import read_settings
from crm.db import db, transaction
from crm.demo import load_demo
from crm.exchange.excel import XLSX
from crm.exchange.models import ImportUpload
from crm.jobs.tasks import perform
from crm.ledger.models import Account, AccountKind, Transaction, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, post
from crm.ledger.queries import check_ledger


@dataclass(frozen=True)
class Sample:
    """What to ask for in a database. words: what to search for, by what it is; branch: the one nearest to a third of
    the bills; tokens: of bills that can be paid; labels: bill statuses as people read them, with "overdue" and "total".
    """

    session_user: str  # of the owner, as User.get_id() writes it
    clients: int
    bills: int
    branches: list[str]
    branch: int
    words: dict[str, str]
    exported: int  # bills of that branch
    changed_until: str  # the day by which so many pending bills were issued as a bulk change is measured on
    tokens: list[str]
    labels: dict[str, str]


def application(database_url: str, home: Path) -> Flask:
    """Kontora over this database, its files below `home`."""
    return create_app(
        read_settings({"DATABASE_URL": database_url, "DATA_DIR": str(home), "SECRET_KEY": "a secret of the bench"})
    )


def prepare(database_url: str, home: Path, clients: int, bills: int) -> Sample:
    """Migrate the database, fill it if it is empty, and say what can be asked of it."""
    app = application(database_url, home)
    with app.app_context(), scoped_to(EVERYWHERE):
        flask_migrate.upgrade()
        if db.session.scalar(select(User.id).limit(1)) is None:
            load_demo(clients=clients, bills=bills)
            db.session.remove()
            with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                # What PostgreSQL does by itself a minute later; SQLite has nobody to do it.
                if connection.dialect.name == "postgresql":
                    connection.execute(text("VACUUM ANALYZE"))
        owner = db.session.scalars(select(User).where(User.email == "owner@demo.test")).one()
        pending = select(Bill.token).where(Bill.status == BillStatus.PENDING).order_by(Bill.id.desc()).limit(50)
        counts = db.session.execute(select(Bill.branch_id, func.count()).group_by(Bill.branch_id)).all()
        branch, exported = min(counts, key=lambda found: abs(3 * found[1] - bills))
        return Sample(
            session_user=owner.get_id(),
            clients=db.session.scalar(select(func.count()).select_from(Client)) or 0,
            bills=db.session.scalar(select(func.count()).select_from(Bill)) or 0,
            branches=list(db.session.scalars(select(Branch.name).order_by(Branch.id))),
            branch=branch,
            words=_words(),
            exported=exported,
            changed_until=_changed_until(min(100_000, bills // 10)),
            tokens=list(db.session.scalars(pending)),
            labels=_labels(),
        )


def prepare_ledger(database_url: str, home: Path) -> None:
    """Migrate the database and give it a small network if it is empty."""
    with application(database_url, home).app_context(), scoped_to(EVERYWHERE):
        flask_migrate.upgrade()
        if db.session.scalar(select(User.id).limit(1)) is None:
            load_demo(clients=200, bills=200)
        db.session.remove()
        db.engine.dispose()


def _changed_until(wanted: int) -> str:
    """The day before which `wanted` pending bills were issued."""
    oldest = select(Bill.issued_at).where(Bill.status == BillStatus.PENDING).order_by(Bill.issued_at, Bill.id)
    moment = db.session.scalars(oldest.offset(wanted).limit(1)).one()
    return f"{moment - timedelta(days=1):%Y-%m-%d}"


def _words() -> dict[str, str]:
    """Words without ё, which Kontora takes for е and the peer does not; of a payer from the middle of the table."""
    middle = select(func.max(Client.id) / 2).scalar_subquery()
    somebody = select(Client).where(Client.id >= middle, Client.payer_id.is_(None), ~Client.name.contains("ё"))
    payer = db.session.scalars(somebody.where(Client.phone.is_not(None)).order_by(Client.id).limit(1)).one()
    assert payer.phone is not None
    return {
        "a frequent word": "Лесков",
        "a whole name": payer.name,
        "digits of a phone": payer.phone[-8:],  # more than any bill has in its number
        "two letters": "Юл",
        "nobody's name": "Нетаковский",
    }


def _labels() -> dict[str, str]:
    with force_locale("ru"):
        labels = {status.value: str(status.label) for status in BillStatus}
        return {**labels, "overdue": gettext("Payment term expired"), "total": gettext("Total")}


def site(database_url: str, home: Path, session_user: str | None) -> Mapping[str, Skill]:
    """The application, with this user signed in: get(path), and export(branch, file) of a branch's bills."""
    app = application(database_url, home)
    session = {"_user_id": session_user, "_fresh": True} if session_user is not None else None
    client = browser(app, session=session)

    app.config["WTF_CSRF_ENABLED"] = False

    def export(branch: int, file: Path) -> bytes:
        """As from the grid: few rows are the answer itself, many a job, which is run here as a worker runs it."""
        with client.post(f"/admin/bill/export/xlsx/?f.branch.is={branch}") as response:
            if response.status_code == 302:
                job_id = int(response.location.rpartition("=")[2])
            elif response.status_code == 200 and response.mimetype == XLSX:
                file.write_bytes(response.data)
                return b""
            else:
                raise RuntimeError(f"export: {response.status}")
        with app.app_context():
            perform(RUN, job_id)
            with scoped_to(EVERYWHERE):
                job = db.session.get_one(BackgroundJob, job_id)
                if job.file is None:
                    raise RuntimeError(f"export: {job.status.value} {job.error}")
                shutil.move(file_of(job), file)
        return b""

    return {"get": getting(client), "export": export}


def worker(database_url: str, home: Path, session_user: str) -> Mapping[str, Skill]:
    """What starts and runs jobs: post(path, fields) and upload(path, file) as this user, perform(job id) and
    facts(job id), loop(name, rows) one by one over ORM objects, and for imports check_job(address of an upload) and
    figures(job id).
    """
    app = application(database_url, home)
    app.config["WTF_CSRF_ENABLED"] = False
    client = browser(app, session={"_user_id": session_user, "_fresh": True})

    def answer(path: str, data: Any) -> bytes:
        """The page, or the address it sends on to."""
        with client.post(path, data=data) as response:
            if response.status_code not in {200, 302}:
                raise RuntimeError(f"{path}: {response.status}")
            return response.location.encode() if response.location else response.data

    def post(path: str, fields: list[tuple[str, str]]) -> bytes:
        return answer(path, MultiDict(fields))

    def upload(path: str, file: Path) -> bytes:
        with file.open("rb") as stream:
            return answer(path, {"file": (stream, file.name)})

    def run_job(job_id: int) -> bytes:
        with app.app_context():
            perform(RUN, job_id)
        return b""

    def facts(job_id: int) -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE):
            job = db.session.get_one(BackgroundJob, job_id)
            lines = select(func.count()).where(JobLine.job_id == job_id)
            audited = select(func.count()).where(AuditEntry.entity == "bill", AuditEntry.at >= job.started_at)
            return json.dumps(
                {
                    "done": job.done,
                    "total": job.total,
                    "failed": job.failed,
                    "lines": db.session.scalar(lines),
                    "audited": db.session.scalar(audited),
                }
            ).encode()

    def loop(name: str, rows: int) -> bytes:
        """The newest pending bills one by one, each in a transaction of its own, as a panel without bulk changes."""
        with app.app_context(), scoped_to(EVERYWHERE):
            owner = db.session.scalars(select(User).where(User.email == "owner@demo.test")).one()
            pending = select(Bill.id).where(Bill.status == BillStatus.PENDING).order_by(Bill.id.desc()).limit(rows)
            ids = db.session.scalars(pending).all()
            db.session.commit()
            with acting(owner, "bench"):
                for bill_id in ids:
                    with transaction():
                        bill = db.session.get_one(Bill, bill_id)
                        if name == "archive":
                            archive_bill(bill, by=owner)
                        else:
                            bill.is_repeatable = not bill.is_repeatable
        return b""

    def check_job(address: str) -> bytes:
        token = address.rstrip("/").rpartition("/")[2]
        with app.app_context(), scoped_to(EVERYWHERE):
            upload = db.session.scalars(select(ImportUpload).where(ImportUpload.token == token)).one()
            return json.dumps({"job": upload.job_id, "columns": upload.columns}).encode()

    def figures(job_id: int) -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE):
            upload = db.session.scalars(select(ImportUpload).where(ImportUpload.job_id == job_id)).one()
            return json.dumps(upload.figures).encode()

    return {
        "post": post,
        "upload": upload,
        "perform": run_job,
        "facts": facts,
        "loop": loop,
        "check_job": check_job,
        "figures": figures,
    }


def cashier(database_url: str, home: Path, desk: int) -> Mapping[str, Skill]:
    """top_up(count): so many top-ups by ledger.post(), each in a transaction of its own, onto twenty client accounts
    in turn. These are at hand, as an operation holds those it has looked up. desk: which twenty.

    fresh_top_up(count): as a request does it, with an empty session that looks the accounts up.
    proof(): how many transactions there are; an error when the ledger check finds anything.
    """
    app = application(database_url, home)
    with app.app_context(), scoped_to(EVERYWHERE):
        till = db.session.scalars(select(Account).where(Account.kind == AccountKind.CASH).order_by(Account.id)).first()
        assert till is not None
        till_id, branch_id = till.id, till.branch_id
        of_clients = select(Account.id).where(Account.branch_id == branch_id, Account.client_id.is_not(None))
        money = of_clients.where(Account.unit == Unit.MONEY, Account.closed_at.is_(None)).order_by(Account.id)
        mine = db.session.scalars(money.offset(desk * 20).limit(20)).all()

    def top_up(count: int) -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE):
            db.session().expire_on_commit = False
            cash = db.session.get_one(Account, till_id)
            deposits = [db.session.get_one(Account, account_id) for account_id in mine]
            for number in range(count):
                with transaction():
                    _post(deposits[number % len(deposits)], cash)
        return b""

    def fresh_top_up(count: int) -> bytes:
        for number in range(count):
            with app.app_context(), scoped_to(EVERYWHERE), transaction():
                account_id = mine[number % len(mine)]
                _post(db.session.get_one(Account, account_id), db.session.get_one(Account, till_id))
        return b""

    def proof() -> bytes:
        with app.app_context(), scoped_to(EVERYWHERE):
            if problems := check_ledger():
                raise RuntimeError(f"the ledger check found {problems[:3]}")
            return str(db.session.scalar(select(func.count()).select_from(Transaction))).encode()

    return {"top_up": top_up, "fresh_top_up": fresh_top_up, "proof": proof}


def _post(deposit: Account, cash: Account) -> None:
    lines = [Line(deposit, Decimal(100)), Line(cash, Decimal(-100))]
    cause = Cause(client_id=deposit.client_id)
    post(TransactionKind.TOP_UP, lines, branch_id=deposit.branch_id, by=SYSTEM, cause=cause)
