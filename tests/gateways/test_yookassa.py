"""The YooKassa gateway over its SDK, against a local YooKassa."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from yookassa import Configuration

from crm.payments.gateways import yookassa
from crm.payments.gateways.base import (
    Customer,
    GatewayError,
    GatewayRefused,
    KeysRefused,
    NoticeRefused,
    RemoteStatus,
    ShopKeys,
)
from crm.payments.gateways.fiscal import PaymentMode, PaymentSubject, Receipts, TaxSystem, Vat
from crm.payments.gateways.yookassa import YookassaGateway, read_notice

RECEIPTS = Receipts(TaxSystem.USN_INCOME, Vat.VAT22, PaymentMode.ADVANCE, PaymentSubject.PAYMENT)


def shop(service, shop_id="100001", secret="test_secret", receipts=None):
    return YookassaGateway(ShopKeys(shop_id, secret, receipts.options() if receipts else {}), url=service.url)


def ask(number=1, **changes):
    return {
        "amount": Decimal("1500.00"),
        "currency": "RUB",
        "description": "Счёт № 7",
        "return_url": "https://kontora.test/pay/x?payment=1",
        "idempotence_key": f"payment-{number}",
        "reference": f"payment-{number}",
    } | changes


def refund(number=1, **changes):
    return {
        "amount": Decimal("500.00"),
        "currency": "RUB",
        "idempotence_key": f"refund-{number}",
        "reason": "",
    } | changes


# --- create ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B44", "X13")
def test_the_payer_is_sent_to_the_banks_form(local_yookassa):
    created = shop(local_yookassa).create(**ask())
    payment = local_yookassa.payments[created.external_id]
    assert created.confirmation_url == payment["confirmation"]["confirmation_url"]
    asked = payment["_asked"]
    assert asked["amount"] == {"value": "1500.00", "currency": "RUB"}
    assert asked["capture"] is True
    assert asked["confirmation"] == {"type": "redirect", "return_url": "https://kontora.test/pay/x?payment=1"}
    assert asked["metadata"] == {"reference": "payment-1"}
    assert "receipt" not in asked


def test_the_same_key_is_the_same_payment(local_yookassa):
    gateway = shop(local_yookassa)
    assert gateway.create(**ask()) == gateway.create(**ask())
    assert len(local_yookassa.payments) == 1
    assert [asked.headers["idempotence-key"] for asked in local_yookassa.asked] == ["payment-1", "payment-1"]


def test_an_answer_that_was_lost_is_found_by_its_key(local_yookassa):
    gateway = shop(local_yookassa)
    local_yookassa.faults = ["lost"]
    with pytest.raises(GatewayError):
        gateway.create(**ask())
    assert gateway.create(**ask()).external_id in local_yookassa.payments
    assert len(local_yookassa.payments) == 1


def test_the_same_key_with_another_sum_is_refused(local_yookassa):
    gateway = shop(local_yookassa)
    gateway.create(**ask())
    with pytest.raises(GatewayRefused, match="Idempotence key duplicated"):
        gateway.create(**ask(amount=Decimal("10.00")))


def test_a_payment_paid_meanwhile_needs_no_form(local_yookassa):
    gateway = shop(local_yookassa)
    created = gateway.create(**ask())
    local_yookassa.pay(created.external_id)
    again = gateway.create(**ask())
    assert again.external_id == created.external_id
    assert again.confirmation_url == "https://kontora.test/pay/x?payment=1"


def test_a_long_description_is_cut(local_yookassa):
    created = shop(local_yookassa).create(**ask(description="ы" * 300))
    assert local_yookassa.payments[created.external_id]["description"] == "ы" * 128


# --- receipts -------------------------------------------------------------------------------------------------------


def test_a_receipt_goes_to_the_payer(local_yookassa):
    gateway = shop(local_yookassa, receipts=RECEIPTS)
    created = gateway.create(**ask(customer=Customer("mother@example.test", "+79161234567")))
    assert local_yookassa.payments[created.external_id]["_asked"]["receipt"] == {
        "customer": {"email": "mother@example.test"},
        "tax_system_code": 2,
        "items": [
            {
                "description": "Счёт № 7",
                "quantity": "1.0",
                "amount": {"value": "1500.00", "currency": "RUB"},
                "vat_code": 11,
                "payment_subject": "payment",
                "payment_mode": "advance",
            }
        ],
    }


def test_a_receipt_by_phone(local_yookassa):
    created = shop(local_yookassa, receipts=RECEIPTS).create(**ask(customer=Customer(phone="+79161234567")))
    receipt = local_yookassa.payments[created.external_id]["_asked"]["receipt"]
    assert receipt["customer"] == {"phone": "79161234567"}


def test_a_payer_without_address_and_a_shop_without_one_for_him(local_yookassa):
    with pytest.raises(GatewayRefused, match="neither e-mail nor phone"):
        shop(local_yookassa, receipts=RECEIPTS).create(**ask())
    assert local_yookassa.payments == {}


def test_a_payer_without_address_has_the_shops(local_yookassa):
    receipts = Receipts(TaxSystem.OSN, Vat.NONE, email="office@example.test")
    created = shop(local_yookassa, receipts=receipts).create(**ask())
    receipt = local_yookassa.payments[created.external_id]["_asked"]["receipt"]
    assert receipt["customer"] == {"email": "office@example.test"}


@pytest.mark.parametrize(("vat", "code"), [(Vat.NONE, 1), (Vat.VAT20, 4), (Vat.VAT107, 10), (Vat.VAT122, 12)])
def test_vat_codes(vat, code):
    assert vat.code == code


def test_a_refund_has_its_receipt(local_yookassa):
    gateway = shop(local_yookassa, receipts=RECEIPTS)
    customer = Customer("mother@example.test")
    payment_id = gateway.create(**ask(customer=customer)).external_id
    local_yookassa.pay(payment_id)
    made = gateway.refund(payment_id, **refund(reason="Заболели", customer=customer))
    receipt = local_yookassa.refunds[made.external_id]["_asked"]["receipt"]
    assert receipt["items"][0]["amount"]["value"] == "500.00"
    assert receipt["customer"] == {"email": "mother@example.test"}


# --- fetch ----------------------------------------------------------------------------------------------------------


def test_what_a_payment_is(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    waiting = gateway.fetch(payment_id)
    assert (waiting.status, waiting.paid_at) == (RemoteStatus.PENDING, None)
    local_yookassa.pay(payment_id)
    paid = gateway.fetch(payment_id)
    assert (paid.status, paid.amount, paid.currency) == (RemoteStatus.SUCCEEDED, Decimal("1500.00"), "RUB")
    assert (paid.external_id, paid.reference, paid.refunded) == (payment_id, "payment-1", 0)
    assert paid.paid_at is not None
    assert paid.paid_at.utcoffset() is not None
    local_yookassa.give_back(payment_id, "400.00")
    back = gateway.fetch(payment_id)
    assert (back.status, back.amount, back.refunded) == (RemoteStatus.SUCCEEDED, Decimal("1500.00"), Decimal("400.00"))


def test_money_held_is_not_money_received(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id, "waiting_for_capture")
    assert gateway.fetch(payment_id).status is RemoteStatus.PENDING


def test_a_canceled_payment(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.cancel(payment_id)
    assert gateway.fetch(payment_id).status is RemoteStatus.CANCELED


def test_a_status_nobody_knows_is_not_guessed(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.payments[payment_id]["status"] = "on_its_way"
    with pytest.raises(GatewayError, match="cannot be read"):
        gateway.fetch(payment_id)


def test_another_payment_than_asked_for_is_not_believed(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id, other = (gateway.create(**ask(number)).external_id for number in (1, 2))
    local_yookassa.payments[payment_id] = local_yookassa.payments[other]
    with pytest.raises(GatewayError, match="cannot be read"):
        gateway.fetch(payment_id)


def test_of_another_shop_is_refused(local_yookassa):
    local_yookassa.shops["100002"] = "another"
    payment_id = shop(local_yookassa).create(**ask()).external_id
    with pytest.raises(GatewayRefused, match="doesn't exist"):
        shop(local_yookassa, "100002", "another").fetch(payment_id)


@pytest.mark.parametrize("number", ["../me", "..", "x?y=1", "", "а", "x" * 101])
def test_a_number_that_is_none_is_not_asked_about(local_yookassa, number):
    with pytest.raises(GatewayRefused):
        shop(local_yookassa).fetch(number)
    assert local_yookassa.asked == []


# --- refunds --------------------------------------------------------------------------------------------------------


def test_a_refund_once(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id)
    made = gateway.refund(payment_id, **refund(reason="Заболели"))
    assert made == gateway.refund(payment_id, **refund(reason="Заболели"))
    assert (made.status, made.amount, made.error) == (RemoteStatus.SUCCEEDED, Decimal("500.00"), "")
    assert gateway.fetch(payment_id).refunded == Decimal("500.00")


def test_more_than_is_left_is_refused_in_words(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id)
    with pytest.raises(GatewayRefused, match="more than the rest"):
        gateway.refund(payment_id, **refund(amount=Decimal("1500.01")))


def test_a_refund_that_takes_time_and_is_refused(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id)
    local_yookassa.refund_status = "pending"
    made = gateway.refund(payment_id, **refund())
    assert made.status is RemoteStatus.PENDING
    assert gateway.fetch_refund(made.external_id).status is RemoteStatus.PENDING
    local_yookassa.settle(made.external_id, "canceled")
    refused = gateway.fetch_refund(made.external_id)
    assert (refused.status, refused.error) == (RemoteStatus.CANCELED, "insufficient_funds")


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["close", "lost", "html", "text", 500, 503, 429, 202, 302])
def test_faults_that_may_pass(local_yookassa, fault):
    local_yookassa.faults = [fault]
    with pytest.raises(GatewayError) as caught:
        shop(local_yookassa).create(**ask())
    assert not isinstance(caught.value, GatewayRefused)


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gateway = YookassaGateway(ShopKeys("1", "x"), url=f"http://127.0.0.1:{unused.getsockname()[1]}/v3")
        with pytest.raises(GatewayError, match="does not answer"):
            gateway.fetch("1")


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_answer_that_does_not_come_is_not_waited_for(local_yookassa, monkeypatch, fault):
    monkeypatch.setattr(yookassa, "READ_SECONDS", 0.3)
    monkeypatch.setattr(yookassa, "WHOLE_SECONDS", 0.5)
    local_yookassa.faults = [fault]
    started = time.monotonic()
    with pytest.raises(GatewayError, match="does not answer"):
        shop(local_yookassa).create(**ask())
    assert time.monotonic() - started < 5


def test_a_gateway_works_on_after_a_fault(local_yookassa):
    gateway = shop(local_yookassa)
    local_yookassa.faults = ["close", "html"]
    for _time in range(2):
        with pytest.raises(GatewayError):
            gateway.create(**ask())
    assert gateway.create(**ask()).external_id


@pytest.mark.parametrize("status", [401, 403])
def test_keys_that_are_not_accepted(local_yookassa, status):
    local_yookassa.faults = [status]
    with pytest.raises(KeysRefused, match="does not accept the shop's keys"):
        shop(local_yookassa).create(**ask())


def test_a_refusal_has_the_services_words(local_yookassa):
    with pytest.raises(GatewayRefused, match="Amount is too small"):
        shop(local_yookassa).create(**ask(amount=Decimal("0.50")))


def test_what_the_sdk_will_not_send_is_a_refusal(local_yookassa):
    with pytest.raises(GatewayRefused):
        shop(local_yookassa).refund("not 36 characters", **refund())
    assert local_yookassa.asked == []


def test_a_netrc_of_the_machine_changes_nothing(local_yookassa, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password x\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert shop(local_yookassa).create(**ask()).external_id


# --- several shops --------------------------------------------------------------------------------------------------


def test_shops_side_by_side_never_mix(local_yookassa):
    """Two shops in eight threads, while somebody else in the process sets the SDK's own global shop."""
    local_yookassa.shops = {"100001": "first", "100002": "second"}
    gateways = {number: shop(local_yookassa, number, secret) for number, secret in local_yookassa.shops.items()}
    start, done = threading.Barrier(9), threading.Event()

    def pay(thread):
        number = ["100001", "100002"][thread % 2]
        start.wait(10)
        made = [gateways[number].create(**ask(f"{thread}-{index}")).external_id for index in range(10)]
        return {(number, local_yookassa.payments[one]["_shop"], gateways[number].fetch(one).reference) for one in made}

    def disturb():
        start.wait(10)
        while not done.is_set():
            Configuration.configure("999999", "stranger")

    with ThreadPoolExecutor(9) as pool:
        disturbing = pool.submit(disturb)
        try:
            seen = set().union(*pool.map(pay, range(8)))
        finally:
            done.set()
        disturbing.result()
    assert len(seen) == 80
    assert all(asked == kept for asked, kept, _reference in seen)


# --- check ----------------------------------------------------------------------------------------------------------


def test_right_keys(local_yookassa):
    assert "takes payments" in shop(local_yookassa).check()
    local_yookassa.is_test = True
    assert "test one" in shop(local_yookassa).check()


def test_wrong_keys(local_yookassa):
    with pytest.raises(KeysRefused, match="does not accept the shop's keys"):
        shop(local_yookassa, secret="wrong").check()


# --- notices --------------------------------------------------------------------------------------------------------


def test_a_notice_of_a_payment(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id)
    body = local_yookassa.notice(payment_id)
    gateway.check_notice({}, body)
    notice = read_notice({}, body)
    assert (notice.external_id, notice.event) == (payment_id, "payment.succeeded")
    assert (notice.shop_id, notice.reference) == ("100001", "payment-1")


def test_a_notice_of_a_refund_is_about_its_payment(local_yookassa):
    gateway = shop(local_yookassa)
    payment_id = gateway.create(**ask()).external_id
    local_yookassa.pay(payment_id)
    refund_id = local_yookassa.give_back(payment_id, "100.00")
    notice = read_notice({}, local_yookassa.notice(refund_id))
    assert (notice.external_id, notice.event) == (payment_id, "refund.succeeded")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps({"type": "notification", "event": "payment.succeeded"}).encode(),
        json.dumps({"type": "notification", "event": "payment.succeeded", "object": {"id": 5}}).encode(),
        json.dumps({"type": "notification", "event": "payment.succeeded", "object": {"id": "../me"}}).encode(),
        json.dumps({"type": "else", "event": "payment.succeeded", "object": {"id": "x"}}).encode(),
        json.dumps({"type": "notification", "event": 7, "object": {"id": "x"}}).encode(),
        json.dumps({"type": "notification", "event": "x", "object": {"id": "x", "metadata": [1]}}).encode(),
    ],
)
def test_an_unreadable_notice(body):
    with pytest.raises(NoticeRefused):
        read_notice({}, body)
