"""Payments credited in one transaction: of each comes what comes of it alone, and nobody waits for them in a circle."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.audit.models import AuditEntry
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bill, lock_bill, settle_bills, unsettle_bill
from crm.clients.merging import merge_clients
from crm.clients.models import Client
from crm.contacts.operations import contact_urls
from crm.db import db, statement_engine, transaction
from crm.errors import DomainError
from crm.ledger.models import Account, Transaction
from crm.ledger.operations import base_account
from crm.mailings.models import Message
from crm.payments import crediting
from crm.payments.gateways.base import RemotePayment, RemoteStatus
from crm.payments.gateways.demo import SIGNATURE_HEADER, DemoGateway
from crm.payments.models import Attention, GatewayNotice, NoticeStatus, Payment, PaymentMethod, PaymentStatus
from crm.payments.notices import claim_notices, read_notices, take_notice
from crm.payments.operations import pay_bill_at_desk, start_payment
from crm.payments.outcomes import accept_notice, lock_orders
from crm.payments.polling import take_questions
from tests.bank import TalkingBank, begin, decline_at, hear_all, pay_at
from tests.factories import make_account, make_bill, make_client, make_notice, make_template
from tests.payments.test_notices import begin_anew

BACK = "https://kontora.test/pay/x"


def store(bank, payment, event="payment.updated"):
    external_id = payment.external_id
    body = json.dumps({"event": event, "payment": external_id}).encode()
    db.session.commit()
    take_notice("demo", {SIGNATURE_HEADER: bank.sign(body)}, body)


def start(bills, bank, **changes):
    db.session.commit()
    payment = start_payment(bills, gateway=bank, return_url=BACK, **changes)
    db.session.commit()
    return payment


def order_of(leader):
    query = select(Payment).where((Payment.id == leader.id) | (Payment.order_id == leader.id)).order_by(Payment.id)
    return list(db.session.scalars(query))


class World:
    """What may come to a branch in a minute: (what it is, its payment) and how to tell what came of all of it."""

    def __init__(self, branch, bank):
        self.branch, self.bank, self.leaders, self.said = branch, bank, [], {}
        self.clients = [make_client(branch, name="Плательщик") for _ in range(3)]
        company = branch.company
        company.takes_part_payments = True
        db.session.commit()
        self.plain = self.begun(self.bill(0))
        self.of_one_account = self.begun(self.bill(0))
        deposit = make_account(self.clients[0])
        self.of_another_account = self.begun(self.bill(0, account=deposit))
        self.several = self.begun([self.bill(1), self.bill(1, account=make_account(self.clients[1])), self.bill(1)])
        parts = self.bill(1)
        for part in (600, 900):
            self.begun(parts, amount=Decimal(part))
        over = self.bill(2)
        self.begun(over, amount=Decimal(700))
        self.begun(over)
        repeatable = self.bill(2, is_repeatable=True)
        self.begun(repeatable)
        self.leaders.append(begin_anew(repeatable, bank))
        closed = make_account(self.clients[2])
        self.begun(self.bill(2, account=closed))
        archived, expired = self.bill(0), self.bill(1)
        for dead in (archived, expired):
            self.begun(dead)
        mixed = [self.bill(2), self.bill(2)]
        self.begun(mixed)
        with transaction():
            closed.closed_at = clock.now()
            expired.payable_from = expired.payable_until = clock.today(branch) - timedelta(days=2)
            for bill in (archived, mixed[1]):
                archive_bill(bill, by=SYSTEM)
        revoked = self.bill(0)
        self.begun(revoked)
        with transaction():
            revoked.link_revoked_at = clock.now()
        for changes in (
            {"amount": Decimal(1)},
            {"currency": "USD"},
            {"refunded": Decimal(1500), "is_refunded": True},
            {"refunded": Decimal(1)},
            {"refunded": None},
            {"status": RemoteStatus.PENDING},
        ):
            self.said[self.begun(self.bill(1)).external_id] = changes
        declined = self.begun(self.bill(0))
        for leader in self.leaders:
            (decline_at if leader is declined else pay_at)(bank, leader)

    def bill(self, number, **changes):
        return make_bill(self.clients[number], **changes)

    def begun(self, bills, **changes):
        payment = start(bills, self.bank, **changes)
        if payment not in self.leaders:
            self.leaders.append(payment)
        return payment

    def tell(self):
        """The notices of all, some of them twice and one in other words."""
        self.marks = {table: db.session.scalar(select(func.max(table.id))) or 0 for table in _TOLD}
        for leader in self.leaders:
            store(self.bank, leader)
        for leader in (self.plain, self.several, self.of_one_account):
            store(self.bank, leader, event="said again")

    def new(self, table):
        return db.session.scalars(select(table).where(table.id > self.marks[table]).order_by(table.id)).all()

    def outcome(self):
        """What came of it, in words that are the same in another world."""
        db.session.expire_all()
        payments = [payment for leader in self.leaders for payment in order_of(leader)]
        numbers = {payment.id: number for number, payment in enumerate(payments)}
        own = {payment.account_id for payment in payments} | {payment.bill.account_id for payment in payments}
        accounts = {account.id: account for account in db.session.scalars(select(Account).where(Account.id.in_(own)))}
        order = {id: number for number, id in enumerate(sorted(accounts))}
        titles = {payment.bill.title: "№" for payment in payments}

        def same(words):
            for title in titles:
                words = words.replace(title, "№")
            return words

        operations = db.session.scalars(select(Transaction).where(Transaction.payment_id.in_(numbers)))
        return {
            "payments": [
                (
                    *(payment.status.value, order[payment.account_id], payment.attention, same(payment.comment)),
                    *(payment.reported_amount, payment.received_at is not None),
                )
                for payment in payments
            ],
            "events": [
                [(event.kind.value, same(event.detail), event.notice_id is not None) for event in payment.events]
                for payment in payments
            ],
            "bills": [
                (bill.status.value, bill.paid_amount, bill.payments_count, bill.paid_at is not None)
                for bill in (payment.bill for payment in payments)
            ],
            "balances": [accounts[id].balance for id in sorted(accounts)],
            "notices": [
                (notice.status.value, same(notice.result), numbers[notice.payment_id])
                for notice in self.new(GatewayNotice)
            ],
            "messages": sorted(
                (numbers[int(message.dedupe_key.split(":")[1])], message.body) for message in self.new(Message)
            ),
            "operations": sorted(
                (
                    *(numbers[operation.payment_id], operation.kind.value, same(operation.comment)),
                    *sorted((order.get(entry.account_id, -1), entry.amount) for entry in operation.entries),
                )
                for operation in operations
            ),
            "audit": sorted(
                (entry.action.value, entry.entity, sorted(entry.changes)) for entry in self.new(AuditEntry)
            ),
        }


_TOLD = (GatewayNotice, Message, AuditEntry)


@pytest.mark.spec("B2", "B19")
def test_of_whatever_comes_together_comes_what_comes_of_each_alone(network, bank, monkeypatch):
    make_template(is_thanks=True, subject="Спасибо", body="Получено {payment.amount}")
    fetch, said = DemoGateway.fetch, {}

    def answer(gateway, external_id):
        remote = fetch(gateway, external_id)
        return replace(remote, **said.get(external_id, {}))

    monkeypatch.setattr(DemoGateway, "fetch", answer)
    monkeypatch.setattr("crm.payments.notices.ASKING", 60)
    outcomes = []
    for branch, limit in ((network.lesnoy, 1), (network.rechnoy, 100)):
        # Tills are made at their first use.
        accept_notice(bank, pay_at(bank, begin(make_bill(make_client(branch)), bank)))
        world = World(branch, bank)
        said |= world.said
        world.tell()
        db.session.commit()
        while read_notices(limit=limit):
            pass
        outcomes.append(world.outcome())
    alone, together = outcomes
    for part, found in alone.items():
        assert together[part] == found, part
    assert len(set(alone["bills"])) > 4
    assert {attention for _status, _account, attention, *_rest in alone["payments"]} > {
        None,
        Attention.DEAD_BILL,
        Attention.PAID_TWICE,
        Attention.WRONG_SUM,
    }


def test_one_taken_over_among_several_is_left_to_who_has_it_and_the_others_are_credited_once(
    network, bank, monkeypatch
):
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(4)]
    for payment in payments:
        pay_at(bank, payment)
        store(bank, payment)
    slow = claim_notices()
    with transaction():  # as its heir's claim does
        db.session.execute(
            update(GatewayNotice)
            .where(GatewayNotice.id == slow[2].id)
            .values(attempts=GatewayNotice.attempts + 1)
            .execution_options(synchronize_session=False)
        )
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("crm.payments.notices.claim_notices", lambda **_limit: slow)
        hear_all()
    assert [line["event"] for line in logs].count("notices_one_by_one") == 1
    db.session.expire_all()
    assert [payment.status is PaymentStatus.SUCCEEDED for payment in payments] == [True, True, False, True]
    assert [notice.status for notice in db.session.scalars(select(GatewayNotice).order_by(GatewayNotice.id))] == [
        *[NoticeStatus.DONE] * 2,
        NoticeStatus.WORKING,
        NoticeStatus.DONE,
    ]


def test_several_payments_of_a_bill_are_counted_each(network):
    bill = make_bill(make_client(network.lesnoy))
    with transaction():
        lock_bill(bill)
        settle_bills([(bill, Decimal(500)), (bill, Decimal(1000))], by=SYSTEM)
    assert (bill.status, bill.paid_amount, bill.payments_count) == (BillStatus.PAID, 1500, 2)
    with transaction():
        lock_bill(bill)
        unsettle_bill(bill, Decimal(500), by=SYSTEM)
    assert (bill.status, bill.paid_amount, bill.payments_count) == (BillStatus.PENDING, 1000, 1)


# --- nobody waits in a circle ---------------------------------------------------------------------------------------


def test_orders_of_two_services_do_not_wait_in_a_circle_with_the_desk(network, bank, in_parallel, monkeypatch):
    """The desk holds a bill of one service and wants the account the other's payment has just been credited to."""
    client = make_client(network.lesnoy)
    bills = [make_bill(client) for _ in range(2)]
    first, second = (begin(bill, bank) for bill in bills)
    with transaction():
        first.gateway = "other"  # the older bill is of the service that is read second
    for payment in (second, first):
        external_id = payment.external_id
        make_notice(gateway=payment.gateway, external_id=external_id, status=NoticeStatus.NEW, digest=external_id)
    told, asking = crediting.AFTER_PAYMENT, [threading.Event(), threading.Event()]
    bill_id = bills[0].id

    def meet(payments):
        for tell in told:
            tell(payments)
        if threading.current_thread().name == "reader" and not asking[0].is_set():
            asking[0].set()
            asking[1].wait(3)

    monkeypatch.setattr(crediting, "AFTER_PAYMENT", [meet])
    amounts = {payment.external_id: payment.amount for payment in (first, second)}
    banks = {
        name: TalkingBank(lambda id: RemotePayment(id, RemoteStatus.SUCCEEDED, amounts[id]), name=name)
        for name in ("demo", "other")
    }
    monkeypatch.setattr("crm.payments.notices.gateway_of", lambda payment: banks[payment.gateway])

    def work(index):
        if index:
            asking[0].wait(30)
            with transaction():
                bill = db.session.get_one(Bill, bill_id)
                lock_bill(bill)
                asking[1].set()
                pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
            return None
        threading.current_thread().name = "reader"
        with capture_logs() as logs:
            read_notices()
        return [line["event"] for line in logs]

    logs, paid = in_parallel(work, 2)
    assert logs == []
    assert paid is None or paid.code == "paid"  # on SQLite one transaction is after another
    db.session.expire_all()
    assert {payment.status for payment in (first, second)} == {PaymentStatus.SUCCEEDED}
    assert first.account.balance == (4500 if paid is None else 3000)


def test_the_clock_does_not_wait_in_a_circle_with_who_credits_several(network, bank, in_parallel):
    """Payments are asked about in the order of their turn, and credited in that of their ids."""
    payments = [begin(make_bill(make_client(network.lesnoy)), bank) for _ in range(2)]
    ids = [payment.id for payment in payments]
    now = clock.now()
    for payment in payments[::-1]:  # where PostgreSQL finds the younger one first
        with transaction():
            payment.next_poll_at = now - timedelta(minutes=1)
    holds = threading.Event()

    def work(index):
        with transaction():
            if index == 0:
                lock_orders([db.session.get_one(Payment, ids[0])])
                holds.set()
                time.sleep(1)
                lock_orders([db.session.get_one(Payment, ids[1])])
                return None
            holds.wait(30)
            return sorted(question.payment_id for question in take_questions(now=now))

    held, asked = in_parallel(work, 2)
    assert held is None, held
    assert asked in ([], [ids[1]], ids), asked


def test_thanks_with_links_do_not_wait_in_a_circle_with_a_mailing(network, bank, in_parallel, monkeypatch):
    """Links to the clients' own pages are made at their first use, by a mailing in the order of the cards."""
    make_template(is_thanks=True, subject="Спасибо", body="{customer.messages_url}")
    clients = [make_client(network.lesnoy) for _ in range(2)]
    ids = [client.id for client in clients]
    payments = [begin(make_bill(client), bank) for client in clients[::-1]]
    for payment in payments:
        pay_at(bank, payment)
        store(bank, payment)
    told, holds, credited = crediting.AFTER_PAYMENT, threading.Event(), threading.Event()

    def meet(payments):
        credited.set()
        for tell in told:
            tell(payments)

    monkeypatch.setattr(crediting, "AFTER_PAYMENT", [meet])

    def work(index):
        if index:
            holds.wait(30)
            with capture_logs() as logs:
                read_notices()
            return [line["event"] for line in logs]
        with transaction():
            for id in ids:
                contact_urls([db.session.get_one(Client, id)])
                holds.set()
                credited.wait(3)  # on SQLite in vain: one transaction is after another
                time.sleep(0.5)
        return None

    assert in_parallel(work, 2) == [None, []]
    db.session.expire_all()
    assert {payment.status for payment in payments} == {PaymentStatus.SUCCEEDED}
    assert len(set(db.session.scalars(select(Message.body)))) == 2


def test_several_workers_the_clock_and_the_desk_credit_each_payment_once(network, bank, in_parallel):
    clients = [make_client(branch) for branch in (network.lesnoy, network.rechnoy) for _ in range(2)]
    bills = [make_bill(client) for client in clients for _ in range(4)]
    payments = [begin(bill, bank) for bill in bills]
    payments += [start([make_bill(client), make_bill(client)], bank) for client in clients]
    for payment in payments:
        pay_at(bank, payment)
    for event in ("paid", "confirmed"):
        for payment in payments[::-1] if event == "paid" else payments:
            store(bank, payment, event=event)
    external_ids = [payment.external_id for payment in payments]
    bill_ids = [bill.id for bill in bills]

    def work(index):
        if index < 3:
            while read_notices(limit=7 + index):
                pass
        elif index == 3:
            for external_id in external_ids[::-1]:
                accept_notice(bank, external_id)
        else:
            for bill_id in bill_ids[:: 2 if index == 4 else -2]:
                with transaction():
                    bill = db.session.get_one(Bill, bill_id)
                    with suppress(DomainError):  # paid meanwhile
                        pay_bill_at_desk(bill, method=PaymentMethod.CARD, by=SYSTEM)

    with capture_logs() as logs:
        results = in_parallel(work, 6)
    assert results == [None] * 6
    assert "notices_one_by_one" not in {line["event"] for line in logs}
    hear_all()
    db.session.expire_all()
    every = db.session.scalars(select(Payment).order_by(Payment.id)).all()
    assert {payment.status for payment in every} == {PaymentStatus.SUCCEEDED}
    per_payment = select(func.count()).select_from(Transaction).group_by(Transaction.payment_id)
    assert set(db.session.scalars(per_payment)) == {1}
    came = {client.id: sum(p.amount for p in every if p.client_id == client.id) for client in clients}
    assert {client.id: base_account(client.id, client.branch_id).balance for client in clients} == came
    for bill in db.session.scalars(select(Bill)):
        own = [payment for payment in every if payment.bill_id == bill.id]
        assert (bill.status, bill.payments_count) == (BillStatus.PAID, len(own))
        assert bill.paid_amount == bill.amount
        assert [payment.attention for payment in own].count(Attention.PAID_TWICE) == len(own) - 1


# --- thanks, and notices past the session ---------------------------------------------------------------------------


def test_a_payer_whose_card_is_in_another_branch_is_thanked_for_what_a_clerk_takes(network):
    """Two cards of one person in two branches were merged: accounts and bills stay where they were."""
    make_template(is_thanks=True, subject="Спасибо", body="{customer.name}, получено {payment.amount}")
    kept, gone = (make_client(branch, phone="") for branch in (network.rechnoy, network.lesnoy))
    bill_id = make_bill(gone).id
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    recipient, here = kept.email, Scope(frozenset({network.lesnoy.id}))
    db.session.expunge_all()
    with scoped_to(here), transaction():
        bill = db.session.get_one(Bill, bill_id)
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    assert (bill.status, bill.account.balance) == (BillStatus.PAID, bill.amount)
    assert db.session.scalars(select(Message)).one().recipient == recipient


def test_a_statement_that_fails_past_the_session_spoils_no_connection(network, bank):
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    for _ in range(6):
        with pytest.raises(DBAPIError), statement_engine().begin() as connection:
            connection.execute(text("INSERT INTO gateway_notice (gateway) VALUES (NULL)"))
    store(bank, payment)
    with statement_engine().begin() as connection:
        assert connection.scalar(select(func.count()).select_from(GatewayNotice)) == 1
    # What the session takes back does not take a stored notice with it.
    with pytest.raises(ZeroDivisionError), transaction():
        payment.comment = "не будет"
        db.session.flush()
        raise ZeroDivisionError
    db.session.expire_all()
    assert db.session.scalars(select(GatewayNotice)).one().status is NoticeStatus.NEW
