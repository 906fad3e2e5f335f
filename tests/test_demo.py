"""The made-up network: whole, the same for the same seed, sound in its books at any size."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import func, select

from crm import clock
from crm.access.models import Branch, Company, Role, User
from crm.access.operations import sign_in
from crm.access.queries import branches_of
from crm.audit.models import AuditEntry
from crm.bills.models import Bill, BillMethod, BillStatus
from crm.bills.operations import issue_bill
from crm.clients.models import Client
from crm.clients.operations import create_client
from crm.contacts.models import Channel, Contact, MessageChoice, MessageKind
from crm.db import db, transaction
from crm.debts.queries import total_ageing
from crm.demo import load_demo
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, AccountType, Transaction, TransactionKind
from crm.ledger.queries import check_ledger
from crm.mailings.models import (
    MailingKind,
    MailingRule,
    MailingRun,
    Message,
    MessageCharge,
    MessageStatus,
    Periodicity,
    Provider,
    RunStatus,
)
from crm.mailings.progress import LineFate, fates_of
from crm.mailings.runs import plan_due_runs
from crm.payments.models import Payment
from crm.schedule.models import Attendance, Booking, ClientGroup, Lesson, LessonStatus, Mark, Trial, Waiting
from crm.subscriptions.models import Subscription, SubscriptionState
from crm.tasks.models import Task, TaskStatus
from crm.tills.models import Shift
from crm.visits.models import Visit, VisitStatus

LOGINS = {
    "owner@demo.test": Role.OWNER,
    "regional@demo.test": Role.REGIONAL_DIRECTOR,
    "director@demo.test": Role.DIRECTOR,
    "administrator@demo.test": Role.ADMINISTRATOR,
    "manager@demo.test": Role.MANAGER,
    "instructor@demo.test": Role.INSTRUCTOR,
    "support@demo.test": Role.SUPPORT,
}


def count(model: type, *where: object) -> int:
    return db.session.scalar(select(func.count()).select_from(model).where(*where)) or 0  # type: ignore[arg-type]


def test_the_small_network_has_everything(app: Flask) -> None:
    load_demo()
    for email, role in LOGINS.items():
        assert sign_in(email, "demo", address="127.0.0.1").role is role
    branches = {branch.name: branch for branch in db.session.scalars(select(Branch))}
    lesnoy, rechnoy, mira = (branches[name] for name in ("Центр «Лесной»", "Центр «Речной»", "Студия на Мира"))
    assert lesnoy.city_id == rechnoy.city_id != mira.city_id
    assert lesnoy.time_zone != mira.time_zone
    director = db.session.scalars(select(User).where(User.email == "director@demo.test")).one()
    assert branches_of(director) == [lesnoy]
    types = {kind.name: kind.branches for kind in db.session.scalars(select(AccountType))}
    assert set(types["Депозиты"]) == {lesnoy, rechnoy, mira}
    assert rechnoy not in types["Подарочный счёт"]
    assert count(Client) == 60
    assert 15 < count(Client, Client.payer_id.is_not(None)) < 45
    bills = (MailingRule.kind == MailingKind.BILLS, MailingRule.branch_id == lesnoy.id)
    rule = db.session.scalars(select(MailingRule).where(*bills)).one()
    assert (rule.name, rule.is_active, rule.periodicity) == ("Счета на оплату клиентам", True, Periodicity.DAILY)
    assert [way.channel for way in rule.ways] == [Channel.EMAIL]
    assert "{bill.url}" in rule.ways[0].text[1]


def test_clients_are_written_to_over_every_channel(app: Flask) -> None:
    load_demo()
    for branch in db.session.scalars(select(Branch)):
        here = (MailingRule.branch_id == branch.id, ~MailingRule.is_selected)
        kinds = db.session.scalars(select(MailingRule.kind).where(*here)).all()
        assert {MailingKind.BILLS} < set(kinds)
        assert len(kinds) == len(set(kinds)) >= 3
        assert count(MailingRun, MailingRun.branch_id == branch.id, MailingRun.status == RunStatus.DONE) > 0
    fates = {fate for run in db.session.scalars(select(MailingRun)) for fate, number in fates_of(run).items() if number}
    assert fates == {LineFate.SENT, LineFate.FAILED, LineFate.UNKNOWN, LineFate.SKIPPED}
    messages = db.session.scalars(select(Message)).all()
    assert {one.channel for one in messages} == set(Channel) - {Channel.VIBER, Channel.PUSH}
    assert {one.status for one in messages} >= {
        *(MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.READ),
        *(MessageStatus.FAILED, MessageStatus.UNKNOWN),
    }
    assert not {one.status for one in messages} & {MessageStatus.PENDING, MessageStatus.TAKEN, MessageStatus.SENDING}
    paid = {charge.message.channel for charge in db.session.scalars(select(MessageCharge))}
    assert paid == {Channel.SMS, Channel.WHATSAPP}
    assert {one.kind for one in messages} > {MessageKind.PERSONAL, MessageKind.DEBT, MessageKind.NEWS}
    assert count(Contact, Contact.channel == Channel.TELEGRAM) > 3
    assert count(MessageChoice) > 3


def test_no_mailing_is_caught_up_and_nothing_is_sent_to_services(app: Flask) -> None:
    load_demo()
    with transaction():
        assert plan_due_runs(now=clock.now()) == []
    assert count(Provider) > 0
    assert count(Provider, Provider.is_active) == 0


def test_bills_stand_in_every_state_and_money_is_paid_in_and_owed(app: Flask) -> None:
    load_demo()
    bills = db.session.scalars(select(Bill)).all()
    assert len(bills) == 60
    assert {bill.status for bill in bills} == set(BillStatus)
    assert any(bill.is_overdue for bill in bills)
    assert any(bill.status is BillStatus.PENDING and not bill.is_overdue for bill in bills)
    assert any(bill.is_repeatable and bill.payments_count > 1 for bill in bills)
    assert any(bill.payable_until is None for bill in bills)
    deposits = db.session.scalars(select(Account).where(Account.kind == AccountKind.DEPOSIT)).all()
    assert deposits
    assert all(account.balance > 0 for account in deposits if not account.is_closed)
    base = db.session.scalars(select(Account.balance).where(Account.kind == AccountKind.BASE)).all()
    assert any(balance < 0 for balance in base)
    assert any(balance > 0 for balance in base)
    lesnoy = db.session.scalars(select(Branch).where(Branch.name == "Центр «Лесной»")).one()
    today = clock.today(lesnoy)
    assert count(Subscription, Subscription.starts_on <= today, Subscription.ends_on >= today) > 10
    assert check_ledger() == []


def test_everything_that_is_done_with_accounts_is_done(app: Flask) -> None:
    load_demo()
    done = set(db.session.scalars(select(Transaction.kind).distinct()))
    assert set(TransactionKind) - done == {TransactionKind.OPENING}  # balances brought from elsewhere
    assert count(Account, Account.closed_at.is_not(None)) > 0
    visits = db.session.scalars(select(Visit)).all()
    assert {visit.status for visit in visits} == set(VisitStatus)
    assert any(visit.paid_at is None and visit.status is VisitStatus.CAME and visit.price for visit in visits)
    lesnoy = db.session.scalars(select(Branch).where(Branch.name == "Центр «Лесной»")).one()
    assert {-1, 0, 1} <= {
        (day > clock.today(lesnoy)) - (day < clock.today(lesnoy))
        for day in (clock.local(visit.starts_at, lesnoy).date() for visit in visits if visit.branch_id == lesnoy.id)
    }
    shifts = db.session.scalars(select(Shift).order_by(Shift.id)).all()
    assert [shift.closed_at is None for shift in shifts] == [False] * 5 + [True]
    assert sum(shift.closing_counted != shift.closing_expected for shift in shifts if shift.closed_at) == 1
    debtors = total_ageing(select(Account.id).where(Account.kind == AccountKind.BASE))
    assert min(debtors.days_30, debtors.days_60, debtors.days_90, debtors.older) > 0


def test_lessons_go_on_in_every_branch(app: Flask) -> None:
    load_demo()
    now = clock.now()
    for branch in db.session.scalars(select(Branch)):
        here = Lesson.branch_id == branch.id
        assert count(ClientGroup, ClientGroup.branch_id == branch.id) == 3
        assert count(Lesson, here, Lesson.status == LessonStatus.HELD) > 10
        week = now + timedelta(days=7)
        assert count(Lesson, here, Lesson.starts_at.between(now, week), Lesson.status == LessonStatus.PLANNED) > 3
        past = now - timedelta(days=1)
        assert count(Lesson, here, Lesson.starts_at < past, Lesson.status == LessonStatus.PLANNED) == 0
        assert count(Trial, Trial.branch_id == branch.id) == 1
        assert count(Waiting, Waiting.branch_id == branch.id) == 1
        assert count(Booking, Booking.branch_id == branch.id) == 1
        assert count(Task, Task.branch_id == branch.id, Task.status == TaskStatus.OPEN) == 3
    marks = set(db.session.scalars(select(Attendance.mark).distinct()))
    assert marks >= {Mark.PLANNED, Mark.PRESENT, Mark.ABSENT, Mark.EXCUSED}
    states = {sold.state(clock.today(sold.branch)) for sold in db.session.scalars(select(Subscription))}
    assert states >= set(SubscriptionState) - {SubscriptionState.NOT_BEGUN, SubscriptionState.ARCHIVED}
    owed = select(Account.balance).where(Account.kind == AccountKind.SUBSCRIPTION)
    assert any(balance < 0 for balance in db.session.scalars(owed))


def test_one_person_owes_two_cities(app: Flask) -> None:
    """His two cards were made one; the debts stay where they arose."""
    load_demo()
    gone = db.session.scalars(select(Client).where(Client.merged_into_id.is_not(None))).one()
    owed = db.session.scalars(
        select(Account).where(
            Account.client_id == gone.merged_into_id, Account.kind == AccountKind.BASE, Account.balance < 0
        )
    ).all()
    assert len({account.branch.city_id for account in owed}) == 2


def test_the_past_is_spread_over_months_by_those_who_serve_the_branches(app: Flask) -> None:
    load_demo()
    now = clock.now()
    for column in (Client.created_at, Bill.issued_at, Payment.received_at, Transaction.happened_at, AuditEntry.at):
        first, last = db.session.execute(select(func.min(column), func.max(column))).one()
        assert last <= now
        assert first < now - timedelta(days=60) or column is Payment.received_at
    names = set(db.session.scalars(select(Transaction.author_name).distinct()))
    heads = {"Дарья Соснина", "Роман Заречный"}
    assert names <= heads | {"Анна Ручейкова", "Ольга Берестова"}  # who serves the branches, and who heads them
    authors = db.session.scalars(select(AuditEntry.actor_name).where(AuditEntry.entity == "client").distinct())
    assert set(authors) <= names | {"client"}  # what he takes he says himself


def test_the_same_seed_makes_the_same_network(app: Flask) -> None:
    def told() -> tuple[list[object], ...]:
        return (
            [*db.session.execute(select(Client.name, Client.phone).order_by(Client.id))],
            [*db.session.execute(select(Client.name, Bill.amount, Bill.status).join(Bill.client).order_by(Bill.id))],
            [*db.session.execute(select(Account.kind, Account.balance).order_by(Account.id))],
        )

    with clock.frozen(clock.now()):
        with pytest.raises(_Undo), transaction():
            load_demo(clients=20, bills=20, seed=5)
            first = told()
            raise _Undo
        with pytest.raises(_Undo), transaction():
            load_demo(clients=20, bills=20, seed=6)
            assert told() != first
            raise _Undo
        load_demo(clients=20, bills=20, seed=5)
        assert told() == first


class _Undo(Exception):
    """Ends a transaction without a trace."""


def test_requisites_agree_with_their_check_digits(app: Flask) -> None:
    load_demo(clients=0, bills=0)
    company = db.session.scalars(select(Company)).one()

    def weighted(digits: str, weights: tuple[int, ...]) -> int:
        return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))

    assert weighted(company.inn, (2, 4, 10, 3, 5, 9, 4, 6, 8)) % 11 % 10 == int(company.inn[9])
    assert int(company.ogrn[:12]) % 11 % 10 == int(company.ogrn[12])
    key = (7, 1, 3) * 8
    assert weighted(company.bic[6:] + company.settlement_account, key) % 10 == 0
    assert weighted("0" + company.bic[4:6] + company.correspondent_account, key) % 10 == 0


def test_a_database_in_use_is_refused_in_one_line(app: Flask) -> None:
    load_demo(clients=2, bills=0)
    with pytest.raises(DomainError) as caught:
        load_demo()
    assert caught.value.code == "not_empty"
    result = app.test_cli_runner().invoke(args=["demo"])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert count(Client) == 2


@pytest.mark.parametrize(("clients", "bills"), [(501, 700), (700, 0), (3, 900)])
def test_volume_leaves_sound_books(app: Flask, clients: int, bills: int) -> None:
    load_demo(clients=clients, bills=bills)
    assert (count(Client), count(Bill)) == (clients, bills)
    assert check_ledger() == []
    phones = db.session.scalars(select(Client.phone).where(Client.payer_id.is_(None), Client.phone.is_not(None))).all()
    assert len(phones) == len(set(phones))
    paid = count(Bill, Bill.status == BillStatus.PAID)
    assert count(Payment, Payment.bill_id.is_not(None)) >= paid
    assert count(AuditEntry, AuditEntry.entity == "client") >= clients


def test_life_goes_on_after_volume(app: Flask) -> None:
    load_demo(clients=600, bills=600)
    branch = db.session.scalars(select(Branch).order_by(Branch.id)).first()
    owner = db.session.scalars(select(User).where(User.role == Role.OWNER)).one()
    assert branch is not None
    with transaction():
        client = create_client(branch=branch, name="Новый", phone="+79991234567", by=owner)
        today = clock.today(branch)
        bill = issue_bill(client, amount=Decimal(100), period_from=today, period_to=today, by=owner)
    assert bill.number > max(db.session.scalars(select(Bill.number).where(Bill.year == bill.year, Bill.id != bill.id)))


def test_some_bills_are_by_the_forecast_with_their_lines(app: Flask) -> None:
    load_demo()
    foreseen = list(db.session.scalars(select(Bill).where(Bill.method == BillMethod.FORECAST)))
    assert foreseen
    for bill in foreseen:
        assert sum(line.amount for line in bill.lines) == bill.amount
