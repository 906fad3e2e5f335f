"""The peer of the grids: a stock Flask-Admin over Kontora's own tables and rows, with the same columns and filters.

It is given every advantage: no sign-in, no row scope, no translation, no log, no totals row, no columns beyond those
the grid shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

import flask_admin
from flask import Flask
from flask_admin.contrib.sqla import ModelView
from flask_babel import Babel
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, Date, DateTime, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from bench.contestants import Skill, browser, getting

EXPORTED = 100_000  # rows: it builds the answer from a list of them all


class Base(DeclarativeBase):
    pass


class Branch(Base):
    __tablename__ = "branch"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))

    def __str__(self) -> str:
        return self.name


class Customer(Base):
    __tablename__ = "client"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    phone: Mapped[str | None] = mapped_column(String(20))
    email: Mapped[str | None] = mapped_column(String(254))
    status: Mapped[str] = mapped_column(String(32))
    payer_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"))
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    payer: Mapped[Customer | None] = relationship(remote_side="Customer.id")
    branch: Mapped[Branch] = relationship()

    def __str__(self) -> str:
        return self.name


class Bill(Base):
    __tablename__ = "bill"
    id: Mapped[int] = mapped_column(primary_key=True)
    year: Mapped[int]
    number: Mapped[int]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))
    amount: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(32))
    period_from: Mapped[date] = mapped_column(Date)
    period_to: Mapped[date] = mapped_column(Date)
    payable_until: Mapped[date | None] = mapped_column(Date)
    issued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    client: Mapped[Customer] = relationship()
    branch: Mapped[Branch] = relationship()

    @property
    def title(self) -> str:
        return f"{self.year}-{self.number:06d}"


class StockView(ModelView):
    can_create = can_edit = can_delete = False
    can_view_details = can_export = True
    page_size = 50
    export_max_rows = EXPORTED
    export_types = ("csv",)
    named_filter_urls = True


class CustomerView(StockView):
    column_list = ("name", "phone", "email", "payer", "branch", "created_at")
    column_searchable_list = ("name", "phone", "email")
    column_filters = ("status", "branch.name", "created_at", "phone", "email")
    column_sortable_list = (
        *("name", "phone", "email", "created_at"),
        *(("payer", "payer.name"), ("branch", "branch.name")),
    )
    column_default_sort = "name"


class BillView(StockView):
    column_list = (
        *("title", "client", "amount", "status", "period_from", "period_to", "payable_until"),
        *("issued_at", "paid_at", "branch"),
    )
    column_searchable_list = ("client.name", "client.phone", "client.email")
    column_filters = ("status", "amount", "issued_at", "payable_until", "branch.name")
    column_sortable_list = (
        *("amount", "status", "period_from", "period_to", "payable_until", "issued_at", "paid_at"),
        *(("title", ("year", "number")), ("client", "client.name"), ("branch", "branch.name")),
    )
    column_default_sort = ("id", True)
    column_formatters = {"amount": lambda _view, _context, bill, _name: f"{bill.amount / 100:.2f}"}


def site(database_url: str) -> Mapping[str, Skill]:
    """A stock Flask-Admin: its own theme, templates, counting and sorting."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="bench", SQLALCHEMY_DATABASE_URI=database_url)
    Babel(app)  # Flask-Admin insists where it is installed; English, so no text is translated
    db = SQLAlchemy(app, model_class=Base)
    flask_admin.Admin(app, name="Stock").add_views(
        BillView(Bill, db, name="Bills", endpoint="bill"),
        CustomerView(Customer, db, name="Clients", endpoint="client"),
    )
    return {"get": getting(browser(app))}
