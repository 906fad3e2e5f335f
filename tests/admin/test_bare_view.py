"""A registered table of which nobody has said anything gets a usable grid, details, filters, export and a form."""

from __future__ import annotations

import contextvars
import io
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from flask import Flask
from sqlalchemy import select

from crm import create_app
from crm.access.models import Employee, User
from crm.admin.base import KontoraView
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import db
from crm.subscriptions.models import Plan
from tests.admin.test_grids import first_column, headers, plain, table
from tests.admin.world import errors, fields
from tests.factories import make_bill, make_client, make_employee

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


class BareBill(KontoraView):
    entity = "barebill"


class BareClient(KontoraView):
    entity = "bareclient"
    creates = edits = True


class BarePlan(KontoraView):
    entity = "bareplan"
    creates = edits = True


class BareEmployee(KontoraView):
    entity = "bareemployee"
    creates = edits = True


class BareUser(KontoraView):
    entity = "bareuser"


class Browser:
    """The owner in an application of the test's own, network or branch."""

    def __init__(self, app: Flask, user: User, branch: Any = None) -> None:
        self.client, session_user, branch_id = app.test_client(), user.get_id(), branch.id if branch else None
        db.session.commit()

        def sign_in() -> None:
            with self.client.session_transaction(base_url="https://kontora.test") as session:
                session["_user_id"], session["_fresh"] = session_user, True
                if branch_id:
                    session["branch_id"] = branch_id

        contextvars.Context().run(sign_in)

    def get(self, path: str) -> Any:
        return self._open(path, method="GET")

    def post(self, path: str, data: dict[str, Any]) -> Any:
        return self._open(path, method="POST", data=data)

    def _open(self, path: str, **options: Any) -> Any:
        db.session.commit()
        options |= {"base_url": "https://kontora.test", "headers": {"Accept-Language": "ru"}}
        return contextvars.Context().run(lambda: self.client.open(path, **options))


@pytest.fixture
def bare(app: Flask) -> Iterator[Flask]:
    """The application with views that only say which table they are of."""
    other = create_app(app.config["SETTINGS"])
    other.config["WTF_CSRF_ENABLED"] = False
    other.extensions["admin"][0].add_views(
        BareBill(Bill, "Bare bills"),
        BareClient(Client, "Bare clients"),
        BarePlan(Plan, "Bare plans"),
        BareEmployee(Employee, "Bare employees"),
        BareUser(User, "Bare users"),
    )
    yield other
    with other.app_context():
        db.session.remove()
        db.engine.dispose()


def test_grid_details_and_export(network: Any, bare: Flask) -> None:
    bill = make_bill(make_client(network.lesnoy, name="Анна"), amount=Decimal("1234.50"))
    make_bill(make_client(network.mira, name="Олег"))
    browser = Browser(bare, network.owner)
    page = browser.get("/admin/barebill/").text
    shown = headers(page)
    # Rows of other tables by name, known columns by their names in the house, kinds by their types; no secrets.
    for label in ("№", "Клиент", "Счёт клиента", "Сумма", "Статус", "Филиал", "Выставлен"):
        assert label in shown, label
    assert not any(label.endswith("_id") or label == "Token" for label in shown), shown
    assert bill.token not in page
    assert len(table(page)) == 2
    for text in ("Анна", "1 234,50", "Ожидает оплаты", "Лесной"):
        assert text in plain(page)
    details = browser.get(f"/admin/barebill/details/?id={bill.id}").text
    assert "1 234,50" in plain(details)
    assert bill.token not in details
    answer = browser.get("/admin/barebill/export/xlsx/?sort=id")
    rows = [[cell.value for cell in row] for row in openpyxl.load_workbook(io.BytesIO(answer.data)).active.iter_rows()]
    assert rows[0] == shown
    assert rows[1][shown.index("Сумма")] == 1234.5
    assert len(rows) == 3


def test_filters_orders_and_scope(network: Any, bare: Flask) -> None:
    make_bill(make_client(network.lesnoy), amount=Decimal("100"))
    second = make_bill(make_client(network.mira), amount=Decimal("300"))
    browser = Browser(bare, network.owner)
    for path in ("f.amount.from=200", f"f.branch.is={network.mira.id}", f"f.client.is={second.client_id}"):
        assert first_column(browser.get(f"/admin/barebill/?{path}").text) == [str(second.id)], path
    assert first_column(browser.get("/admin/barebill/?sort=-amount").text) == [str(second.id), str(second.id - 1)]
    assert first_column(browser.get("/admin/barebill/?f.status.is=paid").text) == []
    assert len(table(Browser(bare, network.owner, network.lesnoy).get("/admin/barebill/").text)) == 1
    assert browser.get("/admin/barebill/new/").status_code == 403
    assert browser.get("/admin/barebill/?q=1").status_code == 200


def test_a_password_hash_is_no_column(network: Any, bare: Flask) -> None:
    browser = Browser(bare, network.owner)
    for path in ("", f"details/?id={network.owner.id}", "?sort=password_hash"):
        answer = browser.get(f"/admin/bareuser/{path}")
        assert answer.status_code == 200
        assert "argon2" not in answer.text
    assert len(table(browser.get("/admin/bareuser/?f.password_hash.has=zzz").text)) == 7


def test_a_form_from_the_schema(network: Any, bare: Flask) -> None:
    browser = Browser(bare, network.owner)
    page = browser.get("/admin/bareplan/new/").text
    sent = fields(page)
    assert {"name", "price", "lessons", "duration_days", "charge"} <= sent.keys()
    answer = browser.post("/admin/bareplan/new/", sent | {"name": "", "price": "-5", "lessons": "x"})
    assert answer.status_code == 422
    assert errors(answer.text).keys() == {"name", "price", "lessons"}
    facts = {"name": "План", "price": "1 234,50", "lessons": "3", "duration_days": ""}
    answer = browser.post("/admin/bareplan/new/", sent | facts)
    assert answer.status_code == 302
    plan = db.session.scalars(select(Plan).where(Plan.name == "План")).one()
    assert (plan.price, plan.lessons, plan.duration_days) == (Decimal("1234.50"), 3, 30)
    path = f"/admin/bareplan/edit/?id={plan.id}"
    assert browser.post(path, fields(browser.get(path).text) | {"lessons": "5"}).status_code == 302
    db.session.expire_all()
    assert plan.lessons == 5
    answer = browser.post(path, fields(browser.get(path).text) | {"duration_days": "0"})
    assert answer.status_code == 422
    assert errors(answer.text) == {"": "Одно из значений недопустимо."}


def test_a_form_with_references_and_phones(network: Any, bare: Flask) -> None:
    payer, stranger = make_client(network.lesnoy), make_client(network.mira)
    browser = Browser(bare, network.owner, network.lesnoy)
    client = make_client(network.lesnoy, name="Анна", phone="+79181590830", birth_date=date(1990, 5, 1))
    path = f"/admin/bareclient/edit/?id={client.id}"
    form = fields(browser.get(path).text)
    assert (form["name"], form["phone"], form["birth_date"]) == ("Анна", "+7 918 159-08-30", "1990-05-01")
    for foreign in (str(stranger.id), "999999", "abc"):
        answer = browser.post(path, form | {"payer": foreign})
        assert answer.status_code == 422, foreign
        assert list(errors(answer.text)) == ["payer"]
    assert list(errors(browser.post(path, form | {"phone": "12"}).text)) == ["phone"]
    answer = browser.post(path, form | {"payer": str(payer.id), "phone": "8 926 555 01 02", "email": ""})
    assert answer.status_code == 302
    db.session.expire_all()
    assert (client.payer_id, client.phone, client.email) == (payer.id, "+79265550102", None)
    assert client.status.value == "active"


def test_a_form_with_a_branch(network: Any, bare: Flask) -> None:
    browser = Browser(bare, network.owner)
    page = browser.get("/admin/bareemployee/new/").text
    assert {"name", "position", "branch"} <= fields(page).keys()
    answer = browser.post(
        "/admin/bareemployee/new/", {"name": "Пётр", "branch": str(network.mira.id), "is_active": "y"}
    )
    assert answer.status_code == 302
    made = db.session.scalars(select(Employee).where(Employee.name == "Пётр")).one()
    assert (made.branch_id, made.position, made.is_active) == (network.mira.id, "", True)
    make_employee(network.lesnoy)
    assert len(table(browser.get("/admin/bareemployee/").text)) == 3


def test_the_menu_names_it(network: Any, bare: Flask) -> None:
    assert "Bare bills" in Browser(bare, network.owner).get("/admin/").text
    assert "Bare bills" not in Browser(bare, network.director).get("/admin/").text
