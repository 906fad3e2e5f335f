"""Kontora itself as a contestant, and the database the others are measured on as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import flask_migrate
from flask import Flask
from flask_babel import force_locale, gettext
from sqlalchemy import func, select, text

from bench.contestants import Skill, browser, getting
from crm import create_app
from crm.access.models import User
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client
from crm.config import read_settings
from crm.db import db
from crm.demo import load_demo


@dataclass(frozen=True)
class Sample:
    """What to ask for in a database. name: a family name many clients bear; tokens: of bills that can be paid; labels:
    bill statuses as people read them, with "overdue", and "total".
    """

    session_user: str  # of the owner, as User.get_id() writes it
    bills: int
    name: str
    tokens: list[str]
    labels: dict[str, str]


def _app(database_url: str, home: Path) -> Flask:
    return create_app(
        read_settings({"DATABASE_URL": database_url, "DATA_DIR": str(home), "SECRET_KEY": "a secret of the bench"})
    )


def prepare(database_url: str, home: Path, bills: int) -> Sample:
    """Migrate the empty database, fill it with so many bills, and say what can be asked of it."""
    app = _app(database_url, home)
    with app.app_context(), scoped_to(EVERYWHERE):
        flask_migrate.upgrade()
        load_demo(clients=max(2, bills * 3 // 10), bills=bills)
        db.session.remove()
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # What PostgreSQL does by itself a minute later; SQLite has nobody to do it.
            if connection.dialect.name == "postgresql":
                connection.execute(text("VACUUM ANALYZE"))
        owner = db.session.scalars(select(User).where(User.email == "owner@demo.test")).one()
        # Kontora finds «Семёнов» by «Семенов» and the peer does not: a name both find.
        middle = select(func.max(Client.id) / 2).scalar_subquery()
        name = db.session.scalars(
            select(Client.name).where(Client.id >= middle, ~Client.name.contains("ё")).order_by(Client.id).limit(1)
        ).one()
        pending = select(Bill.token).where(Bill.status == BillStatus.PENDING).order_by(Bill.id.desc()).limit(50)
        return Sample(
            session_user=owner.get_id(),
            bills=db.session.scalar(select(func.count()).select_from(Bill)) or 0,
            name=name.split()[0],
            tokens=list(db.session.scalars(pending)),
            labels=_labels(),
        )


def _labels() -> dict[str, str]:
    with force_locale("ru"):
        labels = {status.value: str(status.label) for status in BillStatus}
        return {**labels, "overdue": gettext("Payment term expired"), "total": gettext("Total")}


def site(database_url: str, home: Path, session_user: str | None) -> Mapping[str, Skill]:
    """The application, with this user signed in: get(path), and export(file) of all bills."""
    app = _app(database_url, home)
    session = {"_user_id": session_user, "_fresh": True} if session_user is not None else None
    client = browser(app, session=session)

    def export(file: Path) -> bytes:
        with client.get("/admin/bill/export/xlsx/") as response, file.open("wb") as target:
            if response.status_code != 200:
                raise RuntimeError(f"export: {response.status}")
            for chunk in response.iter_encoded():
                target.write(chunk)
        return b""

    return {"get": getting(client), "export": export}
