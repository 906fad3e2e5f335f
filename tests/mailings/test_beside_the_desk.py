"""A mailing bills a client at the moment somebody at the desk does."""

from __future__ import annotations

from datetime import timedelta

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.db import db, transaction
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from tests.factories import make_bill, make_client, make_rule, make_subscription


def test_bills_by_hand_and_by_a_mailing_at_once_do_not_deadlock(network, in_parallel):
    """The mailing holds the card and waits for the company's number; a bill by hand has the number and points at the
    card. A full FOR UPDATE of the card deadlocks PostgreSQL here.
    """
    payers = [make_client(network.lesnoy) for _ in range(15)]
    for payer in payers:
        make_subscription(payer)
    ids = [payer.id for payer in payers]
    with transaction():
        run_id = run_now(make_rule(network.lesnoy), by=SYSTEM).id
    yesterday = clock.today(network.lesnoy) - timedelta(days=1)  # an unpaid bill would keep the mailing from its own

    def bill(index: int) -> int:
        if index == 0:
            execute_run(run_id, by=SYSTEM)
        else:
            for client_id in ids * 2:
                client = db.session.get_one(Client, client_id)
                make_bill(client, payable_from=yesterday, payable_until=yesterday)
        return index

    assert in_parallel(bill, 3) == [0, 1, 2]
    db.session.expire_all()
    assert db.session.query(Bill).filter(Bill.dedupe_key.is_not(None)).count() == len(ids)
    numbers = sorted(bill.number for bill in db.session.query(Bill))
    assert numbers == list(range(1, len(numbers) + 1))
