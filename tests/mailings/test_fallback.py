"""What was definitely not sent one way goes the next way of its rule, once; what may have been sent does not. A mailing
by SMS goes to WhatsApp first where the company has it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.links import revoke_link
from crm.bills.models import Bill
from crm.bills.operations import archive_bill
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, set_contact
from crm.db import db, transaction
from crm.ledger.operations import base_account
from crm.mailings.bounces import note_bounce
from crm.mailings.channels.base import Fate, Outcome
from crm.mailings.channels.mailbox import Bounce
from crm.mailings.delivery import (
    LEASE,
    begin_sending,
    deliver_batch,
    give_up_lost_claims,
    settle_message,
    take_messages,
)
from crm.mailings.models import MailingKind, MailingWay, Message, MessageStatus, ProviderKind
from crm.mailings.preview import dry_run
from crm.mailings.progress import LineFate, fates_of, resend_lines
from crm.mailings.providers import ProviderFacts, save_provider
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk
from crm.subscriptions.models import PlanAccount
from tests.factories import (
    make_child,
    make_client,
    make_lesson,
    make_message,
    make_payment,
    make_plan,
    make_rule,
    make_subject,
    make_subscription,
    make_template,
)
from tests.mailings.services import service

NOON = datetime(2027, 3, 10, 9, tzinfo=UTC)
DAY = date(2027, 3, 10)
PHONE = "+79161234567"


@pytest.fixture(autouse=True)
def _march():
    with clock.frozen(NOON):
        yield


def rule_of(branch, body, sms, *, first=Channel.EMAIL, **facts):
    """A rule whose first way is by the text `body` and whose second one is the SMS `sms`."""
    template = make_template(channel=first, subject="Письмо" if first is Channel.EMAIL else "", body=body)
    rule = make_rule(branch, template=template, channel=first, **facts)
    with transaction():
        short = make_template(channel=Channel.SMS, subject="", body=sms)
        rule.ways.append(MailingWay(position=1, channel=Channel.SMS, template_id=short.id))
    return rule


def run(rule):
    with transaction():
        planned = run_now(rule, by=SYSTEM)
    execute_run(planned.id, by=SYSTEM)
    return planned


def messages():
    db.session.expire_all()
    return db.session.scalars(select(Message).order_by(Message.id)).all()


def send(fate, *, limit=1):
    for claim in take_messages(limit=limit):
        settle_message(begin_sending(claim).claim, Outcome(fate, "550"))


# --- bills -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def letter(network):
    """A letter of a mailing whose second way is SMS."""
    make_subscription(make_client(network.lesnoy, email="anna@demo.test"))
    run(rule_of(network.lesnoy, "{bill.amount}", "{bill.url}"))
    return messages()[0]


def test_what_was_refused_goes_the_next_way(letter):
    send(Fate.REFUSED)
    first, second = messages()
    assert (first.status, second.status) == (MessageStatus.FAILED, MessageStatus.PENDING)
    assert (second.channel, second.recipient) == (Channel.SMS, first.client.phone)
    assert (second.bill_id, second.run_id, second.line_id) == (first.bill_id, first.run_id, first.line_id)
    assert second.kind is first.kind
    assert second.body.endswith(f"/pay/{first.bill.token}")
    send(Fate.REFUSED)
    assert len(messages()) == 2


@pytest.mark.parametrize("fate", [Fate.UNKNOWN, Fate.POSTPONED, Fate.SENT])
def test_what_may_have_left_or_is_tried_again_does_not(letter, fate):
    send(fate)
    assert len(messages()) == 1


@pytest.mark.parametrize("fate", [Fate.SENT, Fate.UNKNOWN])
@pytest.mark.parametrize(("minutes", "goes_on"), [(55, True), (65, False)])
def test_what_comes_back_soon_goes_the_next_way(letter, fate, minutes, goes_on):
    (claim,) = take_messages(limit=1)
    settle_message(begin_sending(claim).claim, Outcome(fate, "no answer", external_id="f" * 32))
    with clock.frozen(NOON + timedelta(minutes=minutes)), transaction():
        assert note_bounce(Bounce("f" * 32, "anna@demo.test", "5.1.1", "no such user"))
    assert [(one.channel, one.status) for one in messages()] == [
        (Channel.EMAIL, MessageStatus.FAILED),
        *([(Channel.SMS, MessageStatus.PENDING)] if goes_on else []),
    ]


def test_what_was_paid_meanwhile_does_not(letter):
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    with transaction():
        pay_bill_at_desk(letter.bill, method=PaymentMethod.CASH, by=SYSTEM)
    settle_message(begun, Outcome(Fate.REFUSED, "550"))
    assert [one.status for one in messages()] == [MessageStatus.FAILED]


@pytest.mark.spec("X22")
def test_nor_does_anything_once_the_company_sends_nothing(letter, network):
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    with transaction():
        network.company.has_mailings = False
    settle_message(begun, Outcome(Fate.REFUSED, "550"))
    assert [one.status for one in messages()] == [MessageStatus.FAILED]


@pytest.fixture
def two_bills(network):
    """A payer with a subscription on the base account and another on its own."""
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(300)))
    make_subscription(payer, make_plan(price=Decimal(400), account=PlanAccount.SEPARATE))
    return payer


def bills():
    return db.session.scalars(select(Bill).order_by(Bill.id)).all()


def test_one_letter_of_all_bills_becomes_an_sms_for_each(network, two_bills):
    run(rule_of(network.lesnoy, "{customer.bills}", "{bill.url}"))
    (letter,) = messages()
    assert [bill.token in letter.body for bill in bills()] == [True, True]
    send(Fate.REFUSED)
    _letter, *following = messages()
    assert [one.bill_id for one in following] == [bill.id for bill in bills()]
    assert [one.body.rpartition("/")[2] for one in following] == [bill.token for bill in bills()]


def test_only_of_those_still_to_be_paid(network, two_bills):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    first, second = bills()
    with transaction():
        pay_bill_at_desk(first, method=PaymentMethod.CASH, by=SYSTEM)
    settle_message(begun, Outcome(Fate.REFUSED, "550"))
    _letter, sms = messages()
    assert (sms.bill_id, sms.body.rpartition("/")[2]) == (second.id, second.token)


# --- a letter of several bills, one of which is not to be paid any more ----------------------------------------------


@pytest.fixture
def three_bills(two_bills):
    """A payer of three bills: of the base account and of two subscriptions on their own."""
    make_subscription(two_bills, make_plan(price=Decimal(500), account=PlanAccount.SEPARATE))
    return two_bills


def pay(bill):
    pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)


GONE = {
    "paid": pay,
    "archived": lambda bill: archive_bill(bill, by=SYSTEM),
    "link revoked": lambda bill: revoke_link(bill, by=SYSTEM),
}


def told(message):
    """Which of the bills a message says it tells of, and which its text really does; from 0."""
    every = bills()
    return [
        [at for at, bill in enumerate(every) if bill in message.bills],
        [at for at, bill in enumerate(every) if bill.token in message.body],
    ]


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_whichever_is_gone_a_moment_ago_the_letter_is_left_out_and_the_rest_is_told(
    network, three_bills, smtp, which, how
):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    assert told(messages()[0]) == [[0, 1, 2], [0, 1, 2]]
    gone = bills()[which]
    with transaction():
        GONE[how](gone)
    deliver_batch()
    letter, rest = messages()
    assert (letter.status, rest.status) == (MessageStatus.SKIPPED, MessageStatus.SENT)
    assert gone.title in letter.error
    left = [at for at in range(3) if at != which]
    assert told(rest) == [left, left]
    assert (rest.recipient, rest.line_id, rest.run_id) == (letter.recipient, letter.line_id, letter.run_id)
    (sent,) = smtp.messages
    assert [bill.token in sent.text for bill in bills()] == [at in left for at in range(3)]


@pytest.mark.parametrize("order", [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)])
def test_paid_one_by_one_while_the_letters_are_in_a_workers_hands(network, three_bills, smtp, order):
    """Each is paid after the letter was taken and before it is sent."""
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    for which in order:
        (claim,) = take_messages(limit=1)
        with transaction():
            pay(bills()[which])
        assert begin_sending(claim).claim is None
    deliver_batch()
    *left_out, last = messages()
    assert [one.status for one in left_out] == [MessageStatus.SKIPPED] * 2
    (left,) = {0, 1, 2} - set(order)
    assert (last.status, told(last)) == (MessageStatus.SENT, [[left], [left]])
    assert len(smtp.messages) == 1


def test_a_letter_of_a_later_bill_alone_does_not_mind_the_first(network, two_bills, smtp):
    run(rule_of(network.lesnoy, "{bill.url}", "{bill.url}"))
    assert [told(letter) for letter in messages()] == [[[0], [0]], [[1], [1]]]
    with transaction():
        pay(bills()[0])
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.SKIPPED, MessageStatus.SENT]


@pytest.mark.parametrize("which", [0, 1])
def test_refused_the_rest_goes_the_next_way(network, two_bills, which):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    with transaction():
        pay(bills()[which])
    (claim,) = take_messages(limit=1)
    assert begin_sending(claim).claim is None
    send(Fate.REFUSED)
    assert [(one.channel, one.status) for one in messages()] == [
        (Channel.EMAIL, MessageStatus.SKIPPED),
        (Channel.EMAIL, MessageStatus.FAILED),
        (Channel.SMS, MessageStatus.PENDING),
    ]
    assert told(messages()[2]) == [[1 - which], [1 - which]]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_next_way_knows_the_bills_it_tells_of(network, three_bills, gateway, which):
    """The SMS, too, is left out when one of them is paid, and told anew."""
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    send(Fate.REFUSED)
    assert told(messages()[1]) == [[0, 1, 2], [0, 1, 2]]
    with transaction():
        pay(bills()[which])
    deliver_batch()
    letter, sms, rest = messages()
    assert [one.status for one in (letter, sms, rest)] == [
        *(MessageStatus.FAILED, MessageStatus.SKIPPED, MessageStatus.SENT),
    ]
    left = [at for at in range(3) if at != which]
    assert (rest.channel, told(rest)) == (Channel.SMS, [left, left])


@pytest.mark.parametrize("which", [0, 1])
def test_sent_again_by_a_person_it_tells_of_what_is_left(network, two_bills, smtp, which):
    planned = run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    send(Fate.UNKNOWN)
    with transaction():
        pay(bills()[which])
        assert resend_lines(planned, [messages()[0].line_id], by=SYSTEM) == 1
    deliver_batch()
    letter, rest = messages()
    assert (letter.status, rest.status) == (MessageStatus.SKIPPED, MessageStatus.SENT)
    assert told(rest) == [[1 - which], [1 - which]]
    assert fates_of(planned)[LineFate.SENT] == 1


def test_what_was_told_by_the_next_way_is_not_sent_again(network, two_bills, gateway):
    """The letter failed; the first of its bills was paid, and of the other an SMS has come."""
    planned = run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    with transaction():
        pay(bills()[0])
    settle_message(begun, Outcome(Fate.REFUSED, "550"))
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.FAILED, MessageStatus.SENT]
    assert fates_of(planned)[LineFate.SENT] == 1
    with transaction():
        assert resend_lines(planned, [messages()[0].line_id], by=SYSTEM) == 0


@pytest.mark.parametrize("which", [0, 1])
def test_two_workers_tell_the_rest_once(network, two_bills, smtp, in_parallel, which):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    with transaction():
        pay(bills()[which])

    def work(_index):
        return sum(deliver_batch().fates.values())

    assert sum(in_parallel(work)) + work(0) == 1
    letter, rest = messages()
    assert (letter.status, rest.status) == (MessageStatus.SKIPPED, MessageStatus.SENT)
    assert told(rest) == [[1 - which], [1 - which]]
    assert len(smtp.messages) == 1


def test_a_worker_whose_lease_is_over_tells_nothing_anew(network, two_bills, smtp):
    """Another has the letter by then, and does it."""
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    (claim,) = take_messages(limit=1)
    with transaction():
        pay(bills()[1])
    with clock.frozen(NOON + LEASE + timedelta(seconds=1)):
        with transaction():
            give_up_lost_claims(now=clock.now())
        (other,) = take_messages(limit=1)
        assert begin_sending(claim).claim is None
        assert len(messages()) == 1
        assert begin_sending(other).claim is None
        assert [one.status for one in messages()] == [MessageStatus.SKIPPED, MessageStatus.PENDING]


@pytest.mark.parametrize("paid", [0, 1])
def test_where_the_way_is_switched_off_meanwhile_nothing_is_told_anew(network, two_bills, smtp, paid):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    with transaction():
        set_contact(two_bills, Channel.EMAIL, False, by=SYSTEM)
        for bill in bills()[:paid]:
            pay(bill)
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.SKIPPED]
    assert smtp.messages == []


def test_where_the_rule_has_the_way_no_more_the_rest_is_told_by_the_one_it_has(network, two_bills, smtp):
    rule = rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}")
    run(rule)
    with transaction():
        db.session.delete(rule.ways[0])
        pay(bills()[0])
    deliver_batch()
    letter, rest = messages()
    assert (letter.status, rest.channel) == (MessageStatus.SKIPPED, Channel.SMS)
    assert told(rest) == [[1], [1]]


def test_paid_one_after_the_other_nothing_is_left_to_be_told(network, two_bills, smtp):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    with transaction():
        for bill in bills():
            pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.SKIPPED]
    assert smtp.messages == []


@pytest.mark.parametrize("paid", [0, 1])
def test_who_forbids_bills_meanwhile_is_not_told_of_the_others(network, two_bills, smtp, paid):
    run(rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}"))
    with transaction():
        choose(two_bills, MessageKind.BILLS, False, by=None)
        for bill in bills()[:paid]:
            pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.SKIPPED]
    assert smtp.messages == []


def test_a_text_that_cannot_be_filled_in_any_more_keeps_nobody_waiting(network, two_bills, smtp):
    rule = rule_of(network.lesnoy, "{customer.bills}", "{customer.bills}")
    run(rule)
    other = make_message(make_client(network.lesnoy, email="boris@demo.test"))
    with transaction():
        rule.ways[0].template.body = "{debt.amount}"
        pay_bill_at_desk(bills()[0], method=PaymentMethod.CASH, by=SYSTEM)
    deliver_batch()
    letter, next_one = messages()
    assert (letter.status, next_one.id, next_one.status) == (MessageStatus.SKIPPED, other.id, MessageStatus.SENT)


def test_each_letter_of_a_bill_becomes_an_sms_of_that_bill_alone(network, two_bills):
    run(rule_of(network.lesnoy, "{bill.url}", "{customer.bills}"))
    send(Fate.REFUSED, limit=2)
    *_letters, one, other = messages()
    assert len(_letters) == 2
    assert [sms.body.rpartition("/")[2] for sms in (one, other)] == [bill.token for bill in bills()]
    assert [sms.body.count("/pay/") for sms in (one, other)] == [1, 1]


# --- reminders: told again as it is by then --------------------------------------------------------------------------


def refused_after(change=lambda: None):
    """The letter is refused after `change`; what follows it."""
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    change()
    settle_message(begun, Outcome(Fate.REFUSED, "550"))
    return messages()[1:]


@pytest.mark.parametrize(("paid", "told"), [(0, ["900,00"]), (400, ["500,00"]), (900, [])])
def test_a_debt_is_told_as_it_is_and_not_when_it_is_paid(network, paid, told):
    payer = make_client(network.lesnoy)
    make_subscription(payer, make_plan(price=Decimal(900)))
    run(rule_of(network.lesnoy, "Долг {debt.amount}", "{debt.amount}", kind=MailingKind.DEBT))
    assert messages()[0].body.replace("\xa0", " ") == "Долг 900,00"

    def pay():
        if paid:
            make_payment(base_account(payer.id, network.lesnoy.id), paid)

    assert [one.body for one in refused_after(pay)] == told


def test_the_end_of_a_subscription(network):
    client = make_client(network.lesnoy)
    make_subscription(client, make_plan(name="Йога", duration_days=5), starts_on=DAY)
    run(
        rule_of(
            network.lesnoy, "Скоро", "{subscription.name}: {subscription.lessons_left}",
            kind=MailingKind.SUBSCRIPTION, days=7,
        )
    )  # fmt: skip
    assert [one.body for one in refused_after()] == ["Йога: 8"]


def test_a_lesson_to_a_child_by_the_phone_of_who_pays(network):
    payer = make_client(network.lesnoy, phone=PHONE, email="anna@demo.test")
    make_lesson(
        network.lesnoy, make_child(payer), starts_at=NOON + timedelta(hours=3), subject=make_subject(name="Бокс")
    )
    run(rule_of(network.lesnoy, "Ждём", "{lesson.subject} в {lesson.time}", kind=MailingKind.LESSON))
    assert messages()[0].recipient == "anna@demo.test"
    (sms,) = refused_after()
    assert (sms.recipient, sms.body) == (PHONE, "Бокс в 15:00")


def test_not_of_a_lesson_that_has_begun(network):
    make_lesson(network.lesnoy, make_client(network.lesnoy))
    run(rule_of(network.lesnoy, "Ждём", "Ждём", kind=MailingKind.LESSON))
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    with clock.frozen(NOON + timedelta(hours=1, minutes=1)):
        settle_message(begun, Outcome(Fate.REFUSED, "550"))
    assert len(messages()) == 1


def test_a_greeting_tells_of_nothing_that_changes(network):
    make_client(network.lesnoy, birth_date=date(2016, 3, 10))
    run(rule_of(network.lesnoy, "Поздравляем!", "С днём рождения!", kind=MailingKind.BIRTHDAY))
    assert [one.body for one in refused_after()] == ["С днём рождения!"]


# --- SMS to WhatsApp -------------------------------------------------------------------------------------------------


@pytest.fixture
def wazzup(network):
    with service() as server:
        server.say({"messageId": "4f9d4c2a", "chatId": "79161234567"}, 201)
        server.provider = connect(network, ProviderKind.WHATSAPP, server, channel="e0629e11")
        yield server


@pytest.fixture
def gateway(network):
    """The SMS gateway of the company."""
    with service() as server:
        server.say("OK 1")
        connect(network, ProviderKind.HTTP, server)
        yield server


def connect(network, kind, server, **options):
    with transaction():
        return save_provider(None, ProviderFacts(network.company, kind, server.url, "key", options=options), by=SYSTEM)


@pytest.fixture
def by_sms(network):
    """A rule by SMS for one payer of a subscription."""
    client = make_client(network.lesnoy, phone=PHONE)
    make_subscription(client)
    template = make_template(channel=Channel.SMS, subject="", body="К оплате {bill.amount}: {bill.url}")
    return client, make_rule(network.lesnoy, template=template)


def test_what_is_looked_at_before_is_the_text_of_the_sms(network, wazzup):
    make_client(network.lesnoy, phone=PHONE, email="")
    run = dry_run(rule_of(network.lesnoy, "Письмо", "Коротко", kind=MailingKind.TEXT), by=SYSTEM)
    sample = run.sample(list(run.lines()))
    assert (sample.channel, sample.body) == (Channel.WHATSAPP, "Коротко")


@pytest.mark.spec("B104")
def test_an_sms_goes_to_whatsapp_and_is_recorded_so(network, by_sms, wazzup, gateway):
    run(by_sms[1])
    deliver_batch()
    (message,) = messages()
    assert (message.channel, message.status, message.recipient) == (Channel.WHATSAPP, MessageStatus.SENT, PHONE)
    (post,) = wazzup.calls
    assert (post.fields["chatType"], post.fields["text"]) == ("whatsapp", message.body)
    assert message.body.startswith("К оплате ")
    assert gateway.calls == []


@pytest.mark.spec("B104")
def test_what_whatsapp_refuses_goes_as_an_sms_once(network, by_sms, wazzup, gateway):
    wazzup.say({"error": "MESSAGES_IS_SPAM"}, 400)
    run(by_sms[1])
    deliver_batch()
    deliver_batch()
    first, second = messages()
    assert [(one.channel, one.status) for one in (first, second)] == [
        (Channel.WHATSAPP, MessageStatus.FAILED),
        (Channel.SMS, MessageStatus.SENT),
    ]
    assert (second.body, len(gateway.calls), len(wazzup.calls)) == (first.body, 1, 1)


@pytest.mark.spec("B104")
def test_so_does_what_wazzup_tells_later_it_could_not_deliver(network, by_sms, wazzup, gateway, web):
    run(by_sms[1])
    deliver_batch()
    teller = web()
    teller.with_csrf = False
    told = {"messageId": "4f9d4c2a", "status": "error", "error": {"error": "BAD_CONTACT"}}
    for _time in range(2):
        assert teller.post(f"/channels/{wazzup.provider.token}", json={"statuses": [told]}).status_code == 200
    deliver_batch()
    assert [(one.channel, one.status) for one in messages()] == [
        (Channel.WHATSAPP, MessageStatus.FAILED),
        (Channel.SMS, MessageStatus.SENT),
    ]
    assert len(gateway.calls) == 1


def test_why_it_was_refused_is_kept_whatever_signs_it_holds(network, by_sms, wazzup, gateway, web):
    """JSON brings zeros and halves of characters, which PostgreSQL or both databases refuse."""
    run(by_sms[1])
    deliver_batch()
    told = {"messageId": "4f9d4c2a", "status": "error", "error": {"error": "X\x00", "description": "нет \ud800"}}
    stranger = {"messageId": "\x00\udfff", "status": "read"}
    calls = {"statuses": [stranger, told]}
    assert web().post(f"/channels/{wazzup.provider.token}", json=calls).status_code == 200
    assert (messages()[0].status, messages()[0].error) == (MessageStatus.FAILED, "X нет ?")


def test_what_has_come_does_not_whatever_is_told_afterwards(network, by_sms, wazzup, gateway, web):
    run(by_sms[1])
    deliver_batch()
    teller = web()
    for word in ("delivered", "error"):
        told = {"messageId": "4f9d4c2a", "status": word}
        assert teller.post(f"/channels/{wazzup.provider.token}", json={"statuses": [told]}).status_code == 200
    assert [(one.channel, one.status) for one in messages()] == [(Channel.WHATSAPP, MessageStatus.DELIVERED)]


def test_what_whatsapp_may_have_taken_does_not(network, by_sms, wazzup, gateway):
    wazzup.say({"error": "UNKNOWN_ERROR"}, 500)
    run(by_sms[1])
    deliver_batch()
    deliver_batch()
    assert [one.status for one in messages()] == [MessageStatus.UNKNOWN]
    assert gateway.calls == []


def test_who_has_switched_whatsapp_off_gets_the_sms_at_once(network, by_sms, wazzup):
    client, rule = by_sms
    with transaction():
        set_contact(client, Channel.WHATSAPP, False, by=SYSTEM)
    run(rule)
    assert [one.channel for one in messages()] == [Channel.SMS]


def test_a_way_of_whatsapp_has_its_own_text_and_is_tried_once(network, wazzup, gateway):
    make_subscription(make_client(network.lesnoy, phone=PHONE))
    run(rule_of(network.lesnoy, "WhatsApp {bill.url}", "SMS {bill.url}", first=Channel.WHATSAPP))
    wazzup.say({"error": "MESSAGES_IS_SPAM"}, 400)
    deliver_batch()
    deliver_batch()
    assert [(one.channel, one.body.split()[0]) for one in messages()] == [
        (Channel.WHATSAPP, "WhatsApp"),
        (Channel.SMS, "SMS"),
    ]


def test_whatsapp_switched_off_meanwhile_leaves_the_sms(network, by_sms, wazzup):
    run(by_sms[1])
    (claim,) = take_messages(limit=1)
    begun = begin_sending(claim).claim
    with transaction():
        wazzup.provider.is_active = False
    settle_message(begun, Outcome(Fate.REFUSED, "no such account"))
    assert [one.channel for one in messages()] == [Channel.WHATSAPP, Channel.SMS]
