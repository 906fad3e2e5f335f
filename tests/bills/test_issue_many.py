"""Bills for a selection of clients at once: a line for each, numbers without holes or doubles, nobody twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditAction, AuditEntry
from crm.bills.issuing import Terms, draft_bill, issue_draft, issue_many, outlook_of_many
from crm.bills.models import Bill, BillCounter, BillMethod
from crm.bills.operations import archive_bill, issue_bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account
from crm.ledger.operations import base_account
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from crm.protocol import Outcome, ProtocolLine
from crm.subscriptions.models import ChargeMoment
from tests.admin.test_grids import plain
from tests.factories import (
    make_account,
    make_child,
    make_client,
    make_lesson,
    make_lesson_type,
    make_payment,
    make_plan,
    make_subscription,
)

NOON = datetime(2027, 1, 20, 9, tzinfo=UTC)
TODAY = date(2027, 1, 20)
TERMS = Terms(BillMethod.FORECAST, date(2027, 1, 31), date(2027, 2, 10), False, "Занятия января")


@pytest.fixture(autouse=True)
def _at_noon(app: Any) -> Iterator[None]:
    with clock.frozen(NOON):
        yield


@pytest.fixture
def kind(network: Any) -> Any:
    return make_lesson_type(name="Танцы", single_price=Decimal(500))


def expect(kind: Any, *students: Client, times: int = 2) -> None:
    for n in range(times):
        make_lesson(students[0].branch, *students, lesson_type=kind, starts_at=NOON + timedelta(days=n, hours=1))


def issue(*clients: Client, terms: Terms = TERMS, by: Any = SYSTEM) -> list[ProtocolLine]:
    with transaction():
        return issue_many([one.id for one in clients], terms, by=by)


def bills() -> list[Bill]:
    return list(db.session.scalars(select(Bill).order_by(Bill.id)))


@pytest.mark.spec("B3", "B10", "B13")
def test_each_client_gets_the_bill_he_would_get_alone(network: Any, kind: Any) -> None:
    first, second = (make_client(network.lesnoy, name=name) for name in ("Пётр Ёлкин", "Фёкла"))
    expect(kind, first, second)
    with transaction():
        make_payment(base_account(second.id, second.branch_id), 50)
    lines = issue(first, second)
    mine, hers = bills()
    assert [line.reason for line in lines] == [None, None]
    assert [line.id for line in lines] == [first.id, second.id]
    assert lines[0].label.replace("\xa0", "") == f"Пётр Ёлкин: {mine.title}, 1000,00"
    assert (mine.client_id, mine.amount, hers.client_id, hers.amount) == (first.id, 1000, second.id, 950)
    assert [line.amount for line in hers.lines] == [500, 500, -50]
    assert (mine.period_from, mine.period_to, mine.payable_from) == (TODAY, TERMS.period_to, TODAY)
    assert (mine.payable_until, mine.purpose) == (TERMS.payable_until, "Занятия января")


def test_it_is_the_same_row_and_the_same_audit_as_one_issued_alone(network: Any, kind: Any) -> None:
    alone, among = make_client(network.lesnoy), make_client(network.lesnoy)
    expect(kind, alone, among)
    with transaction():
        base_account(among.id, among.branch_id)
        issue_draft(
            alone,
            method=TERMS.method,
            period_to=TERMS.period_to,
            payable_until=TERMS.payable_until,
            purpose=TERMS.purpose,
            by=network.owner,
        )
    issue(among, by=network.owner)
    own = {"id", "number", "token", "client_id", "account_id"}
    rows = db.session.execute(select(*Bill.__table__.columns).order_by(Bill.id)).mappings().all()
    one, other = ({name: row[name] for name in row if name not in own} for row in rows)
    assert one == other
    notes = db.session.scalars(
        select(AuditEntry)
        .where(AuditEntry.entity == "bill", AuditEntry.action == AuditAction.CREATE)
        .order_by(AuditEntry.id)
    ).all()
    one, other = ({name: note.changes[name] for name in note.changes if name not in own - {"token"}} for note in notes)
    assert one == other
    assert set(notes[0].changes) == set(notes[1].changes)
    assert [note.entity_label for note in notes] == [bill.title for bill in bills()]
    assert notes[1].actor_id == network.owner.id


def test_numbers_have_no_holes_where_somebody_is_left_out(network: Any, kind: Any) -> None:
    before = make_client(network.lesnoy)
    with transaction():
        issue_bill(before, amount=Decimal(100), period_from=TODAY, period_to=TODAY, by=SYSTEM)
    clients = [make_client(network.lesnoy) for _ in range(5)]
    expect(kind, *clients[::2])
    lines = issue(*clients)
    assert [line.reason is None for line in lines] == [True, False, True, False, True]
    assert "31.01.2027" in str(lines[1].reason)
    assert [bill.number for bill in bills()] == [1, 2, 3, 4]
    assert db.session.scalars(select(BillCounter.last)).all() == [4]


def test_who_needs_no_bill_gets_no_account(network: Any) -> None:
    client = make_client(network.lesnoy)
    issue(client)
    assert db.session.scalar(select(func.count()).select_from(Account).where(Account.client_id == client.id)) == 0


def test_a_payer_and_his_child_share_one_bill(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    expect(kind, payer, child)
    lines = issue(child, payer)
    (bill,) = bills()
    assert (bill.client_id, bill.amount) == (payer.id, 2000)
    assert [line.reason for line in lines] == [None, None]
    assert lines[1].label == f"{payer.shown_name}: вошло в счёт плательщика {bill.title}"


def test_who_comes_in_a_later_batch_of_the_action_is_in_the_bill_of_the_first(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    expect(kind, payer, child)
    terms = replace(TERMS, since=clock.now(), is_reissued=True)
    with clock.frozen(NOON + timedelta(seconds=1)):
        issue(payer, terms=terms)
        (line,) = issue(child, terms=terms)
    (bill,) = bills()
    assert (line.reason, bill.title in line.label) == (None, True)
    with clock.frozen(NOON + timedelta(seconds=2)):
        issue(child, terms=replace(terms, since=clock.now()))
    assert len(bills()) == 2


def test_the_same_again_issues_nothing(network: Any, kind: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer)
    expect(kind, payer, child)
    issue(payer)
    (bill,) = bills()
    lines = issue(payer, child)
    assert [line.reason for line in lines] == [f"Есть неоплаченный счёт: {bill.title}."] * 2
    assert [line.outcome for line in lines] == [Outcome.SKIPPED] * 2, "nobody need look at it"
    assert bills() == [bill]
    assert db.session.scalars(select(BillCounter.last)).all() == [1]


@pytest.mark.spec("W8", "B98", "B99")
@pytest.mark.parametrize("method", list(BillMethod))
def test_nobody_is_billed_while_a_bill_waits_for_payment_unless_it_is_asked_for(
    network: Any, kind: Any, method: BillMethod
) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    issue(client)
    (bill,) = bills()
    make_subscription(client)
    amount = Decimal(500) if method is BillMethod.MANUAL else None
    terms = Terms(method, TERMS.period_to + timedelta(days=31), amount=amount)
    assert outlook_of_many([client.id], terms, by=SYSTEM) == (0, 0, 1, 0)
    assert [line.reason for line in issue(client, terms=terms)] == [f"Есть неоплаченный счёт: {bill.title}."]
    assert [line.reason for line in issue(client, terms=replace(terms, is_reissued=True))] == [None]
    assert len(bills()) == 2


@pytest.mark.spec("W8")
@pytest.mark.parametrize("end", ["archived", "expired", "paid"])
def test_a_bill_that_cannot_be_paid_any_more_stands_in_nobodys_way(network: Any, kind: Any, end: str) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    make_lesson(network.lesnoy, client, lesson_type=kind, starts_at=NOON + timedelta(days=3))
    issue(client, terms=replace(TERMS, period_to=TODAY + timedelta(days=2), payable_until=TODAY))
    (bill,) = bills()
    with transaction():
        if end == "archived":
            archive_bill(bill, by=SYSTEM)
        elif end == "paid":
            pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    with clock.frozen(NOON + timedelta(days=end == "expired")):
        assert [line.reason for line in issue(client)] == [None]
    assert len(bills()) == 2


@pytest.mark.spec("B98")
def test_a_bill_for_another_account_stands_in_nobodys_way(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    deposit = make_account(client)
    with transaction():
        issue_bill(client, amount=Decimal(1), period_from=TODAY, period_to=TODAY, account=deposit, by=SYSTEM)
    assert [line.reason for line in issue(client)] == [None]


def test_what_it_comes_to_is_known_before(network: Any, kind: Any) -> None:
    payer, other, idle = (make_client(network.lesnoy) for _ in range(3))
    child = make_child(payer)
    expect(kind, payer, child, other)
    ids = [*(one.id for one in (child, payer, other, idle)), 10**9]
    assert outlook_of_many(ids, TERMS, by=SYSTEM) == (2, 3000, 1, 1)
    assert bills() == []
    lines = issue(child, payer, other, idle)
    assert [line.outcome for line in lines] == [*[Outcome.DONE] * 3, Outcome.SKIPPED]
    assert [bill.amount for bill in bills()] == [2000, 1000]


@pytest.mark.spec("W1")
def test_who_has_enough_is_told_why(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    with transaction():
        make_payment(base_account(client.id, client.branch_id), 2500)
    (line,) = issue(client)
    assert line.outcome is Outcome.SKIPPED
    assert "хватает на занятия до" in str(line.reason)
    assert bills() == []


def test_a_sum_too_big_for_a_bill_stands_in_nobodys_way(network: Any) -> None:
    rich, poor = make_client(network.lesnoy), make_client(network.lesnoy)
    for plan in [make_plan(price=Decimal(60_000_000))] * 2:
        make_subscription(rich, plan)
    make_subscription(poor, make_plan())
    terms = replace(TERMS, method=BillMethod.SUBSCRIPTION)
    assert outlook_of_many([rich.id, poor.id], terms, by=SYSTEM) == (1, 4000, 0, 1)
    first, second = issue(rich, poor, terms=terms)
    assert (first.outcome, second.outcome) == (Outcome.FAILED, Outcome.DONE)
    assert "100 000 000" in plain(first.reason or "")
    assert [(bill.client_id, bill.amount) for bill in bills()] == [(poor.id, 4000)]


def test_who_is_out_of_sight_is_not_found(network: Any, kind: Any) -> None:
    here, there = make_client(network.lesnoy), make_client(network.rechnoy)
    expect(kind, here)
    expect(kind, there)
    with scoped_to(Scope(frozenset({network.lesnoy.id}))):
        lines = issue(here, there, by=network.administrator)
    assert [line.reason for line in lines] == [None, "Не найден"]
    assert [line.outcome for line in lines] == [Outcome.DONE, Outcome.FAILED]
    assert [bill.client_id for bill in bills()] == [here.id]


def test_only_those_who_may_issue_bills(network: Any, kind: Any) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    with pytest.raises(Forbidden):
        issue(client, by=network.manager)


def test_each_branch_has_its_own_today(network: Any, kind: Any) -> None:
    # 23:30 of 31 December in Moscow, already next year in Samara.
    moscow, samara = make_client(network.lesnoy), make_client(network.mira)
    terms = Terms(BillMethod.MANUAL, date(2027, 12, 31), None, False, "Взнос", Decimal(100))
    with clock.frozen(datetime(2027, 12, 31, 20, 30, tzinfo=UTC)):
        lines = issue(moscow, samara, terms=terms)
    assert [line.outcome for line in lines] == [Outcome.DONE, Outcome.FAILED], "the period is over there"
    assert [bill.title for bill in bills()] == ["2027-000001"]


@pytest.mark.spec("B9", "B12")
def test_by_hand_the_sum_is_everybodys(network: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(2)]
    terms = Terms(BillMethod.MANUAL, TERMS.period_to, None, True, "Взнос на костюмы", Decimal("1500.50"))
    issue(*clients, terms=terms)
    assert [(bill.amount, bill.is_repeatable, bill.lines) for bill in bills()] == [(Decimal("1500.50"), True, [])] * 2
    with pytest.raises(DomainError) as refused:
        issue(*clients, terms=Terms(BillMethod.MANUAL, TERMS.period_to))
    assert refused.value.field == "amount"


@pytest.mark.spec("B11", "W2")
def test_by_cost_what_no_bill_has_asked_for_and_nobody_has_paid(network: Any) -> None:
    fresh, paid, none = (make_client(network.lesnoy) for _ in range(3))
    deposit = make_account(paid, balance=9000)
    make_subscription(paid, account=deposit)
    child = make_child(fresh)
    sold = [make_subscription(one) for one in (fresh, child)]
    with transaction():
        make_payment(base_account(fresh.id, fresh.branch_id), 9000)
    terms = Terms(BillMethod.SUBSCRIPTION, TERMS.period_to)
    lines = issue(fresh, paid, none, terms=terms)
    (bill,) = bills()
    assert (bill.amount, bill.subscriptions) == (8000, sold)
    assert [line.amount for line in bill.lines] == [4000, 4000]
    assert [line.outcome for line in lines] == [Outcome.DONE, Outcome.SKIPPED, Outcome.SKIPPED]
    assert [line.reason for line in lines][1] != lines[2].reason
    again = Terms(BillMethod.SUBSCRIPTION, TERMS.period_to, is_reissued=True)
    assert issue(fresh, terms=again)[0].reason == lines[1].reason


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_part_of_an_archived_bill_does_not_count_as_paid_for_ever(network: Any, is_whole: bool) -> None:
    network.lesnoy.company.takes_part_payments = True
    client = make_client(network.lesnoy)
    make_subscription(client)
    terms = Terms(BillMethod.SUBSCRIPTION, TERMS.period_to)
    issue(client, terms=terms)
    (bill,) = bills()
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, amount=None if is_whole else Decimal(1), by=SYSTEM)
    assert issue(client, terms=terms)[0].outcome is Outcome.SKIPPED  # what is left of it can still be paid
    if not is_whole:
        with transaction():
            archive_bill(bill, by=SYSTEM)
    issue(client, terms=terms)
    assert len(bills()) == (1 if is_whole else 2)


def test_a_part_of_an_expired_bill_does_not_count_as_paid_for_ever(network: Any) -> None:
    network.lesnoy.company.takes_part_payments = True
    client = make_client(network.lesnoy)
    make_subscription(client)
    terms = Terms(BillMethod.SUBSCRIPTION, TERMS.period_to, TODAY)
    issue(client, terms=terms)
    with transaction():
        pay_bill_at_desk(bills()[0], method=PaymentMethod.CASH, amount=Decimal(1), by=SYSTEM)
    with clock.frozen(NOON + timedelta(days=1)):
        issue(client, terms=Terms(BillMethod.SUBSCRIPTION, TERMS.period_to))
    assert len(bills()) == 2


@pytest.mark.parametrize("method", list(BillMethod))
def test_no_period_ends_more_than_two_years_ahead(network: Any, kind: Any, method: BillMethod) -> None:
    client = make_client(network.lesnoy)
    expect(kind, client)
    make_subscription(client)
    amount = Decimal(500) if method is BillMethod.MANUAL else None
    for day in (date(9999, 12, 31), date(2029, 1, 21)):
        (line,) = issue(client, terms=Terms(method, day, amount=amount))
        assert line.reason
        with pytest.raises(DomainError) as refused:
            draft_bill(client, branch=client.branch, method=method, period_to=day)
        assert refused.value.field == "period_to"
    assert bills() == []
    (line,) = issue(client, terms=Terms(method, date(2029, 1, 20), amount=amount))
    assert line.reason is None


@pytest.mark.parametrize("method", list(BillMethod))
def test_as_many_statements_for_many_as_for_few(network: Any, kind: Any, statements: Any, method: BillMethod) -> None:
    counts, groups = [], []
    terms = Terms(method, TERMS.period_to, amount=Decimal(100), is_reissued=True)
    for many in (2, 9):
        clients = [make_client(network.lesnoy, surname="Ёлкина") for _ in range(many)]
        for client in clients:
            make_subscription(client, make_plan(lessons=3, charge=ChargeMoment.PER_LESSON))
        expect(kind, *clients)
        groups.append([one.id for one in clients])
    with transaction():
        issue_bill(clients[0], amount=Decimal(1), period_from=TODAY, period_to=TODAY, by=SYSTEM)  # begins the year
    for ids in groups:
        db.session.expunge_all()
        with statements() as sent, transaction():
            lines = issue_many(ids, terms, by=SYSTEM)
        assert {line.reason for line in lines} == {None}
        counts.append(len([one for one in sent if not one.startswith(("BEGIN", "PRAGMA"))]))
    assert counts[0] == counts[1]


def test_numbers_run_without_holes_while_many_issue(network: Any, in_parallel: Any) -> None:
    clients = [[make_client(branch).id for branch in (network.lesnoy, network.mira)] for _ in range(18)]

    class GaveUp(Exception):
        pass

    def act(index: int) -> None:
        for turn in range(3):
            ids = clients[index * 3 + turn]
            try:
                with transaction():
                    if turn == 0:
                        client = db.session.get_one(Client, ids[0])
                        issue_bill(client, amount=Decimal(1), period_from=TODAY, period_to=TODAY, by=SYSTEM)
                    else:
                        issue_many(ids, Terms(BillMethod.MANUAL, TERMS.period_to, amount=Decimal(100)), by=SYSTEM)
                    if (index + turn) % 3 == 0:
                        raise GaveUp
            except GaveUp:
                pass

    assert in_parallel(act, 6) == [None] * 6
    numbers = sorted(bill.number for bill in bills())
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 4 + 2 * 8


def test_the_same_selection_by_many_at_once_is_billed_once(network: Any, kind: Any, in_parallel: Any) -> None:
    clients = [make_client(network.lesnoy) for _ in range(3)]
    expect(kind, *clients)
    ids = [one.id for one in clients]

    def act(index: int) -> int:
        with transaction():
            lines = issue_many(ids[::-1] if index % 2 else ids, TERMS, by=SYSTEM)
        return sum(line.reason is None for line in lines)

    assert sorted(in_parallel(act, 4)) == [0, 0, 0, 3]
    assert len(bills()) == 3
