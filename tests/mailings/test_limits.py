"""When a message has to wait: quiet hours of the branch, limits of a provider; and what it costs."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest

from crm import clock
from crm.config import SMS_BODY
from crm.contacts.models import Channel, MessageKind
from crm.db import db, transaction
from crm.mailings.channels.base import Fate
from crm.mailings.delivery import QuietHours, begin_sending, deliver_batch, take_messages
from crm.mailings.models import MessageCharge, MessageStatus, Provider, ProviderKind
from tests.factories import make_client, make_message
from tests.mailings.services import service

NIGHT = QuietHours(time(21), time(9), "Europe/Moscow")
NOON = QuietHours(time(13), time(15), "Europe/Moscow")


def moscow(day, hour, minute=0):
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC) - timedelta(hours=3)


@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        (NIGHT, moscow(3, 20, 59), None),
        (NIGHT, moscow(3, 21), moscow(4, 9)),
        (NIGHT, moscow(4, 3), moscow(4, 9)),
        (NIGHT, moscow(4, 9), None),
        (NOON, moscow(3, 12, 59), None),
        (NOON, moscow(3, 14), moscow(3, 15)),
        (NOON, moscow(3, 15), None),
        (QuietHours(time(9), time(9), "Europe/Moscow"), moscow(3, 9), None),
        (QuietHours(None, time(9), "Europe/Moscow"), moscow(3, 8), None),
    ],
)
def test_quiet_hours_may_go_over_midnight(hours, now, end):
    assert hours.end(now) == end


@pytest.mark.parametrize(
    ("now", "end"),
    [
        # The night of 29 March 2026 in Berlin has no 02:30: the hours end when the clock has jumped past it.
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), None),
        # That of 25 October has it twice: they end the first time.
        (datetime(2026, 10, 25, 0, 15, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, 45, tzinfo=UTC), None),
    ],
)
def test_quiet_hours_follow_the_clock_of_the_branch(now, end):
    assert QuietHours(time(22), time(2, 30), "Europe/Berlin").end(now) == end


def fresh(message):
    db.session.refresh(message)
    return message


def make_quiet(branch, begins, ends):
    with transaction():
        branch.company.quiet_from, branch.company.quiet_to = begins, ends


@pytest.mark.parametrize("facts", [{"kind": MessageKind.THANKS}])
def test_a_mailing_waits_and_what_staff_write_goes_at_once(network, smtp, facts):
    client = make_client(network.lesnoy, email="anna@demo.test")
    local = clock.local(clock.now(), network.lesnoy)
    make_quiet(network.lesnoy, (local - timedelta(hours=1)).time(), (local + timedelta(hours=1)).time())
    waiting, by_hand = make_message(client, **facts), make_message(client)
    assert deliver_batch().fates[Fate.SENT] == 1
    assert fresh(by_hand).status is MessageStatus.SENT
    assert (fresh(waiting).status, waiting.attempts) == (MessageStatus.PENDING, 0)
    with clock.frozen(waiting.next_try_at - timedelta(seconds=1)):
        assert deliver_batch().fates[Fate.SENT] == 0
    with clock.frozen(waiting.next_try_at):
        assert deliver_batch().fates[Fate.SENT] == 1
    assert len(smtp.messages) == 2


def test_what_was_taken_before_it_grew_quiet_waits_too(network):
    message = make_message(make_client(network.lesnoy, email="anna@demo.test"), kind=MessageKind.THANKS)
    local = clock.local(clock.now(), network.lesnoy)
    make_quiet(network.lesnoy, (local + timedelta(minutes=2)).time(), (local + timedelta(hours=1)).time())
    (claim,) = take_messages()
    with clock.frozen(clock.now() + timedelta(minutes=3)):
        assert begin_sending(claim).claim is None
        assert fresh(message).status is MessageStatus.PENDING
        assert message.next_try_at > clock.now()


# --- a limit a minute ------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway():
    with service() as server:
        server.say({"status": "ok", "id": 5})
        yield server


def make_provider(company, gateway, **changes):
    facts = {
        "channel": Channel.SMS,
        "kind": ProviderKind.HTTP,
        "url": gateway.url,
        "secret": "secret",
        "options": {"body": SMS_BODY, "ok": "status=ok", "id": "id"},
        "token": f"token-{company.id}",
        "created_at": clock.now(),
        **changes,
    }
    with transaction():
        provider = Provider(company_id=company.id, **facts)
        db.session.add(provider)
    return provider


def make_sms(client, **changes):
    return make_message(client, **{"channel": Channel.SMS, "recipient": client.phone, "subject": "", **changes})


NOW = datetime(2026, 11, 3, 9, 0, 30, tzinfo=UTC)


def test_no_more_leave_in_a_minute_than_the_provider_takes_and_others_go_on(network, gateway, smtp):
    make_provider(network.lesnoy.company, gateway, per_minute=3)
    client = make_client(network.lesnoy, email="anna@demo.test")
    with clock.frozen(NOW):
        for _ in range(8):
            make_sms(client)
        letter = make_message(client)
        delivered = deliver_batch(limit=5)
        assert (delivered.fates[Fate.SENT], delivered.is_more) == (4, False)
        assert fresh(letter).status is MessageStatus.SENT
        assert not any(deliver_batch().fates.values())
    assert len(gateway.calls) == 3
    with clock.frozen(NOW + timedelta(seconds=30)):
        deliver_batch()
    assert len(gateway.calls) == 6
    with clock.frozen(NOW + timedelta(minutes=2)):
        deliver_batch()
    assert len(gateway.calls) == 8


def test_all_workers_share_the_limit(network, gateway, in_parallel):
    make_provider(network.lesnoy.company, gateway, per_minute=5)
    client = make_client(network.lesnoy)
    with clock.frozen(NOW):
        for _ in range(20):
            make_sms(client)
        in_parallel(lambda _: deliver_batch(), times=4)
    assert len(gateway.calls) == 5


def test_a_worker_whose_clock_is_slow_does_not_begin_the_count_anew(network, gateway):
    provider = make_provider(network.lesnoy.company, gateway, per_minute=2)
    client = make_client(network.lesnoy)
    for _ in range(6):
        make_sms(client, next_try_at=NOW - timedelta(minutes=1))
    for seconds in (30, 29, 30, 29):  # the next minute, and still this one
        with clock.frozen(NOW + timedelta(seconds=seconds)):
            deliver_batch(limit=1)
    assert (len(gateway.calls), fresh(provider).counted) == (2, 2)


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("E26")
def test_an_sms_costs_its_company_the_price_of_its_parts(network, gateway):
    provider = make_provider(network.lesnoy.company, gateway, price=Decimal("3.50"))
    message = make_sms(make_client(network.lesnoy), body="Ж" * 71)
    deliver_batch()
    assert fresh(message).cost == Decimal("7.00")
    charge = db.session.query(MessageCharge).one()
    assert (charge.company_id, charge.message_id, charge.amount) == (provider.company_id, message.id, Decimal("7.00"))


@pytest.mark.spec("E26")
def test_several_sent_in_a_row_are_charged_each(network, gateway):
    make_provider(network.lesnoy.company, gateway, price=Decimal(2))
    client = make_client(network.lesnoy)
    messages = [make_sms(client) for _ in range(3)]
    deliver_batch()
    assert [fresh(message).cost for message in messages] == [Decimal(2)] * 3
    assert [message.external_id for message in messages] == ["5"] * 3
    assert db.session.query(MessageCharge).count() == 3


@pytest.mark.spec("E26")
def test_what_was_refused_costs_nothing(network, gateway):
    make_provider(network.lesnoy.company, gateway, price=Decimal(2))
    gateway.say({"status": "error"})
    message = make_sms(make_client(network.lesnoy))
    deliver_batch()
    assert (fresh(message).status, message.cost) == (MessageStatus.FAILED, None)
    assert db.session.query(MessageCharge).count() == 0


@pytest.mark.spec("E27")
def test_letters_cost_nothing(network, smtp):
    message = make_message(make_client(network.lesnoy, email="anna@demo.test"))
    deliver_batch()
    assert (fresh(message).status, message.cost) == (MessageStatus.SENT, None)
    assert db.session.query(MessageCharge).count() == 0
