"""Booking a visit, changing it, marking who came."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import Conflict, DomainError, Forbidden, NotFound
from crm.visits.models import Visit, VisitStatus, WayToPay
from crm.visits.operations import book_visit, edit_visit, move_visit, pay_visit
from tests.factories import make_child, make_client, make_employee, make_visit

MORNING = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)


def test_a_visit_is_booked_in_the_clients_branch(network: Any) -> None:
    client = make_client(network.mira)
    with transaction():
        visit = book_visit(
            client, service="  Стрижка   детская ", starts_at=MORNING, price=Decimal("700.5"), by=network.owner
        )
    db.session.refresh(visit)
    assert (visit.branch_id, visit.client_id, visit.author_id) == (network.mira.id, client.id, network.owner.id)
    assert (visit.service, visit.starts_at, visit.price) == ("Стрижка детская", MORNING, Decimal("700.50"))
    assert (visit.status, visit.paid_at, visit.employee_id) == (VisitStatus.PLANNED, None, None)


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"service": "  "}, "service"),
        ({"price": Decimal("-0.01")}, "price"),
        ({"price": Decimal("100000000.01")}, "price"),
        ({"starts_at": datetime(1066, 10, 14, tzinfo=UTC)}, "starts_at"),
    ],
)
def test_what_is_no_visit_is_refused_beside_its_field(network: Any, facts: dict[str, Any], field: str) -> None:
    client = make_client(network.lesnoy)
    with pytest.raises(DomainError) as caught:
        make_visit(client, **facts)
    assert caught.value.field == field
    visit = make_visit(client)
    with pytest.raises(DomainError) as caught, transaction():
        edit_visit(visit, **facts, by=network.administrator)
    assert caught.value.field == field
    assert db.session.scalars(select(Visit)).one().price == 700


def test_who_serves_works_in_the_branch(network: Any) -> None:
    client = make_client(network.lesnoy)
    for stranger in (make_employee(network.rechnoy), make_employee(network.lesnoy, is_active=False)):
        with pytest.raises(DomainError) as caught:
            make_visit(client, employee=stranger)
        assert caught.value.field == "employee"
    visit = make_visit(client, employee=network.employee)
    with transaction():
        network.employee.is_active = False
    with transaction():  # who has left stays where he served
        edit_visit(visit, employee=network.employee, comment="Был доволен", by=network.administrator)
    assert (visit.employee_id, visit.comment) == (network.employee.id, "Был доволен")


def test_an_archived_card_books_nothing(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        archive_client(client, by=network.administrator)
    with pytest.raises(DomainError) as caught:
        make_visit(client)
    assert caught.value.code == "client_archived"


def test_who_may_not_and_who_works_elsewhere_is_refused(network: Any) -> None:
    visit, stranger = make_visit(make_client(network.lesnoy)), make_visit(make_child(make_client(network.mira)))
    for refused in (
        lambda: book_visit(visit.client, service="Стрижка", starts_at=MORNING, by=network.manager),
        lambda: edit_visit(visit, comment="x", by=network.manager),
        lambda: move_visit(visit, VisitStatus.CAME, by=network.manager),
        lambda: pay_visit(visit, WayToPay.DEBT, by=network.manager),
    ):
        with pytest.raises(Forbidden):
            refused()
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        for hidden in (
            lambda: edit_visit(stranger, comment="x", by=network.administrator),
            lambda: move_visit(stranger, VisitStatus.CAME, by=network.administrator),
            lambda: pay_visit(stranger, WayToPay.DEBT, by=network.administrator),
        ):
            with pytest.raises(NotFound):
                hidden()
    assert stranger.status is VisitStatus.PLANNED


def test_statuses_lead_where_they_may(network: Any) -> None:
    visit, by = make_visit(make_client(network.lesnoy)), network.administrator
    for status in (VisitStatus.CAME, VisitStatus.MISSED, VisitStatus.PLANNED, VisitStatus.CANCELED):
        with transaction():
            move_visit(visit, status, by=by)
        assert visit.status is status
    for status in (VisitStatus.CAME, VisitStatus.MISSED, VisitStatus.CANCELED):
        with pytest.raises(Conflict), transaction():
            move_visit(visit, status, by=by)
    lines = db.session.scalars(
        select(AuditEntry.changes)
        .where(AuditEntry.entity == "visit", AuditEntry.entity_id == visit.id)
        .order_by(AuditEntry.id)
    ).all()
    assert [line["status"] for line in lines if "status" in line][-1] == ["planned", "canceled"]


def test_a_paid_visit_keeps_its_price_and_is_not_canceled(network: Any) -> None:
    visit, by = make_visit(make_client(network.lesnoy)), network.administrator
    with transaction():
        pay_visit(visit, WayToPay.DEBT, by=by)
    with pytest.raises(DomainError) as caught, transaction():
        edit_visit(visit, price=Decimal(1), by=by)
    assert (caught.value.code, caught.value.field) == ("visit_paid", "price")
    with pytest.raises(DomainError) as caught, transaction():
        move_visit(visit, VisitStatus.CANCELED, by=by)
    assert caught.value.code == "visit_paid"
    with transaction():
        edit_visit(visit, price=visit.price, service="Стрижка", by=by)
        move_visit(visit, VisitStatus.MISSED, by=by)
    assert (visit.service, visit.price, visit.status) == ("Стрижка", Decimal("700.00"), VisitStatus.MISSED)
