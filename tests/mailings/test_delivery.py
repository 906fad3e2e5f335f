"""The outbox: who may send a letter, when, how often, and what is noted."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.contacts.models import MessageKind
from crm.db import db, transaction
from crm.mailings.channels.base import Fate, Outcome
from crm.mailings.delivery import (
    LEASE,
    MAX_ATTEMPTS,
    Done,
    begin_sending,
    deliver_batch,
    give_up_lost_claims,
    move_message,
    settle_message,
    take_messages,
    wait_after,
)
from crm.mailings.models import CODE_KEY, HIDDEN, Message, MessageStatus
from crm.mailings.operations import resend_messages
from tests.factories import make_client, make_message

SENT = Outcome(Fate.SENT)


@pytest.fixture
def client(network):
    return make_client(network.lesnoy, email="anna@demo.test")


@pytest.fixture
def message(client):
    return make_message(client)


def later(**delta):
    return clock.frozen(clock.now() + timedelta(**delta))


def begin_one():
    """Take the oldest due message and begin to send it."""
    (claim,) = take_messages(limit=1)
    return begin_sending(claim).claim


def fresh(message):
    db.session.refresh(message)
    return message


@pytest.mark.spec("B103")
def test_due_letters_leave_and_are_noted(client, smtp):
    messages = [make_message(client, subject=f"Письмо {i}") for i in range(3)]
    early = make_message(client, next_try_at=clock.now() + timedelta(hours=1))
    delivered = deliver_batch()
    assert (delivered.fates[Fate.SENT], delivered.is_more) == (3, False)
    assert [received.subject for received in smtp.messages] == ["Письмо 0", "Письмо 1", "Письмо 2"]
    assert smtp.conversations == 1
    for message in messages:
        assert fresh(message).status is MessageStatus.SENT
        assert (message.attempts, message.lease_until, message.error) == (1, None, "")
        assert message.sent_at is not None
    assert fresh(early).status is MessageStatus.PENDING
    assert deliver_batch().fates[Fate.SENT] == 0


def test_without_a_server_letters_wait_and_say_why_and_leave_once_there_is_one(app, network, web, message, smtp):
    settings = app.config["SETTINGS"]
    app.config["SETTINGS"] = dataclasses.replace(settings, smtp_url=None)
    try:
        for day in range(2 * MAX_ATTEMPTS):
            with later(days=day):
                assert not any(deliver_batch().fates.values())
    finally:
        app.config["SETTINGS"] = settings
    assert (fresh(message).status, message.attempts) == (MessageStatus.PENDING, 0)
    assert "SMTP_URL" in message.error
    assert "SMTP_URL" in web(network.director).get("/admin/message/").text
    assert deliver_batch().fates[Fate.SENT] == len(smtp.messages) == 1
    assert (fresh(message).status, message.error) == (MessageStatus.SENT, "")


def test_a_batch_says_when_more_is_left(client, smtp):
    for _ in range(3):
        make_message(client)
    assert deliver_batch(limit=2).is_more
    assert not deliver_batch(limit=2).is_more
    assert len(smtp.messages) == 3


def test_many_workers_send_each_letter_once(client, smtp, in_parallel):
    for number in range(30):
        make_message(client, subject=str(number))
    sent = in_parallel(lambda _: deliver_batch().fates[Fate.SENT], times=6)
    assert sum(sent) == 30
    assert sorted(int(received.subject) for received in smtp.messages) == list(range(30))


def test_one_of_many_wins_a_claim(message, in_parallel):
    claims = in_parallel(lambda _: take_messages(), times=8)
    assert sum(len(taken) for taken in claims) == 1


def test_a_temporary_refusal_waits_longer_each_time(message, smtp):
    smtp.refuse_temporarily("anna@demo.test")
    with later(hours=1) as _:
        start = clock.now()
        deliver_batch()
    assert fresh(message).status is MessageStatus.PENDING
    assert message.error.startswith("451")
    assert message.next_try_at == start + timedelta(minutes=1)
    with clock.frozen(message.next_try_at):
        deliver_batch()
    assert fresh(message).next_try_at == start + timedelta(minutes=1 + 2)
    smtp.accept()
    with clock.frozen(message.next_try_at - timedelta(seconds=1)):
        deliver_batch()
    assert smtp.messages == []
    with clock.frozen(message.next_try_at):
        deliver_batch()
    assert (fresh(message).status, message.attempts, message.error) == (MessageStatus.SENT, 3, "")


def test_waits_grow_to_an_hour_and_last_about_a_day():
    waits = [wait_after(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)
    assert timedelta(hours=20) < sum(waits, timedelta()) < timedelta(hours=28)


def test_past_its_tries_a_letter_has_failed_with_the_reason(client, smtp):
    message = make_message(client, attempts=MAX_ATTEMPTS - 1)
    smtp.refuse_temporarily("anna@demo.test")
    deliver_batch()
    assert fresh(message).status is MessageStatus.FAILED
    assert message.error.startswith("451")


def test_a_final_refusal_fails_at_once_and_the_others_go_on(network, client, message, smtp):
    smtp.refuse_for_good("anna@demo.test")
    other = make_message(make_client(network.lesnoy, email="boris@demo.test"))
    deliver_batch()
    assert (fresh(message).status, message.attempts) == (MessageStatus.FAILED, 1)
    assert message.error.startswith("550")
    assert fresh(other).status is MessageStatus.SENT


def test_when_the_server_is_away_the_rest_keeps_its_turn(client, smtp):
    first, second = make_message(client), make_message(client)
    smtp.close_doors()
    delivered = deliver_batch()
    assert (delivered.fates[Fate.UNREACHABLE], delivered.is_more) == (1, False)
    assert (fresh(first).attempts, fresh(second).attempts) == (1, 0)
    smtp.accept()
    with later(minutes=2):
        deliver_batch()
    assert {fresh(first).status, fresh(second).status} == {MessageStatus.SENT}


def test_a_lost_answer_is_unknown_and_never_sent_again(message, smtp):
    claim = begin_one()
    settle_message(claim, Outcome(Fate.UNKNOWN, "connection lost"))
    assert (fresh(message).status, message.error) == (MessageStatus.UNKNOWN, "connection lost")
    with later(days=30):
        deliver_batch()
    assert smtp.messages == []


def test_a_dead_workers_letter_becomes_unknown_once_its_lease_is_over(message, smtp):
    claim = begin_one()
    with transaction():
        assert give_up_lost_claims(now=clock.now()) == 0
    with later(seconds=LEASE.total_seconds() + 1):
        with transaction():
            assert give_up_lost_claims(now=clock.now()) == 1
        assert fresh(message).status is MessageStatus.UNKNOWN
        assert message.error
        settle_message(claim, SENT)  # the worker was only slow: a person has seen "unknown" by now
        deliver_batch()
    assert fresh(message).status is MessageStatus.UNKNOWN
    assert smtp.messages == []


def test_what_a_dead_worker_had_only_taken_is_soon_in_another_ones_hands(message, smtp):
    (claim,) = take_messages()
    with later(minutes=3):
        with transaction():
            give_up_lost_claims(now=clock.now())
        assert begin_sending(claim).claim is None  # it was only slow
        assert deliver_batch().fates[Fate.SENT] == 1
    assert fresh(message).status is MessageStatus.SENT


def test_a_slow_server_leaves_the_rest_of_a_handful_to_whoever_comes_first(client, smtp):
    for number in range(3):
        make_message(client, subject=str(number))
    start = clock.now()
    with clock.driven_by(lambda: start + len(smtp.messages) * (LEASE + timedelta(minutes=1))):
        assert deliver_batch().fates[Fate.SENT] == 3
    assert [one.subject for one in smtp.messages] == ["0", "1", "2"]


def test_a_late_note_does_not_touch_a_newer_attempt(message):
    slow = begin_one()
    with transaction():
        move_message(message.id, MessageStatus.SENDING, MessageStatus.UNKNOWN)
        move_message(message.id, MessageStatus.UNKNOWN, MessageStatus.PENDING, lease_until=None)
    newer = begin_one()
    settle_message(slow, Outcome(Fate.REFUSED, "550"))
    assert fresh(message).status is MessageStatus.SENDING
    settle_message(newer, SENT)
    assert (fresh(message).status, message.error) == (MessageStatus.SENT, "")


def test_a_status_moves_only_along_its_table(message):
    with pytest.raises(ValueError, match="does not move"):
        move_message(message.id, MessageStatus.SENT, MessageStatus.PENDING)


# --- who may refuse a letter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "is_refusable"),
    [(kind, kind not in (MessageKind.SERVICE, MessageKind.PERSONAL)) for kind in MessageKind],
)
def test_letters_of_mailings_can_be_refused_in_one_click_and_no_others(client, smtp, kind, is_refusable):
    make_message(client, kind=kind)
    deliver_batch()
    message = smtp.messages[-1].message
    assert ("List-Unsubscribe" in message, "List-Unsubscribe-Post" in message) == (is_refusable, is_refusable)
    if is_refusable:
        assert f"/unsubscribe/{kind.value}>" in "".join(message["List-Unsubscribe"].split())


# --- messages that bring a code --------------------------------------------------------------------------------------


def make_code_letter(client):
    """A letter with a code, as the page of a bill queues one."""
    message = make_message(client, body=f"Код: {HIDDEN}", dedupe_key=f"{CODE_KEY}1")
    with transaction():
        message.secret = "123456"
    return message


@pytest.mark.parametrize("fate", [Fate.SENT, Fate.REFUSED, Fate.UNKNOWN])
def test_a_code_is_forgotten_once_nothing_will_send_it(client, fate):
    message = make_code_letter(client)
    settle_message(begin_one(), Outcome(fate, "x"))
    assert fresh(message).secret is None


def test_a_code_is_kept_while_it_is_tried_again(client):
    message = make_code_letter(client)
    settle_message(begin_one(), Outcome(Fate.POSTPONED, "x"))
    assert fresh(message).secret == "123456"


def test_a_code_whose_worker_died_is_forgotten(client):
    message = make_code_letter(client)
    begin_one()
    with transaction():
        give_up_lost_claims(now=clock.now() + 2 * LEASE)
    assert (fresh(message).status, message.secret) == (MessageStatus.UNKNOWN, None)


def test_a_code_is_not_sent_after_it_has_expired(client, smtp):
    message = make_code_letter(client)
    with later(minutes=10):
        deliver_batch()
    assert (fresh(message).status, message.secret, smtp.messages) == (MessageStatus.SKIPPED, None, [])
    assert message.error


def test_a_code_that_failed_is_not_sent_again_without_its_digits(client, smtp):
    message = make_code_letter(client)
    settle_message(begin_one(), Outcome(Fate.REFUSED, "550"))
    with transaction():
        resend_messages([fresh(message)], by=SYSTEM)
    deliver_batch()
    assert (fresh(message).status, smtp.messages) == (MessageStatus.SKIPPED, [])


def test_what_a_server_says_is_noted_whatever_signs_it_holds(client):
    for _ in range(3):
        make_message(client)
    first, second, third = take_messages()
    begun = begin_sending(first).claim
    refused = Done(begun, Outcome(Fate.REFUSED, "550 no\x00 \udc80"))
    begun = begin_sending(second, after=refused).claim
    begun = begin_sending(third, after=Done(begun, Outcome(Fate.SENT, external_id="7\x00"))).claim
    settle_message(begun, Outcome(Fate.UNKNOWN, "\x00"))
    noted = select(Message.status, Message.error, Message.external_id).order_by(Message.id)
    assert [tuple(row) for row in db.session.execute(noted)] == [
        (MessageStatus.FAILED, "550 no ?", ""),
        (MessageStatus.SENT, "", "7"),
        (MessageStatus.UNKNOWN, "", ""),
    ]


def test_a_worker_that_wakes_late_tells_nothing_of_what_another_sends_again(client, message):
    """A person has sent it once more meanwhile, and its tries are counted anew."""
    late = begin_one()
    with later(hours=1):
        with transaction():
            give_up_lost_claims(now=clock.now())
        with transaction():
            assert resend_messages([fresh(message)], by=SYSTEM) == 1
        begin_one()
        settle_message(late, Outcome(Fate.REFUSED, "550"))
        assert fresh(message).status is MessageStatus.SENDING
        other = make_message(client)
        (claim,) = take_messages()
        assert begin_sending(claim, after=Done(late, SENT)).claim is not None
        assert (fresh(message).status, fresh(other).status) == (MessageStatus.SENDING, MessageStatus.SENDING)
