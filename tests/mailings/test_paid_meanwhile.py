"""A letter whose bill or debt was paid a moment ago is not sent, nor one of a kind its client forbids meanwhile."""

from __future__ import annotations

from decimal import Decimal

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.models import Bill
from crm.bills.operations import archive_bill
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, note_returned, set_contact
from crm.db import db, transaction
from crm.ledger.operations import base_account
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import MailingKind, Message, MessageStatus
from crm.mailings.operations import resend_messages, send_message_to
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from tests.factories import (
    make_child,
    make_client,
    make_message,
    make_payment,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
)


@pytest.fixture
def letter(network):
    """A letter of a mailing, waiting."""
    make_subscription(make_client(network.lesnoy))
    with transaction():
        run = run_now(make_rule(network.lesnoy), by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    return db.session.query(Message).one()


def pay(bill):
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)


def test_it_is_skipped_with_the_reason_and_without_an_error(letter, smtp):
    pay(letter.bill)
    assert not any(deliver_batch().fates.values())
    db.session.refresh(letter)
    assert letter.status is MessageStatus.SKIPPED
    assert letter.bill.title in letter.error
    assert smtp.messages == []
    with transaction():
        assert resend_messages([letter], by=SYSTEM) == 0


def test_so_is_one_of_an_archived_bill(letter, smtp):
    with transaction():
        archive_bill(letter.bill, by=SYSTEM)
    deliver_batch()
    db.session.refresh(letter)
    assert (letter.status, smtp.messages) == (MessageStatus.SKIPPED, [])


def test_one_that_is_still_to_be_paid_leaves(letter, smtp):
    deliver_batch()
    db.session.refresh(letter)
    assert letter.status is MessageStatus.SENT


def test_a_letter_by_hand_about_a_paid_bill_leaves(letter, smtp):
    bill = db.session.get_one(Bill, letter.bill_id)
    with transaction():
        own = send_message_to(letter.client, subject="Чек", text="{bill.url}", bill=bill, by=SYSTEM)
    pay(bill)
    deliver_batch()
    db.session.refresh(own)
    assert own.status is MessageStatus.SENT


# --- said or paid since it was queued --------------------------------------------------------------------------------


def queued(branch, kind):
    """A letter of a mailing of this kind, waiting."""
    with transaction():
        run = run_now(make_rule(branch, kind=kind, template=make_template(body="Здравствуйте!")), by=SYSTEM)
    execute_run(run.id, by=SYSTEM)
    return db.session.query(Message).one()


def test_who_forbids_such_messages_while_one_waits_does_not_get_it(network, smtp):
    client = make_client(network.lesnoy)
    letter = queued(network.lesnoy, MailingKind.TEXT)
    with transaction():
        choose(client, MessageKind.NEWS, False, by=None)
    deliver_batch()
    db.session.refresh(letter)
    assert (letter.status, smtp.messages) == (MessageStatus.SKIPPED, [])
    assert str(MessageKind.NEWS.label) in letter.error


def test_nor_one_written_by_hand(network, smtp):
    client = make_client(network.lesnoy)
    with transaction():
        letter = send_message_to(client, subject="Привет", text="Привет", by=SYSTEM)
        choose(client, MessageKind.PERSONAL, False, by=None)
    deliver_batch()
    db.session.refresh(letter)
    assert (letter.status, smtp.messages) == (MessageStatus.SKIPPED, [])


def test_nor_where_the_way_is_switched_off_meanwhile(network, smtp):
    client = make_client(network.lesnoy)
    letter = queued(network.lesnoy, MailingKind.TEXT)
    with transaction():
        set_contact(client, Channel.EMAIL, False, by=SYSTEM)
    deliver_batch()
    db.session.refresh(letter)
    assert (letter.status, smtp.messages) == (MessageStatus.SKIPPED, [])
    assert str(Channel.EMAIL.label) in letter.error


def test_whose_way_was_off_before_is_written_to_at_his_payers(network, smtp):
    child = make_child(make_client(network.lesnoy, email="mother@demo.test"))
    with transaction():
        child.email = "child@demo.test"
        set_contact(child, Channel.EMAIL, False, by=SYSTEM)
        child.birth_date = clock.today(network.lesnoy)
    letter = queued(network.lesnoy, MailingKind.BIRTHDAY)
    assert (letter.client_id, letter.recipient) == (child.id, "mother@demo.test")
    deliver_batch()
    db.session.refresh(letter)
    assert letter.status is MessageStatus.SENT


def test_an_address_letters_came_back_from_does_not_stop_those_to_the_new_one(network, smtp):
    client = make_client(network.lesnoy, email="old@demo.test")
    with transaction():
        assert note_returned(client, "old@demo.test")
        client.email = "new@demo.test"
    letter = queued(network.lesnoy, MailingKind.TEXT)
    deliver_batch()
    db.session.refresh(letter)
    assert (letter.recipient, letter.status) == ("new@demo.test", MessageStatus.SENT)


def test_a_password_is_sent_whatever_is_switched_off(network, smtp):
    client = make_client(network.lesnoy)
    letter = make_message(client, kind=MessageKind.SERVICE)
    with transaction():
        set_contact(client, Channel.EMAIL, False, by=SYSTEM)
    deliver_batch()
    db.session.refresh(letter)
    assert letter.status is MessageStatus.SENT


def test_who_forbids_others_gets_it(network, smtp):
    client = make_client(network.lesnoy)
    letter = queued(network.lesnoy, MailingKind.TEXT)
    with transaction():
        choose(client, MessageKind.BILLS, False, by=None)
        choose(client, MessageKind.NEWS, True, by=None)
    deliver_batch()
    db.session.refresh(letter)
    assert letter.status is MessageStatus.SENT


@pytest.mark.parametrize(("paid", "status"), [(900, MessageStatus.SKIPPED), (899, MessageStatus.SENT)])
def test_nobody_is_reminded_of_a_debt_paid_while_the_letter_waits(network, smtp, paid, status):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(900)))
    letter = queued(network.lesnoy, MailingKind.DEBT)
    make_payment(base_account(payer.id, network.lesnoy.id), paid)
    deliver_batch()
    db.session.refresh(letter)
    assert letter.status is status
