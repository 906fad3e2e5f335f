"""Letters that come back: what a report says reaches the message, and a bad address is not written to again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.contacts.models import Channel, Contact
from crm.contacts.operations import set_contact
from crm.contacts.queries import ContactState, address_for, ways_of
from crm.db import db, transaction
from crm.jobs.tasks import perform
from crm.mailings.bounces import READ_BOUNCES, read_bounces
from crm.mailings.channels.base import Fate, Outcome
from crm.mailings.channels.email import letter_id, names_no_address
from crm.mailings.channels.mailbox import Bounce, Mailbox, MailboxAway, read_report
from crm.mailings.delivery import (
    LEASE,
    begin_sending,
    deliver_batch,
    give_up_lost_claims,
    settle_message,
    take_messages,
)
from crm.mailings.models import MessageStatus
from crm.mailings.operations import resend_messages
from tests.factories import make_client, make_message
from tests.mailings.mailbox import mailbox_server, report

LETTER_ID = "0123456789abcdef0123456789abcdef"
MESSAGE_ID = f"<{LETTER_ID}@demo.test>"


@pytest.fixture
def mailbox(app):
    """The mailbox letters come back to."""
    before = app.config["SETTINGS"]
    with mailbox_server() as server:
        app.config["SETTINGS"] = replace(before, imap_url=server.url)
        yield server
        app.config["SETTINGS"] = before


@pytest.fixture
def client(network):
    return make_client(network.lesnoy, email="anna@demo.test")


@pytest.fixture
def sent(client, smtp):
    """A letter that has left; its Message-ID is that at the server."""
    message = make_message(client)
    deliver_batch()
    return fresh(message), smtp.messages[-1].message["Message-ID"]


def fresh(row):
    db.session.refresh(row)
    return row


def email_of(client):
    return next(way for way in ways_of(fresh(client)) if way.channel is Channel.EMAIL)


def test_a_letter_that_came_back_has_failed_with_the_servers_words(sent, mailbox):
    message, message_id = sent
    uid = mailbox.receive(report(message_id, "anna@demo.test"))
    assert read_bounces() == 1
    assert fresh(message).status is MessageStatus.FAILED
    assert "550 5.1.1 <anna@demo.test>: Recipient address rejected: User unknown" in message.error
    assert mailbox.seen == {uid}
    mailbox.seen.clear()  # it died before it was marked
    assert read_bounces() == 0
    assert mailbox.seen == {uid}


def test_a_worker_reads_them(sent, mailbox):
    message, message_id = sent
    mailbox.receive(report(message_id, "anna@demo.test"))
    db.session.commit()
    perform(READ_BOUNCES)
    assert fresh(message).status is MessageStatus.FAILED


def test_an_address_that_is_no_good_is_not_written_to_until_it_changes(client, sent, mailbox):
    mailbox.receive(report(sent[1], "anna@demo.test"))
    read_bounces()
    assert (email_of(client).state, address_for(client, Channel.EMAIL)) == (ContactState.OFF, None)
    assert "возвращаются" in email_of(client).refusal
    with transaction():
        client.email = "anna2@demo.test"
    assert (email_of(client).state, email_of(client).refusal) == (ContactState.ON, "")
    with transaction():
        set_contact(client, Channel.EMAIL, False, by=SYSTEM)
    assert email_of(client).state is ContactState.OFF
    with transaction():
        client.email = "anna3@demo.test"
    assert email_of(client).state is ContactState.OFF


def test_whoever_switches_it_on_again_is_believed(client, sent, mailbox):
    mailbox.receive(report(sent[1], "anna@demo.test"))
    read_bounces()
    with transaction():
        set_contact(client, Channel.EMAIL, True, by=SYSTEM)
    assert address_for(client, Channel.EMAIL) == "anna@demo.test"


@pytest.mark.parametrize(
    ("status", "is_off"), [("5.1.10", True), ("5.2.1", True), ("5.2.2", False), ("5.7.1", False), ("4.4.7", False)]
)
def test_only_a_bad_address_is_given_up(client, sent, mailbox, status, is_off):
    message, message_id = sent
    mailbox.receive(report(message_id, "anna@demo.test", status=status, said="no"))
    read_bounces()
    assert fresh(message).status is MessageStatus.FAILED
    assert (email_of(client).state is ContactState.OFF) is is_off


def test_an_address_changed_meanwhile_is_left_alone(client, sent, mailbox):
    with transaction():
        client.email = "new@demo.test"
    mailbox.receive(report(sent[1], "anna@demo.test"))
    read_bounces()
    assert address_for(fresh(client), Channel.EMAIL) == "new@demo.test"
    assert db.session.query(Contact).count() == 0


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed"])
def test_what_is_only_late_changes_nothing(sent, mailbox, action):
    message, message_id = sent
    mailbox.receive(report(message_id, "anna@demo.test", action=action))
    assert read_bounces() == 0
    assert fresh(message).status is MessageStatus.SENT


def test_reports_of_others_and_letters_of_people_are_left_alone(sent, mailbox):
    message, _ = sent
    mailbox.receive(report(MESSAGE_ID, "anna@demo.test"))
    person = mailbox.receive(b"From: anna@demo.test\nSubject: Re\n\nhello")
    assert read_bounces() == 0
    assert fresh(message).status is MessageStatus.SENT
    assert person not in mailbox.seen


def test_a_letter_that_came_back_is_not_sent_again_by_itself(sent, mailbox, smtp):
    message, message_id = sent
    mailbox.receive(report(message_id, "anna@demo.test"))
    read_bounces()
    smtp.reset()
    with clock.frozen(clock.now() + timedelta(days=30)):
        deliver_batch()
    assert (fresh(message).status, smtp.messages) == (MessageStatus.FAILED, [])


def begin(message):
    """A worker has begun to send it; the Message-ID the server has taken it under."""
    (claim,) = take_messages()
    return begin_sending(claim).claim, f"<{letter_id(message.dedupe_key)}@demo.test>"


def test_a_letter_whose_fate_was_unknown_has_failed_once_it_comes_back(client, mailbox):
    message = make_message(client)
    claim, message_id = begin(message)
    settle_message(claim, Outcome(Fate.UNKNOWN, "connection lost", external_id=letter_id(message.dedupe_key)))
    assert fresh(message).status is MessageStatus.UNKNOWN
    mailbox.receive(report(message_id, "anna@demo.test"))
    assert read_bounces() == 1
    assert fresh(message).status is MessageStatus.FAILED
    assert "User unknown" in message.error
    assert email_of(client).state is ContactState.OFF


def test_a_letter_of_a_killed_worker_has_failed_once_it_comes_back(client, mailbox):
    message = make_message(client)
    _, message_id = begin(message)
    uid = mailbox.receive(report(message_id, "anna@demo.test"))
    assert read_bounces() == 0  # it may be noted as sent in a moment
    assert (fresh(message).status, mailbox.seen) == (MessageStatus.SENDING, set())
    with clock.frozen(clock.now() + LEASE + timedelta(seconds=1)):
        with transaction():
            give_up_lost_claims(now=clock.now())
        assert read_bounces() == 1
    assert (fresh(message).status, mailbox.seen) == (MessageStatus.FAILED, {uid})


def test_a_report_on_the_copy_before_says_nothing_of_the_one_sent_again(client, mailbox, smtp):
    at = clock.now()
    with clock.frozen(at):
        message = make_message(client)
        claim, message_id = begin(message)
        settle_message(claim, Outcome(Fate.UNKNOWN, "connection lost", external_id=letter_id(message.dedupe_key)))
    with clock.frozen(at + timedelta(minutes=10)):
        with transaction():
            resend_messages([fresh(message)], by=SYSTEM)
        deliver_batch()
        for minutes, status in ((0, MessageStatus.SENT), (10, MessageStatus.FAILED)):
            written_at = format_datetime(at + timedelta(minutes=minutes))
            quoted = "message/rfc822", f"Message-ID: {message_id}\nDate: {written_at}\n\nbody"
            mailbox.receive(report(message_id, "anna@demo.test", original=quoted))
            assert read_bounces() == int(status is MessageStatus.FAILED)
            assert fresh(message).status is status


def test_what_came_back_of_a_letter_that_waited_long_goes_by_when_it_was_handed_over(client):
    at = clock.now()
    with clock.frozen(at):
        message = make_message(client)
    with clock.frozen(at + timedelta(hours=2)):
        claim, _id = begin(message)
        settle_message(claim, Outcome(Fate.UNKNOWN, "connection lost"))
        assert fresh(message).next_try_at == clock.now()
        with transaction():
            resend_messages([message], by=SYSTEM)
        begin(message)
    with clock.frozen(at + timedelta(hours=3)), transaction():
        give_up_lost_claims(now=clock.now())
    assert fresh(message).next_try_at == at + timedelta(hours=2)


def test_a_report_of_somebody_it_was_sent_on_to_costs_nobody_his_address(client, sent, mailbox):
    message, message_id = sent
    mailbox.receive(report(message_id, "old@elsewhere.test"))
    assert read_bounces() == 1
    assert fresh(message).status is MessageStatus.FAILED
    assert email_of(client).state is ContactState.ON


def test_a_payers_address_is_given_up_when_a_childs_letter_comes_back(client, network, mailbox, smtp):
    child = make_client(network.lesnoy, payer=client)
    message = make_message(child, recipient="anna@demo.test")
    deliver_batch()
    mailbox.receive(report(smtp.messages[-1].message["Message-ID"], "anna@demo.test"))
    assert read_bounces() == 1
    assert fresh(message).status is MessageStatus.FAILED
    assert email_of(client).state is ContactState.OFF


# --- addresses that are no good --------------------------------------------------------------------------------------

SAID = [
    ("550 5.1.1 <anna@demo.test>: Recipient address rejected: User unknown", True),
    ("550 5.1.10 Recipient not found", True),
    ("550-5.1.1 The account that you tried to reach does not exist.\r\n550 5.1.1 Check it", True),
    ("554 5.2.1 The account is disabled", True),
    ("550 No such user here", True),
    ("550 anna@demo.test: mailbox not found", True),
    ("552 5.2.2 Mailbox full, user unknown to be reading it", False),
    ("550 5.7.1 Unknown user: relaying denied", False),
    ("550 Relay not permitted: unknown user", False),
    ("550 Sender verify failed: no such user", False),
    ("550 Blocked, see http://5.1.1.7/", False),
    ("550 Rejected", False),
    ("550 This account is disabled for sending mail", False),
    ("550 Your mailbox is invalid or disabled", False),
    ("550 Recipient invalid: reverse DNS not found", False),
    ("550 Recipient unknown: HELO invalid", False),
    ("550-5.2.1 The user you are trying to contact is receiving mail at a rate that\r\n550 5.2.1 is too high", False),
    ("554 No such user", False),
]


@pytest.mark.parametrize(("reply", "is_off"), SAID)
def test_an_address_refused_in_the_conversation_is_given_up_as_by_a_report(client, smtp, reply, is_off):
    message = make_message(client)
    smtp.refusals["anna@demo.test"] = reply
    deliver_batch()
    assert fresh(message).status is MessageStatus.FAILED
    assert (email_of(client).state is ContactState.OFF) is is_off
    assert Bounce(LETTER_ID, "anna@demo.test", "5.0.0", reply).is_no_address is is_off


def test_a_sender_that_is_refused_costs_nobody_his_address(client, smtp, monkeypatch):
    message = make_message(client)
    monkeypatch.setattr(smtp, "down", "550 5.1.1 No such user")
    deliver_batch()
    assert fresh(message).status is MessageStatus.FAILED
    assert email_of(client).state is ContactState.ON


def test_the_status_of_a_report_counts_before_its_words():
    assert not names_no_address("5.7.1 550 5.1.1 User unknown")
    assert names_no_address("5.0.0 550 5.1.1 rejected")


def test_a_mailbox_that_is_away_is_no_error(sent, mailbox):
    message, message_id = sent
    mailbox.receive(report(message_id, "anna@demo.test"))
    mailbox.is_broken = True
    assert read_bounces() == 0
    mailbox.is_broken, mailbox.password = False, "another"
    assert read_bounces() == 0
    assert (fresh(message).status, mailbox.seen) == (MessageStatus.SENT, set())
    mailbox.password = "secret"
    assert read_bounces() == 1


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_another_folder_may_be_read():
    with mailbox_server() as mailbox:
        mailbox.folder = "Bounces"
        with pytest.raises(MailboxAway, match="no such folder"), Mailbox(mailbox.url):
            pass
        with Mailbox(f"{mailbox.url}/Bounces") as opened:
            assert list(opened.reports(limit=5)) == []


def test_a_report_is_read_whatever_it_quotes():
    told = Bounce(LETTER_ID, "anna@demo.test", "5.1.1", "550 5.1.1 no")
    for kind in ("message/rfc822", "text/rfc822-headers"):
        quoted = kind, f"Subject: x\nMessage-ID:\n {MESSAGE_ID}\n\n"
        assert read_report(report("", "anna@demo.test", said="550 5.1.1 no", original=quoted)) == told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        report("", "a@demo.test"),
        report("<x@demo.test>", "a@demo.test"),
        report(MESSAGE_ID, "a@demo.test")[:600],
        report(MESSAGE_ID, "a@demo.test").replace(b"message/delivery-status", b"text/plain"),
        b"Content-Type: multipart/report; boundary=x\n\n" + report(MESSAGE_ID, "a@demo.test"),
    ],
)
def test_nonsense_is_no_report(content):
    assert read_report(content) is None
