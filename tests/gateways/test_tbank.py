"""The T-Bank gateway, against a local T-Bank."""

from __future__ import annotations

import json
import socket
import time
from decimal import Decimal

import pytest

from crm.payments.gateways import tbank
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
from crm.payments.gateways.tbank import STATUSES, TbankGateway, read_notice, token_of

TERMINAL, PASSWORD = "1111111111111DEMO", "secret password"
RETURN = "https://kontora.test/pay/x?payment=1"


def terminal(service, key=TERMINAL, password=PASSWORD, receipts=None):
    keys = ShopKeys(key, password, receipts.options() if receipts else {})
    return TbankGateway(keys, url=service.url, notice_url="https://kontora.test/webhooks/tbank")


def ask(**changes):
    return {
        "amount": Decimal("1500.50"),
        "currency": "RUB",
        "description": "Счёт № 7",
        "return_url": RETURN,
        "idempotence_key": "payment-1",
        "reference": "payment-1",
    } | changes


def refund(**changes):
    return {"amount": Decimal("500.00"), "currency": "RUB", "idempotence_key": "refund-1", "reason": ""} | changes


# --- the signature --------------------------------------------------------------------------------------------------


def test_the_banks_example():
    fields = {
        "TerminalKey": "MerchantTerminalKey",
        "Amount": 19200,
        "OrderId": "00000",
        "Description": "Подарочная карта на 1000 рублей",
        "DATA": {"Phone": "+71234567890"},
        "Receipt": {"Items": []},
        "Token": "of before",
    }
    expected = "72dd466f8ace0a37a1f740ce5fb78101712bc0665d91a8108c7c8a0ccd426db2"
    assert token_of(fields, "11111111111111") == expected


def test_truth_is_signed_in_small_letters():
    assert token_of({"Success": True}, "x") == token_of({"Success": "true"}, "x")


# --- create ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B44", "X13")
def test_the_payer_is_sent_to_the_banks_form(local_tbank):
    created = terminal(local_tbank).create(**ask())
    assert created.confirmation_url == f"https://pay.tbank.example/{created.external_id}"
    asked = local_tbank.payments[created.external_id]["_asked"]
    assert (asked["Amount"], asked["OrderId"], asked["Description"]) == (150050, "payment-1", "Счёт № 7")
    assert (asked["SuccessURL"], asked["FailURL"]) == (RETURN, RETURN)
    assert asked["NotificationURL"] == "https://kontora.test/webhooks/tbank"
    assert asked["PayType"] == "O"  # taken at once
    assert "Receipt" not in asked


def test_a_receipt_in_the_banks_words(local_tbank):
    receipts = Receipts(TaxSystem.PATENT, Vat.VAT5, PaymentMode.FULL_PREPAYMENT, PaymentSubject.SERVICE)
    created = terminal(local_tbank, receipts=receipts).create(**ask(customer=Customer(phone="+79161234567")))
    assert local_tbank.payments[created.external_id]["_asked"]["Receipt"] == {
        "Phone": "+79161234567",
        "Taxation": "patent",
        "Items": [
            {
                "Name": "Счёт № 7",
                "Price": 150050,
                "Quantity": 1,
                "Amount": 150050,
                "Tax": "vat5",
                "PaymentMethod": "full_prepayment",
                "PaymentObject": "service",
            }
        ],
    }


def test_an_order_whose_form_was_lost_is_given_up_for_another(local_tbank):
    gateway = terminal(local_tbank)
    local_tbank.faults = ["lost"]
    with pytest.raises(GatewayError):
        gateway.create(**ask())
    (lost,) = local_tbank.payments
    created = gateway.create(**ask())
    assert local_tbank.payments[lost]["Status"] == "CANCELED"
    assert local_tbank.payments[created.external_id]["OrderId"] == "payment-1_2"
    assert created.confirmation_url.endswith(created.external_id)
    assert gateway.fetch(created.external_id).reference == "payment-1"


def test_only_one_form_of_an_order_can_be_paid(local_tbank):
    gateway = terminal(local_tbank)
    for _time in range(4):
        gateway.create(**ask())
    assert [payment["Status"] for payment in local_tbank.payments.values()] == [*["CANCELED"] * 3, "NEW"]


def test_an_order_that_was_paid_needs_no_form(local_tbank):
    gateway = terminal(local_tbank)
    paid = gateway.create(**ask()).external_id
    local_tbank.pay(paid)
    again = gateway.create(**ask())
    assert (again.external_id, again.confirmation_url) == (paid, RETURN)
    assert len(local_tbank.payments) == 1


def test_a_paid_order_of_another_sum_is_not_ours(local_tbank):
    gateway = terminal(local_tbank)
    local_tbank.pay(gateway.create(**ask(amount=Decimal(7))).external_id)
    created = gateway.create(**ask())
    assert local_tbank.payments[created.external_id]["OrderId"] == "payment-1_2"
    assert created.confirmation_url != RETURN


@pytest.mark.parametrize("status", ["FORM_SHOWED", "AUTHORIZING", "3DS_CHECKING", "AUTHORIZED"])
def test_an_order_somebody_is_paying_is_left_alone(local_tbank, status):
    gateway = terminal(local_tbank)
    shown = gateway.create(**ask()).external_id
    local_tbank.set_status(shown, status)
    with pytest.raises(GatewayError, match="being paid") as caught:
        gateway.create(**ask())
    assert not isinstance(caught.value, GatewayRefused)
    assert local_tbank.payments[shown]["Status"] == status


def test_an_order_that_failed_is_begun_anew(local_tbank):
    gateway = terminal(local_tbank)
    local_tbank.cancel(gateway.create(**ask()).external_id)
    created = gateway.create(**ask())
    assert local_tbank.payments[created.external_id]["Status"] == "NEW"


@pytest.mark.parametrize("changes", [{"amount": Decimal("0.99")}, {"reference": "x" * 37}])
def test_a_refusal_has_the_banks_words(local_tbank, changes):
    with pytest.raises(GatewayRefused, match="Неверные параметры"):
        terminal(local_tbank).create(**ask(**changes))


def test_roubles_only(local_tbank):
    with pytest.raises(GatewayRefused, match="roubles"):
        terminal(local_tbank).create(**ask(currency="KZT"))


# --- fetch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status", "refunded"),
    [
        ("NEW", RemoteStatus.PENDING, 0),
        ("FORM_SHOWED", RemoteStatus.PENDING, 0),
        ("AUTHORIZED", RemoteStatus.PENDING, 0),
        ("CONFIRMED", RemoteStatus.SUCCEEDED, 0),
        ("REJECTED", RemoteStatus.CANCELED, 0),
        ("CANCELED", RemoteStatus.CANCELED, 0),
        ("DEADLINE_EXPIRED", RemoteStatus.CANCELED, 0),
        ("REFUNDED", RemoteStatus.SUCCEEDED, None),
        ("PARTIAL_REFUNDED", RemoteStatus.SUCCEEDED, None),
    ],
)
def test_what_the_banks_words_mean(local_tbank, word, status, refunded):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.set_status(payment_id, word)
    remote = gateway.fetch(payment_id)
    assert (remote.status, remote.refunded, remote.amount) == (status, refunded, Decimal("1500.50"))
    assert (remote.external_id, remote.currency, remote.reference) == (payment_id, "RUB", "payment-1")


def test_a_word_nobody_knows_is_not_guessed(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.set_status(payment_id, "ON_ITS_WAY")
    with pytest.raises(GatewayError, match="cannot be read"):
        gateway.fetch(payment_id)


@pytest.mark.parametrize("amount", [True, "150050", 1500.5, -1, None])
def test_a_sum_that_is_no_kopecks_is_not_believed(local_tbank, amount):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.payments[payment_id]["Amount"] = amount
    with pytest.raises(GatewayError, match="cannot be read"):
        gateway.fetch(payment_id)


def test_of_another_terminal_is_refused(local_tbank):
    local_tbank.terminals["another"] = "password"
    payment_id = terminal(local_tbank).create(**ask()).external_id
    with pytest.raises(GatewayRefused, match="не найден"):
        terminal(local_tbank, "another", "password").fetch(payment_id)


@pytest.mark.parametrize("number", ["", "x", "1 OR 1", "../1"])
def test_a_number_that_is_none_is_not_asked_about(local_tbank, number):
    with pytest.raises(GatewayRefused):
        terminal(local_tbank).fetch(number)
    assert local_tbank.asked == []


# --- refunds --------------------------------------------------------------------------------------------------------


def test_a_refund_once(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.pay(payment_id)
    made = gateway.refund(payment_id, **refund())
    assert made == gateway.refund(payment_id, **refund())
    assert (made.status, made.amount) == (RemoteStatus.SUCCEEDED, Decimal("500.00"))
    assert local_tbank.payments[payment_id]["Amount"] == 100050  # taken off once
    asked = local_tbank.asked[-1].body
    assert (asked["Amount"], asked["ExternalRequestId"]) == (50000, "refund-1")


def test_a_refund_of_the_whole(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.pay(payment_id)
    made = gateway.refund(payment_id, **refund(amount=Decimal("1500.50")))
    assert made.status is RemoteStatus.SUCCEEDED
    remote = gateway.fetch(payment_id)
    assert (remote.refunded, remote.is_refunded) == (None, True)


@pytest.mark.parametrize(
    ("ends", "status"),
    [("REFUNDED", RemoteStatus.SUCCEEDED), ("CONFIRMED", RemoteStatus.CANCELED)],
)
def test_a_refund_that_takes_time(local_tbank, ends, status):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.pay(payment_id)
    local_tbank.is_async = True
    made = gateway.refund(payment_id, **refund(amount=Decimal("1500.50")))
    assert made.status is RemoteStatus.PENDING
    assert gateway.fetch_refund(made.external_id).status is RemoteStatus.PENDING
    local_tbank.set_status(payment_id, ends)
    ended = gateway.fetch_refund(made.external_id)
    assert (ended.status, ended.amount) == (status, Decimal("1500.50"))
    assert bool(ended.error) is (status is RemoteStatus.CANCELED)


@pytest.mark.parametrize(
    ("left", "status"),
    [(100050, RemoteStatus.SUCCEEDED), (150050, RemoteStatus.PENDING), (120050, RemoteStatus.PENDING)],
)
def test_a_part_was_refunded_when_just_that_much_is_left(local_tbank, left, status):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.pay(payment_id)
    local_tbank.is_async = True
    made = gateway.refund(payment_id, **refund())
    local_tbank.payments[payment_id].update(Status="PARTIAL_REFUNDED", Amount=left)
    assert gateway.fetch_refund(made.external_id).status is status


def test_a_refund_of_what_was_not_paid_is_refused(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    local_tbank.cancel(payment_id)
    with pytest.raises(GatewayRefused, match="Неверный статус"):
        gateway.refund(payment_id, **refund())


@pytest.mark.parametrize("number", ["", "700001", "700001:", "x:1:1:r", "700001:x:1:r", "700001:1:r"])
def test_a_refund_number_that_is_none(local_tbank, number):
    with pytest.raises(GatewayRefused):
        terminal(local_tbank).fetch_refund(number)


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["close", "lost", "html", "text", 500, 503, 429, 200])
def test_faults_that_may_pass(local_tbank, fault):
    """200: the bank's own «internal error», code 9999: nobody knows what has happened."""
    local_tbank.faults = [fault]
    with pytest.raises(GatewayError) as caught:
        terminal(local_tbank).create(**ask())
    assert not isinstance(caught.value, GatewayRefused)


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v2"
        with pytest.raises(GatewayError, match="does not answer"):
            TbankGateway(ShopKeys("1", "x"), url=url, notice_url="").fetch("1")


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_answer_that_does_not_come_is_not_waited_for(local_tbank, monkeypatch, fault):
    monkeypatch.setattr(tbank, "TIMEOUT", 0.3)
    monkeypatch.setattr(tbank, "WHOLE_SECONDS", 0.5)
    local_tbank.faults = [fault]
    started = time.monotonic()
    with pytest.raises(GatewayError, match="does not answer"):
        terminal(local_tbank).create(**ask())
    assert time.monotonic() - started < 5


def test_keys_that_are_not_accepted(local_tbank):
    with pytest.raises(KeysRefused, match="does not accept the shop's keys"):
        terminal(local_tbank, password="wrong").create(**ask())


# --- check ----------------------------------------------------------------------------------------------------------


def test_right_keys(local_tbank):
    assert "password is right" in terminal(local_tbank).check()


@pytest.mark.parametrize(("key", "password"), [(TERMINAL, "wrong"), ("nobody", PASSWORD)])
def test_wrong_keys(local_tbank, key, password):
    with pytest.raises(KeysRefused, match="does not accept the shop's keys"):
        terminal(local_tbank, key, password).check()


# --- notices --------------------------------------------------------------------------------------------------------


def test_a_signed_notice(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    body = local_tbank.notice(payment_id, "CONFIRMED")
    gateway.check_notice({}, body)
    notice = read_notice({}, body)
    assert (notice.external_id, notice.event) == (payment_id, "CONFIRMED")
    assert (notice.shop_id, notice.reference) == (TERMINAL, "payment-1")


def test_a_notice_of_a_second_try_names_the_first_reference(local_tbank):
    gateway = terminal(local_tbank)
    gateway.create(**ask())
    again = gateway.create(**ask()).external_id
    assert read_notice({}, local_tbank.notice(again)).reference == "payment-1"


def test_a_notice_signed_with_another_password(local_tbank):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    with pytest.raises(NoticeRefused, match="signature"):
        gateway.check_notice({}, local_tbank.notice(payment_id, password="guessed"))


@pytest.mark.parametrize("field", ["Amount", "Status", "PaymentId", "OrderId", "Success"])
def test_a_notice_somebody_changed(local_tbank, field):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    said = json.loads(local_tbank.notice(payment_id)) | {field: 1}
    with pytest.raises(NoticeRefused, match="signature"):
        gateway.check_notice({}, json.dumps(said).encode())


def test_a_notice_of_another_terminal(local_tbank):
    local_tbank.terminals["another"] = PASSWORD
    payment_id = terminal(local_tbank, "another").create(**ask()).external_id
    with pytest.raises(NoticeRefused, match="another terminal"):
        terminal(local_tbank).check_notice({}, local_tbank.notice(payment_id))


@pytest.mark.parametrize("token", [None, "", 5, "ы"])
def test_a_notice_without_a_signature(local_tbank, token):
    gateway = terminal(local_tbank)
    payment_id = gateway.create(**ask()).external_id
    said = json.loads(local_tbank.notice(payment_id)) | {"Token": token}
    with pytest.raises(NoticeRefused):
        gateway.check_notice({}, json.dumps(said).encode())


def test_a_shop_whose_password_cannot_be_read_believes_nothing(local_tbank):
    """The column reads as "" with another SECRET_KEY: nobody may sign with no password."""
    payment_id = terminal(local_tbank).create(**ask()).external_id
    with pytest.raises(NoticeRefused):
        terminal(local_tbank, password="").check_notice({}, local_tbank.notice(payment_id, password=""))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"{}",
        b'{"PaymentId": "x", "TerminalKey": "t"}',
        b'{"PaymentId": 1}',
    ],
)
def test_an_unreadable_notice(body):
    with pytest.raises(NoticeRefused):
        read_notice({}, body)


def test_every_word_of_the_document_has_a_meaning():
    words = (
        "NEW CANCELED PREAUTHORIZING FORM_SHOWED AUTHORIZING 3DS_CHECKING 3DS_CHECKED AUTH_FAIL PAY_CHECKING "
        "AUTHORIZED REVERSING REVERSED CONFIRMING CONFIRM_CHECKING CONFIRMED REFUNDING ASYNC_REFUNDING "
        "PARTIAL_REFUNDED REFUNDED REJECTED DEADLINE_EXPIRED"
    )
    assert set(words.split()) <= STATUSES.keys()
