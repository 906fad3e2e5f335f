"""One change of many rows: audited row by row, within the scope, by what a row is at the moment it is locked."""

from __future__ import annotations

from datetime import date, time, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.audit.bulk import change_many, preview_of, put_back
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bill, archive_bills, changing_bills
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import archive_clients, changing_clients
from crm.db import db, insert_rows, transaction
from crm.errors import Forbidden
from crm.protocol import Outcome
from tests.factories import make_bill, make_client

UNTIL = date(2030, 1, 31)


def audited(model: type[Any]) -> list[AuditEntry]:
    """What the audit knows of changes of the table's rows, in order."""
    query = select(AuditEntry).where(
        AuditEntry.entity == model.__tablename__,
        AuditEntry.action.in_((AuditAction.UPDATE, AuditAction.TRANSITION)),
    )
    return list(db.session.scalars(query.order_by(AuditEntry.id)))


def edit(ids: list[int], *, by: Any = SYSTEM, **values: Any) -> Any:
    with transaction():
        return change_many(changing_bills(values, by=by), ids, by=by)


def test_each_changed_row_has_its_line_of_the_audit_and_a_new_version(network: Any) -> None:
    client = make_client(network.lesnoy)
    first, same = make_bill(client, payable_until=date(2029, 1, 1)), make_bill(client, payable_until=UNTIL)
    versions = (first.version, same.version)
    lines = edit([same.id, first.id], by=network.director, payable_until=UNTIL)
    assert [(line.id, line.outcome, line.changes) for line in lines] == [
        (same.id, Outcome.SKIPPED, None),
        (first.id, Outcome.DONE, {"payable_until": ["2029-01-01", "2030-01-31"]}),
    ]
    assert (first.payable_until, first.version, same.version) == (UNTIL, versions[0] + 1, versions[1])
    (entry,) = audited(Bill)
    assert (entry.entity_id, entry.entity_label, entry.branch_id) == (first.id, first.title, network.lesnoy.id)
    assert (entry.actor_id, entry.action) == (network.director.id, AuditAction.UPDATE)
    assert entry.changes == {"payable_until": ["2029-01-01", "2030-01-31"]}


def test_many_rows_of_the_audit_are_as_those_of_few(network: Any) -> None:
    """Above some rows they are written by COPY; nothing may differ."""
    client = make_client(network.lesnoy)
    ids = [make_bill(client).id for _ in range(30)]
    with transaction():
        archive_bills(ids[:5], by=network.director)
        archive_bills(ids[5:], by=network.director)
    entries = audited(Bill)
    assert [entry.entity_id for entry in entries] == ids
    assert {(e.actor_name, e.origin, e.action, str(e.changes)) for e in entries} == {
        (network.director.name, "cli", AuditAction.TRANSITION, "{'status': ['pending', 'archived']}")
    }


def test_rows_of_a_foreign_branch_are_never_touched(network: Any) -> None:
    own, foreign = make_bill(make_client(network.lesnoy)), make_bill(make_client(network.mira))
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        lines = edit([own.id, foreign.id], is_repeatable=True)
        undone = put_back(changing_bills({}, by=SYSTEM), [(foreign.id, {"is_repeatable": [True, False]})], by=SYSTEM)
        db.session.commit()
    assert [line.reason for line in lines] == [None, "Не найден"]
    assert [line.reason for line in undone] == ["Не найден"]
    assert (own.is_repeatable, foreign.is_repeatable) == (True, False)
    assert [entry.entity_id for entry in audited(Bill)] == [own.id]


def test_the_first_refusal_that_holds_is_told_and_the_preview_counts_the_same(network: Any) -> None:
    client = make_client(network.lesnoy)
    today = clock.today(network.lesnoy)
    early = today - timedelta(days=3)
    archived, late, fine, same = (
        make_bill(client),
        make_bill(client),
        make_bill(client, payable_from=early - timedelta(days=9)),
        make_bill(client, payable_from=early, payable_until=early),
    )
    with transaction():
        archive_bill(archived, by=SYSTEM)
    ids = [bill.id for bill in (archived, late, fine, same)]
    change = changing_bills({"payable_until": early}, by=SYSTEM)
    verdict = change.verdict().label("verdict")
    counts = db.session.execute(select(verdict, func.count()).where(Bill.id.in_(ids)).group_by("verdict"))
    preview = preview_of(change, [(row[0], row[1]) for row in counts])
    lines = edit(ids, payable_until=early)
    reasons = ["Изменить можно только счет, ожидающий оплаты.", "Срок оплаты заканчивается раньше, чем начинается."]
    outcomes = [Outcome.FAILED, Outcome.FAILED, Outcome.DONE, Outcome.SKIPPED]
    assert [line.outcome for line in lines] == outcomes
    assert [line.reason for line in lines[:3]] == [*reasons, None]
    assert (preview.changes, preview.refused) == (1, dict.fromkeys(reasons, 1))
    assert preview.skipped == {lines[3].reason: 1}, "in the same words"


def test_only_the_fields_the_entity_offers_and_only_by_those_who_may(network: Any) -> None:
    with pytest.raises(ValueError, match="amount"):
        changing_bills({"amount": 1}, by=SYSTEM)
    with pytest.raises(ValueError, match="name"):
        changing_clients({"name": "Иван"}, by=SYSTEM)
    with pytest.raises(Forbidden):
        changing_bills({}, by=network.manager)


def test_a_day_of_birth_is_not_ahead_of_the_clients_own_calendar(network: Any) -> None:
    """Samara's day begins an hour before Moscow's."""
    moscow, samara = make_client(network.lesnoy), make_client(network.mira)
    assert network.lesnoy.time_zone != network.mira.time_zone
    tomorrow = clock.today(network.lesnoy) + timedelta(days=1)
    just_before_midnight = clock.at(tomorrow, time(0), network.lesnoy) - timedelta(minutes=30)
    with clock.frozen(just_before_midnight), transaction():
        change = changing_clients({"birth_date": tomorrow}, by=SYSTEM)
        lines = change_many(change, [moscow.id, samara.id], by=SYSTEM)
    assert [line.reason is None for line in lines] == [False, True]


def test_clients_archived_in_bulk_are_told_apart(network: Any) -> None:
    active, gone = make_client(network.lesnoy), make_client(network.lesnoy)
    with transaction():
        archive_clients([gone.id], by=SYSTEM)
        lines = archive_clients([gone.id, active.id, 10**9], by=SYSTEM)
    assert [line.outcome for line in lines] == [Outcome.SKIPPED, Outcome.DONE, Outcome.FAILED]
    assert all(line.reason for line in (lines[0], lines[2]))
    assert {active.status, gone.status} == {ClientStatus.ARCHIVED}
    assert len(audited(Client)) == 2


# --- undo -----------------------------------------------------------------------------------------------------------


def undo(lines: Any) -> Any:
    done = [(line.id, line.changes) for line in lines if line.changes]
    changed = dict.fromkeys(name for _id, changes in done for name in changes)
    with transaction():
        return put_back(changing_bills(changed, by=SYSTEM), done, by=SYSTEM)


def test_old_values_are_put_back_each_its_own(network: Any) -> None:
    client = make_client(network.lesnoy)
    olds = [date(2029, 1, 1), date(2029, 2, 2), None]
    bills = [make_bill(client, payable_until=old) for old in olds]
    undone = undo(edit([bill.id for bill in bills], payable_until=UNTIL, is_repeatable=True))
    assert [(bill.payable_until, bill.is_repeatable) for bill in bills] == [(old, False) for old in olds]
    assert [line.reason for line in undone] == [None] * 3
    assert len(audited(Bill)) == 6


def test_what_was_changed_or_paid_since_stays(network: Any) -> None:
    client = make_client(network.lesnoy)
    bills = [make_bill(client, payable_until=date(2029, 1, 1)) for _ in range(3)]
    done = edit([bill.id for bill in bills], payable_until=UNTIL, is_repeatable=True)
    edit([bills[0].id], is_repeatable=False)
    with transaction():
        archive_bill(bills[1], by=SYSTEM)
    undone = undo(done)
    assert [line.reason for line in undone] == [
        "С тех пор значение изменилось, оставлено как есть.",
        "Изменить можно только счет, ожидающий оплаты.",
        None,
    ]
    assert [bill.payable_until for bill in bills] == [UNTIL, UNTIL, date(2029, 1, 1)]
    assert bills[1].status is BillStatus.ARCHIVED


def test_what_has_its_old_values_again_is_not_put_back_once_more(network: Any) -> None:
    bill = make_bill(make_client(network.lesnoy), payable_until=date(2029, 1, 1))
    done = edit([bill.id], payable_until=UNTIL, is_repeatable=True)
    edit([bill.id], payable_until=date(2029, 1, 1), is_repeatable=False)
    (line,) = undo(done)
    assert (line.outcome, line.changes) == (Outcome.SKIPPED, None)
    assert line.reason
    assert len(audited(Bill)) == 2


def test_two_who_change_the_same_rows_in_opposite_orders_do_not_deadlock(network: Any, in_parallel: Any) -> None:
    client = make_client(network.lesnoy)
    ids = [make_bill(client).id for _ in range(40)]

    def change(index: int) -> int:
        lines = edit(ids if index % 2 else ids[::-1], payable_until=UNTIL + timedelta(days=index))
        return sum(line.changes is not None for line in lines)

    assert in_parallel(change, 4) == [40] * 4
    assert len(audited(Bill)) == 160


@pytest.mark.parametrize("count", [3, 40])
def test_rows_are_written_alike_however_many_they_are(network: Any, count: int) -> None:
    row = {
        "at": clock.now(),
        "actor_id": None,
        "actor_name": "Ёлка; \t\\ 'кавычки'\n",
        "origin": "cli",
        "action": AuditAction.UPDATE,
        "entity": "bulk",
        "entity_label": "",
        "changes": {"name": [None, "Ё\\n\t"], "n": [1, True]},
    }
    with transaction():
        insert_rows(AuditEntry, [{**row, "entity_id": number} for number in range(count)])
        insert_rows(AuditEntry, [])
    found = db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "bulk")).all()
    assert len(found) == count
    assert {(entry.actor_name, str(entry.changes), entry.at) for entry in found} == {
        (row["actor_name"], str(row["changes"]), row["at"])
    }
