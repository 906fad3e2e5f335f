"""Thanks after a payment, where a template says so."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.bundles import bundle_bills
from crm.bills.operations import archive_bill
from crm.clients.models import PhoneKind
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, set_contact
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.models import Message
from crm.mailings.templates import save_template
from crm.payments.confirmation import check_code, order_of, pay_confirmed, proof_of, send_code
from crm.payments.models import PaymentMethod
from crm.payments.operations import pay_bill_at_desk, start_payment, top_up
from crm.payments.outcomes import accept_notice
from tests.bank import bank, begin, pay_at  # noqa: F401
from tests.factories import make_account, make_bill, make_client, make_template

BODY = "Спасибо, {customer.name}: {payment.amount} за {bill.amount}, {payment.account}, {payment.date}"


@pytest.fixture
def template(app):
    return make_template(subject="Счёт {bill.amount} оплачен", body=BODY, is_thanks=True)


def pay(bill):
    with transaction():
        return pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)


def thanks():
    return list(db.session.scalars(select(Message).order_by(Message.id)))


def test_a_paid_bill_is_thanked_for_once_by_e_mail(network, template):
    client = make_client(network.lesnoy, name="Анна")
    bill = make_bill(client)
    payment = pay(bill)
    (message,) = thanks()
    assert message.body.replace("\xa0", " ") == (
        f"Спасибо, Анна: 1 500,00 за 1 500,00, {payment.account.title}, {clock.today(network.lesnoy):%d.%m.%Y}"
    )
    assert message.subject.startswith("Счёт 1")
    assert (message.channel, message.recipient) == (Channel.EMAIL, client.email)
    assert (message.bill_id, message.dedupe_key) == (bill.id, f"thanks:{payment.id}")


def test_an_sms_only_to_who_has_a_mobile_phone_and_no_e_mail(network, template):
    make_template(channel=Channel.SMS, subject="", body="Спасибо: {payment.amount}", is_thanks=True)
    with_both, with_phone = make_client(network.lesnoy), make_client(network.lesnoy, email="")
    with_none = make_client(network.lesnoy, email="", phone_kind=PhoneKind.HOME)
    for client in (with_both, with_phone, with_none):
        pay(make_bill(client))
    assert [(message.client_id, message.channel) for message in thanks()] == [
        (with_both.id, Channel.EMAIL),
        (with_phone.id, Channel.SMS),
    ]


def test_thanks_are_a_kind_of_their_own_that_a_client_may_refuse(network, template):
    make_template(channel=Channel.SMS, subject="", body="Спасибо: {payment.amount}", is_thanks=True)
    taking, refusing, without = (make_client(network.lesnoy) for _ in range(3))
    with transaction():
        choose(refusing, MessageKind.THANKS, False, by=None)
        set_contact(without, Channel.EMAIL, False, by=SYSTEM)
    for client in (taking, refusing, without):
        pay(make_bill(client))
    assert [(one.client_id, one.channel, one.kind) for one in thanks()] == [
        (taking.id, Channel.EMAIL, MessageKind.THANKS),
        (without.id, Channel.SMS, MessageKind.THANKS),
    ]


def test_money_at_the_desk_for_no_bill_is_not_thanked_for(network, template):
    account = make_account(make_client(network.lesnoy))
    with transaction():
        top_up(account, amount=Decimal(500), method=PaymentMethod.CASH, by=SYSTEM)
    assert thanks() == []


def test_without_such_a_template_nothing_is_written(network):
    make_template()
    pay(make_bill(make_client(network.lesnoy)))
    assert thanks() == []


def test_a_text_that_cannot_be_filled_in_keeps_no_money_back(network, template):
    with transaction():
        template.body = "{bill.nothing}"
    payment = pay(make_bill(make_client(network.lesnoy)))
    assert payment.account.balance == Decimal(1500)
    assert thanks() == []


def test_of_a_channel_one_template_thanks(network, template):
    facts = {"name": "Ещё одно", "subject": "Спасибо", "body": "Спасибо", "is_thanks": True, "by": SYSTEM}
    with pytest.raises(DomainError) as refused, transaction():
        save_template(None, **facts)
    assert (refused.value.code, refused.value.field) == ("thanks_taken", "is_thanks")
    with transaction():
        save_template(None, **facts, channel=Channel.SMS)


def test_tags_of_a_payment_are_for_thanks_alone(app):
    with pytest.raises(DomainError) as refused, transaction():
        save_template(None, name="Обычный", subject="Привет", body="{payment.amount}", by=SYSTEM)
    assert (refused.value.code, refused.value.field) == ("payment_required", "body")


# --- online ----------------------------------------------------------------------------------------------------------


def test_a_notice_that_comes_twice_thanks_once(network, template, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    external_id = pay_at(bank, payment)
    for _ in range(2):
        accept_notice(bank, external_id)
    assert [message.dedupe_key for message in thanks()] == [f"thanks:{payment.id}"]


def test_bills_paid_at_once_are_thanked_for_once_with_the_whole_sum(network, template, bank):  # noqa: F811
    client = make_client(network.lesnoy)
    bills = [make_bill(client, amount=Decimal(1000)), make_bill(client, amount=Decimal("50.50"))]
    db.session.commit()
    leader = start_payment(bills, gateway=bank, return_url="https://kontora.test/pay/x")
    accept_notice(bank, pay_at(bank, leader))
    (message,) = thanks()
    assert "1 050,50" in message.body.replace("\xa0", " ")


def test_bills_paid_at_once_from_a_deposit_are_thanked_for_once_too(network, template):
    client = make_client(network.lesnoy)
    deposit = make_account(client, balance=5000)
    bills = [make_bill(client, amount=Decimal(1000)), make_bill(client, amount=Decimal("50.50"))]
    with transaction():
        order = order_of(bundle_bills(bills, by=SYSTEM).token)
    with transaction():
        digits = send_code(order)[1]
    proof = proof_of(order, check_code(order, digits))
    with transaction():
        payments = pay_confirmed(order, proof, deposit, by=SYSTEM)
    (message,) = thanks()
    assert message.dedupe_key == f"thanks:{payments[0].id}"
    assert "1 050,50" in message.body.replace("\xa0", " ")


def test_money_a_person_has_to_look_at_is_not_thanked_for(network, template, bank):  # noqa: F811
    payment = begin(make_bill(make_client(network.lesnoy)), bank)
    external_id = pay_at(bank, payment)
    with transaction():
        archive_bill(payment.bill, by=SYSTEM)
    accept_notice(bank, external_id)
    assert payment.attention is not None
    assert thanks() == []
