"""One payment of ours and what the bank makes of it: two orders, two clicks, two shops, two installations."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from flask_babel import force_locale
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import EVERYWHERE, scoped_to
from crm.bills.models import Bill, BillStatus
from crm.db import db, transaction
from crm.errors import DomainError
from crm.jobs.tasks import perform
from crm.payments import operations
from crm.payments.gateways.base import GatewayError, KeysRefused, NoticeRefused, RemotePayment, RemoteStatus
from crm.payments.models import (
    Attention,
    GatewayKind,
    GatewayNotice,
    NoticeStatus,
    Payment,
    PaymentStatus,
    Refund,
    RefundStatus,
    Shop,
)
from crm.payments.notices import claim_notices, take_notice
from crm.payments.operations import accept_notice, start_payment
from crm.payments.outcomes import payment_by_reference, reference_of
from crm.payments.polling import take_questions
from crm.payments.refunds import ask_refund, note_refund_elsewhere, refund_payment
from crm.payments.shops import open_shop
from tests.bank import TalkingBank, begin, decline_at, hear_all, pay_at
from tests.factories import make_bill, make_client, make_notice, make_shop
from tests.gateways.fixtures import local_tbank, local_yookassa  # noqa: F401

BACK = "https://kontora.test/pay/x"


@pytest.fixture
def tbank_shop(network, local_tbank):  # noqa: F811
    shop = make_shop(network.lesnoy, gateway=GatewayKind.TBANK, shop_id="1111111111111DEMO", secret="secret password")
    db.session.commit()
    return shop


@pytest.fixture
def yookassa_shop(network, local_yookassa):  # noqa: F811
    shop = make_shop(network.lesnoy, gateway=GatewayKind.YOOKASSA, shop_id="100001", secret="test_secret")
    db.session.commit()
    return shop


@pytest.fixture
def bill(network):
    bill = make_bill(make_client(network.lesnoy))
    db.session.commit()
    return bill


def click(bill, shop):
    db.session.commit()
    payment = start_payment(bill, gateway=open_shop(shop), shop=shop, return_url=BACK)
    db.session.commit()
    return payment


def hear(payment, shop):
    db.session.commit()
    accept_notice(open_shop(shop), payment.external_id)
    db.session.expire_all()


def paid(bill, shop, service):
    payment = click(bill, shop)
    service.pay(payment.external_id)
    hear(payment, shop)
    assert payment.status is PaymentStatus.SUCCEEDED
    return payment


def give_back(payment, amount):
    with transaction():
        refund_payment(payment, Decimal(amount), "Болел", by=SYSTEM)
    db.session.expire_all()
    refund = db.session.scalars(select(Refund).order_by(Refund.id.desc())).first()
    db.session.commit()
    return refund


def ask(refund):
    db.session.commit()
    try:
        ask_refund(refund.id)
    except GatewayError as error:
        db.session.rollback()
        db.session.expire_all()
        return error
    db.session.expire_all()
    return None


# --- two orders of one payment ---------------------------------------------------------------------------------------


def test_late_word_of_an_order_given_up_does_not_touch_the_one_that_is_paid(bill, tbank_shop, local_tbank):  # noqa: F811
    local_tbank.faults = ["lost"]
    with pytest.raises(GatewayError):
        click(bill, tbank_shop)
    payment = click(bill, tbank_shop)
    given_up, live = sorted(local_tbank.payments)
    assert payment.external_id == live
    take_notice("tbank", {}, local_tbank.notice(given_up))
    hear_all()
    db.session.expire_all()
    assert (payment.external_id, payment.status) == (live, PaymentStatus.PENDING)
    local_tbank.pay(live)
    take_notice("tbank", {}, local_tbank.notice(live))
    hear_all()
    with clock.frozen(clock.now() + timedelta(hours=2)):
        take_notice("tbank", {}, local_tbank.notice(given_up))
        hear_all()
    db.session.expire_all()
    assert (payment.external_id, payment.status) == (live, PaymentStatus.SUCCEEDED)
    assert bill.status is BillStatus.PAID
    assert give_back(payment, 500).status is RefundStatus.SUCCEEDED


def test_of_two_orders_the_paid_one_is_taken(bill, bank):
    payment = begin(bill, bank)
    reference = reference_of(payment)
    other = RemotePayment("another", RemoteStatus.SUCCEEDED, bill.amount, reference=reference)
    db.session.commit()
    accept_notice(TalkingBank(lambda _id: other), "another")
    db.session.expire_all()
    assert (payment.external_id, payment.status) == ("another", PaymentStatus.SUCCEEDED)


def test_an_order_held_for_its_sum_keeps_its_number_when_another_is_paid(bill, bank):
    payment = begin(bill, bank)
    first, reference = payment.external_id, reference_of(payment)
    db.session.commit()
    accept_notice(TalkingBank(lambda id: RemotePayment(id, RemoteStatus.SUCCEEDED, Decimal(7))), first)
    other = RemotePayment("another", RemoteStatus.SUCCEEDED, bill.amount, reference=reference)
    second = accept_notice(TalkingBank(lambda _id: other), "another")
    db.session.expire_all()
    assert (payment.external_id, payment.attention) == (first, Attention.WRONG_SUM)
    assert (second.id != payment.id, second.status) == (True, PaymentStatus.SUCCEEDED)


@pytest.mark.spec("B32")
def test_paid_after_it_was_canceled_is_credited_without_a_notice(bill, bank):
    payment = begin(bill, bank)
    began = payment.created_at
    declined = decline_at(bank, payment)
    accept_notice(bank, declined)
    db.session.expire_all()
    assert payment.status is PaymentStatus.CANCELED
    said = RemotePayment(declined, RemoteStatus.SUCCEEDED, bill.amount)
    patch = pytest.MonkeyPatch()
    patch.setattr(type(bank), "fetch", lambda _self, _id: said)
    db.session.commit()
    try:
        with clock.frozen(began + timedelta(hours=3)):
            perform("payments.poll")
    finally:
        patch.undo()
    db.session.expire_all()
    assert (payment.status, bill.status) == (PaymentStatus.SUCCEEDED, BillStatus.PAID)


def test_a_canceled_one_is_asked_about_for_a_day(bill, bank):
    payment = begin(bill, bank)
    accept_notice(bank, decline_at(bank, payment))
    db.session.expire_all()
    began, minutes = payment.created_at, []
    for minute in range(5, 60 * 30, 5):
        with transaction():
            if take_questions(now=began + timedelta(minutes=minute)):
                minutes.append(minute)
    assert minutes == [*range(5, 60, 10), *range(65, 60 * 24, 60)]


# --- two clicks -------------------------------------------------------------------------------------------------------


def test_of_two_clicks_one_talks_to_the_bank(app, bill, tbank_shop, local_tbank, monkeypatch):  # noqa: F811
    monkeypatch.setattr(operations, "PATIENCE_SECONDS", 0.3)
    ids = bill.id, tbank_shop.id
    urls, refusals = {}, {}

    def press(number: int) -> None:
        with app.app_context(), scoped_to(EVERYWHERE):
            bill, shop = db.session.get_one(Bill, ids[0]), db.session.get_one(Shop, ids[1])
            try:
                urls[number] = start_payment(bill, gateway=open_shop(shop), shop=shop, return_url=BACK).confirmation_url
            except DomainError as error:
                refusals[number] = error.code
            finally:
                db.session.remove()

    db.session.commit()
    local_tbank.faults = ["slow"]
    first = threading.Thread(target=press, args=(1,))
    first.start()
    while not local_tbank.payments:
        threading.Event().wait(0.01)
    press(2)
    assert refusals == {2: "being_begun"}
    local_tbank.release()
    first.join()
    assert [one["Status"] for one in local_tbank.payments.values()] == ["NEW"]
    press(3)
    assert urls[3] == urls[1]
    db.session.expire_all()
    payment = db.session.scalars(select(Payment)).one()
    assert (payment.external_id, payment.asking_until) == (next(iter(local_tbank.payments)), None)


def test_a_click_after_a_killed_one_waits_for_its_lease_only(bill, bank, monkeypatch):
    monkeypatch.setattr(operations, "PATIENCE_SECONDS", 0)

    def die(**_asked):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bank, "create", die)
        with pytest.raises(KeyboardInterrupt):
            begin(bill, bank)
    db.session.rollback()
    with pytest.raises(DomainError) as refused:
        begin(bill, bank)
    assert refused.value.code == "being_begun"
    db.session.rollback()
    with clock.frozen(clock.now() + operations.ASKING_LEASE + timedelta(seconds=1)):
        assert begin(bill, bank).confirmation_url is not None
    assert len(db.session.scalars(select(Payment)).all()) == 1


def test_what_a_notice_wrote_meanwhile_is_not_written_over(bill, tbank_shop, local_tbank):  # noqa: F811
    """The bank's word of the order comes before our own transaction ends."""
    db.session.commit()
    gateway = open_shop(tbank_shop)
    create = gateway.create

    def create_and_hear(**asked):
        made = create(**asked)
        local_tbank.pay(made.external_id)
        take_notice("tbank", {}, local_tbank.notice(made.external_id))
        hear_all()
        return replace(made, external_id="999")

    gateway.create = create_and_hear
    with pytest.raises(GatewayError):
        start_payment(bill, gateway=gateway, shop=tbank_shop, return_url=BACK)
    db.session.expire_all()
    payment = db.session.scalars(select(Payment)).one()
    assert (payment.external_id in local_tbank.payments, payment.status) == (True, PaymentStatus.SUCCEEDED)


def test_word_of_the_order_given_up_for_the_one_being_made_does_not_cancel_it(bill, tbank_shop, local_tbank):  # noqa: F811
    local_tbank.faults = ["lost"]
    with pytest.raises(GatewayError):
        click(bill, tbank_shop)
    (lost,) = local_tbank.payments
    gateway = open_shop(tbank_shop)
    create = gateway.create

    def create_and_hear(**asked):
        made = create(**asked)
        take_notice("tbank", {}, local_tbank.notice(lost))
        hear_all()
        return made

    gateway.create = create_and_hear
    db.session.commit()
    payment = start_payment(bill, gateway=gateway, shop=tbank_shop, return_url=BACK)
    assert local_tbank.payments[lost]["Status"] == "CANCELED"
    assert (payment.status, payment.external_id == lost) == (PaymentStatus.PENDING, False)


def test_the_bank_is_told_the_same_whatever_language_the_payer_reads(bill, yookassa_shop, local_yookassa):  # noqa: F811
    local_yookassa.faults = ["lost"]
    with force_locale("ru"), pytest.raises(GatewayError):
        click(bill, yookassa_shop)
    with force_locale("en"):
        payment = click(bill, yookassa_shop)
    assert list(local_yookassa.payments) == [payment.external_id]
    assert local_yookassa.payments[payment.external_id]["description"].startswith("Счёт")


# --- two installations, two shops -------------------------------------------------------------------------------------


def test_orders_of_an_earlier_installation_are_not_taken_for_ours(bill, tbank_shop, local_tbank):  # noqa: F811
    """A database made anew or restored counts from the same number; the terminal is the same."""
    gateway = open_shop(tbank_shop)
    old = {"currency": "RUB", "description": "old", "return_url": BACK}
    for number in range(1, 40):
        name = f"payment-{number}"
        made = gateway.create(amount=Decimal(1500), idempotence_key=name, reference=name, **old)
        local_tbank.pay(made.external_id)
    payment = click(bill, tbank_shop)
    assert payment.confirmation_url.startswith("https://pay.tbank.example/")
    hear(payment, tbank_shop)
    assert (payment.status, payment.account.balance) == (PaymentStatus.PENDING, 0)


def test_a_name_of_ours_is_matched_whole(bill, bank):
    payment = begin(bill, bank)
    name = reference_of(payment)
    assert len(f"payment-{10**15}-{'x' * 8}_9") <= 36  # what T-Bank takes
    assert payment_by_reference("demo", name) is payment
    for other in (f"payment-{payment.id}", f"payment-{payment.id}-", name[:-1] + "!", f"{name}x"):
        assert payment_by_reference("demo", other) is None


def test_payments_and_refunds_have_names_no_other_has(network, yookassa_shop, local_yookassa):  # noqa: F811
    payments = [paid(make_bill(make_client(network.lesnoy)), yookassa_shop, local_yookassa) for _ in range(2)]
    for _ in range(2):
        give_back(payments[0], 10)
    keys = [asked.headers["idempotence-key"] for asked in local_yookassa.asked if asked.method == "POST"]
    names = [key.rpartition("-") for key in keys]
    assert [name[0] for name in names] == [f"payment-{payment.id}" for payment in payments] + ["refund-1", "refund-2"]
    assert len({name[2] for name in names}) == 4


def test_the_order_of_one_shop_pays_nothing_of_another(network, bill, yookassa_shop, local_yookassa):  # noqa: F811
    local_yookassa.shops = {"100001": "test_secret", "100002": "two"}
    other = make_shop(network.rechnoy, gateway=GatewayKind.YOOKASSA, shop_id="100002", secret="two")
    payment = click(bill, yookassa_shop)
    own, name = payment.external_id, reference_of(payment)
    made = open_shop(other).create(
        amount=bill.amount, currency="RUB", description="mine", return_url=BACK, idempotence_key="k", reference=name
    )
    local_yookassa.pay(made.external_id)
    for is_named in (True, False):
        said = json.loads(local_yookassa.notice(made.external_id))
        if not is_named:
            said["object"].pop("metadata")
        db.session.commit()
        take_notice("yookassa", {}, json.dumps(said).encode())
    hear_all()
    db.session.expire_all()
    assert (payment.status, payment.external_id) == (PaymentStatus.PENDING, own)
    assert {notice.status for notice in db.session.scalars(select(GatewayNotice))} == {NoticeStatus.UNKNOWN}


def test_an_order_at_a_shop_that_lets_us_in_no_more_does_not_hold_the_payer(
    network,
    bill,
    yookassa_shop,
    local_yookassa,  # noqa: F811
):
    old = click(bill, yookassa_shop)
    local_yookassa.shops = {"100001": "taken back", "100002": "two"}
    new = make_shop(network.lesnoy, gateway=GatewayKind.YOOKASSA, shop_id="100002", secret="two")
    assert click(bill, new).id != old.id
    with pytest.raises(KeysRefused):
        click(bill, yookassa_shop)


# --- a refused key is not a refused refund ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [401, 403])
def test_a_refund_whose_answer_was_lost_outlives_refused_keys(bill, yookassa_shop, local_yookassa, fault):  # noqa: F811
    payment = paid(bill, yookassa_shop, local_yookassa)
    local_yookassa.faults = ["lost"]
    refund = give_back(payment, 1500)
    assert (refund.status, len(local_yookassa.refunds)) == (RefundStatus.PENDING, 1)
    local_yookassa.faults = [fault]
    assert isinstance(ask(refund), KeysRefused)
    assert (refund.status, payment.account.balance) == (RefundStatus.PENDING, 0)
    assert ask(refund) is None
    assert (refund.status, payment.account.balance) == (RefundStatus.SUCCEEDED, 0)
    assert len(local_yookassa.refunds) == 1


@pytest.mark.parametrize("fault", [401, 403, 404, 400])
def test_a_question_that_is_refused_says_nothing_of_the_refund(bill, yookassa_shop, local_yookassa, fault):  # noqa: F811
    payment = paid(bill, yookassa_shop, local_yookassa)
    local_yookassa.refund_status = "pending"
    refund = give_back(payment, 1500)
    local_yookassa.faults = [fault]
    assert ask(refund) is not None
    assert (refund.status, payment.account.balance) == (RefundStatus.PENDING, 0)


def test_a_refusal_after_a_lost_answer_is_checked_against_what_was_given_back(
    bill,
    yookassa_shop,
    local_yookassa,  # noqa: F811
):
    """The same key with other words is refused by YooKassa, though the refund was made."""
    payment = paid(bill, yookassa_shop, local_yookassa)
    local_yookassa.faults = ["lost"]
    refund = give_back(payment, 1000)
    local_yookassa.faults = [400]
    assert ask(refund) is None
    assert (refund.status, payment.account.balance) == (RefundStatus.SUCCEEDED, 500)


def test_a_refusal_stands_when_nothing_was_given_back(bill, yookassa_shop, local_yookassa):  # noqa: F811
    payment = paid(bill, yookassa_shop, local_yookassa)
    local_yookassa.faults = [400]
    refund = give_back(payment, 1000)
    assert (refund.status, payment.account.balance) == (RefundStatus.FAILED, 1500)


def test_more_than_the_bank_has_left_is_refused_for_good(bill, yookassa_shop, local_yookassa):  # noqa: F811
    payment = paid(bill, yookassa_shop, local_yookassa)
    local_yookassa.give_back(payment.external_id, "800.00")
    refund = give_back(payment, 1000)
    assert (refund.status, payment.account.balance) == (RefundStatus.FAILED, 1500)


@pytest.mark.parametrize("kind", ["yookassa", "tbank"])
def test_a_shop_whose_key_cannot_be_read_asks_nothing(request, app, bill, kind):
    service = request.getfixturevalue(f"local_{kind}")
    shop = request.getfixturevalue(f"{kind}_shop")
    payment = paid(bill, shop, service)
    if kind == "yookassa":
        service.refund_status = "pending"
    else:
        service.is_async = True
    refund = give_back(payment, 1500)
    asked, settings, refund_id = len(service.asked), app.config["SETTINGS"], refund.id
    db.session.remove()
    app.config["SETTINGS"] = replace(settings, secret_key="another" * 10)
    try:
        refund = db.session.get_one(Refund, refund_id)
        error = ask(refund)
    finally:
        app.config["SETTINGS"] = settings
    assert isinstance(error, KeysRefused)
    assert len(service.asked) == asked
    assert (refund.status, refund.account.balance) == (RefundStatus.PENDING, 0)


# --- what T-Bank says of refunds --------------------------------------------------------------------------------------


def test_the_rest_given_back_elsewhere_is_counted_by_our_books(bill, tbank_shop, local_tbank):  # noqa: F811
    payment = paid(bill, tbank_shop, local_tbank)
    give_back(payment, 300)
    local_tbank.give_back(payment.external_id, 120000)
    hear(payment, tbank_shop)
    assert (payment.attention, payment.reported_amount) == (Attention.REFUNDED_ELSEWHERE, 1500)
    with transaction():
        note_refund_elsewhere(payment, by=SYSTEM)
    db.session.expire_all()
    assert (payment.refunded, payment.account.balance) == (1500, 0)


def test_what_we_gave_back_whole_is_not_given_back_elsewhere(bill, tbank_shop, local_tbank):  # noqa: F811
    payment = paid(bill, tbank_shop, local_tbank)
    give_back(payment, 300)
    give_back(payment, 1200)
    hear(payment, tbank_shop)
    assert payment.attention is None


def test_an_earlier_refund_is_not_taken_for_a_later_one(bill, tbank_shop, local_tbank):  # noqa: F811
    payment = paid(bill, tbank_shop, local_tbank)
    give_back(payment, 300)
    local_tbank.is_async = True
    refund = give_back(payment, 200)
    assert refund.status is RefundStatus.PENDING
    local_tbank.payments[payment.external_id].update(Status="PARTIAL_REFUNDED", Amount=120000)  # it was not made
    ask(refund)
    assert refund.status is RefundStatus.PENDING
    local_tbank.payments[payment.external_id].update(Status="PARTIAL_REFUNDED", Amount=100000)
    ask(refund)
    assert (refund.status, payment.refunded) == (RefundStatus.SUCCEEDED, 500)


# --- strangers' notices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shop_id", ["\\u0000", "\\ud800", "магазин"])
def test_a_shop_that_cannot_be_one_is_refused(web, yookassa_shop, shop_id):
    said = '{"type":"notification","event":"payment.succeeded","object":{"id":"abc","recipient":{"account_id":"%s"}}}'
    body = (said % shop_id).encode()
    with pytest.raises(NoticeRefused):
        take_notice("yookassa", {}, body)
    shop = web()
    shop.with_csrf = False
    assert shop.post("/webhooks/yookassa", data=body).status_code == 400


@pytest.mark.parametrize("field", ["TerminalKey", "OrderId", "Token", "Pan"])
def test_a_half_of_a_sign_in_a_signed_notice_is_refused(tbank_shop, field):
    said = {"TerminalKey": "1111111111111DEMO", "OrderId": "x", "PaymentId": 1, "Token": "x", field: "\ud800"}
    with pytest.raises(NoticeRefused):
        take_notice("tbank", {}, json.dumps(said).encode())


def test_strangers_do_not_hold_real_notices_back(bill, bank):
    for _ in range(8):
        make_notice(status=NoticeStatus.NEW)
    payment = begin(bill, bank)
    with clock.frozen(clock.now() + timedelta(seconds=1)):
        real = make_notice(status=NoticeStatus.NEW, external_id=pay_at(bank, payment))
    db.session.commit()
    with clock.frozen(clock.now() + timedelta(seconds=2)):
        assert [claim.id for claim in claim_notices(limit=1)] == [real.id]
        assert len(claim_notices(limit=50)) == 8


def test_long_unsigned_notices_are_stored_cut(bill, yookassa_shop, local_yookassa):  # noqa: F811
    payment = click(bill, yookassa_shop)
    local_yookassa.pay(payment.external_id)
    said = json.loads(local_yookassa.notice(payment.external_id))
    db.session.commit()
    take_notice("yookassa", {}, json.dumps({**said, "junk": "я" * 9000}).encode())
    (notice,) = db.session.scalars(select(GatewayNotice))
    assert len(notice.body.encode()) <= 16 * 1024
    hear_all()
    db.session.expire_all()
    assert payment.status is PaymentStatus.SUCCEEDED


def test_a_second_payment_says_its_own_currency(bill, bank):
    payment = begin(bill, bank)
    accept_notice(bank, pay_at(bank, payment))
    said = RemotePayment("b", RemoteStatus.SUCCEEDED, Decimal(9), "EUR", reference=reference_of(payment))
    second = accept_notice(TalkingBank(lambda _id: said), "b")
    db.session.expire_all()
    assert second.attention is Attention.WRONG_CURRENCY
